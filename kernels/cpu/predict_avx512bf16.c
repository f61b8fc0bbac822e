/* What predictors gain from the newest level: scores of projected queries by bf16 dot products, and keys of
 * sets by compression of bytes. Scores: 6 rows by 64 keys in 24 registers, a pair of numbers a step.
 * VDPBF16PS adds the odd product, then the even one, each rounded once: the order of predict.h. Tests:
 * tests/kernels/test_predict.c */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/predict_avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 6

INLINE void products(const int rows, const sp_scan_tile *tile, size_t row, __m512 sum[ROWS][4])
{
    const uint16_t *q = tile->pairs + row * tile->stride;
    const uint32_t *k = tile->k;
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
}

INLINE void near_rows(const int rows, const sp_scan_tile *tile, size_t row)
{
    __m512 sum[ROWS][4];
    products(rows, tile, row, sum);
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
    for (; row + ROWS <= tile->rows; row += ROWS) near_rows(ROWS, tile, row);
    for (; row + 3 <= tile->rows; row += 3) near_rows(3, tile, row);
    for (; row < tile->rows; row++) near_rows(1, tile, row);
}

INLINE void mark_rows(const int rows, const sp_scan_tile *tile, size_t row, const float *floors,
                      uint64_t *marks)
{
    __m512 sum[ROWS][4];
    products(rows, tile, row, sum);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        __m512 floor = _mm512_set1_ps(floors[row + (size_t)i]);
        __mmask16 in[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) in[j] = _mm512_cmp_ps_mask(sum[i][j], floor, _CMP_GT_OQ);
        marks[row + (size_t)i] =
            _mm512_kunpackd(_mm512_kunpackw(in[3], in[2]), _mm512_kunpackw(in[1], in[0]));
    }
}

static void mark_dot_bf16(const sp_scan_tile *tile, const float *floors, uint64_t *marks)
{
    size_t row = 0;
    for (; row + ROWS <= tile->rows; row += ROWS) mark_rows(ROWS, tile, row, floors, marks);
    for (; row + 3 <= tile->rows; row += 3) mark_rows(3, tile, row, floors, marks);
    for (; row < tile->rows; row++) mark_rows(1, tile, row, floors, marks);
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

/* What is marked becomes a list of places in near, then of scores and keys. */
static void gather(const float *near, const uint64_t *words, uint32_t tiles, uint32_t first_key,
                   sp_scan_best *best)
{
    uint32_t n = sp_avx2_count_bits(words, tiles), *keys = best->keys + best->n;
    float *to = best->near + best->n;
    const __m512i first = _mm512_set1_epi32((int)first_key);
    list_set(words, tiles, n + SP_SCAN_PAD, keys);
    for (uint32_t i = 0; i < n; i += 16) { /* what is behind the last is overwritten, or never read */
        uint32_t left = n - i;
        __mmask16 in = (__mmask16)(left < 16 ? (1u << left) - 1 : UINT16_MAX);
        __m512i place = _mm512_loadu_si512(keys + i);
        _mm512_storeu_ps(to + i, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), in, place, near, 4));
        _mm512_storeu_si512(keys + i, _mm512_add_epi32(place, first));
    }
    best->n += n;
}

static void take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key, size_t keep,
                 sp_scan_best *best)
{
    uint64_t words[SP_SCAN_STEP];
    sp_avx512_pass(near, allowed, tiles, keep, best, words);
    gather(near, words, tiles, first_key, best);
}

static void near_f32(const sp_scan_tile *tile)
{
    sp_predict_avx512.near_f32(tile);
}

const sp_predict_slots sp_predict_avx512bf16 = {.project = sp_avx512_project,
                                                .near_f32 = near_f32,
                                                .near_bf16 = near_bf16,
                                                .mark_dot_bf16 = mark_dot_bf16,
                                                .above = sp_avx512_above,
                                                .take = take,
                                                .shrink = sp_avx512_shrink,
                                                .match = sp_avx512_match,
                                                .count_bits = sp_avx2_count_bits,
                                                .list_set = list_set,
                                                .share_set = sp_avx2_share_set,
                                                .assign = sp_avx512_assign};
