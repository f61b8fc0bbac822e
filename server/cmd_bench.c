/* `sparsed bench`: the machine's peaks and our kernels against them, as a table or as JSON.
 *
 * A list of cases, each with one function that measures one figure. Peaks are measured in between: a
 * share is a figure over a peak of this machine in this run, never of a data sheet. bf16 cases are n/a (JSON
 * null) where the CPU has no bf16 dot product. Tests: tests/http/test_command.py */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/bench.h"
#include "kernels/bench_attend.h"
#include "kernels/json.h"
#include "kernels/peak.h"
#include "server/command.h"

#define LINEAR_ROWS 512
#define ROUNDS 3

typedef struct bench_run {
    sp_device *device;
    sp_peaks peaks;
    double last_gflops; /* float32 peak as last measured */
    char cpu[96];
} bench_run;

typedef struct bench_figure {
    bool measured; /* false: this CPU can't */
    double value;
} bench_figure;

typedef struct bench_case {
    const char *name, *unit, *meaning;
    sp_dtype dtype; /* SP_BF16: needs bf16 dot products */
    bool of_peak;   /* its share of the peak of dtype is reported */
    sp_status (*measure)(const bench_run *bench, const struct bench_case *self, bench_figure *out,
                         sp_error *error);
    sp_bench_attend_case attend;
} bench_case;

/* 0: none. */
static double share_of_peak(const bench_run *bench, const bench_case *row, const bench_figure *figure)
{
    double peak = row->dtype == SP_BF16 ? bench->peaks.bf16_gflops : bench->peaks.fp32_gflops;
    return row->of_peak && figure->measured && peak > 0 ? figure->value / peak : 0;
}

static sp_status measure_linear(const bench_run *bench, const bench_case *self, bench_figure *out,
                                sp_error *error)
{
    out->measured = true;
    return sp_bench_linear(bench->device, self->dtype, LINEAR_ROWS, &out->value, error);
}

static sp_status measure_attention(const bench_run *bench, const bench_case *self, bench_figure *out,
                                   sp_error *error)
{
    sp_bench_attend_result result = {0};
    sp_status status = sp_bench_attend(bench->device, &self->attend, &result, error);
    out->value = result.gflops;
    out->measured = true;
    return status;
}

/* Time of the case and of its base: dense softmax over the same keys and scores. */
static sp_status measure_pair(const bench_run *bench, const bench_case *self, double *seconds, double *base,
                              sp_error *error)
{
    sp_bench_attend_case dense = self->attend;
    sp_bench_attend_result result;
    dense.pattern = SP_BENCH_DENSE;
    dense.alpha = 1;
    sp_status status = sp_bench_attend(bench->device, &dense, &result, error);
    if (status) return status;
    *base = result.seconds;
    status = sp_bench_attend(bench->device, &self->attend, &result, error);
    *seconds = result.seconds;
    return status;
}

static sp_status measure_slowdown(const bench_run *bench, const bench_case *self, bench_figure *out,
                                  sp_error *error)
{
    double seconds = 0, base = 1;
    sp_status status = measure_pair(bench, self, &seconds, &base, error);
    out->value = seconds / base;
    out->measured = true;
    return status;
}

static sp_status measure_speedup(const bench_run *bench, const bench_case *self, bench_figure *out,
                                 sp_error *error)
{
    double seconds = 1, base = 0;
    sp_status status = measure_pair(bench, self, &seconds, &base, error);
    out->value = base / seconds;
    out->measured = true;
    return status;
}

/* Ratios are taken on bf16 pages, what serving uses by default. */
static const bench_case cases[] = {
    {"linear.f32", "GFLOP/s", "512 rows, shapes of SmolLM2-135M, float32", SP_F32, true, measure_linear, {0}},
    {"linear.bf16", "GFLOP/s", "the same in bf16", SP_BF16, true, measure_linear, {0}},
    {"attention.f32.4096",
     "GFLOP/s",
     "dense causal softmax, 9 heads of 64, float32",
     SP_F32,
     true,
     measure_attention,
     {SP_BENCH_DENSE, SP_F32, 1, 1, 4096, 0, 0}},
    {"attention.bf16.4096",
     "GFLOP/s",
     "the same in bf16",
     SP_BF16,
     true,
     measure_attention,
     {SP_BENCH_DENSE, SP_BF16, 1, 1, 4096, 0, 0}},
    {"entmax15.4096.sigma2",
     "x",
     "time of entmax over softmax, scores of deviation 2",
     SP_F32,
     false,
     measure_slowdown,
     {SP_BENCH_DENSE, SP_BF16, 1.5f, 2, 4096, 0, 0}},
    {"entmax15.4096.sigma6",
     "x",
     "the same, deviation 6",
     SP_F32,
     false,
     measure_slowdown,
     {SP_BENCH_DENSE, SP_BF16, 1.5f, 6, 4096, 0, 0}},
    {"strided128.8192",
     "x",
     "time of dense over strided, stride 128",
     SP_F32,
     false,
     measure_speedup,
     {SP_BENCH_STRIDED, SP_BF16, 1, 1, 8192, 0, 0}},
    {"fixed256x8.8192",
     "x",
     "time of dense over fixed, stride 256, summary 8",
     SP_F32,
     false,
     measure_speedup,
     {SP_BENCH_FIXED, SP_BF16, 1, 1, 8192, 0, 0}},
};
#define N_CASES (sizeof cases / sizeof cases[0])

/* "model name" of /proc/cpuinfo. */
static void read_cpu_name(char *out, size_t room)
{
    snprintf(out, room, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, room, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    if (file) fclose(file);
}

/* Raises the peaks to what is measured now. */
static sp_status measure_peaks(bench_run *bench, sp_error *error)
{
    sp_peaks now;
    sp_status status = sp_peak_measure(bench->device, &now, error);
    if (status) return status;
    bench->peaks.fp32_gflops = fmax(bench->peaks.fp32_gflops, now.fp32_gflops);
    bench->peaks.bf16_gflops = fmax(bench->peaks.bf16_gflops, now.bf16_gflops);
    bench->peaks.memory_gbps = fmax(bench->peaks.memory_gbps, now.memory_gbps);
    bench->last_gflops = now.fp32_gflops;
    return SP_OK;
}

/* A case that is compared with a peak is measured in rounds, each behind a measurement of the peaks, so that
 * a moment in which something else ran spoils neither. The best of either counts. */
static sp_status run_case(bench_run *bench, const bench_case *self, bench_figure *out, sp_error *error)
{
    bench_figure now = {0};
    sp_status status = SP_OK;
    for (int round = 0; round < (self->of_peak ? ROUNDS : 1) && !status; round++) {
        if (self->of_peak) status = measure_peaks(bench, error);
        if (!status) status = self->measure(bench, self, &now, error);
        if (now.value > out->value) *out = now;
    }
    return status;
}

static sp_status run_cases(bench_run *bench, bench_figure *figures, sp_error *error)
{
    sp_progress progress;
    sp_progress_init(&progress, "measuring");
    sp_status status = SP_OK;
    for (size_t i = 0; i < N_CASES && !status; i++) {
        sp_progress_show(&progress, (double)i / N_CASES);
        if (cases[i].dtype == SP_BF16 && !bench->device->has_bf16) continue;
        status = run_case(bench, &cases[i], &figures[i], error);
    }
    if (!status) status = measure_peaks(bench, error);
    sp_progress_clear(&progress);
    if (!status && bench->last_gflops < 0.9 * bench->peaks.fp32_gflops)
        fputs("sparsed: the peak moved by more than 10 % meanwhile: something else uses this CPU, repeat "
              "when it is "
              "quiet\n",
              stderr);
    return status;
}

static void number_or_null(sp_json_writer *json, const char *key, double value)
{
    sp_json_key(json, key);
    if (value > 0)
        sp_json_number(json, value);
    else
        sp_json_null(json);
}

static void write_json(const bench_run *bench, const bench_figure *figures, sp_buffer *out)
{
    sp_json_writer json;
    sp_json_writer_init(&json, out);
    sp_json_open(&json, '{');
    sp_json_key(&json, "machine");
    sp_json_open(&json, '{');
    sp_json_key(&json, "cpu");
    sp_json_cstring(&json, bench->cpu);
    sp_json_key(&json, "threads");
    sp_json_uint(&json, sp_threads_count(bench->device->threads));
    number_or_null(&json, "fp32_gflops", bench->peaks.fp32_gflops);
    number_or_null(&json, "bf16_gflops", bench->peaks.bf16_gflops);
    number_or_null(&json, "memory_gbps", bench->peaks.memory_gbps);
    sp_json_close(&json, '}');
    sp_json_key(&json, "results");
    sp_json_open(&json, '[');
    for (size_t i = 0; i < N_CASES; i++) {
        sp_json_open(&json, '{');
        sp_json_key(&json, "name");
        sp_json_cstring(&json, cases[i].name);
        number_or_null(&json, "value", figures[i].measured ? figures[i].value : 0);
        sp_json_key(&json, "unit");
        sp_json_cstring(&json, cases[i].unit);
        number_or_null(&json, "share", share_of_peak(bench, &cases[i], &figures[i]));
        sp_json_close(&json, '}');
    }
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    sp_buffer_text(out, "\n");
}

static void write_row(const bench_run *bench, const bench_case *row, const bench_figure *figure,
                      sp_buffer *out)
{
    char bar[16] = "", text[16] = "";
    double share = share_of_peak(bench, row, figure);
    if (share > 0) {
        sp_share_bar(share, bar);
        snprintf(text, sizeof text, "%.2f", share);
    }
    sp_buffer_format(out, "%-22s ", row->name);
    if (figure->measured)
        sp_buffer_format(out, "%9.2f", figure->value);
    else
        sp_buffer_format(out, "%9s", "n/a");
    sp_buffer_format(out, "  %-8s  %4s %-10s  %s\n", row->unit, text, bar, row->meaning);
}

static void write_table(const bench_run *bench, const bench_figure *figures, sp_buffer *out)
{
    sp_buffer_format(out, "%s, %zu threads, level %s\n", bench->cpu, sp_threads_count(bench->device->threads),
                     bench->device->level);
    sp_buffer_format(out, "peaks: float32 %.1f GFLOP/s, bf16 ", bench->peaks.fp32_gflops);
    if (bench->peaks.bf16_gflops > 0)
        sp_buffer_format(out, "%.1f GFLOP/s", bench->peaks.bf16_gflops);
    else
        sp_buffer_text(out, "n/a");
    sp_buffer_format(out, ", memory %.1f GB/s\n\n", bench->peaks.memory_gbps);
    sp_buffer_format(out, "%-22s %9s  %-8s  %-15s  %s\n", "name", "value", "unit", "share of peak", "what");
    for (size_t i = 0; i < N_CASES; i++) write_row(bench, &cases[i], &figures[i], out);
}

int sp_command_bench(const sp_options *options)
{
    sp_error error = {0};
    bench_run bench = {0};
    bench_figure figures[N_CASES] = {0};
    sp_device_options device_options = {.n_threads = (size_t)options->threads};
    if (sp_device_open("cpu", &device_options, &bench.device, &error)) return sp_command_fail(&error);
    read_cpu_name(bench.cpu, sizeof bench.cpu);
    int code = SP_EXIT_OK;
    if (run_cases(&bench, figures, &error)) {
        code = sp_command_fail(&error);
    } else {
        sp_buffer out;
        sp_buffer_init(&out, 1 << 20);
        if (options->json)
            write_json(&bench, figures, &out);
        else
            write_table(&bench, figures, &out);
        if (out.failed || fwrite(out.data, 1, out.size, stdout) != out.size || fflush(stdout))
            code = SP_EXIT_INTERNAL;
        sp_buffer_fini(&out);
    }
    sp_device_close(bench.device);
    return code;
}
