/* Elementwise ops of every level that this CPU has: against double, level against level in every bit, and the
 * same bits for any cut and any number of threads. Inputs start off alignment; outputs start as NaN with
 * canaries round them. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/level.h"

#define MARGIN 17
#define CANARY 0x5a

static const size_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 576, 1000};

/* n bytes off alignment between canaries, all NaN. */
static void *guarded_new(size_t bytes)
{
    uint8_t *all = malloc(bytes + 8 * MARGIN);
    assert_non_null(all);
    memset(all, CANARY, bytes + 8 * MARGIN);
    memset(all + 4 * MARGIN, 0xff, bytes);
    return all + 4 * MARGIN;
}

static void guarded_free(void *x, size_t bytes)
{
    uint8_t *all = (uint8_t *)x - 4 * MARGIN;
    for (size_t i = 0; i < 4 * MARGIN; i++) {
        assert_int_equal(all[i], CANARY);
        assert_int_equal(all[4 * MARGIN + bytes + i], CANARY);
    }
    free(all);
}

static float *random_new(test_random *random, size_t n, float scale)
{
    float *x = guarded_new(n * sizeof *x);
    test_random_fill(random, x, n, scale);
    return x;
}

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.9g, not %.9g within %.2g", value, expected, tolerance);
}

/* Every test runs a case at all levels and compares what follows the first with the first. */
static void assert_same_bits(sp_cpu_isa level, const void *y, void *first, size_t bytes)
{
    if (level == SP_CPU_REFERENCE) memcpy(first, y, bytes);
    assert_memory_equal(y, first, bytes);
}

static void check_rms_norm(size_t rows, size_t n, float scale)
{
    test_random random = {.state = n};
    float *x = random_new(&random, rows * n, scale), *weight = random_new(&random, n, 1.0f);
    float *first = malloc(rows * n * sizeof *first);
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *y = guarded_new(rows * n * sizeof *y);
        device->ops->rms_norm(device, rows, n, 1e-5f, weight, x, y);
        for (size_t r = 0; r < rows; r++) {
            double squares = 0;
            for (size_t i = 0; i < n; i++) squares += (double)x[r * n + i] * (double)x[r * n + i];
            double factor = 1.0 / sqrt(squares / (double)n + (double)1e-5f);
            for (size_t i = 0; i < n; i++) {
                double expected = (double)x[r * n + i] * factor * (double)weight[i];
                assert_close((double)y[r * n + i], expected, 1e-6 * fabs(expected) + 1e-30);
            }
        }
        assert_same_bits(level, y, first, rows * n * sizeof *y);
        float *in_place = random_new(&random, rows * n, 1.0f);
        memcpy(in_place, x, rows * n * sizeof *x);
        device->ops->rms_norm(device, rows, n, 1e-5f, weight, in_place, in_place);
        assert_memory_equal(in_place, y, rows * n * sizeof *y);
        guarded_free(in_place, rows * n * sizeof *y);
        guarded_free(y, rows * n * sizeof *y);
        sp_device_close(device);
    }
    free(first);
    guarded_free(x, rows * n * sizeof *x);
    guarded_free(weight, n * sizeof *weight);
}

static void test_rms_norm(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) check_rms_norm(3, lengths[i], 1.0f);
    check_rms_norm(2, 64, 1e-4f); /* eps counts */
    check_rms_norm(200, 576, 30.0f);
}

/* mean: of the rows, beside a deviation of 1. */
static void check_layer_norm(size_t rows, size_t n, float scale, float mean)
{
    test_random random = {.state = n + 1};
    size_t all = rows * n;
    float *x = random_new(&random, all, scale), *weight = random_new(&random, n, 1.0f);
    float *bias = random_new(&random, n, 1.0f), *first = malloc(all * sizeof *first);
    for (size_t i = 0; i < all; i++) x[i] += mean;
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *y = guarded_new(all * sizeof *y);
        device->ops->layer_norm(device, rows, n, 1e-5f, weight, bias, x, y);
        for (size_t r = 0; r < rows; r++) {
            double sum = 0, squares = 0;
            for (size_t i = 0; i < n; i++) sum += (double)x[r * n + i];
            double middle = sum / (double)n;
            for (size_t i = 0; i < n; i++) squares += pow((double)x[r * n + i] - middle, 2);
            double factor = 1.0 / sqrt(squares / (double)n + (double)1e-5f);
            for (size_t i = 0; i < n; i++) {
                double size = fabs((double)x[r * n + i] - middle) + 0.2 * fabs((double)mean);
                double expected =
                    ((double)x[r * n + i] - middle) * factor * (double)weight[i] + (double)bias[i];
                assert_close((double)y[r * n + i], expected,
                             2e-6 * (size * factor * fabs((double)weight[i]) + fabs((double)bias[i])) +
                                 1e-30);
            }
        }
        assert_same_bits(level, y, first, all * sizeof *y);
        float *in_place = random_new(&random, all, 1.0f);
        memcpy(in_place, x, all * sizeof *x);
        device->ops->layer_norm(device, rows, n, 1e-5f, weight, bias, in_place, in_place);
        assert_memory_equal(in_place, y, all * sizeof *y);
        guarded_free(in_place, all * sizeof *y);
        guarded_free(y, all * sizeof *y);
        sp_device_close(device);
    }
    free(first);
    guarded_free(x, all * sizeof *x);
    guarded_free(weight, n * sizeof *weight);
    guarded_free(bias, n * sizeof *bias);
}

static void test_layer_norm(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) check_layer_norm(3, lengths[i], 1.0f, 0.3f);
    check_layer_norm(2, 64, 1e-4f, 0.0f);  /* eps counts */
    check_layer_norm(4, 768, 1.0f, 30.0f); /* a variance that mean(x^2) - mean(x)^2 would lose */
    check_layer_norm(200, 576, 30.0f, -3.0f);
}

static void check_rope(size_t rows, size_t n_heads, size_t head_dim)
{
    test_random random = {.state = rows + head_dim};
    size_t n = rows * n_heads * head_dim, half = head_dim / 2, bytes = n * sizeof(float);
    float *x = random_new(&random, n, 1.0f), *first = malloc(bytes);
    float *cosines = guarded_new(rows * half * 4), *sines = guarded_new(rows * half * 4);
    for (size_t i = 0; i < rows * half; i++) {
        double angle = 6.28 * test_random_unit(&random);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *y = guarded_new(bytes);
        memcpy(y, x, bytes);
        device->ops->rope(device, rows, n_heads, head_dim, cosines, sines, y);
        for (size_t i = 0; i < n; i++) {
            size_t row = i / (n_heads * head_dim), d = i % head_dim, pair = d % half;
            double c = cosines[row * half + pair], s = sines[row * half + pair];
            double other = d < half ? -(double)x[i + half] : (double)x[i - half];
            assert_close((double)y[i], (double)x[i] * c + other * s, 1e-6);
        }
        assert_same_bits(level, y, first, bytes);
        guarded_free(y, bytes);
        sp_device_close(device);
    }
    free(first);
    guarded_free(x, bytes);
    guarded_free(cosines, rows * half * 4);
    guarded_free(sines, rows * half * 4);
}

static void test_rope(void **state)
{
    (void)state;
    static const size_t dims[] = {2, 6, 16, 18, 32, 34, 64, 128};
    for (size_t i = 0; i < COUNT_OF(dims); i++) check_rope(3, 2, dims[i]);
    check_rope(150, 9, 64);
}

/* Also numbers whose exponential leaves the range of float32. */
static void check_silu(size_t n, float scale)
{
    test_random random = {.state = n};
    size_t bytes = n * sizeof(float);
    float *gate = random_new(&random, n, scale), *up = random_new(&random, n, 1.0f), *first = malloc(bytes);
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *y = guarded_new(bytes);
        device->ops->silu_mul(device, n, gate, up, y);
        for (size_t i = 0; i < n; i++) {
            double expected = (double)gate[i] / (1.0 + exp(-(double)gate[i])) * (double)up[i];
            assert_close((double)y[i], expected, 4e-7 * fabs(expected) + 1e-34);
        }
        assert_same_bits(level, y, first, bytes);
        float *in_place = guarded_new(bytes);
        memcpy(in_place, gate, bytes);
        device->ops->silu_mul(device, n, in_place, up, in_place);
        assert_memory_equal(in_place, y, bytes);
        guarded_free(in_place, bytes);
        guarded_free(y, bytes);
        sp_device_close(device);
    }
    free(first);
    guarded_free(gate, bytes);
    guarded_free(up, bytes);
}

static void test_silu_mul(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) check_silu(lengths[i], 2.0f);
    check_silu(1000, 80.0f);
    check_silu(50001, 10.0f);
}

static void check_gelu(size_t n, float scale)
{
    test_random random = {.state = n + 2};
    size_t bytes = n * sizeof(float);
    float *x = random_new(&random, n, scale), *first = malloc(bytes);
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *y = guarded_new(bytes);
        device->ops->gelu(device, n, x, y);
        for (size_t i = 0; i < n; i++) {
            double t = (double)x[i], u = sqrt(2 / 3.14159265358979323846) * (t + 0.044715 * t * t * t);
            /* 1 + tanh(u) loses every digit where u is far below zero */
            double expected = t / (1 + exp(-2 * u)), steep = u < 0 ? fmin(fabs(2 * u), 100) : 0;
            if (fabs(u) < 5) assert_close(expected, 0.5 * t * (1 + tanh(u)), 1e-12);
            assert_close((double)y[i], expected, (5e-7 + 4e-7 * steep) * fabs(expected) + 1e-33);
        }
        assert_same_bits(level, y, first, bytes);
        float *in_place = guarded_new(bytes);
        memcpy(in_place, x, bytes);
        device->ops->gelu(device, n, in_place, in_place);
        assert_memory_equal(in_place, y, bytes);
        guarded_free(in_place, bytes);
        guarded_free(y, bytes);
        sp_device_close(device);
    }
    free(first);
    guarded_free(x, bytes);
}

static void test_gelu(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) check_gelu(lengths[i], 2.0f);
    check_gelu(1000, 20.0f);
    check_gelu(50001, 5.0f);
}

/* exp itself, from silu: exp(-x) = x / silu(x) - 1 is well conditioned where exp(-x) is large. */
static void test_exp_error(void **state)
{
    (void)state;
    enum { N = 86 * 4096 };
    float *gate = malloc(N * sizeof *gate), *one = malloc(N * sizeof *one), *y = malloc(N * sizeof *y);
    for (size_t i = 0; i < N; i++) {
        gate[i] = -(float)(i + 4096 * 20) / 4096.0f * (86.0f / 106.0f);
        one[i] = 1.0f;
    }
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 1);
        device->ops->silu_mul(device, N, gate, one, y);
        double worst = 0;
        for (size_t i = 0; i < N; i++) {
            double exact = (double)gate[i] / (1.0 + exp(-(double)gate[i]));
            worst = fmax(worst, fabs((double)y[i] - exact) / fabs(exact));
        }
        assert_true(worst <= 3e-7); /* exp 2e-7, one division and one sum */
        assert_true(worst > 0);
        sp_device_close(device);
    }
    free(gate);
    free(one);
    free(y);
}

static void test_silu_not_finite(void **state)
{
    (void)state;
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 1);
        const float gate[] = {NAN, INFINITY, 0.0f, -0.0f, -200.0f, 200.0f}, up[] = {1, 1, 1, 1, 1, 1};
        float y[6];
        device->ops->silu_mul(device, 6, gate, up, y);
        assert_true(isnan(y[0]));
        assert_true(y[1] == INFINITY);
        assert_true(y[2] == 0.0f && y[3] == 0.0f);
        assert_true(y[4] <= 0.0f && y[4] > -1e-34f);
        assert_true(y[5] == 200.0f);
        sp_device_close(device);
    }
}

static void test_add(void **state)
{
    (void)state;
    test_random random = {.state = 3};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        for (size_t c = 0; c <= COUNT_OF(lengths); c++) {
            size_t n = c < COUNT_OF(lengths) ? lengths[c] : 70001;
            float *x = random_new(&random, n, 1.0f), *y = random_new(&random, n, 1.0f);
            float *before = malloc(n * sizeof *y);
            memcpy(before, y, n * sizeof *y);
            device->ops->add(device, n, x, y);
            for (size_t i = 0; i < n; i++) assert_true(y[i] == (float)((double)x[i] + (double)before[i]));
            free(before);
            guarded_free(x, n * sizeof *x);
            guarded_free(y, n * sizeof *y);
        }
        sp_device_close(device);
    }
}

static void test_add_bias(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 3, 150};
    test_random random = {.state = 6};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        for (size_t c = 0; c < COUNT_OF(lengths) * COUNT_OF(rows); c++) {
            size_t n = lengths[c / COUNT_OF(rows)], all = n * rows[c % COUNT_OF(rows)];
            float *bias = random_new(&random, n, 1.0f), *y = random_new(&random, all, 1.0f);
            float *before = malloc(all * sizeof *y);
            memcpy(before, y, all * sizeof *y);
            device->ops->add_bias(device, rows[c % COUNT_OF(rows)], n, bias, y);
            for (size_t i = 0; i < all; i++)
                assert_true(y[i] == (float)((double)bias[i % n] + (double)before[i]));
            free(before);
            guarded_free(bias, n * sizeof *bias);
            guarded_free(y, all * sizeof *y);
        }
        sp_device_close(device);
    }
}

/* bf16 by another road: the two neighbours of x among numbers of 8 bits, the nearer one, ties to the even
 * one. */
static uint16_t nearest_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rest = bits & 0xffffu;
    uint16_t lower = (uint16_t)(bits >> 16);
    if (rest > 0x8000u || (rest == 0x8000u && lower % 2 == 1)) return (uint16_t)(lower + 1);
    return lower;
}

static void test_to_bf16(void **state)
{
    (void)state;
    static const uint32_t special[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u,
                                       0x7f7fffffu, 0x00000001u, 0x00008000,  0x00018000u,
                                       0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu};
    static const uint32_t nans[] = {0x7fc00000u, 0x7f800001u, 0xffffffffu, 0xff800001u};
    enum { N = 40003 };
    test_random random = {.state = 4};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        float *x = random_new(&random, N, 1.0f);
        uint16_t *y = guarded_new(N * sizeof *y);
        memcpy(x + 5, special, sizeof special);
        memcpy(x + N - 2, special, 8);
        device->ops->to_bf16(device, N, x, y);
        for (size_t i = 0; i < N; i++) assert_int_equal(y[i], nearest_bf16(x[i]));
        for (size_t at = 0; at < 40; at++) memcpy(x + at, &nans[at % 4], 4);
        device->ops->to_bf16(device, 37, x, y);
        for (size_t i = 0; i < 37; i++) assert_true((y[i] & 0x7f80) == 0x7f80 && (y[i] & 0x7f) != 0);
        guarded_free(x, N * sizeof *x);
        guarded_free(y, N * sizeof *y);
        sp_device_close(device);
    }
}

/* A row's bits do not depend on how many there are, where it stands, and how many threads work. */
static void test_batch_invariant(void **state)
{
    (void)state;
    enum { ROWS = 130, N = 576 };
    test_random random = {.state = 5};
    float *x = random_new(&random, ROWS * N, 1.0f), *weight = random_new(&random, N, 1.0f);
    float *norm = malloc(ROWS * N * 4), *layer = malloc(ROWS * N * 4), *silu = malloc(ROWS * N * 4),
          *y = malloc(ROWS * N * 4);
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        for (size_t threads = 1; threads <= 3; threads++) {
            sp_device *device = open_level(level, threads);
            for (size_t row = 0; threads == 1 && row < ROWS; row++) {
                device->ops->rms_norm(device, 1, N, 1e-6f, weight, x + row * N, norm + row * N);
                device->ops->layer_norm(device, 1, N, 1e-6f, weight, x, x + row * N, layer + row * N);
                device->ops->silu_mul(device, N, x + row * N, x + row * N, silu + row * N);
            }
            for (size_t rows = 1; rows <= ROWS; rows++) {
                size_t first = test_random_below(&random, ROWS - rows + 1);
                device->ops->rms_norm(device, rows, N, 1e-6f, weight, x + first * N, y);
                assert_memory_equal(y, norm + first * N, rows * N * 4);
                device->ops->layer_norm(device, rows, N, 1e-6f, weight, x, x + first * N, y);
                assert_memory_equal(y, layer + first * N, rows * N * 4);
                device->ops->silu_mul(device, rows * N, x + first * N, x + first * N, y);
                assert_memory_equal(y, silu + first * N, rows * N * 4);
            }
            sp_device_close(device);
        }
    }
    free(norm);
    free(layer);
    free(silu);
    free(y);
    guarded_free(x, ROWS * N * 4);
    guarded_free(weight, N * 4);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rms_norm),
    cmocka_unit_test(test_layer_norm),
    cmocka_unit_test(test_rope),
    cmocka_unit_test(test_silu_mul),
    cmocka_unit_test(test_gelu),
    cmocka_unit_test(test_exp_error),
    cmocka_unit_test(test_add),
    cmocka_unit_test(test_add_bias),
    cmocka_unit_test(test_to_bf16),
    cmocka_unit_test(test_silu_not_finite),
    cmocka_unit_test(test_batch_invariant),
};
TEST_MAIN(tests)
