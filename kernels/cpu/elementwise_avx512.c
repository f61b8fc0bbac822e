/* Elementwise kernels with AVX-512, in the order of elementwise_reference.c: 16 lanes, masks at the tails.
 * Lanes behind a tail hold zero, which changes no sum. Tests: tests/kernels/test_elementwise.c */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <immintrin.h>
#include <math.h>

/* The first n of 16 lanes. */
static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

/* 16 lanes folded in halves. */
static inline float fold(__m512 lanes)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void rms_norm(size_t n, float eps, const float *weight, const float *x, float *y)
{
    __m512 squares = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __m512 value = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
        squares = _mm512_fmadd_ps(value, value, squares);
    }
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf(fold(squares) / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

static void layer_norm(size_t n, float eps, const float *weight, const float *bias, const float *x, float *y)
{
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (size_t i = 0; i < n; i += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(first_lanes(n - i), x + i));
    const __m512 mean = _mm512_set1_ps(fold(sum) / (float)n);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + i), mean);
        squares = _mm512_fmadd_ps(value, value, squares);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(fold(squares) / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), mean), factor);
        value = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, weight + i),
                                _mm512_maskz_loadu_ps(mask, bias + i));
        _mm512_mask_storeu_ps(y + i, mask, value);
    }
}

static void rope(size_t n_heads, size_t head_dim, const float *cos, const float *sin, float *x)
{
    size_t half = head_dim / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *first = x + head * head_dim, *second = first + half;
        for (size_t i = 0; i < half; i += 16) {
            __mmask16 mask = first_lanes(half - i);
            __m512 a = _mm512_maskz_loadu_ps(mask, first + i), b = _mm512_maskz_loadu_ps(mask, second + i);
            __m512 c = _mm512_maskz_loadu_ps(mask, cos + i), s = _mm512_maskz_loadu_ps(mask, sin + i);
            _mm512_mask_storeu_ps(first + i, mask, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
            _mm512_mask_storeu_ps(second + i, mask, _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s)));
        }
    }
}

static inline __m512 exp_clamped(__m512 t)
{
    const __m512 magic = _mm512_set1_ps(SP_ROUND_MAGIC);
    t = _mm512_max_ps(t, _mm512_set1_ps(SP_EXP_LOWEST));
    t = _mm512_min_ps(t, _mm512_set1_ps(SP_EXP_HIGHEST));
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(t, _mm512_set1_ps(SP_LOG2_E), magic), magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-SP_LN2_HIGH), t);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-SP_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(SP_EXP_C4);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C0));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i power = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(power, 23)));
}

static void silu_mul(size_t n, const float *gate, const float *up, float *y)
{
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, exp_clamped(_mm512_xor_ps(g, sign))));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
    }
}

static void gelu(size_t n, const float *x, float *y)
{
    const __m512 one = _mm512_set1_ps(1.0f), a = _mm512_set1_ps(SP_GELU_A), b = _mm512_set1_ps(SP_GELU_B);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
        __m512 cube = _mm512_mul_ps(_mm512_mul_ps(value, value), value);
        __m512 power = exp_clamped(_mm512_mul_ps(_mm512_fmadd_ps(cube, b, value), a));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_div_ps(value, _mm512_add_ps(one, power)));
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i), _mm512_maskz_loadu_ps(mask, x + i));
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}

static void to_bf16(size_t n, const float *x, uint16_t *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
        __m512i bits = _mm512_castps_si512(value), upper = _mm512_srli_epi32(bits, 16);
        __m512i tie = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff)));
        __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
        __m512i half = _mm512_srli_epi32(up, 16);
        half = _mm512_mask_or_epi32(half, nan, upper, _mm512_set1_epi32(0x40));
        _mm512_mask_cvtepi32_storeu_epi16(y + i, mask, half);
    }
}

void sp_cpu_elementwise_avx512(sp_cpu_slots *slots)
{
    slots->rms_norm = rms_norm;
    slots->layer_norm = layer_norm;
    slots->rope = rope;
    slots->silu_mul = silu_mul;
    slots->gelu = gelu;
    slots->add = add;
    slots->to_bf16 = to_bf16;
}
