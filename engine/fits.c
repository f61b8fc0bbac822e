/* See fits.h. */
#include "engine/fits.h"

#include <string.h>
#include <sys/stat.h>

#include "models/adapter.h"

#define FILE_NAME "sparsefinder.safetensors"

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

/* Puts "folder/name" into out; false where there is no such file. */
static bool in_folder(sp_buffer *out, const char *folder, size_t n, const char *name)
{
    sp_buffer_clear(out);
    sp_buffer_append(out, folder, n);
    sp_buffer_format(out, "%s%s", n && folder[n - 1] != '/' ? "/" : "", name);
    return sp_buffer_append(out, "", 1) && is_file(out->data);
}

/* The file beside a model; false: none. */
static bool beside_model(sp_buffer *out, const char *path)
{
    struct stat info;
    size_t n = strlen(path);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return in_folder(out, path, n, FILE_NAME);
    size_t stem = n > 5 && strcmp(path + n - 5, ".gguf") == 0 ? n - 5 : n;
    sp_buffer_clear(out);
    sp_buffer_append(out, path, stem);
    sp_buffer_text(out, "." FILE_NAME);
    if (sp_buffer_append(out, "", 1) && is_file(out->data)) return true;
    const char *slash = strrchr(path, '/');
    return slash ? in_folder(out, path, (size_t)(slash - path) + 1, FILE_NAME)
                 : in_folder(out, "", 0, FILE_NAME);
}

bool sp_fits_wanted(const char *model_path, const char *fit, const sp_adapter_option *adapters,
                    size_t n_adapters)
{
    sp_buffer path;
    sp_buffer_init(&path, 8192);
    bool found = fit || beside_model(&path, model_path);
    for (size_t i = 0; i < n_adapters && !found; i++)
        found = in_folder(&path, adapters[i].path, strlen(adapters[i].path), FILE_NAME);
    sp_buffer_fini(&path);
    return found;
}

static const char *fingerprint_of(const sp_model *model, size_t i)
{
    return i ? model->adapters[i - 1]->fingerprint : model->fingerprint;
}

/* Opens the file for model i and, where it names another of the models, for that one. */
static sp_status open_one(const sp_model *model, const char *path, size_t i, sp_fits *out, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    sp_error reason = {0};
    sp_fit *fit;
    sp_status status = sp_fit_open(path, &fit, error);
    if (status != SP_OK) return status;
    size_t other = i;
    for (size_t k = 0; k < out->n && strcmp(fit->model, fingerprint_of(model, i)) != 0; k++)
        if (strcmp(fit->model, fingerprint_of(model, k)) == 0) other = k;
    status = sp_fit_check(fit, fingerprint_of(model, other), h->n_layers, h->n_heads, h->n_kv_heads,
                          h->head_dim, &reason);
    if (status == SP_OK) status = sp_fit_check_layers(fit, &reason);
    if (status != SP_OK) {
        sp_fit_close(fit);
        return sp_fail_param(error, status, reason.param, "%.160s: %s", path, reason.message);
    }
    out->owned[i] = fit;
    out->of[other] = fit;
    return SP_OK;
}

/* What has no fit of its own takes one that was made for it. */
static void share(const sp_model *model, sp_fits *fits)
{
    for (size_t i = 0; i < fits->n; i++)
        for (size_t k = 0; k < fits->n && !fits->of[i]; k++)
            if (fits->owned[k] && strcmp(fits->owned[k]->model, fingerprint_of(model, i)) == 0)
                fits->of[i] = fits->owned[k];
}

sp_status sp_fits_open(const sp_model *model, const char *model_path, const char *fit,
                       const sp_adapter_option *adapters, size_t n_adapters, sp_fits *out, sp_error *error)
{
    sp_buffer path;
    *out = (sp_fits){.n = 1 + n_adapters};
    out->of = sp_alloc_zero(out->n, sizeof *out->of);
    out->owned = sp_alloc_zero(out->n, sizeof *out->owned);
    if (!out->of || !out->owned) return sp_fail(error, SP_NO_MEMORY, "no memory for fits");
    sp_buffer_init(&path, 8192);
    sp_status status = SP_OK;
    if (fit)
        status = open_one(model, fit, 0, out, error);
    else if (beside_model(&path, model_path))
        status = open_one(model, path.data, 0, out, error);
    for (size_t i = 0; i < n_adapters && status == SP_OK; i++)
        if (in_folder(&path, adapters[i].path, strlen(adapters[i].path), FILE_NAME))
            status = open_one(model, path.data, i + 1, out, error);
    if (status == SP_OK) share(model, out);
    sp_buffer_fini(&path);
    return status;
}

void sp_fits_close(sp_fits *fits)
{
    for (size_t i = 0; fits->owned && i < fits->n; i++) sp_fit_close(fits->owned[i]);
    sp_free(fits->owned);
    sp_free((void *)fits->of);
    *fits = (sp_fits){.n = 0};
}
