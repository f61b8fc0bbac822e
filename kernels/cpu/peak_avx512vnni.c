/* The peak loop of int8 dot products: 24 independent chains of VPDPBUSD. Contract in cpu.h (peak_int8). */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define CHAINS 24

static double peak_int8(size_t rounds)
{
    __m512i sums[CHAINS];
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-1);
#pragma GCC unroll 24
    for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_set1_epi32((int)i);
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
        for (size_t i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    }
    int64_t total = 0;
#pragma GCC unroll 24
    for (size_t i = 0; i < CHAINS; i++) total += _mm512_reduce_add_epi32(sums[i]);
    return (double)rounds * CHAINS * 64 * 2 + (total == 12345 ? 1 : 0);
}

void sp_cpu_peak_avx512vnni(sp_cpu_slots *slots)
{
    slots->peak_int8 = peak_int8;
}
