/* What this machine can do at most: the roof under which every benchmark reports its share. Measured, never
 * looked up, on all threads of the device's pool, with the highest level the CPU has (whatever level the
 * device was opened at): arithmetic the best of some repeats; memory the median, on a buffer well beyond the
 * caches, since one repeat in a quiet moment of a shared machine is no rate that lasts. Takes about a
 * second. Tests: tests/unit/kernels/test_bench.c */
#ifndef SPARSED_KERNELS_PEAK_H
#define SPARSED_KERNELS_PEAK_H

#include "kernels/device.h"

typedef struct sp_peaks {
    double fp32_gflops; /* fused multiply-adds in registers, two operations each */
    double bf16_gflops; /* bf16 dot products in registers; 0 where the CPU has none */
    double int8_gops;   /* int8 dot products in registers, exact: VNNI, or multiplies and two adds */
    double memory_gbps; /* reading 256 MiB to 1 GiB, twice the last cache at least, 10^9 bytes a second */
} sp_peaks;

/* SP_NO_MEMORY only. Uses the device's pool: call while nothing else runs on it. */
sp_status sp_peak_measure(sp_device *device, sp_peaks *out, sp_error *error) SP_MUST_CHECK;
/* memory_gbps alone, a tenth of a second. */
sp_status sp_peak_memory(sp_device *device, double *gbps, sp_error *error) SP_MUST_CHECK;

#endif
