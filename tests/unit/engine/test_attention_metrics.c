/* Counting gold against predicted edges: the worked case R12 and the softmax cut. */
#include "tests/support/test.h"

#include "engine/attention/metrics.h"

/* Adds rows of 4 keys, digits 0 and 1; causal rows see row + 1 of them, others `length`. */
static sp_head_measure measured(const char *const *gold, const char *const *predicted, uint32_t length,
                                bool causal)
{
    sp_head_measure measure = {0};
    for (uint32_t i = 0; i < length; i++) {
        float weights[4];
        uint32_t keys[4], allowed = causal ? i + 1 : length;
        size_t n = 0;
        for (uint32_t j = 0; j < allowed; j++) {
            weights[j] = gold[i][j] == '1' ? 0.25f : 0;
            if (predicted[i][j] == '1') keys[n++] = j;
        }
        sp_measure_row(&measure, (sp_normalizer){1.5f}, weights, allowed, keys, n, NULL);
    }
    return measure;
}

static void check(sp_head_measure m, const uint64_t *expected)
{
    const uint64_t got[] = {m.pairs_valid, m.edges_gold, m.edges_pred,
                            m.edges_both,  m.rows_exact, m.rows_valid};
    for (size_t i = 0; i < COUNT_OF(got); i++) assert_int_equal(got[i], expected[i]);
}

/* Causal: sparsity .3, recall and precision 5/7, half the rows exact; then all pairs; then three valid
 * tokens. */
static void test_worked_case(void **state)
{
    (void)state;
    static const char *const gold[] = {"1000", "1100", "0010", "1011"};
    static const char *const predicted[] = {"1100", "0100", "0111", "1101"};
    check(measured(gold, predicted, 4, true), (const uint64_t[]){10, 7, 7, 5, 2, 4});
    check(measured(gold, predicted, 4, false), (const uint64_t[]){16, 7, 9, 5, 2, 4});
    check(measured(gold, predicted, 3, true), (const uint64_t[]){6, 4, 4, 3, 2, 3});
}

static void test_empty_rows(void **state)
{
    (void)state;
    sp_head_measure measure = {0};
    float weights[] = {0.5f, 0.5f};
    sp_measure_row(&measure, (sp_normalizer){2.0f}, weights, 2, NULL, 0, NULL);
    sp_measure_row(&measure, (sp_normalizer){2.0f}, weights, 0, NULL, 0, NULL);
    assert_int_equal(measure.rows_empty, 2);
    assert_int_equal(measure.rows_exact, 1); /* nothing to miss in a row without gold */
    assert_true(measure.mass == 0 && measure.rows == 1);
}

/* Softmax gold: the largest weights until 0.95; the first of equals. */
static void test_softmax_cut(void **state)
{
    (void)state;
    sp_head_measure measure = {0};
    uint64_t scratch[6];
    float weights[] = {0.03f, 0.4f, 0.04f, 0.46f, 0.04f, 0.03f};
    const uint32_t predicted[] = {1, 2, 4};
    sp_measure_row(&measure, (sp_normalizer){1.0f}, weights, 6, predicted, 3, scratch);
    /* .46 + .4 = .86, + .04 = .90 (key 2), + .04 = .94 (key 4), + .03 = .97 (key 0) */
    assert_int_equal(measure.edges_gold, 5);
    assert_int_equal(measure.edges_both, 3);
    assert_true(weights[5] == 0 && weights[0] > 0);
    assert_true(measure.mass > 0.4799 && measure.mass < 0.4801);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_worked_case),
    cmocka_unit_test(test_empty_rows),
    cmocka_unit_test(test_softmax_cut),
};
TEST_MAIN(tests)
