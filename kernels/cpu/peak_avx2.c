/* Peak loops with AVX2: 12 independent chains of fused multiply-adds, and loads in four streams. Contract in
 * cpu.h (peak_f32, peak_int8, peak_read). */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define CHAINS 12

static float sum(const __m256 *vectors, size_t n)
{
    float total = 0;
    for (size_t i = 0; i < n; i++) {
        float lanes[8];
        _mm256_storeu_ps(lanes, vectors[i]);
        for (size_t l = 0; l < 8; l++) total += lanes[l];
    }
    return total;
}

static double peak_f32(size_t rounds)
{
    __m256 sums[CHAINS];
    const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
#pragma GCC unroll 12
    for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm256_set1_ps((float)i);
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
    }
    return (double)rounds * CHAINS * 8 * 2 + (sum(sums, CHAINS) > 1e9f ? 1 : 0);
}

static double peak_int8(size_t rounds)
{
    __m256i sums[CHAINS];
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-1), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 12
    for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm256_set1_epi32((int)i);
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (size_t i = 0; i < CHAINS; i++) {
            /* the sum feeds the product, or the product would be made once */
            __m256i pairs = _mm256_maddubs_epi16(_mm256_and_si256(sums[i], a), b);
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    int64_t total = 0;
    for (size_t i = 0; i < CHAINS; i++) total += _mm256_extract_epi32(sums[i], 0);
    return (double)rounds * CHAINS * 32 * 2 + (total == 12345 ? 1 : 0);
}

static float peak_read(const void *from, size_t bytes)
{
    __m256 sums[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) sums[i] = _mm256_setzero_ps();
    size_t quarter = bytes / sizeof(float) / 4;
    for (const float *x = from, *end = x + quarter; x < end; x += 16) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            sums[i] = _mm256_or_ps(sums[i], _mm256_load_ps(x + i / 2 * quarter + i % 2 * 8));
        }
    }
    return sum(sums, 8);
}

void sp_cpu_peak_avx2(sp_cpu_slots *slots)
{
    slots->peak_f32 = peak_f32;
    slots->peak_int8 = peak_int8;
    slots->peak_read = peak_read;
}
