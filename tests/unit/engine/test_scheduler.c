/* The scheduler (engine/scheduler.h) over a fake model: who is admitted, batched, cut and ended; pages that
 * come back; the same bits alone and in any company, chunk length and thread count. Pages are poisoned when
 * freed, and the pool asserts that none has two owners. */
#include "tests/support/test.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/support/scheduler_fixture.h"

/* Requests alone in one scheduler; then together, arriving at random steps, in others. */
static void test_same_bits_in_company(void **state)
{
    (void)state;
    enum { N = 12 };
    static case_request cases[N];
    static output alone[N], together[N];
    test_random random = {21};
    fixture f;
    sp_error error;
    open_fixture(&f, &usual, 1);
    for (int i = 0; i < N; i++) {
        sp_stream *stream;
        make_request(&random, 300, 40, &cases[i]);
        assert_ok(submit(&f, &cases[i].request, &stream, &error), error);
        run_to_end(&f, stream, &alone[i]);
        assert_true(alone[i].done);
        assert_true(alone[i].n <= cases[i].request.max_tokens);
    }
    close_fixture(&f);

    const uint32_t chunks[] = {64, 100, 512};
    for (size_t round = 0; round < COUNT_OF(chunks); round++) {
        sp_scheduler_options options = usual;
        options.max_chunk = chunks[round];
        options.max_queue = N;
        options.step_seconds = round == 0 ? 0 : 10;
        open_fixture(&f, &options, 1 + round % 2);
        sp_stream *streams[N] = {NULL};
        memset(together, 0, sizeof together);
        int ended = 0;
        for (int sent = 0; ended < N;) {
            if (sent < N && test_random_below(&random, 3) == 0) {
                assert_ok(submit(&f, &cases[sent].request, &streams[sent], &error), error);
                sent++;
            }
            sp_scheduler_step(f.scheduler);
            for (int i = 0; i < N; i++) {
                if (!streams[i] || !drain(streams[i], &together[i])) continue;
                sp_stream_free(streams[i]);
                streams[i] = NULL;
                ended++;
            }
        }
        for (int i = 0; i < N; i++) assert_same(&alone[i], &together[i]);
        close_fixture(&f);
    }
}

/* Pages are reserved whole; who does not fit waits; a queue that is full refuses. */
static void test_admission(void **state)
{
    (void)state;
    static int32_t ids[FAKE_CONTEXT];
    sp_scheduler_options options = usual;
    options.n_pages = 8;
    options.max_queue = 2;
    fixture f;
    sp_error error;
    sp_stream *a, *b, *c, *d, *e;
    output out;
    open_fixture(&f, &options, 1);
    sp_request long_one = plain(ids, 300, 84), short_one = plain(ids, 10, 54), next_one = plain(ids, 10, 55);
    assert_ok(submit(&f, &long_one, &a, &error), error);  /* 384 tokens: 6 pages */
    assert_ok(submit(&f, &short_one, &b, &error), error); /* 64: one */
    expect_stats(&f, 0, 2, 0);
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 2, 0, 7);
    assert_ok(submit(&f, &next_one, &c, &error), error); /* 65: two, and one is left */
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 2, 1, 7);
    assert_ok(submit(&f, &short_one, &d, &error), error); /* would fit, but waits its turn */
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 2, 2, 7);
    assert_int_equal(submit(&f, &short_one, &e, &error), SP_BUSY);
    run_to_end(&f, b, &out);
    assert_true(out.done && out.finish == SP_FINISH_LENGTH && out.n == 54);
    assert_int_equal(out.usage.prompt_tokens, 10);
    assert_int_equal(out.usage.completion_tokens, 54);
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 2, 1, 8);
    run_to_end(&f, c, &out);
    run_to_end(&f, a, &out);
    run_to_end(&f, d, &out);
    assert_true(out.done);
    close_fixture(&f);
}

/* Pages that an end has freed are room in the queue for who saw that end, also before the next step. */
static void test_admission_after_an_end(void **state)
{
    (void)state;
    static int32_t ids[FAKE_CONTEXT];
    sp_scheduler_options options = usual;
    options.n_pages = 2;
    options.max_queue = 1;
    fixture f;
    sp_error error;
    sp_stream *a, *b, *c;
    output out;
    open_fixture(&f, &options, 1);
    sp_request request = plain(ids, 100, 2);
    assert_ok(submit(&f, &request, &a, &error), error); /* takes all pages */
    sp_scheduler_step(f.scheduler);
    assert_ok(submit(&f, &request, &b, &error), error);
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 1, 1, 2);
    assert_int_equal(submit(&f, &request, &c, &error), SP_BUSY);
    memset(&out, 0, sizeof out);
    while (!drain(a, &out)) sp_scheduler_step(f.scheduler);
    sp_stream_free(a);
    expect_stats(&f, 0, 1, 0);
    assert_ok(submit(&f, &request, &c, &error), error);
    run_to_end(&f, b, &out);
    run_to_end(&f, c, &out);
    assert_true(out.done);
    close_fixture(&f);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    static int32_t ids[FAKE_CONTEXT + 1];
    fixture f;
    sp_error error;
    sp_stream *stream;
    open_fixture(&f, &usual, 1);
    sp_request request = plain(ids, FAKE_CONTEXT + 1, 0);
    assert_int_equal(submit(&f, &request, &stream, &error), SP_TOO_LONG);
    request = plain(ids, FAKE_CONTEXT, 1);
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "max_tokens");
    ids[2] = FAKE_VOCAB;
    request = plain(ids, 3, 1);
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "prompt");
    ids[2] = -1;
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    ids[2] = 0;
    request = plain(ids, 0, 1); /* empty, and this model has no token to begin with */
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "prompt");
    request = plain(ids, 3, 1);
    request.logprobs = 21;
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "logprobs");
    request = plain(ids, 3, 1);
    request.attention = "{\"backend\":\"strided\",\"params\":{\"stride\":0}}";
    request.attention_size = strlen(request.attention);
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "attention.params.stride");
    request = plain(ids, 3, 1);
    request.sampling.top_p = 0;
    assert_int_equal(submit(&f, &request, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "top_p");
    expect_stats(&f, 0, 0, 0);
    close_fixture(&f);
}

/* max_tokens 0 prefills and reports; the last row's logits come with it. */
static void test_prefill_only(void **state)
{
    (void)state;
    static int32_t ids[200];
    fixture f;
    sp_error error;
    sp_stream *stream;
    sp_event event;
    open_fixture(&f, &usual, 1);
    sp_request request = plain(ids, 200, 0);
    request.prompt_logits = true;
    assert_ok(submit(&f, &request, &stream, &error), error);
    for (int i = 0; i < 50; i++) sp_scheduler_step(f.scheduler);
    do sp_stream_read(stream, &event);
    while (event.type == SP_EVENT_PROGRESS);
    assert_int_equal(event.type, SP_EVENT_DONE);
    assert_int_equal(event.usage.completion_tokens, 0);
    assert_non_null(event.prompt_logits);
    for (int i = 0; i < FAKE_VOCAB; i++) assert_true(isfinite(event.prompt_logits[i]));
    assert_non_null(memmem(event.report, event.report_size, "\"tokens\":200", 12));
    sp_stream_free(stream);
    close_fixture(&f);
}

/* One request's NaN logits and one failed forward pass end what they must and nothing else. */
static void test_failures_stay_local(void **state)
{
    (void)state;
    int32_t good_ids[20] = {1, 2, 3}, bad_ids[20] = {4, 5, 6};
    bad_ids[19] = FAKE_NAN_TOKEN;
    fixture f;
    sp_error error;
    sp_stream *good, *bad;
    output alone, beside = {.n = 0}, broken = {.n = 0};
    open_fixture(&f, &usual, 1);
    sp_request request = plain(good_ids, 20, 30), poisoned = plain(bad_ids, 20, 30);
    assert_ok(submit(&f, &request, &good, &error), error);
    run_to_end(&f, good, &alone);
    assert_ok(submit(&f, &request, &good, &error), error);
    assert_ok(submit(&f, &poisoned, &bad, &error), error);
    sp_scheduler_step(f.scheduler);
    sp_scheduler_step(f.scheduler);
    assert_true(drain(bad, &broken));
    assert_int_equal(broken.error.status, SP_INTERNAL);
    sp_stream_free(bad);
    run_to_end(&f, good, &beside);
    assert_same(&alone, &beside);

    assert_ok(submit(&f, &request, &good, &error), error);
    sp_scheduler_step(f.scheduler);
    fake_model_fail_once(&f.model);
    run_to_end(&f, good, &broken);
    assert_int_equal(broken.error.status, SP_NO_MEMORY);
    expect_stats(&f, 0, 0, 0);
    assert_ok(submit(&f, &request, &good, &error), error);
    run_to_end(&f, good, &beside);
    assert_same(&alone, &beside);
    close_fixture(&f);
}

/* EOS ends with stop and gives no text; ignore_eos runs on; a stop string cuts the text and is not part of
 * it. */
static void test_ends_of_text(void **state)
{
    (void)state;
    test_random random = {5};
    fixture f;
    sp_error error;
    sp_stream *stream;
    static output full, cut;
    int stopped = 0, matched = 0;
    open_fixture(&f, &usual, 1);
    for (int round = 0; round < 60; round++) {
        int32_t ids[8];
        for (int i = 0; i < 8; i++) ids[i] = (int32_t)test_random_below(&random, 300);
        sp_request request = plain(ids, 8, 60);
        request.sampling.temperature = 3;
        request.sampling.seed = round;
        assert_ok(submit(&f, &request, &stream, &error), error);
        run_to_end(&f, stream, &full);
        assert_true(full.finish == SP_FINISH_LENGTH && full.n == 60);
        uint32_t at = 0;
        while (at < full.n && full.tokens[at] != FAKE_EOS && full.tokens[at] != FAKE_TOKENIZER_EOS) at++;
        request.ignore_eos = false;
        assert_ok(submit(&f, &request, &stream, &error), error);
        run_to_end(&f, stream, &cut);
        assert_int_equal(cut.finish, at < full.n ? SP_FINISH_STOP : SP_FINISH_LENGTH);
        assert_int_equal(cut.n, at < full.n ? at + 1 : full.n);
        assert_memory_equal(cut.tokens, full.tokens, cut.n * sizeof *cut.tokens);
        stopped += at < full.n;

        request.ignore_eos = true;
        if (full.n_text < 40) continue;
        size_t from = 20; /* a piece of the text itself, from the start of a code point */
        while (from < full.n_text && (full.text[from] & 0xC0) == 0x80) from++;
        size_t size = 6;
        while (from + size < full.n_text && (full.text[from + size] & 0xC0) == 0x80) size++;
        request.stops[0] = full.text + from;
        request.stop_sizes[0] = size;
        request.n_stops = 1;
        char *first = memmem(full.text, full.n_text, request.stops[0], size);
        assert_ok(submit(&f, &request, &stream, &error), error);
        run_to_end(&f, stream, &cut);
        assert_int_equal(cut.finish, SP_FINISH_STOP);
        assert_int_equal(cut.n_text, first - full.text);
        assert_memory_equal(cut.text, full.text, cut.n_text);
        matched++;
    }
    assert_true(stopped > 3 && matched > 10);
    close_fixture(&f);
}

/* Submits with a stream of 16 events in place of the usual one. */
static sp_stream *submit_narrow(fixture *f, const sp_request *request)
{
    sp_error error;
    sp_sequence *sequence;
    assert_ok(sp_sequence_open(&f->host, request, NULL, NULL, &sequence, &error), error);
    sp_stream *own = sequence->stream;
    sp_stream *narrow = sp_stream_open(&(sp_stream_options){
        .max_piece = 2048, .n_events = 16, .wake = sp_scheduler_wake, .wake_context = f->scheduler});
    sequence->stream = narrow;
    sp_stream_finish(own, &(sp_event){.type = SP_EVENT_ERROR});
    sp_stream_free(own);
    assert_ok(sp_scheduler_submit(f->scheduler, sequence, &error), error);
    return narrow;
}

/* A reader that lags leaves the batch, keeps its pages, and gets the same text later. */
static void test_lagging_reader(void **state)
{
    (void)state;
    int32_t ids[4] = {9, 8, 7, 6};
    sp_scheduler_options options = usual;
    options.max_sequences = 1;
    fixture f;
    sp_error error;
    sp_stream *slow, *other;
    output out;
    open_fixture(&f, &options, 1);
    sp_request request = plain(ids, 4, 508), small = plain(ids, 4, 10);
    slow = submit_narrow(&f, &request);
    int steps = 0;
    while (sp_scheduler_step(f.scheduler)) steps++;
    assert_int_equal(steps, 16);
    expect_stats(&f, 1, 0, 8);
    assert_ok(submit(&f, &small, &other, &error), error); /* takes the place */
    run_to_end(&f, other, &out);
    assert_true(out.done && out.n == 10);
    uint32_t total = 0;
    for (bool ended = false; !ended;) {
        sp_event event;
        sp_stream_read(slow, &event);
        if (event.type == SP_EVENT_NONE) assert_true(sp_scheduler_step(f.scheduler));
        total += event.type == SP_EVENT_TOKEN;
        if (event.type == SP_EVENT_TOKEN && total <= 10) assert_int_equal(event.token, out.tokens[total - 1]);
        ended = event.type == SP_EVENT_DONE;
    }
    assert_int_equal(total, 508);
    sp_stream_free(slow);
    close_fixture(&f);
}

/* Random operations; the pool's assertions and the counts must hold after each. */
static void test_random_operations(void **state)
{
    (void)state;
    enum { N = 24 };
    static case_request cases[N];
    static output outs[N];
    sp_stream *streams[N] = {NULL};
    test_random random = {77};
    sp_scheduler_options options = usual;
    options.n_pages = 14;
    options.max_queue = 6;
    options.queue_timeout = 30;
    options.request_timeout = 120;
    options.clock = read_fake_time;
    fixture f;
    sp_error error;
    uint64_t accepted = 0, busy = 0;
    open_fixture(&f, &options, 2);
    for (int step = 0; step < 4000; step++) {
        size_t i = test_random_below(&random, N);
        switch (test_random_below(&random, 8)) {
        case 0:
        case 1:
            if (streams[i]) break;
            make_request(&random, 200, 60, &cases[i]);
            memset(&outs[i], 0, sizeof outs[i]);
            sp_status status = submit(&f, &cases[i].request, &streams[i], &error);
            if (status != SP_OK) streams[i] = NULL;
            assert_true(status == SP_OK || status == SP_BUSY);
            accepted += status == SP_OK;
            busy += status == SP_BUSY;
            break;
        case 2:
            if (streams[i]) sp_stream_cancel(streams[i]);
            break;
        case 3:
            if (test_random_below(&random, 4) == 0) sp_stream_free(streams[i]), streams[i] = NULL;
            break;
        case 4:
            fake_time += test_random_unit(&random);
            break;
        default:
            sp_scheduler_step(f.scheduler);
        }
        if (streams[i] && drain(streams[i], &outs[i])) {
            sp_stream_free(streams[i]);
            streams[i] = NULL;
        }
        sp_stats stats;
        sp_scheduler_stats(f.scheduler, &stats);
        assert_true(stats.kv_pages_used <= 14 && stats.running <= 16);
        assert_true(stats.kv_pages_used >= stats.running);
    }
    for (int i = 0; i < N; i++) sp_stream_free(streams[i]);
    sp_scheduler_step(f.scheduler);
    sp_stats stats;
    sp_scheduler_stats(f.scheduler, &stats);
    uint64_t ends =
        stats.finished_stop + stats.finished_length + stats.finished_cancelled + stats.finished_error;
    assert_int_equal(ends, accepted);
    assert_true(busy > 0 && stats.finished_length > 20 && stats.finished_cancelled > 20);
    close_fixture(&f);
}

/* --- with the engine thread --- */

static void *run_engine(void *context)
{
    sp_scheduler_run(context);
    return NULL;
}

typedef struct client {
    fixture *f;
    uint64_t seed;
    atomic_int *done;
} client;

static void *run_client(void *context)
{
    client *c = context;
    test_random random = {c->seed};
    static _Thread_local case_request request;
    for (int round = 0; round < 15; round++) {
        sp_error error;
        sp_stream *stream;
        make_request(&random, 100, 30, &request);
        if (submit(c->f, &request.request, &stream, &error) != SP_OK) continue;
        uint64_t leave = test_random_below(&random, 40);
        for (uint64_t i = 0; i < leave; i++) {
            sp_event event;
            sp_stream_wait(stream, 5, &event);
            if (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR) continue;
            atomic_fetch_add(c->done, 1);
            break;
        }
        sp_stream_free(stream);
    }
    return NULL;
}

static void add_one(void *context)
{
    (*(int *)context)++;
}

static void test_with_threads(void **state)
{
    (void)state;
    enum { CLIENTS = 4 };
    fixture f;
    pthread_t engine, threads[CLIENTS];
    client clients[CLIENTS];
    atomic_int done = 0;
    int calls = 0;
    sp_error error;
    sp_stats stats;
    open_fixture(&f, &usual, 2);
    assert_int_equal(pthread_create(&engine, NULL, run_engine, f.scheduler), 0);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (client){&f, (uint64_t)i + 1, &done};
        assert_int_equal(pthread_create(&threads[i], NULL, run_client, &clients[i]), 0);
    }
    for (int i = 0; i < 50; i++) assert_ok(sp_scheduler_call(f.scheduler, add_one, &calls, &error), error);
    for (int i = 0; i < CLIENTS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(calls, 50);
    assert_true(atomic_load(&done) > 0);
    double start = sp_now();
    do sp_scheduler_stats(f.scheduler, &stats); /* what was left is freed without anybody asking */
    while ((stats.running > 0 || stats.waiting > 0) && sp_now() - start < 60);

    /* what runs when the engine closes is told so */
    int32_t ids[4] = {1, 2, 3, 4};
    sp_request request = plain(ids, 4, 500);
    sp_stream *stream, *refused;
    static output out;
    stream = submit_narrow(&f, &request); /* it cannot end, nobody reads */
    sp_scheduler_stop(f.scheduler);
    pthread_join(engine, NULL);
    assert_int_equal(submit(&f, &request, &refused, &error), SP_UNAVAILABLE);
    assert_int_equal(sp_scheduler_call(f.scheduler, add_one, &calls, &error), SP_UNAVAILABLE);
    sp_scheduler_close(f.scheduler);
    assert_true(drain(stream, &out));
    assert_true(!out.done && out.error.status == SP_UNAVAILABLE);
    sp_stream_free(stream); /* later than the engine */
    fake_model_close(&f.model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_same_bits_in_company),   cmocka_unit_test(test_admission),
    cmocka_unit_test(test_admission_after_an_end), cmocka_unit_test(test_what_is_refused),
    cmocka_unit_test(test_prefill_only),           cmocka_unit_test(test_failures_stay_local),
    cmocka_unit_test(test_ends_of_text),           cmocka_unit_test(test_lagging_reader),
    cmocka_unit_test(test_random_operations),      cmocka_unit_test(test_with_threads),
};
TEST_MAIN(tests)
