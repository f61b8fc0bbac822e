/* What the AVX-512 attention kernels with and without bf16 dot products share: 2^x, the softmax step of a few
 * rows in registers, 16 x 16 transposes. A row's 64 scores fill four registers; a block is 6 rows, or 3,
 * or 1. Functions are inlined with constant row counts, and what one row computes is the same in each.
 * Included by attend_avx512.c and attend_avx512bf16.c only. */
#ifndef SPARSED_KERNELS_CPU_ATTEND_AVX512_H
#define SPARSED_KERNELS_CPU_ATTEND_AVX512_H

#include "kernels/cpu/attend.h"
#include "kernels/cpu/attend_exp2.h"

#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 6

#ifdef __AVX512F__

/* 2^x for x <= 0; 0 below -150, so for -INFINITY too. */
INLINE __m512 exp2_lanes(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x); /* in this order a NaN stays */
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(SP_EXP2_C5);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(SP_EXP2_C4));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(SP_EXP2_C3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(SP_EXP2_C2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(SP_EXP2_C1));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

INLINE void mask_row(__m512 s[4], uint64_t word)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) s[j] = _mm512_mask_mov_ps(none, (__mmask16)(word >> 16 * j), s[j]);
}

INLINE float row_top(const __m512 s[4])
{
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3])));
}

/* Puts 16 * vectors scores of some rows down, 64 apart. The barrier ends the life of the registers: kept
 * alive through the softmax step, some of them would be spilled inside the loop that sums them. */
INLINE void put_scores(const int rows, const int vectors, __m512 s[BLOCK][4], float *scores)
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) _mm512_store_ps(scores + i * SP_TILE + 16 * j, s[i][j]);
    __asm__ volatile("" : : "r"(scores) : "memory");
}

/* The vectors of 16 keys that hold an edge of some row: begin .. end - 1. What lies outside is neither
 * multiplied nor added: its weights are 0, so that no bit of a row depends on its neighbours. */
typedef struct key_range {
    int begin, end;
} key_range;

INLINE key_range wanted_keys(const uint64_t *words, const int rows)
{
    if (!words) return (key_range){0, 4};
    uint64_t any = 0;
    for (int i = 0; i < rows; i++) any |= words[i];
    if (!any) return (key_range){0, 0};
    return (key_range){__builtin_ctzll(any) / 16, (63 - __builtin_clzll(any)) / 16 + 1};
}

/* Scores become 2^(score - maximum), in p[i]; the maxima and sums of the rows move on; factor[i] is what out
 * has to shrink by. */
INLINE void softmax_rows(const int rows, const float *scores, const uint64_t *words, float *max, float *sum,
                         float factor[16], __m512 p[BLOCK][4])
{
    _Alignas(64) float tops[16];
    const __mmask16 lanes = (__mmask16)((1u << rows) - 1);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) p[i][j] = _mm512_load_ps(scores + i * SP_TILE + 16 * j);
        if (words) mask_row(p[i], words[i]);
        tops[i] = row_top(p[i]);
    }
    __m512 before = _mm512_maskz_loadu_ps(lanes, max);
    __m512 after = _mm512_max_ps(_mm512_maskz_loadu_ps(lanes, tops), before);
    _mm512_mask_storeu_ps(max, lanes, after);
    __m512 shrink = exp2_lanes(_mm512_sub_ps(before, after));
    _mm512_store_ps(factor, shrink);
    _mm512_store_ps(tops, after);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        __m512 m = _mm512_set1_ps(tops[i]);
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) p[i][j] = exp2_lanes(_mm512_sub_ps(p[i][j], m));
        tops[i] = _mm512_reduce_add_ps(
            _mm512_add_ps(_mm512_add_ps(p[i][0], p[i][1]), _mm512_add_ps(p[i][2], p[i][3])));
    }
    __m512 total =
        _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, sum), shrink, _mm512_maskz_loadu_ps(lanes, tops));
    _mm512_mask_storeu_ps(sum, lanes, total);
}

/* Hands out masked scores and their maxima. */
INLINE void store_scores(const int rows, const float *from, const uint64_t *words, float *const *scores,
                         float *const *tops)
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        __m512 s[4];
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) s[j] = _mm512_load_ps(from + i * SP_TILE + 16 * j);
        if (words) mask_row(s, words[i]);
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(scores[i] + 16 * j, s[j]);
        *tops[i] = row_top(s);
    }
}

/* Transposes 16 rows of 16 dwords in place. */
INLINE void transpose(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 4) { /* r[i + c]: column c of each 4 x 4 block of rows i .. i + 3 */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 8
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88),
                b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        __m512i e = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd),
                f = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(a, b, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[4 + c] = _mm512_shuffle_i32x4(e, f, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(e, f, 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

#endif
#endif
