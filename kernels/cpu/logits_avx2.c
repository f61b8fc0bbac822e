/* Loops over logits with AVX2, in the order of logits.c. Tests: tests/kernels/test_logits.c */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <immintrin.h>

static void take_max(size_t n, const float *x, float *best, int32_t *most)
{
    const __m256i absolute = _mm256_set1_epi32(0x7fffffff);
    for (size_t half = 0; half < SP_LOGITS_LANES; half += 8) {
        __m256 top = _mm256_loadu_ps(best + half);
        __m256i bits = _mm256_loadu_si256((const __m256i *)(most + half));
        for (size_t i = half; i < n; i += SP_LOGITS_LANES) {
            __m256 v = _mm256_loadu_ps(x + i);
            top = _mm256_max_ps(v, top);
            bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(v), absolute));
        }
        _mm256_storeu_ps(best + half, top);
        _mm256_storeu_si256((__m256i *)(most + half), bits);
    }
}

static inline __m256 exp_below(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(SP_ROUND_MAGIC), one = _mm256_set1_ps(1);
    x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f));
    __m256 n = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(SP_LOG2_E)), magic), magic);
    __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(SP_LN2_HIGH)));
    r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(SP_LN2_LOW)));
    __m256 p = _mm256_add_ps(_mm256_set1_ps(1 / 120.0f), _mm256_mul_ps(r, _mm256_set1_ps(1 / 720.0f)));
    p = _mm256_add_ps(_mm256_set1_ps(1 / 24.0f), _mm256_mul_ps(r, p));
    p = _mm256_add_ps(_mm256_set1_ps(1 / 6.0f), _mm256_mul_ps(r, p));
    p = _mm256_add_ps(_mm256_set1_ps(0.5f), _mm256_mul_ps(r, p));
    p = _mm256_add_ps(one, _mm256_mul_ps(r, p));
    p = _mm256_add_ps(one, _mm256_mul_ps(r, p));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

static void add_exp(size_t n, const float *x, float max, double *sums)
{
    const __m256 top = _mm256_set1_ps(max);
    __m256d s[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) s[j] = _mm256_loadu_pd(sums + 4 * j);
    for (size_t i = 0; i < n; i += SP_LOGITS_LANES) {
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            __m256 e = exp_below(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * h), top));
            s[2 * h] = _mm256_add_pd(s[2 * h], _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
            s[2 * h + 1] = _mm256_add_pd(s[2 * h + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) _mm256_storeu_pd(sums + 4 * j, s[j]);
}

static void take_best(size_t n, const float *x, const uint8_t *allowed, float *best)
{
    for (size_t half = 0; half < SP_LOGITS_LANES; half += 8) {
        __m256 top = _mm256_loadu_ps(best + half);
        for (size_t i = half; i < n; i += SP_LOGITS_LANES) {
            __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(allowed + i)));
            __m256i wanted = _mm256_cmpgt_epi32(bytes, _mm256_setzero_si256());
            __m256 more = _mm256_max_ps(_mm256_loadu_ps(x + i), top);
            top = _mm256_blendv_ps(top, more, _mm256_castsi256_ps(wanted));
        }
        _mm256_storeu_ps(best + half, top);
    }
}

void sp_cpu_logits_avx2(sp_cpu_slots *slots)
{
    slots->logits_max = take_max;
    slots->logits_exp = add_exp;
    slots->logits_best = take_best;
}
