/* --weights: what a matrix becomes at load, for every type it may be stored in, and what it then computes. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "tests/support/random.h"

enum { OUT = 37, IN = 512 };

typedef struct stored {
    sp_tensor tensor;
    uint8_t *bytes;
    float *values; /* (OUT, IN) */
} stored;

static stored stored_new(sp_dtype dtype, test_random *random)
{
    stored s = {.tensor = {.dtype = dtype, .rank = 2, .shape = {OUT, IN}}, .values = malloc(OUT * IN * 4)};
    assert_non_null(s.values);
    assert_true(sp_dtype_bytes(dtype, OUT * IN, &s.tensor.bytes));
    s.tensor.data = s.bytes = malloc(s.tensor.bytes);
    assert_non_null(s.bytes);
    for (size_t i = 0; i < s.tensor.bytes; i++) s.bytes[i] = (uint8_t)test_random_below(random, 256);
    size_t step = sp_dtype_block_bytes(dtype);
    for (size_t at = 0; at < s.tensor.bytes; at += step) { /* no NaN, no infinity, about 2^-6 */
        uint16_t half = 0x2400;
        float value = (float)test_random_gauss(random);
        if (dtype == SP_F32) memcpy(s.bytes + at, &value, sizeof value);
        if (dtype == SP_BF16) half = sp_bf16_from_f32(value);
        if (dtype == SP_F16) half = (uint16_t)(half + test_random_below(random, 1024));
        if (dtype != SP_F32) memcpy(s.bytes + at + (dtype == SP_Q6_K ? 208 : 0), &half, sizeof half);
        if (sp_block_has_mins(dtype)) memcpy(s.bytes + at + 2, &half, sizeof half);
    }
    assert_true(sp_convert_to_f32(dtype, s.bytes, s.values, OUT * IN));
    return s;
}

/* What the matrix holds, to compare with the dequantized values: exact, or rounded to bf16. */
static void check_rows(const sp_device *device, const sp_matrix *matrix, const float *values)
{
    float row[IN];
    for (size_t o = 0; o < OUT; o++) {
        device->ops->widen_row(matrix, o, row);
        for (size_t k = 0; k < IN; k++) {
            float value = values[o * IN + k];
            if (matrix->dtype == SP_BF16) value = sp_bf16_to_f32(sp_bf16_from_f32(value));
            assert_true(row[k] == value);
        }
    }
}

static void test_types(void **state)
{
    (void)state;
    static const sp_dtype types[] = {SP_F32,  SP_F16,  SP_BF16, SP_Q8_0, SP_Q4_0, SP_Q4_1,
                                     SP_Q5_0, SP_Q5_1, SP_Q4_K, SP_Q5_K, SP_Q6_K};
    test_random random = {.state = 3};
    sp_device_options device_options = {.n_threads = 2};
    for (size_t i = 0; i < COUNT_OF(types) * 6; i++) {
        sp_error error = {0};
        sp_model model = {0};
        sp_matrix matrix;
        assert_ok(sp_device_open("cpu", &device_options, &model.device, &error), error);
        stored s = stored_new(types[i / 6], &random);
        sp_model_options options = {.weights_as = (sp_weights_as)(i % 3), .exact = i % 6 < 3};
        assert_ok(sp_model_pack(&model, &options, &s.tensor, &matrix, &error), error);
        sp_dtype expected = types[i / 6];
        if (expected == SP_F16 || (sp_dtype_is_block(expected) && options.exact)) expected = SP_F32;
        if (options.weights_as == SP_WEIGHTS_BF16) expected = SP_BF16;
        if (options.weights_as == SP_WEIGHTS_F32) expected = SP_F32;
        assert_int_equal(matrix.dtype, expected);
        if (options.exact || matrix.dtype == SP_F32) assert_false(matrix.round_rows);
        check_rows(model.device, &matrix, s.values);
        sp_matrix_fini(&matrix);
        free(s.bytes);
        free(s.values);
        sp_device_close(model.device);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const float w[32];
    static const sp_tensor bad[] = {
        {.dtype = SP_I32, .rank = 2, .shape = {1, 32}, .data = w, .bytes = sizeof w},
        {.dtype = SP_F32, .rank = 1, .shape = {32}, .data = w, .bytes = sizeof w},
        {.dtype = SP_Q8_0, .rank = 2, .shape = {1, 31}, .data = w, .bytes = sizeof w},
        {.dtype = SP_Q8_0, .rank = 2, .shape = {4, 32}, .data = w, .bytes = sizeof w},
        {.dtype = SP_BF16, .rank = 2, .shape = {SIZE_MAX / 2, SIZE_MAX / 2}, .data = w, .bytes = sizeof w},
    };
    sp_model model = {0};
    sp_error error = {0};
    assert_ok(sp_device_open("cpu", NULL, &model.device, &error), error);
    for (size_t i = 0; i < 3 * COUNT_OF(bad); i++) {
        sp_model_options options = {.weights_as = (sp_weights_as)(i % 3)};
        sp_matrix matrix;
        assert_int_equal(sp_model_pack(&model, &options, &bad[i / 3], &matrix, &error), SP_DATA);
        assert_null(matrix.data);
    }
    sp_device_close(model.device);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_types), cmocka_unit_test(test_refused)};
TEST_MAIN(tests)
