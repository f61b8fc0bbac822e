/* The list of backends, made from backends.def, and what a backend needs of its parameters.
 * Tests: tests/unit/engine/test_attention_parse.c */
#include "engine/attention/attention.h"

#include <assert.h>
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
