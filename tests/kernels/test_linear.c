/* Linear layers of every level that this CPU has, and of OpenBLAS: against sums in double, level against
 * level, and the same bits for any number of rows, at any place, on any number of threads. Inputs start off
 * alignment, outputs start as NaN with canaries round them. */
#include "tests/support/test.h"
#include "tests/support/guarded.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

typedef enum layer_kind { F32, F16, BF16, BF16_ROUND, KINDS } layer_kind;

typedef struct layer {
    layer_kind kind;
    size_t n_out, n_in;
    void *stored; /* as in a file: F32, F16 or BF16 */
    float *w;     /* its value */
    sp_tensor tensor;
} layer;

/* Numbers with few bits of mantissa, so that a half holds them: sign, exponent 2^-3..2^3, 10 bits. */
static uint16_t random_half(test_random *random)
{
    return (uint16_t)(test_random_below(random, 2) << 15 | (12 + test_random_below(random, 6)) << 10 |
                      test_random_below(random, 1024));
}

static layer layer_new(layer_kind kind, size_t n_out, size_t n_in, test_random *random)
{
    size_t n = n_out * n_in;
    layer l = {.kind = kind, .n_out = n_out, .n_in = n_in, .stored = malloc(n * 4), .w = malloc(n * 4)};
    assert_non_null(l.stored);
    assert_non_null(l.w);
    sp_dtype dtype = kind == F32 ? SP_F32 : kind == F16 ? SP_F16 : SP_BF16;
    for (size_t i = 0; i < n; i++) {
        float value = (float)test_random_gauss(random);
        if (kind == F32) {
            ((float *)l.stored)[i] = l.w[i] = value;
        } else if (kind == F16) {
            uint16_t half = random_half(random);
            ((uint16_t *)l.stored)[i] = half;
            l.w[i] =
                ldexpf((float)(1024 + (half & 1023)), (half >> 10 & 31) - 25) * (half >> 15 ? -1.0f : 1.0f);
        } else {
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            bits &= 0xffff0000u;
            ((uint16_t *)l.stored)[i] = (uint16_t)(bits >> 16);
            memcpy(&l.w[i], &bits, sizeof bits);
        }
    }
    l.tensor = (sp_tensor){.dtype = dtype, .rank = 2, .shape = {n_out, n_in}, .data = l.stored};
    l.tensor.bytes = n * (dtype == SP_F32 ? 4 : 2);
    return l;
}

static void layer_free(layer *l)
{
    free(l->stored);
    free(l->w);
}

static sp_device *open_level(sp_cpu_isa level, size_t threads, bool openblas)
{
    sp_error error = {0};
    sp_device *device;
    sp_device_options options = {.n_threads = threads, .openblas = openblas};
    assert_ok(sp_cpu_open_level(&options, level, &device, &error), error);
    return device;
}

static sp_matrix pack(sp_device *device, const layer *l)
{
    sp_error error = {0};
    sp_matrix matrix;
    assert_ok(device->ops->pack(device, &l->tensor, l->kind == BF16_ROUND, &matrix, &error), error);
    assert_int_equal(matrix.n_out, l->n_out);
    assert_int_equal(matrix.n_in, l->n_in);
    return matrix;
}

/* Largest allowed distance: rounding of n_in sums in any order. */
static void check_double(const layer *l, bool rounded, size_t rows, const float *x, const float *y)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < l->n_out; o++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < l->n_in; k++) {
                double a = x[r * l->n_in + k];
                if (rounded) a = (double)sp_bf16_to_f32(sp_bf16_from_f32((float)a));
                sum += a * (double)l->w[o * l->n_in + k];
                size += fabs(a * (double)l->w[o * l->n_in + k]);
            }
            double error = fabs((double)y[r * l->n_out + o] - sum);
            if (!(error <= size * (double)(l->n_in + 4) * 0x1p-24)) {
                fail_msg("kind %d, %zu x %zu, row %zu of %zu, output %zu: %g, not %g", l->kind, l->n_out,
                         l->n_in, r, rows, o, (double)y[r * l->n_out + o], sum);
            }
        }
    }
}

static const size_t shapes[][2] = {{1, 1},   {2, 3},    {31, 7},   {32, 16},   {33, 17},
                                   {65, 31}, {100, 33}, {129, 64}, {200, 576}, {577, 130}};
static const size_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 29, 61};

static void test_against_double(void **state)
{
    (void)state;
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2, false);
        test_random random = {.state = 7};
        for (size_t s = 0; s < COUNT_OF(shapes); s++) {
            for (layer_kind kind = 0; kind < KINDS; kind++) {
                layer l = layer_new(kind, shapes[s][0], shapes[s][1], &random);
                sp_matrix matrix = pack(device, &l);
                bool rounded = kind == BF16_ROUND && device->has_bf16;
                assert_int_equal(matrix.round_rows, rounded);
                for (size_t i = 0; i < COUNT_OF(row_counts); i++) {
                    if (shapes[s][0] * shapes[s][1] > 20000 && i % 4 != s % 4) continue;
                    guarded x = guarded_new(row_counts[i] * l.n_in), y = guarded_new(row_counts[i] * l.n_out);
                    test_random_fill(&random, x.x, x.n, 1.0f);
                    guarded_poison(&x);
                    memset(sp_cpu_of(device)->lines, 0xff, 256 << 10); /* NaN behind every row's end */
                    device->ops->linear(device, &matrix, row_counts[i], x.x, y.x);
                    check_double(&l, rounded, row_counts[i], x.x, y.x);
                    guarded_check(&y);
                    free(x.all);
                    free(y.all);
                }
                sp_matrix_fini(&matrix);
                layer_free(&l);
            }
        }
        sp_device_close(device);
    }
}

/* The order of operations itself: one sum, k ascending, fused; a step of zero behind an odd n_in of bf16. */
static float in_order(const layer *l, const float *x, size_t o)
{
    float sum = 0;
    for (size_t k = 0; k < l->n_in; k++) sum = fmaf(x[k], l->w[o * l->n_in + k], sum);
    return l->kind == BF16 && l->n_in % 2 ? sum + 0.0f : sum;
}

/* float32 work has the same bits at every level. */
static void test_levels_agree(void **state)
{
    (void)state;
    test_random random = {.state = 8};
    for (layer_kind kind = 0; kind < BF16_ROUND; kind++) {
        for (size_t s = 0; s < COUNT_OF(shapes); s++) {
            layer l = layer_new(kind, shapes[s][0], shapes[s][1], &random);
            size_t rows = 19;
            guarded x = guarded_new(rows * l.n_in), expected = guarded_new(rows * l.n_out);
            test_random_fill(&random, x.x, x.n, 1.0f);
            x.x[0] = 1e-30f;
            for (size_t i = 0; i < expected.n; i++) {
                expected.x[i] = in_order(&l, x.x + i / l.n_out * l.n_in, i % l.n_out);
            }
            for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
                sp_device *device = open_level(level, 2, false);
                sp_matrix matrix = pack(device, &l);
                guarded y = guarded_new(rows * l.n_out);
                device->ops->linear(device, &matrix, rows, x.x, y.x);
                assert_memory_equal(y.x, expected.x, y.n * sizeof(float));
                free(y.all);
                sp_matrix_fini(&matrix);
                sp_device_close(device);
            }
            free(x.all);
            free(expected.all);
            layer_free(&l);
        }
    }
}

/* The layout that ops.h promises, and zero wherever there is no weight. */
static void test_panels(void **state)
{
    (void)state;
    test_random random = {.state = 12};
    sp_device *device = open_level(sp_cpu_level(), 2, false);
    for (layer_kind kind = 0; kind < KINDS; kind++) {
        layer l = layer_new(kind, 45, 7, &random);
        sp_matrix matrix = pack(device, &l);
        bool pairs = matrix.dtype == SP_BF16;
        assert_int_equal(matrix.bytes, pairs ? 2 * 8 * 32 * 2 : 2 * 7 * 32 * 4);
        for (size_t i = 0; i < matrix.bytes / (pairs ? 2 : 4); i++) {
            size_t step = i / (pairs ? 64 : 32), o = i % (pairs ? 64 : 32) / (pairs ? 2 : 1);
            size_t steps = pairs ? 4 : 7, k = pairs ? step % steps * 2 + i % 2 : step % steps;
            o += step / steps * 32;
            float expected = o < 45 && k < 7 ? l.w[o * 7 + k] : 0.0f;
            float value = pairs ? sp_bf16_to_f32(((uint16_t *)matrix.data)[i]) : ((float *)matrix.data)[i];
            assert_true(value == expected);
        }
        sp_matrix_fini(&matrix);
        layer_free(&l);
    }
    sp_device_close(device);
}

/* 1 to 130 rows, each time from another place of the same 130, on 1 to 3 threads. */
static void check_invariant(sp_cpu_isa level, const layer *l, test_random *random)
{
    enum { MOST = 130 };
    guarded x = guarded_new(MOST * l->n_in), alone = guarded_new(MOST * l->n_out);
    test_random_fill(random, x.x, x.n, 1.0f);
    for (size_t threads = 1; threads <= 3; threads++) {
        sp_device *device = open_level(level, threads, false);
        sp_matrix matrix = pack(device, l);
        for (size_t row = 0; threads == 1 && row < MOST; row++) {
            device->ops->linear(device, &matrix, 1, x.x + row * l->n_in, alone.x + row * l->n_out);
        }
        for (size_t rows = 1; rows <= MOST; rows++) {
            size_t first = test_random_below(random, MOST - rows + 1);
            guarded y = guarded_new(rows * l->n_out);
            device->ops->linear(device, &matrix, rows, x.x + first * l->n_in, y.x);
            assert_memory_equal(y.x, alone.x + first * l->n_out, y.n * sizeof(float));
            guarded_check(&y);
            free(y.all);
        }
        sp_matrix_fini(&matrix);
        sp_device_close(device);
    }
    free(x.all);
    free(alone.all);
}

static void test_batch_invariant(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{70, 97}, {300, 140}, {33, 600}};
    test_random random = {.state = 9};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        for (layer_kind kind = 0; kind < KINDS; kind++) {
            if (kind == F16) continue; /* the same panels as F32 */
            for (size_t c = 0; c < COUNT_OF(cases); c++) {
                if (level == SP_CPU_REFERENCE && c > 0) continue; /* slow, and no other path */
                layer l = layer_new(kind, cases[c][0], cases[c][1], &random);
                check_invariant(level, &l, &random);
                layer_free(&l);
            }
        }
    }
}

/* More rows than the scratch holds: several rounds. */
static void test_many_rows(void **state)
{
    (void)state;
    test_random random = {.state = 10};
    layer l = layer_new(F32, 5, 4000, &random);
    sp_device *device = open_level(sp_cpu_level(), 2, false);
    sp_matrix matrix = pack(device, &l);
    size_t rows = 700;
    guarded x = guarded_new(rows * l.n_in), y = guarded_new(rows * l.n_out), alone = guarded_new(l.n_out);
    test_random_fill(&random, x.x, x.n, 1.0f);
    device->ops->linear(device, &matrix, rows, x.x, y.x);
    for (size_t row = 0; row < rows; row++) {
        device->ops->linear(device, &matrix, 1, x.x + row * l.n_in, alone.x);
        assert_memory_equal(alone.x, y.x + row * l.n_out, l.n_out * sizeof(float));
    }
    guarded_check(&y);
    free(x.all);
    free(y.all);
    free(alone.all);
    sp_matrix_fini(&matrix);
    sp_device_close(device);
    layer_free(&l);
}

static void test_openblas(void **state)
{
    (void)state;
    test_random random = {.state = 11};
    sp_device *device = open_level(sp_cpu_level(), 2, true);
    assert_false(device->batch_invariant);
    for (layer_kind kind = 0; kind < KINDS; kind++) {
        layer l = layer_new(kind, 65, 130, &random);
        sp_matrix matrix = pack(device, &l);
        guarded x = guarded_new(17 * l.n_in), y = guarded_new(17 * l.n_out);
        test_random_fill(&random, x.x, x.n, 1.0f);
        device->ops->linear(device, &matrix, 17, x.x, y.x);
        check_double(&l, false, 17, x.x, y.x);
        guarded_check(&y);
        free(x.all);
        free(y.all);
        sp_matrix_fini(&matrix);
        layer_free(&l);
    }
    sp_device_close(device);
}

static void test_refused(void **state)
{
    (void)state;
    static const float w[6];
    static const sp_tensor bad[] = {
        {.dtype = SP_I32, .rank = 2, .shape = {2, 3}, .data = w, .bytes = 24},
        {.dtype = SP_F32, .rank = 1, .shape = {6}, .data = w, .bytes = 24},
        {.dtype = SP_F32, .rank = 2, .shape = {0, 3}, .data = w, .bytes = 0},
        {.dtype = SP_F32, .rank = 2, .shape = {2, 4}, .data = w, .bytes = 24},
        {.dtype = SP_F32, .rank = 2, .shape = {SIZE_MAX / 2, SIZE_MAX / 2}, .data = w, .bytes = 24},
    };
    sp_device *device = open_level(SP_CPU_REFERENCE, 1, false);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        sp_error error = {0};
        sp_matrix matrix;
        assert_int_equal(device->ops->pack(device, &bad[i], false, &matrix, &error), SP_DATA);
        assert_true(error.message[0] != '\0');
        assert_null(matrix.data);
    }
    sp_device_close(device);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_double),  cmocka_unit_test(test_levels_agree),
    cmocka_unit_test(test_batch_invariant), cmocka_unit_test(test_many_rows),
    cmocka_unit_test(test_panels),          cmocka_unit_test(test_openblas),
    cmocka_unit_test(test_refused),
};
TEST_MAIN(tests)
