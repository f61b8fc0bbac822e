/* Reading and checking a completion request (completions_request.h). */
#include "server/completions_request.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

static sp_status not_yet(const char *name, sp_error *error)
{
    return sp_fail_param(error, SP_INVALID, name, "%s is not supported yet at this value", name);
}

/* --- prompt --- */
static sp_status bad_prompt(sp_error *error)
{
    return sp_fail_param(error, SP_INVALID, "prompt", "prompt must be a string or an array of token ids");
}

static sp_status read_ids(const sp_body *body, sp_item *list, int32_t vocab, sp_request *request,
                          sp_error *error)
{
    size_t n = sp_item_count(list), i = 0;
    int32_t *ids = n ? sp_arena_alloc(body->arena, n, sizeof *ids) : NULL; /* (n) */
    if (n == 0) return sp_fail_param(error, SP_INVALID, "prompt", "prompt has no tokens");
    if (!ids)
        return sp_fail_param(error, SP_NO_MEMORY, "prompt", "prompt does not fit the memory of a request");
    for (sp_item *item = sp_item_first(list); item; item = sp_item_next(item), i++) {
        double value;
        if (!sp_item_is_integer(item, 0.0, (double)vocab - 1.0, &value)) {
            return sp_fail_param(error, SP_INVALID, "prompt", "prompt[%zu] must be a token id from 0 to %d",
                                 i, vocab - 1);
        }
        ids[i] = (int32_t)value;
    }
    request->ids = ids;
    request->n_ids = n;
    return SP_OK;
}

static sp_status read_text(const sp_body *body, sp_item *item, sp_request *request, sp_error *error)
{
    request->prompt = sp_item_text(body, item, &request->prompt_size);
    if (request->prompt) return SP_OK;
    return sp_fail_param(error, SP_NO_MEMORY, "prompt", "prompt does not fit the memory of a request");
}

/* A string, an array of ids, or an array with one of either. */
static sp_status read_prompt(const sp_body *body, int32_t vocab, sp_request *request, sp_error *error)
{
    sp_item *item = sp_body_find(body, "prompt");
    if (!item) return sp_fail_param(error, SP_INVALID, "prompt", "prompt is missing");
    if (sp_item_is_text(item)) return read_text(body, item, request, error);
    if (!sp_item_is_array(item)) return bad_prompt(error);
    sp_item *first = sp_item_first(item);
    if (!first || sp_item_is_number(first)) return read_ids(body, item, vocab, request, error);
    if (!sp_item_is_text(first) && !sp_item_is_array(first)) return bad_prompt(error);
    if (sp_item_next(first)) {
        return sp_fail_param(error, SP_INVALID, "prompt",
                             "several prompts in one request are not supported yet");
    }
    return sp_item_is_text(first) ? read_text(body, first, request, error)
                                  : read_ids(body, first, vocab, request, error);
}

/* --- stop --- */
static sp_status read_stop(const sp_body *body, sp_request *request, sp_error *error)
{
    sp_item *item = sp_body_find(body, "stop");
    if (!item) return SP_OK;
    bool list = sp_item_is_array(item);
    if (list && sp_item_count(item) > SP_MAX_STOPS) {
        return sp_fail_param(error, SP_INVALID, "stop", "stop takes at most %d strings", SP_MAX_STOPS);
    }
    for (sp_item *one = list ? sp_item_first(item) : item; one; one = list ? sp_item_next(one) : NULL) {
        size_t size = 0;
        const char *text = sp_item_is_text(one) ? sp_item_text(body, one, &size) : NULL;
        if (!text || size < 1 || size > SP_MAX_STOP_BYTES) {
            return sp_fail_param(error, SP_INVALID, "stop", "stop must be 0 to %d strings of 1 to %d bytes",
                                 SP_MAX_STOPS, SP_MAX_STOP_BYTES);
        }
        request->stops[request->n_stops] = text;
        request->stop_sizes[request->n_stops++] = size;
    }
    return SP_OK;
}

/* --- numbers --- */
static sp_status read_sampling(const sp_body *body, const sp_engine_info *info, sp_request *request,
                               sp_error *error)
{
    sp_sampling *s = &request->sampling;
    int64_t max_tokens = request->max_tokens, seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = 0;
    s->seed = seed & INT64_MAX;
    sp_status status = sp_body_int(body, "max_tokens", 0, info->context, &max_tokens, error);
    request->max_tokens = (uint32_t)max_tokens;
    if (!status) status = sp_body_number(body, "temperature", 0.0, 100.0, false, &s->temperature, error);
    if (!status) status = sp_body_number(body, "top_p", 0.0, 1.0, true, &s->top_p, error);
    if (!status) status = sp_body_int(body, "top_k", -1, info->hparams.vocab, &s->top_k, error);
    if (!status) status = sp_body_number(body, "min_p", 0.0, 1.0, false, &s->min_p, error);
    if (!status) status = sp_body_int(body, "seed", INT64_MIN, INT64_MAX, &s->seed, error);
    return status;
}

static sp_status read_stream(const sp_body *body, sp_completion *out, sp_error *error)
{
    sp_status status = sp_body_bool(body, "stream", &out->stream, error);
    sp_item *options = sp_body_find(body, "stream_options");
    if (status || !options) return status;
    if (!sp_item_is_object(options)) {
        return sp_fail_param(error, SP_INVALID, "stream_options", "stream_options must be an object");
    }
    if (!out->stream) {
        return sp_fail_param(error, SP_INVALID, "stream_options", "stream_options needs \"stream\": true");
    }
    sp_body inner = *body;
    inner.root = (struct cJSON *)options;
    status = sp_body_bool(&inner, "include_usage", &out->include_usage, error);
    return status ? sp_fail_param(error, SP_INVALID, "stream_options.include_usage",
                                  "include_usage must be true or false")
                  : SP_OK;
}

/* --- documented fields that are not built yet --- */
static sp_status check_unbuilt_numbers(const sp_body *body, const sp_engine_info *info, sp_error *error)
{
    static const struct {
        const char *name;
        double min, max, neutral;
    } numbers[] = {{"presence_penalty", -2.0, 2.0, 0.0},
                   {"frequency_penalty", -2.0, 2.0, 0.0},
                   {"repetition_penalty", 0.0, 100.0, 1.0}};
    int64_t n = 1, best_of = 1, min_tokens = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double value = numbers[i].neutral;
        bool above = numbers[i].min == 0.0;
        sp_status status =
            sp_body_number(body, numbers[i].name, numbers[i].min, numbers[i].max, above, &value, error);
        if (status) return status;
        if (value != numbers[i].neutral) return not_yet(numbers[i].name, error);
    }
    sp_status status = sp_body_int(body, "n", 1, 16, &n, error);
    if (!status) status = sp_body_int(body, "best_of", 1, 1, &best_of, error);
    if (!status) status = sp_body_int(body, "min_tokens", 0, info->context, &min_tokens, error);
    if (!status && n != 1) status = not_yet("n", error);
    if (!status && min_tokens != 0) status = not_yet("min_tokens", error);
    return status;
}

static sp_status check_unbuilt_bools(const sp_body *body, sp_error *error)
{
    static const struct {
        const char *name;
        bool neutral;
    } bools[] = {{"echo", false}, {"return_token_ids", false}, {"add_special_tokens", true}};
    for (size_t i = 0; i < sizeof bools / sizeof *bools; i++) {
        bool value = bools[i].neutral;
        sp_status status = sp_body_bool(body, bools[i].name, &value, error);
        if (!status && value != bools[i].neutral) status = not_yet(bools[i].name, error);
        if (status) return status;
    }
    return SP_OK;
}

static sp_status check_unbuilt_others(const sp_body *body, sp_error *error)
{
    static const char *const absent[] = {"logprobs", "prompt_logprobs", "suffix"};
    static const char *const empty[] = {"logit_bias", "stop_token_ids"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        if (sp_body_find(body, absent[i])) return not_yet(absent[i], error);
    }
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        sp_item *item = sp_body_find(body, empty[i]);
        bool object = strcmp(empty[i], "logit_bias") == 0;
        if (!item) continue;
        if (object ? !sp_item_is_object(item) : !sp_item_is_array(item)) {
            return sp_fail_param(error, SP_INVALID, empty[i], "%s must be an %s", empty[i],
                                 object ? "object" : "array");
        }
        if (sp_item_first(item)) return not_yet(empty[i], error);
    }
    sp_item *format = sp_body_find(body, "response_format");
    sp_item *type = format && sp_item_is_object(format) ? sp_item_find(format, "type") : NULL;
    size_t size;
    const char *name = type && sp_item_is_text(type) ? sp_item_text(body, type, &size) : NULL;
    if (format && (!name || strcmp(name, "text") != 0)) return not_yet("response_format", error);
    return SP_OK;
}

static const char *const known_fields[] = {"model",
                                           "prompt",
                                           "max_tokens",
                                           "temperature",
                                           "top_p",
                                           "top_k",
                                           "min_p",
                                           "seed",
                                           "stop",
                                           "stream",
                                           "stream_options",
                                           "n",
                                           "best_of",
                                           "echo",
                                           "logprobs",
                                           "suffix",
                                           "presence_penalty",
                                           "frequency_penalty",
                                           "repetition_penalty",
                                           "logit_bias",
                                           "min_tokens",
                                           "stop_token_ids",
                                           "ignore_eos",
                                           "add_special_tokens",
                                           "return_token_ids",
                                           "prompt_logprobs",
                                           "response_format",
                                           "attention",
                                           "user",
                                           "metadata",
                                           "store",
                                           "service_tier",
                                           "cache_salt"};

/* One log line for every unknown name, and for at most 64 of them. */
static void note_unknown(const sp_body *body)
{
    static _Atomic uint64_t seen[64];
    for (sp_item *item = sp_item_first(body->root); item; item = sp_item_next(item)) {
        const char *name = sp_item_name(item);
        size_t i = 0;
        while (i < sizeof known_fields / sizeof *known_fields && strcmp(known_fields[i], name) != 0) i++;
        if (i < sizeof known_fields / sizeof *known_fields) continue;
        uint64_t hash = sp_hash_bytes(name, strlen(name)) | 1;
        for (i = 0; i < 64; i++) {
            uint64_t none = 0;
            if (atomic_load(&seen[i]) == hash) break;
            if (!atomic_compare_exchange_strong(&seen[i], &none, hash)) {
                if (none == hash) break;
                continue;
            }
            sp_log(SP_LOG_INFO, "completions: unknown field %.64s is ignored", name);
            break;
        }
    }
}

sp_status sp_completion_read(const sp_body *body, const sp_engine_info *info, sp_completion *out,
                             sp_error *error)
{
    const char *model = NULL, *salt = NULL;
    size_t size = 0;
    memset(out, 0, sizeof *out);
    sp_request_init(&out->request);
    sp_status status = sp_body_text(body, "model", &model, &size, error);
    if (!status && model &&
        (size != strlen(info->model_name) || memcmp(model, info->model_name, size) != 0)) {
        return sp_fail_param(error, SP_NOT_FOUND, "model", "the model \"%.100s\" is not loaded", model);
    }
    if (!status) status = read_prompt(body, (int32_t)info->hparams.vocab, &out->request, error);
    if (!status) status = read_sampling(body, info, &out->request, error);
    if (!status) status = read_stop(body, &out->request, error);
    if (!status) status = read_stream(body, out, error);
    if (!status) status = sp_body_bool(body, "ignore_eos", &out->request.ignore_eos, error);
    if (!status) status = sp_body_text(body, "cache_salt", &salt, &size, error);
    if (!status) status = check_unbuilt_numbers(body, info, error);
    if (!status) status = check_unbuilt_bools(body, error);
    if (!status) status = check_unbuilt_others(body, error);
    if (status) return status;
    if (!sp_body_raw(body, "attention", &out->request.attention, &out->request.attention_size)) {
        out->request.attention = NULL;
        out->request.attention_size = 0;
    }
    note_unknown(body);
    return SP_OK;
}
