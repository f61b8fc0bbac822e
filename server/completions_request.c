/* Reading and checking a completion request (completions_request.h). */
#include "server/completions_request.h"

#include <string.h>

sp_status sp_completion_read(const sp_body *body, const sp_engine_info *info, sp_asked *out, sp_error *error)
{
    static const char *const known[] = {"prompt", "echo", "add_special_tokens", NULL};
    int64_t max_tokens = 16, logprobs = -1;
    bool special = true;
    memset(out, 0, sizeof *out);
    sp_request_init(&out->request);
    sp_status status = sp_asked_read(body, info, out, error);
    if (!status) status = sp_asked_prompts(body, "prompt", info->hparams.vocab, SP_MAX_PROMPTS, out, error);
    if (!status) status = sp_body_int(body, "max_tokens", 0, info->context, &max_tokens, error);
    if (!status) status = sp_body_int(body, "logprobs", 0, SP_MAX_LOGPROBS, &logprobs, error);
    if (!status) status = sp_body_bool(body, "echo", &out->echo, error);
    if (!status) status = sp_body_bool(body, "add_special_tokens", &special, error);
    if (status) return status;
    if (out->n_prompts * out->n > SP_MAX_CHOICES)
        return sp_fail_param(error, SP_INVALID, "n", "prompts times n must be at most %d", SP_MAX_CHOICES);
    if (out->request.min_tokens > max_tokens)
        return sp_fail_param(error, SP_INVALID, "min_tokens", "min_tokens must be at most max_tokens (%d)",
                             (int)max_tokens);
    out->request.max_tokens = (uint32_t)max_tokens;
    out->request.plain_prompt = !special;
    out->logprobs = logprobs >= 0;
    out->request.logprobs = out->logprobs ? (uint32_t)logprobs : 0;
    out->request.prompt_logprobs = out->echo && out->logprobs;
    sp_asked_note_unknown(body, "completions", known);
    return SP_OK;
}
