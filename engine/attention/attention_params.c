/* A pattern of the attention object (attention_parser.h): a backend's name and its parameters, each of its
 * type and in its range; the object's own, or those of `decode`. Tests:
 * tests/unit/engine/test_attention_parse.c */
#include "engine/attention/attention_parser.h"

#include <stdio.h>
#include <string.h>

static const char *const not_built[] = {"bigbird", "lsh", "pages", "xattention"};

sp_status sp_parser_bad_type(const sp_parser *parser, const char *field, const char *wanted)
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

sp_status sp_parser_backend(sp_parser *parser, const char *field)
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
void sp_parser_defaults(sp_attention *attention)
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

sp_status sp_parser_params(sp_parser *parser, const sp_json *params)
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

/* --- the pattern of generated tokens --- */

/* The backend and the parameters of an object, whose other keys are refused. */
static sp_status read_choice(sp_parser *parser, sp_json_type type)
{
    sp_json *json = &parser->json, params, end;
    bool has_params = false;
    sp_status status = SP_OK;
    if (type == SP_JSON_STRING) {
        status = sp_parser_backend(parser, "attention.decode");
        sp_parser_defaults(parser->out);
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
            return sp_parser_bad_type(parser,
                                      backend ? "attention.decode.backend" : "attention.decode.params",
                                      backend ? "a string" : "an object");
        if (backend) {
            status = sp_parser_backend(parser, "attention.decode.backend");
            continue;
        }
        params = *json;
        has_params = true;
        sp_json_skip(json, value);
    }
    if (status) return status;
    end = *json;
    sp_parser_defaults(parser->out);
    status = has_params ? sp_parser_params(parser, &params) : SP_OK;
    *json = end;
    return status;
}

/* Read into an attention of its own, of which the pattern is kept. */
sp_status sp_parser_decode(sp_parser *parser, sp_json_type type)
{
    sp_attention *out = parser->out, inner = {.backend = sp_backend_find("dense", 5)};
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_STRING && type != SP_JSON_OBJECT)
        return sp_parser_bad_type(parser, "attention.decode",
                                  "a backend's name, or an object of backend and params");
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
