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

static void check(const sp_completion *asked, const sp_engine_info *info)
{
    const sp_request *r = &asked->request;
    const sp_sampling *s = &r->sampling;
    require((r->prompt != NULL) != (r->ids != NULL), "text or ids");
    require(!r->prompt || sp_utf8_valid(r->prompt, r->prompt_size), "ill-formed prompt");
    for (size_t i = 0; i < r->n_ids; i++)
        require(r->ids[i] >= 0 && r->ids[i] < (int32_t)info->hparams.vocab, "id");
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
    const sp_engine_info info = {.model_name = "m", .context = 2048, .hparams = {.vocab = 257}};
    char *text = malloc(size + 1);
    sp_completion asked;
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
