/* `sparsed import-fit`: a fit file from what the published Sparsefinder code saved.
 *
 * Reads projections and perhaps centroids as data (engine/sparsefinder/import_fit.h), holds their counts
 * against --layers, --heads and --model, and writes a fit file. With --model the fit carries that model's
 * fingerprint and serves it; without it `sparsed attend` takes the fit, serving does not. Owner: run_import
 * owns the files and the fit. Tests: tests/http/test_import_fit.py */
#include <stdio.h>

#include "engine/sparsefinder/import_fit.h"
#include "server/command.h"

typedef struct import_job {
    const sp_options *options;
    sp_torch_file projections, centroids;
    sp_fit *fit;
    char fingerprint[65]; /* of the model of --model */
} import_job;

static sp_status wrong_count(const char *option, int64_t asked, const char *what, uint32_t has,
                             sp_error *error)
{
    return sp_fail_param(error, SP_USAGE, option, "--%s is %lld, the model of --model has %u %s", option,
                         (long long)asked, (unsigned)has, what);
}

/* What the model of --model demands. */
static sp_status read_model(import_job *job, sp_import_options *wanted, sp_error *error)
{
    const sp_options *options = job->options;
    const sp_model_options with = {.fingerprint = true};
    sp_device *device = NULL;
    sp_model *model = NULL;
    sp_status status = sp_device_open("cpu", &(sp_device_options){0}, &device, error);
    if (status) return status;
    status = sp_model_open(options->model, device, &with, &model, error);
    if (!status) {
        const sp_hparams *has = &model->hparams;
        if (wanted->layers && wanted->layers != has->n_layers)
            status = wrong_count("layers", options->layers, "layers", has->n_layers, error);
        else if (wanted->heads && wanted->heads != has->n_heads)
            status = wrong_count("heads", options->heads, "heads", has->n_heads, error);
        wanted->layers = has->n_layers;
        wanted->heads = has->n_heads;
        wanted->head_dim = has->head_dim;
        (void)snprintf(job->fingerprint, sizeof job->fingerprint, "%s", model->fingerprint);
        wanted->model = job->fingerprint;
        sp_model_close(model);
    }
    sp_device_close(device);
    return status;
}

static void write_summary(const import_job *job)
{
    const sp_fit *fit = job->fit;
    const sp_fit_layer *layer = &fit->layers[0];
    const sp_fit_set *last = &layer->sets[layer->n_sets - 1];
    printf("%s: %u layers, %u heads of %u, rank %u, %s maps", job->options->out, fit->n_layers, fit->n_heads,
           fit->head_dim, layer->sets[0].rank, layer->sets[0].shared ? "shared" : "separate");
    if (last->n_centroids)
        printf(", %u centroids in %u runs", last->centroids[0].size, last->centroids[0].runs);
    if (last->type == SP_FIT_BLOCK) printf(" for blocks of %u", last->size);
    puts("");
}

static sp_status import(import_job *job, sp_error *error)
{
    const sp_options *options = job->options;
    sp_import_options wanted = {
        .layers = (uint32_t)options->layers, .heads = (uint32_t)options->heads, .alpha = options->alpha};
    sp_status status = sp_check_result(options->out, error);
    if (!status) status = sp_torch_open(options->projections, &job->projections, error);
    if (!status && options->centroids) status = sp_torch_open(options->centroids, &job->centroids, error);
    if (!status && options->model) status = read_model(job, &wanted, error);
    if (!status)
        status = sp_fit_import(&job->projections, options->centroids ? &job->centroids : NULL, &wanted,
                               &job->fit, error);
    return status ? status : sp_fit_write(job->fit, options->out, error);
}

int sp_command_import_fit(const sp_options *options)
{
    sp_error error = {0};
    import_job job = {.options = options};
    sp_status status = import(&job, &error);
    if (!status) write_summary(&job);
    sp_fit_close(job.fit);
    sp_torch_close(&job.projections);
    sp_torch_close(&job.centroids);
    return status ? sp_command_fail(&error) : SP_EXIT_OK;
}
