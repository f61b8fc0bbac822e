/* The peak loop of bf16 dot products: 24 independent chains. Contract in cpu.h (peak_bf16). */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define CHAINS 24

static double peak_bf16(size_t rounds)
{
    __m512 sums[CHAINS];
    const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3c003c00), b = (__m512bh)_mm512_set1_epi32(0x3c803c80);
#pragma GCC unroll 24
    for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_set1_ps((float)i);
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
        for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
    }
    float total = 0;
    for (size_t i = 0; i < CHAINS; i++) total += _mm512_reduce_add_ps(sums[i]);
    return (double)rounds * CHAINS * 16 * 4 + (total > 1e9f ? 1 : 0);
}

void sp_cpu_peak_avx512bf16(sp_cpu_slots *slots)
{
    slots->peak_bf16 = peak_bf16;
}
