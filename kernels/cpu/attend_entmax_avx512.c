/* Entmax's own steps with AVX-512: candidates of the support are compressed, the threshold is found by Newton
 * steps on the norm (normalizer.c) in float32 and finished in float64, the few weights are compressed with
 * their places, and rows of V are added one by one. Tests: tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx512.h"
#include "kernels/cpu/attend_avx512_parts.h"

#define STEEP_ALPHA 1.125f /* below it the power 1 / (alpha - 1) makes too much of float32's rounding */
#define MAX_STEPS 40
#define MANY 64            /* candidates worth dropping on the way */
#define FLOAT_ENOUGH 2e-3f /* excess of the norm over 1 from which one more step leaves some 1e-6 */

INLINE __mmask16 lanes_of(size_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : UINT16_MAX);
}

/* The largest of the tiles' maxima, and the tiles within 1 of it. */
INLINE void find_hits(sp_attend_row *row)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 max = none;
    for (uint32_t t = 0; t < row->tiles; t += 16)
        max = _mm512_max_ps(_mm512_mask_loadu_ps(none, lanes_of(row->tiles - t), row->tops + t), max);
    row->top = _mm512_reduce_max_ps(max);
    row->n_hits = 0;
    max = _mm512_set1_ps(row->top);
    for (uint32_t t = 0; t < row->tiles; t += 16) {
        __m512 z = _mm512_sub_ps(_mm512_mask_loadu_ps(none, lanes_of(row->tiles - t), row->tops + t), max);
        __mmask16 in =
            _mm512_cmp_ps_mask(z, _mm512_set1_ps(-1.0f), _CMP_GT_OQ); /* false for -INF less itself */
        __m512i tiles = _mm512_add_epi32(count, _mm512_set1_epi32((int)t));
        _mm512_storeu_si512(row->hits + row->n_hits, _mm512_maskz_compress_epi32(in, tiles));
        row->n_hits += (uint32_t)_mm_popcnt_u32(in);
    }
}

void sp_avx512_collect(sp_attend_row *row)
{
    find_hits(row);
    const __m512 max = _mm512_set1_ps(row->top), limit = _mm512_set1_ps(-1.0f);
    size_t n = 0;
    for (uint32_t i = 0; i < row->n_hits; i++) {
        const float *scores = row->scores + (size_t)row->hits[i] * SP_TILE;
#pragma GCC unroll 4
        for (size_t j = 0; j < SP_TILE; j += 16) {
            __m512 z = _mm512_sub_ps(_mm512_loadu_ps(scores + j), max);
            __mmask16 in = _mm512_cmp_ps_mask(z, limit, _CMP_GT_OQ);
            _mm512_storeu_ps(row->candidates + n, _mm512_maskz_compress_ps(in, z));
            n += (size_t)_mm_popcnt_u32(in);
        }
    }
    row->n = n;
}

/* sum x^(e - 1) and sum x^e over x = z - t > 0, for e = 2 (squares) or e = 1. z is padded to 16 with -2. */
INLINE void sums(bool squares, const float *z, size_t n, float t, float *lower, float *whole)
{
    const __m512 at = _mm512_set1_ps(t), zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
    __m512 low = zero, all = zero;
    for (size_t i = 0; i < n; i += 16) {
        __m512 x = _mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(z + i), at), zero);
        __mmask16 in = _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ);
        low = squares ? _mm512_add_ps(low, x) : _mm512_mask_add_ps(low, in, low, one);
        all = squares ? _mm512_fmadd_ps(x, x, all) : _mm512_add_ps(all, x);
    }
    *lower = _mm512_reduce_add_ps(low);
    *whole = _mm512_reduce_add_ps(all);
}

/* The same in float64. */
INLINE void sums_f64(bool squares, const float *z, size_t n, double t, double *lower, double *whole)
{
    const __m512d at = _mm512_set1_pd(t), zero = _mm512_setzero_pd(), one = _mm512_set1_pd(1.0);
    __m512d low = zero, all = zero;
    for (size_t i = 0; i < n; i += 8) {
        __m512d x = _mm512_max_pd(_mm512_sub_pd(_mm512_cvtps_pd(_mm256_loadu_ps(z + i)), at), zero);
        __mmask8 in = _mm512_cmp_pd_mask(x, zero, _CMP_GT_OQ);
        low = squares ? _mm512_add_pd(low, x) : _mm512_mask_add_pd(low, in, low, one);
        all = squares ? _mm512_fmadd_pd(x, x, all) : _mm512_add_pd(all, x);
    }
    *lower = _mm512_reduce_add_pd(low);
    *whole = _mm512_reduce_add_pd(all);
}

/* Drops the candidates that t has passed for good; returns how many are left, padded again. */
static size_t drop_passed(float *z, size_t n, float t)
{
    size_t left = 0;
    for (size_t i = 0; i < n; i += 16) {
        __m512 x = _mm512_loadu_ps(z + i);
        __mmask16 in = _mm512_cmp_ps_mask(x, _mm512_set1_ps(t), _CMP_GT_OQ);
        _mm512_storeu_ps(z + left, _mm512_maskz_compress_ps(in, x)); /* never beyond i + 15 */
        left += _mm_popcnt_u32(in);
    }
    _mm512_storeu_ps(z + left, _mm512_set1_ps(-2.0f));
    return left;
}

INLINE float solve(const bool squares, float *z, size_t n)
{
    float t = -1, lower, whole;
    for (int step = 0; step < MAX_STEPS; step++) {
        sums(squares, z, n, t, &lower, &whole);
        float norm = squares ? sqrtf(whole) : whole;
        float next = t + (squares ? (norm - 1) * norm / lower : (norm - 1) / lower);
        if (!(next > t)) break;
        t = next;
        if (norm - 1 < FLOAT_ENOUGH) break;
        if (n > MANY && step < 2) n = drop_passed(z, n, t);
    }
    /* Steps from either side of the root land left of it and close in quadratically. */
    double root = (double)t;
    for (int step = 0; step < 3; step++) {
        double low, all;
        sums_f64(squares, z, n, root, &low, &all);
        double norm = squares ? sqrt(all) : all, move = squares ? (norm - 1) * norm / low : (norm - 1) / low;
        if (!(low > 0)) break;
        root += move;
        if (fabs(move) < 1e-5) break;
    }
    return root < -1 ? -1.0f : (float)root;
}

/* x^y for x in (0, 1], y > 0, as 2^(y log2 x). With x = 2^n m, m in [1, 2), and s = (m - 1) / (m + 1):
 * log2 m = (2 / ln 2) (s + s^3 / 3 + s^5 / 5 + ..), s <= 1/3. */
INLINE __m512 power_lanes(__m512 x, float y)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 n = _mm512_getexp_ps(x), m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one)), q = _mm512_mul_ps(s, s);
    __m512 p = _mm512_set1_ps(1.0f / 13);
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 11));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 9));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 7));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 5));
    p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(1.0f / 3));
    p = _mm512_fmadd_ps(p, q, one);
    __m512 log2 = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_set1_ps(2.885390082f)), p, n);
    return exp2_lanes(_mm512_mul_ps(log2, _mm512_set1_ps(y)));
}

/* Other alphas, in float32: h falls at least as fast as t rises (normalizer.c), so that tau is as good as h.
 */
static float solve_power(float exponent, float *z, size_t n)
{
    const __m512 zero = _mm512_setzero_ps();
    float t = -1;
    for (int step = 0; step < MAX_STEPS; step++) {
        __m512 low = zero, all = zero;
        for (size_t i = 0; i < n; i += 16) {
            __m512 x = _mm512_sub_ps(_mm512_loadu_ps(z + i), _mm512_set1_ps(t));
            __mmask16 in = _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ);
            __m512 power = _mm512_maskz_mov_ps(in, power_lanes(x, exponent - 1));
            low = _mm512_add_ps(low, power);
            all = _mm512_mask3_fmadd_ps(power, x, all, in);
        }
        float lower = _mm512_reduce_add_ps(low), whole = _mm512_reduce_add_ps(all);
        float norm = powf(whole, 1 / exponent), next = t + (norm - 1) * whole / (norm * lower);
        if (!(next > t)) break;
        t = next;
        if (norm - 1 < 1e-6f) break;
        if (n > MANY && step < 2) n = drop_passed(z, n, t);
    }
    return t;
}

double sp_avx512_threshold(float alpha, float *candidates, size_t n)
{
    _mm512_storeu_ps(candidates + n, _mm512_set1_ps(-2.0f));
    if (n == 1) return -1;
    if (alpha < STEEP_ALPHA) return sp_entmax_threshold(alpha, candidates, n);
    if (alpha == 1.5f) return (double)solve(true, candidates, n);
    if (alpha == 2.0f) return (double)solve(false, candidates, n);
    return (double)solve_power(1 / (alpha - 1), candidates, n);
}

uint64_t sp_avx512_weigh(float alpha, const float *scores, float top, double tau, float *weights)
{
    if (alpha < STEEP_ALPHA) return sp_attend_weigh_power(alpha, scores, top, tau, weights);
    const float exponent = 1 / (alpha - 1);
    const __m512 max = _mm512_set1_ps(top), at = _mm512_set1_ps((float)tau), zero = _mm512_setzero_ps();
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j += 16) {
        __m512 x = _mm512_sub_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + j), max), at);
        __mmask16 in = _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ);
        if (!in) continue;
        __m512 p = alpha == 1.5f ? _mm512_mul_ps(x, x) : alpha == 2.0f ? x : power_lanes(x, exponent);
        in = _mm512_mask_cmp_ps_mask(in, p, zero, _CMP_GT_OQ);
        _mm512_storeu_ps(weights, _mm512_maskz_compress_ps(in, p));
        weights += _mm_popcnt_u32(in);
        word |= (uint64_t)in << j;
    }
    return word;
}

/* 16 columns of a row of the KV type as float32, those of the mask or all. */
typedef __m512 (*load_fn)(const void *row, size_t at, const bool all, __mmask16 mask);

INLINE __m512 load_f32(const void *row, size_t at, const bool all, __mmask16 mask)
{
    const float *from = (const float *)row + at;
    return all ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(mask, from);
}

INLINE __m512 load_widened(const void *row, size_t at, const bool all, __mmask16 mask)
{
    const uint16_t *from = (const uint16_t *)row + at;
    __m256i halves = all ? _mm256_loadu_si256((const __m256i *)from) : _mm256_maskz_loadu_epi16(mask, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* 64 columns from at on, or the first of them. */
INLINE void accumulate_columns(load_fn load, const bool all, uint64_t columns, size_t n, const float *weights,
                               const void *const *rows, size_t at, float *out)
{
    __m512 sum[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) sum[j] = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++) {
        __m512 p = _mm512_set1_ps(weights[i]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 v = load(rows[i], at + 16 * (size_t)j, all, (__mmask16)(columns >> 16 * j));
            sum[j] = _mm512_fmadd_ps(p, v, sum[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __mmask16 mask = (__mmask16)(columns >> 16 * j);
        float *to = out + at + 16 * j;
        _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum[j]));
    }
}

INLINE void accumulate(load_fn load, size_t n, const float *weights, const void *const *rows,
                       size_t value_dim, float *out)
{
    size_t at = 0;
    for (; at + 64 <= value_dim; at += 64)
        accumulate_columns(load, true, UINT64_MAX, n, weights, rows, at, out);
    if (at < value_dim)
        accumulate_columns(load, false, ((uint64_t)1 << (value_dim - at)) - 1, n, weights, rows, at, out);
}

void sp_avx512_accumulate_f32(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                              float *out)
{
    accumulate(load_f32, n, weights, rows, value_dim, out);
}

void sp_avx512_accumulate_bf16(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                               float *out)
{
    accumulate(load_widened, n, weights, rows, value_dim, out);
}
