/* See scheduler.h. */
#include "engine/scheduler_parts.h"

#include <string.h>

#include "engine/attention/codes.h"
#include "engine/deadline.h"
#include "engine/graph/capture.h"
#include "engine/stats.h"

#define DEFAULT_CHUNK 512u

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
void sp_scheduler_note_pages(sp_scheduler *s)
{
    s->stats.kv_pages_used = sp_kv_used(&s->kv);
    s->stats.kv_pages_cached = s->kv.n_cached;
}

/* --- ends --- */

/* Before anybody is told. */
static void coarsen_times(sp_sequence *sequence)
{
    if (!sequence->host->coarse_times) return;
    sp_attention_phase_coarsen(&sequence->prefill);
    sp_attention_phase_coarsen(&sequence->decode);
}

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
        sp_scheduler_note_pages(s);
        if (s->n_active > 0) s->n_active--;
        s->short_of_pages = false; /* who sees the end may come before the next step looks */
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

void sp_scheduler_end_badly(sp_scheduler *s, sp_sequence *sequence, const sp_error *error)
{
    coarsen_times(sequence);
    book_end(s, sequence, error->status, SP_FINISH_STOP);
    sp_sequence_fail(sequence, error);
    sp_sequence_close(sequence);
}

void sp_scheduler_end_well(sp_scheduler *s, sp_sequence *sequence, sp_finish finish)
{
    sp_error error;
    coarsen_times(sequence);
    if (sp_sequence_report(sequence, &error) != SP_OK) {
        sp_scheduler_end_badly(s, sequence, &error);
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
        sp_scheduler_note_pages(s);
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
        if (check_time(s, sequence, now, true, &error) != SP_OK) sp_scheduler_end_badly(s, sequence, &error);
    }
    for (uint32_t i = s->n_running; i-- > 0;)
        if (check_time(s, s->running[i], now, false, &error) != SP_OK)
            sp_scheduler_end_badly(s, s->running[i], &error);
}

bool sp_scheduler_step(sp_scheduler *s)
{
    double now = s->options.clock();
    if (s->options.captures) sp_captures_tidy(s->options.captures, &s->kv);
    end_expired(s, now);
    admit(s, now);
    return sp_scheduler_turn(s);
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
        sp_scheduler_end_badly(s, queue, &error);
    }
    while (s->n_running > 0) sp_scheduler_end_badly(s, s->running[s->n_running - 1], &error);
    sp_step_close(&s->step);
    sp_prefix_close(s->prefix);
    sp_kv_close(&s->kv);
    sp_free(s->running);
    pthread_cond_destroy(&s->woken);
    pthread_cond_destroy(&s->called);
    pthread_mutex_destroy(&s->lock);
    sp_free(s);
}
