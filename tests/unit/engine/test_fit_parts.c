/* The small parts of a fit against plain definitions: eigenpairs, gold rows, k-means, spaces and their
 * derivatives, the text's windows. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/sparsefinder/gold.h"
#include "engine/sparsefinder/kmeans.h"
#include "engine/sparsefinder/linalg.h"
#include "engine/sparsefinder/maps.h"
#include "engine/sparsefinder/fit_text.h"
#include "engine/sparsefinder/train.h"
#include "kernels/device.h"
#include "models/model.h"

static sp_device *device;

static void assert_near(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.9g, not %.9g within %.2g", value, expected, tolerance);
}

static int open_all(void **state)
{
    sp_error error = {0};
    sp_device_options options = {.n_threads = 1};
    (void)state;
    assert_ok(sp_device_open("cpu", &options, &device, &error), error);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    sp_device_close(device);
    return 0;
}

static void test_eigen(void **state)
{
    enum { SIZE = 12 };
    test_random random = {.state = 3};
    double a[SIZE * SIZE], copy[SIZE * SIZE], values[SIZE], vectors[SIZE * SIZE];
    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        for (size_t k = 0; k <= i; k++) a[i * SIZE + k] = a[k * SIZE + i] = test_random_gauss(&random);
    memcpy(copy, a, sizeof a);
    sp_eigen_symmetric(SIZE, copy, values, vectors);
    for (size_t v = 0; v < SIZE; v++) {
        double norm = 0;
        assert_true(v == 0 || values[v] <= values[v - 1]);
        for (size_t i = 0; i < SIZE; i++) {
            double sum = 0;
            for (size_t k = 0; k < SIZE; k++) sum += a[i * SIZE + k] * vectors[v * SIZE + k];
            assert_near(sum, values[v] * vectors[v * SIZE + i], 1e-9);
            norm += vectors[v * SIZE + i] * vectors[v * SIZE + i];
        }
        assert_near(norm, 1, 1e-9);
    }
    /* the root of B = A A^T, times itself */
    double b[SIZE * SIZE], root[SIZE * SIZE], square[SIZE * SIZE], work[2 * SIZE * SIZE + SIZE];
    sp_matrix_product(SIZE, SIZE, SIZE, a, a, b);
    memcpy(copy, b, sizeof b);
    sp_matrix_power(SIZE, copy, 0.5, root, work);
    sp_matrix_product(SIZE, SIZE, SIZE, root, root, square);
    for (size_t i = 0; i < SIZE * SIZE; i++) assert_near(square[i], b[i], 1e-4);
}

/* The weights of the reference normalizer say which keys are gold. */
static void test_gold(void **state)
{
    enum { SIZE = 333 };
    static const float alphas[] = {1.25f, 1.5f, 2.0f};
    test_random random = {.state = 8};
    float scores[SIZE], weights[SIZE], p[SIZE], scratch[SIZE];
    uint32_t keys[SIZE];
    (void)state;
    for (int round = 0; round < 60; round++) {
        size_t n = 1 + (size_t)test_random_below(&random, SIZE);
        test_random_fill(&random, scores, n, round % 2 ? 4.0f : 0.3f);
        for (size_t a = 0; a < COUNT_OF(alphas); a++) {
            sp_gold_rule rule = {{alphas[a]}, 0};
            memcpy(weights, scores, n * sizeof *scores);
            sp_normalize_row(rule.normalizer, weights, n);
            size_t found = sp_gold_row(device->train, &rule, scores, n, keys, p, scratch);
            for (size_t j = 0, next = 0; j < n; j++) {
                bool is_gold = next < found && keys[next] == j;
                assert_near(is_gold ? (double)p[next] : 0, (double)weights[j], 1e-5);
                next += is_gold;
            }
        }
        /* softmax: the fewest keys that hold the mass */
        sp_gold_rule rule = {{1.0f}, 0.9};
        memcpy(weights, scores, n * sizeof *scores);
        sp_normalize_row(rule.normalizer, weights, n);
        size_t found = sp_gold_row(device->train, &rule, scores, n, keys, p, scratch);
        double held = 0, least = 1;
        for (size_t e = 0; e < found; e++) {
            held += (double)weights[keys[e]];
            least = fmin(least, (double)weights[keys[e]]);
            assert_near((double)p[e], (double)weights[keys[e]], 1e-6);
        }
        assert_true(held >= 0.9 - 1e-5 && held - least < 0.9 + 1e-5);
    }
}

static void test_kmeans(void **state)
{
    enum { POINTS = 600, DIM = 3, CLUSTERS = 4 };
    test_random random = {.state = 21};
    float points[POINTS * DIM], centroids[CLUSTERS * DIM], again[CLUSTERS * DIM];
    double gap;
    sp_error error = {0};
    (void)state;
    for (size_t i = 0; i < POINTS; i++) /* four corners, far apart */
        for (size_t r = 0; r < DIM; r++)
            points[i * DIM + r] =
                (r < 2 && (i % CLUSTERS) >> r & 1 ? 20.0f : 0.0f) + (float)test_random_gauss(&random);
    sp_random seed = sp_random_open(0, 2, 3, 4);
    assert_ok(sp_kmeans(device->train, &seed, SP_KMEANS_SPREAD, POINTS, DIM, points, CLUSTERS, 15, centroids,
                        &gap, &error),
              error);
    for (size_t c = 0; c < CLUSTERS; c++) { /* each corner has one, at the mean of its points */
        bool found = false;
        for (size_t k = 0; k < CLUSTERS; k++) {
            double off = 0;
            for (size_t r = 0; r < DIM; r++) {
                double mean = 0;
                for (size_t i = c; i < POINTS; i += CLUSTERS) mean += (double)points[i * DIM + r];
                mean /= POINTS / CLUSTERS;
                off = fmax(off, fabs(mean - (double)centroids[k * DIM + r]));
            }
            found = found || off < 1e-4;
        }
        assert_true(found);
    }
    assert_true(gap > 250); /* the next corner is 20 away */
    seed = sp_random_open(0, 2, 3, 4);
    assert_ok(sp_kmeans(device->train, &seed, SP_KMEANS_SPREAD, POINTS, DIM, points, CLUSTERS, 15, again,
                        NULL, &error),
              error);
    assert_memory_equal(centroids, again, sizeof centroids);
}

/* --- spaces --- */

enum { TOKENS = 40, STRIDE = 80, RANK = 5, CENTROIDS = 6 };

typedef struct space_case {
    sp_space space;
    _Alignas(64) float q[RANK * STRIDE];
    _Alignas(64) float k[RANK * STRIDE];
    float centroids[CENTROIDS * RANK], pull[TOKENS * TOKENS];
} space_case;

/* sum of pull x score, the score as its definition says. */
static double score_of(const space_case *c)
{
    double total = 0;
    for (size_t i = 0; i < TOKENS; i++)
        for (size_t j = 0; j < TOKENS; j++) {
            double dot = 0, distance = 0, same = 0, sums[2] = {0, 0}, parts[2][CENTROIDS];
            for (size_t r = 0; r < RANK; r++) {
                double a = (double)c->q[r * STRIDE + i], b = (double)c->k[r * STRIDE + j];
                dot += a * b;
                distance += (a - b) * (a - b);
            }
            for (size_t m = 0; m < CENTROIDS; m++)
                for (int side = 0; side < 2; side++) {
                    double d = 0;
                    for (size_t r = 0; r < RANK; r++) {
                        double x = (double)(side ? c->k[r * STRIDE + j] : c->q[r * STRIDE + i]);
                        d += pow(x - (double)c->centroids[m * RANK + r], 2);
                    }
                    parts[side][m] = exp(-(double)c->space.beta * d);
                    sums[side] += parts[side][m];
                }
            for (size_t m = 0; m < CENTROIDS; m++) same += parts[0][m] / sums[0] * parts[1][m] / sums[1];
            double b = (double)c->space.offset;
            double x = c->space.kind == SP_SPACE_DOT        ? dot + b
                       : c->space.kind == SP_SPACE_DISTANCE ? b - distance
                                                            : same;
            total += (double)c->pull[i * TOKENS + j] * x;
        }
    return total;
}

static double slope_at(const space_case *c, float *at)
{
    const float step = 0x1p-9f, old = *at;
    *at = old + step;
    double high = score_of(c);
    *at = old - step;
    double low = score_of(c);
    *at = old;
    return (high - low) / (2 * (double)step);
}

static void check_space(space_case *c)
{
    static _Alignas(64) float q_codes[64 * STRIDE], k_codes[64 * STRIDE], dq[64 * STRIDE], dk[64 * STRIDE],
        dq_codes[64 * STRIDE], dk_codes[64 * STRIDE], work[4096], dcentroids[CENTROIDS * RANK];
    const sp_train_ops *ops = device->train;
    size_t codes = sp_space_codes(&c->space);
    float doffset = 0;
    assert_true(sp_space_work(&c->space, STRIDE) <= COUNT_OF(work));
    sp_space_forward(ops, &c->space, true, TOKENS, STRIDE, c->q, q_codes);
    sp_space_forward(ops, &c->space, false, TOKENS, STRIDE, c->k, k_codes);
    double total = 0;
    memset(dq_codes, 0, sizeof dq_codes);
    memset(dk_codes, 0, sizeof dk_codes);
    for (size_t i = 0; i < TOKENS; i++)
        for (size_t j = 0; j < TOKENS; j++)
            for (size_t r = 0; r < codes; r++) {
                float pull = c->pull[i * TOKENS + j];
                total += (double)pull * (double)q_codes[r * STRIDE + i] * (double)k_codes[r * STRIDE + j];
                dq_codes[r * STRIDE + i] += pull * k_codes[r * STRIDE + j];
                dk_codes[r * STRIDE + j] += pull * q_codes[r * STRIDE + i];
            }
    assert_near(total, score_of(c), 1e-3);
    memset(dq, 0, sizeof dq);
    memset(dk, 0, sizeof dk);
    memset(dcentroids, 0, sizeof dcentroids);
    sp_space_backward(ops, &c->space, true, TOKENS, STRIDE, c->q, q_codes, dq_codes, dq, &doffset, dcentroids,
                      work);
    sp_space_backward(ops, &c->space, false, TOKENS, STRIDE, c->k, k_codes, dk_codes, dk, &doffset,
                      dcentroids, work);
    for (size_t r = 0; r < RANK; r++)
        for (size_t t = 0; t < TOKENS; t += 3) {
            size_t at = r * STRIDE + t;
            assert_near((double)dq[at], slope_at(c, &c->q[at]), 5e-3);
            assert_near((double)dk[at], slope_at(c, &c->k[at]), 5e-3);
        }
    for (size_t i = 0; c->space.kind == SP_SPACE_CLUSTER && i < CENTROIDS * RANK; i++)
        assert_near((double)dcentroids[i], slope_at(c, &c->centroids[i]), 5e-3);
    if (c->space.kind != SP_SPACE_CLUSTER) assert_near((double)doffset, slope_at(c, &c->space.offset), 5e-3);
}

static void test_spaces(void **state)
{
    static _Alignas(64) space_case c;
    test_random random = {.state = 99};
    (void)state;
    for (int kind = SP_SPACE_DOT; kind <= SP_SPACE_CLUSTER; kind++) {
        test_random_fill(&random, c.q, COUNT_OF(c.q), 0.7f);
        test_random_fill(&random, c.k, COUNT_OF(c.k), 0.7f);
        test_random_fill(&random, c.centroids, COUNT_OF(c.centroids), 0.7f);
        test_random_fill(&random, c.pull, COUNT_OF(c.pull), 0.1f);
        c.space = (sp_space){(sp_space_kind)kind, RANK, CENTROIDS, 0.3f, 1.2f, c.centroids};
        check_space(&c);
    }
}

/* Folded maps of raw inputs are the standard maps of standardised ones. */
static void test_fold(void **state)
{
    enum { DIM = 6, MAPS = 4 };
    const sp_maps_shape shape = {2, DIM, MAPS, 0};
    test_random random = {.state = 4};
    float numbers[256], folded_numbers[256], moments[6 * DIM];
    assert_true(sp_maps_count(&shape) <= COUNT_OF(numbers));
    (void)state;
    test_random_fill(&random, numbers, COUNT_OF(numbers), 1);
    test_random_fill(&random, moments, COUNT_OF(moments), 1);
    for (size_t i = 0; i < COUNT_OF(moments); i++) moments[i] = 0.2f + fabsf(moments[i]);
    sp_maps maps = sp_maps_view(&shape, numbers), folded = sp_maps_view(&shape, folded_numbers);
    const sp_moments m = {moments, moments + 2 * DIM, moments + 4 * DIM, moments + 5 * DIM};
    sp_maps_fold(&maps, &m, &folded);
    for (size_t h = 0; h < 2; h++)
        for (size_t r = 0; r < MAPS; r++) {
            double raw = (double)folded.q_bias[h * MAPS + r], standard = (double)maps.q_bias[h * MAPS + r];
            for (size_t i = 0; i < DIM; i++) {
                double x = (double)(i + 1) * 0.7 - 2;
                double mean = (double)m.q_mean[h * DIM + i], deviation = (double)m.q_deviation[h * DIM + i];
                raw += (double)folded.q[(h * MAPS + r) * DIM + i] * x;
                standard += (double)maps.q[(h * MAPS + r) * DIM + i] * (x - mean) / deviation;
            }
            assert_near(raw, standard, 1e-4);
        }
}

/* --- the text --- */

static void test_text(void **state)
{
    sp_error error = {0};
    sp_model *model;
    sp_model_options options = {0};
    sp_fit_text all, some;
    const char *paths[] = {SPARSED_ROOT "/models/austen/train-sample.txt",
                           SPARSED_ROOT "/models/austen/heldout.txt"};
    (void)state;
    assert_ok(sp_model_open(SPARSED_ROOT "/models/austen", device, &options, &model, &error), error);
    assert_ok(sp_fit_text_open(model->tokenizer, paths, 2, 100, 0, &all, &error), error);
    assert_ok(sp_fit_text_open(model->tokenizer, paths, 2, 100, 1050, &some, &error), error);
    assert_int_equal(some.n_windows, 10);
    assert_string_equal(all.sha256, some.sha256);
    for (size_t w = 0; w < 10; w++)
        assert_memory_equal(some.ids + w * 100, all.ids + w * all.n_windows / 10 * 100, 400);
    sp_fit_text_close(&some);
    assert_int_equal(sp_fit_text_open(model->tokenizer, paths, 2, 100, 150, &some, &error), SP_DATA);
    sp_fit_text_close(&some);
    paths[1] = "/nowhere";
    assert_int_equal(sp_fit_text_open(model->tokenizer, paths, 2, 100, 0, &some, &error), SP_NOT_FOUND);
    sp_fit_text_close(&some);
    sp_fit_text_close(&all);
    sp_model_close(model);
}

/* Case R13: two edges and the two keys left, one hinge around both sums; and a row that is beyond the margin.
 */
static void test_hinge(void **state)
{
    (void)state;
    static const float query[] = {0, 0, 0, 0}, keys[] = {.5f, 0, 1, 0, 0, 1, 0, .5f}; /* (rank, length) */
    static const uint32_t edges[] = {0, 1, 0, 3};
    const size_t begins[] = {0, 2};
    sp_random random = {0};
    float dq[4] = {0}, dk[8] = {0};
    uint8_t marks[4] = {0};
    uint32_t others[4];
    assert_near(sp_hinge_rows(&random, 2, 1, 4, query, keys, 4, begins, edges, dq, dk, marks, others), 1,
                1e-12);
    static const float by_q[] = {1, -1}, by_k[] = {1, 0, -2, 0, 0, 2, 0, -1};
    assert_memory_equal(dq, by_q, sizeof by_q);
    for (size_t i = 0; i < 8; i++) assert_near((double)dk[i], (double)by_k[i], 0);
    static const uint8_t clear[4];
    assert_memory_equal(marks, clear, sizeof clear);
    static const float far[] = {0, 2, 2, 0, 0, 0, 0, 0};
    memset(dq, 0, sizeof dq);
    assert_near(sp_hinge_rows(&random, 2, 1, 4, query, far, 4, begins, edges + 2, dq, dk, marks, others), 0,
                0);
    assert_near((double)dq[0], 0, 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_eigen),  cmocka_unit_test(test_gold), cmocka_unit_test(test_kmeans),
    cmocka_unit_test(test_spaces), cmocka_unit_test(test_fold), cmocka_unit_test(test_text),
    cmocka_unit_test(test_hinge),
};

int main(void)
{
    return cmocka_run_group_tests(tests, open_all, close_all) == 0 ? 0 : 1;
}
