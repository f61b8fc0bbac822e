/* Backends that predict from a fit, every grouping, against the oracle of tests/support/finder.h: edges,
 * outputs, chunks, decoding, later tokens, cross-attention, keys kept in half precision. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/attention/codes.h"
#include "engine/attention/scratch.h"
#include "tests/support/finder.h"
#include "tests/support/random_fit.h"

enum {
    HEADS = 4,
    KV_HEADS = 2,
    DIM = 16,
    VALUE_DIM = 8,
    MAX_N = 300,
    HEAD_FLOATS = SP_TILE * (DIM + VALUE_DIM)
};

static sp_device *device;
static sp_scratch scratch;

static int open_device(void **state)
{
    (void)state;
    sp_error error;
    sp_device_options options = {.n_threads = 2};
    sp_scratch_init(&scratch, 0);
    return sp_device_open("cpu", &options, &device, &error) ? 1 : 0;
}

static int close_device(void **state)
{
    (void)state;
    sp_scratch_fini(&scratch);
    sp_device_close(device);
    return 0;
}

/* A sequence with its attention, fit and kept keys. */
typedef struct scene {
    const finder_pattern *pattern;
    sp_attention attention;
    sp_attend_kind kind;
    bool causal;
    uint32_t n, n_keys;
    sp_fit *fit;
    sp_codes *codes;
    float *q, *k, *pages; /* (n, HEADS, DIM), (n_keys, KV_HEADS, DIM) */
    const uint8_t *tables[MAX_N];
} scene;

static void open_scene(scene *s, const finder_pattern *pattern, uint32_t n, uint32_t n_keys,
                       sp_attend_kind kind, bool causal, float alpha, sp_dtype dtype)
{
    sp_error error;
    const sp_attention_host host = {.n_heads = HEADS, .model_normalizer = {.alpha = alpha}};
    *s = (scene){.pattern = pattern, .kind = kind, .causal = causal, .n = n, .n_keys = n_keys};
    s->fit = test_fit_new(HEADS, KV_HEADS, DIM, (n + n_keys) % 2, 3 + n);
    assert_ok(sp_attention_parse(pattern->json, strlen(pattern->json), &host, &s->attention, &error), error);
    assert_ok(sp_attention_resolve(&s->attention, s->fit, 0, 1, kind, &error), error);
    s->q = sp_alloc((size_t)n * HEADS * DIM, sizeof *s->q);
    s->k = sp_alloc((size_t)(n_keys + 1) * KV_HEADS * DIM, sizeof *s->k);
    s->pages = sp_alloc_zero(((size_t)n_keys / SP_TILE + 1) * KV_HEADS, HEAD_FLOATS * sizeof *s->pages);
    assert_true(s->q && s->k && s->pages);
    test_finder_fill(s->q, (size_t)n * HEADS * DIM, n);
    test_finder_fill(s->k, (size_t)n_keys * KV_HEADS * DIM, 1000 + n);
    for (uint32_t j = 0; j < n_keys; j++)
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            float *head = s->pages + ((size_t)j / SP_TILE * KV_HEADS + h) * HEAD_FLOATS;
            memcpy(head + j % SP_TILE * DIM, s->k + ((size_t)j * KV_HEADS + h) * DIM, DIM * sizeof(float));
            test_finder_fill(head + SP_TILE * DIM + j % SP_TILE * VALUE_DIM, VALUE_DIM, j * 7 + h);
        }
    for (uint32_t t = 0; t * SP_TILE < n_keys; t++)
        s->tables[t] = (const uint8_t *)(s->pages + (size_t)t * KV_HEADS * HEAD_FLOATS);
    const sp_fit *const fits[] = {s->fit};
    const sp_codes_options options = {.device = device,
                                      .n_heads = HEADS,
                                      .n_kv_heads = KV_HEADS,
                                      .head_dim = DIM,
                                      .dtype = dtype,
                                      .max_keys = n_keys + 1,
                                      .fits = fits,
                                      .n_fits = 1,
                                      .own_pages = true};
    assert_ok(sp_codes_open(&options, &s->codes, &error), error);
    assert_true(sp_codes_select(s->codes, &s->attention, s->fit, 0, kind));
    sp_codes_append(s->codes, 0, n_keys, s->k);
}

static void close_scene(scene *s)
{
    sp_codes_close(s->codes);
    sp_fit_close(s->fit);
    sp_free(s->q);
    sp_free(s->k);
    sp_free(s->pages);
}

/* Rows of the sequence with the keys so far; a NULL out plans alone. out: (rows, HEADS, VALUE_DIM) */
static void run(scene *s, uint32_t position, uint32_t rows, uint32_t n_keys, sp_plan *plan, float *out)
{
    sp_error error;
    sp_plan_request request = {.attention = &s->attention,
                               .kind = s->kind,
                               .causal = s->causal,
                               .position = position,
                               .rows = rows,
                               .n_keys = n_keys,
                               .n_heads = HEADS,
                               .n_kv_heads = KV_HEADS,
                               .device = device,
                               .q = s->q + (size_t)position * HEADS * DIM,
                               .whole_q = s->q,
                               .whole_rows = s->n,
                               .scratch = position % 2 ? &scratch : NULL};
    sp_codes_attach(s->codes, n_keys, &request);
    assert_ok(sp_attention_plan(&request, plan, &error), error);
    if (!out) return;
    const sp_attend_args args = {.plan = plan,
                                 .normalizer = s->attention.normalizer,
                                 .scale = 0.25f,
                                 .n_kv_heads = KV_HEADS,
                                 .q = request.q,
                                 .kv = {.dtype = SP_F32,
                                        .n_keys = n_keys,
                                        .head_dim = DIM,
                                        .value_dim = VALUE_DIM,
                                        .head_bytes = HEAD_FLOATS * sizeof(float),
                                        .pages = s->tables},
                                 .out = out};
    sp_attend_stats stats = {0};
    assert_ok(device->ops->attend(device, &args, &stats, &error), error);
}

/* --- edges --- */
static uint8_t mask[(size_t)HEADS * MAX_N * MAX_N];
static uint32_t keys[MAX_N], more_keys[MAX_N];

/* The plan's rows are those of the mask, which begins at row 0; returns the edges. */
static uint64_t compare(const scene *s, const sp_plan *plan, uint32_t position, uint32_t rows,
                        uint32_t n_keys)
{
    sp_error error;
    uint64_t edges = 0;
    assert_ok(sp_plan_validate(plan, &error), error);
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t i = position; i < position + rows; i++) {
            size_t n = sp_plan_row(plan, h, i, keys), at = 0;
            const uint8_t *row = mask + ((size_t)h * s->n + i) * s->n_keys;
            for (uint32_t j = 0; j < n_keys; j++) {
                bool has = at < n && keys[at] == j;
                if (has != row[j])
                    fail_msg("%s: n %u head %u row %u key %u: %d in the plan", s->pattern->json, s->n, h, i,
                             j, has);
                at += has;
            }
            edges += n;
        }
    return edges;
}

static void test_edges(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, n_keys;
        bool causal;
    } shapes[] = {{1, 1, true},    {17, 17, true},    {64, 64, false}, {65, 65, true},
                  {65, 40, false}, {130, 130, false}, {300, 300, true}};
    sp_plan plan;
    sp_plan_init(&plan, 0);
    for (size_t p = 0; p < n_finder_patterns; p++) {
        uint64_t edges = 0, pairs = 0;
        for (size_t i = 0; i < COUNT_OF(shapes); i++) {
            scene s;
            open_scene(&s, &finder_patterns[p], shapes[i].n, shapes[i].n_keys, SP_ATTEND_SELF,
                       shapes[i].causal, 1.5f, SP_F32);
            finder_mask(s.pattern, s.fit, false, s.causal, KV_HEADS, s.q, s.n, s.k, s.n_keys, mask);
            run(&s, 0, s.n, s.n_keys, &plan, NULL);
            edges += compare(&s, &plan, 0, s.n, s.n_keys);
            sp_plan_counts counts;
            sp_plan_count(&plan, &counts);
            pairs += counts.pairs;
            close_scene(&s);
        }
        double share = (double)edges / (double)pairs; /* else the pattern tries nothing */
        if (finder_patterns[p].buckets != 1 && !(share > 0.01 && share < 0.97))
            fail_msg("%s: %g of the pairs are edges", finder_patterns[p].json, share);
    }
    sp_plan_fini(&plan);
}

/* Other lengths of queries and keys; no window, no last tokens. */
static void test_cross(void **state)
{
    (void)state;
    sp_plan plan;
    size_t tried = 0;
    sp_plan_init(&plan, 0);
    for (size_t p = 0; p < n_finder_patterns; p++) {
        finder_pattern pattern = finder_patterns[p];
        if (pattern.window || pattern.last) continue;
        scene s;
        open_scene(&s, &pattern, 70, 131, SP_ATTEND_CROSS, false, 1.5f, SP_F32);
        finder_mask(s.pattern, s.fit, true, false, KV_HEADS, s.q, s.n, s.k, s.n_keys, mask);
        run(&s, 0, s.n, s.n_keys, &plan, NULL);
        compare(&s, &plan, 0, s.n, s.n_keys);
        close_scene(&s);
        tried++;
    }
    assert_true(tried >= 4);
    sp_plan_fini(&plan);
}

/* --- outputs, chunks --- */

static void check_outputs(const scene *s, double alpha, const float *out)
{
    static float k[MAX_N * DIM], v[MAX_N * VALUE_DIM];
    double expected[VALUE_DIM];
    for (uint32_t h = 0; h < HEADS; h++) {
        uint32_t kv = h / (HEADS / KV_HEADS);
        for (uint32_t j = 0; j < s->n_keys; j++) {
            const float *head = s->pages + ((size_t)j / SP_TILE * KV_HEADS + kv) * HEAD_FLOATS;
            memcpy(k + (size_t)j * DIM, head + j % SP_TILE * DIM, DIM * sizeof(float));
            memcpy(v + (size_t)j * VALUE_DIM, head + SP_TILE * DIM + j % SP_TILE * VALUE_DIM,
                   VALUE_DIM * sizeof(float));
        }
        for (uint32_t i = 0; i < s->n; i++) {
            const oracle_head head = {.q = s->q + ((size_t)i * HEADS + h) * DIM,
                                      .k = k,
                                      .v = v,
                                      .d = DIM,
                                      .dv = VALUE_DIM,
                                      .k_stride = DIM,
                                      .v_stride = VALUE_DIM,
                                      .n = s->n_keys,
                                      .scale = 0.25,
                                      .alpha = alpha};
            oracle_attend(&head, mask + ((size_t)h * s->n + i) * s->n_keys, expected);
            for (uint32_t c = 0; c < VALUE_DIM; c++) {
                double got = (double)out[((size_t)i * HEADS + h) * VALUE_DIM + c];
                if (!(fabs(got - expected[c]) <= 2e-5))
                    fail_msg("%s: head %u row %u: %g, not %g", s->pattern->json, h, i, got, expected[c]);
            }
        }
    }
}

static float outs[MAX_N * HEADS * VALUE_DIM], parts[MAX_N * HEADS * VALUE_DIM];

static void test_outputs_and_chunks(void **state)
{
    (void)state;
    static const uint32_t cuts[] = {1, 63, 100, 7, 29};
    sp_plan plan;
    sp_plan_init(&plan, 0);
    for (size_t p = 0; p < n_finder_patterns; p++) {
        scene s;
        float alpha = p % 2 ? 1.5f : 1.0f;
        open_scene(&s, &finder_patterns[p], 200, 200, SP_ATTEND_SELF, true, alpha, p % 3 ? SP_F32 : SP_BF16);
        run(&s, 0, s.n, s.n, &plan, outs);
        if (p % 3) {
            finder_mask(s.pattern, s.fit, false, true, KV_HEADS, s.q, s.n, s.k, s.n_keys, mask);
            check_outputs(&s, (double)alpha, outs);
        }
        bool streams = finder_streams(s.pattern);
        if (s.pattern->last == 0) assert_int_equal(sp_attention_streams(&s.attention), streams);
        for (uint32_t at = 0, i = 0, rows; at < s.n; at += rows, i++) {
            rows = cuts[i % COUNT_OF(cuts)] < s.n - at ? cuts[i % COUNT_OF(cuts)] : s.n - at;
            run(&s, at, rows, streams ? at + rows : s.n, &plan, parts + (size_t)at * HEADS * VALUE_DIM);
        }
        if (memcmp(outs, parts, (size_t)s.n * HEADS * VALUE_DIM * sizeof *outs) != 0)
            fail_msg("%s: chunks give other bits", s.pattern->json);
        close_scene(&s);
    }
    sp_plan_fini(&plan);
}

/* Row by row, each with the keys so far: the edges and bits of the prefill. The same with later keys in the
 * pages. */
static void test_decoding(void **state)
{
    (void)state;
    sp_plan whole, row;
    sp_plan_init(&whole, 0);
    sp_plan_init(&row, 0);
    for (size_t p = 0; p < n_finder_patterns; p++) {
        if (!finder_streams(&finder_patterns[p])) continue;
        scene s;
        open_scene(&s, &finder_patterns[p], 150, 150, SP_ATTEND_SELF, true, 1.5f, p % 2 ? SP_F32 : SP_BF16);
        run(&s, 0, s.n, s.n, &whole, outs);
        for (uint32_t i = 0; i < s.n; i++) {
            run(&s, i, 1, i + 1 + (s.n - i - 1) * (i % 3 == 0), &row, parts);
            for (uint32_t h = 0; h < HEADS; h++) {
                size_t n = sp_plan_row(&whole, h, i, keys);
                assert_int_equal(sp_plan_row(&row, h, i, more_keys), n);
                assert_memory_equal(keys, more_keys, n * sizeof *keys);
            }
            size_t row_floats = HEADS * VALUE_DIM;
            assert_memory_equal(parts, outs + i * row_floats, row_floats * sizeof *outs);
        }
        close_scene(&s);
    }
    sp_plan_fini(&whole);
    sp_plan_fini(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_cross),
        cmocka_unit_test(test_outputs_and_chunks),
        cmocka_unit_test(test_decoding),
    };
    return cmocka_run_group_tests(tests, open_device, close_device) == 0 ? 0 : 1;
}
