/* What the VNNI kernels of linear layers of block types share: taking numbers out of their packed form, and
 * one group of products. Included by linear_quant_avx512vnni.c and linear_quant_few_avx512vnni.c only. */
#ifndef SPARSED_KERNELS_CPU_LINEAR_QUANT_AVX512VNNI_H
#define SPARSED_KERNELS_CPU_LINEAR_QUANT_AVX512VNNI_H

#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define ROWS 6
#define INLINE static inline __attribute__((always_inline))

/* Bits 4 (and 5, for two of them) of vector j, out of the vectors behind the low four bits. */
INLINE __m512i high_bits(size_t bits, const uint8_t *step, size_t j)
{
    size_t each = bits - 4; /* bits a number: 1 or 2 */
    const __m512i mask = _mm512_set1_epi8(bits == 5 ? 0x10 : 0x30);
    __m512i v = _mm512_load_si512(step + 512 + j * each / 8 * 64);
    size_t place = j * each % 8;
    v = place < 4 ? _mm512_slli_epi16(v, (unsigned)(4 - place)) : _mm512_srli_epi16(v, (unsigned)(place - 4));
    return _mm512_and_si512(v, mask);
}

/* Four k (number k4 of 8) of 32 outputs. bits and k4 are constants where this is inlined. */
INLINE void take_numbers(size_t bits, const uint8_t *step, size_t k4, __m512i *low, __m512i *high)
{
    const __m512i four = _mm512_set1_epi8(15);
    if (bits == 8) {
        *low = _mm512_load_si512(step + k4 * 128);
        *high = _mm512_load_si512(step + k4 * 128 + 64);
        return;
    }
    __m512i both = _mm512_load_si512(step + k4 * 64);
    *low = _mm512_and_si512(both, four);
    *high = _mm512_and_si512(_mm512_srli_epi16(both, 4), four);
    if (bits > 4) {
        *low = _mm512_or_si512(*low, high_bits(bits, step, 2 * k4));
        *high = _mm512_or_si512(*high, high_bits(bits, step, 2 * k4 + 1));
    }
}

INLINE __m512i four_at(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* One group of one step, rows times 32 outputs, onto the sums. Constants: rows, bits, group, mins, g. */
INLINE void product_group(size_t rows, size_t bits, size_t group, bool mins, size_t g, const uint8_t *numbers,
                          const sp_quant_lines *x, const __m512 *scales, const __m512 *w_mins, __m512 *low,
                          __m512 *high)
{
    __m512i exact0[ROWS], exact1[ROWS];
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++)
        exact0[r] = exact1[r] = mins ? _mm512_setzero_si512() : _mm512_set1_epi32(x->starts[g * rows + r]);
#pragma GCC unroll 8
    for (size_t k = 0; k < group / 4; k++) {
        __m512i w0, w1;
        take_numbers(bits, numbers, g * (group / 4) + k, &w0, &w1);
#pragma GCC unroll 6
        for (size_t r = 0; r < rows; r++) {
            __m512i a = four_at(x->q + r * SP_QUANT_BLOCK + g * group + k * 4);
            exact0[r] = _mm512_dpbusd_epi32(exact0[r], w0, a);
            exact1[r] = _mm512_dpbusd_epi32(exact1[r], w1, a);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++) {
        __m512 t0 = _mm512_mul_ps(_mm512_cvtepi32_ps(exact0[r]), scales[0]);
        __m512 t1 = _mm512_mul_ps(_mm512_cvtepi32_ps(exact1[r]), scales[1]);
        if (mins) {
            __m512 sum = _mm512_set1_ps(x->sums[r]);
            t0 = _mm512_fnmadd_ps(w_mins[0], sum, t0);
            t1 = _mm512_fnmadd_ps(w_mins[1], sum, t1);
        }
        __m512 scale = _mm512_set1_ps(x->scales[r]);
        low[r] = _mm512_fmadd_ps(t0, scale, low[r]);
        high[r] = _mm512_fmadd_ps(t1, scale, high[r]);
    }
}

/* The case of every number of rows. */
#define ANY_ROWS(product, n_rows, ...)                                                                       \
    switch (n_rows) {                                                                                        \
    case 1:                                                                                                  \
        product(1, __VA_ARGS__);                                                                             \
        break;                                                                                               \
    case 2:                                                                                                  \
        product(2, __VA_ARGS__);                                                                             \
        break;                                                                                               \
    case 3:                                                                                                  \
        product(3, __VA_ARGS__);                                                                             \
        break;                                                                                               \
    case 4:                                                                                                  \
        product(4, __VA_ARGS__);                                                                             \
        break;                                                                                               \
    case 5:                                                                                                  \
        product(5, __VA_ARGS__);                                                                             \
        break;                                                                                               \
    default:                                                                                                 \
        product(ROWS, __VA_ARGS__);                                                                          \
    }

#endif
