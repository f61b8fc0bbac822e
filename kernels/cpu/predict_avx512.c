/* Projections and scores of predictors with AVX-512: rows by 64 keys in registers. The order of operations is
 * that of predict_reference.c. Candidates: predict_top_avx512.c; centroids: predict_assign_avx512.c. Tests:
 * tests/kernels/test_predict.c */
#include "kernels/cpu/predict_avx512.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* --- projections --- */

#define PROJECT_ROWS 8

INLINE void project_block(const int rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                          const float *weight, const float *bias, float *out, size_t out_stride)
{
    for (size_t j = 0; j < rank; j += 16) {
        __mmask16 in = (__mmask16)(rank - j < 16 ? (1u << (rank - j)) - 1 : UINT16_MAX);
        __m512 sum[PROJECT_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sum[r] = _mm512_maskz_loadu_ps(in, bias + j);
        for (size_t d = 0; d < dim; d++) {
            __m512 w = _mm512_maskz_loadu_ps(in, weight + d * rank + j);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(x[(size_t)r * x_stride + d]), w, sum[r]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) _mm512_mask_storeu_ps(out + (size_t)r * out_stride + j, in, sum[r]);
    }
}

void sp_avx512_project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                       const float *weight, const float *bias, float *out, size_t out_stride)
{
    size_t r = 0;
    for (; r + PROJECT_ROWS <= rows; r += PROJECT_ROWS)
        project_block(PROJECT_ROWS, dim, rank, x + r * x_stride, x_stride, weight, bias, out + r * out_stride,
                      out_stride);
    for (; r < rows; r++)
        project_block(1, dim, rank, x + r * x_stride, x_stride, weight, bias, out + r * out_stride,
                      out_stride);
}

/* --- scores: rows by 64 keys, four vectors a row --- */

#define ROWS 4

/* Number d of the 64 keys. */
INLINE void load_keys(const bool half, const void *k, size_t d, __m512 to[4])
{
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (!half) {
            to[j] = _mm512_loadu_ps((const float *)k + d * SP_TILE + 16 * j);
            continue;
        }
        __m512i pair = _mm512_loadu_si512((const uint32_t *)k + d / 2 * SP_TILE + 16 * j);
        pair =
            d % 2 ? _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pair, 16);
        to[j] = _mm512_castsi512_ps(pair);
    }
}

INLINE void add_dot(const int rows, const float *q, size_t stride, size_t d, const __m512 k[4],
                    __m512 sum[ROWS][4])
{
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        __m512 a = _mm512_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_fmadd_ps(a, k[j], sum[i][j]);
    }
}

INLINE void add_square(const int rows, const float *q, size_t stride, size_t d, const __m512 k[4],
                       __m512 sum[ROWS][4])
{
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        __m512 a = _mm512_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 t = _mm512_sub_ps(a, k[j]);
            sum[i][j] = _mm512_fmadd_ps(t, t, sum[i][j]);
        }
    }
}

INLINE __m512 negated(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

INLINE void near_rows(const bool half, const sp_metric metric, const int rows, const sp_scan_tile *tile,
                      size_t row)
{
    const float *q = tile->q + row * tile->stride;
    __m512 sum[ROWS][4], square[4], k[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) square[j] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    if (half && metric == SP_METRIC_DOT) {
        for (size_t d = 0; d < tile->stride; d += 2) {
            load_keys(true, tile->k, d + 1, k);
            add_dot(rows, q, tile->stride, d + 1, k, sum);
            load_keys(true, tile->k, d, k);
            add_dot(rows, q, tile->stride, d, k, sum);
        }
    } else {
        for (size_t d = 0; d < tile->rank; d++) {
            load_keys(half, tile->k, d, k);
            if (metric == SP_METRIC_DOT || metric == SP_METRIC_COSINE)
                add_dot(rows, q, tile->stride, d, k, sum);
            else
                add_square(rows, q, tile->stride, d, k, sum);
#pragma GCC unroll 4
            for (int j = 0; j < 4 && metric == SP_METRIC_COSINE; j++)
                square[j] = _mm512_fmadd_ps(k[j], k[j], square[j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        float *to = tile->near + (row + (size_t)i) * tile->near_stride;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 near = sum[i][j];
            if (metric == SP_METRIC_L2) near = negated(near);
            if (metric == SP_METRIC_EUCLIDEAN) near = negated(_mm512_sqrt_ps(near));
            if (metric == SP_METRIC_COSINE) {
                __m512 lengths =
                    _mm512_mul_ps(_mm512_set1_ps(tile->lengths[row + (size_t)i]), _mm512_sqrt_ps(square[j]));
                __mmask16 some = _mm512_cmp_ps_mask(lengths, _mm512_setzero_ps(), _CMP_GT_OQ);
                near = _mm512_sub_ps(_mm512_div_ps(near, lengths), _mm512_set1_ps(1.0f));
                near = _mm512_mask_blend_ps(some, _mm512_set1_ps(-INFINITY), near);
            }
            _mm512_storeu_ps(to + 16 * j, near);
        }
    }
}

INLINE void near_tile(const bool half, const sp_metric metric, const sp_scan_tile *tile)
{
    size_t row = 0;
    for (; row + ROWS <= tile->rows; row += ROWS) near_rows(half, metric, ROWS, tile, row);
    for (; row < tile->rows; row++) near_rows(half, metric, 1, tile, row);
}

INLINE void near_any(const bool half, const sp_scan_tile *tile)
{
    switch (tile->metric) {
    case SP_METRIC_DOT:
        near_tile(half, SP_METRIC_DOT, tile);
        break;
    case SP_METRIC_COSINE:
        near_tile(half, SP_METRIC_COSINE, tile);
        break;
    case SP_METRIC_L2:
        near_tile(half, SP_METRIC_L2, tile);
        break;
    case SP_METRIC_EUCLIDEAN:
        near_tile(half, SP_METRIC_EUCLIDEAN, tile);
        break;
    }
}

static void near_f32(const sp_scan_tile *tile)
{
    near_any(false, tile);
}

void sp_avx512_near_bf16(const sp_scan_tile *tile)
{
    near_any(true, tile);
}

const sp_predict_slots sp_predict_avx512 = {.project = sp_avx512_project,
                                            .near_f32 = near_f32,
                                            .near_bf16 = sp_avx512_near_bf16,
                                            .above = sp_avx512_above,
                                            .guess = sp_avx512_guess,
                                            .gather = sp_avx512_gather,
                                            .take = sp_avx512_take,
                                            .shrink = sp_avx512_shrink,
                                            .settle = sp_avx512_settle,
                                            .match = sp_avx512_match,
                                            .count_bits = sp_avx2_count_bits,
                                            .list_set = sp_avx2_list_set,
                                            .share_set = sp_avx2_share_set,
                                            .assign = sp_avx512_assign};
