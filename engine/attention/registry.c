/* The list of backends, made from backends.def, and what a backend needs of its parameters.
 * Tests: tests/unit/engine/test_attention_parse.c */
#include "engine/attention/auto.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SP_BACKEND(name) extern const sp_backend sp_backend_##name;
#include "engine/attention/backends.def"
#undef SP_BACKEND

const sp_backend *const sp_backends[] = {
#define SP_BACKEND(name) &sp_backend_##name,
#include "engine/attention/backends.def"
#undef SP_BACKEND
    NULL};

const sp_backend *sp_backend_find(const char *name, size_t size)
{
    for (size_t i = 0; sp_backends[i]; i++) {
        if (strlen(sp_backends[i]->name) == size && memcmp(sp_backends[i]->name, name, size) == 0)
            return sp_backends[i];
    }
    return NULL;
}

static const sp_param *param_find(const sp_backend *backend, const char *name)
{
    for (size_t i = 0; i < backend->n_params; i++) {
        if (strcmp(backend->params[i].name, name) == 0) return &backend->params[i];
    }
    return NULL;
}

double sp_attention_param(const sp_attention *attention, const char *name)
{
    const sp_param *param = param_find(attention->backend, name);
    assert(param);
    return attention->params[param - attention->backend->params];
}

bool sp_attention_same_plan(const sp_attention *attention, uint32_t layer_a, uint32_t layer_b)
{
    const sp_backend *backend = attention->backend;
    if (layer_a == layer_b) return true;
    if (!(backend->caps & SP_CAP_STATIC)) return false;
    return !backend->part || backend->part(attention, layer_a) == backend->part(attention, layer_b);
}

static sp_status resolve_pattern(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                                 sp_attend_kind kind, sp_error *error)
{
    const sp_backend *backend = attention->backend;
    if (!(backend->caps & SP_CAP_NEEDS_FIT)) return SP_OK;
    if (fit) return backend->resolve(attention, fit, begin, end, kind, error);
    return sp_fail_param(error, SP_INVALID, "attention.backend",
                         "%s needs a fit, and none is loaded: make one with `sparsed fit`, put it beside "
                         "the model as sparsefinder.safetensors, or name it with --fit",
                         backend->name);
}

sp_attention sp_attention_decoding(const sp_attention *attention)
{
    sp_attention decode = *attention;
    if (!attention->decode_backend) return decode;
    decode.backend = attention->decode_backend;
    memcpy(decode.params, attention->decode_params, sizeof decode.params);
    decode.seed = attention->decode_seed;
    decode.heads = SP_HEADS_MERGED;
    decode.decode_backend = NULL;
    return decode;
}

static void keep_decode(sp_attention *attention, const sp_attention *decode)
{
    attention->decode_backend = decode->backend;
    memcpy(attention->decode_params, decode->params, sizeof decode->params);
    attention->decode_seed = decode->seed;
}

/* The first streaming form that the fit can serve; dense where there is none. */
static void fall_back(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                      sp_attend_kind kind)
{
    const char *names[2] = {attention->backend->name, "dense"};
    sp_attention decode = {.normalizer = attention->normalizer};
    for (uint32_t number = 0; attention->backend->fall_back(attention, number, &decode, names); number++) {
        if (resolve_pattern(&decode, fit, begin, end, kind, NULL) == SP_OK) break;
        names[1] = "dense";
        decode.backend = NULL;
    }
    if (!decode.backend) decode.backend = sp_backend_find("dense", 5);
    keep_decode(attention, &decode);
    attention->falls_back = false;
    for (size_t i = 0; i < 2; i++)
        (void)snprintf(attention->fallback[i], sizeof attention->fallback[i], "%s", names[i]);
}

/* The pattern of generated tokens: its errors name attention.decode. */
static sp_status resolve_decode(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                                sp_attend_kind kind, sp_error *error)
{
    sp_error reason = {0};
    sp_attention decode = sp_attention_decoding(attention);
    sp_status status = resolve_pattern(&decode, fit, begin, end, kind, &reason);
    if (status != SP_OK) {
        char field[96];
        const char *rest = strncmp(reason.param, "attention", 9) == 0 ? reason.param + 9 : "";
        (void)snprintf(field, sizeof field, "attention.decode%.70s", rest);
        return sp_fail_param(error, status, field, "%s", reason.message);
    }
    keep_decode(attention, &decode);
    if (!sp_attention_streams(attention) || sp_attention_same_codes(attention, &decode, fit, kind))
        return SP_OK;
    return sp_fail_param(error, SP_INVALID, "attention.decode",
                         "%s and %s of decode keep different projections of the same keys; they must use one "
                         "set of the fit",
                         attention->backend->name, decode.backend->name);
}

bool sp_attention_same_codes(const sp_attention *a, const sp_attention *b, const sp_fit *fit,
                             sp_attend_kind kind)
{
    const sp_attention *const both[2] = {a, b};
    const sp_fit_set *sets[2] = {NULL, NULL};
    const sp_fit_table *tables[2] = {NULL, NULL};
    uint32_t top[2] = {0}, runs[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        const sp_backend *backend = both[i]->backend;
        if (fit && backend->codes) sets[i] = backend->codes(both[i], fit, 0, kind);
        if (sets[i] && backend->centroids)
            tables[i] = backend->centroids(both[i], sets[i], &top[i], &runs[i]);
    }
    if (!sets[0] || !sets[1]) return true; /* one of them keeps nothing */
    return sets[0] == sets[1] && tables[0] == tables[1] && top[0] == top[1] && runs[0] == runs[1];
}

sp_status sp_attention_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                               sp_attend_kind kind, sp_error *error)
{
    unsigned needs =
        attention->backend->caps | (attention->decode_backend ? attention->decode_backend->caps : 0);
    sp_status status = resolve_pattern(attention, fit, begin, end, kind, error);
    if (status == SP_OK && attention->falls_back) fall_back(attention, fit, begin, end, kind);
    if (status == SP_OK && attention->decode_backend)
        status = resolve_decode(attention, fit, begin, end, kind, error);
    if (status != SP_OK || !(needs & SP_CAP_NEEDS_FIT)) return status;
    if (fit->alpha > 0 && fabs((double)attention->normalizer.alpha - fit->alpha) > 1e-6)
        sp_attention_note(attention, "the fit was made for alpha %g", fit->alpha);
    if (fit->gold_mass > 0 && !sp_is_softmax(attention->normalizer))
        sp_attention_note(attention, "the fit was made for softmax");
    return SP_OK;
}

void sp_attention_note(sp_attention *attention, const char *format, ...)
{
    size_t used = strlen(attention->notes), room = sizeof attention->notes - used;
    char text[sizeof attention->notes];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n <= 0 || (size_t)n + 2 > room) return;
    (void)snprintf(attention->notes + used, room, "%s%s", used ? "\n" : "", text);
}

/* Keys and queries of a cross-attention have no common positions: no window, no last tokens. */
static sp_status check_cross(const sp_attention *attention, sp_error *error)
{
    static const char *const names[] = {"window", "global_last"};
    const sp_backend *backend = attention->backend;
    if (!(backend->caps & SP_CAP_CROSS)) {
        return sp_fail_param(
            error, SP_INVALID, "attention.backend",
            "%s compares positions of one sequence and cannot serve cross-attention; use dense",
            backend->name);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!param_find(backend, names[i]) || sp_attention_param(attention, names[i]) == 0) continue;
        const char *param = i == 0 ? "attention.params.window" : "attention.params.global_last";
        return sp_fail_param(error, SP_INVALID, param, "%s must be 0 in cross-attention", names[i]);
    }
    return SP_OK;
}

sp_status sp_attention_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    if (request->kind == SP_ATTEND_CROSS) {
        sp_status status = check_cross(request->attention, error);
        if (status) return status;
    }
    sp_status status = request->attention->backend->plan(request, out, error);
    return status ? status : sp_plan_end(out, error);
}
