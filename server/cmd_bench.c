/* `sparsed bench`: the machine's peaks and our kernels against them, as a table or as JSON.
 *
 * A list of cases, each with one function that measures one figure. Peaks are measured in the same run: a
 * share is a figure over a peak of this machine, never of a data sheet. bf16 cases are n/a (JSON null) where
 * the CPU has no bf16 dot product. Tests: tests/http/test_command.py */
#include <stdio.h>
#include <string.h>

#include "kernels/bench.h"
#include "kernels/json.h"
#include "kernels/peak.h"
#include "server/command.h"

#define LINEAR_ROWS 512

typedef struct bench_run {
    sp_device *device;
    sp_peaks peaks;
    char cpu[96];
} bench_run;

/* A figure; share 0: it has none. measured false: this CPU can't. */
typedef struct bench_figure {
    bool measured;
    double value, share;
} bench_figure;

typedef struct bench_case {
    const char *name, *unit, *meaning;
    sp_dtype dtype;
    sp_status (*measure)(const bench_run *bench, const struct bench_case *self, bench_figure *out,
                         sp_error *error);
} bench_case;

static double share_of_peak(const bench_run *bench, sp_dtype dtype, double gflops)
{
    double peak = dtype == SP_BF16 ? bench->peaks.bf16_gflops : bench->peaks.fp32_gflops;
    return peak > 0 ? gflops / peak : 0;
}

static sp_status measure_linear(const bench_run *bench, const bench_case *self, bench_figure *out,
                                sp_error *error)
{
    sp_status status = sp_bench_linear(bench->device, self->dtype, LINEAR_ROWS, &out->value, error);
    out->share = share_of_peak(bench, self->dtype, out->value);
    out->measured = true;
    return status;
}

static const bench_case cases[] = {
    {"linear.f32", "GFLOP/s", "512 rows, shapes of SmolLM2-135M, float32", SP_F32, measure_linear},
    {"linear.bf16", "GFLOP/s", "the same in bf16", SP_BF16, measure_linear},
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

static sp_status run_cases(bench_run *bench, bench_figure *figures, sp_error *error)
{
    sp_progress progress;
    sp_progress_init(&progress, "measuring");
    sp_status status = sp_peak_measure(bench->device, &bench->peaks, error);
    for (size_t i = 0; i < N_CASES && !status; i++) {
        sp_progress_show(&progress, (double)(i + 1) / (N_CASES + 1));
        if (cases[i].dtype == SP_BF16 && !bench->device->has_bf16) continue;
        status = cases[i].measure(bench, &cases[i], &figures[i], error);
    }
    sp_progress_clear(&progress);
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
        number_or_null(&json, "share", figures[i].measured ? figures[i].share : 0);
        sp_json_close(&json, '}');
    }
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    sp_buffer_text(out, "\n");
}

static void write_row(const bench_case *row, const bench_figure *figure, sp_buffer *out)
{
    char bar[16] = "", share[16] = "";
    if (!figure->measured) {
        sp_buffer_format(out, "%-22s %9s  %-8s  %15s  %s\n", row->name, "n/a", row->unit, "", row->meaning);
        return;
    }
    if (figure->share > 0) {
        sp_share_bar(figure->share, bar);
        snprintf(share, sizeof share, "%.2f", figure->share);
    }
    sp_buffer_format(out, "%-22s %9.2f  %-8s  %4s %-10s  %s\n", row->name, figure->value, row->unit, share,
                     bar, row->meaning);
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
    for (size_t i = 0; i < N_CASES; i++) write_row(&cases[i], &figures[i], out);
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
