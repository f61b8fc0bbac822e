/* The `attention` value of a request: a name or an object, read strictly into a plain sp_attention.
 *
 * Nothing is ignored: an unknown backend, parameter or key, a wrong type, a value out of range and whatever
 * is known but not built is refused with the field's name. null means the default everywhere. The order of
 * keys is free: `params` is read again once the backend is known (attention_params.c). What the parts mean
 * together is checked at the end. The contract is engine/README.md, "The attention object". Tests:
 * tests/unit/engine/test_attention_parse.c */
#include "engine/attention/attention_parser.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- keys --- */
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
        if (sp_json_next(json) != SP_JSON_NUMBER) return sp_parser_bad_type(parser, field, wanted);
        double alpha = sp_json_double(json);
        if (!(alpha > 1 && alpha <= 2)) return sp_parser_bad_type(parser, field, wanted);
        float rounded = (float)alpha;
        (void)set_normalizer(parser, rounded > 1 ? rounded : nextafterf(1, 2));
        has_alpha = true;
    }
    return has_alpha ? SP_OK : sp_parser_bad_type(parser, field, wanted);
}

static sp_status read_normalizer(sp_parser *parser, sp_json_type type)
{
    static const char wanted[] = "model, softmax, entmax15, sparsemax or {\"alpha\": a} with 1 < a <= 2";
    if (type == SP_JSON_NULL) return SP_OK;
    if (type == SP_JSON_OBJECT) return read_alpha(parser);
    if (type != SP_JSON_STRING) return sp_parser_bad_type(parser, "attention.normalizer", wanted);
    if (sp_json_is(&parser->json, "model")) return SP_OK;
    if (sp_json_is(&parser->json, "softmax")) return set_normalizer(parser, 1.0f);
    if (sp_json_is(&parser->json, "entmax15")) return set_normalizer(parser, 1.5f);
    if (sp_json_is(&parser->json, "sparsemax")) return set_normalizer(parser, 2.0f);
    return sp_parser_bad_type(parser, "attention.normalizer", wanted);
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
    return sp_parser_bad_type(parser, "attention.heads", "merged, interleaved or multihead");
}

static sp_status read_device(sp_parser *parser, sp_json_type type)
{
    bool fits =
        type == SP_JSON_STRING && (sp_json_is(&parser->json, "auto") || sp_json_is(&parser->json, "cpu"));
    if (type == SP_JSON_NULL || fits) return SP_OK;
    return sp_parser_bad_type(parser, "attention.device", "auto or cpu: this version computes on the CPU");
}

static sp_status read_bool(sp_parser *parser, sp_json_type type, const char *field, bool *out)
{
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_TRUE && type != SP_JSON_FALSE)
        return sp_parser_bad_type(parser, field, "true or false");
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
        return sp_parser_bad_type(parser, "attention.capture",
                                  "true, false or {\"layers\": [..], \"heads\": [..]}");
    }
    if (!parser->host->allow_capture)
        return sp_fail_param(parser->error, SP_INVALID, "attention.capture",
                             "attention.capture is not available here");
    parser->out->capture = true;
    return type == SP_JSON_OBJECT ? read_captured(parser) : SP_OK;
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
        read_normalizer, read_heads, read_device, read_measure, read_capture, sp_parser_decode};
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
        if (type != SP_JSON_STRING) return sp_parser_bad_type(parser, "attention.backend", "a string");
        return sp_parser_backend(parser, "attention.backend");
    }
    if (!sp_json_is(json, "params")) return unknown_key(parser);
    sp_json_type type = sp_json_next(json);
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_OBJECT) return sp_parser_bad_type(parser, "attention.params", "an object");
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
    sp_parser_defaults(parser->out);
    return has_params ? sp_parser_params(parser, &params) : SP_OK;
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
    sp_parser_defaults(out);
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
        status = sp_parser_backend(&parser, "attention");
        if (status == SP_OK) sp_parser_defaults(out);
    } else if (type == SP_JSON_OBJECT) {
        status = read_object(&parser);
    } else if (type != SP_JSON_NULL) {
        status = sp_parser_bad_type(&parser, "attention", "a string or an object");
    }
    return status ? status : check_together(&parser);
}
