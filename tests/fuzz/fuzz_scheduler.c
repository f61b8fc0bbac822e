/* Fuzz target: sequences of operations on the scheduler over the fake model: submit, step, cancel, free,
 * read, stop reading, let time pass, fail a forward pass.
 *
 * Prompts begin alike, so that requests take each other's pages. Freed pages are NaN. After every operation
 * the gauges must fit together: used, cached and free pages are all there are, and what several hold is in
 * the index; at the end nothing is held and every accepted request has ended once. What a request generates
 * is a function of its two bytes alone: a finished one must hash to what the same bytes gave before, in
 * whatever company and with whatever was cached.
 *
 * The model beside it is a list of requests in the order they came. Those that wait are the youngest of it
 * (admission is in order, so are the times of admission that ends tell), none of them longer than the queue's
 * timeout and none has got a row; nobody is there longer than the request's timeout; who was cancelled is
 * gone after a step; an error must have its reason. When time stands still and everybody reads, all end. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"
#include "tests/support/fake_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 8, PAGES = 12, PLACES = 3, QUEUE = 3, MAX_OPERATIONS = 400 };
#define QUEUE_TIMEOUT 20.0
#define REQUEST_TIMEOUT 60.0

typedef struct slot {
    sp_stream *stream;
    uint32_t key, n_tokens, max_tokens;
    uint64_t hash;
    uint32_t order; /* of arrival */
    double submitted;
    bool told, cancelled; /* it has got rows; we cancelled it */
    bool lags;            /* nobody reads it now */
} slot;

typedef struct world {
    sp_scheduler *scheduler;
    sp_sequence_host host;
    slot slots[SLOTS];
    uint32_t accepted;
    bool failed;                     /* a forward pass was made to */
    double admitted[MAX_OPERATIONS]; /* (accepted) as ends told it; 0: not known */
} world;

static sp_model model;
static double now;
static uint64_t seen[1 << 13]; /* hash of what each kind of request gives; 0: not known yet */

static double read_now(void)
{
    return now;
}

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_scheduler: %s\n", what);
    abort();
}

static void open_world(world *w)
{
    sp_error error;
    if (!model.arch) require(fake_model_open(NULL, 1, &model, &error) == SP_OK, "no model");
    sp_scheduler_options options = {.model = &model,
                                    .kv_type = SP_F32,
                                    .context = FAKE_CONTEXT,
                                    .n_pages = PAGES,
                                    .max_sequences = PLACES,
                                    .max_queue = QUEUE,
                                    .queue_timeout = QUEUE_TIMEOUT,
                                    .request_timeout = REQUEST_TIMEOUT,
                                    .step_seconds = 0.02,
                                    .poison = true,
                                    .max_chunk = 64,
                                    .clock = read_now};
    memset(w, 0, sizeof *w);
    require(sp_scheduler_open(&options, &w->scheduler, &error) == SP_OK, "no scheduler");
    w->host = (sp_sequence_host){
        .model = &model,
        .context = FAKE_CONTEXT,
        .max_piece = 64,
        .attention_host = {.n_heads = model.hparams.n_heads, .model_normalizer = {1.5f}, .generates = true},
        .wake = sp_scheduler_wake,
        .wake_context = w->scheduler};
}

/* A stream of 16 events in place of the usual one: who doesn't read it leaves the batch. */
static void narrow(world *w, sp_sequence *sequence)
{
    sp_stream *own = sequence->stream;
    sequence->stream = sp_stream_open(&(sp_stream_options){
        .max_piece = 2048, .n_events = 16, .wake = sp_scheduler_wake, .wake_context = w->scheduler});
    require(sequence->stream != NULL, "no stream");
    sp_stream_finish(own, &(sp_event){.type = SP_EVENT_ERROR});
    sp_stream_free(own);
}

/* The request of a kind (13 bits): its prompt, length, attention and sampling all follow from it. */
static void submit(world *w, slot *s, uint32_t key)
{
    static const char *const attentions[] = {
        "\"dense\"", "{\"backend\":\"strided\",\"params\":{\"stride\":6}}",
        "{\"backend\":\"fixed\",\"heads\":\"interleaved\"}",
        "{\"backend\":\"window\",\"params\":{\"window\":9},\"normalizer\":\"softmax\"}"};
    int32_t ids[256];
    sp_request request;
    sp_error error;
    sp_sequence *sequence;
    sp_request_init(&request);
    request.n_ids = 1 + (key & 31) * 7;
    size_t own = (key >> 6 & 3) * 9, common = request.n_ids > own ? request.n_ids - own : 0;
    for (size_t i = 0; i < request.n_ids; i++)
        ids[i] = (int32_t)(((i < common ? key >> 5 & 1 : key) * 31 + i * i) % 256);
    if ((key & 0xff) == 0xff) ids[request.n_ids - 1] = FAKE_NAN_TOKEN;
    request.ids = ids;
    request.share_pages = true;
    request.owner = key >> 9 & 1;
    request.cache_salt = key >> 8 & 1 ? "salt" : NULL;
    request.cache_salt_size = key >> 8 & 1 ? 4 : 0;
    request.max_tokens = (key >> 5 & 31) * 5;
    request.ignore_eos = key >> 12 & 1;
    request.sampling.temperature = key & 1 ? 0 : 1;
    request.sampling.seed = key;
    request.attention = attentions[key >> 10 & 3];
    request.attention_size = strlen(request.attention);
    require(sp_sequence_open(&w->host, &request, NULL, NULL, &sequence, &error) == SP_OK,
            "valid request refused");
    if ((key >> 8 & 3) == 3) narrow(w, sequence);
    sp_stream *stream = sequence->stream;
    sp_status status = sp_scheduler_submit(w->scheduler, sequence, &error);
    require(status == SP_OK || status == SP_BUSY, "refused for another reason");
    if (status != SP_OK) {
        sp_sequence_close(sequence);
        return;
    }
    *s = (slot){.stream = stream,
                .key = key,
                .max_tokens = request.max_tokens,
                .hash = 1,
                .order = w->accepted++,
                .submitted = now};
}

/* The order of admission is that of arrival. */
static void check_order(world *w, const slot *s, double admitted)
{
    require(admitted - s->submitted <= QUEUE_TIMEOUT, "admitted after the queue's timeout");
    for (uint32_t i = 0; i < w->accepted; i++)
        require(w->admitted[i] == 0 || (i < s->order) == (w->admitted[i] <= admitted) ||
                    w->admitted[i] == admitted,
                "admitted out of turn");
    w->admitted[s->order] = admitted;
}

static void check_error(const world *w, const slot *s, const sp_error *error)
{
    double age = now - s->submitted;
    bool queue = strcmp(error->param, "queue_timeout") == 0;
    bool request = strcmp(error->param, "request_timeout") == 0;
    switch (error->status) {
    case SP_CANCELLED:
        require(s->cancelled, "cancelled by nobody");
        return;
    case SP_UNAVAILABLE:
        require((queue && age > QUEUE_TIMEOUT && !s->told) || (request && age > REQUEST_TIMEOUT),
                "ended before its time");
        return;
    case SP_NO_MEMORY:
        require(w->failed, "no memory, without reason");
        return;
    default:
        require(error->status == SP_INTERNAL && (s->key & 0xff) == 0xff, "an error without reason");
    }
}

static void read_events(world *w, slot *s)
{
    sp_event event;
    if (!s->stream) return;
    for (sp_stream_read(s->stream, &event); event.type != SP_EVENT_NONE; sp_stream_read(s->stream, &event)) {
        s->told = s->told || event.type == SP_EVENT_PROGRESS || event.type == SP_EVENT_TOKEN;
        if (event.type == SP_EVENT_ERROR) check_error(w, s, &event.error);
        if (event.type == SP_EVENT_TOKEN) {
            s->n_tokens++;
            s->hash = s->hash * 0x9E3779B97F4A7C15u + (uint64_t)event.token;
            s->hash = s->hash * 31 + sp_hash_bytes(&event.logprob, sizeof event.logprob);
            require(isfinite(event.logprob), "logprob is not finite");
        }
        if (event.type == SP_EVENT_DONE) {
            require(event.report_size > 0 && event.usage.completion_tokens == s->n_tokens,
                    "end does not fit");
            uint64_t hash = s->hash | 1;
            require(seen[s->key] == 0 || seen[s->key] == hash, "the same request gave something else");
            seen[s->key] = hash;
            check_order(w, s, s->submitted + event.usage.queue_seconds);
            require(event.usage.cached_tokens < event.usage.prompt_tokens, "more cached than may be");
        }
        require(s->n_tokens <= s->max_tokens, "more tokens than asked for");
        if (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR) continue;
        sp_stream_free(s->stream);
        s->stream = NULL;
        return;
    }
}

static void check_gauges(world *w)
{
    sp_stats stats;
    const sp_kv *kv = sp_scheduler_kv(w->scheduler);
    uint32_t held = 0, cached = 0;
    sp_scheduler_stats(w->scheduler, &stats);
    for (uint32_t i = 0; i < PAGES; i++) {
        const sp_kv_page *page = &kv->pages[i];
        held += page->refs > 0;
        cached += page->refs == 0 && page->kept;
        require(page->refs <= 1 || page->kept, "a page of several is not in the index");
    }
    require(held == sp_kv_used(kv) && cached == kv->n_cached && held + cached + kv->n_free == PAGES,
            "a page is lost");
    require((stats.running == 0) == (held == 0), "pages do not fit the running");
    require(stats.waiting <= QUEUE + PLACES, "queue over its limit");
}

/* After a step, with time as it was in it. */
static void check_step(world *w)
{
    sp_stats stats;
    const slot *left[SLOTS];
    uint32_t n = 0;
    for (int i = 0; i < SLOTS; i++) {
        slot *s = &w->slots[i];
        if (!s->lags) read_events(w, s);
        if (!s->stream) continue;
        require(s->lags || (!s->cancelled && now - s->submitted <= REQUEST_TIMEOUT), "it should have ended");
        uint32_t at = n++; /* the youngest first */
        for (; at > 0 && left[at - 1]->order < s->order; at--) left[at] = left[at - 1];
        left[at] = s;
    }
    sp_scheduler_stats(w->scheduler, &stats);
    uint64_t ends =
        stats.finished_stop + stats.finished_length + stats.finished_cancelled + stats.finished_error;
    require(stats.running + stats.waiting + ends == w->accepted, "requests are lost or counted twice");
    require(stats.waiting <= n, "somebody waits whom nobody knows");
    for (uint32_t i = 0; i < stats.waiting; i++) {
        require(now - left[i]->submitted <= QUEUE_TIMEOUT, "it waits too long");
        require(!left[i]->told, "it waits and has got rows");
    }
}

/* Nothing new comes, everybody reads and time stands still: all must end. */
static void finish(world *w)
{
    sp_stats stats = {.running = 1};
    for (int i = 0; i < SLOTS; i++) w->slots[i].lags = false;
    for (int steps = 0; stats.running > 0 || stats.waiting > 0; steps++) {
        require(steps < 20000, "somebody is never done");
        sp_scheduler_step(w->scheduler);
        check_step(w);
        sp_scheduler_stats(w->scheduler, &stats);
    }
}

static void operate(world *w, uint8_t operation, uint8_t argument)
{
    slot *s = &w->slots[argument % SLOTS];
    switch (operation % 8) {
    case 0:
    case 1:
        if (!s->stream) submit(w, s, (uint32_t)(operation >> 3) << 8 | argument);
        break;
    case 2:
        if (s->stream) sp_stream_cancel(s->stream);
        s->cancelled = true;
        s->lags = false;
        break;
    case 3:
        sp_stream_free(s->stream);
        s->stream = NULL;
        break;
    case 4:
        now += argument / 16.0;
        break;
    case 5:
        if (argument == 255) {
            fake_model_fail_once(&model);
            w->failed = true;
        } else {
            s->lags = !s->lags && !s->cancelled;
        }
        break;
    default:
        for (int i = 0; i <= operation >> 3; i++) {
            sp_scheduler_step(w->scheduler);
            check_step(w);
        }
    }
    if (!s->lags) read_events(w, s);
    check_gauges(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    world w;
    sp_stats stats;
    open_world(&w);
    for (size_t i = 0; i + 1 < size && i < 2 * MAX_OPERATIONS; i += 2) operate(&w, data[i], data[i + 1]);
    if (size % 2) finish(&w);
    for (int i = 0; i < SLOTS; i++) sp_stream_free(w.slots[i].stream);
    sp_scheduler_step(w.scheduler);
    if (w.failed) { /* a failure that nobody met yet is none of the next input's */
        submit(&w, &w.slots[0], 1);
        sp_scheduler_step(w.scheduler);
        sp_stream_free(w.slots[0].stream);
        sp_scheduler_step(w.scheduler);
    }
    sp_scheduler_stats(w.scheduler, &stats);
    require(stats.running == 0 && stats.waiting == 0 && stats.kv_pages_used == 0, "something is left");
    require(stats.kv_pages_cached + sp_scheduler_kv(w.scheduler)->n_free == PAGES, "a page is left");
    check_gauges(&w);
    require(stats.finished_stop + stats.finished_length + stats.finished_cancelled + stats.finished_error ==
                w.accepted,
            "a request did not end once");
    sp_scheduler_close(w.scheduler);
    return 0;
}
