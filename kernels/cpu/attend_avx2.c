/* Attention microkernels for AVX2 and FMA, float32: 6 rows by 16 keys (or value columns) in 12 of 16
 * registers. bf16 pages are widened, which is exact. Packing and entmax's own steps are in
 * attend_parts_avx2.c. Tests: tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx2_parts.h"
#include "kernels/cpu/attend_exp2.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 6

/* 2^x for x <= 0; 0 below -126, so for -INFINITY too. */
INLINE __m256 exp2_lanes(__m256 x)
{
    const __m256 lowest = _mm256_set1_ps(-126.0f);
    __m256 normal = _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ); /* true for NaN, which stays */
    x = _mm256_max_ps(lowest, x);
    __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 f = _mm256_sub_ps(x, n), p = _mm256_set1_ps(SP_EXP2_C5);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(SP_EXP2_C4));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(SP_EXP2_C3));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(SP_EXP2_C2));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(SP_EXP2_C1));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), normal);
}

INLINE float reduce_max(__m256 x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

INLINE float reduce_add(__m256 x)
{
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

/* Scores without an edge become -INFINITY; eight keys a byte of the word. */
INLINE void mask_row(float *s, uint64_t word)
{
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int j = 0; j < SP_TILE; j += 8) {
        __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)(word >> j & 0xff)), bits);
        __m256 keep = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
        _mm256_storeu_ps(s + j, _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_loadu_ps(s + j), keep));
    }
}

INLINE float row_top(const float *s)
{
    __m256 top = _mm256_loadu_ps(s);
    for (int j = 8; j < SP_TILE; j += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(s + j));
    return reduce_max(top);
}

/* c[i][0..15] = a[i][0] b[0] + a[i][1] b[1] + .. on top of start, steps ascending. */
INLINE void multiply(const int rows, size_t steps, const float *a, size_t a_stride, const float *b,
                     size_t b_stride, __m256 c[BLOCK][2])
{
    for (size_t k = 0; k < steps; k++) {
        __m256 b0 = _mm256_loadu_ps(b + k * b_stride), b1 = _mm256_loadu_ps(b + k * b_stride + 8);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m256 x = _mm256_broadcast_ss(a + (size_t)i * a_stride + k);
            c[i][0] = _mm256_fmadd_ps(x, b0, c[i][0]);
            c[i][1] = _mm256_fmadd_ps(x, b1, c[i][1]);
        }
    }
}

/* Masked scores of rows rows, 64 a row. */
INLINE void score_rows(const int rows, const sp_attend_tile *tile, size_t row, float s[BLOCK][SP_TILE])
{
    const float *q = (const float *)tile->q + row * tile->head_dim, *k = tile->k;
    for (int j = 0; j < SP_TILE; j += 16) {
        __m256 c[BLOCK][2];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) c[i][0] = c[i][1] = _mm256_setzero_ps();
        multiply(rows, tile->head_dim, q, tile->head_dim, k + j, SP_TILE, c);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            _mm256_storeu_ps(s[i] + j, c[i][0]);
            _mm256_storeu_ps(s[i] + j + 8, c[i][1]);
        }
    }
    for (int i = 0; tile->words && i < rows; i++) mask_row(s[i], tile->words[row + (size_t)i]);
}

/* One row's scores become weights; returns what its out has to shrink by. */
INLINE float softmax_row(float *s, float *max, float *sum)
{
    float top = row_top(s), before = *max;
    if (top > before) *max = top;
    __m256 total = _mm256_setzero_ps(), m = _mm256_set1_ps(*max);
    for (int j = 0; j < SP_TILE; j += 8) {
        __m256 p = exp2_lanes(_mm256_sub_ps(_mm256_loadu_ps(s + j), m));
        _mm256_storeu_ps(s + j, p);
        total = _mm256_add_ps(total, p);
    }
    float factor = _mm256_cvtss_f32(exp2_lanes(_mm256_set1_ps(before - *max)));
    *sum = fmaf(*sum, factor, reduce_add(total));
    return factor;
}

INLINE void value_rows(const int rows, const sp_attend_tile *tile, size_t row, const float p[BLOCK][SP_TILE],
                       const float *factor)
{
    float *out = tile->state.out + row * tile->value_dim;
    for (size_t d = 0; d < tile->value_dim; d += 16, out += 16) {
        __m256 c[BLOCK][2];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const float *from = out + (size_t)i * tile->value_dim;
            c[i][0] = _mm256_mul_ps(_mm256_loadu_ps(from), _mm256_set1_ps(factor[i]));
            c[i][1] = _mm256_mul_ps(_mm256_loadu_ps(from + 8), _mm256_set1_ps(factor[i]));
        }
        multiply(rows, SP_TILE, p[0], SP_TILE, (const float *)tile->v + d, tile->v_stride, c);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            _mm256_storeu_ps(out + (size_t)i * tile->value_dim, c[i][0]);
            _mm256_storeu_ps(out + (size_t)i * tile->value_dim + 8, c[i][1]);
        }
    }
}

static bool any_edge(const sp_attend_tile *tile, size_t row, int rows)
{
    uint64_t any = tile->words ? 0 : 1;
    for (int i = 0; tile->words && i < rows; i++) any |= tile->words[row + (size_t)i];
    return any;
}

INLINE void softmax_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    if (!any_edge(tile, row, rows)) return;
    float s[BLOCK][SP_TILE], factor[BLOCK];
    score_rows(rows, tile, row, s);
    for (int i = 0; i < rows; i++)
        factor[i] = softmax_row(s[i], tile->state.max + row + i, tile->state.sum + row + i);
    value_rows(rows, tile, row, s, factor);
}

SP_EACH_BLOCK(softmax, softmax_block)

INLINE void score_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    bool any = any_edge(tile, row, rows);
    float s[BLOCK][SP_TILE];
    if (any) score_rows(rows, tile, row, s);
    for (int i = 0; i < rows; i++) {
        *tile->tops[row + (size_t)i] = any ? row_top(s[i]) : -INFINITY;
        if (any) memcpy(tile->scores[row + (size_t)i], s[i], sizeof s[i]);
    }
}

SP_EACH_BLOCK(scores, score_block)

static void merge(size_t rows, size_t value_dim, const sp_attend_state *into, const sp_attend_state *from)
{
    for (size_t row = 0; row < rows; row++) {
        float a = into->max[row], b = from->max[row], max = b > a ? b : a;
        float keep = _mm256_cvtss_f32(exp2_lanes(_mm256_set1_ps(a - max)));
        float take = _mm256_cvtss_f32(exp2_lanes(_mm256_set1_ps(b - max)));
        into->max[row] = max;
        into->sum[row] = fmaf(from->sum[row], take, into->sum[row] * keep);
        float *out = into->out + row * value_dim;
        const float *other = from->out + row * value_dim;
        size_t d = 0;
        for (; d + 8 <= value_dim; d += 8) {
            __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(out + d), _mm256_set1_ps(keep));
            _mm256_storeu_ps(out + d,
                             _mm256_fmadd_ps(_mm256_loadu_ps(other + d), _mm256_set1_ps(take), kept));
        }
        for (; d < value_dim; d++) out[d] = fmaf(other[d], take, out[d] * keep);
    }
}

const sp_attend_slots sp_attend_avx2_f32 = {.pack_q = sp_avx2_pack_q,
                                            .pack_k = sp_avx2_pack_k_f32,
                                            .pack_v = sp_avx2_pack_v_f32,
                                            .softmax = softmax,
                                            .merge = merge,
                                            .scores = scores,
                                            .collect = sp_avx2_collect,
                                            .threshold = sp_avx2_threshold,
                                            .weigh = sp_avx2_weigh,
                                            .accumulate = sp_avx2_accumulate_f32};
const sp_attend_slots sp_attend_avx2_bf16 = {.pack_q = sp_avx2_pack_q,
                                             .pack_k = sp_avx2_pack_k_widen,
                                             .pack_v = sp_avx2_pack_v_widen,
                                             .softmax = softmax,
                                             .merge = merge,
                                             .scores = scores,
                                             .collect = sp_avx2_collect,
                                             .threshold = sp_avx2_threshold,
                                             .weigh = sp_avx2_weigh,
                                             .accumulate = sp_avx2_accumulate_bf16};
