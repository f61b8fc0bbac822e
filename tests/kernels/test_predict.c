/* Projections, codes and scans at every CPU level against float64 loops: case R9 of attention.md
 * by its numbers, random shapes whose numbers are small multiples of 1/8 (so that every sum is exact and ties
 * are common), random numbers where levels must agree bit for bit, and rows alone against rows together. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/level.h"
#include "tests/support/random.h"

typedef struct scene {
    uint32_t rows, heads, maps, rank, keys, position;
    sp_dtype dtype;
    float *q, *k; /* (rows, heads, rank), (keys, maps, rank), as stored */
    size_t map_bytes;
    uint8_t *memory;
    uint8_t **pages;
} scene;

static void draw(test_random *random, float *x, size_t n, bool exact)
{
    if (exact)
        test_random_eighths(random, x, n);
    else
        test_random_fill(random, x, n, 1);
}

static size_t n_tiles(const scene *s)
{
    return (s->keys + SP_TILE - 1) / SP_TILE;
}

/* Fills q and k; codes lie in pages in reverse order, what was never stored holds NaN. */
static void scene_open(scene *s, test_random *random, bool exact)
{
    size_t n_k = (size_t)s->keys * s->maps * s->rank, n_q = (size_t)s->rows * s->heads * s->rank;
    s->q = sp_alloc(n_q, sizeof(float));
    s->k = sp_alloc(n_k, sizeof(float));
    draw(random, s->q, n_q, exact);
    draw(random, s->k, n_k, exact);
    for (size_t i = 0; i < n_k; i++)
        if (s->dtype == SP_BF16) s->k[i] = sp_bf16_to_f32(sp_bf16_from_f32(s->k[i]));
    s->map_bytes = s->dtype == SP_F32 ? (size_t)s->rank * 256 : (size_t)(s->rank + 1) / 2 * 256;
    s->memory = sp_alloc(n_tiles(s) * s->maps, s->map_bytes);
    memset(s->memory, 0xff, n_tiles(s) * s->maps * s->map_bytes);
    s->pages = sp_alloc(n_tiles(s), sizeof *s->pages);
    for (size_t t = 0; t < n_tiles(s); t++)
        s->pages[t] = s->memory + (n_tiles(s) - 1 - t) * s->maps * s->map_bytes;
    sp_device *device = open_level(SP_CPU_REFERENCE, 1);
    for (uint32_t at = 0; at < s->keys;) { /* in chunks, as serving does */
        uint32_t n = 1 + (uint32_t)test_random_below(random, 100);
        if (n > s->keys - at) n = s->keys - at;
        device->ops->store_codes(device, n, at, s->maps, s->rank, s->dtype,
                                 s->k + (size_t)at * s->maps * s->rank, s->map_bytes, s->pages);
        at += n;
    }
    sp_device_close(device);
}

static void scene_close(scene *s)
{
    sp_free(s->q);
    sp_free(s->k);
    sp_free(s->memory);
    sp_free(s->pages);
}

static sp_code_view view_of(const scene *s, uint32_t keys)
{
    return (sp_code_view){.dtype = s->dtype,
                          .n_keys = keys,
                          .rank = s->rank,
                          .n_maps = s->maps,
                          .map_bytes = s->map_bytes,
                          .pages = (const uint8_t *const *)s->pages};
}

/* Smaller is nearer; NaN: no edge. */
static double distance_of(const scene *s, sp_metric metric, uint32_t row, uint32_t head, uint32_t key)
{
    const float *q = s->q + ((size_t)row * s->heads + head) * s->rank;
    const float *k = s->k + ((size_t)key * s->maps + head / (s->heads / s->maps)) * s->rank;
    double dot = 0, qq = 0, kk = 0, square = 0;
    for (uint32_t d = 0; d < s->rank; d++) {
        double x = s->dtype == SP_BF16 ? sp_bf16_to_f32(sp_bf16_from_f32(q[d])) : q[d], y = k[d];
        dot += x * y;
        qq += x * x;
        kk += y * y;
        square += (x - y) * (x - y);
    }
    switch (metric) {
    case SP_METRIC_DOT:
        return -dot;
    case SP_METRIC_COSINE:
        return qq > 0 && kk > 0 ? 1 - dot / sqrt(qq * kk) : NAN;
    case SP_METRIC_EUCLIDEAN:
        return sqrt(square);
    case SP_METRIC_L2:
        break;
    }
    return square;
}

static bool allowed(const scene *s, bool causal, uint32_t row, uint32_t key)
{
    return !causal || key <= s->position + row;
}

/* --- scan_mask --- */

static void check_mask(const scene *s, sp_metric metric, bool causal, double slack, const sp_scan_args *args)
{
    for (uint32_t h = 0; h < s->heads; h++) {
        double limit = metric == SP_METRIC_DOT ? -(double)args->thresholds[h] : (double)args->thresholds[h];
        for (uint32_t r = 0; r < s->rows; r++) {
            const uint64_t *words = args->words + ((size_t)h * s->rows + r) * n_tiles(s);
            for (uint32_t key = 0; key < n_tiles(s) * SP_TILE; key++) {
                bool got = words[key / SP_TILE] >> key % SP_TILE & 1;
                if (key >= s->keys || !allowed(s, causal, r, key)) {
                    assert_false(got);
                    continue;
                }
                double distance = distance_of(s, metric, r, h, key);
                if (fabs(distance - limit) <= slack) continue;
                if (got != (distance < limit))
                    fail_msg("metric %d, key %u of row %u: %g against %g", (int)metric, key, r, distance,
                             limit);
            }
        }
    }
}

static void run_mask(const scene *s, sp_device *device, sp_metric metric, bool causal, bool exact,
                     uint64_t *words)
{
    float thresholds[16];
    for (uint32_t h = 0; h < s->heads; h++)
        thresholds[h] = metric == SP_METRIC_DOT      ? 1 + (float)h / 4
                        : metric == SP_METRIC_COSINE ? .5f
                                                     : 2 + (float)h / 2;
    if (s->heads > 2) thresholds[1] = metric == SP_METRIC_DOT ? INFINITY : -INFINITY;
    sp_scan_args args = {.rows = s->rows,
                         .n_heads = s->heads,
                         .position = s->position,
                         .causal = causal,
                         .metric = metric,
                         .q = s->q,
                         .keys = view_of(s, s->keys),
                         .thresholds = thresholds,
                         .words = words};
    sp_error error;
    memset(words, 0xff, (size_t)s->heads * s->rows * n_tiles(s) * sizeof *words);
    assert_ok(device->ops->scan_mask(device, &args, &error), error);
    check_mask(s, metric, causal, exact && metric != SP_METRIC_COSINE ? 0 : 2e-5, &args);
}

/* --- scan_top --- */

typedef struct nearest {
    double distance;
    uint32_t key;
} nearest;

static int compare_nearest(const void *a, const void *b)
{
    const nearest *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}

/* Exact numbers: the set itself. Else: no key left out is nearer than one taken by more than the slack. */
static void check_top(const scene *s, const sp_scan_args *args, bool exact)
{
    nearest *all = sp_alloc(s->keys, sizeof *all);
    uint8_t *taken = sp_alloc(s->keys, 1);
    sp_metric metric = args->metric;
    for (uint32_t h = 0; h < s->heads; h++) {
        for (uint32_t r = 0; r < s->rows; r++) {
            size_t n = 0, at = (size_t)h * s->rows + r;
            uint32_t query = s->position + r;
            for (uint32_t key = args->first; key < s->keys; key++) {
                uint32_t gap = key > query ? key - query : query - key;
                if (!allowed(s, args->causal, r, key) || (args->has_window && gap <= args->radius)) continue;
                double distance = distance_of(s, metric, r, h, key);
                if (!isnan(distance)) all[n++] = (nearest){distance, key};
            }
            qsort(all, n, sizeof *all, compare_nearest);
            size_t want = n < args->keep ? n : args->keep;
            const uint32_t *best = args->best + at * args->keep;
            assert_int_equal(args->n_best[at], want);
            memset(taken, 0, s->keys);
            for (size_t i = 0; i < want; i++) {
                assert_true(best[i] < s->keys && (i == 0 || best[i] > best[i - 1]));
                taken[best[i]] = 1;
            }
            double slack = exact && metric != SP_METRIC_COSINE ? 0 : 2e-5;
            for (size_t i = 0; i < n && want; i++) {
                double gap = all[i].distance - all[want - 1].distance;
                if (fabs(gap) > slack || slack == 0) assert_int_equal(taken[all[i].key], i < want);
            }
        }
    }
    sp_free(all);
    sp_free(taken);
}

typedef struct top_case {
    uint32_t keep, first, radius;
    bool has_window;
} top_case;

static void run_top(const scene *s, sp_device *device, sp_metric metric, bool causal, bool exact, top_case c,
                    uint32_t *best, uint32_t *n_best)
{
    sp_scan_args args = {.rows = s->rows,
                         .n_heads = s->heads,
                         .position = s->position,
                         .causal = causal,
                         .metric = metric,
                         .q = s->q,
                         .keys = view_of(s, s->keys),
                         .keep = c.keep,
                         .first = c.first,
                         .radius = c.radius,
                         .has_window = c.has_window,
                         .best = best,
                         .n_best = n_best};
    sp_error error;
    memset(best, 0, (size_t)s->heads * s->rows * c.keep * sizeof *best);
    assert_ok(device->ops->scan_top(device, &args, &error), error);
    check_top(s, &args, exact);
}

/* --- the tests --- */

static const scene shapes[] = {
    {.rows = 7, .heads = 4, .maps = 4, .rank = 8, .keys = 7},
    {.rows = 70, .heads = 3, .maps = 1, .rank = 16, .keys = 200, .position = 130},
    {.rows = 33, .heads = 4, .maps = 2, .rank = 5, .keys = 300, .position = 267},
    {.rows = 1, .heads = 9, .maps = 3, .rank = 16, .keys = 2600, .position = 2599},
    {.rows = 5, .heads = 2, .maps = 2, .rank = 33, .keys = 129, .position = 124},
    {.rows = 3, .heads = 2, .maps = 2, .rank = 1, .keys = 70, .position = 0},
    {.rows = 2, .heads = 1, .maps = 1, .rank = 4, .keys = 9001, .position = 8990},
    {.rows = 3, .heads = 6, .maps = 2, .rank = 16, .keys = 1500, .position = 1497},
};

/* Every level on one scene; the first level's results are what the others must repeat. */
static void check_levels(scene *s, sp_metric metric, bool causal, bool exact, top_case c)
{
    size_t n_words = (size_t)s->heads * s->rows * n_tiles(s), n_rows = (size_t)s->heads * s->rows;
    uint64_t *words[2] = {sp_alloc(n_words, 8), sp_alloc(n_words, 8)};
    uint32_t *best[2] = {sp_alloc(n_rows * c.keep, 4), sp_alloc(n_rows * c.keep, 4)},
             *n_best = sp_alloc(n_rows, 4);
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        int to = level > 0;
        sp_device *device = open_level((sp_cpu_isa)level, 1 + (size_t)level % 3);
        run_mask(s, device, metric, causal, exact, words[to]);
        assert_memory_equal(words[0], words[to], n_words * 8);
        run_top(s, device, metric, causal, exact, c, best[to], n_best);
        assert_memory_equal(best[0], best[to], n_rows * c.keep * 4);
        sp_device_close(device);
    }
    for (int i = 0; i < 2; i++) {
        sp_free(words[i]);
        sp_free(best[i]);
    }
    sp_free(n_best);
}

static void test_scans(void **state)
{
    (void)state;
    test_random random = {11};
    static const top_case tops[] = {{3, 0, 0, false}, {64, 1, 16, true}, {17, 2, 0, true}, {300, 1, 4, true}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        for (int dtype = 0; dtype < 2; dtype++) {
            for (int exact = 0; exact < 2; exact++) {
                scene s = shapes[i];
                s.dtype = dtype ? SP_BF16 : SP_F32;
                scene_open(&s, &random, exact);
                for (int metric = SP_METRIC_L2; metric <= SP_METRIC_DOT; metric++)
                    for (int causal = 0; causal < 2; causal++)
                        check_levels(&s, (sp_metric)metric, causal, exact,
                                     tops[test_random_below(&random, COUNT_OF(tops))]);
                scene_close(&s);
            }
        }
    }
}

/* All keys alike: the lowest positions win, at every level and cut. */
static void test_ties(void **state)
{
    (void)state;
    test_random random = {3};
    scene s = {.rows = 1, .heads = 2, .maps = 1, .rank = 4, .keys = 5000, .position = 4999, .dtype = SP_BF16};
    scene_open(&s, &random, true);
    for (uint32_t key = 0; key < s.keys; key++) memcpy(s.k + (size_t)key * 4, s.k, 4 * sizeof(float));
    uint32_t best[2 * 64], n_best[2];
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 3);
        device->ops->store_codes(device, s.keys, 0, 1, 4, s.dtype, s.k, s.map_bytes, s.pages);
        run_top(&s, device, SP_METRIC_DOT, true, true, (top_case){64, 5, 16, true}, best, n_best);
        for (uint32_t i = 0; i < 64; i++) assert_int_equal(best[i], 5 + i);
        sp_device_close(device);
    }
    scene_close(&s);
}

/* Keys of every eighth tile, by which the fastest levels guess what the others are like: larger than the
 * others, smaller, all alike, or no numbers. */
static void test_misleading_tiles(void **state)
{
    (void)state;
    enum { LARGE, SMALL, ALIKE, NAN_KEYS, CASES };
    static const top_case tops[] = {
        {64, 1, 16, true}, {20, 0, 0, false}, {300, 1, 4, true}, {64, 65, 2, true}};
    static const sp_metric metrics[] = {SP_METRIC_DOT, SP_METRIC_DOT, SP_METRIC_L2};
    test_random random = {21};
    for (int i = 0; i < CASES * 3 * 2; i++) {
        int kind = i % CASES, exact = i / CASES % 2, which = i / CASES / 2;
        top_case c = tops[(kind + which) % CASES];
        scene s = {.rows = 2, .heads = 6, .maps = 2, .rank = 16, .keys = 2400, .position = 2390};
        s.dtype = which == 0 ? SP_BF16 : SP_F32;
        scene_open(&s, &random, exact);
        for (size_t at = 0; at < (size_t)s.keys * s.maps * s.rank; at++) {
            size_t tile = at / ((size_t)s.maps * s.rank * SP_TILE);
            if (tile % 8 != (c.first + 63) / 64 % 8) continue;
            s.k[at] = kind == LARGE ? 4 * s.k[at] : kind == SMALL ? s.k[at] / 8 : kind == ALIKE ? 1 : NAN;
        }
        uint32_t *best = sp_alloc((size_t)s.rows * s.heads * c.keep, 4), n_best[2 * 6];
        for (int level = 0; level <= (int)sp_cpu_level(); level++) {
            sp_device *device = open_level((sp_cpu_isa)level, 1 + (size_t)i % 2);
            device->ops->store_codes(device, s.keys, 0, s.maps, s.rank, s.dtype, s.k, s.map_bytes, s.pages);
            run_top(&s, device, metrics[which], true, exact, c, best, n_best);
            sp_device_close(device);
        }
        sp_free(best);
        scene_close(&s);
    }
}

/* What a row selects does not depend on the rows beside it or on keys behind it. */
static void test_rows_alone(void **state)
{
    (void)state;
    test_random random = {5};
    scene s = {.rows = 90, .heads = 6, .maps = 2, .rank = 16, .keys = 700, .position = 610, .dtype = SP_BF16};
    scene_open(&s, &random, false);
    uint32_t *best = sp_alloc((size_t)s.rows * s.heads * 20, 4),
             *n_best = sp_alloc((size_t)s.rows * s.heads, 4);
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 2);
        run_top(&s, device, SP_METRIC_DOT, true, false, (top_case){20, 1, 8, true}, best, n_best);
        for (uint32_t row = 0; row < s.rows; row += 13) {
            uint32_t alone[6 * 20], n_alone[6];
            scene one = s;
            one.rows = 1;
            one.position += row;
            one.keys = one.position + 1;
            one.q += (size_t)row * s.heads * s.rank;
            run_top(&one, device, SP_METRIC_DOT, true, false, (top_case){20, 1, 8, true}, alone, n_alone);
            for (uint32_t h = 0; h < s.heads; h++)
                assert_memory_equal(alone + h * 20, best + ((size_t)h * s.rows + row) * 20, 20 * 4);
        }
        sp_device_close(device);
    }
    sp_free(best);
    sp_free(n_best);
    scene_close(&s);
}

static void test_project(void **state)
{
    (void)state;
    static const sp_project_args cases[] = {{.rows = 1, .n_in = 3, .n_maps = 3, .dim = 64, .rank = 16},
                                            {.rows = 67, .n_in = 3, .n_maps = 9, .dim = 64, .rank = 16},
                                            {.rows = 130, .n_in = 2, .n_maps = 2, .dim = 32, .rank = 8},
                                            {.rows = 9, .n_in = 1, .n_maps = 2, .dim = 7, .rank = 5},
                                            {.rows = 20, .n_in = 2, .n_maps = 4, .dim = 48, .rank = 37}};
    test_random random = {7};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_project_args a = cases[i];
        size_t n_x = a.rows * a.n_in * a.dim, n_w = (size_t)a.n_maps * a.dim * a.rank,
               n_b = (size_t)a.n_maps * a.rank, n = a.rows * n_b;
        float *x = sp_alloc(n_x, 4), *w = sp_alloc(n_w, 4), *b = sp_alloc(n_b, 4),
              *out[2] = {sp_alloc(n, 4), sp_alloc(n, 4)};
        test_random_fill(&random, x, n_x, 1);
        test_random_fill(&random, w, n_w, 1);
        test_random_fill(&random, b, n_b, 1);
        for (int level = 0; level <= (int)sp_cpu_level(); level++) {
            sp_device *device = open_level((sp_cpu_isa)level, 2);
            a.x = x, a.weight = w, a.bias = b, a.out = out[level > 0];
            device->ops->project(device, &a);
            assert_memory_equal(out[0], a.out, n * 4);
            sp_device_close(device);
        }
        for (size_t r = 0; r < a.rows; r++) {
            for (size_t m = 0; m < a.n_maps; m++) {
                for (size_t j = 0; j < a.rank; j++) {
                    double sum = b[m * a.rank + j];
                    for (size_t d = 0; d < a.dim; d++)
                        sum += (double)x[(r * a.n_in + m / (a.n_maps / a.n_in)) * a.dim + d] *
                               w[(m * a.dim + d) * a.rank + j];
                    assert_true(fabs(sum - out[0][(r * a.n_maps + m) * a.rank + j]) < 2e-5);
                }
            }
        }
        sp_free(x);
        sp_free(w);
        sp_free(b);
        sp_free(out[0]);
        sp_free(out[1]);
    }
}

/* Case R9: four queries, four keys, three centroids in the plane. */
static const float r9_q[] = {.1f, 2, .9f, -1, -.5f, 0, 1.5f, .7f},
                   r9_k[] = {.2f, 1.1f, -.4f, -2, .8f, .3f, 2, -.1f};

static void test_r9(void **state)
{
    (void)state;
    static const struct {
        sp_metric metric;
        float threshold;
        uint64_t edges[4];
    } cases[] = {{SP_METRIC_L2, 1.5f, {1, 0, 0, 12}},
                 {SP_METRIC_EUCLIDEAN, 1.5f, {1, 12, 5, 13}},
                 {SP_METRIC_COSINE, .5f, {1, 10, 0, 13}}};
    static const float centroids[] = {0, 1.5f, 1, -.5f, -.5f, -1};
    static const uint16_t near_q[] = {0, 1, 2, 1}, near_k[] = {0, 2, 1, 1};
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 1);
        float page[2 * SP_TILE];
        uint8_t *pages[] = {(uint8_t *)page};
        device->ops->store_codes(device, 4, 0, 1, 2, SP_F32, r9_k, sizeof page, pages);
        for (size_t i = 0; i < COUNT_OF(cases); i++) {
            uint64_t words[4];
            sp_scan_args args = {.rows = 4,
                                 .n_heads = 1,
                                 .metric = cases[i].metric,
                                 .q = r9_q,
                                 .keys = {.dtype = SP_F32,
                                          .n_keys = 4,
                                          .rank = 2,
                                          .n_maps = 1,
                                          .map_bytes = sizeof page,
                                          .pages = (const uint8_t *const *)pages},
                                 .thresholds = &cases[i].threshold,
                                 .words = words};
            sp_error error;
            assert_ok(device->ops->scan_mask(device, &args, &error), error);
            assert_memory_equal(words, cases[i].edges, sizeof words);
        }
        uint16_t ids[4];
        sp_assign_args assign = {.rows = 4,
                                 .n_maps = 1,
                                 .rank = 2,
                                 .n_centroids = 3,
                                 .top = 1,
                                 .x = r9_q,
                                 .centroids = centroids,
                                 .ids = ids};
        device->ops->assign(device, &assign);
        assert_memory_equal(ids, near_q, sizeof ids);
        uint16_t two[8];
        assign.top = 2;
        assign.ids = two;
        device->ops->assign(device, &assign);
        assert_int_equal(two[4], 2); /* query 2: centroids 0 and 1 are equally far, the lower id is second */
        assert_int_equal(two[5], 0);
        assign.top = 1;
        assign.ids = ids;
        assign.x = r9_k;
        device->ops->assign(device, &assign);
        assert_memory_equal(ids, near_k, sizeof ids);
        sp_device_close(device);
    }
}

/* Zero vectors have no cosine, numbers that are none are no edge, and nothing is taken from no keys. */
static void test_odd_numbers(void **state)
{
    (void)state;
    float q[] = {1, 0, 0, 0, NAN, 1}, k[] = {1, 0, 0, 0, 2, 1, NAN, 1, 1, 1}, page[2 * SP_TILE], never = 100;
    uint8_t *pages[] = {(uint8_t *)page};
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 1);
        device->ops->store_codes(device, 5, 0, 1, 2, SP_F32, k, sizeof page, pages);
        uint32_t best[3 * 8], n_best[3];
        uint64_t words[3];
        sp_scan_args args = {.rows = 3,
                             .n_heads = 1,
                             .metric = SP_METRIC_COSINE,
                             .q = q,
                             .keys = {.dtype = SP_F32,
                                      .n_keys = 5,
                                      .rank = 2,
                                      .n_maps = 1,
                                      .map_bytes = sizeof page,
                                      .pages = (const uint8_t *const *)pages},
                             .thresholds = &never,
                             .words = words,
                             .keep = 8,
                             .best = best,
                             .n_best = n_best};
        sp_error error;
        assert_ok(device->ops->scan_top(device, &args, &error), error);
        assert_ok(device->ops->scan_mask(device, &args, &error), error);
        static const uint32_t counts[] = {3, 0, 0}, keys[] = {0, 2, 4};
        static const uint64_t edges[] = {1 | 4 | 16, 0, 0};
        assert_memory_equal(n_best, counts, sizeof counts);
        assert_memory_equal(best, keys, sizeof keys);
        assert_memory_equal(words, edges, sizeof edges);
        args.keys.n_keys = 0;
        assert_ok(device->ops->scan_top(device, &args, &error), error);
        assert_int_equal(n_best[0], 0);
        sp_device_close(device);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_project),     cmocka_unit_test(test_r9),
    cmocka_unit_test(test_scans),       cmocka_unit_test(test_ties),
    cmocka_unit_test(test_rows_alone),  cmocka_unit_test(test_misleading_tiles),
    cmocka_unit_test(test_odd_numbers),
};
TEST_MAIN(tests)
