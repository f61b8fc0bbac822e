/* Reading and checking what requests for text share (asked.h). */
#include "server/asked.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

static sp_status refused(const char *name, sp_error *error)
{
    return sp_fail_param(error, SP_INVALID, name, "%s is not supported at this value", name);
}

static sp_status no_memory(const char *name, sp_error *error)
{
    return sp_fail_param(error, SP_NO_MEMORY, name, "%s does not fit the memory of a request", name);
}

sp_status sp_asked_adapter(const sp_body *body, const sp_engine_info *info, uint32_t *adapter,
                           sp_error *error)
{
    const char *model = NULL;
    size_t size = 0;
    *adapter = 0;
    sp_status status = sp_body_text(body, "model", &model, &size, error);
    return status || !model ? status : sp_engine_find_model(info, model, size, adapter, error);
}

sp_status sp_asked_model(const sp_body *body, const sp_engine_info *info, sp_error *error)
{
    uint32_t adapter;
    return sp_asked_adapter(body, info, &adapter, error);
}

/* --- texts and ids --- */
static sp_status read_ids(const sp_body *body, const char *name, sp_item *list, uint32_t vocab,
                          const int32_t **ids, size_t *n_ids, sp_error *error)
{
    size_t n = sp_item_count(list), i = 0;
    int32_t *out = sp_arena_alloc(body->arena, n > 0 ? n : 1, sizeof *out); /* (n) */
    if (!out) return no_memory(name, error);
    for (sp_item *item = sp_item_first(list); item; item = sp_item_next(item), i++) {
        double value;
        if (!sp_item_is_integer(item, 0.0, (double)vocab - 1.0, &value)) {
            return sp_fail_param(error, SP_INVALID, name, "%s: item %zu must be a token id from 0 to %u",
                                 name, i, (unsigned)vocab - 1);
        }
        out[i] = (int32_t)value;
    }
    *ids = out;
    *n_ids = n;
    return SP_OK;
}

static sp_status bad_shape(const char *name, sp_error *error)
{
    return sp_fail_param(error, SP_INVALID, name,
                         "%s must be a string, an array of strings, an array of token ids or an array of "
                         "arrays of token ids",
                         name);
}

static sp_status read_prompt(const sp_body *body, const char *name, sp_item *item, uint32_t vocab,
                             sp_prompt *out, sp_error *error)
{
    if (sp_item_is_text(item)) {
        out->text = sp_item_text(body, item, &out->text_size);
        return out->text ? SP_OK : no_memory(name, error);
    }
    if (!sp_item_is_array(item)) return bad_shape(name, error);
    if (!sp_item_first(item)) return sp_fail_param(error, SP_INVALID, name, "%s has no tokens", name);
    return read_ids(body, name, item, vocab, &out->ids, &out->n_ids, error);
}

sp_status sp_asked_prompts(const sp_body *body, const char *name, uint32_t vocab, size_t max, sp_asked *out,
                           sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return sp_fail_param(error, SP_INVALID, name, "%s is missing", name);
    bool list = sp_item_is_array(item);
    sp_item *first = list ? sp_item_first(item) : NULL;
    if (list && !first) return sp_fail_param(error, SP_INVALID, name, "%s is empty", name);
    bool several = list && !sp_item_is_number(first);
    size_t n = several ? sp_item_count(item) : 1, i = 0;
    if (n > max) return sp_fail_param(error, SP_INVALID, name, "%s takes at most %zu", name, max);
    out->prompts = sp_arena_alloc(body->arena, n, sizeof *out->prompts);
    if (!out->prompts) return no_memory(name, error);
    out->n_prompts = n;
    if (!several) return read_prompt(body, name, item, vocab, &out->prompts[0], error);
    for (sp_item *one = first; one; one = sp_item_next(one), i++) {
        if (sp_item_is_array(one) != sp_item_is_array(first)) return bad_shape(name, error);
        sp_status status = read_prompt(body, name, one, vocab, &out->prompts[i], error);
        if (status) return status;
    }
    return SP_OK;
}

sp_status sp_asked_ids(const sp_body *body, const char *name, uint32_t vocab, size_t max, const int32_t **ids,
                       size_t *n_ids, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return SP_OK;
    if (!sp_item_is_array(item) || sp_item_count(item) > max)
        return sp_fail_param(error, SP_INVALID, name, "%s must be an array of at most %zu token ids", name,
                             max);
    return read_ids(body, name, item, vocab, ids, n_ids, error);
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
        if (!text && sp_item_is_text(one)) return no_memory("stop", error);
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
static sp_status read_sampling(const sp_body *body, const sp_engine_info *info, sp_asked *out,
                               sp_error *error)
{
    sp_sampling *s = &out->request.sampling;
    int64_t seed = 0, n = 1, best_of = 1;
    double repetition = 1;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = 0;
    s->seed = seed & INT64_MAX;
    sp_status status = sp_body_number(body, "temperature", 0.0, 100.0, false, &s->temperature, error);
    if (!status) status = sp_body_number(body, "top_p", 0.0, 1.0, true, &s->top_p, error);
    if (!status) status = sp_body_int(body, "top_k", -1, info->hparams.vocab, &s->top_k, error);
    if (!status) status = sp_body_number(body, "min_p", 0.0, 1.0, false, &s->min_p, error);
    if (!status) status = sp_body_int(body, "seed", INT64_MIN, INT64_MAX, &s->seed, error);
    if (!status)
        status = sp_body_number(body, "presence_penalty", -2.0, 2.0, false, &s->presence_penalty, error);
    if (!status)
        status = sp_body_number(body, "frequency_penalty", -2.0, 2.0, false, &s->frequency_penalty, error);
    if (!status) status = sp_body_number(body, "repetition_penalty", 0.0, 100.0, true, &repetition, error);
    s->repetition_penalty = repetition;
    if (!status) status = sp_body_int(body, "n", 1, SP_MAX_N, &n, error);
    if (!status) status = sp_body_int(body, "best_of", 1, 1, &best_of, error);
    out->n = (uint32_t)n;
    return status;
}

/* Decimal digits without a leading zero, below vocab. */
static bool read_id(const char *text, uint32_t vocab, int32_t *id)
{
    uint64_t value = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 10 || (n > 1 && text[0] == '0')) return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *id = (int32_t)(value < vocab ? value : 0);
    return value < vocab;
}

static sp_status read_biases(const sp_body *body, uint32_t vocab, sp_request *request, sp_error *error)
{
    sp_item *item = sp_body_find(body, "logit_bias");
    if (!item) return SP_OK;
    if (!sp_item_is_object(item) || sp_item_count(item) > SP_MAX_BIASES)
        return sp_fail_param(error, SP_INVALID, "logit_bias",
                             "logit_bias must be an object of at most %d ids", SP_MAX_BIASES);
    sp_token_bias *biases = sp_arena_alloc(body->arena, sp_item_count(item) + 1, sizeof *biases);
    if (!biases) return no_memory("logit_bias", error);
    for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one)) {
        double value;
        sp_token_bias *bias = &biases[request->n_biases++];
        if (!read_id(sp_item_name(one), vocab, &bias->token) ||
            !sp_item_is_between(one, -100.0, 100.0, &value))
            return sp_fail_param(error, SP_INVALID, "logit_bias",
                                 "logit_bias must map token ids below %u to numbers from -100 to 100",
                                 (unsigned)vocab);
        bias->value = (float)value;
    }
    request->biases = biases;
    return SP_OK;
}

/* --- stream --- */
static sp_status read_stream(const sp_body *body, sp_asked *out, sp_error *error)
{
    static const char *const names[] = {"include_usage", "continuous_usage_stats"};
    static const char *const paths[] = {"stream_options.include_usage",
                                        "stream_options.continuous_usage_stats"};
    bool *const values[] = {&out->include_usage, &out->continuous_usage};
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
    for (size_t i = 0; i < 2; i++) {
        if (sp_body_bool(&inner, names[i], values[i], error))
            return sp_fail_param(error, SP_INVALID, paths[i], "%s must be true or false", names[i]);
    }
    if (out->continuous_usage && !out->include_usage)
        return sp_fail_param(error, SP_INVALID, paths[1], "%s needs \"include_usage\": true", names[1]);
    return SP_OK;
}

/* --- documented fields that are refused unless they ask for nothing --- */
static sp_status check_refused(const sp_body *body, sp_error *error)
{
    static const char *const absent[] = {"prompt_logprobs", "suffix"};
    static const char *const empty[] = {"tools", "functions"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        if (sp_body_find(body, absent[i])) return refused(absent[i], error);
    }
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        sp_item *item = sp_body_find(body, empty[i]);
        if (item && (!sp_item_is_array(item) || sp_item_first(item))) return refused(empty[i], error);
    }
    sp_item *choice = sp_body_find(body, "tool_choice");
    if (choice && !sp_item_is_word(choice, "none") && !sp_item_is_word(choice, "auto"))
        return refused("tool_choice", error);
    sp_item *format = sp_body_find(body, "response_format");
    sp_item *type = format && sp_item_is_object(format) ? sp_item_find(format, "type") : NULL;
    if (format && !sp_item_is_word(type, "text")) return refused("response_format", error);
    return SP_OK;
}

/* --- names --- */
static bool is_known(const char *const *known, const char *name)
{
    while (*known && strcmp(*known, name) != 0) known++;
    return *known != NULL;
}

sp_status sp_asked_only(const sp_body *body, const char *const *known, sp_error *error)
{
    for (sp_item *item = sp_item_first(body->root); item; item = sp_item_next(item)) {
        const char *name = sp_item_name(item);
        if (!is_known(known, name))
            return sp_fail_param(error, SP_INVALID, name, "unknown member \"%.80s\"", name);
    }
    return SP_OK;
}

static const char *const shared_names[] = {"model",
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
                                           "logprobs",
                                           "suffix",
                                           "presence_penalty",
                                           "frequency_penalty",
                                           "repetition_penalty",
                                           "logit_bias",
                                           "min_tokens",
                                           "stop_token_ids",
                                           "ignore_eos",
                                           "return_token_ids",
                                           "prompt_logprobs",
                                           "response_format",
                                           "tools",
                                           "tool_choice",
                                           "functions",
                                           "attention",
                                           "user",
                                           "metadata",
                                           "store",
                                           "service_tier",
                                           "cache_salt",
                                           NULL};

/* At most 64 names are logged. */
void sp_asked_note_unknown(const sp_body *body, const char *route, const char *const *known)
{
    static _Atomic uint64_t seen[64];
    for (sp_item *item = sp_item_first(body->root); item; item = sp_item_next(item)) {
        const char *name = sp_item_name(item);
        if (is_known(known, name) || is_known(shared_names, name)) continue;
        uint64_t hash = sp_hash_bytes(name, strlen(name)) | 1;
        for (size_t i = 0; i < 64; i++) {
            uint64_t none = 0;
            if (atomic_load(&seen[i]) == hash) break;
            if (!atomic_compare_exchange_strong(&seen[i], &none, hash)) {
                if (none == hash) break;
                continue;
            }
            sp_log(SP_LOG_INFO, "%s: unknown field %.64s is ignored", route, name);
            break;
        }
    }
}

/* --- the whole --- */
static sp_status read_attention(const sp_body *body, sp_request *request, sp_error *error)
{
    const char *text;
    size_t size;
    if (!sp_body_raw(body, "attention", &text, &size)) return SP_OK;
    request->attention = sp_arena_copy(body->arena, text, size);
    request->attention_size = size;
    return request->attention ? SP_OK : no_memory("attention", error);
}

sp_status sp_asked_read(const sp_body *body, const sp_engine_info *info, sp_asked *out, sp_error *error)
{
    int64_t min_tokens = 0;
    sp_request *request = &out->request;
    sp_status status = sp_asked_adapter(body, info, &out->request.adapter, error);
    if (!status) status = read_sampling(body, info, out, error);
    if (!status) status = read_biases(body, info->hparams.vocab, request, error);
    if (!status) status = read_stop(body, request, error);
    if (!status)
        status = sp_asked_ids(body, "stop_token_ids", info->hparams.vocab, SP_MAX_STOP_IDS,
                              &request->stop_ids, &request->n_stop_ids, error);
    if (!status) status = read_stream(body, out, error);
    if (!status) status = sp_body_int(body, "min_tokens", 0, info->context, &min_tokens, error);
    request->min_tokens = (uint32_t)min_tokens;
    if (!status) status = sp_body_bool(body, "ignore_eos", &request->ignore_eos, error);
    if (!status) status = sp_body_bool(body, "return_token_ids", &out->return_token_ids, error);
    if (!status)
        status = sp_body_text(body, "cache_salt", &request->cache_salt, &request->cache_salt_size, error);
    if (!status) status = check_refused(body, error);
    if (!status) status = read_attention(body, request, error);
    return status;
}
