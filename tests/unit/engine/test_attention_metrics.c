/* Counting gold against predicted edges: the worked case R12 and the softmax cut. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

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

static void assert_text(const sp_head_measure *measure, const char *words)
{
    sp_buffer text;
    sp_json_writer json;
    sp_buffer_init(&text, 4096);
    sp_json_writer_init(&json, &text);
    sp_json_open(&json, '{');
    sp_measure_write(measure, &json);
    sp_json_close(&json, '}');
    sp_buffer_append(&text, "", 1);
    assert_false(text.failed);
    if (!strstr(text.data, words)) fail_msg("%s lacks %s", text.data, words);
    sp_buffer_fini(&text);
}

/* The ratios of R12, and sums of two sequences: 10 + 6 pairs, 7 + 4 gold, 5 + 3 both, 2 + 2 rows exact.
 */
static void test_ratios(void **state)
{
    (void)state;
    static const char *const gold[] = {"1000", "1100", "0010", "1011"};
    static const char *const predicted[] = {"1100", "0100", "0111", "1101"};
    sp_head_measure four = measured(gold, predicted, 4, true), three = measured(gold, predicted, 3, true);
    assert_text(&four, "\"recall\":0.714285714285714"); /* 5 / 7 */
    assert_text(&four, "\"precision\":0.714285714285714");
    assert_text(&four, "\"sparsity\":0.3,");
    sp_head_measure all = measured(gold, predicted, 4, false);
    assert_text(&all, "\"sparsity\":0.4375,\"sparsity_gold\":0.5625}");
    assert_text(&all, "\"precision\":0.555555555555555"); /* 5 / 9 */
    assert_text(&three, "\"recall\":0.75,\"precision\":0.75,\"sparsity\":0.333333333333333");
    sp_measure_add(&four, &three);
    check(four, (const uint64_t[]){16, 11, 11, 8, 4, 7});
    assert_true(four.rows == 7);
}

/* R13: ids 0, 0, 1, 2 of four clusters have entropy .75 (1.039721 of log 4), an even spread 1; 20 items in 4
 * clusters cost 100 of 400 products. */
static void test_clusters(void **state)
{
    (void)state;
    assert_true(fabs(sp_cluster_entropy((const uint64_t[]){2, 1, 1, 0}, 4) - 0.75) <= 1e-12);
    assert_true(fabs(sp_cluster_entropy((const uint64_t[]){2, 1, 1, 0}, 4) * log(4) - 1.039721) <= 1e-6);
    assert_true(fabs(sp_cluster_entropy((const uint64_t[]){3, 3, 3, 3}, 4) - 1) <= 1e-12);
    assert_true(fabs(sp_cluster_entropy((const uint64_t[]){0, 9, 0, 0}, 4) - 0) <= 0);
    assert_true(isnan(sp_cluster_entropy((const uint64_t[]){0, 0}, 2)));
    assert_int_equal(sp_balanced_operations(20, 4), 100);
    assert_int_equal(sp_balanced_operations(21, 4), 144); /* clusters of 6 */
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_worked_case), cmocka_unit_test(test_empty_rows), cmocka_unit_test(test_softmax_cut),
    cmocka_unit_test(test_ratios),      cmocka_unit_test(test_clusters),
};
TEST_MAIN(tests)
