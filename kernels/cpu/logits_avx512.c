/* Loops over logits with AVX-512, in the order of logits.c. Tests: tests/kernels/test_logits.c */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <immintrin.h>

static void take_max(size_t n, const float *x, float *best, int32_t *most)
{
    const __m512i absolute = _mm512_set1_epi32(0x7fffffff);
    __m512 top = _mm512_loadu_ps(best);
    __m512i bits = _mm512_loadu_si512(most);
    for (size_t i = 0; i < n; i += SP_LOGITS_LANES) {
        __m512 v = _mm512_loadu_ps(x + i);
        top = _mm512_max_ps(v, top);
        bits = _mm512_max_epi32(bits, _mm512_and_si512(_mm512_castps_si512(v), absolute));
    }
    _mm512_storeu_ps(best, top);
    _mm512_storeu_si512(most, bits);
}

static inline __m512 exp_below(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(SP_ROUND_MAGIC), one = _mm512_set1_ps(1);
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(SP_LOG2_E)), magic), magic);
    __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(n, _mm512_set1_ps(SP_LN2_HIGH)));
    r = _mm512_sub_ps(r, _mm512_mul_ps(n, _mm512_set1_ps(SP_LN2_LOW)));
    __m512 p = _mm512_add_ps(_mm512_set1_ps(1 / 120.0f), _mm512_mul_ps(r, _mm512_set1_ps(1 / 720.0f)));
    p = _mm512_add_ps(_mm512_set1_ps(1 / 24.0f), _mm512_mul_ps(r, p));
    p = _mm512_add_ps(_mm512_set1_ps(1 / 6.0f), _mm512_mul_ps(r, p));
    p = _mm512_add_ps(_mm512_set1_ps(0.5f), _mm512_mul_ps(r, p));
    p = _mm512_add_ps(one, _mm512_mul_ps(r, p));
    p = _mm512_add_ps(one, _mm512_mul_ps(r, p));
    __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(p, _mm512_castsi512_ps(power));
}

static void add_exp(size_t n, const float *x, float max, double *sums)
{
    const __m512 top = _mm512_set1_ps(max);
    __m512d low = _mm512_loadu_pd(sums), high = _mm512_loadu_pd(sums + 8);
    for (size_t i = 0; i < n; i += SP_LOGITS_LANES) {
        __m512 e = exp_below(_mm512_sub_ps(_mm512_loadu_ps(x + i), top));
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    _mm512_storeu_pd(sums, low);
    _mm512_storeu_pd(sums + 8, high);
}

static void take_best(size_t n, const float *x, const uint8_t *allowed, float *best)
{
    __m512 top = _mm512_loadu_ps(best);
    for (size_t i = 0; i < n; i += SP_LOGITS_LANES) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(allowed + i));
        top = _mm512_mask_max_ps(top, _mm_test_epi8_mask(bytes, bytes), _mm512_loadu_ps(x + i), top);
    }
    _mm512_storeu_ps(best, top);
}

void sp_cpu_logits_avx512(sp_cpu_slots *slots)
{
    slots->logits_max = take_max;
    slots->logits_exp = add_exp;
    slots->logits_best = take_best;
}
