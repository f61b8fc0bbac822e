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

sp_status sp_attention_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                               sp_attend_kind kind, sp_error *error)
{
    sp_attention_settle(attention);
    const sp_backend *backend = attention->backend;
    if (!(backend->caps & SP_CAP_NEEDS_FIT)) return SP_OK;
    if (!fit)
        return sp_fail_param(error, SP_INVALID, "attention.backend",
                             "%s needs a fit, and none is loaded: make one with `sparsed fit`, put it beside "
                             "the model as sparsefinder.safetensors, or name it with --fit",
                             backend->name);
    sp_status status = backend->resolve(attention, fit, begin, end, kind, error);
    if (status == SP_OK && fit->alpha > 0 && fabs((double)attention->normalizer.alpha - fit->alpha) > 1e-6)
        sp_attention_note(attention, "the fit was made for alpha %g", fit->alpha);
    if (status == SP_OK && fit->gold_mass > 0 && !sp_is_softmax(attention->normalizer))
        sp_attention_note(attention, "the fit was made for softmax");
    return status;
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
