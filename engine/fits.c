/* See fits.h. */
#include "engine/fits.h"

#include <string.h>

#include "engine/beside.h"
#include "models/adapter.h"

#define FILE_NAME "sparsefinder.safetensors"

bool sp_fits_wanted(const char *model_path, const char *fit, const sp_adapter_option *adapters,
                    size_t n_adapters)
{
    char path[SP_PATH_BYTES];
    bool found = fit || sp_beside_model(model_path, FILE_NAME, path);
    for (size_t i = 0; i < n_adapters && !found; i++) found = sp_beside_in(adapters[i].path, FILE_NAME, path);
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
    char path[SP_PATH_BYTES];
    *out = (sp_fits){.n = 1 + n_adapters};
    out->of = sp_alloc_zero(out->n, sizeof *out->of);
    out->owned = sp_alloc_zero(out->n, sizeof *out->owned);
    if (!out->of || !out->owned) return sp_fail(error, SP_NO_MEMORY, "no memory for fits");
    sp_status status = SP_OK;
    if (fit)
        status = open_one(model, fit, 0, out, error);
    else if (sp_beside_model(model_path, FILE_NAME, path))
        status = open_one(model, path, 0, out, error);
    for (size_t i = 0; i < n_adapters && status == SP_OK; i++)
        if (sp_beside_in(adapters[i].path, FILE_NAME, path))
            status = open_one(model, path, i + 1, out, error);
    if (status == SP_OK) share(model, out);
    return status;
}

void sp_fits_close(sp_fits *fits)
{
    for (size_t i = 0; fits->owned && i < fits->n; i++) sp_fit_close(fits->owned[i]);
    sp_free(fits->owned);
    sp_free((void *)fits->of);
    *fits = (sp_fits){.n = 0};
}
