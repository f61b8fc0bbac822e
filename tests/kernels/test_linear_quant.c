/* Linear layers of block types at every level that this CPU has: against sums in double of the dequantized
 * weights (tests/unit/kernels/test_dequant.c) times activations rounded to int8 here; level against level,
 * bit by bit; the same bits for any number of rows, at any place, on any number of threads. Inputs start off
 * alignment, outputs start as NaN between canaries. */
#include "tests/support/test.h"
#include "tests/support/guarded.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/level.h"

typedef struct layer {
    size_t n_out, n_in;
    uint8_t *stored; /* as in a file, off alignment */
    float *w;        /* (n_out, n_in) its values */
    double most;     /* of |w| */
    sp_tensor tensor;
} layer;

static const sp_dtype types[] = {SP_Q8_0, SP_Q4_0, SP_Q4_1, SP_Q5_0, SP_Q5_1, SP_Q4_K, SP_Q5_K, SP_Q6_K};

static void put_half(uint8_t *to, unsigned bits)
{
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
}

/* Random bytes; the float16 scale (and minimum) of every block between 2^-7 and 2^-3, of either sign. */
static layer layer_new(sp_dtype dtype, size_t n_out, size_t n_in, test_random *random)
{
    size_t n = n_out * n_in, bytes;
    assert_true(sp_dtype_bytes(dtype, n, &bytes));
    layer l = {.n_out = n_out, .n_in = n_in, .stored = malloc(bytes + 1), .w = malloc(n * sizeof(float))};
    assert_non_null(l.stored);
    assert_non_null(l.w);
    uint8_t *blocks = l.stored + 1;
    for (size_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)test_random_below(random, 256);
    for (size_t at = 0; at < bytes; at += sp_dtype_block_bytes(dtype)) {
        uint32_t halves[2];
        for (size_t i = 0; i < 2; i++) {
            halves[i] =
                (uint32_t)(test_random_below(random, 2) << 15 | (8 + test_random_below(random, 4)) << 10 |
                           test_random_below(random, 1024));
        }
        put_half(blocks + at + (dtype == SP_Q6_K ? 208 : 0), halves[0]);
        if (sp_block_has_mins(dtype)) put_half(blocks + at + 2, halves[1]);
    }
    assert_true(sp_convert_to_f32(dtype, blocks, l.w, n));
    for (size_t i = 0; i < n; i++) l.most = fmax(l.most, fabs((double)l.w[i]));
    l.tensor = (sp_tensor){.dtype = dtype, .rank = 2, .shape = {n_out, n_in}, .data = blocks, .bytes = bytes};
    return l;
}

static void layer_free(layer *l)
{
    free(l->stored);
    free(l->w);
}

static sp_matrix pack(sp_device *device, const sp_tensor *tensor, bool round_rows)
{
    sp_error error = {0};
    sp_matrix matrix;
    assert_ok(device->ops->pack(device, tensor, round_rows, &matrix, &error), error);
    assert_int_equal(matrix.n_out, tensor->shape[0]);
    assert_int_equal(matrix.n_in, tensor->shape[1]);
    return matrix;
}

/* Activations as the kernel must see them: per 32 of a row, to the nearest of 255 steps. */
static void round_rows(size_t n, const float *x, double *out)
{
    for (size_t b = 0; b < n; b += 32) {
        float most = 0;
        for (size_t i = b; i < b + 32; i++) most = fmaxf(most, fabsf(x[i]));
        for (size_t i = b; i < b + 32; i++)
            out[i] = most > 0 ? rint((double)(x[i] * (127.0f / most))) * (double)(most / 127.0f) : 0;
    }
}

static void check_double(const layer *l, size_t rows, const float *x, const float *y)
{
    double *a = malloc(l->n_in * sizeof *a);
    assert_non_null(a);
    for (size_t r = 0; r < rows; r++) {
        round_rows(l->n_in, x + r * l->n_in, a);
        double size = 0;
        for (size_t k = 0; k < l->n_in; k++) size += fabs(a[k]) * l->most * 3;
        for (size_t o = 0; o < l->n_out; o++) {
            double sum = 0;
            for (size_t k = 0; k < l->n_in; k++) sum += a[k] * (double)l->w[o * l->n_in + k];
            double error = fabs((double)y[r * l->n_out + o] - sum);
            if (!(error <= size * (double)(l->n_in / 16 + 4) * 0x1p-24)) {
                fail_msg("%s, %zu x %zu, row %zu of %zu, output %zu: %.9g, not %.9g",
                         sp_dtype_name(l->tensor.dtype), l->n_out, l->n_in, r, rows, o,
                         (double)y[r * l->n_out + o], sum);
            }
        }
    }
    free(a);
}

/* n_in in blocks of the type */
static const size_t shapes[][2] = {{1, 1}, {31, 2}, {32, 1}, {33, 3}, {65, 5}, {100, 18}, {47, 35}};
static const size_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 29, 61};

static void test_against_double(void **state)
{
    (void)state;
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2);
        test_random random = {.state = 7};
        for (size_t t = 0; t < COUNT_OF(types) * COUNT_OF(shapes); t++) {
            sp_dtype dtype = types[t % COUNT_OF(types)];
            const size_t *shape = shapes[t / COUNT_OF(types)];
            size_t block = sp_dtype_block(dtype);
            if (block > 32 && shape[1] > 5) continue;
            layer l = layer_new(dtype, shape[0], shape[1] * block, &random);
            sp_matrix matrix = pack(device, &l.tensor, true);
            assert_int_equal(matrix.dtype, dtype);
            for (size_t i = 0; i < COUNT_OF(row_counts); i++) {
                size_t rows = row_counts[i];
                if (l.n_out * l.n_in * rows > 200000) continue;
                guarded x = guarded_new(rows * l.n_in), y = guarded_new(rows * l.n_out);
                test_random_fill(&random, x.x, x.n, 1.0f);
                memset(sp_cpu_of(device)->lines, 0xff, 256 << 10);
                device->ops->linear(device, &matrix, rows, x.x, y.x);
                check_double(&l, rows, x.x, y.x);
                guarded_check(&y);
                free(x.all);
                free(y.all);
            }
            sp_matrix_fini(&matrix);
            layer_free(&l);
        }
        sp_device_close(device);
    }
}

/* Rows that reach every corner: no activation, only the largest ones, tiny and huge ones, one loud among
 * quiet. */
static void fill_corners(size_t rows, size_t n, float *x, test_random *random)
{
    test_random_fill(random, x, rows * n, 1.0f);
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
        x[n + i] = i % 3 ? 1.0f : -1.0f;
        x[2 * n + i] *= 1e-41f;
        x[3 * n + i] *= 1e30f;
        x[4 * n + i] *= i % 32 == 5 ? 1000.0f : 1.0f;
        x[5 * n + i] = 1.0f;
        x[6 * n + i] *= 0x1p-99f;
    }
}

/* Every level gives the bits of the reference. */
static void test_levels_agree(void **state)
{
    (void)state;
    enum { ROWS = 19 };
    test_random random = {.state = 8};
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        size_t block = sp_dtype_block(types[t]), n_in = block * (block == 32 ? 37 : 5);
        layer l = layer_new(types[t], 70, n_in, &random);
        if (types[t] == SP_Q8_0) memset(l.stored + 1 + 2, 0x80, 32); /* -128 throughout: the largest sums */
        sp_convert_to_f32(types[t], l.tensor.data, l.w, l.n_out * n_in);
        guarded x = guarded_new(ROWS * n_in), expected = guarded_new(ROWS * l.n_out);
        fill_corners(ROWS, n_in, x.x, &random);
        for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
            sp_device *device = open_level(level, 1);
            sp_matrix matrix = pack(device, &l.tensor, true);
            guarded y = guarded_new(ROWS * l.n_out);
            device->ops->linear(device, &matrix, ROWS, x.x, y.x);
            if (level == 0) {
                memcpy(expected.x, y.x, y.n * sizeof(float));
                check_double(&l, 2, x.x, y.x);
                check_double(&l, ROWS - 3, x.x + 3 * n_in, y.x + 3 * l.n_out);
                for (size_t o = 0; o < l.n_out; o++) assert_true(y.x[o] == 0 && y.x[2 * l.n_out + o] == 0);
            }
            for (size_t i = 0; i < y.n; i++) {
                if (memcmp(y.x + i, expected.x + i, sizeof(float)) != 0)
                    fail_msg("%s, %s, row %zu, output %zu: %.9g, not %.9g", device->level,
                             sp_dtype_name(types[t]), i / l.n_out, i % l.n_out, (double)y.x[i],
                             (double)expected.x[i]);
            }
            free(y.all);
            sp_matrix_fini(&matrix);
            sp_device_close(device);
        }
        free(x.all);
        free(expected.all);
        layer_free(&l);
    }
}

/* NaN and infinity show in their row's outputs and nowhere else. */
static void test_nonfinite(void **state)
{
    (void)state;
    test_random random = {.state = 10};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        layer l = layer_new(SP_Q4_0, 33, 96, &random);
        sp_device *device = open_level(level, 1);
        sp_matrix matrix = pack(device, &l.tensor, true);
        guarded x = guarded_new(4 * 96), y = guarded_new(4 * 33);
        test_random_fill(&random, x.x, x.n, 1.0f);
        x.x[96 + 40] = NAN;
        x.x[3 * 96 + 95] = -INFINITY;
        device->ops->linear(device, &matrix, 4, x.x, y.x);
        for (size_t i = 0; i < 33; i++) {
            assert_true(isfinite(y.x[i]) && isfinite(y.x[66 + i]));
            assert_false(isfinite(y.x[33 + i]) || isfinite(y.x[99 + i]));
        }
        check_double(&l, 1, x.x, y.x);
        free(x.all);
        free(y.all);
        sp_matrix_fini(&matrix);
        sp_device_close(device);
        layer_free(&l);
    }
}

/* 1 to 130 rows, each time from another place of the same 130, on 1 to 3 threads. */
static void check_invariant(sp_cpu_isa level, const layer *l, test_random *random)
{
    enum { MOST = 130 };
    guarded x = guarded_new(MOST * l->n_in), alone = guarded_new(MOST * l->n_out);
    test_random_fill(random, x.x, x.n, 1.0f);
    for (size_t threads = 1; threads <= 3; threads++) {
        sp_device *device = open_level(level, threads);
        sp_matrix matrix = pack(device, &l->tensor, true);
        for (size_t row = 0; threads == 1 && row < MOST; row++) {
            device->ops->linear(device, &matrix, 1, x.x + row * l->n_in, alone.x + row * l->n_out);
        }
        for (size_t rows = threads; rows <= MOST; rows += threads == 1 ? 1 : 7) {
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
    test_random random = {.state = 9};
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        for (size_t t = 0; t < COUNT_OF(types); t++) {
            bool slow = level == SP_CPU_REFERENCE;
            size_t block = sp_dtype_block(types[t]);
            if (slow && t % 3) continue; /* no other path */
            layer l = layer_new(types[t], slow ? 33 : 300, block == 32 ? 96 : 256, &random);
            check_invariant(level, &l, &random);
            layer_free(&l);
            if (slow) continue;
            l = layer_new(types[t], 33, block == 32 ? 1120 : 1280, &random);
            check_invariant(level, &l, &random);
            layer_free(&l);
        }
    }
}

/* Matrices over the same rows at once, of types that share rounded rows or don't: the bits of one by one. */
static void test_linear_many(void **state)
{
    (void)state;
    enum { N = SP_LINEAR_MOST, N_IN = 512, MOST = 70 };
    static const sp_dtype mixes[][N] = {
        {SP_Q4_1, SP_Q4_1, SP_Q4_1, SP_Q4_1}, {SP_Q4_K, SP_Q5_1, SP_Q6_K, SP_Q4_1},
        {SP_Q8_0, SP_F32, SP_F32, SP_Q4_0},   {SP_F32, SP_F32, SP_F32, SP_F32},
        {SP_BF16, SP_BF16, SP_BF16, SP_F32},
    };
    static const size_t n_out[N] = {100, 32, 33, 290}, rows[] = {1, 2, 6, 7, 9, 40, MOST};
    test_random random = {.state = 13};
    guarded x = guarded_new(MOST * N_IN);
    test_random_fill(&random, x.x, x.n, 1.0f);
    for (size_t t = 0; t < COUNT_OF(mixes) * SP_CPU_ISAS * 2; t++) {
        const sp_dtype *mix = mixes[t / 2 / SP_CPU_ISAS];
        sp_cpu_isa level = (sp_cpu_isa)(t / 2 % SP_CPU_ISAS);
        if (level > sp_cpu_level()) continue;
        sp_device *device = open_level(level, t % 2 ? 3 : 1);
        sp_matrix w[N];
        const sp_matrix *pointers[N];
        for (size_t i = 0; i < N; i++) {
            bool block = sp_dtype_is_block(mix[i]);
            layer l = layer_new(block ? mix[i] : SP_Q8_0, n_out[i], N_IN, &random);
            sp_tensor plain = {.dtype = mix[i], .rank = 2, .shape = {n_out[i], N_IN}, .data = l.w};
            plain.bytes = n_out[i] * N_IN * sizeof(float);
            for (size_t k = 0; mix[i] == SP_BF16 && k < n_out[i] * N_IN; k++)
                ((uint16_t *)l.w)[k] = sp_bf16_from_f32(l.w[k]);
            w[i] = pack(device, block ? &l.tensor : &plain, true);
            pointers[i] = &w[i];
            layer_free(&l);
        }
        for (size_t r = 0; r < COUNT_OF(rows) && (level > 0 || rows[r] < 10); r++) {
            guarded y[N], alone = guarded_new(rows[r] * n_out[N - 1]);
            float *out[N];
            for (size_t i = 0; i < N; i++) y[i] = guarded_new(rows[r] * n_out[i]), out[i] = y[i].x;
            size_t n = N - r % 3;
            device->ops->linear_many(device, n, pointers, rows[r], x.x, out);
            for (size_t i = 0; i < N; i++) {
                guarded_check(&y[i]);
                if (i < n) {
                    device->ops->linear(device, &w[i], rows[r], x.x, alone.x);
                    assert_memory_equal(y[i].x, alone.x, rows[r] * n_out[i] * sizeof(float));
                }
                free(y[i].all);
            }
            free(alone.all);
        }
        for (size_t i = 0; i < N; i++) sp_matrix_fini(&w[i]);
        sp_device_close(device);
    }
    free(x.all);
}

/* More rows than the scratch holds: several rounds. */
static void test_many_rows(void **state)
{
    (void)state;
    test_random random = {.state = 11};
    layer l = layer_new(SP_Q6_K, 5, 4096, &random);
    sp_device *device = open_level(sp_cpu_level(), 2);
    sp_matrix matrix = pack(device, &l.tensor, true);
    size_t rows = 1500;
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

/* Without rounded rows the panels are those of the dequantized weights. */
static void test_exact(void **state)
{
    (void)state;
    test_random random = {.state = 12};
    sp_device *device = open_level(sp_cpu_level(), 2);
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        layer l = layer_new(types[t], 45, 768, &random);
        sp_tensor floats = l.tensor;
        floats.dtype = SP_F32;
        floats.data = l.w;
        floats.bytes = l.n_out * l.n_in * sizeof(float);
        sp_matrix exact = pack(device, &l.tensor, false), expected = pack(device, &floats, true);
        assert_int_equal(exact.dtype, SP_F32);
        assert_false(exact.round_rows);
        assert_int_equal(exact.bytes, expected.bytes);
        assert_memory_equal(exact.data, expected.data, expected.bytes);
        sp_matrix_fini(&exact);
        sp_matrix_fini(&expected);
        layer_free(&l);
    }
    sp_device_close(device);
}

/* Rows read back are the dequantized ones, and memory holds little more than the file. */
static void test_rows(void **state)
{
    (void)state;
    test_random random = {.state = 13};
    sp_device *device = open_level(sp_cpu_level(), 2);
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        layer l = layer_new(types[t], 64, 512, &random);
        sp_matrix matrix = pack(device, &l.tensor, true);
        assert_in_range(matrix.bytes, l.tensor.bytes, l.tensor.bytes * 103 / 100);
        for (size_t row = 0; row < l.n_out; row++) {
            guarded out = guarded_new(l.n_in);
            device->ops->widen_row(&matrix, row, out.x);
            assert_memory_equal(out.x, l.w + row * l.n_in, l.n_in * sizeof(float));
            guarded_check(&out);
            free(out.all);
        }
        sp_matrix_fini(&matrix);
        layer_free(&l);
    }
    sp_device_close(device);
}

static void test_refused(void **state)
{
    (void)state;
    static const uint8_t w[2 * 144];
    static const sp_tensor bad[] = {
        {.dtype = SP_Q8_0, .rank = 2, .shape = {2, 33}, .data = w, .bytes = sizeof w},
        {.dtype = SP_Q4_K, .rank = 2, .shape = {1, 128}, .data = w, .bytes = sizeof w},
        {.dtype = SP_Q4_K, .rank = 2, .shape = {2, 256}, .data = w, .bytes = sizeof w - 1},
        {.dtype = SP_Q8_0, .rank = 2, .shape = {0, 32}, .data = w, .bytes = 0},
        {.dtype = SP_Q4_0,
         .rank = 2,
         .shape = {SIZE_MAX / 4, SIZE_MAX / 32 * 32},
         .data = w,
         .bytes = sizeof w},
    };
    sp_device *device = open_level(SP_CPU_REFERENCE, 1);
    for (size_t i = 0; i < 2 * COUNT_OF(bad); i++) {
        sp_error error = {0};
        sp_matrix matrix;
        assert_int_equal(device->ops->pack(device, &bad[i / 2], i % 2, &matrix, &error), SP_DATA);
        assert_true(error.message[0] != '\0');
        assert_null(matrix.data);
    }
    sp_device_close(device);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_double), cmocka_unit_test(test_levels_agree),
    cmocka_unit_test(test_nonfinite),      cmocka_unit_test(test_batch_invariant),
    cmocka_unit_test(test_linear_many),    cmocka_unit_test(test_many_rows),
    cmocka_unit_test(test_exact),          cmocka_unit_test(test_rows),
    cmocka_unit_test(test_refused),
};
TEST_MAIN(tests)
