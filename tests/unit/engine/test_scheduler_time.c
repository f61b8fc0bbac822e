/* Ages and rates in the scheduler (engine/scheduler.h), on a clock of the test's: how long requests may wait
 * and take, and what a client is told when the queue is full. */
#include "tests/support/test.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

#include <string.h>

#include "tests/support/scheduler_fixture.h"

/* One sequence at a time, on the test's clock; how many seconds requests may wait and take. */
static sp_scheduler_options timed(double queue, double request)
{
    sp_scheduler_options options = usual;
    options.max_sequences = 1;
    options.queue_timeout = queue;
    options.request_timeout = request;
    options.clock = read_fake_time;
    return options;
}

static void test_timeouts_and_cancel(void **state)
{
    (void)state;
    static int32_t ids[FAKE_CONTEXT];
    sp_scheduler_options options = timed(5, 20);
    fixture f;
    sp_error error;
    sp_stream *a, *b, *c;
    output out = {.n = 0};
    fake_time = 100;
    open_fixture(&f, &options, 1);
    sp_request request = plain(ids, 10, 400);
    assert_ok(submit(&f, &request, &a, &error), error);
    assert_ok(submit(&f, &request, &b, &error), error);
    assert_ok(submit(&f, &request, &c, &error), error);
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 1, 2, 7);
    fake_time += 4;
    sp_stream_cancel(c); /* while it waits */
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 1, 1, 7);
    assert_true(drain(c, &out));
    assert_int_equal(out.error.status, SP_CANCELLED);
    sp_stream_free(c);
    fake_time += 2;
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 1, 0, 7);
    assert_true(drain(b, &out));
    assert_int_equal(out.error.status, SP_UNAVAILABLE);
    assert_string_equal(out.error.param, "queue_timeout");
    sp_stream_free(b);
    out.n = 0;
    assert_false(drain(a, &out));
    fake_time += 20;
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 0, 0, 0);
    assert_true(drain(a, &out));
    assert_int_equal(out.error.status, SP_UNAVAILABLE);
    assert_string_equal(out.error.param, "request_timeout");
    sp_stream_free(a);

    assert_ok(submit(&f, &request, &a, &error), error);
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 1, 0, 7);
    sp_stream_free(a); /* while it runs, the reader gone: pages are back within a step */
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 0, 0, 0);
    sp_stats stats;
    sp_scheduler_stats(f.scheduler, &stats);
    assert_int_equal(stats.finished_cancelled, 2);
    assert_int_equal(stats.finished_error, 2);
    close_fixture(&f);
}

/* What a request spent before it was submitted counts against its time, not against the queue's. */
static void test_time_of_what_follows(void **state)
{
    (void)state;
    static int32_t ids[FAKE_CONTEXT];
    sp_scheduler_options options = timed(5, 20);
    fixture f;
    sp_error error;
    sp_stream *first, *next;
    output out = {.n = 0};
    fake_time = 100;
    open_fixture(&f, &options, 1);
    sp_request request = plain(ids, 10, 400), following = request;
    following.follows = true;
    following.spent = 17;
    assert_ok(submit(&f, &following, &first, &error), error);
    assert_ok(submit(&f, &following, &next, &error), error);
    fake_time += 2;
    sp_scheduler_step(f.scheduler);
    assert_false(drain(first, &out) || drain(next, &out));
    expect_stats(&f, 1, 1, 7);
    fake_time += 2; /* 21 seconds: the one that runs and the one that waits */
    sp_scheduler_step(f.scheduler);
    expect_stats(&f, 0, 0, 0);
    assert_true(drain(first, &out));
    assert_string_equal(out.error.param, "request_timeout");
    assert_true(drain(next, &out));
    assert_string_equal(out.error.param, "request_timeout");
    sp_stream_free(first);
    sp_stream_free(next);
    close_fixture(&f);
}

/* Seconds until a place in the queue is free follow what was seen: every request takes eleven steps of two
 * seconds; then nothing ends for a minute. */
static void test_drain_rate(void **state)
{
    (void)state;
    enum { N = 8 };
    static int32_t ids[FAKE_CONTEXT];
    sp_scheduler_options options = timed(1e6, 1e6);
    fixture f;
    sp_error error;
    sp_stream *streams[N];
    sp_stats stats;
    output out;
    open_fixture(&f, &options, 1);
    sp_scheduler_stats(f.scheduler, &stats);
    assert_true(stats.drain_seconds == 1);
    sp_request request = plain(ids, 10, 11);
    for (int i = 0; i < N; i++) assert_ok(submit(&f, &request, &streams[i], &error), error);
    for (int i = 0; i + 1 < N; i++) {
        do {
            sp_scheduler_step(f.scheduler);
            fake_time += 2;
            sp_scheduler_stats(f.scheduler, &stats);
        } while (stats.waiting + stats.running > N - 1u - (uint32_t)i);
    }
    assert_true(stats.drain_seconds > 16 && stats.drain_seconds <= 24);
    assert_int_equal(stats.running + stats.waiting, 1);
    sp_scheduler_step(f.scheduler);
    sp_stream_free(streams[0]);
    assert_ok(submit(&f, &request, &streams[0], &error), error);
    sp_scheduler_step(f.scheduler);
    fake_time += 60;
    sp_scheduler_stats(f.scheduler, &stats);
    assert_true(stats.waiting == 1 && stats.drain_seconds >= 60);
    run_to_end(&f, streams[0], &out);
    for (int i = 1; i < N; i++) sp_stream_free(streams[i]);
    close_fixture(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_timeouts_and_cancel),
    cmocka_unit_test(test_time_of_what_follows),
    cmocka_unit_test(test_drain_rate),
};
TEST_MAIN(tests)
