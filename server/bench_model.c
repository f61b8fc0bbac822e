/* `sparsed bench --model`: how fast a model reads and writes, driven through the engine, so that what is
 * measured is what serves.
 *
 * prefill.N: tokens a second of a prompt of N random tokens, from admission to the last row. decode.N: tokens
 * a second behind a context of N, the median of runs of 16 steps and of rounds; decode8.0: of 8 requests at
 * once.
 * Shares: prefill  2 x parameters of the matrices a row passes, and 4 x heads x head_dim a pair of dense
 * attention, over the compute peak of the weights' arithmetic (float32, bf16, or int8 for quantized ones)
 *   decode   bytes of the weights once a step and of the cached keys and values of every request, over the
 *            memory bandwidth, the median of measurements before, between and after the rounds; above 1 where
 *            they fit in a cache
 * The parameters of an embedding that is not the output matrix too are left out of both. Lengths beyond the
 * trained context are measured all the same, with a warning: time does not depend on sense. Tests:
 * tests/http/test_bench.py */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kv.h"
#include "server/bench_report.h"

#define DECODE_TOKENS 96
#define RUN_STEPS 16
#define MAX_STREAMS 8
#define MAX_ROUNDS 5
#define FOREVER 1e9 /* seconds */

typedef struct model_case {
    const char *name, *meaning;
    bool decodes;
    uint32_t length, streams, rounds;
} model_case;

static const model_case cases[] = {
    {"prefill.512", "reading a prompt of 512 tokens", false, 512, 1, 5},
    {"prefill.2048", "of 2,048", false, 2048, 1, 2},
    {"prefill.8192", "of 8,192", false, 8192, 1, 1},
    {"decode.0", "writing, one request, behind nothing", true, 0, 1, 3},
    {"decode.4096", "behind 4,096 tokens", true, 4096, 1, 2},
    {"decode.16384", "behind 16,384 tokens", true, 16384, 1, 1},
    {"decode8.0", "writing, 8 requests together", true, 0, 8, 3},
};
#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct model_bench {
    sp_bench_machine machine;
    sp_engine *engine;
    const sp_engine_info *info;
    sp_progress progress;
    double done, total; /* tokens, for the progress bar */
    int32_t *prompt;    /* (longest) */
} model_bench;

/* --- what a case moves and computes --- */

/* Share of the parameters that every token passes. */
static double passed_share(const sp_engine_info *info)
{
    double embedding = (double)info->hparams.vocab * info->hparams.hidden, all = (double)info->n_params;
    return info->hparams.tied || all <= embedding ? 1 : (all - embedding) / all;
}

/* Bytes one step reads: weights, and the keys and values of every stream. */
static double step_bytes(const sp_engine_info *info, double context, double streams)
{
    double kv = (double)info->kv_bytes / ((double)info->kv_pages * (double)info->page_tokens);
    return (double)info->weight_bytes * passed_share(info) + kv * context * streams;
}

/* Operations a second that the arithmetic of the weights could do. */
static double weight_peak(const sp_engine_info *info, const sp_peaks *peaks)
{
    double bytes = (double)info->weight_bytes / (double)info->n_params;
    bool narrow = peaks->bf16_gflops > 0;
    if (info->kv_type == SP_F32 || bytes > 2.5) return peaks->fp32_gflops * 1e9;
    if (bytes < 1.5) return peaks->int8_gops * 1e9;
    return (narrow ? peaks->bf16_gflops : peaks->fp32_gflops) * 1e9;
}

static double attention_peak(const sp_engine_info *info, const sp_peaks *peaks)
{
    bool narrow = info->kv_type != SP_F32 && peaks->bf16_gflops > 0;
    return (narrow ? peaks->bf16_gflops : peaks->fp32_gflops) * 1e9;
}

/* Seconds that reading n tokens would take at the peaks. */
static double least_seconds(const sp_engine_info *info, double n, const sp_peaks *peaks)
{
    const sp_hparams *h = &info->hparams;
    double head = (double)h->vocab * h->hidden; /* passed by the last row alone */
    double matrices = (double)info->n_params * passed_share(info) - head;
    double pairs = n * (n + 1) / 2 * h->n_heads * h->n_layers;
    return 2 * (matrices * n + head) / weight_peak(info, peaks) +
           4 * pairs * h->head_dim / attention_peak(info, peaks);
}

static double share_of_peak(const model_bench *bench, const model_case *self, double rate,
                            const sp_peaks *peaks)
{
    if (!self->decodes) return least_seconds(bench->info, self->length, peaks) * rate / self->length;
    double context = self->length + DECODE_TOKENS / 2.0, peak = peaks->memory_gbps * 1e9;
    return peak > 0 ? step_bytes(bench->info, context, self->streams) / self->streams * rate / peak : 0;
}

/* --- one measurement --- */

static void show(model_bench *bench, double tokens)
{
    sp_progress_show(&bench->progress, (bench->done + tokens) / bench->total);
}

static sp_status submit(model_bench *bench, uint32_t n_prompt, uint32_t n_new, sp_stream **out,
                        sp_error *error)
{
    sp_request request;
    sp_request_init(&request);
    request.ids = bench->prompt;
    request.n_ids = n_prompt;
    request.max_tokens = n_new;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    return sp_engine_submit(bench->engine, &request, NULL, NULL, out, error);
}

/* Reads a stream to its end; times (n of the tokens) are when they came, or NULL. */
static sp_status read_stream(model_bench *bench, sp_stream *stream, double *times, sp_event *event)
{
    size_t n = 0;
    do {
        sp_stream_wait(stream, 1, event);
        if (event->type == SP_EVENT_PROGRESS) show(bench, event->done);
        if (event->type == SP_EVENT_TOKEN && times) times[n++] = sp_now();
    } while (event->type != SP_EVENT_DONE && event->type != SP_EVENT_ERROR);
    return event->type == SP_EVENT_ERROR ? event->error.status : SP_OK;
}

static sp_status measure_prefill(model_bench *bench, const model_case *self, double *rate, sp_error *error)
{
    sp_stream *stream = NULL;
    sp_event event;
    sp_status status = submit(bench, self->length, 1, &stream, error);
    if (status) return status;
    status = read_stream(bench, stream, NULL, &event);
    if (status) *error = event.error;
    if (!status) *rate = self->length / event.usage.prefill_seconds;
    sp_stream_free(stream);
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of n > 0 numbers, which it sorts; the larger one of two in the middle. */
static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return values[n / 2];
}

/* The median run of RUN_STEPS tokens between those in which all streams write. */
static double median_rate(const double *times, uint32_t streams)
{
    double rates[DECODE_TOKENS];
    size_t n = 0;
    for (size_t at = MAX_STREAMS; at + RUN_STEPS + MAX_STREAMS < DECODE_TOKENS; at += RUN_STEPS / 2) {
        double seconds = times[at + RUN_STEPS] - times[at];
        if (seconds > 0) rates[n++] = RUN_STEPS * streams / seconds;
    }
    return n ? median(rates, n) : 0;
}

static sp_status measure_decode(model_bench *bench, const model_case *self, double *rate, sp_error *error)
{
    sp_stream *streams[MAX_STREAMS] = {0};
    double times[DECODE_TOKENS];
    sp_event event;
    sp_status status = SP_OK;
    for (uint32_t i = 0; i < self->streams && !status; i++)
        status = submit(bench, self->length ? self->length : 1, DECODE_TOKENS, &streams[i], error);
    for (uint32_t i = 0; i < self->streams && !status; i++) {
        status = read_stream(bench, streams[i], i ? NULL : times, &event);
        if (status) *error = event.error;
    }
    if (!status) *rate = median_rate(times, self->streams);
    for (uint32_t i = 0; i < self->streams; i++)
        if (streams[i]) sp_stream_free(streams[i]);
    return status;
}

/* --- all of them --- */

/* Tokens the context must hold. */
static uint32_t needed_context(const model_case *self)
{
    return self->decodes ? (self->length ? self->length : 1) + DECODE_TOKENS : self->length + 1;
}

static double case_tokens(const model_case *self)
{
    return (double)self->rounds * (self->length + (self->decodes ? DECODE_TOKENS * 4.0 : 0));
}

/* Peaks of two measurements, the better of each. */
static sp_peaks better_peaks(const sp_peaks *a, const sp_peaks *b)
{
    return (sp_peaks){.fp32_gflops = fmax(a->fp32_gflops, b->fp32_gflops),
                      .bf16_gflops = fmax(a->bf16_gflops, b->bf16_gflops),
                      .int8_gops = fmax(a->int8_gops, b->int8_gops),
                      .memory_gbps = fmax(a->memory_gbps, b->memory_gbps)};
}

static sp_status run_prefill(model_bench *bench, const model_case *self, sp_bench_line *line, sp_error *error)
{
    sp_status status = SP_OK;
    for (uint32_t round = 0; round < self->rounds && !status; round++) {
        double rate = 0;
        show(bench, 0);
        status = measure_prefill(bench, self, &rate, error);
        bench->done += case_tokens(self) / self->rounds;
        if (rate > line->value) line->value = rate;
    }
    return status;
}

/* memory_gbps: out. */
static sp_status run_decode(model_bench *bench, const model_case *self, sp_bench_line *line,
                            double *memory_gbps, sp_error *error)
{
    double rates[MAX_ROUNDS], memory[MAX_ROUNDS + 1];
    sp_status status = sp_peak_memory(bench->machine.device, &memory[0], error);
    for (uint32_t round = 0; round < self->rounds && !status; round++) {
        show(bench, 0);
        status = measure_decode(bench, self, &rates[round], error);
        bench->done += case_tokens(self) / self->rounds;
        if (!status) status = sp_peak_memory(bench->machine.device, &memory[round + 1], error);
    }
    if (status) return status;
    line->value = median(rates, self->rounds);
    *memory_gbps = median(memory, self->rounds + 1);
    return SP_OK;
}

/* Reading: the best round counts; its share is that of the peaks right before and after the rounds. Writing:
 * medians, of the rounds and of the memory measured around each. */
static sp_status run_case(model_bench *bench, const model_case *self, sp_bench_line *line, sp_error *error)
{
    sp_peaks before = bench->machine.last;
    double memory_gbps = 0;
    sp_status status = self->decodes ? run_decode(bench, self, line, &memory_gbps, error)
                                     : run_prefill(bench, self, line, error);
    if (!status) status = sp_bench_peaks(&bench->machine, error);
    sp_peaks peaks = better_peaks(&before, &bench->machine.last);
    if (self->decodes) peaks.memory_gbps = memory_gbps;
    line->share = share_of_peak(bench, self, line->value, &peaks);
    return status;
}

static void warn_lengths(const model_bench *bench, const sp_options *options)
{
    uint32_t trained = bench->info->hparams.context, context = bench->info->context;
    if (context > trained)
        fprintf(stderr,
                "sparsed: %s is trained for %u tokens: beyond them only the speed means something, not the "
                "text\n",
                options->model, trained);
    for (size_t i = 0; i < N_CASES; i++)
        if (needed_context(&cases[i]) > context)
            fprintf(stderr, "sparsed: %s needs a context of %u tokens, there are %u\n", cases[i].name,
                    needed_context(&cases[i]), context);
}

static sp_status run_cases(model_bench *bench, const sp_options *options, sp_bench_line *lines,
                           sp_error *error)
{
    uint32_t context = bench->info->context;
    uint64_t seed = 1;
    bench->prompt = sp_alloc(context, sizeof *bench->prompt);
    if (!bench->prompt) return sp_fail(error, SP_NO_MEMORY, "no memory for a prompt of %u tokens", context);
    for (uint32_t i = 0; i < context; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bench->prompt[i] = (int32_t)((seed >> 33) % bench->info->hparams.vocab);
    }
    warn_lengths(bench, options);
    for (size_t i = 0; i < N_CASES; i++)
        if (needed_context(&cases[i]) <= context) bench->total += case_tokens(&cases[i]);
    sp_status status = sp_bench_peaks(&bench->machine, error);
    for (size_t i = 0; i < N_CASES; i++)
        lines[i] = (sp_bench_line){.name = cases[i].name, .unit = "tokens/s", .meaning = cases[i].meaning};
    for (size_t i = 0; i < N_CASES && !status; i++)
        if (needed_context(&cases[i]) <= context) status = run_case(bench, &cases[i], &lines[i], error);
    return status;
}

/* The longest case in whole, if the model can; without rotary positions its own context is all there is. */
static sp_status open_engine(model_bench *bench, const sp_options *options, sp_error *error)
{
    sp_engine_options wanted;
    sp_engine_options_init(&wanted);
    sp_status status = sp_options_engine(options, &wanted, error);
    if (status) return status;
    wanted.max_sequences = wanted.max_queue = MAX_STREAMS;
    wanted.request_timeout = wanted.queue_timeout = FOREVER;
    wanted.beyond = true;
    for (size_t i = 0; i < N_CASES; i++) {
        size_t pages = sp_pages_of(needed_context(&cases[i]));
        if (pages * SP_PAGE_TOKENS * cases[i].streams > wanted.kv_tokens)
            wanted.kv_tokens = pages * SP_PAGE_TOKENS * cases[i].streams;
    }
    wanted.progress = sp_progress_show;
    wanted.progress_context = &bench->progress;
    sp_progress_init(&bench->progress, "loading");
    for (size_t i = 0; i < N_CASES && !options->context; i++)
        if (needed_context(&cases[i]) > wanted.context) wanted.context = needed_context(&cases[i]);
    status = sp_engine_open(&wanted, &bench->engine, error);
    if (status == SP_USAGE && strcmp(error->param, "ctx") == 0 && !options->context) {
        wanted.context = 0;
        status = sp_engine_open(&wanted, &bench->engine, error);
    }
    sp_progress_clear(&bench->progress);
    if (!status) bench->info = sp_engine_get_info(bench->engine);
    return status;
}

int sp_bench_model(const sp_options *options)
{
    sp_error error = {0};
    model_bench bench = {0};
    sp_bench_line lines[N_CASES];
    sp_status status = open_engine(&bench, options, &error);
    if (!status) status = sp_bench_open(options, &bench.machine, &error);
    if (!status) {
        sp_progress_init(&bench.progress, "measuring");
        status = run_cases(&bench, options, lines, &error);
        sp_progress_clear(&bench.progress);
    }
    int code = status ? sp_command_fail(&error) : SP_EXIT_OK;
    if (!status) {
        sp_bench_warn(&bench.machine);
        code = sp_bench_write(&bench.machine, bench.info->model_name, lines, N_CASES, options->json);
    }
    sp_free(bench.prompt);
    if (bench.machine.device) sp_bench_close(&bench.machine);
    sp_engine_close(bench.engine);
    return code;
}
