/* What this machine can do at most: the roof under which every benchmark reports its share. Measured, never
 * looked up, on all threads of the device's pool, best of some repeats, with the highest level the CPU has
 * (whatever level the device was opened at). Takes about a second. Tests: tests/unit/kernels/test_bench.c */
#ifndef SPARSED_KERNELS_PEAK_H
#define SPARSED_KERNELS_PEAK_H

#include "kernels/device.h"

typedef struct sp_peaks {
    double fp32_gflops; /* fused multiply-adds in registers, two operations each */
    double bf16_gflops; /* bf16 dot products in registers; 0 where the CPU has none */
    double int8_gops;   /* int8 dot products in registers, exact: VNNI, or multiplies and two adds */
    double memory_gbps; /* reading 256 MiB, 10^9 bytes a second */
} sp_peaks;

/* SP_NO_MEMORY only. Uses the device's pool: call while nothing else runs on it. */
sp_status sp_peak_measure(sp_device *device, sp_peaks *out, sp_error *error) SP_MUST_CHECK;

#endif
