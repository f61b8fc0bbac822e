/* Packing of K and V tiles, and entmax's own steps, for AVX2. Rows are read 8 numbers at a time where 8 are
 * left, so that nothing behind a row is touched; tails go through a small copy. Without a compress
 * instruction, the few candidates and weights are picked by the bits of a comparison. Tests:
 * tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx2_parts.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* --- packing --- */

/* Numbers at .. at + 7 of a row of n; zeros behind its end, and for NULL. */
INLINE __m256 load_f32(const void *row, size_t at, size_t n)
{
    float tail[8] = {0};
    if (!row) return _mm256_setzero_ps();
    if (at + 8 <= n) return _mm256_loadu_ps((const float *)row + at);
    if (at < n) memcpy(tail, (const float *)row + at, (n - at) * sizeof *tail);
    return _mm256_loadu_ps(tail);
}

INLINE __m256 load_widened(const void *row, size_t at, size_t n)
{
    uint16_t tail[8] = {0};
    if (!row) return _mm256_setzero_ps();
    const uint16_t *from = (const uint16_t *)row + at;
    if (at + 8 > n) {
        if (at < n) memcpy(tail, from, (n - at) * sizeof *tail);
        from = tail;
    }
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* Transposes 8 rows of 8 in place. */
INLINE void transpose(__m256 r[8])
{
    __m256 t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

typedef __m256 (*load_fn)(const void *row, size_t at, size_t n);

/* Asks for the row that will be packed next in this one's place. */
INLINE void ask(const void *row, size_t bytes, ptrdiff_t ahead)
{
    if (ahead && row) _mm_prefetch((const char *)((uintptr_t)row + bytes + (uintptr_t)ahead), _MM_HINT_T0);
}

INLINE void pack_k(load_fn load, const size_t size, const void *const *rows, size_t head_dim, ptrdiff_t ahead,
                   float *packed)
{
    size_t steps = (head_dim + 1) / 2 * 2;
    for (size_t j = 0; j < SP_TILE; j += 8) {
        for (size_t d = 0; d < steps; d += 8) {
            __m256 r[8];
            float tail[8][8], *to = packed + d * SP_TILE + j;
#pragma GCC unroll 8
            for (size_t i = 0; i < 8; i++) r[i] = load(rows[j + i], d, head_dim);
            for (size_t i = 0; ahead && d * size % 64 == 0 && i < 8; i++) ask(rows[j + i], d * size, ahead);
            transpose(r);
            if (d + 8 <= steps) {
#pragma GCC unroll 8
                for (size_t i = 0; i < 8; i++) _mm256_storeu_ps(to + i * SP_TILE, r[i]);
                continue;
            }
            for (size_t i = 0; i < 8; i++) _mm256_storeu_ps(tail[i], r[i]);
            for (size_t i = 0; d + i < steps; i++) memcpy(to + i * SP_TILE, tail[i], sizeof tail[i]);
        }
    }
}

INLINE void pack_v(load_fn load, const size_t size, const void *const *rows, size_t value_dim,
                   ptrdiff_t ahead, float *packed)
{
    size_t width = (value_dim + 15) / 16 * 16;
    for (size_t j = 0; j < SP_TILE; j++) {
        for (size_t d = 0; d < width; d += 8, packed += 8) {
            _mm256_storeu_ps(packed, load(rows[j], d, value_dim));
            if (d * size % 64 == 0) ask(rows[j], d * size, ahead);
        }
    }
}

void sp_avx2_pack_q(size_t head_dim, float scale, const float *q, void *out)
{
    float *packed = out;
    for (size_t d = 0; d < head_dim; d++) packed[d] = q[d] * scale;
    if (head_dim % 2) packed[head_dim] = 0;
}

void sp_avx2_pack_k_f32(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    pack_k(load_f32, sizeof(float), rows, head_dim, ahead, out);
}

void sp_avx2_pack_k_widen(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    pack_k(load_widened, sizeof(uint16_t), rows, head_dim, ahead, out);
}

void sp_avx2_pack_v_f32(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    pack_v(load_f32, sizeof(float), rows, value_dim, ahead, out);
}

void sp_avx2_pack_v_widen(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    pack_v(load_widened, sizeof(uint16_t), rows, value_dim, ahead, out);
}

/* --- entmax --- */

void sp_avx2_collect(sp_attend_row *row)
{
    row->top = -INFINITY;
    row->n_hits = 0;
    row->n = 0;
    for (uint32_t t = 0; t < row->tiles; t++)
        if (row->tops[t] > row->top) row->top = row->tops[t];
    const __m256 max = _mm256_set1_ps(row->top), limit = _mm256_set1_ps(-1.0f);
    for (uint32_t t = 0; t < row->tiles; t++) {
        if (!(row->tops[t] - row->top > -1)) continue; /* -INFINITY less itself is NaN */
        row->hits[row->n_hits++] = t;
        for (size_t j = 0; j < SP_TILE; j += 8) {
            const float *at = row->scores + (size_t)t * SP_TILE + j;
            __m256 in = _mm256_cmp_ps(_mm256_sub_ps(_mm256_loadu_ps(at), max), limit, _CMP_GT_OQ);
            for (int bits = _mm256_movemask_ps(in); bits; bits &= bits - 1)
                row->candidates[row->n++] = at[__builtin_ctz(bits)] - row->top;
        }
    }
}

double sp_avx2_threshold(float alpha, float *candidates, size_t n)
{
    double tau = sp_entmax_threshold(alpha, candidates, n);
    return alpha == 1.5f || alpha == 2 ? (double)(float)tau : tau;
}

uint64_t sp_avx2_weigh(float alpha, const float *scores, float top, double tau, float *weights)
{
    if (alpha != 1.5f && alpha != 2) return sp_attend_weigh_power(alpha, scores, top, tau, weights);
    const __m256 max = _mm256_set1_ps(top), at = _mm256_set1_ps((float)tau);
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j += 8) {
        float x[8];
        __m256 shifted = _mm256_sub_ps(_mm256_sub_ps(_mm256_loadu_ps(scores + j), max), at);
        int bits = _mm256_movemask_ps(_mm256_cmp_ps(shifted, _mm256_setzero_ps(), _CMP_GT_OQ));
        if (bits) _mm256_storeu_ps(x, shifted);
        for (; bits; bits &= bits - 1) {
            int i = __builtin_ctz(bits);
            float p = alpha == 2 ? x[i] : x[i] * x[i];
            if (!(p > 0)) continue;
            *weights++ = p;
            word |= (uint64_t)1 << (j + (size_t)i);
        }
    }
    return word;
}

/* Columns 32 at a time; the last ones through a copy of what is left of the row. */
INLINE void accumulate(load_fn load, size_t n, const float *weights, const void *const *rows,
                       size_t value_dim, float *out)
{
    for (size_t at = 0; at < value_dim; at += 32) {
        __m256 sum[4];
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) sum[j] = _mm256_setzero_ps();
        for (size_t i = 0; i < n; i++) {
            __m256 p = _mm256_set1_ps(weights[i]);
#pragma GCC unroll 8
            for (int j = 0; j < 4; j++)
                sum[j] = _mm256_fmadd_ps(p, load(rows[i], at + 8 * (size_t)j, value_dim), sum[j]);
        }
        float all[32];
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) _mm256_storeu_ps(all + 8 * j, sum[j]);
        for (size_t d = at; d < at + 32 && d < value_dim; d++) out[d] += all[d - at];
    }
}

void sp_avx2_accumulate_f32(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                            float *out)
{
    accumulate(load_f32, n, weights, rows, value_dim, out);
}

void sp_avx2_accumulate_bf16(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                             float *out)
{
    accumulate(load_widened, n, weights, rows, value_dim, out);
}
