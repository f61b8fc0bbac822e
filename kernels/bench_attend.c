/* Benchmarks of attend (bench_attend.h). A layer owns its pages; queries, plan and output are shared. Scores
 * have the asked deviation because q and k are normal and q is scaled by it. */
#include "kernels/bench_attend.h"

#include <math.h>
#include <time.h>

#define REPEATS 5
#define HEADS 9
#define KV_HEADS 3
#define HEAD_DIM 64
#define STRIDE 128
#define WINDOW 256
#define SUMMARY 8

typedef struct bench_layer {
    uint8_t *memory;
    const uint8_t **pages;
} bench_layer;

typedef struct bench {
    const sp_bench_attend_case *which;
    uint32_t position, rows, layers;
    size_t head_bytes, page_bytes;
    bench_layer *sequences; /* (layers) */
    float *q, *out;         /* (rows, HEADS, HEAD_DIM) */
    sp_plan plan;
} bench;

/* Normal numbers by the sum of four uniform ones: good enough for scores, and fast. */
static float next_normal(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *seed ^ *seed >> 29;
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(x >> 16 * i & 0xffff);
    return (sum * 0x1p-16f - 2) * 1.7320508f;
}

static bool open_layer(bench *b, bench_layer *layer, uint64_t seed)
{
    size_t tiles = ((size_t)b->which->n_keys + SP_TILE - 1) / SP_TILE,
           numbers = b->page_bytes / sp_dtype_size(b->which->kv);
    layer->memory = sp_alloc(tiles, b->page_bytes);
    layer->pages = sp_alloc(tiles, sizeof *layer->pages);
    if (!layer->memory || !layer->pages) return false;
    for (size_t i = 0; i < tiles * numbers; i++) {
        if (b->which->kv == SP_BF16)
            ((uint16_t *)layer->memory)[i] = sp_bf16_from_f32(next_normal(&seed));
        else
            ((float *)layer->memory)[i] = next_normal(&seed);
    }
    for (size_t t = 0; t < tiles; t++) layer->pages[t] = layer->memory + t * b->page_bytes;
    return true;
}

static bool open_bench(bench *b)
{
    size_t numbers = (size_t)b->rows * HEADS * HEAD_DIM;
    float deviation = b->which->deviation > 0 ? b->which->deviation : 1;
    uint64_t seed = 77;
    b->q = sp_alloc(numbers, sizeof *b->q);
    b->out = sp_alloc(numbers, sizeof *b->out);
    b->sequences = sp_alloc_zero(b->layers, sizeof *b->sequences);
    if (!b->q || !b->out || !b->sequences) return false;
    for (size_t i = 0; i < numbers; i++) b->q[i] = deviation * next_normal(&seed);
    for (uint32_t i = 0; i < b->layers; i++)
        if (!open_layer(b, &b->sequences[i], i)) return false;
    return true;
}

static void close_bench(bench *b)
{
    for (uint32_t i = 0; b->sequences && i < b->layers; i++) {
        sp_free(b->sequences[i].memory);
        sp_free(b->sequences[i].pages);
    }
    sp_free(b->sequences);
    sp_free(b->q);
    sp_free(b->out);
    sp_plan_fini(&b->plan);
}

/* --- plans --- */

static uint32_t row_intervals(const void *context, uint32_t query, sp_interval *out)
{
    const bench *b = context;
    out->begin = 0;
    out->end = query + 1;
    if (b->which->pattern == SP_BENCH_STRIDED && query >= STRIDE) out->begin = query + 1 - STRIDE;
    if (b->which->pattern == SP_BENCH_FIXED) out->begin = query / WINDOW * WINDOW;
    return 1;
}

/* Queries first, first + step, .. see the keys of rank 0 .. their count - 1 in residue or summary order. */
static sp_status add_group(bench *b, uint32_t first, uint32_t step, uint32_t n_keys, sp_error *error)
{
    bool strided = b->which->pattern == SP_BENCH_STRIDED;
    uint32_t end = b->position + b->rows;
    sp_group_data sizes = {.n_queries = (end - first - 1) / step + 1, .n_keys = n_keys, .n_ranges = 1};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(&b->plan, &sizes, &slots, error);
    if (status) return status;
    for (uint32_t k = 0; k < n_keys; k++) {
        slots.keys[k] =
            strided ? first % STRIDE + k * STRIDE : k / SUMMARY * WINDOW + WINDOW - SUMMARY + k % SUMMARY;
    }
    for (uint32_t i = 0; i < sizes.n_queries; i++) {
        slots.queries[i] = first + i * step;
        slots.ranges[2 * i] = 0;
        slots.ranges[2 * i + 1] = strided ? slots.queries[i] / STRIDE : slots.queries[i] / WINDOW * SUMMARY;
    }
    return SP_OK;
}

static sp_status make_plan(bench *b, sp_error *error)
{
    uint32_t n = b->which->n_keys, end = b->position + b->rows;
    sp_plan_shape shape = {HEADS, 1, b->position, b->rows, n, true};
    sp_plan_init(&b->plan, 0);
    sp_status status = sp_plan_begin(&b->plan, &shape, error);
    if (!status) status = sp_plan_add_intervals(&b->plan, 0, row_intervals, b, error);
    if (b->which->pattern == SP_BENCH_STRIDED) {
        uint32_t first = b->position < STRIDE ? STRIDE : b->position;
        for (uint32_t i = first; i < end && i < first + STRIDE && !status; i++)
            status = add_group(b, i, STRIDE, (n - 1 - i % STRIDE) / STRIDE + 1, error);
    }
    if (b->which->pattern == SP_BENCH_FIXED && end > WINDOW && n >= WINDOW && !status)
        status = add_group(b, b->position < WINDOW ? WINDOW : b->position, 1, n / WINDOW * SUMMARY, error);
    return status ? status : sp_plan_end(&b->plan, error);
}

/* --- timing --- */

static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static sp_status run_layers(sp_device *device, bench *b, sp_attend_stats *stats, sp_error *error)
{
    for (uint32_t i = 0; i < b->layers; i++) {
        sp_attend_args args = {
            .plan = &b->plan,
            .normalizer = {b->which->alpha},
            .scale = 1 / sqrtf(HEAD_DIM),
            .n_kv_heads = KV_HEADS,
            .q = b->q,
            .kv = {b->which->kv, b->which->n_keys, HEAD_DIM, HEAD_DIM, b->head_bytes, b->sequences[i].pages},
            .out = b->out};
        sp_status status = device->ops->attend(device, &args, stats, error);
        if (status) return status;
    }
    return SP_OK;
}

static sp_status measure(sp_device *device, bench *b, sp_bench_attend_result *out, sp_error *error)
{
    sp_plan_counts counts;
    sp_attend_stats stats = {0};
    sp_plan_count(&b->plan, &counts);
    out->edges = counts.edges;
    out->seconds = out->cpu_seconds = INFINITY;
    for (int repeat = 0; repeat <= REPEATS; repeat++) { /* the first one warms up */
        stats = (sp_attend_stats){0};
        double wall = sp_now(), cpu = cpu_now();
        sp_status status = run_layers(device, b, &stats, error);
        if (status) return status;
        cpu = (cpu_now() - cpu) / (double)sp_threads_count(device->threads);
        wall = sp_now() - wall;
        if (repeat && wall < out->seconds) out->seconds = wall;
        if (repeat && cpu < out->cpu_seconds) out->cpu_seconds = cpu;
    }
    double bytes = (double)(stats.k_pages + stats.v_pages) * (double)b->head_bytes / 2;
    out->gbps = bytes / out->seconds * 1e-9;
    out->seconds /= b->layers;
    out->cpu_seconds /= b->layers;
    out->gflops = 4.0 * HEAD_DIM * (double)counts.edges / out->seconds * 1e-9;
    return SP_OK;
}

sp_status sp_bench_attend(sp_device *device, const sp_bench_attend_case *which, sp_bench_attend_result *out,
                          sp_error *error)
{
    bench b = {.which = which, .rows = which->rows ? which->rows : which->n_keys};
    b.position = which->n_keys - b.rows;
    b.layers = which->n_layers ? which->n_layers : 1;
    b.head_bytes = 2 * SP_TILE * HEAD_DIM * sp_dtype_size(which->kv);
    b.page_bytes = KV_HEADS * b.head_bytes;
    sp_plan_init(&b.plan, 0);
    sp_status status =
        open_bench(&b) ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for the benchmark's pages");
    if (!status) status = make_plan(&b, error);
    if (!status) status = measure(device, &b, out, error);
    close_bench(&b);
    return status;
}
