/* sparsefinder against dense attention, as the engine runs one layer of SmolLM2's shape (9 heads, 3 KV heads,
 * 64 wide, bf16, entmax 1.5) on random keys and a random fit of rank 16: what the predictor takes
 * (projections, codes, selection and plan), what attention over its graph takes, and the density of that
 * graph. bench_sparsefinder [threads [level [case [deviation [attention]]]]]
 * case: decode4k decode16k; 8,192 read in chunks of 512 (prefill8k), of 256, as a prompt that is alone
 * (alone8k), of 64, as steps of 20 ms make them (steps8k). attention: those that contain this text.
 * Targets: decoding at 16k with keep 64 at most .35 of dense, at 4k less than dense; prefill at 8k: the
 * predictor at most .15 of dense by the grouping that serves best, all together less than dense. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/codes.h"
#include "engine/attention/scratch.h"
#include "kernels/cpu/cpu.h"
#include "tests/support/random.h"

enum {
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    RANK = 16,
    CENTROIDS = 32,
    CHUNK = 512,
    ALONE = 256,
    SHARED = 64
};
#define HEAD_BYTES ((size_t)2 * SP_TILE * HEAD_DIM * 2)
#define PAGE_BYTES (KV_HEADS * HEAD_BYTES)

/* One layer of one sequence. */
typedef struct layer {
    uint8_t *memory;
    const uint8_t **pages;
    float *k; /* (n_keys, KV_HEADS, HEAD_DIM) */
    sp_codes *codes;
} layer;

typedef struct bench {
    sp_attention attention, dense;
    uint32_t n_keys, n_layers;
    layer *layers;
    float *q, *out; /* (CHUNK, HEADS, HEAD_DIM) */
    sp_plan plan;
    sp_scratch scratch;
} bench;

typedef struct times {
    double predict, attend, dense;
    uint64_t edges, pairs;
} times;

static sp_device *device;

static void must(sp_status status, const sp_error *error)
{
    if (status == SP_OK) return;
    fprintf(stderr, "bench_sparsefinder: %s\n", error->message);
    exit(1);
}

static float *normal(size_t n, float scale, uint64_t seed)
{
    test_random random = {seed};
    float *x = sp_alloc(n, sizeof *x);
    test_random_fill(&random, x, n, scale);
    return x;
}

/* --- a fit of one layer: a dot set and a set of clusters --- */

static sp_fit_set sets[2];
static sp_fit_table tables[2];
static sp_fit_layer fit_layers[2] = {{.sets = sets, .n_sets = 2}};
static const sp_fit fit = {
    .n_layers = 1, .n_heads = HEADS, .head_dim = HEAD_DIM, .alpha = 1.5, .layers = fit_layers};
static const sp_fit *const fits[] = {&fit};

/* Both sets have the same maps; those of queries are those of their KV head. Centroids are projected keys. */
static void make_fit(void)
{
    size_t map = HEAD_DIM * RANK;
    float *k_weight = normal(KV_HEADS * map, .125f, 3), *q_weight = sp_alloc(HEADS * map, sizeof(float));
    float *bias = sp_alloc_zero(HEADS * RANK, sizeof(float)), *thresholds = sp_alloc(HEADS, sizeof(float));
    float *centroids = normal(HEADS * CENTROIDS * RANK, 1, 4);
    for (size_t h = 0; h < HEADS; h++) {
        memcpy(q_weight + h * map, k_weight + h / 3 * map, map * sizeof(float));
        thresholds[h] = 4;
    }
    tables[0] = (sp_fit_table){.values = thresholds};
    tables[1] = (sp_fit_table){.size = CENTROIDS, .runs = 1, .values = centroids};
    sp_fit_set set = {.rank = RANK,
                      .n_k_maps = KV_HEADS,
                      .q_weight = q_weight,
                      .q_bias = bias,
                      .k_weight = k_weight,
                      .k_bias = bias};
    sets[0] = sets[1] = set;
    sets[0].type = SP_FIT_DOT;
    sets[0].thresholds = &tables[0];
    sets[0].n_thresholds = 1;
    sets[1].type = SP_FIT_CLUSTER;
    sets[1].size = CENTROIDS;
    sets[1].centroids = &tables[1];
    sets[1].n_centroids = 1;
}

static void free_fit(void)
{
    sp_free(sets[0].q_weight);
    sp_free(sets[0].k_weight);
    sp_free(sets[0].q_bias);
    sp_free(tables[0].values);
    sp_free(tables[1].values);
}

/* --- sequences --- */

static void open_layer(const bench *b, layer *l, uint64_t seed)
{
    size_t tiles = b->n_keys / SP_TILE, row = KV_HEADS * HEAD_DIM;
    float *v = normal(SP_TILE * row, 1, seed + 1000);
    l->k = normal(b->n_keys * row, 1, seed);
    l->memory = sp_alloc(tiles, PAGE_BYTES);
    l->pages = sp_alloc(tiles, sizeof *l->pages);
    for (size_t i = 0; i < b->n_keys * KV_HEADS; i++) {
        size_t key = i / KV_HEADS;
        uint8_t *to =
            l->memory + key / SP_TILE * PAGE_BYTES + i % KV_HEADS * HEAD_BYTES + key % SP_TILE * HEAD_DIM * 2;
        device->ops->to_bf16(device, HEAD_DIM, l->k + i * HEAD_DIM, (uint16_t *)(void *)to);
        device->ops->to_bf16(device, HEAD_DIM, v + i % (SP_TILE * KV_HEADS) * HEAD_DIM,
                             (uint16_t *)(void *)(to + HEAD_BYTES / 2));
    }
    for (size_t t = 0; t < tiles; t++) l->pages[t] = l->memory + t * PAGE_BYTES;
    sp_free(v);
    sp_error error;
    sp_codes_options options = {.device = device,
                                .n_heads = HEADS,
                                .n_kv_heads = KV_HEADS,
                                .head_dim = HEAD_DIM,
                                .dtype = SP_BF16,
                                .max_keys = b->n_keys,
                                .fits = fits,
                                .n_fits = 1,
                                .own_pages = true};
    must(sp_codes_open(&options, &l->codes, &error), &error);
    (void)sp_codes_select(l->codes, &b->attention, &fit, 0, SP_ATTEND_SELF);
}

static void close_layer(layer *l)
{
    sp_free(l->memory);
    sp_free((void *)l->pages);
    sp_free(l->k);
    sp_codes_close(l->codes);
}

static sp_attention parse(const char *text)
{
    sp_attention_host host = {.n_heads = HEADS, .n_layers = 1, .model_normalizer = {1.5f}};
    sp_attention attention;
    sp_error error;
    must(sp_attention_parse(text, strlen(text), &host, &attention, &error), &error);
    must(sp_attention_resolve(&attention, &fit, 0, 1, SP_ATTEND_SELF, &error), &error);
    return attention;
}

/* --- timing --- */

/* Plans and attends; returns the seconds of both in *planned and as its value. */
static double run_one(bench *b, layer *l, const sp_attention *attention, uint32_t position, uint32_t rows,
                      double *planned)
{
    sp_error error;
    sp_kv_view kv = {SP_BF16, position + rows, HEAD_DIM, HEAD_DIM, HEAD_BYTES, l->pages};
    sp_plan_request request = {.attention = attention,
                               .causal = true,
                               .position = position,
                               .rows = rows,
                               .n_keys = position + rows,
                               .n_heads = HEADS,
                               .n_kv_heads = KV_HEADS,
                               .device = device,
                               .q = b->q,
                               .kv = &kv,
                               .scratch = &b->scratch};
    double start = sp_now();
    if (attention == &b->attention) {
        sp_codes_append(l->codes, position, rows, l->k + (size_t)position * KV_HEADS * HEAD_DIM);
        sp_codes_attach(l->codes, request.n_keys, &request);
    }
    must(sp_attention_plan(&request, &b->plan, &error), &error);
    *planned = sp_now() - start;
    sp_attend_stats stats = {0};
    sp_attend_args args = {.plan = &b->plan,
                           .normalizer = {1.5f},
                           .scale = .125f,
                           .n_kv_heads = KV_HEADS,
                           .q = b->q,
                           .kv = kv,
                           .out = b->out};
    start = sp_now();
    must(device->ops->attend(device, &args, &stats, &error), &error);
    return sp_now() - start;
}

static times run_all(bench *b, bool decode, uint32_t chunk)
{
    times t = {0};
    for (uint32_t at = decode ? b->n_keys - 1 : 0; at < b->n_keys; at += chunk) {
        for (uint32_t i = 0; i < 2 * b->n_layers;
             i++) { /* one after the other: each finds its keys out of the cache */
            bool dense = i < b->n_layers;
            double planned,
                attended = run_one(b, &b->layers[i % b->n_layers], dense ? &b->dense : &b->attention, at,
                                   decode ? 1 : chunk, &planned);
            if (dense) {
                t.dense += attended;
                continue;
            }
            t.attend += attended;
            t.predict += planned;
            sp_plan_counts counts;
            sp_plan_count(&b->plan, &counts);
            t.edges += counts.edges;
            t.pairs += counts.pairs;
        }
    }
    return t;
}

/* chunk: rows of a step; 1 decodes. */
static void run_case(const char *attention, uint32_t n_keys, uint32_t chunk, float deviation)
{
    bool decode = chunk == 1;
    bench b = {.attention = parse(attention), .dense = parse("\"dense\""), .n_keys = n_keys};
    b.n_layers = !decode ? 1 : n_keys > 4096 ? 8 : 24;
    b.layers = sp_alloc_zero(b.n_layers, sizeof *b.layers);
    b.q = normal((size_t)CHUNK * HEADS * HEAD_DIM, deviation, 1);
    b.out = sp_alloc((size_t)CHUNK * HEADS, HEAD_DIM * sizeof(float));
    sp_plan_init(&b.plan, 0);
    sp_scratch_init(&b.scratch, 0);
    for (uint32_t i = 0; i < b.n_layers; i++) {
        open_layer(&b, &b.layers[i], i + 10);
        if (decode) sp_codes_append(b.layers[i].codes, 0, n_keys - 1, b.layers[i].k);
    }
    times best = {.dense = INFINITY};
    for (int repeat = 0; repeat < (decode ? 8 : 3); repeat++) { /* the first one warms up */
        times t = run_all(&b, decode, chunk);
        if (repeat && t.predict + t.attend + t.dense < best.predict + best.attend + best.dense) best = t;
    }
    double ms = 1e3 / b.n_layers, dense = best.dense;
    printf("%-7s %5u by %3u  density %.3f  dense %8.3f ms a layer  predictor %7.3f (%.3f of dense)  "
           "attention %7.3f "
           "(%.3f)  "
           "both %.3f   %s\n",
           decode ? "decode" : "prefill", n_keys, chunk, (double)best.edges / (double)best.pairs, dense * ms,
           best.predict * ms, best.predict / dense, best.attend * ms, best.attend / dense,
           (best.predict + best.attend) / dense, attention);
    for (uint32_t i = 0; i < b.n_layers; i++) close_layer(&b.layers[i]);
    sp_free(b.layers);
    sp_free(b.q);
    sp_free(b.out);
    sp_plan_fini(&b.plan);
    sp_scratch_fini(&b.scratch);
}

int main(int argc, char **argv)
{
    static const char *const attentions[] = {
        "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"distance\",\"keep\":64}}",
        "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"top\":2}}",
        "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"distance\"}}"};
    sp_error error = {0};
    sp_device_options options = {.n_threads = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 0};
    sp_cpu_isa level = sp_cpu_level();
    for (sp_cpu_isa l = 0; argc > 2 && l <= sp_cpu_level(); l++)
        if (!strcmp(argv[2], sp_cpu_level_name(l))) level = l;
    const char *only = argc > 3 ? argv[3] : "all";
    float deviation = argc > 4 ? strtof(argv[4], NULL) : 2;
    must(sp_cpu_open_level(&options, level, &device, &error), &error);
    make_fit();
    printf("%s, %zu threads, scores of deviation %.1f\n", device->level, sp_threads_count(device->threads),
           (double)deviation);
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++) {
        if (argc > 5 && !strstr(attentions[i], argv[5])) continue;
        bool all = !strcmp(only, "all");
        if (all || !strcmp(only, "decode4k")) run_case(attentions[i], 4096, 1, deviation);
        if (all || !strcmp(only, "decode16k")) run_case(attentions[i], 16384, 1, deviation);
        if (all || !strcmp(only, "prefill8k")) run_case(attentions[i], 8192, CHUNK, deviation);
        if (all || !strcmp(only, "alone8k")) run_case(attentions[i], 8192, ALONE, deviation);
        if (all || !strcmp(only, "steps8k")) run_case(attentions[i], 8192, SHARED, deviation);
    }
    free_fit();
    sp_device_close(device);
    return 0;
}
