/* See sweeps.h. */
#include "engine/sweeps.h"

#include <string.h>
#include <sys/stat.h>

#include "models/adapter.h"

#define FILE_NAME "sweep.json"
#define PATH_BYTES 8192

/* Appends what follows to a path begun; true where such a file is there. */
static bool finish_path(sp_buffer *path, const char *name)
{
    struct stat info;
    sp_buffer_text(path, name);
    return sp_buffer_append(path, "", 1) && stat(path->data, &info) == 0 && !S_ISDIR(info.st_mode);
}

static bool in_folder(const char *folder, size_t size, sp_buffer *path)
{
    sp_buffer_clear(path);
    sp_buffer_append(path, folder, size);
    if (size > 0 && folder[size - 1] != '/') sp_buffer_text(path, "/");
    return finish_path(path, FILE_NAME);
}

/* The file beside a model; false: none. */
static bool beside_model(const char *model_path, sp_buffer *path)
{
    struct stat info;
    size_t size = strlen(model_path);
    if (stat(model_path, &info) == 0 && S_ISDIR(info.st_mode)) return in_folder(model_path, size, path);
    sp_buffer_clear(path);
    sp_buffer_append(path, model_path,
                     size > 5 && strcmp(model_path + size - 5, ".gguf") == 0 ? size - 5 : size);
    if (finish_path(path, "." FILE_NAME)) return true;
    const char *slash = strrchr(model_path, '/');
    return in_folder(model_path, slash ? (size_t)(slash - model_path) + 1 : 0, path);
}

bool sp_sweeps_wanted(const char *model_path, const sp_adapter_option *adapters, size_t n_adapters)
{
    sp_buffer path;
    sp_buffer_init(&path, PATH_BYTES);
    bool found = beside_model(model_path, &path);
    for (size_t i = 0; i < n_adapters && !found; i++)
        found = in_folder(adapters[i].path, strlen(adapters[i].path), &path);
    sp_buffer_fini(&path);
    return found;
}

/* Reads one file; NULL, with a line in the log, where it can't be used. */
static const sp_sweep *read_one(const char *path, const char *fingerprint)
{
    sp_error error = {0};
    sp_sweep *sweep = sp_alloc(1, sizeof *sweep);
    if (!sweep) return NULL;
    sp_sweep_init(sweep);
    sp_status status = sp_sweep_read(path, sweep, &error);
    if (!status && strcmp(sweep->model, fingerprint) != 0)
        status = sp_fail(&error, SP_DATA, "%s was measured on another model (%.16s..., this is %.16s...)",
                         path, sweep->model, fingerprint);
    if (!status) return sweep;
    sp_log(SP_LOG_WARN, "auto is dense: %s", error.message);
    sp_sweep_fini(sweep);
    sp_free(sweep);
    return NULL;
}

sp_status sp_sweeps_open(const sp_model *model, const char *model_path, const sp_adapter_option *adapters,
                         size_t n_adapters, sp_sweeps *out, sp_error *error)
{
    sp_buffer path;
    *out = (sp_sweeps){.n = 1 + n_adapters};
    out->of = sp_alloc_zero(out->n, sizeof *out->of);
    if (!out->of) return sp_fail(error, SP_NO_MEMORY, "no memory for sweeps");
    sp_buffer_init(&path, PATH_BYTES);
    if (beside_model(model_path, &path)) out->of[0] = read_one(path.data, model->fingerprint);
    for (size_t i = 0; i < n_adapters; i++)
        if (in_folder(adapters[i].path, strlen(adapters[i].path), &path))
            out->of[i + 1] = read_one(path.data, model->adapters[i]->fingerprint);
    sp_buffer_fini(&path);
    return SP_OK;
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
