/* Heads of random q and k (engine/graph/head.h) against weights in float64 by bisection and edge predicates
 * written apart (tests/support/oracle.h): counts, ratios, rows of all six graphs; causal and not, padded,
 * rectangular, one key, lengths around the block; steps of any length give the same head. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/head.h"
#include "tests/support/oracle.h"
#include "tests/support/random.h"

enum { HEADS = 4, KV_HEADS = 2, DIM = 16 };

typedef struct scene {
    uint32_t n, m, valid, valid_q;
    bool causal;
    float *q, *k; /* (n, HEADS, DIM), (m, KV_HEADS, DIM) */
    uint8_t *page_bytes;
    const uint8_t **pages;
    int32_t *tokens;
    sp_attention attention, decoding;
    uint32_t n_prompt; /* rows behind it are decoding's; 0: there is none */
    sp_head_source source;
} scene;

static sp_device *device;

static void open_scene(scene *s, uint32_t n, uint32_t m, bool causal, const char *attention, sp_gold gold)
{
    sp_error error;
    test_random random = {n * 7919u + m * 31u + causal};
    s->n = n, s->m = m, s->causal = causal;
    s->q = sp_alloc((size_t)n * HEADS * DIM, sizeof(float));
    s->k = sp_alloc((size_t)m * KV_HEADS * DIM, sizeof(float));
    test_random_fill(&random, s->q, (size_t)n * HEADS * DIM, 1.3f);
    test_random_fill(&random, s->k, (size_t)m * KV_HEADS * DIM, 1.3f);
    size_t n_pages = (m + 63) / 64, head = 2 * 64 * DIM * sizeof(float);
    s->page_bytes = sp_alloc_zero(n_pages * KV_HEADS, head);
    s->pages = sp_alloc(n_pages, sizeof *s->pages);
    s->tokens = sp_alloc(m, sizeof *s->tokens);
    for (size_t p = 0; p < n_pages; p++) s->pages[p] = s->page_bytes + p * KV_HEADS * head;
    for (size_t j = 0; j < m; j++) {
        s->tokens[j] = (int32_t)test_random_below(&random, 5);
        for (size_t g = 0; g < KV_HEADS; g++)
            memcpy(s->page_bytes + (j / 64 * KV_HEADS + g) * head + j % 64 * DIM * sizeof(float),
                   s->k + (j * KV_HEADS + g) * DIM, DIM * sizeof(float));
    }
    const sp_attention_host host = {.n_heads = HEADS, .model_normalizer = {.alpha = 1.5f}};
    assert_ok(sp_attention_parse(attention, strlen(attention), &host, &s->attention, &error), error);
    s->source = (sp_head_source){.device = device,
                                 .attention = &s->attention,
                                 .gold = gold,
                                 .kv = {.dtype = SP_F32,
                                        .n_keys = s->valid,
                                        .head_dim = DIM,
                                        .value_dim = DIM,
                                        .head_bytes = head,
                                        .pages = s->pages},
                                 .q = s->q,
                                 .scale = 0.25f,
                                 .n_heads = HEADS,
                                 .n_kv_heads = KV_HEADS,
                                 .n_query = n,
                                 .n_key = m,
                                 .n_valid_query = s->valid_q,
                                 .kind = SP_ATTEND_SELF,
                                 .causal = causal,
                                 .tokens = s->tokens};
}

static void close_scene(scene *s)
{
    sp_free(s->q);
    sp_free(s->k);
    sp_free(s->page_bytes);
    sp_free((void *)s->pages);
    sp_free(s->tokens);
}

static sp_head *make_head(const sp_head_source *source, double seconds)
{
    sp_error error;
    sp_head *head;
    sp_head_builder *builder;
    const sp_head_options options = {0};
    assert_ok(sp_head_open(source, &head, &error), error);
    assert_ok(sp_head_builder_open(source, head, &options, &builder, &error), error);
    while (!head->done) assert_ok(sp_head_step(builder, seconds, &error), error);
    sp_head_builder_close(builder);
    return head;
}

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The dense weights of a row, cut; written apart from the engine. */
static void oracle_gold(const scene *s, uint32_t head, uint32_t row, double *weights)
{
    double *scores = malloc(s->m * sizeof *scores), *order = malloc(s->m * sizeof *order);
    uint8_t *mask = calloc(s->m, 1);
    const float *q = s->q + ((size_t)row * HEADS + head) * DIM;
    for (uint32_t j = 0; j < s->m; j++) {
        const float *k = s->k + ((size_t)j * KV_HEADS + head / 2) * DIM;
        scores[j] = 0;
        for (int d = 0; d < DIM; d++) scores[j] += 0.25 * (double)q[d] * (double)k[d];
        mask[j] = row < s->valid_q && j < s->valid && (!s->causal || j <= row);
    }
    const sp_gold *gold = &s->source.gold;
    oracle_weights((double)gold->normalizer.alpha, scores, mask, s->m, weights);
    memcpy(order, weights, s->m * sizeof *order);
    qsort(order, s->m, sizeof *order, falling);
    double sum = 0, least = 0;
    if (gold->cut == SP_CUT_MASS)
        for (uint32_t i = 0; i < s->m && sum < gold->mass; i++) sum += order[i], least = order[i];
    if (gold->cut == SP_CUT_TOP_K && gold->top_k < s->m) least = order[gold->top_k - 1];
    if (gold->cut == SP_CUT_MIN_WEIGHT) least = gold->min_weight;
    for (uint32_t j = 0; j < s->m; j++)
        if (weights[j] < least) weights[j] = 0;
    free(scores);
    free(order);
    free(mask);
}

/* Is (row, key) predicted, by the backends these tests use. */
static bool oracle_pred(const scene *s, uint32_t row, uint32_t key)
{
    bool decodes = s->n_prompt && row >= s->n_prompt;
    const char *name = decodes ? s->decoding.backend->name : s->attention.backend->name;
    if (row >= s->valid_q || key >= s->valid || (s->causal && key > row)) return false;
    if (strcmp(name, "dense") == 0) return true;
    uint32_t distance = row > key ? row - key : key - row;
    assert_string_equal(name, "window");
    return distance <= 4;
}

static bool row_has(const sp_row *row, uint32_t key, float *weight)
{
    for (uint32_t i = 0; i < row->n; i++) {
        if (row->keys[i] != key) continue;
        *weight = row->weights[i];
        return true;
    }
    return false;
}

/* All numbers and rows of one head. Edges whose weight is within 1e-6 of the threshold may differ. */
static void check_head(const scene *s, const sp_head *head, uint32_t h)
{
    sp_error error;
    sp_row_room room;
    double *gold = malloc(s->m * sizeof *gold);
    uint64_t edges = 0, pred = 0, both = 0, pairs = 0, exact = 0, listed[SP_N_GRAPHS] = {0};
    double previous = 0, sink = 0, self = 0, duplicate = 0, induction = 0, total = 0, distance = 0;
    assert_ok(sp_row_room_open(&room, s->m, &error), error);
    for (uint32_t i = 0; i < s->n; i++) {
        sp_row rows[SP_N_GRAPHS];
        uint64_t row_gold = 0, row_both = 0;
        oracle_gold(s, h, i, gold);
        for (uint32_t j = 0; j < s->m; j++) {
            bool g = gold[j] > 0, p = oracle_pred(s, i, j);
            pairs += i < s->valid_q && j < s->valid && (!s->causal || j <= i);
            row_gold += g, pred += p, row_both += g && p;
            total += gold[j];
            distance += gold[j] * fabs((double)i - j);
            if (j == i) self += gold[j];
            if (j + 1 == i) previous += gold[j];
            if (j == 0) sink += gold[j];
            if (s->tokens && j < i && i < s->m && s->tokens[j] == s->tokens[i]) duplicate += gold[j];
            if (j >= 1 && j <= i && i < s->m && s->tokens[j - 1] == s->tokens[i]) induction += gold[j];
        }
        edges += row_gold, both += row_both;
        exact += i < s->valid_q && row_gold == row_both;
        for (int g = 0; g < SP_N_GRAPHS; g++) {
            uint32_t counted = sp_head_row_count(head, (sp_graph)g, i, 0, s->m);
            sp_head_row(head, (sp_graph)g, i, 0, s->m, &room, &rows[g]);
            assert_true(counted == rows[g].n || (counted == SP_NOT_COUNTED && g >= SP_GRAPH_BOTH));
            listed[g] += rows[g].n;
            for (uint32_t j = 0; j < s->m; j++) {
                bool in_gold = gold[j] > 0, in_pred = oracle_pred(s, i, j);
                float weight = 0;
                bool has = row_has(&rows[g], j, &weight);
                if (g == SP_GRAPH_GOLD) assert_true(has == in_gold);
                if (g == SP_GRAPH_PRED) assert_true(has == in_pred);
                if (g == SP_GRAPH_BOTH) assert_true(has == (in_gold && in_pred));
                if (g == SP_GRAPH_MISSED) assert_true(has == (in_gold && !in_pred));
                if (g == SP_GRAPH_EXTRA) assert_true(has == (!in_gold && in_pred));
                if (g == SP_GRAPH_AFTER && has) assert_true(in_pred && weight > 0);
                if (has && (g == SP_GRAPH_GOLD || g == SP_GRAPH_BOTH || g == SP_GRAPH_MISSED))
                    assert_true(fabs((double)weight - gold[j]) < 1e-5);
            }
        }
        double mass = sp_head_row_mass(head, SP_GRAPH_GOLD, i);
        assert_true(fabs(mass - (i < s->valid_q ? 1 : 0)) < 1e-5);
        mass = sp_head_row_mass(head, SP_GRAPH_PRED, i);
        assert_true(fabs(mass - (rows[SP_GRAPH_PRED].n ? 1 : 0)) < 1e-5);
    }
    const sp_head_record *r = &head->record;
    assert_int_equal(r->edges_gold, edges);
    assert_int_equal(r->edges_pred, pred);
    assert_int_equal(r->edges_both, both);
    assert_int_equal(r->pairs_valid, pairs);
    assert_int_equal(r->rows_valid, s->valid_q);
    assert_int_equal(r->rows_exact, exact);
    assert_int_equal(listed[SP_GRAPH_GOLD], r->edges_gold);
    assert_int_equal(listed[SP_GRAPH_PRED], r->edges_pred);
    assert_int_equal(listed[SP_GRAPH_BOTH], r->edges_both);
    assert_int_equal(listed[SP_GRAPH_MISSED], r->edges_gold - r->edges_both);
    assert_int_equal(listed[SP_GRAPH_EXTRA], r->edges_pred - r->edges_both);
    assert_int_equal(listed[SP_GRAPH_AFTER], r->edges_after);
    assert_true(fabs(r->self - self / total) < 1e-5 && fabs(r->previous - previous / total) < 1e-5);
    assert_true(fabs(r->sink - sink / total) < 1e-5 && fabs(r->duplicate - duplicate / total) < 1e-5);
    assert_true(fabs(r->induction - induction / total) < 1e-5);
    assert_true(fabs(r->mean_distance - distance / total) < 1e-3);
    if (pred == 0) assert_true(isnan(r->precision) && r->recall == 0 && r->f1 == 0);
    sp_row_room_close(&room);
    free(gold);
}

static void check(uint32_t n, uint32_t m, uint32_t padding, bool causal, const char *attention, sp_gold gold)
{
    scene s = {.valid = m - padding, .valid_q = n - (n == m ? padding : 0)};
    open_scene(&s, n, m, causal, attention, gold);
    for (uint32_t h = 0; h < HEADS; h++) {
        s.source.head = h;
        sp_head *head = make_head(&s.source, h % 2 ? 1e-9 : 1);
        check_head(&s, head, h);
        sp_head_close(head);
    }
    close_scene(&s);
}

/* Generated rows follow a pattern of their own, whatever the steps are. */
static void check_decoding(const char *attention, const char *decoding, uint32_t n, uint32_t n_prompt,
                           sp_gold gold)
{
    const sp_attention_host host = {.n_heads = HEADS, .model_normalizer = {.alpha = 1.5f}};
    sp_error error;
    scene s = {.valid = n, .valid_q = n, .n_prompt = n_prompt};
    open_scene(&s, n, n, true, attention, gold);
    assert_ok(sp_attention_parse(decoding, strlen(decoding), &host, &s.decoding, &error), error);
    s.source.decoding = &s.decoding;
    s.source.n_prompt = n_prompt;
    for (uint32_t h = 0; h < HEADS; h++) {
        s.source.head = h;
        sp_head *head = make_head(&s.source, h % 2 ? 1e-9 : 1);
        check_head(&s, head, h);
        sp_head_close(head);
    }
    close_scene(&s);
}

static const sp_gold entmax = {.normalizer = {.alpha = 1.5f}};
static const sp_gold sparsemax = {.normalizer = {.alpha = 2.0f}};
static const sp_gold softmax95 = {.normalizer = {.alpha = 1.0f}, .cut = SP_CUT_MASS, .mass = 0.95};
#define WINDOW "{\"backend\":\"window\",\"params\":{\"window\":9}}"
#define NOTHING "{\"backend\":\"window\",\"params\":{\"window\":0}}"

static void test_causal(void **state)
{
    (void)state;
    check(150, 150, 0, true, WINDOW, entmax);
    check(65, 65, 0, true, WINDOW, sparsemax);
    check(1, 1, 0, true, WINDOW, entmax);
    check(130, 130, 0, true, "\"dense\"", entmax);
}

static void test_not_causal(void **state)
{
    (void)state;
    check(100, 100, 0, false, WINDOW, entmax);
    check(100, 100, 13, false, WINDOW, sparsemax);
    check(37, 90, 0, false, "\"dense\"", entmax);
    check(37, 90, 9, false, WINDOW, entmax);
}

static void test_softmax(void **state)
{
    (void)state;
    const sp_gold top = {.normalizer = {.alpha = 1.0f}, .cut = SP_CUT_TOP_K, .top_k = 7};
    const sp_gold least = {.normalizer = {.alpha = 1.0f}, .cut = SP_CUT_MIN_WEIGHT, .min_weight = 0.02};
    check(90, 90, 0, true, WINDOW, softmax95);
    check(90, 90, 0, true, "\"dense\"", softmax95);
    check(90, 90, 0, true, "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}", top);
    check(70, 70, 0, true, WINDOW, least);
}

static void test_decoding(void **state)
{
    (void)state;
    check_decoding(WINDOW, "\"dense\"", 150, 37, entmax);
    check_decoding("\"dense\"", WINDOW, 150, 64, entmax);
    check_decoding("\"dense\"", "\"dense\"", 70, 69, softmax95);
    check_decoding(WINDOW, "\"dense\"", 130, 1, entmax);
    check_decoding(WINDOW, "\"dense\"", 66, 66, softmax95);
}

/* An empty prediction has no precision; a full one loses nothing, and after is gold. */
static void test_extremes(void **state)
{
    (void)state;
    scene s = {.valid = 60, .valid_q = 60};
    open_scene(&s, 60, 60, true, NOTHING, entmax);
    sp_head *head = make_head(&s.source, 1);
    assert_int_equal(head->record.edges_pred, 0);
    assert_true(isnan(head->record.precision) && head->record.recall == 0 && head->record.f1 == 0);
    assert_int_equal(head->record.rows_empty, 60);
    assert_true(head->record.sparsity == 1);
    sp_head_close(head);
    close_scene(&s);

    open_scene(&s, 60, 60, true, "{\"backend\":\"window\",\"params\":{\"window\":201}}", entmax);
    head = make_head(&s.source, 1);
    assert_true(head->record.recall == 1 && head->record.mass_recall == 1);
    assert_int_equal(head->record.edges_after, head->record.edges_gold);
    assert_int_equal(head->record.rows_exact, 60);
    sp_row_room room;
    sp_error error;
    assert_ok(sp_row_room_open(&room, 60, &error), error);
    for (uint32_t i = 0; i < 60; i++) {
        sp_row gold, after;
        sp_head_row(head, SP_GRAPH_GOLD, i, 0, 60, &room, &gold);
        sp_head_row(head, SP_GRAPH_AFTER, i, 0, 60, &room, &after);
        assert_int_equal(gold.n, after.n);
        for (uint32_t e = 0; e < gold.n; e++)
            assert_true(gold.keys[e] == after.keys[e] && fabsf(gold.weights[e] - after.weights[e]) < 1e-6f);
    }
    sp_row_room_close(&room);
    sp_head_close(head);
    close_scene(&s);
}

static size_t allowed_bytes;
static bool reserve_some(void *context, size_t bytes)
{
    (void)context;
    if (bytes > allowed_bytes) return false;
    allowed_bytes -= bytes;
    return true;
}

static void release_some(void *context, size_t bytes)
{
    (void)context;
    allowed_bytes += bytes;
}

/* Edges beyond what may be held are refused by name; dense weights are given up, the rest stays. */
static void test_reserve(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_head *head;
    sp_head_builder *builder;
    const sp_head_options options = {.reserve = reserve_some, .release = release_some};
    scene s = {.valid = 200, .valid_q = 200};
    open_scene(&s, 200, 200, true, WINDOW, entmax);
    allowed_bytes = 4000;
    assert_ok(sp_head_open(&s.source, &head, &error), error);
    assert_ok(sp_head_builder_open(&s.source, head, &options, &builder, &error), error);
    sp_status status = SP_OK;
    while (!head->done && status == SP_OK) status = sp_head_step(builder, 1, &error);
    assert_int_equal(status, SP_TOO_LARGE);
    assert_string_equal(error.param, "capture_bytes");
    sp_head_builder_close(builder);
    sp_head_close(head);
    close_scene(&s);

    open_scene(&s, 200, 200, true, "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}", entmax);
    allowed_bytes = 75000; /* gold fits, 20,100 weights of dense softmax do not */
    assert_ok(sp_head_open(&s.source, &head, &error), error);
    assert_ok(sp_head_builder_open(&s.source, head, &options, &builder, &error), error);
    while (!head->done) assert_ok(sp_head_step(builder, 1, &error), error);
    assert_int_equal(head->record.edges_pred, 20100);
    assert_true(sp_head_holds(head, SP_GRAPH_MISSED) && !sp_head_holds(head, SP_GRAPH_PRED));
    assert_int_equal(sp_head_row_count(head, SP_GRAPH_PRED, 150, 100, 200), 51);
    assert_int_equal(sp_head_row_count(head, SP_GRAPH_AFTER, 150, 100, 200), SP_NOT_COUNTED);
    sp_head_builder_close(builder);
    sp_head_close(head);
    close_scene(&s);
}

/* A record over a given head's gold is the record of a head made whole. */
static void test_given(void **state)
{
    (void)state;
    sp_error error;
    scene s = {.valid = 140, .valid_q = 140};
    open_scene(&s, 140, 140, true, "\"dense\"", softmax95);
    s.source.gold = softmax95;
    sp_head *gold = make_head(&s.source, 1), *head;
    sp_attention window;
    const sp_attention_host host = {.n_heads = HEADS, .model_normalizer = {.alpha = 1.0f}};
    assert_ok(sp_attention_parse(WINDOW, strlen(WINDOW), &host, &window, &error), error);
    s.source.attention = &window;
    sp_head *whole = make_head(&s.source, 1);
    sp_head_builder *builder;
    const sp_head_options options = {.given = gold, .record_only = true};
    assert_ok(sp_head_open(&s.source, &head, &error), error);
    assert_ok(sp_head_builder_open(&s.source, head, &options, &builder, &error), error);
    while (!head->done) assert_ok(sp_head_step(builder, 1e-9, &error), error);
    whole->record.edges_after = 0;
    assert_memory_equal(&whole->record, &head->record, sizeof head->record);
    sp_head_builder_close(builder);
    sp_head_close(head);
    sp_head_close(whole);
    sp_head_close(gold);
    close_scene(&s);
}

static int open_device(void **state)
{
    (void)state;
    sp_error error;
    const sp_device_options options = {.n_threads = 2};
    return sp_device_open("cpu", &options, &device, &error) == SP_OK ? 0 : 1;
}

static int close_device(void **state)
{
    (void)state;
    sp_device_close(device);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_causal),   cmocka_unit_test(test_not_causal), cmocka_unit_test(test_softmax),
    cmocka_unit_test(test_decoding), cmocka_unit_test(test_extremes),   cmocka_unit_test(test_reserve),
    cmocka_unit_test(test_given),
};

int main(void)
{
    return cmocka_run_group_tests(tests, open_device, close_device) == 0 ? 0 : 1;
}
