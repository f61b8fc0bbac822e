/* What predictors gain from the newest level: scores of projected queries by bf16 dot products, and keys of
 * sets by compression of bytes. Scores: 6 rows by 64 keys in 24 registers, a pair of numbers a step.
 * VDPBF16PS adds the odd product, then the even one, each rounded once: the order of predict.h. Tests:
 * tests/kernels/test_predict.c */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/predict_avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 6

INLINE void products(const int rows, const uint16_t *q, size_t stride, const uint32_t *k, __m512 sum[ROWS][4])
{
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < stride; d += 2, k += SP_TILE) {
        __m512bh b[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) b[j] = (__m512bh)_mm512_loadu_si512(k + 16 * j);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            uint32_t pair;
            memcpy(&pair, q + (size_t)i * stride + d, sizeof pair);
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)pair);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a, b[j]);
        }
    }
}

/* Some rows of a run. Tiles follow each other in one loop: scores are stored and compared while the next tile
 * is multiplied. */
INLINE void run_rows(const bool put, const bool mark, const int rows, const sp_scan_run *run, size_t row)
{
    const sp_scan_run of = *run; /* what is stored can't change it */
    const size_t near_stride = of.tile.near_stride;
    const uint16_t *const q = of.tile.pairs + row * of.tile.stride;
    float *const near = put ? of.near + row * near_stride : NULL, floors[ROWS];
    uint64_t *const marks = of.marks + row * SP_SCAN_STEP;
    for (int i = 0; i < rows && mark; i++) floors[i] = of.floors[row + (size_t)i];
    for (uint32_t t = of.first; t < of.end; t += of.every) {
        __m512 sum[ROWS][4];
        if (sp_scan_scored(&of, t)) continue;
        if (of.ahead && row == 0) sp_scan_ask(&of, t);
        products(rows, q, of.tile.stride, (const uint32_t *)(const void *)(of.pages[t] + of.offset), sum);
        float *to = near + (size_t)t * SP_TILE;
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++, to += near_stride) {
            __mmask16 in[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                if (put) _mm512_storeu_ps(to + 16 * j, sum[i][j]);
                if (mark) in[j] = _mm512_cmp_ps_mask(sum[i][j], _mm512_set1_ps(floors[i]), _CMP_GT_OQ);
            }
            if (mark)
                marks[(size_t)i * SP_SCAN_STEP + t] =
                    _mm512_kunpackd(_mm512_kunpackw(in[3], in[2]), _mm512_kunpackw(in[1], in[0]));
        }
    }
}

INLINE void run_all(const bool put, const bool mark, const sp_scan_run *run)
{
    size_t row = 0, rows = run->tile.rows;
    for (; row + ROWS <= rows; row += ROWS) run_rows(put, mark, ROWS, run, row);
    for (; row + 3 <= rows; row += 3) run_rows(put, mark, 3, run, row);
    for (; row < rows; row++) run_rows(put, mark, 1, run, row);
}

static void dot_run(const sp_scan_run *run)
{
    if (!run->floors)
        run_all(true, false, run);
    else if (run->near)
        run_all(true, true, run);
    else
        run_all(false, true, run);
}

/* A word's keys are what its bits compress 0 .. 63 to. */
static void list_set(const uint64_t *words, uint32_t tiles, uint32_t n, uint32_t *keys)
{
    static const uint8_t counting[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                         32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                         48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const __m512i lanes = _mm512_loadu_si512(counting);
    uint32_t at = 0;
    for (uint32_t t = 0; t < tiles; t++) {
        uint32_t count = (uint32_t)_mm_popcnt_u64(words[t]);
        __m512i found = _mm512_maskz_compress_epi8(words[t], lanes),
                first = _mm512_set1_epi32((int)(t * SP_TILE));
        __m512i some = _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(found)), first);
        if (count <= 16 && at + 16 <= n) {
            _mm512_storeu_si512(keys + at, some);
            at += count;
            continue;
        }
        for (uint32_t i = 0; i < count; i += 16) {
            uint32_t left = count - i;
            __mmask16 in = (__mmask16)(left < 16 ? (1u << left) - 1 : UINT16_MAX);
            _mm512_mask_storeu_epi32(keys + at + i, in, some);
            found = _mm512_shuffle_i64x2(found, found, 0x39);
            some = _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(found)), first);
        }
        at += count;
    }
}

static void near_f32(const sp_scan_tile *tile)
{
    sp_predict_avx512.near_f32(tile);
}

const sp_predict_slots sp_predict_avx512bf16 = {.project = sp_avx512_project,
                                                .near_f32 = near_f32,
                                                .near_bf16 = sp_avx512_near_bf16,
                                                .dot_run_bf16 = dot_run,
                                                .above = sp_avx512_above,
                                                .guess = sp_avx512_guess,
                                                .gather = sp_avx512_gather,
                                                .take = sp_avx512_take,
                                                .shrink = sp_avx512_shrink,
                                                .settle = sp_avx512_settle,
                                                .match = sp_avx512_match,
                                                .count_bits = sp_avx2_count_bits,
                                                .list_set = list_set,
                                                .share_set = sp_avx2_share_set,
                                                .assign = sp_avx512_assign};
