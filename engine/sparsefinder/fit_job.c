/* See fit_job.h. */
#include "engine/sparsefinder/fit_job.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/sparsefinder/fit_sets.h"
#include "engine/sparsefinder/fit_state.h"
#include "models/adapter.h"

enum { HELD_OUT_SHARE = 10, JUDGE_ROWS = 16384 };

typedef struct fit_job {
    const sp_sample_options *source;
    const sp_fit_options *options; /* NULL: only judging */
    double gold_mass;
    const sp_fit_progress *progress;
    const atomic_bool *stop; /* the caller's, or NULL */
    atomic_bool halted;      /* by the caller or by an error: what tasks look at */
    size_t n_train, n_windows;
    sp_fit_room room;
    sp_fit_state state;
    /* the group at hand */
    sp_sample sample;
    uint32_t *units; /* (n_units) number of the unit among all */
    size_t n_units, n_finished, n_all;
    pthread_mutex_t lock; /* of what follows, the state and the progress */
    sp_status status;
    sp_error error;
} fit_job;

void sp_fit_options_init(sp_fit_options *options)
{
    *options = (sp_fit_options){.loss = SP_FIT_BALANCED,
                                .rank = 8,
                                .steps = 400,
                                .clusters = {{16, 32}, 2},
                                .kmeans = {{16}, 1},
                                .bins = {{16}, 1},
                                .runs = 1,
                                .lambda = 10,
                                .gold_mass = 0.95,
                                .sample_bytes = (size_t)3 << 30};
}

static bool is_stopped(fit_job *job)
{
    if (job->stop && atomic_load(job->stop)) atomic_store(&job->halted, true);
    return atomic_load(&job->halted);
}

static uint32_t units_a_layer(const fit_job *job)
{
    return job->room.fit->n_heads / job->room.unit_heads;
}

/* --- one unit, on one thread --- */

static sp_status run_unit(fit_job *job, uint32_t layer, uint32_t first, sp_error *error)
{
    const sp_fit *fit = job->room.fit;
    sp_unit unit;
    sp_head_figures *figures = job->room.figures + (size_t)layer * fit->n_heads + first;
    sp_status status =
        sp_unit_open(job->source->model->device->train, &job->sample, layer - job->sample.first_layer, first,
                     job->room.unit_heads, job->n_train, job->options && job->options->shared, job->gold_mass,
                     &unit, error);
    if (status != SP_OK) return status;
    sp_fit_layer *sets = &job->room.fit->layers[2 * (size_t)layer];
    if (job->options)
        status = sp_fit_unit(&unit, job->options, &job->halted, sets, figures, error);
    else
        status = sp_judge_head(&unit, 0, sets, 0, job->n_windows, JUDGE_ROWS, &figures->judgement, error);
    sp_unit_close(&unit);
    return status;
}

static void keep_unit(fit_job *job, uint32_t layer, uint32_t first, sp_status status, sp_error *error)
{
    pthread_mutex_lock(&job->lock);
    if (status == SP_OK && job->options)
        status = sp_fit_state_add(&job->state, &job->room, layer, first, error);
    if (status == SP_OK) {
        job->n_finished++;
        if (job->progress->trained)
            job->progress->trained(job->progress->context, layer, first, job->room.unit_heads,
                                   job->room.figures + (size_t)layer * job->room.fit->n_heads + first,
                                   (double)job->n_finished / (double)job->n_all);
    } else if (job->status == SP_OK) {
        job->status = status;
        job->error = *error;
        atomic_store(&job->halted, true);
    }
    pthread_mutex_unlock(&job->lock);
}

static void run_task(void *context, size_t task, size_t worker)
{
    fit_job *job = context;
    uint32_t unit = job->units[task], layer = unit / units_a_layer(job),
             first = unit % units_a_layer(job) * job->room.unit_heads;
    sp_error error = {0};
    (void)worker;
    sp_status status = is_stopped(job) ? SP_CANCELLED : run_unit(job, layer, first, &error);
    keep_unit(job, layer, first, status, &error);
}

/* --- groups of layers --- */

static bool show_sampling(void *context, double share)
{
    fit_job *job = context;
    if (job->progress->sampling) job->progress->sampling(job->progress->context, share);
    return !is_stopped(job);
}

/* Units of the layers that are not done yet. */
static void list_units(fit_job *job, uint32_t first, uint32_t n)
{
    uint32_t each = units_a_layer(job);
    job->n_units = 0;
    for (uint32_t unit = first * each; unit < (first + n) * each; unit++)
        if (!job->options || !job->state.done[unit]) job->units[job->n_units++] = unit;
}

static sp_status run_groups(fit_job *job, sp_sampler *sampler, size_t sample_bytes, sp_error *error)
{
    uint32_t n_layers = job->room.fit->n_layers;
    size_t at_once = sample_bytes / sp_sample_layer_bytes(job->source);
    if (at_once < 1) at_once = 1;
    sp_status status = SP_OK;
    for (uint32_t first = 0; status == SP_OK && first < n_layers;) {
        uint32_t n = n_layers - first < at_once ? n_layers - first : (uint32_t)at_once;
        list_units(job, first, n);
        if (job->n_units > 0)
            status = sp_sampler_read(sampler, first, n, show_sampling, job, &job->sample, error);
        if (job->n_units > 0 && status == SP_OK) {
            sp_threads_run(job->source->model->device->threads, job->n_units, run_task, job);
            sp_sample_fini(&job->sample);
            status = job->status;
            if (status != SP_OK && error) *error = job->error;
        }
        first += n;
    }
    return status;
}

static sp_status run_job(fit_job *job, size_t sample_bytes, sp_error *error)
{
    sp_sampler *sampler;
    job->n_all = (size_t)job->room.fit->n_layers * units_a_layer(job);
    job->n_finished = job->state.n_done;
    job->units = sp_alloc(job->n_all, sizeof *job->units);
    if (!job->units) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu units", job->n_all);
    sp_status status = sp_sampler_open(job->source, &sampler, error);
    if (status == SP_OK) {
        pthread_mutex_init(&job->lock, NULL);
        status = run_groups(job, sampler, sample_bytes, error);
        pthread_mutex_destroy(&job->lock);
        sp_sampler_close(sampler);
    }
    sp_free(job->units);
    return status;
}

/* --- fitting --- */

/* Everything that the numbers depend on. */
static uint64_t name_job(const fit_job *job, const char *fingerprint)
{
    const sp_sample_options *s = job->source;
    sp_fit_options options; /* padding must not count */
    memset(&options, 0, sizeof options);
    options.loss = job->options->loss;
    options.rank = job->options->rank;
    options.steps = job->options->steps;
    options.shared = job->options->shared;
    options.k_map_a_head = job->options->k_map_a_head;
    options.clusters = job->options->clusters;
    options.kmeans = job->options->kmeans;
    options.bins = job->options->bins;
    options.blocks = job->options->blocks;
    options.runs = job->options->runs;
    options.lambda = job->options->lambda;
    options.gold_mass = job->options->gold_mass;
    options.seed = job->options->seed;
    char text[512];
    int n = snprintf(text, sizeof text, "%s %s %zu %u %u %a %d %d %s", fingerprint, s->text->sha256,
                     s->text->n_windows, (unsigned)s->text->length, (unsigned)s->adapter,
                     (double)s->normalizer.alpha, (int)s->kv, s->rope_pre, s->model->device->level);
    return sp_hash_bytes(&options, sizeof options) ^ sp_hash_bytes(text, (size_t)n);
}

static void name_fit(const fit_job *job, const char *fingerprint)
{
    const sp_sample_options *s = job->source;
    sp_fit *fit = job->room.fit;
    memcpy(fit->model, fingerprint, strlen(fingerprint) + 1);
    memcpy(fit->corpus, s->text->sha256, sizeof fit->corpus);
    fit->length = s->text->length;
    fit->rope_pre = s->rope_pre;
    if (sp_is_softmax(s->normalizer))
        fit->gold_mass = job->gold_mass;
    else
        fit->alpha = (double)s->normalizer.alpha;
}

static sp_status open_state(fit_job *job, const char *path, const char *fingerprint, sp_error *error)
{
    size_t size = strlen(path) + sizeof ".state";
    char *name = sp_alloc(size, 1);
    if (!name) return sp_fail(error, SP_NO_MEMORY, "no memory for a path");
    snprintf(name, size, "%s.state", path);
    sp_status status = sp_fit_state_open(name, name_job(job, fingerprint), &job->room, &job->state, error);
    sp_free(name);
    return status;
}

sp_status sp_fit_run(const sp_sample_options *source, const sp_fit_options *options, const char *path,
                     const sp_fit_progress *progress, const atomic_bool *stop, sp_fit_result *out,
                     sp_error *error)
{
    const sp_hparams *h = &source->model->hparams;
    const char *fingerprint = source->adapter > 0 ? source->model->adapters[source->adapter - 1]->fingerprint
                                                  : source->model->fingerprint;
    fit_job job = {.source = source,
                   .options = options,
                   .gold_mass = options->gold_mass,
                   .progress = progress,
                   .stop = stop,
                   .n_windows = source->text->n_windows};
    size_t held_out = job.n_windows / HELD_OUT_SHARE > 0 ? job.n_windows / HELD_OUT_SHARE : 1;
    job.n_train = job.n_windows - held_out;
    sp_status status = sp_fit_sets_new(h, options, &job.room.fit, error);
    if (status != SP_OK) return status;
    job.room.unit_heads = sp_fit_unit_heads(h, options);
    job.room.figures = sp_alloc_zero((size_t)h->n_layers * h->n_heads, sizeof *job.room.figures);
    name_fit(&job, fingerprint);
    status = job.room.figures ? open_state(&job, path, fingerprint, error)
                              : sp_fail(error, SP_NO_MEMORY, "no memory for the figures of a fit");
    size_t resumed = job.state.n_done;
    if (status == SP_OK && resumed > 0 && progress->resumed)
        progress->resumed(progress->context, (uint32_t)resumed,
                          h->n_layers * h->n_heads / job.room.unit_heads);
    if (status == SP_OK) status = run_job(&job, options->sample_bytes, error);
    if (status == SP_OK) status = sp_fit_write(job.room.fit, path, error);
    sp_fit_state_close(&job.state, status == SP_OK);
    if (status == SP_OK) {
        *out = (sp_fit_result){job.room.fit, job.room.figures, job.n_train, held_out, resumed};
        return SP_OK;
    }
    sp_fit_close(job.room.fit);
    sp_free(job.room.figures);
    return status;
}

/* --- judging --- */

sp_status sp_fit_judge(const sp_sample_options *source, const sp_fit *fit, double gold_mass,
                       size_t sample_bytes, const sp_fit_progress *progress, const atomic_bool *stop,
                       sp_head_figures **figures, sp_error *error)
{
    sp_fit_room room = {.fit = (sp_fit *)(uintptr_t)fit, .unit_heads = 1}; /* read only: no options */
    fit_job job = {.source = source,
                   .gold_mass = gold_mass,
                   .progress = progress,
                   .stop = stop,
                   .n_windows = source->text->n_windows,
                   .n_train = source->text->n_windows};
    room.figures = sp_alloc_zero((size_t)fit->n_layers * fit->n_heads, sizeof *room.figures);
    if (!room.figures) return sp_fail(error, SP_NO_MEMORY, "no memory for the figures of a fit");
    job.room = room;
    sp_status status = run_job(&job, sample_bytes, error);
    if (status == SP_OK)
        *figures = room.figures;
    else
        sp_free(room.figures);
    return status;
}
