/* What `auto` chooses, by the rules of choose.h, on points made up here. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "engine/attention/choose.h"

enum { DENSE, NARROW, WIDE, EXACT, LATER, READS, LONG, OTHER };

/* Prompts of 1,000 tokens take dense 1 s, a token after them .01 s. */
static sp_sweep_point point(const char *grid, double recall, double increase, double prefill, double decode)
{
    return (sp_sweep_point){.attention = "{}",
                            .grid = grid,
                            .value = 7,
                            .device = "cpu",
                            .length = 1000,
                            .density = 0.5,
                            .recall = recall,
                            .mass = recall,
                            .perplexity = 20 * (1 + increase),
                            .perplexity_dense = 20,
                            .prefill_seconds = prefill,
                            .prefill_seconds_dense = 1,
                            .decode_seconds = decode,
                            .decode_seconds_dense = 0.01};
}

static void fill(sp_sweep *sweep)
{
    sp_error error = {0};
    sp_sweep_point points[] = {
        [DENSE] = point("dense", 1, 0, 0.5, 0.005),    [NARROW] = point("narrow", 0.5, 0.1, 0.2, 0.002),
        [WIDE] = point("wide", 0.9, 0.01, 0.6, 0.007), [EXACT] = point("exact", 0.99, -0.001, 0.9, 0.008),
        [LATER] = point("later", 1, -0.5, 0.01, NAN),  [READS] = point("reads", 0.9, 0.01, 0.3, 0.02),
        [LONG] = point("long", 0.8, 0.02, 0.5, 0.005), [OTHER] = point("other", 1, 0, 0.01, 0.0001),
    };
    points[DENSE].density = 1;
    points[LATER].sees_later = true;
    points[LONG].length = 4000;
    points[OTHER].device = "cuda";
    sp_sweep_init(sweep);
    for (size_t i = 0; i < COUNT_OF(points); i++) assert_ok(sp_sweep_add(sweep, &points[i], &error), error);
}

static bool any(void *context, const sp_sweep_point *p)
{
    return !context || strcmp(p->grid, context) != 0; /* context: a curve that cannot be run */
}

/* The index of what is chosen, DENSE for none. */
static size_t chosen(const sp_sweep *sweep, uint32_t n_prompt, uint32_t n_new, double recall,
                     double perplexity, const char *without, const char *words)
{
    char reason[160];
    const sp_choice choice = {.n_prompt = n_prompt,
                              .n_new = n_new,
                              .max_recall_loss = recall,
                              .max_perplexity_increase = perplexity,
                              .device = "cpu",
                              .usable = any,
                              .context = (void *)without};
    const sp_sweep_point *p = sp_choose(sweep, &choice, reason, sizeof reason);
    if (words && !strstr(reason, words)) fail_msg("\"%s\" lacks \"%s\"", reason, words);
    return p ? (size_t)(p - sweep->points) : DENSE;
}

static void test_budgets(void **state)
{
    (void)state;
    sp_sweep sweep;
    fill(&sweep);
    /* without a budget nothing may be lost: only "exact" is no worse than dense */
    assert_int_equal(chosen(&sweep, 500, 500, NAN, NAN, NULL, "exact 7: 0.81 of dense's time"), EXACT);
    assert_int_equal(chosen(&sweep, 500, 500, NAN, 0.11, NULL, "perplexity +10.00 %, recall 0.500"), NARROW);
    assert_int_equal(chosen(&sweep, 500, 500, NAN, 0.05, NULL, "at 1000 tokens"), WIDE);
    assert_int_equal(chosen(&sweep, 500, 500, 0.1, NAN, NULL, NULL), WIDE);
    assert_int_equal(chosen(&sweep, 500, 500, 0.1, 0.005, NULL, NULL), EXACT); /* both budgets hold */
    assert_int_equal(chosen(&sweep, 500, 500, 0.001, 1, NULL, "nothing within the budget"), DENSE);
    sp_sweep_fini(&sweep);
}

static void test_seconds(void **state)
{
    (void)state;
    sp_sweep sweep;
    fill(&sweep);
    /* prompt alone: "reads" .3 of dense; 1,000 and 10: (.3 + .2) / 1.1 against (.6 + .07) / 1.1; 500 and 500:
     * (.15 + 10) / 5.5 against (.3 + 3.5) / 5.5 */
    assert_int_equal(chosen(&sweep, 1000, 0, NAN, 0.02, NULL, "0.30 of dense's"), READS);
    assert_int_equal(chosen(&sweep, 1000, 10, NAN, 0.02, NULL, "0.45 of dense's"), READS);
    assert_int_equal(chosen(&sweep, 500, 500, NAN, 0.02, NULL, "0.69 of dense's"), WIDE);
    assert_int_equal(chosen(&sweep, 1000, 0, NAN, 0, NULL, NULL), EXACT); /* .9 */
    sweep.points[EXACT].prefill_seconds = 0.96;
    assert_int_equal(chosen(&sweep, 1000, 0, NAN, 0, NULL, "twentieth"), DENSE);
    sp_sweep_fini(&sweep);
}

static void test_lengths_and_use(void **state)
{
    (void)state;
    sp_sweep sweep;
    fill(&sweep);
    assert_int_equal(chosen(&sweep, 1990, 0, NAN, 0.5, NULL, NULL), NARROW);
    assert_int_equal(chosen(&sweep, 2000, 0, NAN, 0.5, NULL, "at 4000"), LONG); /* as near: the longer */
    assert_int_equal(chosen(&sweep, 9, 90000, NAN, 0.5, NULL, NULL), LONG);
    assert_int_equal(chosen(&sweep, 1, 0, NAN, 0.5, NULL, NULL), NARROW);
    assert_int_equal(chosen(&sweep, 1000, 0, NAN, 0.5, "narrow", NULL), READS);
    sweep.n_points = 0;
    assert_int_equal(chosen(&sweep, 1000, 0, NAN, 0.5, NULL, "no sweep.json"), DENSE);
    sp_sweep_fini(&sweep);
    assert_int_equal(chosen(NULL, 1000, 0, NAN, 0.5, NULL, "no sweep.json"), DENSE);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_budgets),
    cmocka_unit_test(test_seconds),
    cmocka_unit_test(test_lengths_and_use),
};
TEST_MAIN(tests)
