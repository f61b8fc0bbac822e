/* Element types: sizes, names, every float16 and bfloat16 bit pattern, rounding to bfloat16. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "kernels/tensor.h"
#include "tests/support/random.h"

static void test_types(void **state)
{
    (void)state;
    static const struct {
        sp_dtype dtype;
        const char *name;
        size_t size, block, block_bytes;
    } cases[] = {
        {SP_F32, "F32", 4, 1, 4},       {SP_F16, "F16", 2, 1, 2},       {SP_BF16, "BF16", 2, 1, 2},
        {SP_U8, "U8", 1, 1, 1},         {SP_I8, "I8", 1, 1, 1},         {SP_U16, "U16", 2, 1, 2},
        {SP_I16, "I16", 2, 1, 2},       {SP_U32, "U32", 4, 1, 4},       {SP_I32, "I32", 4, 1, 4},
        {SP_U64, "U64", 8, 1, 8},       {SP_I64, "I64", 8, 1, 8},       {SP_F64, "F64", 8, 1, 8},
        {SP_BOOL, "BOOL", 1, 1, 1},     {SP_Q8_0, "Q8_0", 0, 32, 34},   {SP_Q4_0, "Q4_0", 0, 32, 18},
        {SP_Q4_1, "Q4_1", 0, 32, 20},   {SP_Q5_0, "Q5_0", 0, 32, 22},   {SP_Q5_1, "Q5_1", 0, 32, 24},
        {SP_Q4_K, "Q4_K", 0, 256, 144}, {SP_Q5_K, "Q5_K", 0, 256, 176}, {SP_Q6_K, "Q6_K", 0, 256, 210}};
    assert_int_equal(COUNT_OF(cases), SP_DTYPES);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        assert_string_equal(sp_dtype_name(cases[i].dtype), cases[i].name);
        assert_int_equal(sp_dtype_size(cases[i].dtype), cases[i].size);
        assert_int_equal(sp_dtype_block(cases[i].dtype), cases[i].block);
        assert_int_equal(sp_dtype_block_bytes(cases[i].dtype), cases[i].block_bytes);
        assert_int_equal(sp_dtype_is_block(cases[i].dtype), cases[i].size == 0);
        size_t bytes;
        assert_true(sp_dtype_bytes(cases[i].dtype, 7 * cases[i].block, &bytes));
        assert_int_equal(bytes, 7 * cases[i].block_bytes);
        assert_true(sp_dtype_bytes(cases[i].dtype, 0, &bytes));
        assert_int_equal(bytes, 0);
        assert_int_equal(sp_dtype_bytes(cases[i].dtype, cases[i].block + 1, &bytes), cases[i].block == 1);
        if (cases[i].block_bytes > cases[i].block)
            assert_false(sp_dtype_bytes(cases[i].dtype, SIZE_MAX / cases[i].block * cases[i].block, &bytes));
    }
    size_t none;
    assert_false(sp_dtype_bytes(SP_DTYPES, 0, &none));
    assert_int_equal(sp_dtype_size(SP_DTYPES), 0);
    assert_non_null(sp_dtype_name(SP_DTYPES));
}

static void test_count(void **state)
{
    (void)state;
    sp_tensor t = {.rank = 3, .shape = {2, 3, 5, 7}};
    assert_int_equal(sp_tensor_count(&t), 30);
    t.rank = 0;
    assert_int_equal(sp_tensor_count(&t), 1);
    t = (sp_tensor){.rank = 2, .shape = {4, 0}};
    assert_int_equal(sp_tensor_count(&t), 0);
}

/* The value by definition: (-1)^sign * significand * 2^exponent, in double. */
static double decode_by_definition(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1, limit = (1 << exponent_bits) - 1;
    int exponent = (int)(bits >> mantissa_bits) & limit;
    double mantissa = ldexp((double)(bits & ((1u << mantissa_bits) - 1)), -mantissa_bits);
    double sign = bits >> (exponent_bits + mantissa_bits) ? -1.0 : 1.0;
    if (exponent == limit) return mantissa > 0 ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? ldexp(mantissa, 1 - bias) : ldexp(1 + mantissa, exponent - bias));
}

static void expect_same(float found, double expected, uint32_t bits)
{
    bool same =
        isnan(expected) ? isnan(found) : (double)found == expected && !signbit(found) == !signbit(expected);
    if (!same) fail_msg("0x%04x: %.17g, not %.17g", bits, (double)found, expected);
}

static void test_half_types(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits;
        float converted[2];
        expect_same(sp_f16_to_f32(half), decode_by_definition(bits, 5, 10), bits);
        expect_same(sp_bf16_to_f32(half), decode_by_definition(bits, 8, 7), bits);
        assert_true(sp_convert_to_f32(SP_F16, &half, &converted[0], 1));
        assert_true(sp_convert_to_f32(SP_BF16, &half, &converted[1], 1));
        expect_same(converted[0], decode_by_definition(bits, 5, 10), bits);
        expect_same(converted[1], decode_by_definition(bits, 8, 7), bits);
        if (!isnan(sp_bf16_to_f32(half))) assert_int_equal(sp_bf16_from_f32(sp_bf16_to_f32(half)), half);
    }
}

/* Of the two bfloat16 neighbours the nearer is taken, and of two equally near the even one. */
static void test_rounding(void **state)
{
    (void)state;
    test_random random = {3};
    for (size_t i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)test_random_u64(&random);
        if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u; /* ties */
        float value;
        memcpy(&value, &bits, sizeof value);
        uint16_t found = sp_bf16_from_f32(value), down = (uint16_t)(bits >> 16), up = (uint16_t)(down + 1);
        if (isnan(value)) {
            assert_true(isnan(sp_bf16_to_f32(found)));
            continue;
        }
        if ((bits & 0x7f800000u) == 0x7f800000u) {
            assert_int_equal(found, down);
            continue;
        }
        double below = fabs(decode_by_definition(down, 8, 7)), above = fabs(decode_by_definition(up, 8, 7));
        if (isinf(above)) above = 0x1p128; /* rounding goes by the value infinity would have */
        double to_below = fabs((double)value) - below, to_above = above - fabs((double)value);
        uint16_t expected = to_below < to_above ? down : to_above < to_below ? up : (down & 1) ? up : down;
        if (found != expected) fail_msg("0x%08x: 0x%04x, not 0x%04x", bits, found, expected);
    }
}

static void test_convert(void **state)
{
    (void)state;
    float from[3] = {1.5f, -0.0f, 3e-45f}, to[3];
    assert_true(sp_convert_to_f32(SP_F32, from, to, 3));
    assert_memory_equal(from, to, sizeof to);
    assert_true(sp_convert_to_f32(SP_F32, NULL, NULL, 0));
    assert_false(sp_convert_to_f32(SP_I32, from, to, 3));
    assert_false(sp_convert_to_f32(SP_F64, from, to, 1));
    assert_false(sp_convert_to_f32(SP_DTYPES, from, to, 1));
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_types), cmocka_unit_test(test_count),
                                          cmocka_unit_test(test_half_types), cmocka_unit_test(test_rounding),
                                          cmocka_unit_test(test_convert)};

TEST_MAIN(tests)
