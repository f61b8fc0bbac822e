/* See attend.h. */
#include "engine/attention/attend.h"
#include "engine/attention/measure.h"
#include "engine/attention/scratch.h"
#include "engine/graph/capture.h"

#include <assert.h>

#define TOGETHER 16      /* most jobs whose kernels run together */
#define PAGES_TOGETHER 4 /* and of how many whole contexts they may have pages */
#define PLANS_A_JOB 2    /* layers of one sequence use at most two parts (interleaved heads) */

typedef struct sp_cached_plan {
    sp_plan plan;
    sp_plan_counts counts;
    bool valid; /* made in this step */
    uint32_t layer;
} sp_cached_plan;

/* Rows of a job: all of them, or as many as the plans of a step have room for. */
typedef struct job_part {
    uint32_t first, rows;
} job_part;

/* A part of a job on its way through one layer. */
typedef struct prepared {
    size_t job;
    job_part part;
    const sp_cached_plan *cached;
    const float *q, *k; /* its queries and keys, as the maps of its fit take them */
} prepared;

struct sp_attender {
    sp_attender_options options;
    sp_attend_job *jobs;
    size_t n_jobs;
    sp_cached_plan *plans;      /* (max_jobs, PLANS_A_JOB) */
    const uint8_t **pointers;   /* (n_pointers) pages of one layer, job after job */
    size_t n_pointers, n_pages; /* room, and pages of the jobs prepared */
    prepared prepared[TOGETHER];
    sp_attend_args args[TOGETHER];
    sp_attend_stats stats[TOGETHER];
    size_t n_prepared;
    sp_measurer *measurer; /* made when first asked for */
    sp_codes *codes;       /* NULL without a fit */
    sp_scratch scratch;    /* of predictions */
};

size_t sp_attender_plan_bytes(uint32_t context, uint32_t n_heads)
{
    return ((size_t)32 << 20) + (size_t)256 * context * n_heads;
}

static sp_codes_options code_options(const sp_attender_options *options)
{
    return (sp_codes_options){.device = options->device,
                              .n_heads = options->n_heads,
                              .n_kv_heads = options->n_kv_heads,
                              .head_dim = options->head_dim,
                              .dtype = options->kv->options.dtype,
                              .max_keys = options->context,
                              .fits = options->fits,
                              .n_fits = options->n_fits};
}

size_t sp_attender_code_bytes(const sp_attender_options *options)
{
    const sp_codes_options codes = code_options(options);
    if (!options->kv->options.side_bytes) return 0;
    return sp_codes_scratch_bytes(&codes) + options->plan_bytes; /* as much again to predict in */
}

sp_status sp_attender_open(const sp_attender_options *options, sp_attender **out, sp_error *error)
{
    sp_attender *attender = sp_alloc_zero(1, sizeof *attender);
    if (!attender) return sp_fail(error, SP_NO_MEMORY, "no memory for attention");
    attender->options = *options;
    sp_scratch_init(&attender->scratch, options->plan_bytes);
    size_t n_plans = (size_t)options->max_jobs * PLANS_A_JOB;
    attender->plans = sp_alloc_zero(n_plans, sizeof *attender->plans);
    attender->n_pointers = ((size_t)options->context + SP_TILE - 1) / SP_TILE * PAGES_TOGETHER;
    attender->pointers = sp_alloc(attender->n_pointers, sizeof *attender->pointers);
    if (!attender->plans || !attender->pointers) {
        sp_attender_close(attender);
        return sp_fail(error, SP_NO_MEMORY, "no memory for the plans of %u sequences", options->max_jobs);
    }
    for (size_t i = 0; i < n_plans; i++) sp_plan_init(&attender->plans[i].plan, options->plan_bytes);
    const sp_codes_options codes = code_options(options);
    sp_status status =
        options->kv->options.side_bytes ? sp_codes_open(&codes, &attender->codes, error) : SP_OK;
    if (status != SP_OK) {
        sp_attender_close(attender);
        return status;
    }
    *out = attender;
    return SP_OK;
}

void sp_attender_close(sp_attender *attender)
{
    if (!attender) return;
    for (size_t i = 0; attender->plans && i < (size_t)attender->options.max_jobs * PLANS_A_JOB; i++)
        sp_plan_fini(&attender->plans[i].plan);
    sp_measurer_close(attender->measurer);
    sp_codes_close(attender->codes);
    sp_scratch_fini(&attender->scratch);
    sp_free(attender->plans);
    sp_free((void *)attender->pointers);
    sp_free(attender);
}

/* No plan holds any more; their room is kept until somebody needs it. */
static void drop_plans(sp_attender *attender)
{
    for (size_t i = 0; i < (size_t)attender->options.max_jobs * PLANS_A_JOB; i++)
        attender->plans[i].valid = false;
}

void sp_attender_begin(sp_attender *attender, sp_attend_job *jobs, size_t n_jobs)
{
    assert(n_jobs <= attender->options.max_jobs);
    attender->jobs = jobs;
    attender->n_jobs = n_jobs;
    drop_plans(attender);
}

/* Bytes that the other plans hold; with drop, plans of earlier steps are freed first. */
static size_t held_bytes(sp_attender *attender, const sp_cached_plan *except, bool drop)
{
    size_t held = 0;
    for (size_t i = 0; i < (size_t)attender->options.max_jobs * PLANS_A_JOB; i++) {
        sp_cached_plan *cached = &attender->plans[i];
        if (cached == except) continue;
        if (drop && !cached->valid) {
            sp_plan_fini(&cached->plan);
            sp_plan_init(&cached->plan, attender->options.plan_bytes);
        }
        held += cached->plan.bytes;
    }
    return held;
}

static sp_status make_plan(sp_attender *attender, sp_cached_plan *cached, const sp_plan_request *request,
                           sp_error *error)
{
    sp_status status = SP_TOO_LARGE;
    for (int attempt = 0; attempt < 2 && status == SP_TOO_LARGE; attempt++) {
        size_t held = held_bytes(attender, cached, attempt > 0);
        size_t limit = attender->options.plan_bytes;
        cached->plan.max_bytes = held < limit ? limit - held : 1; /* 0 would be no limit */
        status = sp_attention_plan(request, &cached->plan, error);
    }
    if (status != SP_OK) return status;
    sp_plan_count(&cached->plan, &cached->counts);
    cached->valid = true;
    cached->layer = request->layer;
    return SP_OK;
}

static bool is_of(const sp_plan *plan, const sp_attend_job *job, job_part part)
{
    return plan->shape.position == job->position + part.first && plan->shape.rows == part.rows;
}

/* The plan of a part of one job in one layer: one made earlier in this step where layers share, else a new
 * one. q: the part's, as its attention takes them. */
static sp_status find_plan(sp_attender *attender, size_t index, job_part part, const sp_attend_call *call,
                           const float *q, const sp_kv_view *kv, sp_cached_plan **out, sp_error *error)
{
    const sp_attender_options *options = &attender->options;
    sp_attend_job *job = &attender->jobs[index];
    const sp_attention *attention = job->attention;
    sp_cached_plan *plans = &attender->plans[index * PLANS_A_JOB],
                   *free_plan = &plans[call->layer % PLANS_A_JOB];
    for (size_t i = 0; i < PLANS_A_JOB; i++) {
        bool shared = plans[i].valid && (attention->backend->caps & SP_CAP_STATIC) != 0 &&
                      is_of(&plans[i].plan, job, part);
        if (shared && sp_attention_same_plan(attention, call->layer, plans[i].layer)) {
            *out = &plans[i];
            return SP_OK;
        }
        if (!plans[i].valid) free_plan = &plans[i];
    }
    sp_plan_request request = {.attention = attention,
                               .layer = call->layer,
                               .kind = call->kind,
                               .causal = true,
                               .position = job->position + part.first,
                               .rows = part.rows,
                               .n_keys = job->position + part.first + part.rows,
                               .n_heads = options->n_heads,
                               .n_kv_heads = options->n_kv_heads,
                               .device = options->device,
                               .q = q,
                               .kv = kv,
                               .fit = job->fit,
                               .scratch = &attender->scratch};
    if (job->whole) {
        request.n_keys = request.whole_rows = job->whole->rows;
        request.whole_q = job->whole->q;
        if (job->whole->codes) sp_codes_attach(job->whole->codes, request.n_keys, &request);
    } else if (attender->codes)
        sp_codes_attach(attender->codes, request.n_keys, &request);
    free_plan->valid = false;
    double start = sp_now();
    sp_status status = make_plan(attender, free_plan, &request, error);
    job->phase->predict_seconds += sp_now() - start;
    *out = free_plan;
    return status;
}

static sp_status measure(sp_attender *attender, const sp_attend_job *job, const prepared *done,
                         const sp_attend_args *args, uint32_t layer, sp_error *error)
{
    const sp_attender_options *options = &attender->options;
    if (!attender->measurer) {
        sp_status status = sp_measurer_open(options->device, options->context, &attender->measurer, error);
        if (status != SP_OK) return status;
    }
    sp_measure_rows(attender->measurer, &done->cached->plan, args,
                    job->measures + (size_t)layer * options->n_heads);
    return sp_clusters_count(job->clusters, options->device, job->attention, job->fit, layer, done->part.rows,
                             options->n_kv_heads, done->q, done->k, error);
}

/* Writes what the job's attention keeps of its new keys. */
static void keep_codes(sp_attender *attender, const sp_attend_job *job, const sp_attend_call *call,
                       const float *k)
{
    sp_codes *codes = attender->codes;
    const sp_attention *keeps = job->keeps ? job->keeps : job->attention;
    double start = sp_now();
    if (!codes || !sp_codes_select(codes, keeps, job->fit, call->layer, call->kind)) return;
    for (uint32_t t = 0; t * SP_TILE < job->position + job->rows; t++)
        sp_codes_place(codes, t, sp_kv_side(attender->options.kv, job->pages[t], call->layer));
    sp_codes_append(codes, job->position, job->rows, k);
    job->phase->predict_seconds += sp_now() - start;
}

/* The first pass over a chunk of a whole prompt: what its rows will be chosen by. */
static void collect(sp_attender *attender, const sp_attend_job *job, const sp_attend_call *call,
                    const float *q, const float *k)
{
    const sp_attender_options *options = &attender->options;
    size_t q_row = (size_t)options->n_heads * options->head_dim;
    sp_whole *whole = job->whole;
    double start = sp_now();
    memcpy(whole->q + job->position * q_row, q, job->rows * q_row * sizeof *q);
    if (whole->codes && sp_codes_select(whole->codes, job->attention, job->fit, call->layer, call->kind)) {
        sp_codes_append(whole->codes, job->position, job->rows, k);
        uint32_t end = job->position + job->rows;
        for (uint32_t t = job->position / SP_TILE; job->capture && t * SP_TILE < end; t++)
            sp_capture_side(job->capture, call->layer, t, sp_codes_page(whole->codes, t));
    }
    job->phase->predict_seconds += sp_now() - start;
}

/* Keys that some of the job's rows may attend to. */
static uint32_t count_keys(const sp_attend_job *job, job_part part)
{
    return job->whole && !job->whole->collects ? job->whole->rows : job->position + part.first + part.rows;
}

/* The job's queries and keys as the maps of its fit take them. */
static void fit_rows(const sp_attender *attender, const sp_attend_job *job, const sp_attend_call *call,
                     const float **q, const float **k)
{
    const sp_attender_options *options = &attender->options;
    bool plain = job->fit && job->fit->rope_pre && call->batch->plain_q;
    *q = (plain ? call->batch->plain_q : call->q) +
         (size_t)job->first_row * options->n_heads * options->head_dim;
    *k = (plain ? call->batch->plain_k : call->k) +
         (size_t)job->first_row * options->n_kv_heads * options->head_dim;
}

/* Makes the plan of a part and puts it on the list. */
static sp_status prepare_part(sp_attender *attender, size_t index, job_part part, const sp_attend_call *call,
                              sp_error *error)
{
    const sp_attender_options *options = &attender->options;
    const sp_attend_job *job = &attender->jobs[index];
    size_t q_row = (size_t)options->n_heads * options->head_dim;
    size_t k_row = (size_t)options->n_kv_heads * options->head_dim, row = (size_t)job->first_row + part.first;
    bool fitted = job->attention->backend->caps & SP_CAP_NEEDS_FIT;
    const float *fit_q, *fit_k, *q = call->q + row * q_row;
    fit_rows(attender, job, call, &fit_q, &fit_k);
    fit_q += part.first * q_row;
    fit_k += part.first * k_row;
    prepared *next = &attender->prepared[attender->n_prepared];
    sp_attend_args *args = &attender->args[attender->n_prepared];
    uint32_t n_keys = count_keys(job, part);
    sp_cached_plan *cached;
    *args = (sp_attend_args){.normalizer = job->attention->normalizer,
                             .scale = call->scale,
                             .n_kv_heads = options->n_kv_heads,
                             .q = q,
                             .out = call->out + row * q_row};
    args->kv =
        sp_kv_layer(options->kv, job->pages, call->layer, n_keys, attender->pointers + attender->n_pages);
    sp_status status = find_plan(attender, index, part, call, fitted ? fit_q : q, &args->kv, &cached, error);
    if (status != SP_OK) return status;
    *next = (prepared){.job = index, .part = part, .cached = cached, .q = fit_q, .k = fit_k};
    args->plan = &cached->plan;
    attender->stats[attender->n_prepared++] = (sp_attend_stats){0};
    attender->n_pages += ((size_t)n_keys + SP_TILE - 1) / SP_TILE;
    return SP_OK;
}

static sp_status finish(sp_attender *attender, size_t index, uint32_t layer, sp_error *error)
{
    const prepared *done = &attender->prepared[index];
    const sp_plan_counts *counts = &done->cached->counts;
    sp_attend_job *job = &attender->jobs[done->job];
    job->phase->attend_seconds += attender->stats[index].seconds;
    job->phase->edges += counts->edges;
    job->phase->pairs += counts->pairs;
    job->phase->tiles += counts->tiles;
    job->phase->groups += counts->groups;
    *job->rows_empty += counts->rows_empty;
    if (!job->measures) return SP_OK;
    return measure(attender, job, done, &attender->args[index], layer, error);
}

/* out: of the job's first row. */
static void fail(sp_attend_job *job, size_t row, float *out)
{
    job->failed = true;
    memset(out, 0, job->rows * row * sizeof *out);
}

/* Runs the kernels of all that is prepared. */
static void run_prepared(sp_attender *attender, uint32_t layer)
{
    const sp_device *device = attender->options.device;
    size_t out_row = (size_t)attender->options.n_heads * attender->options.head_dim;
    sp_error error = {0};
    sp_status status = device->ops->attend_many(attender->options.device, attender->n_prepared,
                                                attender->args, attender->stats, &error);
    for (size_t i = 0; i < attender->n_prepared; i++) {
        sp_attend_job *job = &attender->jobs[attender->prepared[i].job];
        if (status != SP_OK) job->error = error;
        if (status != SP_OK || finish(attender, i, layer, &job->error) != SP_OK)
            fail(job, out_row, attender->args[i].out - attender->prepared[i].part.first * out_row);
    }
    attender->n_prepared = attender->n_pages = 0;
}

/* prepare_part where the plan finds no room: what is on the list goes first and its plans are dropped, then
 * rows go in halves. What a row gets does not depend on the rows beside it, so neither on where they are cut.
 */
static sp_status prepare_rows(sp_attender *attender, size_t index, job_part all, const sp_attend_call *call,
                              sp_error *error)
{
    const sp_attend_job *job = &attender->jobs[index];
    sp_status status = prepare_part(attender, index, all, call, error);
    if (status != SP_TOO_LARGE) return status;
    run_prepared(attender, call->layer);
    drop_plans(attender);
    status = prepare_part(attender, index, all, call, error);
    uint32_t half = all.rows / 2;
    if (half > SP_TILE) half = half / SP_TILE * SP_TILE;
    if (status != SP_TOO_LARGE || half == 0) return status;
    status = prepare_rows(attender, index, (job_part){all.first, half}, call, error);
    if (status != SP_OK) return status;
    run_prepared(attender, call->layer);
    if (job->failed) return job->error.status;
    return prepare_rows(attender, index, (job_part){all.first + half, all.rows - half}, call, error);
}

/* Writes keys and values, makes the plan, and puts the job on the list. */
static sp_status prepare(sp_attender *attender, size_t index, const sp_attend_call *call, sp_error *error)
{
    const sp_attender_options *options = &attender->options;
    sp_attend_job *job = &attender->jobs[index];
    size_t q_row = (size_t)options->n_heads * options->head_dim;
    size_t k_row = (size_t)options->n_kv_heads * options->head_dim;
    const float *fit_q, *fit_k;
    bool attends_whole = job->whole && !job->whole->collects;
    fit_rows(attender, job, call, &fit_q, &fit_k);
    if (!attends_whole) {
        sp_kv_write(options->kv, options->device, job->pages, call->layer, job->position, job->rows,
                    call->k + job->first_row * k_row, call->v + job->first_row * k_row);
        keep_codes(attender, job, call, fit_k);
    }
    if (job->whole && job->whole->collects) {
        collect(attender, job, call, fit_q, fit_k);
        return SP_OK;
    }
    if (job->capture)
        sp_capture_rows(job->capture, call->layer, job->position, job->rows, call->q + job->first_row * q_row,
                        fit_q, fit_k, call->scale);
    return prepare_rows(attender, index, (job_part){0, job->rows}, call, error);
}

sp_status sp_attender_attend(void *context, const sp_attend_call *call, sp_error *error)
{
    sp_attender *attender = context;
    size_t out_row = (size_t)attender->options.n_heads * attender->options.head_dim;
    if (call->kind != SP_ATTEND_SELF || !call->k || !call->v)
        return sp_fail(error, SP_INTERNAL, "layer %u asks for an attention that is not served", call->layer);
    for (size_t i = 0; i < attender->n_jobs; i++) {
        sp_attend_job *job = &attender->jobs[i];
        assert(call->batch->slots[job->first_row] == i &&
               call->batch->positions[job->first_row] == job->position);
        size_t pages = ((size_t)count_keys(job, (job_part){0, job->rows}) + SP_TILE - 1) / SP_TILE;
        if (attender->n_prepared == TOGETHER || attender->n_pages + pages > attender->n_pointers)
            run_prepared(attender, call->layer);
        if (job->failed || prepare(attender, i, call, &job->error) != SP_OK)
            fail(job, out_row, call->out + job->first_row * out_row);
    }
    run_prepared(attender, call->layer);
    bool collected = attender->n_jobs == 1 && attender->jobs[0].whole && attender->jobs[0].whole->collects;
    return collected ? SP_CANCELLED : SP_OK;
}
