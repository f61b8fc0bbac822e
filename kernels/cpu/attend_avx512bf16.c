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

/* Scores of the keys in range, for rows rows. */
INLINE void score_rows(const int rows, const sp_attend_tile *tile, size_t row, key_range keys, float *scores)
{
    __m512 s[BLOCK][4];
    size_t steps = tile->head_dim / 2;
    const uint32_t *q = (const uint32_t *)tile->q + row * steps,
                   *k = (const uint32_t *)tile->k + 16 * keys.begin;
    switch (keys.end - keys.begin) {
    case 1:
        dot_rows(rows, 1, q, steps, k, s);
        put_scores(rows, 1, s, scores + 16 * keys.begin);
        break;
    case 2:
        dot_rows(rows, 2, q, steps, k, s);
        put_scores(rows, 2, s, scores + 16 * keys.begin);
        break;
    case 3:
        dot_rows(rows, 3, q, steps, k, s);
        put_scores(rows, 3, s, scores + 16 * keys.begin);
        break;
    default:
        dot_rows(rows, 4, q, steps, k, s);
        put_scores(rows, 4, s, scores);
        break;
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

INLINE void softmax_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    const uint64_t *words = tile->words ? tile->words + row : NULL;
    key_range keys = wanted_keys(words, rows);
    if (keys.begin == keys.end) return;
    __m512 s[BLOCK][4];
    _Alignas(64) float scores[BLOCK * SP_TILE], factor[16];
    _Alignas(64) uint32_t p[BLOCK * SP_TILE / 2];
    score_rows(rows, tile, row, keys, scores);
    softmax_rows(rows, scores, words, tile->state.max + row, tile->state.sum + row, factor, s);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < 4; j += 2)
            _mm512_store_si512(p + (i * 4 + j) * 8, (__m512i)_mm512_cvtne2ps_pbh(s[i][j + 1], s[i][j]));
    size_t stride = tile->value_dim, at = 0;
    float *out = tile->state.out + row * stride;
    const uint32_t *v = tile->v;
    for (; at + 64 <= stride; at += 64)
        value_rows(rows, 4, p, factor, keys, v + at, tile->v_stride, out + at, stride);
    switch ((stride - at) / 16) {
    case 1:
        value_rows(rows, 1, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    case 2:
        value_rows(rows, 2, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    case 3:
        value_rows(rows, 3, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    default:
        break;
    }
}

SP_EACH_BLOCK(softmax, softmax_block)

INLINE void score_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    const uint64_t *words = tile->words ? tile->words + row : NULL;
    key_range keys = wanted_keys(words, rows);
    if (keys.begin == keys.end) {
        for (int i = 0; i < rows; i++) *tile->tops[row + (size_t)i] = -INFINITY;
        return;
    }
    _Alignas(64) float all[BLOCK * SP_TILE];
    score_rows(rows, tile, row, keys, all);
    store_scores(rows, all, words, tile->scores + row, tile->tops + row);
}

SP_EACH_BLOCK(scores, score_block)

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
