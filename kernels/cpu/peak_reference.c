/* Peak loops in plain C, for CPUs without AVX2: multiply and add, 8 vectors of 4 that the compiler may keep
 * in SSE registers. Contract in cpu.h (peak_f32, peak_int8, peak_read). */
#include "kernels/cpu/cpu.h"

static double peak_f32(size_t rounds)
{
    float sums[32];
    for (size_t i = 0; i < 32; i++) sums[i] = (float)i;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < 32; i++) sums[i] = sums[i] * 0.999f + 0.001f;
    }
    float total = 0;
    for (size_t i = 0; i < 32; i++) total += sums[i];
    return (double)rounds * 32 * 2 + (total > 1e9f ? 1 : 0);
}

static double peak_int8(size_t rounds)
{
    int32_t sums[32] = {0};
    volatile int8_t source = 3; /* so that the products are not known beforehand */
    int8_t factor = source;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < 32; i++) sums[i] += (int8_t)(round + i) * factor;
    }
    int64_t total = 0;
    for (size_t i = 0; i < 32; i++) total += sums[i];
    return (double)rounds * 32 * 2 + (total == 12345 ? 1 : 0);
}

static float peak_read(const void *from, size_t bytes)
{
    const float *x = from;
    float sums[32] = {0};
    for (size_t k = 0; k < bytes / sizeof *x; k += 32) {
        for (size_t i = 0; i < 32; i++) sums[i] += x[k + i];
    }
    for (size_t i = 1; i < 32; i++) sums[0] += sums[i];
    return sums[0];
}

void sp_cpu_peak_reference(sp_cpu_slots *slots)
{
    slots->peak_f32 = peak_f32;
    slots->peak_int8 = peak_int8;
    slots->peak_read = peak_read;
}
