/* Fuzz target: a completion request's body, from bytes to sp_request.
 *
 * Every refusal has a reason; what is accepted obeys the published ranges, and its texts are well-formed
 * UTF-8. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/completions_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_request: %s\n", what);
    abort();
}

static void check(const sp_asked *asked, const sp_engine_info *info)
{
    const sp_request *r = &asked->request;
    const sp_sampling *s = &r->sampling;
    require(asked->n_prompts >= 1 && asked->n_prompts * asked->n <= SP_MAX_CHOICES, "choices");
    for (size_t i = 0; i < asked->n_prompts; i++) {
        const sp_prompt *p = &asked->prompts[i];
        require((p->text != NULL) != (p->ids != NULL), "text or ids");
        require(!p->text || sp_utf8_valid(p->text, p->text_size), "ill-formed prompt");
        for (size_t j = 0; j < p->n_ids; j++)
            require(p->ids[j] >= 0 && p->ids[j] < (int32_t)info->hparams.vocab, "id");
    }
    require(r->n_biases <= SP_MAX_BIASES && r->n_stop_ids <= SP_MAX_STOP_IDS, "biases, stop ids");
    for (size_t i = 0; i < r->n_biases; i++)
        require(r->biases[i].token >= 0 && r->biases[i].token < (int32_t)info->hparams.vocab &&
                    fabsf(r->biases[i].value) <= 100,
                "bias");
    require(r->min_tokens <= r->max_tokens && r->logprobs <= SP_MAX_LOGPROBS, "min_tokens, logprobs");
    require(fabs(s->presence_penalty) <= 2 && fabs(s->frequency_penalty) <= 2, "penalties");
    require(s->repetition_penalty > 0 && s->repetition_penalty <= 100, "repetition_penalty");
    require(r->max_tokens <= info->context, "max_tokens");
    require(s->temperature >= 0.0 && s->temperature <= 100.0, "temperature");
    require(s->top_p > 0.0 && s->top_p <= 1.0 && s->min_p >= 0.0 && s->min_p <= 1.0, "top_p, min_p");
    require(s->top_k >= -1 && s->top_k <= (int64_t)info->hparams.vocab, "top_k");
    require(r->n_stops <= SP_MAX_STOPS, "stops");
    for (size_t i = 0; i < r->n_stops; i++) {
        require(r->stop_sizes[i] >= 1 && r->stop_sizes[i] <= SP_MAX_STOP_BYTES, "stop size");
        require(sp_utf8_valid(r->stops[i], r->stop_sizes[i]), "ill-formed stop");
    }
    require(asked->stream || !asked->include_usage, "usage without a stream");
    sp_error error;
    if (r->attention)
        require(sp_json_validate(r->attention, r->attention_size, &error) == SP_OK, "attention is JSON");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *const ids[] = {"m", "m:a"};
    const sp_engine_info info = {
        .model_name = "m", .model_ids = ids, .n_adapters = 1, .context = 2048, .hparams = {.vocab = 257}};
    char *text = malloc(size + 1);
    sp_asked asked;
    sp_error error = {0};
    sp_arena arena;
    sp_body body;
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = 0;
    sp_log_set_level(SP_LOG_ERROR);
    sp_arena_init(&arena, 64 * size + 65536);
    sp_status status = sp_body_open(&body, text, size, &arena, &error);
    if (!status) {
        status = sp_completion_read(&body, &info, &asked, &error);
        if (!status) check(&asked, &info);
        sp_body_close(&body);
    }
    require(!status || (error.status == status && error.message[0]), "refused without a reason");
    require(!status || status == SP_INVALID || status == SP_NOT_FOUND, "an odd status");
    sp_arena_fini(&arena);
    free(text);
    return 0;
}
