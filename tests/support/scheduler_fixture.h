/* What the scheduler's tests stand on: a scheduler over the fake model with a clock of its own, requests
 * drawn by seed, and what came out of a stream. Everything is static: one test program, one fixture. */
#ifndef SPARSED_TESTS_SUPPORT_SCHEDULER_FIXTURE_H
#define SPARSED_TESTS_SUPPORT_SCHEDULER_FIXTURE_H

#include "tests/support/test.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

#include <string.h>

#include "engine/scheduler.h"

enum { MAX_OUT = 128 };

static double fake_time;
static inline double read_fake_time(void)
{
    return fake_time;
}

typedef struct fixture {
    sp_model model;
    sp_sequence_host host;
    sp_scheduler *scheduler;
} fixture;

static const sp_scheduler_options usual = {.kv_type = SP_F32,
                                           .context = FAKE_CONTEXT,
                                           .n_pages = 32,
                                           .max_sequences = 4,
                                           .max_queue = 8,
                                           .queue_timeout = 60,
                                           .request_timeout = 600,
                                           .step_seconds = 0.02,
                                           .poison = true};

static inline void open_fixture(fixture *f, const sp_scheduler_options *options, size_t n_threads)
{
    sp_error error;
    assert_ok(fake_model_open(SPARSED_ROOT "/models/austen", n_threads, &f->model, &error), error);
    sp_scheduler_options all = *options;
    all.model = &f->model;
    assert_ok(sp_scheduler_open(&all, &f->scheduler, &error), error);
    f->host = (sp_sequence_host){.model = &f->model,
                                 .context = FAKE_CONTEXT,
                                 .max_piece = 512,
                                 .attention_host = {.n_heads = f->model.hparams.n_heads,
                                                    .model_normalizer = {1.5f},
                                                    .generates = true,
                                                    .allow_measure = true},
                                 .wake = sp_scheduler_wake,
                                 .wake_context = f->scheduler};
}

static inline void close_fixture(fixture *f)
{
    sp_stats stats;
    sp_scheduler_stats(f->scheduler, &stats);
    assert_int_equal(stats.running, 0);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.kv_pages_used, 0);
    sp_scheduler_close(f->scheduler);
    fake_model_close(&f->model);
}

static inline sp_status submit(fixture *f, const sp_request *request, sp_stream **out, sp_error *error)
{
    sp_sequence *sequence;
    *out = NULL;
    sp_status status = sp_sequence_open(&f->host, request, NULL, NULL, &sequence, error);
    if (status != SP_OK) return status;
    *out = sequence->stream;
    status = sp_scheduler_submit(f->scheduler, sequence, error);
    if (status != SP_OK) sp_sequence_close(sequence);
    return status;
}

static inline sp_request plain(const int32_t *ids, size_t n, uint32_t max_tokens)
{
    sp_request request;
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = n;
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    return request;
}

static inline void expect_stats(fixture *f, uint32_t running, uint32_t waiting, uint32_t pages)
{
    sp_stats stats;
    sp_scheduler_stats(f->scheduler, &stats);
    assert_int_equal(stats.running, running);
    assert_int_equal(stats.waiting, waiting);
    assert_int_equal(stats.kv_pages_used, pages);
}

/* What a request gave, to be compared byte by byte. */
typedef struct output {
    int32_t tokens[MAX_OUT];
    float logprobs[MAX_OUT];
    uint32_t n;
    char text[MAX_OUT * 64];
    size_t n_text;
    bool done;
    sp_finish finish;
    sp_error error;
    sp_usage usage;
    float prompt_logprobs[FAKE_CONTEXT];
} output;

/* Takes what is there, as much of it as an output holds; true at the last event. */
static inline bool drain(sp_stream *stream, output *out)
{
    for (;;) {
        sp_event event;
        sp_stream_read(stream, &event);
        if (event.type == SP_EVENT_NONE) return false;
        if (event.type == SP_EVENT_PROGRESS) continue;
        if (out->n_text + event.text_size <= sizeof out->text) {
            memcpy(out->text + out->n_text, event.text ? event.text : "", event.text_size);
            out->n_text += event.text_size;
        }
        if (event.type == SP_EVENT_TOKEN) {
            if (out->n < MAX_OUT) {
                out->tokens[out->n] = event.token;
                out->logprobs[out->n++] = event.logprob;
            }
            continue;
        }
        out->done = event.type == SP_EVENT_DONE;
        out->finish = event.finish;
        out->usage = event.usage;
        out->error = event.error;
        if (out->done) assert_true(event.report_size > 0 && event.prompt_ids != NULL);
        if (event.prompt_logprobs)
            memcpy(out->prompt_logprobs, event.prompt_logprobs, event.usage.prompt_tokens * sizeof(float));
        return true;
    }
}

static inline void run_to_end(fixture *f, sp_stream *stream, output *out)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < 10000 && !drain(stream, out); i++) sp_scheduler_step(f->scheduler);
    sp_stream_free(stream);
}

static const char *const attentions[] = {
    "\"dense\"",
    "{\"backend\":\"strided\",\"params\":{\"stride\":5}}",
    "{\"backend\":\"strided\",\"params\":{\"stride\":9},\"heads\":\"interleaved\"}",
    "{\"backend\":\"fixed\",\"params\":{\"stride\":16,\"summary\":3},\"normalizer\":\"softmax\"}",
    "{\"backend\":\"fixed\",\"params\":{\"stride\":70,\"summary\":8},\"heads\":\"multihead\"}",
    "{\"backend\":\"window\",\"params\":{\"window\":33,\"global_first\":2}}",
    "{\"backend\":\"longformer\",\"params\":{\"window\":65}}",
};

typedef struct case_request {
    sp_request request;
    int32_t ids[FAKE_CONTEXT];
} case_request;

static inline void make_request(test_random *random, uint32_t max_prompt, uint32_t max_new, case_request *out)
{
    sp_request_init(&out->request);
    out->request.n_ids = 1 + test_random_below(random, max_prompt);
    for (size_t i = 0; i < out->request.n_ids; i++) out->ids[i] = (int32_t)test_random_below(random, 300);
    out->request.ids = out->ids;
    out->request.max_tokens = (uint32_t)test_random_below(random, max_new + 1);
    out->request.sampling = (sp_sampling){.temperature = (double)test_random_below(random, 3) * 0.6,
                                          .top_p = test_random_below(random, 2) ? 1 : 0.9,
                                          .top_k = (int64_t)test_random_below(random, 3) * 20,
                                          .seed = (int64_t)test_random_u64(random)};
    out->request.ignore_eos = test_random_below(random, 2);
    out->request.prompt_logprobs = test_random_below(random, 2);
    out->request.attention = attentions[test_random_below(random, COUNT_OF(attentions))];
    out->request.attention_size = strlen(out->request.attention);
}

static inline void assert_same(const output *a, const output *b)
{
    assert_int_equal(a->done, b->done);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->tokens, b->tokens, sizeof a->tokens);
    assert_memory_equal(a->logprobs, b->logprobs, sizeof a->logprobs);
    assert_int_equal(a->n_text, b->n_text);
    assert_memory_equal(a->text, b->text, a->n_text);
    assert_memory_equal(a->prompt_logprobs, b->prompt_logprobs, sizeof a->prompt_logprobs);
}

#endif
