/* The body of POST /v1/chat/completions, checked: asked.h and the fields that only this route has: messages,
 * max_completion_tokens, logprobs as a switch, top_logprobs. The chat is encoded here; the answer may be as
 * long as the context and --max-output-tokens allow where the body names no length. Tests:
 * tests/http/test_chat.py */
#ifndef SPARSED_SERVER_CHAT_REQUEST_H
#define SPARSED_SERVER_CHAT_REQUEST_H

#include "server/asked.h"

/* SP_INVALID with the field, SP_NOT_FOUND: another model, SP_NO_MEMORY. */
sp_status sp_chat_read(const sp_body *body, const sp_engine_info *info, const sp_options *options,
                       sp_asked *out, sp_error *error) SP_MUST_CHECK;

#endif
