/* Normalizers: the spec's printed cases R1, R2, R3, and 10^5 random rows against two other algorithms in
 * float64: sorting (entmax 1.5 and 2) and bisection (any alpha), ties, flat rows, single keys and huge scores
 * among them. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/normalizer.h"
#include "tests/support/random.h"

#define MAX_ROW 3000

static void expect_row(float alpha, const float *scores, size_t n, const float *expected, double tolerance)
{
    float row[8];
    memcpy(row, scores, n * sizeof *row);
    size_t positive = 0, got = sp_normalize_row((sp_normalizer){alpha}, row, n);
    for (size_t i = 0; i < n; i++) {
        assert_float_equal(row[i], expected[i], tolerance);
        positive += expected[i] > 0;
    }
    assert_int_equal(got, positive);
}

static void test_r1(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        float scores[5], entmax15[5], sparsemax[5], alpha125[5];
    } cases[] = {
        {3, {-2, 0, .5f}, {0, .326007f, .673993f}, {0, .25f, .75f}, {.005339f, .352110f, .642551f}},
        {4,
         {1, .5f, .25f, -1},
         {.584057f, .264439f, .151505f, 0},
         {.75f, .25f, 0, 0},
         {.519264f, .274580f, .191341f, .014815f}},
        {5,
         {.7f, .3f, -.2f, -.9f, -1.4f},
         {.583515f, .317963f, .098522f, 0, 0},
         {.7f, .3f, 0, 0, 0},
         {.503096f, .303439f, .145107f, .038234f, .010123f}},
        {4,
         {.1f, .2f, .3f, .4f},
         {.177970f, .222657f, .272343f, .327030f},
         {.1f, .2f, .3f, .4f},
         {.199057f, .230574f, .265692f, .304677f}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        expect_row(1.5f, cases[i].scores, cases[i].n, cases[i].entmax15, 1e-6);
        expect_row(2, cases[i].scores, cases[i].n, cases[i].sparsemax, 1e-6);
        expect_row(1.25f, cases[i].scores, cases[i].n, cases[i].alpha125, 1e-6);
    }
    static const struct {
        float scores[4], entmax15[4], sparsemax[4];
    } more[] = {
        {{1.3f, 20, 19.5f, 1}, {0, .673993f, .326007f, 0}, {0, .75f, .25f, 0}},
        {{0, 20, 19.5f, 0}, {0, .673993f, .326007f, 0}, {0, .75f, .25f, 0}},
        {{2, 2, -5, 2}, {1 / 3.f, 1 / 3.f, 0, 1 / 3.f}, {1 / 3.f, 1 / 3.f, 0, 1 / 3.f}},
        {{0, 0, 0, 0}, {.25f, .25f, .25f, .25f}, {.25f, .25f, .25f, .25f}},
    };
    for (size_t i = 0; i < COUNT_OF(more); i++) {
        expect_row(1.5f, more[i].scores, 4, more[i].entmax15, 1e-6);
        expect_row(2, more[i].scores, 4, more[i].sparsemax, 1e-6);
    }
    expect_row(1.5f, (float[]){10, 0}, 2, (float[]){1, 0}, 0);
    expect_row(1.5f, (float[]){3, 1, .2f}, 3, (float[]){1, 0, 0}, 0); /* a tie at the threshold */
}

static void test_thresholds(void **state)
{
    (void)state;
    /* R1's tau is absolute: relative to the maximum of z = s / 2 it is less by that maximum. */
    static const float a[] = {.5f, .25f, .125f, -.5f}, b[] = {.35f, .15f, -.1f, -.45f, -.7f},
                       tie[] = {1.5f, .5f, .1f};
    assert_float_equal((sp_entmax_threshold(1.5f, a, 4) + .5), -.264236, 1e-6);
    assert_float_equal((sp_entmax_threshold(1.5f, b, 5) + .35), -.413882, 1e-6);
    assert_float_equal((sp_entmax_threshold(1.5f, tie, 3) + 1.5), .5, 0);
}

static void test_r2(void **state)
{
    (void)state;
    expect_row(1.33f, (float[]){-1, 0, .5f}, 3, (float[]){.0460f, .3276f, .6264f}, 5e-5);
}

static void test_r3(void **state)
{
    (void)state;
    expect_row(1.5f, (float[]){-.707107f, 1.414214f, -2.121320f, 0}, 4, (float[]){0, .933013f, 0, .066987f},
               1e-6);
    expect_row(1.5f, (float[]){1.414214f, 0}, 2, (float[]){.933013f, .066987f}, 1e-6);
    expect_row(1.5f, (float[]){-.707107f, 1.414214f, -2.121320f}, 3, (float[]){0, 1, 0}, 1e-6);
    expect_row(1.5f, (float[]){-.707107f, -2.121320f, 0}, 3, (float[]){.257939f, 0, .742061f}, 1e-6);
}

static void test_empty_and_masked_rows(void **state)
{
    (void)state;
    static const float alphas[] = {1, 1.33f, 1.5f, 2};
    for (size_t a = 0; a < COUNT_OF(alphas); a++) {
        sp_normalizer normalizer = {alphas[a]};
        float row[3] = {-INFINITY, -INFINITY, -INFINITY};
        assert_int_equal(sp_normalize_row(normalizer, row, 0), 0);
        assert_int_equal(sp_normalize_row(normalizer, row, 3), 0);
        for (int i = 0; i < 3; i++) assert_float_equal(row[i], 0, 0);
        row[0] = row[2] = -INFINITY;
        row[1] = -7;
        assert_int_equal(sp_normalize_row(normalizer, row, 3), 1);
        assert_float_equal(row[0], 0, 0);
        assert_float_equal(row[1], 1, 0);
    }
}

/* 0.01^20 is below float32: still a positive weight, so the gold graph has the edge; at tau it has not. */
static void test_tiny_weights_stay_edges(void **state)
{
    (void)state;
    float row[] = {0, -19.8f, -20.5f};
    assert_int_equal(sp_normalize_row((sp_normalizer){1.05f}, row, 3), 2);
    assert_true(row[1] > 0 && row[1] < 1e-37f);
    assert_float_equal(row[0], 1, 1e-6);
    assert_float_equal(row[2], 0, 0);
}

/* --- 10^5 rows --- */

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Threshold of z - max by sorting: entmax 1.5 and sparsemax as in spec 1.2. */
static double sort_threshold(float alpha, const double *z, size_t n)
{
    static double sorted[MAX_ROW];
    memcpy(sorted, z, n * sizeof *z);
    qsort(sorted, n, sizeof *sorted, descending);
    double sum = 0, squares = 0, tau = -1;
    for (size_t k = 1; k <= n; k++) {
        double y = sorted[k - 1], candidate;
        sum += y;
        squares += y * y;
        double mean = sum / (double)k, spread = squares - sum * mean;
        if (alpha == 2)
            candidate = (sum - 1) / (double)k;
        else
            candidate = mean - sqrt(fmax(0, (1 - spread) / (double)k));
        if (candidate > y) break;
        tau = candidate;
    }
    return tau;
}

static double bisect_threshold(float alpha, const double *z, size_t n)
{
    double low = -1, high = 0, e = 1 / ((double)alpha - 1);
    for (int step = 0; step < 54; step++) {
        double middle = (low + high) / 2, sum = 0;
        for (size_t i = 0; i < n; i++) sum += z[i] > middle ? pow(z[i] - middle, e) : 0;
        if (sum >= 1)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void draw_row(test_random *random, float *row, size_t n)
{
    static const float deviations[] = {.01f, .5f, 2, 6, 50, 1e4f};
    float deviation = deviations[test_random_below(random, COUNT_OF(deviations))];
    uint64_t kind = test_random_below(random, 6);
    for (size_t i = 0; i < n; i++) {
        row[i] = deviation * (float)test_random_gauss(random);
        if (kind == 0) row[i] = row[0];                                      /* flat */
        if (kind == 1) row[i] = rintf(row[i] * 4 / deviation) / 4;           /* ties */
        if (kind == 2) row[i] = (i % 2 ? 1e4f : -1e4f) + row[i] / deviation; /* far from 0 */
    }
}

static void check_row(test_random *random, float alpha, size_t n)
{
    static float row[MAX_ROW], weights[MAX_ROW];
    static double z[MAX_ROW];
    draw_row(random, row, n);
    memcpy(weights, row, n * sizeof *row);
    sp_normalize_row((sp_normalizer){alpha}, weights, n);
    double max = -INFINITY, sum = 0, e = 1 / ((double)alpha - 1);
    for (size_t i = 0; i < n; i++) max = fmax(max, (double)row[i]);
    for (size_t i = 0; i < n; i++) z[i] = ((double)alpha - 1) * ((double)row[i] - max);
    double tau = alpha == 1.5f || alpha == 2 ? sort_threshold(alpha, z, n) : bisect_threshold(alpha, z, n);
    for (size_t i = 0; i < n; i++) {
        double expected = z[i] > tau ? pow(z[i] - tau, e) : 0;
        if (fabs((double)weights[i] - expected) > 1e-6)
            fail_msg("alpha %g, n %zu: weight %zu is %g, not %g", (double)alpha, n, i, (double)weights[i],
                     expected);
        sum += (double)weights[i];
    }
    assert_float_equal(sum, 1, 3e-6);
}

static void test_many_rows(void **state)
{
    (void)state;
    static const float alphas[] = {1.5f, 2};
    test_random random = {21};
    for (int i = 0; i < 97000; i++) check_row(&random, alphas[i % 2], 1 + test_random_below(&random, 24));
    for (int i = 0; i < 200; i++) check_row(&random, alphas[i % 2], 1 + test_random_below(&random, MAX_ROW));
}

static void test_other_alphas(void **state)
{
    (void)state;
    static const float alphas[] = {1.05f, 1.25f, 1.33f, 1.75f, 1.999f};
    test_random random = {22};
    for (int i = 0; i < 3000; i++) check_row(&random, alphas[i % 5], 1 + test_random_below(&random, 24));
    for (int i = 0; i < 10; i++) check_row(&random, alphas[i % 5], 1 + test_random_below(&random, MAX_ROW));
}

static void test_softmax(void **state)
{
    (void)state;
    float row[] = {1e4f, 1e4f + 1, 1e4f - 2};
    assert_int_equal(sp_normalize_row((sp_normalizer){1}, row, 3), 3);
    assert_float_equal(row[0], 0.259496, 1e-6); /* 1 / (1 + e + e^-2) */
    assert_float_equal(row[1], 0.705385, 1e-6);
    assert_float_equal(row[2], 0.035119, 1e-6);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_r1),
    cmocka_unit_test(test_thresholds),
    cmocka_unit_test(test_r2),
    cmocka_unit_test(test_r3),
    cmocka_unit_test(test_many_rows),
    cmocka_unit_test(test_empty_and_masked_rows),
    cmocka_unit_test(test_tiny_weights_stay_edges),
    cmocka_unit_test(test_softmax),
    cmocka_unit_test(test_other_alphas),
};
TEST_MAIN(tests)
