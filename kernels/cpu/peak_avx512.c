/* Peak loops with AVX-512: 24 independent chains of fused multiply-adds, and loads in four streams. Contract
 * in cpu.h (peak_f32, peak_read). */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define CHAINS 24

static double peak_f32(size_t rounds)
{
    __m512 sums[CHAINS];
    const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
#pragma GCC unroll 24
    for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_set1_ps((float)i);
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
        for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
    }
    float total = 0;
    for (size_t i = 0; i < CHAINS; i++) total += _mm512_reduce_add_ps(sums[i]);
    return (double)rounds * CHAINS * 16 * 2 + (total > 1e9f ? 1 : 0);
}

static float peak_read(const void *from, size_t bytes)
{
    __m512i sums[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
    size_t quarter = bytes / 4;
    for (const uint8_t *x = from, *end = x + quarter; x < end; x += 128) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            const uint8_t *line = x + i / 2 * quarter + i % 2 * 64;
            sums[i] = _mm512_or_si512(sums[i], _mm512_load_si512(line));
        }
    }
    float total = 0;
    for (size_t i = 0; i < 8; i++) total += (float)_mm512_reduce_or_epi32(sums[i]);
    return total;
}

void sp_cpu_peak_avx512(sp_cpu_slots *slots)
{
    slots->peak_f32 = peak_f32;
    slots->peak_read = peak_read;
}
