/* See sweeps.h. */
#include "engine/sweeps.h"

#include <string.h>

#include "engine/beside.h"
#include "models/adapter.h"

#define FILE_NAME "sweep.json"

bool sp_sweeps_wanted(const char *model_path, const sp_adapter_option *adapters, size_t n_adapters)
{
    char path[SP_PATH_BYTES];
    bool found = sp_beside_model(model_path, FILE_NAME, path);
    for (size_t i = 0; i < n_adapters && !found; i++) found = sp_beside_in(adapters[i].path, FILE_NAME, path);
    return found;
}

/* Reads one file; *out NULL, with a line in the log, where it can't be used. SP_NO_MEMORY. */
static sp_status read_one(const char *path, const char *fingerprint, const sp_sweep **out, sp_error *failure)
{
    sp_error error = {0};
    sp_sweep *sweep = sp_alloc(1, sizeof *sweep);
    if (!sweep) return sp_fail(failure, SP_NO_MEMORY, "no memory for %.200s", path);
    sp_sweep_init(sweep);
    sp_status status = sp_sweep_read(path, sweep, &error);
    if (!status && strcmp(sweep->model, fingerprint) != 0)
        status = sp_fail(&error, SP_DATA, "%s was measured on another model (%.16s..., this is %.16s...)",
                         path, sweep->model, fingerprint);
    if (!status) {
        *out = sweep;
        return SP_OK;
    }
    sp_sweep_fini(sweep);
    sp_free(sweep);
    if (status == SP_NO_MEMORY) return sp_fail(failure, status, "%s", error.message);
    sp_log(SP_LOG_WARN, "auto is dense: %s", error.message);
    return SP_OK;
}

sp_status sp_sweeps_open(const sp_model *model, const char *model_path, const sp_adapter_option *adapters,
                         size_t n_adapters, sp_sweeps *out, sp_error *error)
{
    char path[SP_PATH_BYTES];
    sp_status status = SP_OK;
    *out = (sp_sweeps){.n = 1 + n_adapters};
    out->of = sp_alloc_zero(out->n, sizeof *out->of);
    if (!out->of) return sp_fail(error, SP_NO_MEMORY, "no memory for sweeps");
    if (sp_beside_model(model_path, FILE_NAME, path))
        status = read_one(path, model->fingerprint, &out->of[0], error);
    for (size_t i = 0; i < n_adapters && status == SP_OK; i++)
        if (sp_beside_in(adapters[i].path, FILE_NAME, path))
            status = read_one(path, model->adapters[i]->fingerprint, &out->of[i + 1], error);
    return status;
}

void sp_sweeps_close(sp_sweeps *sweeps)
{
    for (size_t i = 0; sweeps->of && i < sweeps->n; i++) {
        if (sweeps->of[i]) sp_sweep_fini((sp_sweep *)sweeps->of[i]);
        sp_free((void *)sweeps->of[i]);
    }
    sp_free((void *)sweeps->of);
    *sweeps = (sp_sweeps){.n = 0};
}
