/* Linear layers against the machine's peaks, measured before and after in the same run.
 *   bench_linear [threads [level]]     level: reference avx2 avx512 avx512bf16
 * Targets: 512 rows >= 0.80 of the fp32 peak, >= 0.55 of the bf16 peak (aim 0.86, 0.70); 1 row >= 0.6 of
 * memory bandwidth (aim 0.85). OpenBLAS is the peer. Block types: the same
 * targets for decoding; 512 rows at least as fast as bf16. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench.h"
#include "kernels/cpu/cpu.h"
#include "kernels/peak.h"

static void stop(const sp_error *error)
{
    fprintf(stderr, "bench_linear: %s\n", error->message);
    exit(1);
}

static sp_device *open_device(size_t threads, sp_cpu_isa level, bool openblas)
{
    sp_error error = {0};
    sp_device *device;
    sp_device_options options = {.n_threads = threads, .openblas = openblas};
    if (sp_cpu_open_level(&options, level, &device, &error) != SP_OK) stop(&error);
    return device;
}

static sp_peaks print_peaks(sp_device *device)
{
    sp_error error = {0};
    sp_peaks peaks;
    if (sp_peak_measure(device, &peaks, &error) != SP_OK) stop(&error);
    printf("peak: fp32 %.0f GF/s, bf16 %.0f GF/s, int8 %.0f GOP/s, memory %.1f GB/s\n", peaks.fp32_gflops,
           peaks.bf16_gflops, peaks.int8_gops, peaks.memory_gbps);
    return peaks;
}

static void print_shapes(sp_device *device, const char *name, sp_dtype dtype, double peak)
{
    sp_error error = {0};
    double total = 0, operations = 0;
    for (size_t i = 0; i < SP_BENCH_SHAPES; i++) {
        const sp_bench_shape *s = &sp_bench_shapes[i];
        double rate, work = (double)(s->n_in * s->n_out * s->count);
        if (sp_bench_linear_shape(device, dtype, s->n_in, s->n_out, 512, &rate, &error) != SP_OK)
            stop(&error);
        printf("%-9s 512 x %4zu -> %5zu  %7.1f GF/s  %4.2f of peak\n", name, s->n_in, s->n_out, rate,
               rate / peak);
        operations += work;
        total += work / rate;
    }
    printf("%-9s 512 rows, the model    %7.1f GF/s  %4.2f of peak\n", name, operations / total,
           operations / total / peak);
}

static void print_decode(sp_device *device, const char *name, sp_dtype dtype, double peak)
{
    sp_error error = {0};
    for (size_t rows = 1; rows <= 64; rows += rows < 6 ? 1 : rows < 10 ? 2 : rows / 3) {
        double rate;
        if (sp_bench_decode(device, dtype, rows, &rate, &error) != SP_OK) stop(&error);
        printf("%-9s %3zu rows, decoding      %7.1f GB/s  %4.2f of memory\n", name, rows, rate, rate / peak);
    }
}

/* Block types in brief: the model's shapes at 512 rows, decoding 1 and 8 rows. K-quants need rows of 256. */
static void print_quantized(sp_device *device, const sp_peaks *peaks)
{
    for (sp_dtype dtype = SP_Q8_0; dtype < SP_DTYPES; dtype++) {
        const char *name = sp_dtype_name(dtype);
        sp_error error = {0};
        double operations = 0, seconds = 0, one, eight;
        for (size_t i = 0; i < SP_BENCH_SHAPES; i++) {
            const sp_bench_shape *s = &sp_bench_shapes[i];
            size_t n_in = sp_bench_n_in(dtype, s->n_in);
            double rate, work = (double)(n_in * s->n_out * s->count);
            if (sp_bench_linear_shape(device, dtype, n_in, s->n_out, 512, &rate, &error) != SP_OK)
                stop(&error);
            operations += work;
            seconds += work / rate;
        }
        if (sp_bench_decode(device, dtype, 1, &one, &error) != SP_OK) stop(&error);
        if (sp_bench_decode(device, dtype, 8, &eight, &error) != SP_OK) stop(&error);
        printf("%-5s 512 rows %6.0f GOP/s, %4.2f of int8 peak; decoding 1 row %5.1f GB/s, %4.2f of memory; "
               "8 rows %5.1f GB/s, %4.2f\n",
               name, operations / seconds, operations / seconds / peaks->int8_gops, one,
               one / peaks->memory_gbps, eight, eight / peaks->memory_gbps);
    }
}

int main(int argc, char **argv)
{
    size_t threads = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    sp_cpu_isa level = sp_cpu_level();
    for (sp_cpu_isa i = 0; argc > 2 && i <= level; i++) {
        if (strcmp(argv[2], sp_cpu_level_name(i)) == 0) level = i;
    }
    sp_device *device = open_device(threads, level, false);
    printf("%zu threads, %s\n", sp_threads_count(device->threads), device->level);
    sp_peaks peaks = print_peaks(device);
    print_shapes(device, "f32", SP_F32, peaks.fp32_gflops);
    print_shapes(device, "bf16", SP_BF16, device->has_bf16 ? peaks.bf16_gflops : peaks.fp32_gflops);
    print_decode(device, "f32", SP_F32, peaks.memory_gbps);
    print_decode(device, "bf16", SP_BF16, peaks.memory_gbps);
    print_quantized(device, &peaks);
    print_peaks(device);
    sp_device_close(device);
    device = open_device(threads, level, true);
    print_shapes(device, "openblas", SP_F32, peaks.fp32_gflops);
    sp_device_close(device);
    return 0;
}
