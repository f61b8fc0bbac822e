/* `sparsed bench`: the machine's peaks and our kernels against them, as a table or as JSON.
 *
 * A list of cases, each with one function that measures one figure. Peaks are measured in between: a
 * share is a figure over a peak of this machine in this run, never of a data sheet. bf16 cases are n/a (JSON
 * null) where the CPU has no bf16 dot product. With --model it measures a model (bench_model.c). Tests:
 * tests/http/test_command.py */
#include "kernels/bench.h"
#include "kernels/bench_attend.h"
#include "server/bench_report.h"

#define LINEAR_ROWS 512
#define ROUNDS 3

typedef struct bench_figure {
    bool measured; /* false: this CPU can't */
    double value;
} bench_figure;

typedef struct bench_case {
    const char *name, *unit, *meaning;
    sp_dtype dtype; /* SP_BF16: needs bf16 dot products */
    bool of_peak;   /* its share of the peak of dtype is reported */
    sp_status (*measure)(const sp_bench_machine *bench, const struct bench_case *self, bench_figure *out,
                         sp_error *error);
    sp_bench_attend_case attend;
} bench_case;

/* 0: none. */
static double share_of_peak(const sp_bench_machine *bench, const bench_case *row, const bench_figure *figure)
{
    double peak = row->dtype == SP_BF16 ? bench->peaks.bf16_gflops : bench->peaks.fp32_gflops;
    return row->of_peak && figure->measured && peak > 0 ? figure->value / peak : 0;
}

static sp_status measure_linear(const sp_bench_machine *bench, const bench_case *self, bench_figure *out,
                                sp_error *error)
{
    out->measured = true;
    return sp_bench_linear(bench->device, self->dtype, LINEAR_ROWS, &out->value, error);
}

static sp_status measure_attention(const sp_bench_machine *bench, const bench_case *self, bench_figure *out,
                                   sp_error *error)
{
    sp_bench_attend_result result = {0};
    sp_status status = sp_bench_attend(bench->device, &self->attend, &result, error);
    out->value = result.gflops;
    out->measured = true;
    return status;
}

/* Time of the case and of its base: dense softmax over the same keys and scores. */
static sp_status measure_pair(const sp_bench_machine *bench, const bench_case *self, double *seconds,
                              double *base, sp_error *error)
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

static sp_status measure_slowdown(const sp_bench_machine *bench, const bench_case *self, bench_figure *out,
                                  sp_error *error)
{
    double seconds = 0, base = 1;
    sp_status status = measure_pair(bench, self, &seconds, &base, error);
    out->value = seconds / base;
    out->measured = true;
    return status;
}

static sp_status measure_speedup(const sp_bench_machine *bench, const bench_case *self, bench_figure *out,
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

/* A case that is compared with a peak is measured in rounds, each behind a measurement of the peaks, so that
 * a moment in which something else ran spoils neither. The best of either counts. */
static sp_status run_case(sp_bench_machine *bench, const bench_case *self, bench_figure *out, sp_error *error)
{
    bench_figure now = {0};
    sp_status status = SP_OK;
    for (int round = 0; round < (self->of_peak ? ROUNDS : 1) && !status; round++) {
        if (self->of_peak) status = sp_bench_peaks(bench, error);
        if (!status) status = self->measure(bench, self, &now, error);
        if (now.value > out->value) *out = now;
    }
    return status;
}

static sp_status run_cases(sp_bench_machine *bench, bench_figure *figures, sp_error *error)
{
    sp_progress progress;
    sp_progress_init(&progress, "measuring");
    sp_status status = SP_OK;
    for (size_t i = 0; i < N_CASES && !status; i++) {
        sp_progress_show(&progress, (double)i / N_CASES);
        if (cases[i].dtype == SP_BF16 && !bench->device->has_bf16) continue;
        status = run_case(bench, &cases[i], &figures[i], error);
    }
    if (!status) status = sp_bench_peaks(bench, error);
    sp_progress_clear(&progress);
    if (!status) sp_bench_warn(bench);
    return status;
}

int sp_command_bench(const sp_options *options)
{
    sp_error error = {0};
    sp_bench_machine machine;
    bench_figure figures[N_CASES] = {0};
    sp_bench_line lines[N_CASES];
    if (options->model) return sp_bench_model(options);
    if (sp_bench_open(options, &machine, &error)) return sp_command_fail(&error);
    int code;
    if (run_cases(&machine, figures, &error)) {
        code = sp_command_fail(&error);
    } else {
        for (size_t i = 0; i < N_CASES; i++)
            lines[i] = (sp_bench_line){.name = cases[i].name,
                                       .unit = cases[i].unit,
                                       .meaning = cases[i].meaning,
                                       .value = figures[i].measured ? figures[i].value : 0,
                                       .share = share_of_peak(&machine, &cases[i], &figures[i])};
        code = sp_bench_write(&machine, NULL, lines, N_CASES, options->json);
    }
    sp_bench_close(&machine);
    return code;
}
