/* See sweep_run.h. */
#include "engine/evaluate/sweep_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/evaluate/score.h"

#define MAX_ROUNDS 8 /* as many as fit in the seconds, two at least */
#define ROUND_SECONDS 1.0
#define DECODE_TOKENS 17 /* the first one comes with the prompt: 16 steps are timed */
#define SCORE_SHARE 0.8  /* of a point's time, for the progress */

static const char dense[] = "{\"backend\":\"dense\"}";

/* --- scores --- */

static sp_status wait_for_scores(sp_sweep_job *job, sp_scorer *scorer, sp_error *error)
{
    sp_status status = SP_OK;
    for (bool done = false; !done && status == SP_OK;) {
        status = sp_scorer_wait(scorer, 0.1, &done, error);
        if (status == SP_OK && !job->watch(job->context, SCORE_SHARE * sp_scorer_fraction(scorer)))
            status = sp_fail(error, SP_CANCELLED, "stopped");
    }
    return status;
}

/* Means over heads of what each head measured, as the paper's figures are. */
static void take_measures(const sp_attention_report *report, sp_sweep_point *out)
{
    size_t n = (size_t)report->n_layers * report->n_heads;
    out->density = (double)report->prefill.edges / (double)report->prefill.pairs;
    out->recall = out->mass = 0;
    for (size_t i = 0; i < n; i++) {
        const sp_head_measure *m = &report->measures[i];
        out->recall += m->edges_gold > 0 ? (double)m->edges_both / (double)m->edges_gold : 1;
        out->mass += m->rows > 0 ? m->mass / m->rows : 1;
    }
    out->recall /= (double)n;
    out->mass /= (double)n;
}

static sp_status score(sp_sweep_job *job, const char *attention, sp_sweep_point *out, sp_error *error)
{
    char measured[SP_GRID_ATTENTION_BYTES + 32];
    sp_scorer *scorer = NULL;
    const sp_score_input input = {.ids = job->ids, .n_ids = (size_t)job->windows * job->length + 1};
    int size = snprintf(measured, sizeof measured, "{\"measure\":true,%s", attention + 1);
    const sp_score_options options = {.window = job->length,
                                      .adapter = job->adapter,
                                      .attention = measured,
                                      .attention_size = (size_t)size};
    sp_status status = sp_scorer_open(job->engine, &input, 1, &options, NULL, &scorer, error);
    if (status) return status;
    status = wait_for_scores(job, scorer, error);
    if (!status) {
        sp_score_sum sum = sp_scorer_sum(scorer);
        out->perplexity = sp_score_perplexity(&sum);
        take_measures(sp_scorer_report(scorer), out);
    }
    sp_scorer_close(scorer);
    return status;
}

/* --- seconds --- */

typedef struct timing {
    double prefill, decode; /* seconds: of the prompt, of one token; decode NaN where it does not generate */
} timing;

static sp_status read_stream(sp_sweep_job *job, sp_stream *stream, sp_event *event, sp_error *error)
{
    do {
        sp_stream_wait(stream, 0.1, event);
        if (!job->watch(job->context, SCORE_SHARE)) return sp_fail(error, SP_CANCELLED, "stopped");
    } while (event->type != SP_EVENT_DONE && event->type != SP_EVENT_ERROR);
    if (event->type == SP_EVENT_DONE) return SP_OK;
    if (error) *error = event->error;
    return event->error.status;
}

static sp_status time_once(sp_sweep_job *job, const char *attention, size_t begin, uint32_t n_new,
                           timing *best, sp_error *error)
{
    uint32_t context = sp_engine_get_info(job->engine)->context;
    sp_stream *stream = NULL;
    sp_event event;
    sp_request request;
    sp_request_init(&request);
    request.ids = job->ids + begin;
    request.n_ids = job->length + n_new <= context ? job->length : context - n_new;
    request.max_tokens = n_new;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.adapter = job->adapter;
    request.attention = attention;
    request.attention_size = strlen(attention);
    sp_status status = sp_engine_submit(job->engine, &request, NULL, NULL, &stream, error);
    if (status) return status;
    status = read_stream(job, stream, &event, error);
    if (!status) {
        best->prefill = fmin(best->prefill, event.usage.prefill_seconds);
        if (n_new > 0) best->decode = fmin(best->decode, event.usage.decode_seconds / (n_new - 1));
    }
    sp_stream_free(stream);
    return status;
}

static size_t next_prompt(sp_sweep_job *job)
{
    return job->n_prompts++ % (job->n_ids - job->length + 1);
}

static sp_status take_times(sp_sweep_job *job, const char *attention, sp_sweep_point *out, sp_error *error)
{
    timing own = {INFINITY, INFINITY}, reference = own;
    uint32_t n_new = DECODE_TOKENS;
    double start = sp_now();
    for (int round = 0; round < MAX_ROUNDS && (round < 2 || sp_now() - start < ROUND_SECONDS); round++) {
        size_t begin = next_prompt(job);
        sp_status status = time_once(job, attention, begin, n_new, &own, error);
        if (status == SP_INVALID && n_new > 0) { /* scores a whole text, but can't go on from one */
            out->sees_later = true;
            n_new = 0;
            own.decode = (double)NAN;
            status = time_once(job, attention, begin, n_new, &own, error);
        }
        if (!status) status = time_once(job, dense, begin, DECODE_TOKENS, &reference, error);
        if (status) return status;
    }
    out->prefill_seconds = own.prefill;
    out->decode_seconds = own.decode;
    out->prefill_seconds_dense = reference.prefill;
    out->decode_seconds_dense = reference.decode;
    return SP_OK;
}

sp_status sp_sweep_measure(sp_sweep_job *job, const sp_grid_item *item, sp_sweep_point *out, sp_error *error)
{
    *out = (sp_sweep_point){.attention = item->attention,
                            .grid = item->grid->name,
                            .value = item->value,
                            .device = sp_engine_get_info(job->engine)->device,
                            .length = job->length,
                            .windows = job->windows};
    sp_status status = score(job, item->attention, out, error);
    if (!status) status = take_times(job, item->attention, out, error);
    out->perplexity_dense = job->perplexity_dense > 0 ? job->perplexity_dense : out->perplexity;
    return status;
}

sp_status sp_sweep_time(sp_sweep_job *job, sp_sweep_point *point, sp_error *error)
{
    return take_times(job, point->attention, point, error);
}
