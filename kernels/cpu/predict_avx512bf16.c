/* Scores of projected queries by bf16 dot products: 6 rows by 64 keys in 24 registers, a pair of numbers a
 * step. VDPBF16PS adds the odd product, then the even one, each rounded once: the order of predict.h. Tests:
 * tests/kernels/test_predict.c */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/predict_avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 6

INLINE void dot_rows(const int rows, const sp_scan_tile *tile, size_t row)
{
    const uint16_t *q = tile->pairs + row * tile->stride;
    const uint32_t *k = tile->k;
    __m512 sum[ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < tile->stride; d += 2, k += SP_TILE) {
        __m512bh b[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) b[j] = (__m512bh)_mm512_loadu_si512(k + 16 * j);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            uint32_t pair;
            memcpy(&pair, q + (size_t)i * tile->stride + d, sizeof pair);
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)pair);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a, b[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            _mm512_storeu_ps(tile->near + (row + (size_t)i) * tile->near_stride + 16 * (size_t)j, sum[i][j]);
}

static void near_bf16(const sp_scan_tile *tile)
{
    if (tile->metric != SP_METRIC_DOT) {
        sp_avx512_near_bf16(tile);
        return;
    }
    size_t row = 0;
    for (; row + ROWS <= tile->rows; row += ROWS) dot_rows(ROWS, tile, row);
    for (; row + 3 <= tile->rows; row += 3) dot_rows(3, tile, row);
    for (; row < tile->rows; row++) dot_rows(1, tile, row);
}

static void near_f32(const sp_scan_tile *tile)
{
    sp_predict_avx512.near_f32(tile);
}

const sp_predict_slots sp_predict_avx512bf16 = {.project = sp_avx512_project,
                                                .near_f32 = near_f32,
                                                .near_bf16 = near_bf16,
                                                .above = sp_avx512_above,
                                                .take = sp_avx512_take,
                                                .shrink = sp_avx512_shrink,
                                                .match = sp_avx512_match,
                                                .assign = sp_avx512_assign};
