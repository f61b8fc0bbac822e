/* Fuzz target: sequences of operations on the scheduler over the fake model: submit, step, cancel, free,
 * read, let time pass, fail a forward pass.
 *
 * The pool asserts that no page has two owners; freed pages are NaN. After every operation the gauges must
 * fit together; at the end everything is free and every accepted request has ended once. What a request
 * generates is a function of its two bytes alone: a finished one must hash to what the same bytes gave
 * before, in whatever company. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"
#include "tests/support/fake_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 8, PAGES = 12, PLACES = 3, QUEUE = 3, MAX_OPERATIONS = 400 };

typedef struct slot {
    sp_stream *stream;
    uint32_t key, n_tokens, max_tokens;
    uint64_t hash;
} slot;

typedef struct world {
    sp_scheduler *scheduler;
    sp_sequence_host host;
    slot slots[SLOTS];
    uint64_t accepted;
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
                                    .queue_timeout = 20,
                                    .request_timeout = 60,
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
    for (size_t i = 0; i < request.n_ids; i++) ids[i] = (int32_t)((key * 31 + i * i) % 256);
    if ((key & 0xff) == 0xff) ids[request.n_ids - 1] = FAKE_NAN_TOKEN;
    request.ids = ids;
    request.max_tokens = (key >> 5 & 31) * 5;
    request.ignore_eos = key >> 12 & 1;
    request.sampling.temperature = key & 1 ? 0 : 1;
    request.sampling.seed = key;
    request.attention = attentions[key >> 10 & 3];
    request.attention_size = strlen(request.attention);
    require(sp_sequence_open(&w->host, &request, NULL, NULL, &sequence, &error) == SP_OK,
            "valid request refused");
    sp_stream *stream = sequence->stream;
    sp_status status = sp_scheduler_submit(w->scheduler, sequence, &error);
    require(status == SP_OK || status == SP_BUSY, "refused for another reason");
    if (status != SP_OK) {
        sp_sequence_close(sequence);
        return;
    }
    *s = (slot){.stream = stream, .key = key, .max_tokens = request.max_tokens, .hash = 1};
    w->accepted++;
}

static void read_events(slot *s)
{
    sp_event event;
    for (sp_stream_read(s->stream, &event); event.type != SP_EVENT_NONE; sp_stream_read(s->stream, &event)) {
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
    sp_scheduler_stats(w->scheduler, &stats);
    require(stats.kv_pages_used <= PAGES && stats.kv_pages_used >= stats.running,
            "pages do not fit the running");
    require(stats.waiting <= QUEUE + PLACES, "queue over its limit");
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
        break;
    case 3:
        sp_stream_free(s->stream);
        s->stream = NULL;
        break;
    case 4:
        now += argument / 16.0;
        break;
    case 5:
        if (argument == 255) fake_model_fail_once(&model);
        break;
    default:
        for (int i = 0; i <= operation >> 3; i++) sp_scheduler_step(w->scheduler);
    }
    if (s->stream) read_events(s);
    check_gauges(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    world w;
    sp_stats stats;
    open_world(&w);
    for (size_t i = 0; i + 1 < size && i < 2 * MAX_OPERATIONS; i += 2) operate(&w, data[i], data[i + 1]);
    for (int i = 0; i < SLOTS; i++) sp_stream_free(w.slots[i].stream);
    sp_scheduler_step(w.scheduler);
    sp_scheduler_stats(w.scheduler, &stats);
    require(stats.running == 0 && stats.waiting == 0 && stats.kv_pages_used == 0, "something is left");
    require(stats.finished_stop + stats.finished_length + stats.finished_cancelled + stats.finished_error ==
                w.accepted,
            "a request did not end once");
    sp_scheduler_close(w.scheduler);
    return 0;
}
