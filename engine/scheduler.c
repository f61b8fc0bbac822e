/* See scheduler.h. */
#include "engine/scheduler.h"

#include "engine/attention/codes.h"

#include <pthread.h>
#include <string.h>

#include "engine/deadline.h"
#include "engine/drain.h"
#include "engine/graph/capture.h"
#include "engine/pages.h"
#include "engine/rows.h"
#include "engine/stats.h"

#define DEFAULT_CHUNK 512u

typedef struct sp_call {
    struct sp_call *next;
    void (*call)(void *context);
    void *context;
    bool done, ran;
} sp_call;

struct sp_scheduler {
    sp_scheduler_options options;
    pthread_mutex_t lock;
    pthread_cond_t woken, called;
    /* under the lock */
    sp_sequence *queue; /* oldest first */
    uint32_t n_waiting, n_active;
    bool short_of_pages, stopping, signalled;
    sp_call *calls;
    uint32_t n_callers; /* threads inside sp_scheduler_call */
    sp_stats stats;
    uint32_t n_left; /* the queue since the last step */
    sp_drain drain;
    /* the engine thread's */
    sp_kv kv;
    sp_prefix *prefix;
    sp_step step;
    sp_sequence **running; /* (max_admitted) in order of admission */
    uint32_t n_running, max_admitted;
    sp_pace pace;
    bool part_first; /* of what runs between steps: whose turn it is */
};

/* --- opening --- */

static sp_status open_parts(sp_scheduler *s, sp_error *error)
{
    const sp_scheduler_options *o = &s->options;
    const sp_hparams *hparams = &o->model->hparams;
    s->max_admitted = SP_ADMITTED_A_PLACE * o->max_sequences;
    s->running = sp_alloc(s->max_admitted, sizeof *s->running);
    if (!s->running) return sp_fail(error, SP_NO_MEMORY, "no memory for %u sequences", s->max_admitted);
    sp_kv_options kv = {.n_layers = hparams->n_layers,
                        .n_kv_heads = hparams->n_kv_heads,
                        .head_dim = hparams->head_dim,
                        .dtype = o->kv_type,
                        .side_bytes = sp_codes_page_bytes(o->fits, o->n_fits, hparams->n_heads, o->kv_type),
                        .n_pages = o->n_pages,
                        .poison = o->poison,
                        .threads = o->model->device->threads};
    sp_status status = sp_kv_open(&kv, &s->kv, error);
    if (status == SP_OK) status = sp_prefix_open(&s->kv, UINT64_MAX, &s->prefix, error);
    if (status != SP_OK) return status;
    uint32_t whole = (o->context + SP_TILE - 1) / SP_TILE * SP_TILE;
    uint32_t chunk = o->max_chunk > 0 ? o->max_chunk : DEFAULT_CHUNK;
    sp_step_options step = {.model = o->model,
                            .kv = &s->kv,
                            .context = o->context,
                            .max_sequences = o->max_sequences,
                            .max_chunk = chunk < whole ? chunk : whole,
                            .max_whole = o->max_whole,
                            .fits = o->fits,
                            .n_fits = o->n_fits};
    return sp_step_open(&step, &s->step, error);
}

sp_status sp_scheduler_open(const sp_scheduler_options *options, sp_scheduler **out, sp_error *error)
{
    sp_scheduler *s = sp_alloc_zero(1, sizeof *s);
    if (!s) return sp_fail(error, SP_NO_MEMORY, "no memory for the scheduler");
    s->options = *options;
    if (!s->options.clock) s->options.clock = sp_now;
    s->pace.step_seconds = s->options.step_seconds;
    sp_drain_init(&s->drain);
    sp_stats_init(&s->stats);
    pthread_mutex_init(&s->lock, NULL);
    sp_deadline_condition(&s->woken);
    sp_deadline_condition(&s->called);
    sp_status status = open_parts(s, error);
    if (status == SP_OK)
        *out = s;
    else
        sp_scheduler_close(s);
    return status;
}

size_t sp_scheduler_scratch_bytes(const sp_scheduler *s)
{
    return s->step.scratch_bytes + sp_prefix_bytes(s->options.n_pages);
}

const sp_kv *sp_scheduler_kv(const sp_scheduler *s)
{
    return &s->kv;
}

/* Under the lock: pages of running requests, and those kept for later ones. */
static void note_pages(sp_scheduler *s)
{
    s->stats.kv_pages_used = sp_kv_used(&s->kv);
    s->stats.kv_pages_cached = s->kv.n_cached;
}

/* --- ends --- */

/* Books the end of a sequence and frees its pages; its stream is told afterwards, so that who sees the end
 * sees the gauges without it. */
static void book_end(sp_scheduler *s, sp_sequence *sequence, sp_status status, sp_finish finish)
{
    double now = s->options.clock();
    uint32_t at = 0;
    while (at < s->n_running && s->running[at] != sequence) at++;
    bool ran = at < s->n_running;
    if (ran) {
        memmove(s->running + at, s->running + at + 1, (s->n_running - at - 1) * sizeof *s->running);
        s->n_running--;
        sp_pages_release(&s->kv, sequence, status == SP_OK && sequence->capture);
    }
    sp_usage *usage = &sequence->usage;
    usage->prompt_tokens = sequence->n_prompt;
    usage->completion_tokens = sequence->n_tokens - sequence->n_prompt;
    if (sequence->first_token > 0) usage->decode_seconds = now - sequence->first_token;

    pthread_mutex_lock(&s->lock);
    if (ran) {
        s->stats.running = s->n_running;
        note_pages(s);
        if (s->n_active > 0) s->n_active--;
    }
    sp_stats_finish(&s->stats, &(sp_stats_end){.usage = usage,
                                               .status = status,
                                               .finish = finish,
                                               .e2e = now - sequence->submitted,
                                               .inference = ran ? now - sequence->admitted : 0,
                                               .max_tokens = sequence->max_tokens,
                                               .looked_up = sequence->takes,
                                               .backend = sequence->attention.backend,
                                               .prefill = &sequence->prefill,
                                               .decode = &sequence->decode});
    pthread_mutex_unlock(&s->lock);
}

static void end_badly(sp_scheduler *s, sp_sequence *sequence, const sp_error *error)
{
    book_end(s, sequence, error->status, SP_FINISH_STOP);
    sp_sequence_fail(sequence, error);
    sp_sequence_close(sequence);
}

static void end_well(sp_scheduler *s, sp_sequence *sequence, sp_finish finish)
{
    sp_error error;
    if (sp_sequence_report(sequence, &error) != SP_OK) {
        end_badly(s, sequence, &error);
        return;
    }
    book_end(s, sequence, SP_OK, finish);
    sp_sequence_leave_capture(sequence);
    sp_sequence_finish(sequence, finish);
    sp_sequence_close(sequence);
}

/* Why a sequence must end now, if it must: SP_OK, SP_CANCELLED or SP_UNAVAILABLE. */
static sp_status check_time(const sp_scheduler *s, const sp_sequence *sequence, double now, bool waiting,
                            sp_error *error)
{
    const sp_scheduler_options *o = &s->options;
    double age = now - sequence->submitted;
    if (sp_stream_is_cancelled(sequence->stream))
        return sp_fail(error, SP_CANCELLED, "the request was cancelled");
    if (age + sequence->spent > o->request_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "request_timeout",
                             "the request took longer than %g seconds", o->request_timeout);
    if (waiting && age > o->queue_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "queue_timeout",
                             "the request waited longer than %g seconds", o->queue_timeout);
    return SP_OK;
}

/* --- any thread --- */

sp_status sp_scheduler_submit(sp_scheduler *s, sp_sequence *sequence, sp_error *error)
{
    sp_status status = SP_OK;
    sequence->submitted = s->options.clock();
    pthread_mutex_lock(&s->lock);
    uint32_t free_places = s->short_of_pages || s->n_active > s->options.max_sequences
                               ? 0
                               : s->options.max_sequences - s->n_active;
    if (s->stopping) {
        status = sp_fail(error, SP_UNAVAILABLE, "the server is stopping");
    } else if (!sequence->follows && s->n_waiting >= s->options.max_queue + free_places) {
        status = sp_fail(error, SP_BUSY, "the queue is full (%u requests)", s->options.max_queue);
    } else {
        sp_sequence **end = &s->queue;
        while (*end) end = &(*end)->next;
        *end = sequence;
        s->stats.waiting = ++s->n_waiting;
        s->signalled = true;
        pthread_cond_signal(&s->woken);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

void sp_scheduler_wake(void *context)
{
    sp_scheduler *s = context;
    pthread_mutex_lock(&s->lock);
    s->signalled = true;
    pthread_cond_signal(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

sp_status sp_scheduler_call(sp_scheduler *s, void (*call)(void *context), void *context, sp_error *error)
{
    sp_call entry = {.call = call, .context = context};
    pthread_mutex_lock(&s->lock);
    s->n_callers++;
    if (!s->stopping) {
        sp_call **end = &s->calls;
        while (*end) end = &(*end)->next;
        *end = &entry;
        s->signalled = true;
        pthread_cond_signal(&s->woken);
        while (!entry.done) pthread_cond_wait(&s->called, &s->lock);
    }
    s->n_callers--;
    pthread_cond_broadcast(&s->called);
    pthread_mutex_unlock(&s->lock);
    return entry.ran ? SP_OK : sp_fail(error, SP_UNAVAILABLE, "the server is stopping");
}

void sp_scheduler_stats(sp_scheduler *s, sp_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->drain_seconds = sp_drain_seconds(&s->drain, s->options.clock());
    pthread_mutex_unlock(&s->lock);
}

void sp_scheduler_stop(sp_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    s->signalled = true;
    pthread_cond_signal(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

/* --- admission --- */

/* Takes from the queue what must end; the list is linked by next. */
static sp_sequence *take_expired(sp_scheduler *s, double now)
{
    sp_sequence *expired = NULL;
    pthread_mutex_lock(&s->lock);
    for (sp_sequence **at = &s->queue; *at;) {
        sp_sequence *sequence = *at;
        if (check_time(s, sequence, now, true, NULL) == SP_OK) {
            at = &sequence->next;
            continue;
        }
        *at = sequence->next;
        sequence->next = expired;
        expired = sequence;
        s->stats.waiting = --s->n_waiting;
        s->n_left++;
    }
    pthread_mutex_unlock(&s->lock);
    return expired;
}

static void admit(sp_scheduler *s, double now)
{
    pthread_mutex_lock(&s->lock);
    s->short_of_pages = false;
    while (s->queue && s->n_active < s->options.max_sequences && s->n_running < s->max_admitted) {
        sp_sequence *sequence = s->queue;
        s->short_of_pages = !sp_pages_admit(&s->kv, s->prefix, s->options.captures, sequence);
        if (s->short_of_pages) break;
        s->queue = sequence->next;
        sequence->next = NULL;
        sequence->admitted = now;
        sequence->usage.queue_seconds = now - sequence->submitted;
        s->running[s->n_running++] = sequence;
        s->n_active++;
        s->n_left++;
        s->stats.waiting = --s->n_waiting;
        s->stats.running = s->n_running;
        note_pages(s);
        sp_histogram_add(&s->stats.queue_time, sequence->usage.queue_seconds);
    }
    sp_drain_note(&s->drain, now, s->n_left, s->queue != NULL);
    s->n_left = 0;
    pthread_mutex_unlock(&s->lock);
}

static void end_expired(sp_scheduler *s, double now)
{
    sp_error error;
    for (sp_sequence *sequence = take_expired(s, now), *next; sequence; sequence = next) {
        next = sequence->next;
        if (check_time(s, sequence, now, true, &error) != SP_OK) end_badly(s, sequence, &error);
    }
    for (uint32_t i = s->n_running; i-- > 0;)
        if (check_time(s, s->running[i], now, false, &error) != SP_OK) end_badly(s, s->running[i], &error);
}

/* --- one step --- */

/* Fills the step; returns the number of prefill rows. */
static uint32_t fill_step(sp_scheduler *s)
{
    sp_rows rows;
    sp_step_begin(&s->step);
    sp_rows_fill(&s->pace, &s->step, s->running, s->n_running, &rows);
    pthread_mutex_lock(&s->lock);
    s->n_active = rows.n_active;
    pthread_mutex_unlock(&s->lock);
    return rows.n_prefill;
}

/* Hands the sampled token on. */
static sp_status give_token(sp_scheduler *s, sp_sequence *sequence, const sp_sampled *sampled, double now,
                            bool *finished, sp_finish *finish, sp_error *error)
{
    bool first = sequence->first_token == 0;
    pthread_mutex_lock(&s->lock);
    s->stats.generation_tokens++;
    if (first)
        sp_histogram_add(&s->stats.time_to_first_token, now - sequence->submitted);
    else
        sp_histogram_add(&s->stats.inter_token, now - sequence->last_token);
    pthread_mutex_unlock(&s->lock);
    if (first) {
        sequence->first_token = now;
        sequence->usage.first_token_seconds = now - sequence->submitted;
    }
    sequence->last_token = now;
    return sp_sequence_accept(sequence, sampled, finished, finish, error);
}

/* What the step means to one of its sequences. */
static void deliver(sp_scheduler *s, sp_step_entry *entry, sp_attend_job *job, double now)
{
    sp_sequence *sequence = entry->sequence;
    bool prefilled = sp_sequence_prefills(sequence), finished = false;
    sp_finish finish = SP_FINISH_LENGTH;
    sequence->position += entry->rows;
    if (!job->failed) sp_pages_publish(&s->kv, s->prefix, sequence);
    if (sequence->capture && !job->failed)
        sp_capture_grow(sequence->capture, sequence->tokens, sequence->position);
    if (sequence->completing) {
        finished = true;
        finish = sequence->finish;
    }
    job->phase->tokens += entry->rows;
    if (prefilled) {
        pthread_mutex_lock(&s->lock);
        s->stats.prompt_tokens += entry->rows;
        pthread_mutex_unlock(&s->lock);
        sequence->usage.prefill_seconds = now - sequence->admitted;
        if (!job->failed) sp_stream_push_progress(sequence->stream, sequence->position, sequence->n_prompt);
        if (!sp_sequence_prefills(sequence) && !job->failed) sp_sequence_end_prompt(sequence);
        finished = !sp_sequence_prefills(sequence) && sequence->max_tokens == 0;
    }
    if (!job->failed && entry->samples)
        job->failed = give_token(s, sequence, &entry->sampled, now, &finished, &finish, &job->error) != SP_OK;
    if (job->failed)
        end_badly(s, sequence, &job->error);
    else if (finished && sequence->capture && sequence->position < sequence->n_tokens) {
        sequence->completing = true;
        sequence->finish = finish;
    } else if (finished)
        end_well(s, sequence, finish);
}

/* Moves a prompt that is run layer by layer on by the rows of a part that was not its last layer's end. */
static void advance(sp_sequence *sequence, uint32_t rows)
{
    sequence->position += rows;
    if (sequence->position < sequence->n_prompt) return;
    sequence->position = 0;
    if (sequence->whole_attends) sequence->whole_layer++;
    sequence->whole_attends = !sequence->whole_attends;
}

/* A part of the oldest prompt that is run layer by layer: some rows through half a layer. Others' steps run
 * in between. */
static bool run_part(sp_scheduler *s)
{
    sp_sequence *sequence = NULL;
    for (uint32_t i = 0; i < s->n_running && !sequence; i++)
        if (s->running[i]->whole && sp_sequence_prefills(s->running[i])) sequence = s->running[i];
    if (!sequence) return false;
    sp_step_begin(&s->step);
    uint32_t rows = sp_rows_part(&s->pace, &s->step, sequence);
    bool attends = sequence->whole_attends;
    double start = s->options.clock();
    sp_error error;
    sp_status status = sp_step_add_part(&s->step, sequence, rows, &error);
    if (status == SP_OK) status = sp_step_run(&s->step, &error);
    sp_rows_learn_part(&s->pace, attends, rows, s->options.clock() - start);
    sp_attend_job *job = &s->step.jobs[0];
    if (status != SP_OK) {
        job->failed = true;
        job->error = error;
    }
    if (job->failed)
        end_badly(s, sequence, &job->error);
    else if (sp_step_part_ends(&s->step))
        deliver(s, &s->step.entries[0], job, s->options.clock());
    else
        advance(sequence, rows);
    return true;
}

/* Runs the oldest call, if there is one. */
static bool run_call(sp_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    sp_call *entry = s->calls;
    if (entry) s->calls = entry->next;
    pthread_mutex_unlock(&s->lock);
    if (!entry) return false;
    entry->call(entry->context);
    pthread_mutex_lock(&s->lock);
    entry->done = entry->ran = true;
    pthread_cond_broadcast(&s->called);
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* One piece of what runs between steps, a call's or a prompt's that is run layer by layer, in turns where
 * there are both: so decoding waits for one of them at most. */
static bool run_between(sp_scheduler *s)
{
    bool parts = s->part_first;
    s->part_first = !parts;
    if (parts) return run_part(s) || run_call(s);
    return run_call(s) || run_part(s);
}

/* What others published since the last step. */
static void share_pages(sp_scheduler *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) sp_pages_share(&s->kv, s->prefix, s->running[i]);
    pthread_mutex_lock(&s->lock);
    note_pages(s);
    pthread_mutex_unlock(&s->lock);
}

bool sp_scheduler_step(sp_scheduler *s)
{
    double now = s->options.clock();
    if (s->options.captures) sp_captures_tidy(s->options.captures, &s->kv);
    end_expired(s, now);
    admit(s, now);
    share_pages(s);
    uint32_t n_prefill = fill_step(s);
    if (s->step.n_entries == 0) return run_between(s);

    sp_error error;
    double start = s->options.clock();
    sp_status status = sp_step_run(&s->step, &error);
    sp_rows_learn(&s->pace, &s->step, n_prefill, s->options.clock() - start);
    pthread_mutex_lock(&s->lock);
    sp_stats_step(&s->stats, (uint32_t)s->step.n_rows);
    pthread_mutex_unlock(&s->lock);
    now = s->options.clock();
    for (size_t i = 0; i < s->step.n_entries; i++) {
        sp_attend_job *job = &s->step.jobs[i];
        if (status != SP_OK) {
            job->failed = true;
            job->error = error;
        }
        deliver(s, &s->step.entries[i], job, now);
    }
    (void)run_between(s);
    return true;
}

/* Sleeps until woken; a tenth of a second at most while anybody is inside, for the timeouts. */
static void sleep_until_woken(sp_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    bool empty = s->n_waiting == 0 && s->n_running == 0;
    struct timespec until = sp_deadline_after(empty ? 3600 : 0.1);
    if (!s->signalled) pthread_cond_timedwait(&s->woken, &s->lock, &until);
    s->signalled = false;
    pthread_mutex_unlock(&s->lock);
}

void sp_scheduler_run(sp_scheduler *s)
{
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool stopping = s->stopping;
        pthread_mutex_unlock(&s->lock);
        if (stopping) return;
        if (!sp_scheduler_step(s)) sleep_until_woken(s);
    }
}

void sp_scheduler_close(sp_scheduler *s)
{
    if (!s) return;
    sp_error error;
    sp_fail(&error, SP_UNAVAILABLE, "the server is stopping");
    sp_scheduler_stop(s);
    pthread_mutex_lock(&s->lock);
    sp_sequence *queue = s->queue;
    s->queue = NULL;
    s->stats.waiting = s->n_waiting = 0;
    for (sp_call *entry = s->calls; entry; entry = entry->next) entry->done = true;
    s->calls = NULL;
    pthread_cond_broadcast(&s->called);
    while (s->n_callers > 0) pthread_cond_wait(&s->called, &s->lock);
    pthread_mutex_unlock(&s->lock);
    for (sp_sequence *next; queue; queue = next) {
        next = queue->next;
        end_badly(s, queue, &error);
    }
    while (s->n_running > 0) end_badly(s, s->running[s->n_running - 1], &error);
    sp_step_close(&s->step);
    sp_prefix_close(s->prefix);
    sp_kv_close(&s->kv);
    sp_free(s->running);
    pthread_cond_destroy(&s->woken);
    pthread_cond_destroy(&s->called);
    pthread_mutex_destroy(&s->lock);
    sp_free(s);
}
