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
    sp_usage usage = {
        .prefill_seconds = 1, .prompt_tokens = 130, .completion_tokens = 7, .cached_tokens = 64};
    sp_attention_phase prefill = {.tokens = 130, .edges = 1000, .pairs = 4000, .attend_seconds = .5};
    sp_attention_phase decode = {.tokens = 7, .edges = 70};
    sp_stats_end end = {
        .usage = &usage, .finish = SP_FINISH_STOP, .e2e = 2, .inference = 1.5, .max_tokens = 9};
    end.backend = sp_backends[1];
    end.prefill = &prefill;
    end.decode = &decode;
    sp_stats_init(&stats);
    end.looked_up = true;
    sp_stats_finish(&stats, &end);
    end.finish = SP_FINISH_LENGTH;
    sp_stats_finish(&stats, &end);
    end.looked_up = false;
    usage.cached_tokens = 0;
    sp_stats_finish(&stats, &end);
    end.status = SP_CANCELLED;
    sp_stats_finish(&stats, &end);
    end.status = SP_UNAVAILABLE;
    sp_stats_finish(&stats, &end);
    sp_stats_step(&stats, 64);
    assert_int_equal(stats.finished_stop, 1);
    assert_int_equal(stats.finished_length, 2);
    assert_int_equal(stats.finished_cancelled, 1);
    assert_int_equal(stats.finished_error, 1);
    assert_int_equal(stats.e2e.total, 3); /* what was cut short would distort times */
    assert_int_equal(stats.inference_time.counts[4], 3);
    assert_int_equal(stats.prompt_length.counts[7], 3); /* 100 < 130 <= 200 */
    assert_int_equal(stats.generation_length.counts[3], 3);
    assert_int_equal(stats.max_tokens.sum, 27);
    assert_int_equal(stats.step_tokens.counts[6], 1);
    assert_int_equal(stats.prefix_queries, 260);
    assert_int_equal(stats.prefix_hits, 128);
    assert_int_equal(stats.prefill[1].edges, 5000); /* whatever the end */
    assert_int_equal(stats.prefill[0].edges, 0);
    assert_int_equal(stats.decode[1].tokens, 35);
    assert_true(stats.prefill[1].attend_seconds == 2.5);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_buckets), cmocka_unit_test(test_ends)};
TEST_MAIN(tests)
