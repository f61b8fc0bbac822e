/* The `attention` value of a request: a name or an object, read strictly into a plain sp_attention.
 *
 * Nothing is ignored: an unknown backend, parameter or key, a wrong type, a value out of range and whatever
 * is known but not built is refused with the field's name. null means the default everywhere. The order of
 * keys is free: `params` is read again once the backend is known. The contract is engine/README.md, "The
 * attention object". Tests: tests/unit/engine/test_attention_parse.c */
#include "engine/attention/attention.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct sp_parser {
    const char *prefix; /* of fields: "attention", or "attention.decode" */
    const sp_attention_host *host;
    sp_attention *out;
    sp_json json;
    sp_error *error;
} sp_parser;

static const char *const not_built[] = {"bigbird", "lsh", "pages", "xattention"};

static sp_status bad_type(const sp_parser *parser, const char *field, const char *wanted)
{
    return sp_fail_param(parser->error, SP_INVALID, field, "%s must be %s", field, wanted);
}

/* --- backend --- */
static void list_backends(char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; sp_backends[i] && used < size; i++) {
        int n = snprintf(text + used, size - used, "%s%s", i ? ", " : "", sp_backends[i]->name);
        used += n > 0 ? (size_t)n : 0;
    }
}

static sp_status set_backend(sp_parser *parser, const char *field)
{
    for (size_t i = 0; sp_backends[i]; i++) {
        if (!sp_json_is(&parser->json, sp_backends[i]->name)) continue;
        parser->out->backend = sp_backends[i];
        (void)snprintf(parser->out->requested, sizeof parser->out->requested, "%s", sp_backends[i]->name);
        return SP_OK;
    }
    const char *name = parser->json.raw;
    size_t size = parser->json.raw_size;
    char known[160];
    list_backends(known, sizeof known);
    for (size_t i = 0; i < sizeof not_built / sizeof *not_built; i++) {
        if (!sp_json_is(&parser->json, not_built[i])) continue;
        return sp_fail_param(parser->error, SP_INVALID, field,
                             "the attention backend '%s' is not built into this version; use one of %s",
                             not_built[i], known);
    }
    return sp_fail_param(parser->error, SP_INVALID, field, "unknown attention backend '%.*s'; use one of %s",
                         (int)(size < 40 ? size : 40), name, known);
}

/* --- params --- */
static void set_defaults(sp_attention *attention)
{
    const sp_backend *backend = attention->backend;
    attention->seed = 0;
    for (size_t i = 0; i < backend->n_params; i++) attention->params[i] = backend->params[i].fallback;
}

/* What a parameter must be, as a text. */
static void describe(const sp_param *param, char *text, size_t size)
{
    size_t used = 0;
    if (param->type == SP_PARAM_NAME) {
        for (size_t i = 0; param->values[i] && used < size; i++) {
            int n = snprintf(text + used, size - used, "%s%s",
                             !i                     ? ""
                             : param->values[i + 1] ? ", "
                                                    : " or ",
                             param->values[i]);
            used += n > 0 ? (size_t)n : 0;
        }
        return;
    }
    if (param->type == SP_PARAM_NUMBER) {
        (void)snprintf(text, size, "a number from %.15g to %.15g", param->min, param->max);
        return;
    }
    const char *max = "9223372036854775807";
    char number[24];
    if (param->max < 9.2e18) {
        (void)snprintf(number, sizeof number, "%.0f", param->max);
        max = number;
    }
    (void)snprintf(text, size, "%s from %.0f to %s",
                   param->odd_only ? "an odd integer (the centre counts), or 0 for none," : "an integer",
                   param->min, max);
}

static sp_status bad_param(const sp_parser *parser, const sp_param *param)
{
    char field[96], wanted[200];
    (void)snprintf(field, sizeof field, "%s.params.%s", parser->prefix, param->name);
    describe(param, wanted, sizeof wanted);
    return sp_fail_param(parser->error, SP_INVALID, field, "%s must be %s", field, wanted);
}

/* The value of a parameter that is no integer; false: refused. */
static bool read_value(sp_parser *parser, const sp_param *param, sp_json_type type, double *out)
{
    if (param->type == SP_PARAM_NUMBER) {
        *out = type == SP_JSON_NUMBER ? sp_json_double(&parser->json) : 0;
        return type == SP_JSON_NUMBER && *out >= param->min && *out <= param->max;
    }
    for (size_t i = 0; type == SP_JSON_STRING && param->values[i]; i++) {
        if (!sp_json_is(&parser->json, param->values[i])) continue;
        *out = (double)i;
        return true;
    }
    return false;
}

static sp_status set_param(sp_parser *parser, size_t index, sp_json_type type)
{
    const sp_param *param = &parser->out->backend->params[index];
    int64_t value;
    if (type == SP_JSON_NULL) return SP_OK;
    if (param->type != SP_PARAM_INT)
        return read_value(parser, param, type, &parser->out->params[index]) ? SP_OK
                                                                            : bad_param(parser, param);
    if (type != SP_JSON_NUMBER || !sp_json_int64(&parser->json, &value)) return bad_param(parser, param);
    if ((double)value < param->min || (double)value > param->max) return bad_param(parser, param);
    if (param->odd_only && value != 0 && value % 2 == 0) return bad_param(parser, param);
    parser->out->params[index] = (double)value;
    if (strcmp(param->name, "seed") == 0) parser->out->seed = (uint64_t)value;
    return SP_OK;
}

static sp_status unknown_param(const sp_parser *parser)
{
    const sp_backend *backend = parser->out->backend;
    char field[96], known[280] = "no parameters";
    int shown = (int)(parser->json.raw_size < 60 ? parser->json.raw_size : 60);
    (void)snprintf(field, sizeof field, "%s.params.%.*s", parser->prefix, shown, parser->json.raw);
    size_t used = 0;
    for (size_t i = 0; i < backend->n_params && used < sizeof known; i++) {
        int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", backend->params[i].name);
        used += n > 0 ? (size_t)n : 0;
    }
    return sp_fail_param(parser->error, SP_INVALID, field, "unknown parameter '%.*s'; %s takes %s", shown,
                         parser->json.raw, backend->name, known);
}

/* params stands behind its opening brace. */
static sp_status read_params(sp_parser *parser, const sp_json *params)
{
    const sp_backend *backend = parser->out->backend;
    parser->json = *params;
    while (sp_json_next(&parser->json) == SP_JSON_KEY) {
        size_t index = 0;
        while (index < backend->n_params && !sp_json_is(&parser->json, backend->params[index].name)) index++;
        if (index == backend->n_params) return unknown_param(parser);
        sp_status status = set_param(parser, index, sp_json_next(&parser->json));
        if (status) return status;
    }
    return SP_OK;
}

/* --- the other keys --- */
static sp_status set_normalizer(sp_parser *parser, float alpha)
{
    parser->out->normalizer_is_model = false;
    parser->out->normalizer.alpha = alpha;
    return SP_OK;
}

static sp_status read_alpha(sp_parser *parser)
{
    static const char field[] = "attention.normalizer.alpha", wanted[] = "a number above 1, up to 2";
    sp_json *json = &parser->json;
    bool has_alpha = false;
    while (sp_json_next(json) == SP_JSON_KEY) {
        if (!sp_json_is(json, "alpha")) {
            return sp_fail_param(parser->error, SP_INVALID, "attention.normalizer",
                                 "unknown key '%.*s' in attention.normalizer; it takes alpha only",
                                 (int)(json->raw_size < 60 ? json->raw_size : 60), json->raw);
        }
        if (sp_json_next(json) != SP_JSON_NUMBER) return bad_type(parser, field, wanted);
        double alpha = sp_json_double(json);
        if (!(alpha > 1 && alpha <= 2)) return bad_type(parser, field, wanted);
        float rounded = (float)alpha;
        (void)set_normalizer(parser, rounded > 1 ? rounded : nextafterf(1, 2));
        has_alpha = true;
    }
    return has_alpha ? SP_OK : bad_type(parser, field, wanted);
}

static sp_status read_normalizer(sp_parser *parser, sp_json_type type)
{
    static const char wanted[] = "model, softmax, entmax15, sparsemax or {\"alpha\": a} with 1 < a <= 2";
    if (type == SP_JSON_NULL) return SP_OK;
    if (type == SP_JSON_OBJECT) return read_alpha(parser);
    if (type != SP_JSON_STRING) return bad_type(parser, "attention.normalizer", wanted);
    if (sp_json_is(&parser->json, "model")) return SP_OK;
    if (sp_json_is(&parser->json, "softmax")) return set_normalizer(parser, 1.0f);
    if (sp_json_is(&parser->json, "entmax15")) return set_normalizer(parser, 1.5f);
    if (sp_json_is(&parser->json, "sparsemax")) return set_normalizer(parser, 2.0f);
    return bad_type(parser, "attention.normalizer", wanted);
}

static const char *const heads_names[] = {"merged", "interleaved", "multihead"};

static sp_status read_heads(sp_parser *parser, sp_json_type type)
{
    if (type == SP_JSON_NULL) return SP_OK;
    for (int mode = 0; mode < 3 && type == SP_JSON_STRING; mode++) {
        if (!sp_json_is(&parser->json, heads_names[mode])) continue;
        parser->out->heads = (sp_heads_mode)mode;
        return SP_OK;
    }
    return bad_type(parser, "attention.heads", "merged, interleaved or multihead");
}

static sp_status read_device(sp_parser *parser, sp_json_type type)
{
    bool fits =
        type == SP_JSON_STRING && (sp_json_is(&parser->json, "auto") || sp_json_is(&parser->json, "cpu"));
    if (type == SP_JSON_NULL || fits) return SP_OK;
    return bad_type(parser, "attention.device", "auto or cpu: this version computes on the CPU");
}

static sp_status read_bool(sp_parser *parser, sp_json_type type, const char *field, bool *out)
{
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_TRUE && type != SP_JSON_FALSE) return bad_type(parser, field, "true or false");
    *out = type == SP_JSON_TRUE;
    return SP_OK;
}

static sp_status read_measure(sp_parser *parser, sp_json_type type)
{
    sp_status status = read_bool(parser, type, "attention.measure", &parser->out->measure);
    if (status || !parser->out->measure || parser->host->allow_measure) return status;
    return sp_fail_param(parser->error, SP_INVALID, "attention.measure",
                         "attention.measure is not available here");
}

/* A list of numbers below n, into a bit set. */
static sp_status read_numbers(sp_parser *parser, const char *field, uint32_t n, uint64_t *set, bool *some)
{
    sp_json *json = &parser->json;
    if (n > SP_MAX_CAPTURED) n = SP_MAX_CAPTURED;
    sp_json_type type = sp_json_next(json);
    if (type == SP_JSON_NULL) return SP_OK;
    bool good = type == SP_JSON_ARRAY;
    size_t count = 0;
    for (; good && (type = sp_json_next(json)) != SP_JSON_ARRAY_END; count++) {
        int64_t value;
        good = type == SP_JSON_NUMBER && sp_json_int64(json, &value) && value >= 0 && value < n;
        if (good) set[value / 64] |= (uint64_t)1 << (value % 64);
    }
    *some = true;
    if (good && count > 0) return SP_OK;
    return sp_fail_param(parser->error, SP_INVALID, field,
                         "%s must be a list of one or more numbers from 0 to %u", field, n - 1);
}

static sp_status read_captured(sp_parser *parser)
{
    sp_attention *out = parser->out;
    sp_json *json = &parser->json;
    while (sp_json_next(json) == SP_JSON_KEY) {
        sp_status status;
        if (sp_json_is(json, "layers")) {
            status = read_numbers(parser, "attention.capture.layers", parser->host->n_layers, out->layers,
                                  &out->some_layers);
        } else if (sp_json_is(json, "heads")) {
            status = read_numbers(parser, "attention.capture.heads", parser->host->n_heads, out->heads_kept,
                                  &out->some_heads);
        } else {
            status = sp_fail_param(parser->error, SP_INVALID, "attention.capture",
                                   "unknown key '%.*s' in attention.capture; it takes layers and heads",
                                   (int)(json->raw_size < 60 ? json->raw_size : 60), json->raw);
        }
        if (status) return status;
    }
    return SP_OK;
}

static sp_status read_capture(sp_parser *parser, sp_json_type type)
{
    if (type == SP_JSON_NULL || type == SP_JSON_FALSE) return SP_OK;
    if (type != SP_JSON_TRUE && type != SP_JSON_OBJECT) {
        return bad_type(parser, "attention.capture", "true, false or {\"layers\": [..], \"heads\": [..]}");
    }
    if (!parser->host->allow_capture)
        return sp_fail_param(parser->error, SP_INVALID, "attention.capture",
                             "attention.capture is not available here");
    parser->out->capture = true;
    return type == SP_JSON_OBJECT ? read_captured(parser) : SP_OK;
}

/* The backend and the parameters of an object, whose other keys are refused. */
static sp_status read_choice(sp_parser *parser, sp_json_type type)
{
    sp_json *json = &parser->json, params, end;
    bool has_params = false;
    sp_status status = SP_OK;
    if (type == SP_JSON_STRING) {
        status = set_backend(parser, "attention.decode");
        set_defaults(parser->out);
        return status;
    }
    while (status == SP_OK && sp_json_next(json) == SP_JSON_KEY) {
        bool backend = sp_json_is(json, "backend"), parameters = sp_json_is(json, "params");
        if (!backend && !parameters)
            return sp_fail_param(parser->error, SP_INVALID, "attention.decode",
                                 "unknown key '%.*s' in attention.decode; it takes backend and params",
                                 (int)(json->raw_size < 60 ? json->raw_size : 60), json->raw);
        sp_json_type value = sp_json_next(json);
        if (value != (backend ? SP_JSON_STRING : SP_JSON_OBJECT))
            return bad_type(parser, backend ? "attention.decode.backend" : "attention.decode.params",
                            backend ? "a string" : "an object");
        if (backend) {
            status = set_backend(parser, "attention.decode.backend");
            continue;
        }
        params = *json;
        has_params = true;
        sp_json_skip(json, value);
    }
    if (status) return status;
    end = *json;
    set_defaults(parser->out);
    status = has_params ? read_params(parser, &params) : SP_OK;
    *json = end;
    return status;
}

/* The pattern of generated tokens: read into an attention of its own, of which the pattern is kept. */
static sp_status read_decode(sp_parser *parser, sp_json_type type)
{
    sp_attention *out = parser->out, inner = {.backend = sp_backend_find("dense", 5)};
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_STRING && type != SP_JSON_OBJECT)
        return bad_type(parser, "attention.decode", "a backend's name, or an object of backend and params");
    sp_parser sub = *parser;
    sub.prefix = "attention.decode";
    sub.out = &inner;
    sp_status status = read_choice(&sub, type);
    if (status == SP_OK && inner.backend->check)
        status = inner.backend->check(&inner, parser->host->n_heads, parser->error);
    parser->json = sub.json;
    out->decode_backend = inner.backend;
    memcpy(out->decode_params, inner.params, sizeof inner.params);
    out->decode_seed = inner.seed;
    return status;
}

static sp_status unknown_key(const sp_parser *parser)
{
    const sp_json *json = &parser->json;
    char field[96];
    int shown = (int)(json->raw_size < 60 ? json->raw_size : 60);
    (void)snprintf(field, sizeof field, "attention.%.*s", shown, json->raw);
    return sp_fail_param(
        parser->error, SP_INVALID, field,
        "unknown key '%.*s'; attention takes backend, params, normalizer, heads, device, strict, "
        "measure, capture, decode",
        shown, json->raw);
}

/* Reads everything but the parameters, whose reader is kept in *params. */
static sp_status read_key(sp_parser *parser, sp_json *params, bool *has_params)
{
    static sp_status (*const readers[])(sp_parser *, sp_json_type) = {
        read_normalizer, read_heads, read_device, read_measure, read_capture, read_decode};
    static const char *const names[] = {"normalizer", "heads", "device", "measure", "capture", "decode"};
    sp_json *json = &parser->json;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (sp_json_is(json, names[i])) return readers[i](parser, sp_json_next(json));
    }
    if (sp_json_is(json, "strict")) {
        return read_bool(parser, sp_json_next(json), "attention.strict", &parser->out->strict);
    }
    if (sp_json_is(json, "backend")) {
        sp_json_type type = sp_json_next(json);
        if (type == SP_JSON_NULL) return SP_OK;
        if (type != SP_JSON_STRING) return bad_type(parser, "attention.backend", "a string");
        return set_backend(parser, "attention.backend");
    }
    if (!sp_json_is(json, "params")) return unknown_key(parser);
    sp_json_type type = sp_json_next(json);
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_OBJECT) return bad_type(parser, "attention.params", "an object");
    *params = *json;
    *has_params = true;
    sp_json_skip(json, type);
    return SP_OK;
}

static sp_status read_object(sp_parser *parser)
{
    sp_json params;
    bool has_params = false;
    while (sp_json_next(&parser->json) == SP_JSON_KEY) {
        sp_status status = read_key(parser, &params, &has_params);
        if (status) return status;
    }
    set_defaults(parser->out);
    return has_params ? read_params(parser, &params) : SP_OK;
}

/* --- what the parts mean together --- */

/* A parameter of this name that is there and not 0. */
static bool uses(const sp_attention *attention, const char *name)
{
    for (size_t i = 0; i < attention->backend->n_params; i++) {
        if (strcmp(attention->backend->params[i].name, name) == 0)
            return attention->params[i] != 0 && !isnan(attention->params[i]);
    }
    return false;
}

bool sp_attention_streams(const sp_attention *attention)
{
    const sp_backend *backend = attention->backend;
    if (!(backend->caps & SP_CAP_STREAMING) || uses(attention, "global_random")) return false;
    return !backend->streams || backend->streams(attention);
}

/* A backend named for generated tokens. */
static sp_status check_decode(sp_parser *parser, bool streams)
{
    sp_attention *out = parser->out, decode = sp_attention_decoding(out);
    if (uses(&decode, "global_last") || !sp_attention_streams(&decode))
        return sp_fail_param(parser->error, SP_INVALID, "attention.decode",
                             "%s with these parameters needs the whole text and cannot decode",
                             decode.backend->name);
    bool whole = out->backend->caps & SP_CAP_NEEDS_FIT && !streams;
    if (whole || (streams && !uses(out, "global_last"))) return SP_OK;
    return sp_fail_param(parser->error, SP_INVALID,
                         streams ? "attention.params.global_last" : "attention.backend",
                         "this attention needs the whole text and cannot generate");
}

static sp_status check_streaming(sp_parser *parser)
{
    sp_attention *out = parser->out;
    bool streams = sp_attention_streams(out);
    if (out->decode_backend) return check_decode(parser, streams);
    if (uses(out, "global_last")) {
        return sp_fail_param(parser->error, SP_INVALID, "attention.params.global_last",
                             "global_last must be 0 while generating: the last token is not known yet");
    }
    if (streams) return SP_OK;
    const char *field = uses(out, "global_random") ? "attention.params.global_random" : "attention.backend";
    if (out->strict) {
        return sp_fail_param(
            parser->error, SP_INVALID, field,
            "this attention needs the whole text and cannot generate: set %s, or strict to false for "
            "%s",
            uses(out, "global_random") ? "global_random to 0"
            : out->backend->fall_back  ? "\"decode\": {\"backend\": ..} beside it"
                                       : "another backend",
            out->backend->fall_back ? "its nearest form that decodes" : "dense attention");
    }
    out->falls_back = out->backend->fall_back != NULL;
    if (out->falls_back) return SP_OK;
    out->backend = sp_backend_find("dense", 5);
    out->heads = SP_HEADS_MERGED;
    set_defaults(out);
    return SP_OK;
}

bool sp_attention_needs_whole(const sp_attention *attention)
{
    return !sp_attention_streams(attention) || uses(attention, "global_last");
}

static sp_status check_together(sp_parser *parser)
{
    sp_attention *out = parser->out;
    if (out->heads != SP_HEADS_MERGED && !out->backend->has_heads) {
        return sp_fail_param(parser->error, SP_INVALID, "attention.heads",
                             "attention.heads is for strided and fixed; %s takes merged only",
                             out->backend->name);
    }
    if (out->backend->check) {
        sp_status status = out->backend->check(out, parser->host->n_heads, parser->error);
        if (status) return status;
    }
    return parser->host->generates ? check_streaming(parser) : SP_OK;
}

sp_status sp_attention_parse(const char *text, size_t size, const sp_attention_host *host, sp_attention *out,
                             sp_error *error)
{
    sp_error reason;
    sp_parser parser = {.prefix = "attention", .host = host, .out = out, .error = error};
    *out = (sp_attention){.backend = sp_backend_find("dense", 5),
                          .normalizer_is_model = true,
                          .normalizer = host->model_normalizer,
                          .strict = true,
                          .requested = "dense"};
    if (!text) return SP_OK;
    sp_status valid = sp_json_validate(text, size, &reason);
    if (valid == SP_NO_MEMORY) return sp_fail(error, SP_NO_MEMORY, "no memory for the attention object");
    if (valid) {
        return sp_fail_param(error, SP_INVALID, "attention", "attention is not valid JSON: %s",
                             reason.message);
    }
    sp_json_init(&parser.json, text, size);
    sp_json_type type = sp_json_next(&parser.json);
    sp_status status = SP_OK;
    if (type == SP_JSON_STRING) {
        status = set_backend(&parser, "attention");
        if (status == SP_OK) set_defaults(out);
    } else if (type == SP_JSON_OBJECT) {
        status = read_object(&parser);
    } else if (type != SP_JSON_NULL) {
        status = bad_type(&parser, "attention", "a string or an object");
    }
    return status ? status : check_together(&parser);
}
