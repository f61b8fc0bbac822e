/* The block types of GGUF taken apart: each block is its numbers q of a few bits, and the scales and minimums
 * that turn them into values (sp_block).
 *
 * Types of 32 elements: a float16 scale d, for Q4_1 and Q5_1 a float16 m that is added, for Q5_x 32 fifth
 * bits, then 4 bits an element: byte j holds element j in its low half and element j + 16 in its high half.
 * Q8_0 holds bytes. Values: Q8_0 d q, Q4_0 d (q - 8), Q5_0 d (q - 16), Q4_1 and Q5_1 d q + m.
 *
 * Types of 256 elements have smaller scales inside. Q4_K, Q5_K: eight groups of 32, value d s q - dmin m with
 * s and m of 6 bits, packed in 12 bytes; low and high halves of 32 bytes hold two groups, Q5_K's fifth bits
 * are bits 2c and 2c + 1 of 32 more bytes. Q6_K: sixteen groups of 16, value d s (q - 32), s a signed byte;
 * each half of 128 elements has 64 bytes of low 4 bits and 32 bytes of high 2 bits. Source: the GGUF
 * specification and the formats' public description in ggml. d (11 bits) times s (8) is exact in float32.
 * Tests: tests/unit/kernels/test_dequant.c */
#include "kernels/tensor.h"

static uint16_t half_at(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

bool sp_block_has_mins(sp_dtype dtype)
{
    return dtype == SP_Q4_1 || dtype == SP_Q5_1 || dtype == SP_Q4_K || dtype == SP_Q5_K;
}

size_t sp_block_group(sp_dtype dtype)
{
    return dtype == SP_Q6_K ? 16 : 32;
}

/* 32 numbers of 4 bits; high bits, where there are any, come from a 32-bit word. */
static void unpack_nibbles(const uint8_t *from, uint32_t fifths, int offset, int8_t *q)
{
    for (size_t j = 0; j < 16; j++) {
        q[j] = (int8_t)((from[j] & 15) + (int)(fifths >> j & 1) * 16 - offset);
        q[j + 16] = (int8_t)((from[j] >> 4) + (int)(fifths >> (j + 16) & 1) * 16 - offset);
    }
}

static uint32_t word_at(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Q4_K and Q5_K: scale and minimum j of 8, 6 bits each, in 12 bytes. */
static void small_scales(const uint8_t *from, size_t j, int8_t *scale, int8_t *min)
{
    if (j < 4) {
        *scale = (int8_t)(from[j] & 63);
        *min = (int8_t)(from[j + 4] & 63);
    } else {
        *scale = (int8_t)((from[j + 4] & 15) | from[j - 4] >> 6 << 4);
        *min = (int8_t)(from[j + 4] >> 4 | from[j] >> 6 << 4);
    }
}

static void unpack_k45(const uint8_t *from, bool fifth, sp_block *out)
{
    out->scale = half_at(from);
    out->min = half_at(from + 2);
    const uint8_t *fifths = from + 16, *low = from + (fifth ? 48 : 16);
    for (size_t j = 0; j < 8; j++) {
        small_scales(from + 4, j, &out->scales[j], &out->mins[j]);
        for (size_t l = 0; l < 32; l++) {
            int four = low[j / 2 * 32 + l] >> j % 2 * 4 & 15;
            out->q[j * 32 + l] = (int8_t)(four + (fifth ? (fifths[l] >> j & 1) * 16 : 0));
        }
    }
}

static void unpack_k6(const uint8_t *from, sp_block *out)
{
    const uint8_t *low = from, *high = from + 128, *scales = from + 192;
    out->scale = half_at(from + 208);
    out->min = 0;
    memcpy(out->scales, scales, 16);
    memset(out->mins, 0, sizeof out->mins);
    for (size_t i = 0; i < 256; i++) {
        size_t half = i / 128, quarter = i % 128 / 32, l = i % 32;
        int four = low[half * 64 + quarter % 2 * 32 + l] >> quarter / 2 * 4 & 15;
        int two = high[half * 32 + l] >> quarter * 2 & 3;
        out->q[i] = (int8_t)((four | two << 4) - 32);
    }
}

void sp_block_unpack(sp_dtype dtype, const void *block, sp_block *out)
{
    const uint8_t *from = block;
    if (dtype == SP_Q4_K || dtype == SP_Q5_K) {
        unpack_k45(from, dtype == SP_Q5_K, out);
        return;
    }
    if (dtype == SP_Q6_K) {
        unpack_k6(from, out);
        return;
    }
    bool added = sp_block_has_mins(dtype), fifth = dtype == SP_Q5_0 || dtype == SP_Q5_1;
    out->scale = half_at(from);
    out->min = added ? half_at(from + 2) ^ 0x8000u : 0;
    out->scales[0] = out->mins[0] = 1;
    from += added ? 4 : 2;
    if (dtype == SP_Q8_0)
        memcpy(out->q, from, 32);
    else
        unpack_nibbles(from + (fifth ? 4 : 0), fifth ? word_at(from) : 0, added ? 0 : fifth ? 16 : 8, out->q);
}
