/* What is kept of keys: a backend that spies on its plan requests sees projected keys, or the sets of keys
 * that centroids took, or ids of nearest centroids, of every position so far, whatever the chunks, in pages
 * that other sequences give back and take; the sums of each map are made again in float64. Side pages are
 * priced and poisoned with the KV pages. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "engine/attention/attend.h"
#include "engine/attention/codes.h"
#include "engine/attention/pattern.h"
#include "tests/support/random.h"

enum { HEADS = 4, KV_HEADS = 2, DIM = 6, KEYS = 200, C = 7, MANY = 70, RUNS = 2, TOP = 3, LAYERS = 2 };

/* --- a fit of two layers: a default set of one map a head, with centroids, and a dot set of one a KV head
 * --- */

typedef struct numbers {
    float weight[HEADS * DIM * 8], bias[HEADS * 8], centroids[HEADS * RUNS * (C + MANY) * 8];
} numbers;

typedef struct small_fit {
    sp_fit fit;
    sp_fit_layer layers[LAYERS * 2];
    sp_fit_set sets[LAYERS][2];
    sp_fit_table tables[LAYERS][2]; /* C centroids, and more than are kept as sets */
    numbers numbers[LAYERS][2];
} small_fit;

static void make_fit(small_fit *f, test_random *random)
{
    *f = (small_fit){.fit = {.n_layers = LAYERS, .n_heads = HEADS, .head_dim = DIM}};
    f->fit.layers = f->layers;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[2 * l] = (sp_fit_layer){.sets = f->sets[l], .n_sets = 2};
        float *centroids = f->numbers[l][0].centroids;
        f->tables[l][0] = (sp_fit_table){.size = C, .runs = RUNS, .values = centroids};
        f->tables[l][1] =
            (sp_fit_table){.size = MANY, .runs = RUNS, .values = centroids + (size_t)HEADS * RUNS * C * 8};
        for (int i = 0; i < 2; i++) {
            numbers *n = &f->numbers[l][i];
            test_random_fill(random, n->weight, COUNT_OF(n->weight), .4f);
            test_random_fill(random, n->bias, COUNT_OF(n->bias), .2f);
            test_random_fill(random, n->centroids, COUNT_OF(n->centroids), 1);
            f->sets[l][i] = (sp_fit_set){.type = i ? SP_FIT_DOT : SP_FIT_DEFAULT,
                                         .rank = i ? 3 : 5,
                                         .n_k_maps = i ? KV_HEADS : HEADS,
                                         .k_weight = n->weight,
                                         .k_bias = n->bias,
                                         .centroids = f->tables[l],
                                         .n_centroids = i ? 0 : 2};
        }
    }
}

/* --- backends that look at what they are given --- */

static const float *spied_k; /* (KEYS, KV_HEADS, DIM) of the sequence that is planned */
static const sp_fit *spied_fit;
static sp_dtype spied_dtype;
static unsigned spied;

static const sp_fit_set *dot_set(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                 sp_attend_kind kind)
{
    (void)attention;
    (void)kind;
    return &fit->layers[2 * layer].sets[1];
}

static const sp_fit_set *default_set(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                     sp_attend_kind kind)
{
    (void)attention;
    (void)kind;
    return &fit->layers[2 * layer].sets[0];
}

static const sp_fit_table *centroids_of(const sp_attention *attention, const sp_fit_set *set, uint32_t *top,
                                        uint32_t *runs)
{
    *top = TOP;
    *runs = RUNS;
    return &set->centroids[(int)attention->params[0]];
}

static double projected(const sp_fit_set *set, uint32_t key, uint32_t map, uint32_t j)
{
    double sum = set->k_bias[map * set->rank + j];
    const float *k = spied_k + (key * KV_HEADS + map / (set->n_k_maps / KV_HEADS)) * DIM;
    for (uint32_t d = 0; d < DIM; d++) sum += (double)k[d] * set->k_weight[(map * DIM + d) * set->rank + j];
    return sum;
}

static uint32_t whole_row(const void *context, uint32_t query, sp_interval *out)
{
    (void)context;
    *out = (sp_interval){0, query + 1};
    return 1;
}

static sp_status plan_codes(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    const sp_code_view *codes = request->codes;
    const sp_fit_set *set = dot_set(NULL, spied_fit, request->layer, request->kind);
    assert_ptr_equal(request->fit, spied_fit);
    assert_null(request->id_pages);
    assert_int_equal(codes->n_keys, request->n_keys);
    assert_int_equal(codes->rank, set->rank);
    assert_int_equal(codes->n_maps, KV_HEADS);
    assert_int_equal(codes->dtype, spied_dtype);
    for (uint32_t key = 0; key < codes->n_keys; key++) {
        for (uint32_t m = 0; m < codes->n_maps; m++) {
            const uint8_t *tile = codes->pages[key / 64] + m * codes->map_bytes;
            for (uint32_t j = 0; j < codes->rank; j++) {
                uint32_t at = spied_dtype == SP_F32 ? j * 64 + key % 64 : (j / 2 * 64 + key % 64) * 2 + j % 2;
                float x = spied_dtype == SP_F32 ? ((const float *)(const void *)tile)[at]
                                                : sp_bf16_to_f32(((const uint16_t *)(const void *)tile)[at]);
                double want = projected(set, key, m, j),
                       slack = spied_dtype == SP_F32 ? 1e-5 : 4e-3 * fabs(want);
                if (!(fabs((double)x - want) <= slack + 1e-5))
                    fail_msg("key %u map %u: %g, not %g", key, m, (double)x, want);
            }
        }
    }
    spied++;
    sp_status status = sp_pattern_begin(request, 1, out, error);
    return status ? status : sp_plan_add_intervals(out, 0, whole_row, NULL, error);
}

/* Whether a centroid is among the TOP nearest of a key. */
static bool is_near(const double *distances, uint32_t size, uint32_t c)
{
    uint32_t nearer = 0;
    for (uint32_t i = 0; i < size; i++) nearer += distances[i] < distances[c];
    return nearer < TOP;
}

static void check_key(const sp_plan_request *request, const sp_fit_table *table, uint32_t key, uint32_t head,
                      uint32_t run)
{
    const sp_fit_set *set = default_set(NULL, spied_fit, request->layer, request->kind);
    uint32_t size = table->size;
    double distances[MANY];
    for (uint32_t c = 0; c < size; c++) {
        distances[c] = 0;
        for (uint32_t j = 0; j < set->rank; j++) {
            double t = projected(set, key, head, j) -
                       (double)table->values[((head * RUNS + run) * size + c) * set->rank + j];
            distances[c] += t * t;
        }
    }
    if (size == C) {
        const uint64_t *sets = request->sets->pages[key / 64] + (run * HEADS + head) * C;
        for (uint32_t c = 0; c < C; c++) assert_int_equal(sets[c] >> key % 64 & 1, is_near(distances, C, c));
        return;
    }
    const uint16_t *ids = request->id_pages[key / 64] + ((run * HEADS + head) * 64 + key % 64) * 4;
    for (uint32_t t = 0; t < TOP; t++) { /* the t-th nearest: as many are nearer */
        uint32_t nearer = 0;
        assert_in_range(ids[t], 0, size - 1);
        for (uint32_t c = 0; c < size; c++) nearer += distances[c] < distances[ids[t]];
        assert_int_equal(nearer, t);
    }
}

static sp_status plan_ids(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    const sp_fit_set *set = default_set(NULL, spied_fit, request->layer, request->kind);
    const sp_fit_table *table = &set->centroids[(int)request->attention->params[0]];
    assert_null(request->codes);
    if (table->size == C) {
        assert_null(request->id_pages);
        assert_int_equal(request->sets->n_keys, request->n_keys);
    } else {
        assert_null(request->sets);
        assert_int_equal(request->n_ids, TOP);
        assert_int_equal(request->n_id_runs, RUNS);
    }
    for (uint32_t i = 0; i < request->n_keys * HEADS * RUNS; i++)
        check_key(request, table, i / (HEADS * RUNS), i / RUNS % HEADS, i % RUNS);
    spied++;
    sp_status status = sp_pattern_begin(request, 1, out, error);
    return status ? status : sp_plan_add_intervals(out, 0, whole_row, NULL, error);
}

static const sp_backend codes_spy = {
    .name = "codes", .caps = SP_CAP_NEEDS_FIT | SP_CAP_STREAMING, .plan = plan_codes, .codes = dot_set};
static const sp_backend ids_spy = {.name = "ids",
                                   .caps = SP_CAP_NEEDS_FIT | SP_CAP_STREAMING,
                                   .plan = plan_ids,
                                   .codes = default_set,
                                   .centroids = centroids_of};

/* --- the tests --- */

static sp_device *open_device(void)
{
    sp_device_options options = {.n_threads = 2};
    sp_device *device;
    sp_error error;
    assert_ok(sp_device_open("cpu", &options, &device, &error), error);
    return device;
}

/* Own pages: keys in uneven chunks, then one more select of another layer. */
static void test_own_pages(void **state)
{
    (void)state;
    test_random random = {1};
    small_fit fit;
    make_fit(&fit, &random);
    const sp_fit *fits[] = {NULL, &fit.fit};
    float k[KEYS * KV_HEADS * DIM];
    test_random_fill(&random, k, COUNT_OF(k), 1);
    spied_k = k, spied_fit = &fit.fit, spied_dtype = SP_F32;
    sp_device *device = open_device();
    sp_codes_options options = {.device = device,
                                .n_heads = HEADS,
                                .n_kv_heads = KV_HEADS,
                                .head_dim = DIM,
                                .dtype = SP_F32,
                                .max_keys = KEYS,
                                .fits = fits,
                                .n_fits = 2,
                                .own_pages = true};
    sp_codes *codes;
    sp_error error;
    assert_ok(sp_codes_open(&options, &codes, &error), error);
    const sp_backend *backends[] = {&codes_spy, &ids_spy, &ids_spy};
    for (uint32_t i = 0; i < 6; i++) {
        const sp_attention attention = {.backend = backends[i % 3], .params = {i % 3 == 2}};
        assert_true(sp_codes_select(codes, &attention, &fit.fit, i / 3, SP_ATTEND_SELF));
        for (uint32_t at = 0, n; at < KEYS; at += n) {
            n = 1 + (uint32_t)test_random_below(&random, 90);
            if (n > KEYS - at) n = KEYS - at;
            sp_codes_append(codes, at, n, k + at * KV_HEADS * DIM);
        }
        sp_plan_request request = {.attention = &attention,
                                   .layer = i / 3,
                                   .causal = true,
                                   .position = KEYS - 1,
                                   .rows = 1,
                                   .n_keys = KEYS,
                                   .n_heads = HEADS,
                                   .n_kv_heads = KV_HEADS};
        sp_codes_attach(codes, KEYS, &request);
        sp_plan plan;
        sp_plan_init(&plan, 0);
        assert_ok(attention.backend->plan(&request, &plan, &error), error);
        sp_plan_fini(&plan);
    }
    sp_attention dense = {.backend = sp_backend_find("dense", 5)};
    assert_false(sp_codes_select(codes, &dense, &fit.fit, 0, SP_ATTEND_SELF));
    sp_codes_append(codes, 0, KEYS, k);
    sp_codes_close(codes);
    sp_device_close(device);
}

/* Two sequences through the attender, in chunks, on the pages of a third that has gone. */
typedef struct served {
    uint32_t pages[4], position;
    float *k;
    sp_attend_job job;
    sp_attention_phase phase;
    uint64_t empty;
} served;

static void serve(sp_attender *attender, served *s, const sp_fit *fit, uint32_t rows)
{
    float q[100 * HEADS * DIM] = {0}, out[100 * HEADS * DIM];
    uint32_t slots[100] = {0}, positions[100];
    sp_attention attention = s->job.attention ? *s->job.attention : (sp_attention){0};
    s->job = (sp_attend_job){.attention = &attention,
                             .fit = fit,
                             .pages = s->pages,
                             .rows = rows,
                             .position = s->position,
                             .phase = &s->phase,
                             .rows_empty = &s->empty};
    for (uint32_t i = 0; i < rows; i++) positions[i] = s->position + i;
    sp_batch batch = {.n_rows = rows, .positions = positions, .slots = slots};
    sp_attender_begin(attender, &s->job, 1);
    spied_k = s->k, spied_fit = fit;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const float *k = s->k + (size_t)s->position * KV_HEADS * DIM;
        sp_attend_call call = {
            .layer = layer, .batch = &batch, .q = q, .k = k, .v = k, .scale = 1, .out = out};
        sp_error error;
        assert_ok(sp_attender_attend(attender, &call, &error), error);
        if (s->job.failed) fail_msg("%s", s->job.error.message);
    }
    s->position += rows;
    s->job.attention = NULL;
}

static void test_served(void **state)
{
    (void)state;
    test_random random = {2};
    small_fit fits[2];
    make_fit(&fits[0], &random);
    make_fit(&fits[1], &random);
    const sp_fit *list[] = {&fits[0].fit, &fits[1].fit};
    sp_device *device = open_device();
    for (int type = 0; type < 4; type++) { /* type / 2: which centroids */
        sp_error error;
        spied_dtype = type % 2 ? SP_BF16 : SP_F32;
        spied = 0;
        sp_kv_options pool = {.n_layers = LAYERS,
                              .n_kv_heads = KV_HEADS,
                              .head_dim = DIM,
                              .dtype = spied_dtype,
                              .side_bytes = sp_codes_page_bytes(list, 2, HEADS, spied_dtype),
                              .n_pages = 8,
                              .poison = true};
        sp_kv kv;
        assert_ok(sp_kv_open(&pool, &kv, &error), error);
        sp_attender_options options = {.device = device,
                                       .kv = &kv,
                                       .n_heads = HEADS,
                                       .n_kv_heads = KV_HEADS,
                                       .head_dim = DIM,
                                       .context = KEYS,
                                       .max_jobs = 1,
                                       .plan_bytes = 1 << 20,
                                       .fits = list,
                                       .n_fits = 2};
        sp_attender *attender;
        assert_ok(sp_attender_open(&options, &attender, &error), error);
        const sp_attention attentions[] = {{.backend = &codes_spy, .normalizer = {1}},
                                           {.backend = &ids_spy, .params = {type / 2}, .normalizer = {1}}};
        float *k[2] = {sp_alloc(KEYS * KV_HEADS * DIM, 4), sp_alloc(KEYS * KV_HEADS * DIM, 4)};
        served s[2] = {{.k = k[0]}, {.k = k[1]}};
        uint32_t gone[3];
        assert_true(sp_kv_take(&kv, 3, gone));
        memset(sp_kv_side(&kv, gone[0], 0), 0, pool.side_bytes);
        sp_kv_give(&kv, 3, gone);
        assert_int_equal(*sp_kv_side(&kv, gone[0], 0), 0xff);
        for (int i = 0; i < 2; i++) {
            test_random_fill(&random, s[i].k, KEYS * KV_HEADS * DIM, 1);
            assert_true(sp_kv_take(&kv, 4, s[i].pages));
        }
        for (int step = 0; s[1].position < KEYS; step++) {
            served *who = &s[step % 2];
            uint32_t rows = 1 + (uint32_t)test_random_below(&random, 60), left = KEYS - who->position;
            who->job.attention = &attentions[step % 2];
            if (left) serve(attender, who, list[step % 2], rows < left ? rows : left);
            assert_true(who->phase.predict_seconds > 0);
        }
        assert_true(spied > 8);
        sp_attender_close(attender);
        sp_kv_close(&kv);
        sp_free(k[0]);
        sp_free(k[1]);
    }
    sp_device_close(device);
}

static void test_bytes(void **state)
{
    (void)state;
    test_random random = {3};
    small_fit fit;
    make_fit(&fit, &random);
    const sp_fit *fits[] = {&fit.fit}, *none[] = {NULL};
    /* ids of many centroids: 2 runs of 4 heads of 64 keys of 4 ids of 2 bytes; codes of the default set in
     * bf16: 4 maps of 3 pairs */
    assert_int_equal(sp_codes_page_bytes(fits, 1, HEADS, SP_BF16), 2 * 4 * 64 * 4 * 2);
    for (int l = 0; l < LAYERS; l++) fit.sets[l][0].n_centroids = 1;
    assert_int_equal(sp_codes_page_bytes(fits, 1, HEADS, SP_BF16), 4 * 3 * 64 * 4);
    fit.tables[0][0].runs = 20; /* sets of 7 words of 8 bytes, 20 runs of 4 heads: 4,480, in whole lines */
    assert_int_equal(sp_codes_page_bytes(fits, 1, HEADS, SP_BF16), 4480);
    fit.tables[0][0].runs = 1;
    assert_int_equal(sp_codes_page_bytes(fits, 1, HEADS, SP_BF16), 4 * 3 * 64 * 4);
    assert_int_equal(sp_codes_page_bytes(fits, 1, HEADS, SP_F32), 4 * 5 * 64 * 4);
    assert_int_equal(sp_codes_page_bytes(none, 1, HEADS, SP_BF16), 0);
    sp_kv_options pool = {.n_layers = 3, .n_kv_heads = 2, .head_dim = 8, .dtype = SP_BF16, .side_bytes = 100};
    size_t bytes;
    assert_true(sp_kv_page_bytes(&pool, &bytes));
    assert_int_equal(bytes, 3 * (2 * 2 * 64 * 8 * 2 + 100));
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_own_pages), cmocka_unit_test(test_served),
                                          cmocka_unit_test(test_bytes)};
TEST_MAIN(tests)
