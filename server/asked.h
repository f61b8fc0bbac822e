/* What a request for text asks for: the fields that /v1/completions and /v1/chat/completions share, checked.
 * Every field has a range and the error names it; fields of features that are not offered are refused by name
 * unless they ask for nothing; unknown ones are ignored and logged once.
 * Tests: tests/http/test_completions_full.py, test_chat.py, test_json.py, tests/fuzz/fuzz_request.c */
#ifndef SPARSED_SERVER_ASKED_H
#define SPARSED_SERVER_ASKED_H

#include "server/json_body.h"
#include "server/server.h"

#define SP_MAX_PROMPTS 128
#define SP_MAX_N 16
#define SP_MAX_CHOICES 256 /* prompts x n */

typedef struct sp_prompt {
    const char *text; /* as given; NULL: ids were */
    size_t text_size;
    const int32_t *ids; /* (n_ids) */
    size_t n_ids;
} sp_prompt;

/* Texts and arrays live in the body's arena. */
typedef struct sp_asked {
    sp_request request; /* without prompt */
    sp_prompt *prompts; /* (n_prompts) */
    size_t n_prompts;
    uint32_t n; /* choices of each prompt */
    bool stream, include_usage, continuous_usage, echo, logprobs, return_token_ids;
} sp_asked;

/* The fields both routes have, all but prompt or messages, max_tokens, logprobs. SP_INVALID, SP_NOT_FOUND:
 * another model, SP_NO_MEMORY. */
sp_status sp_asked_read(const sp_body *body, const sp_engine_info *info, sp_asked *out,
                        sp_error *error) SP_MUST_CHECK;
/* `model`: absent, the loaded one, or one of its adapters, BASE:NAME; for sp_request.adapter. SP_NOT_FOUND.
 */
sp_status sp_asked_adapter(const sp_body *body, const sp_engine_info *info, uint32_t *adapter,
                           sp_error *error) SP_MUST_CHECK;
/* The same, where an adapter changes nothing. */
sp_status sp_asked_model(const sp_body *body, const sp_engine_info *info, sp_error *error) SP_MUST_CHECK;
/* A member that holds texts or ids in one of the four shapes: a string, strings, ids, lists of ids; 1 to max
 * of them. */
sp_status sp_asked_prompts(const sp_body *body, const char *name, uint32_t vocab, size_t max, sp_asked *out,
                           sp_error *error) SP_MUST_CHECK;
/* An array of at most max token ids, or absent. */
sp_status sp_asked_ids(const sp_body *body, const char *name, uint32_t vocab, size_t max, const int32_t **ids,
                       size_t *n_ids, sp_error *error) SP_MUST_CHECK;
/* Logs each unknown name once. route names the route; known: names besides the shared ones, NULL
 * terminated. */
void sp_asked_note_unknown(const sp_body *body, const char *route, const char *const *known);
/* A route of our own: SP_INVALID naming the member that is not in known (NULL terminated). */
sp_status sp_asked_only(const sp_body *body, const char *const *known, sp_error *error) SP_MUST_CHECK;

#endif
