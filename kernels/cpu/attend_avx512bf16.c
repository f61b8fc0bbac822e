/* Attention microkernels with bf16 dot products (VDPBF16PS): q, K, softmax weights and V in bf16, two numbers
 * a lane, sums in float32. Blocks as in attend_avx512.c. Entmax takes its scores from here and its values in
 * float32, from widened rows. Tests: tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx512.h"
#include "kernels/cpu/attend_avx512_parts.h"

INLINE __m512bh load_pairs(const uint32_t *pairs)
{
    return (__m512bh)_mm512_loadu_si512(pairs);
}

/* s = q . k of rows rows, pairs of d ascending. */
INLINE void dot_rows(const int rows, const int vectors, const uint32_t *q, size_t pairs, const uint32_t *k,
                     __m512 s[BLOCK][4])
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) s[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < pairs; d++) {
        __m512bh b[4];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) b[j] = load_pairs(k + d * SP_TILE + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)q[(size_t)i * pairs + d]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) s[i][j] = _mm512_dpbf16_ps(s[i][j], a, b[j]);
        }
    }
}

/* out = out * factor + p . v for 16 * vectors columns, pairs of keys ascending. */
INLINE void value_rows(const int rows, const int vectors, const uint32_t *p, const float *factor,
                       key_range keys, const uint32_t *v, size_t v_stride, float *out, size_t stride)
{
    __m512 o[BLOCK][4];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            o[i][j] =
                _mm512_mul_ps(_mm512_loadu_ps(out + (size_t)i * stride + 16 * j), _mm512_set1_ps(factor[i]));
    for (size_t pair = 8 * (size_t)keys.begin; pair < 8 * (size_t)keys.end; pair++) {
        __m512bh b[4];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) b[j] = load_pairs(v + pair * v_stride + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)p[(size_t)i * (SP_TILE / 2) + pair]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) o[i][j] = _mm512_dpbf16_ps(o[i][j], a, b[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) _mm512_storeu_ps(out + (size_t)i * stride + 16 * j, o[i][j]);
}

INLINE void put_weights(const int rows, __m512 s[BLOCK][4], uint32_t *p)
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < 4; j += 2)
            _mm512_store_si512(p + (i * 4 + j) * 8, (__m512i)_mm512_cvtne2ps_pbh(s[i][j + 1], s[i][j]));
}

typedef uint32_t lane;
#define NUMBERS_A_LANE 2
#include "kernels/cpu/attend_avx512_blocks.h"

static void pack_q(size_t head_dim, float scale, const float *q, void *out)
{
    const __m512 factor = _mm512_set1_ps(scale);
    uint16_t *packed = out;
    size_t padded = (head_dim + 1) / 2 * 2;
    for (size_t d = 0; d < padded; d += 16) {
        __mmask16 in = (__mmask16)(head_dim - d < 16 ? (1u << (head_dim - d)) - 1 : UINT16_MAX);
        __mmask16 to = (__mmask16)(padded - d < 16 ? (1u << (padded - d)) - 1 : UINT16_MAX);
        __m256bh rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_maskz_loadu_ps(in, q + d), factor));
        _mm256_mask_storeu_epi16(packed + d, to, (__m256i)rounded);
    }
}

const sp_attend_slots sp_attend_avx512bf16_bf16 = {.dots = true,
                                                   .pack_q = pack_q,
                                                   .pack_k = sp_avx512_pack_k_pairs,
                                                   .pack_v = sp_avx512_pack_v_pairs,
                                                   .softmax = softmax,
                                                   .merge = sp_avx512_merge,
                                                   .scores = scores,
                                                   .collect = sp_avx512_collect,
                                                   .threshold = sp_avx512_threshold,
                                                   .weigh = sp_avx512_weigh,
                                                   .accumulate = sp_avx512_accumulate_bf16};
