/* The body of POST /v1/completions, checked: asked.h and the fields that only this route has: prompt, echo,
 * logprobs as a number, add_special_tokens. Tests: tests/http/test_completions.py, test_completions_full.py,
 * tests/fuzz/fuzz_request.c */
#ifndef SPARSED_SERVER_COMPLETIONS_REQUEST_H
#define SPARSED_SERVER_COMPLETIONS_REQUEST_H

#include "server/asked.h"

/* SP_INVALID with the field; SP_NOT_FOUND: another model. */
sp_status sp_completion_read(const sp_body *body, const sp_engine_info *info, sp_asked *out,
                             sp_error *error) SP_MUST_CHECK;

#endif
