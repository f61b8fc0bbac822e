/* Block types: blocks written out by hand from the format's description, and what their elements are worth.
 */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "kernels/tensor.h"

#define HALF 0x3800u  /* 0.5 */
#define THIRD 0x3555u /* 0.333251953125 */
#define MINUS_2 0xc000u
#define SMALLEST 0x0001u /* 2^-24 */

static void put_half(uint8_t *to, unsigned bits)
{
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
}

/* Everything but the listed elements has the value rest. */
typedef struct expected {
    size_t element;
    double value;
} expected;

static void check(sp_dtype dtype, const uint8_t *block, double rest, const expected *wanted, size_t n)
{
    float values[SP_MAX_BLOCK + 1];
    uint8_t shifted[1 + 210]; /* blocks have no alignment */
    size_t count = sp_dtype_block(dtype), bytes = sp_dtype_block_bytes(dtype);
    for (size_t i = 0; i <= count; i++) values[i] = 12345.0f;
    memcpy(shifted + 1, block, bytes);
    assert_true(sp_convert_to_f32(dtype, shifted + 1, values, count));
    assert_true(values[count] == 12345.0f);
    for (size_t i = 0; i < count; i++) {
        double value = rest;
        for (size_t k = 0; k < n; k++) value = wanted[k].element == i ? wanted[k].value : value;
        if ((double)values[i] != value)
            fail_msg("%s, element %zu: %.9g, not %.9g", sp_dtype_name(dtype), i, (double)values[i], value);
    }
}

static void test_32(void **state)
{
    (void)state;
    uint8_t q8[34] = {0}, q4[20] = {0}, q5[24] = {0};
    put_half(q8, HALF);
    q8[2] = 127, q8[2 + 17] = 0x80, q8[2 + 31] = 0xff;
    check(SP_Q8_0, q8, 0, (expected[]){{0, 63.5}, {17, -64}, {31, -0.5}}, 3);

    put_half(q4, THIRD);
    memset(q4 + 2, 0x88, 16);
    q4[2] = 0xf0, q4[2 + 15] = 0x29; /* low: elements 0 and 15, high: 16 and 31 */
    double third = 0.333251953125;
    check(SP_Q4_0, q4, 0, (expected[]){{0, -8 * third}, {16, 7 * third}, {15, third}, {31, -6 * third}}, 4);

    memset(q4, 0, sizeof q4);
    put_half(q4, HALF);
    put_half(q4 + 2, MINUS_2);
    q4[4 + 3] = 0x5f;
    check(SP_Q4_1, q4, -2, (expected[]){{3, 5.5}, {19, 0.5}}, 2);

    put_half(q5, HALF);
    q5[2] = 0x01, q5[5] = 0x80; /* fifth bits of elements 0 and 31 */
    q5[6] = 0x03, q5[6 + 15] = 0xf0;
    check(SP_Q5_0, q5, -8, (expected[]){{0, 1.5}, {31, 7.5}}, 2);

    memset(q5, 0, sizeof q5);
    put_half(q5, SMALLEST);
    put_half(q5 + 2, HALF);
    q5[4 + 1] = 0x02; /* fifth bit of element 9 */
    q5[8 + 9] = 0x4a;
    check(SP_Q5_1, q5, 0.5, (expected[]){{9, 0.5 + 26 * 0x1p-24}, {25, 0.5 + 4 * 0x1p-24}}, 2);
}

/* Scale and minimum of group g in the 12 bytes, written the other way round from the reader: bit by bit. */
static void put_small(uint8_t *to, size_t g, unsigned scale, unsigned min)
{
    if (g < 4) {
        to[g] = (uint8_t)((to[g] & 0xc0) | scale);
        to[4 + g] = (uint8_t)((to[4 + g] & 0xc0) | min);
    } else {
        to[4 + g] = (uint8_t)((scale & 15) | (min & 15) << 4);
        to[g - 4] = (uint8_t)((to[g - 4] & 63) | (scale >> 4) << 6);
        to[g] = (uint8_t)((to[g] & 63) | (min >> 4) << 6);
    }
}

static void test_q4_k(void **state)
{
    (void)state;
    uint8_t block[144] = {0};
    put_half(block, HALF);
    put_half(block + 2, HALF);
    for (size_t g = 0; g < 8; g++) put_small(block + 4, g, 63 - (unsigned)g, g == 6 ? 45 : 0);
    block[16 + 5] = 0x21;           /* element 5 of groups 0 and 1 */
    block[16 + 3 * 32 + 31] = 0xf7; /* element 31 of groups 6 and 7 */
    float values[256];
    assert_true(sp_convert_to_f32(SP_Q4_K, block, values, 256));
    for (size_t i = 0; i < 256; i++) {
        double value = i / 32 == 6 ? -22.5 : 0;
        if (i == 5) value = 31.5;
        if (i == 37) value = 62;
        if (i == 6 * 32 + 31) value = 0.5 * 57 * 7 - 22.5;
        if (i == 255) value = 0.5 * 56 * 15;
        assert_true((double)values[i] == value);
    }
    assert_false(sp_convert_to_f32(SP_Q4_K, block, values, 128)); /* half a block */
}

static void test_q5_k(void **state)
{
    (void)state;
    uint8_t block[176] = {0};
    put_half(block, HALF);
    put_half(block + 2, MINUS_2);
    for (size_t g = 0; g < 8; g++) put_small(block + 4, g, 2 * (unsigned)g + 33, 1);
    block[16 + 7] = 0x81;          /* fifth bits of element 7 of groups 0 and 7 */
    block[48 + 7] = 0x03;          /* groups 0, 1 */
    block[48 + 3 * 32 + 7] = 0x90; /* groups 6, 7 */
    check(SP_Q5_K, block, 2, (expected[]){{7, 0.5 * 33 * 19 + 2}, {7 * 32 + 7, 0.5 * 47 * 25 + 2}}, 2);
}

static void test_q6_k(void **state)
{
    (void)state;
    uint8_t block[210];
    memset(block, 0, 128);
    memset(block + 128, 0xaa, 64); /* 2 in every pair of bits: q = 32, value 0 */
    for (size_t g = 0; g < 16; g++) block[192 + g] = (uint8_t)(g - 8);
    put_half(block + 208, HALF);
    block[3] = 0x5a;             /* elements 3 and 67 */
    block[64 + 32 + 16] = 0x10;  /* second half: elements 128 + 48 and 128 + 112 */
    block[128 + 32 + 16] = 0x63; /* their high bits, bits 2 and 6; elements 144 and 208 too */
    check(SP_Q6_K, block, 0,
          (expected[]){{3, 0.5 * -8 * 10},
                       {67, 0.5 * -4 * 5},
                       {128 + 16, 0.5 * 1 * 16},
                       {128 + 48, 0.5 * 3 * -32},
                       {128 + 80, 0},
                       {128 + 112, 0.5 * 7 * -15}},
          6);
}

static void test_refused(void **state)
{
    (void)state;
    float values[64] = {0};
    const uint8_t bytes[68] = {0};
    assert_false(sp_convert_to_f32(SP_Q8_0, bytes, values, 33));
    assert_false(sp_convert_to_f32(SP_I8, bytes, values, 32));
    assert_true(sp_convert_to_f32(SP_Q8_0, bytes, values, 0));
    assert_true(sp_convert_to_f32(SP_Q8_0, bytes, values, 64));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_32),   cmocka_unit_test(test_q4_k),    cmocka_unit_test(test_q5_k),
    cmocka_unit_test(test_q6_k), cmocka_unit_test(test_refused),
};
TEST_MAIN(tests)
