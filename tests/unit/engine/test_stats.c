/* Histograms and end counters (engine/stats.h) against hand-counted cases. */
#include "tests/support/test.h"

#include "engine/stats.h"

static void test_buckets(void **state)
{
    (void)state;
    sp_stats stats;
    sp_stats_init(&stats);
    assert_int_equal(stats.time_to_first_token.n, 22);
    assert_int_equal(stats.inter_token.n, 19);
    assert_int_equal(stats.e2e.n, 21);
    sp_histogram *h = &stats.inter_token;
    sp_histogram_add(h, 0);
    sp_histogram_add(h, .01); /* bounds count as inside */
    sp_histogram_add(h, .011);
    sp_histogram_add(h, 80);
    sp_histogram_add(h, 81);
    assert_int_equal(h->counts[0], 2);
    assert_int_equal(h->counts[1], 1);
    assert_int_equal(h->counts[18], 1);
    assert_int_equal(h->counts[19], 1);
    assert_int_equal(h->total, 5);
    assert_true(h->sum > 161.0209 && h->sum < 161.0211);
    for (size_t i = 1; i < stats.e2e.n; i++) assert_true(stats.e2e.bounds[i] > stats.e2e.bounds[i - 1]);
}

static void test_ends(void **state)
{
    (void)state;
    sp_stats stats;
    sp_usage usage = {.prefill_seconds = 1};
    sp_stats_init(&stats);
    sp_stats_finish(&stats, &usage, SP_OK, SP_FINISH_STOP, 2);
    sp_stats_finish(&stats, &usage, SP_OK, SP_FINISH_LENGTH, 2);
    sp_stats_finish(&stats, &usage, SP_OK, SP_FINISH_LENGTH, 2);
    sp_stats_finish(&stats, &usage, SP_CANCELLED, SP_FINISH_STOP, 2);
    sp_stats_finish(&stats, &usage, SP_UNAVAILABLE, SP_FINISH_STOP, 2);
    assert_int_equal(stats.finished_stop, 1);
    assert_int_equal(stats.finished_length, 2);
    assert_int_equal(stats.finished_cancelled, 1);
    assert_int_equal(stats.finished_error, 1);
    assert_int_equal(stats.e2e.total, 3); /* what was cut short would distort times */
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_buckets), cmocka_unit_test(test_ends)};
TEST_MAIN(tests)
