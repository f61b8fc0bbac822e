/* attend against the machine's peaks and against itself, measured in the same run.
 *   bench_attend [threads [level [case]]]     level: reference avx2 avx512 avx512bf16
 * Targets: dense 4k >= 0.65 of the fp32 peak, >= 0.55 of the bf16 peak (aim 0.77, 0.65); entmax 1.5 at
 * most 1.3 of softmax's time at deviations 2 and 6 (aim 0.9); strided 128 and fixed (256, 8) at 8k >= 6 times
 * as fast as dense; decoding at 16k keys near memory bandwidth. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench_attend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/peak.h"

static sp_device *device;
static sp_peaks peaks;

static void stop(const sp_error *error)
{
    fprintf(stderr, "bench_attend: %s\n", error->message);
    exit(1);
}

static sp_bench_attend_result run(sp_bench_attend_case which)
{
    sp_error error = {0};
    sp_bench_attend_result result;
    if (sp_bench_attend(device, &which, &result, &error) != SP_OK) stop(&error);
    return result;
}

static const char *kv_name(sp_dtype kv)
{
    return kv == SP_BF16 ? "bf16" : "f32";
}

static void print_dense(sp_dtype kv)
{
    sp_bench_attend_result r = run((sp_bench_attend_case){.kv = kv, .alpha = 1, .n_keys = 4096});
    double peak = kv == SP_BF16 && device->has_bf16 ? peaks.bf16_gflops : peaks.fp32_gflops;
    double by_cpu = r.gflops * r.seconds / r.cpu_seconds;
    printf("dense %-4s 4096        %7.2f ms  %7.1f GF/s  %4.2f of peak (by CPU time %4.2f)\n", kv_name(kv),
           r.seconds * 1e3, r.gflops, r.gflops / peak, by_cpu / peak);
}

static void print_entmax(sp_dtype kv, float alpha, float deviation)
{
    sp_bench_attend_result softmax =
        run((sp_bench_attend_case){.kv = kv, .alpha = 1, .deviation = deviation, .n_keys = 4096});
    sp_bench_attend_result r =
        run((sp_bench_attend_case){.kv = kv, .alpha = alpha, .deviation = deviation, .n_keys = 4096});
    printf("entmax %.2f %-4s 4096 sigma %.0f  %7.2f ms  %5.2f of softmax (by CPU time %.2f)\n", (double)alpha,
           kv_name(kv), (double)deviation, r.seconds * 1e3, r.seconds / softmax.seconds,
           r.cpu_seconds / softmax.cpu_seconds);
}

static void print_sparse(sp_dtype kv, float alpha)
{
    sp_bench_attend_case which = {.kv = kv, .alpha = alpha, .deviation = 2, .n_keys = 8192};
    sp_bench_attend_result dense = run(which);
    for (sp_bench_pattern p = SP_BENCH_STRIDED; p <= SP_BENCH_FIXED; p++) {
        which.pattern = p;
        sp_bench_attend_result r = run(which);
        printf("%-7s %-4s 8192 alpha %.1f  %7.2f ms  dense / it %5.2f (by CPU time %5.2f; ideal %.1f)\n",
               p == SP_BENCH_STRIDED ? "strided" : "fixed", kv_name(kv), (double)alpha, r.seconds * 1e3,
               dense.seconds / r.seconds, dense.cpu_seconds / r.cpu_seconds,
               (double)dense.edges / (double)r.edges);
    }
}

static void print_decode(sp_dtype kv, float alpha)
{
    sp_bench_attend_case which = {
        .kv = kv, .alpha = alpha, .deviation = 2, .n_keys = 16384, .rows = 1, .n_layers = 12};
    sp_bench_attend_result r = run(which);
    printf("decode %-4s 16384 alpha %.1f %7.3f ms a layer  %5.1f GB/s  %4.2f of memory (by CPU time %.2f)\n",
           kv_name(kv), (double)alpha, r.seconds * 1e3, r.gbps, r.gbps / peaks.memory_gbps,
           r.gbps / peaks.memory_gbps * r.seconds / r.cpu_seconds);
}

static void run_type(sp_dtype kv, const char *only)
{
    if (!only || !strcmp(only, "dense")) print_dense(kv);
    for (int i = 0; i < 2 && (!only || !strcmp(only, "entmax")); i++) print_entmax(kv, 1.5f, i ? 6 : 2);
    if (!only || !strcmp(only, "sparse")) print_sparse(kv, 1);
    if (!only || !strcmp(only, "sparse")) print_sparse(kv, 1.5f);
    if (!only || !strcmp(only, "decode")) print_decode(kv, 1);
    if (!only || !strcmp(only, "decode")) print_decode(kv, 1.5f);
    if (only && !strcmp(only, "alpha")) print_entmax(kv, 1.33f, 2);
    if (only && !strcmp(only, "alpha")) print_entmax(kv, 2, 2);
    if (only && !strcmp(only, "flat")) print_entmax(kv, 1.5f, 0.25f);
}

int main(int argc, char **argv)
{
    sp_error error = {0};
    sp_device_options options = {.n_threads = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 0};
    sp_cpu_isa level = sp_cpu_level();
    for (sp_cpu_isa l = 0; argc > 2 && l <= sp_cpu_level(); l++)
        if (!strcmp(argv[2], sp_cpu_level_name(l))) level = l;
    if (sp_cpu_open_level(&options, level, &device, &error) != SP_OK) stop(&error);
    if (sp_peak_measure(device, &peaks, &error) != SP_OK) stop(&error);
    printf("%s, %zu threads; peak: fp32 %.0f GF/s, bf16 %.0f GF/s, memory %.1f GB/s\n", device->level,
           sp_threads_count(device->threads), peaks.fp32_gflops, peaks.bf16_gflops, peaks.memory_gbps);
    run_type(SP_F32, argc > 3 ? argv[3] : NULL);
    run_type(SP_BF16, argc > 3 ? argv[3] : NULL);
    sp_device_close(device);
    return 0;
}
