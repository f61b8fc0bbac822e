/* Elementwise kernels with AVX2 and FMA, in the order of elementwise_reference.c: 8 numbers at a time (sums
 * of squares in two vectors: 16 lanes), tails through a padded copy or in plain C. Tests:
 * tests/kernels/test_elementwise.c */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <immintrin.h>
#include <math.h>

/* 16 lanes folded in halves. */
static inline float fold(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void rms_norm(size_t n, float eps, const float *weight, const float *x, float *y)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    for (size_t i = 0; i < n; i += 16) {
        float padded[16] = {0};
        const float *from = x + i;
        if (n - i < 16) from = memcpy(padded, from, (n - i) * sizeof *x);
        __m256 a = _mm256_loadu_ps(from), b = _mm256_loadu_ps(from + 8);
        low = _mm256_fmadd_ps(a, a, low);
        high = _mm256_fmadd_ps(b, b, high);
    }
    float factor = 1.0f / sqrtf(fold(low, high) / (float)n + eps);
    const __m256 factors = _mm256_set1_ps(factor);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 value = _mm256_mul_ps(_mm256_loadu_ps(x + i), factors);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(value, _mm256_loadu_ps(weight + i)));
    }
    for (; i < n; i++) y[i] = x[i] * factor * weight[i];
}

/* Sums x - mean, or its squares, in 16 lanes. */
static inline float sum_lanes(size_t n, const float *x, float mean, bool squared)
{
    const __m256 means = _mm256_set1_ps(mean);
    __m256 low = _mm256_setzero_ps(), high = low;
    for (size_t i = 0; i < n; i += 16) {
        float padded[16];
        const float *from = x + i;
        if (n - i < 16) {
            for (size_t k = 0; k < 16; k++) padded[k] = mean; /* adds nothing */
            from = memcpy(padded, from, (n - i) * sizeof *x);
        }
        __m256 a = _mm256_sub_ps(_mm256_loadu_ps(from), means);
        __m256 b = _mm256_sub_ps(_mm256_loadu_ps(from + 8), means);
        low = squared ? _mm256_fmadd_ps(a, a, low) : _mm256_add_ps(low, a);
        high = squared ? _mm256_fmadd_ps(b, b, high) : _mm256_add_ps(high, b);
    }
    return fold(low, high);
}

static void layer_norm(size_t n, float eps, const float *weight, const float *bias, const float *x, float *y)
{
    float mean = sum_lanes(n, x, 0.0f, false) / (float)n;
    float factor = 1.0f / sqrtf(sum_lanes(n, x, mean, true) / (float)n + eps);
    const __m256 means = _mm256_set1_ps(mean), factors = _mm256_set1_ps(factor);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 value = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), means), factors);
        value = _mm256_fmadd_ps(value, _mm256_loadu_ps(weight + i), _mm256_loadu_ps(bias + i));
        _mm256_storeu_ps(y + i, value);
    }
    for (; i < n; i++) y[i] = fmaf((x[i] - mean) * factor, weight[i], bias[i]);
}

static void rope(size_t n_heads, size_t head_dim, const float *cos, const float *sin, float *x)
{
    size_t half = head_dim / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *first = x + head * head_dim, *second = first + half;
        size_t i = 0;
        for (; i + 8 <= half; i += 8) {
            __m256 a = _mm256_loadu_ps(first + i), b = _mm256_loadu_ps(second + i);
            __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
            _mm256_storeu_ps(first + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(second + i, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
        }
        for (; i < half; i++) {
            float a = first[i], b = second[i];
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

static inline __m256 exp_clamped(__m256 t)
{
    const __m256 magic = _mm256_set1_ps(SP_ROUND_MAGIC);
    t = _mm256_max_ps(t, _mm256_set1_ps(SP_EXP_LOWEST));
    t = _mm256_min_ps(t, _mm256_set1_ps(SP_EXP_HIGHEST));
    __m256 n = _mm256_sub_ps(_mm256_fmadd_ps(t, _mm256_set1_ps(SP_LOG2_E), magic), magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-SP_LN2_HIGH), t);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-SP_LN2_LOW), r);
    __m256 p = _mm256_set1_ps(SP_EXP_C4);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C0));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
}

static inline void silu_mul_8(const float *gate, const float *up, float *y)
{
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    __m256 g = _mm256_loadu_ps(gate);
    __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, exp_clamped(_mm256_xor_ps(g, sign))));
    _mm256_storeu_ps(y, _mm256_mul_ps(silu, _mm256_loadu_ps(up)));
}

static void silu_mul(size_t n, const float *gate, const float *up, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) silu_mul_8(gate + i, up + i, y + i);
    if (i == n) return;
    float g[8] = {0}, u[8] = {0}, product[8];
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    silu_mul_8(g, u, product);
    memcpy(y + i, product, (n - i) * sizeof *y);
}

static inline void gelu_8(const float *x, float *y)
{
    __m256 value = _mm256_loadu_ps(x), cube = _mm256_mul_ps(_mm256_mul_ps(value, value), value);
    __m256 cubic = _mm256_fmadd_ps(cube, _mm256_set1_ps(SP_GELU_B), value);
    __m256 power = exp_clamped(_mm256_mul_ps(cubic, _mm256_set1_ps(SP_GELU_A)));
    _mm256_storeu_ps(y, _mm256_div_ps(value, _mm256_add_ps(_mm256_set1_ps(1.0f), power)));
}

static void gelu(size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) gelu_8(x + i, y + i);
    if (i == n) return;
    float tail[8] = {0};
    memcpy(tail, x + i, (n - i) * sizeof *x);
    gelu_8(tail, tail);
    memcpy(y + i, tail, (n - i) * sizeof *y);
}

static void add(size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++) y[i] += x[i];
}

static void to_bf16(size_t n, const float *x, uint16_t *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 value = _mm256_loadu_ps(x + i);
        __m256i bits = _mm256_castps_si256(value), upper = _mm256_srli_epi32(bits, 16);
        __m256i tie = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(tie, _mm256_set1_epi32(0x7fff)));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        __m256i half = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
        __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        _mm_storeu_si128((__m128i *)(y + i), packed);
    }
    for (; i < n; i++) y[i] = sp_bf16_from_f32(x[i]);
}

void sp_cpu_elementwise_avx2(sp_cpu_slots *slots)
{
    slots->rms_norm = rms_norm;
    slots->layer_norm = layer_norm;
    slots->rope = rope;
    slots->silu_mul = silu_mul;
    slots->gelu = gelu;
    slots->add = add;
    slots->to_bf16 = to_bf16;
}
