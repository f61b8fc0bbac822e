/* The worked cases: index sets of strided and fixed for n = 12, l = 4 (R4 to R6), entmax values (R1),
 * attention by hand (R10), the closed forms of edge counts (n = M l), and
 * the size of plans. Numbers are written out, never computed by the engine. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/attention/attention.h"

static sp_device *device;

static sp_attention parsed(const char *json, uint32_t n_heads)
{
    sp_attention attention;
    sp_error error;
    const sp_attention_host host = {.n_heads = n_heads, .model_normalizer = {.alpha = 1.0f}};
    assert_ok(sp_attention_parse(json, strlen(json), &host, &attention, &error), error);
    return attention;
}

typedef struct where {
    uint32_t layer, n_heads, position, rows, n_keys;
    bool full; /* not causal */
} where;

static void make_plan(sp_plan *plan, const char *json, where at)
{
    sp_error error;
    sp_attention attention = parsed(json, at.n_heads);
    const sp_plan_request request = {.attention = &attention,
                                     .layer = at.layer,
                                     .causal = !at.full,
                                     .position = at.position,
                                     .rows = at.rows,
                                     .n_keys = at.n_keys,
                                     .n_heads = at.n_heads,
                                     .n_kv_heads = at.n_heads,
                                     .device = device};
    assert_ok(sp_attention_plan(&request, plan, &error), error);
}

static uint64_t edges_of(const char *json, where at, uint32_t head)
{
    sp_plan plan;
    sp_plan_init(&plan, 0);
    make_plan(&plan, json, at);
    uint64_t edges = sp_plan_count_head(&plan, head);
    sp_plan_fini(&plan);
    return edges;
}

/* Row `query` of one head has exactly the keys listed, -1 at the end. */
static void check_row(const char *json, where at, uint32_t head, uint32_t query, const int *expected)
{
    uint32_t keys[64];
    sp_plan plan;
    sp_plan_init(&plan, 0);
    make_plan(&plan, json, at);
    size_t n = sp_plan_row(&plan, head, query, keys), i = 0;
    for (; expected[i] >= 0; i++) {
        if (i >= n || keys[i] != (uint32_t)expected[i])
            fail_msg("%s row %u: key %d is missing", json, query, expected[i]);
    }
    assert_int_equal(n, i);
    sp_plan_fini(&plan);
}
#define ROW(json, at, head, query, ...) check_row(json, at, head, query, (const int[]){__VA_ARGS__, -1})

#define STRIDED4 "{\"backend\":\"strided\",\"params\":{\"stride\":4}}"
#define STRIDED4_SPLIT "{\"backend\":\"strided\",\"params\":{\"stride\":4},\"heads\":\"multihead\"}"
#define FIXED4_1 "{\"backend\":\"fixed\",\"params\":{\"stride\":4,\"summary\":1}}"
#define FIXED4_2 "{\"backend\":\"fixed\",\"params\":{\"stride\":4,\"summary\":2}}"
#define FIXED4_V2 "{\"backend\":\"fixed\",\"params\":{\"stride\":4,\"summary\":1,\"distinct\":2}}"

static const where twelve = {.n_heads = 1, .rows = 12, .n_keys = 12};
static const where twelve_2 = {.n_heads = 2, .rows = 12, .n_keys = 12};

/* R4 */
static void test_strided_rows(void **state)
{
    (void)state;
    assert_int_equal(edges_of(STRIDED4_SPLIT, twelve_2, 0), 42);
    assert_int_equal(edges_of(STRIDED4_SPLIT, twelve_2, 1), 24);
    assert_int_equal(edges_of(STRIDED4, twelve, 0), 54);
    ROW(STRIDED4, twelve, 0, 7, 3, 4, 5, 6, 7);
    ROW(STRIDED4, twelve, 0, 8, 0, 4, 5, 6, 7, 8);
    ROW(STRIDED4, twelve, 0, 11, 3, 7, 8, 9, 10, 11);
}

/* R5 */
static void test_fixed_rows(void **state)
{
    (void)state;
    assert_int_equal(edges_of(FIXED4_1, twelve, 0), 42);
    ROW(FIXED4_1, twelve, 0, 6, 3, 4, 5, 6);
    ROW(FIXED4_1, twelve, 0, 10, 3, 7, 8, 9, 10);
    ROW(FIXED4_1, twelve, 0, 11, 3, 7, 8, 9, 10, 11);
    assert_int_equal(edges_of(FIXED4_2, twelve, 0), 54);
    ROW(FIXED4_2, twelve, 0, 10, 2, 3, 6, 7, 8, 9, 10);
    ROW(FIXED4_V2, twelve_2, 0, 6, 3, 4, 5, 6);
    ROW(FIXED4_V2, twelve_2, 1, 6, 2, 4, 5, 6);
    ROW(FIXED4_V2, twelve_2, 1, 10, 2, 6, 8, 9, 10);
}

/* R5: pairs (i, j), j <= i, that no path of two steps reaches, i -> a in first, a -> j in second */
static int missing_pairs(const char *first, uint32_t first_head, const char *second, uint32_t second_head,
                         where at)
{
    uint8_t reach[12][12] = {{0}};
    uint32_t middle[12], last[12];
    sp_plan a, b;
    sp_plan_init(&a, 0);
    sp_plan_init(&b, 0);
    make_plan(&a, first, at);
    make_plan(&b, second, at);
    for (uint32_t i = 0; i < 12; i++) {
        size_t n = sp_plan_row(&a, first_head, i, middle);
        for (size_t x = 0; x < n; x++) {
            size_t m = sp_plan_row(&b, second_head, middle[x], last);
            for (size_t y = 0; y < m; y++) reach[i][last[y]] = 1;
        }
    }
    sp_plan_fini(&a);
    sp_plan_fini(&b);
    int missing = 0;
    for (uint32_t i = 0; i < 12; i++) {
        for (uint32_t j = 0; j <= i; j++) missing += !reach[i][j];
    }
    return missing;
}

static void test_two_steps_reach(void **state)
{
    (void)state;
    assert_int_equal(missing_pairs(STRIDED4_SPLIT, 0, STRIDED4_SPLIT, 1, twelve_2), 0);
    assert_int_equal(missing_pairs(STRIDED4_SPLIT, 1, STRIDED4_SPLIT, 0, twelve_2), 0);
    assert_int_equal(missing_pairs(FIXED4_1, 0, FIXED4_1, 0, twelve), 0);
    assert_int_equal(missing_pairs(FIXED4_V2, 1, FIXED4_V2, 1, twelve_2), 12);
}

/* R6: single rows, as decoding asks for them */
static void test_decode_rows(void **state)
{
    (void)state;
    static const uint32_t steps[] = {5, 10, 11};
    static const int local[][5] = {{2, 3, 4, 5, -1}, {7, 8, 9, 10, -1}, {8, 9, 10, 11, -1}};
    static const int column[][4] = {{1, 5, -1}, {2, 6, 10, -1}, {3, 7, 11, -1}};
    static const int fixed[][7] = {{3, 4, 5, -1}, {3, 7, 8, 9, 10, -1}, {3, 7, 8, 9, 10, 11, -1}};
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        where at = {.n_heads = 2, .position = steps[i], .rows = 1, .n_keys = steps[i] + 1};
        check_row(STRIDED4_SPLIT, at, 0, steps[i], local[i]);
        check_row(STRIDED4_SPLIT, at, 1, steps[i], column[i]);
        check_row(FIXED4_1, at, 0, steps[i], fixed[i]);
    }
}

/* Interleaved: even layers have the first part, odd layers the second. */
static void test_interleaved(void **state)
{
    (void)state;
    static const char json[] =
        "{\"backend\":\"strided\",\"params\":{\"stride\":4},\"heads\":\"interleaved\"}";
    where even = twelve, odd = twelve;
    even.layer = 6, odd.layer = 7;
    assert_int_equal(edges_of(json, even, 0), 42);
    assert_int_equal(edges_of(json, odd, 0), 24);
}

/* Closed forms for n = M l. */
static void test_edge_counts(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, l, c;
    } sizes[] = {{1024, 32, 8}, {3072, 96, 8}, {640, 64, 16}, {96, 8, 8}};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint64_t n = sizes[i].n, l = sizes[i].l, c = sizes[i].c, m = n / l;
        uint64_t local = n * l - l * (l - 1) / 2, column = l * m * (m + 1) / 2, own = m * l * (l + 1) / 2;
        char strided[128], split[160], fixed[128], fixed_split[160];
        (void)snprintf(strided, sizeof strided, "{\"backend\":\"strided\",\"params\":{\"stride\":%u}}",
                       sizes[i].l);
        (void)snprintf(split, sizeof split,
                       "{\"backend\":\"strided\",\"params\":{\"stride\":%u},\"heads\":\"multihead\"}",
                       sizes[i].l);
        (void)snprintf(fixed, sizeof fixed,
                       "{\"backend\":\"fixed\",\"params\":{\"stride\":%u,\"summary\":%u}}", sizes[i].l,
                       sizes[i].c);
        (void)snprintf(
            fixed_split, sizeof fixed_split,
            "{\"backend\":\"fixed\",\"params\":{\"stride\":%u,\"summary\":%u},\"heads\":\"multihead\"}",
            sizes[i].l, sizes[i].c);
        where one = {.n_heads = 1, .rows = sizes[i].n, .n_keys = sizes[i].n}, two = one;
        two.n_heads = 2;
        assert_int_equal(edges_of(split, two, 0), local);
        assert_int_equal(edges_of(split, two, 1), column);
        assert_int_equal(edges_of(strided, one, 0), local + column - n);
        assert_int_equal(edges_of(fixed_split, two, 0), own);
        assert_int_equal(edges_of(fixed, one, 0), own + c * l * m * (m - 1) / 2);
        assert_int_equal(edges_of("\"dense\"", one, 0), n * (n + 1) / 2);
    }
}

static void test_strided_12288(void **state)
{
    (void)state;
    sp_plan plan;
    sp_plan_counts counts;
    sp_plan_init(&plan, 0);
    make_plan(&plan, "\"strided\"", (where){.n_heads = 1, .rows = 12288, .n_keys = 12288});
    sp_plan_count(&plan, &counts);
    assert_int_equal(counts.edges, 2148416);
    assert_int_equal(counts.pairs, 75503616);
    assert_int_equal(counts.groups, 128);
    assert_int_equal(counts.rows_empty, 0);
    sp_plan_fini(&plan);
}

/* --- what plans cost: memory and time of the forms that must stay cheap --- */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double best_time(const char *json, where at)
{
    double best = 1e9;
    sp_plan plan;
    sp_plan_init(&plan, 0);
    for (int i = 0; i < 5; i++) {
        double start = seconds();
        make_plan(&plan, json, at);
        double took = seconds() - start;
        if (took < best) best = took;
    }
    sp_plan_fini(&plan);
    return best;
}

/* Bounds are some twenty times what an optimised build takes: they catch a quadratic plan, not a slow
 * machine. */
static void test_plans_are_cheap(void **state)
{
    (void)state;
    const where whole = {.n_heads = 8, .rows = 65536, .n_keys = 65536};
    const where row = {.n_heads = 8, .position = 65535, .rows = 1, .n_keys = 65536};
    static const char *const names[] = {"\"window\"", "\"strided\"", "\"fixed\"", "\"longformer\"",
                                        "\"dense\""};
    static const double whole_limit[] = {0.2, 0.4, 0.2, 0.2, 0.6},
                        row_limit[] = {1e-3, 1e-3, 2e-3, 1e-3, 1e-3};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        double all = best_time(names[i], whole), one = best_time(names[i], row);
        printf("%-14s 64k rows %7.2f ms, one row %7.2f us\n", names[i], 1e3 * all, 1e6 * one);
        if (all > whole_limit[i] || one > row_limit[i])
            fail_msg("%s takes %g s, a row %g s", names[i], all, one);
    }
    sp_plan plan;
    sp_plan_init(&plan, 0);
    make_plan(&plan, "\"strided\"", row);
    assert_int_equal(plan.n_groups, 1); /* the row's residue class alone */
    assert_true(plan.n_numbers <= 65536 / 128 + 3);
    sp_plan_fini(&plan);
}

/* --- values --- */

/* R1: normalizers by way of row_weights, whose scores are q . k with q = 1 */
static void check_weights(float alpha, const float *scores, size_t n, const double *expected)
{
    float page[2 * SP_TILE] = {0}, weights[8];
    const uint8_t *pages[] = {(const uint8_t *)page};
    const float one = 1;
    memcpy(page, scores, n * sizeof *scores);
    const sp_kv_view kv = {.dtype = SP_F32,
                           .n_keys = (uint32_t)n,
                           .head_dim = 1,
                           .value_dim = 1,
                           .head_bytes = sizeof page,
                           .pages = pages};
    size_t support =
               device->ops->row_weights(device, &kv, 0, &one, 1, (sp_normalizer){alpha}, NULL, n, weights),
           count = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)weights[i] - expected[i]) <= 1e-6)) {
            fail_msg("alpha %g: weight %zu is %g, not %g", (double)alpha, i, (double)weights[i], expected[i]);
        }
        count += expected[i] > 0;
    }
    assert_int_equal(support, count);
}

static void test_normalizers(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        float scores[5];
        double entmax15[5], sparsemax[5], alpha125[5];
    } cases[] = {
        {3, {-2, 0, .5f}, {0, .326007, .673993}, {0, .25, .75}, {.005339, .352110, .642551}},
        {4,
         {1, .5f, .25f, -1},
         {.584057, .264439, .151505, 0},
         {.75, .25, 0, 0},
         {.519264, .274580, .191341, .014815}},
        {5,
         {.7f, .3f, -.2f, -.9f, -1.4f},
         {.583515, .317963, .098522, 0, 0},
         {.7, .3, 0, 0, 0},
         {.503096, .303439, .145107, .038234, .010123}},
        {4,
         {.1f, .2f, .3f, .4f},
         {.177970, .222657, .272343, .327030},
         {.1, .2, .3, .4},
         {.199057, .230574, .265692, .304677}},
        {4, {0, 0, 0, 0}, {.25, .25, .25, .25}, {.25, .25, .25, .25}, {.25, .25, .25, .25}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        check_weights(1.5f, cases[i].scores, cases[i].n, cases[i].entmax15);
        check_weights(2.0f, cases[i].scores, cases[i].n, cases[i].sparsemax);
        check_weights(1.25f, cases[i].scores, cases[i].n, cases[i].alpha125);
    }
    static const float far[] = {1.3f, 20, 19.5f, 1}, equal[] = {2, 2, -5, 2}, two[] = {10, 0},
                       tie[] = {3, 1, .2f};
    check_weights(1.5f, far, 4, (const double[]){0, .673993, .326007, 0});
    check_weights(2.0f, far, 4, (const double[]){0, .75, .25, 0});
    check_weights(1.5f, equal, 4, (const double[]){1 / 3.0, 1 / 3.0, 0, 1 / 3.0});
    check_weights(2.0f, equal, 4, (const double[]){1 / 3.0, 1 / 3.0, 0, 1 / 3.0});
    check_weights(1.5f, two, 2, (const double[]){1, 0});
    check_weights(2.0f, two, 2, (const double[]){1, 0});
    check_weights(1.5f, tie, 3, (const double[]){1, 0, 0});
    check_weights(1.33f, (const float[]){-1, 0, .5f}, 3, (const double[]){.045982, .327632, .626386});
}

/* R10: d = 2, four tokens, causal */
static void attend_four(const char *json, float *out)
{
    static const float q[] = {1, 0, 0, 1, 1, 1, -1, 2}, k[] = {1, 0, 0, 1, 1, -1, 2, 1};
    static const float v[] = {1, 0, 0, 1, 2, 2, -1, 3};
    _Alignas(SP_ALIGNMENT) float page[4 * SP_TILE] = {0};
    const uint8_t *pages[] = {(const uint8_t *)page};
    memcpy(page, k, sizeof k);
    memcpy(page + 2 * SP_TILE, v, sizeof v);
    sp_error error;
    sp_plan plan;
    sp_plan_init(&plan, 0);
    make_plan(&plan, json, (where){.n_heads = 1, .rows = 4, .n_keys = 4});
    const sp_attend_args args = {.plan = &plan,
                                 .normalizer = parsed(json, 1).normalizer,
                                 .scale = 0.70710678f,
                                 .n_kv_heads = 1,
                                 .q = q,
                                 .kv = {.dtype = SP_F32,
                                        .n_keys = 4,
                                        .head_dim = 2,
                                        .value_dim = 2,
                                        .head_bytes = sizeof page,
                                        .pages = pages},
                                 .out = out};
    sp_attend_stats stats = {0};
    assert_ok(device->ops->attend(device, &args, &stats, &error), error);
    sp_plan_fini(&plan);
}

static void check_four(const char *json, int row, double x, double y)
{
    float out[8];
    attend_four(json, out);
    if (fabs((double)out[2 * row] - x) > 1e-6 || fabs((double)out[2 * row + 1] - y) > 1e-6) {
        fail_msg("%s row %d: %.6f %.6f, not %.6f %.6f", json, row, (double)out[2 * row],
                 (double)out[2 * row + 1], x, y);
    }
}

static void test_by_hand(void **state)
{
    (void)state;
    check_four("\"dense\"", 0, 1, 0);
    check_four("\"dense\"", 1, .330238, .669762);
    check_four("\"dense\"", 2, .796664, .796664);
    check_four("\"dense\"", 3, -.046660, 1.284099);
    check_four("{\"normalizer\":\"entmax15\"}", 1, .257939, .742061);
    check_four("{\"normalizer\":\"entmax15\"}", 2, .650799, .650799);
    check_four("{\"normalizer\":\"entmax15\"}", 3, -.066987, 1.133975);
    check_four("{\"normalizer\":\"sparsemax\"}", 1, .146447, .853553);
    check_four("{\"normalizer\":\"sparsemax\"}", 2, .5, .5);
    check_four("{\"normalizer\":\"sparsemax\"}", 3, 0, 1);
    check_four("{\"backend\":\"strided\",\"params\":{\"stride\":2}}", 3, -.145277, 1.405088);
    check_four("{\"backend\":\"fixed\",\"params\":{\"stride\":2,\"summary\":1}}", 2, .660477, 1.330238);
    check_four("{\"backend\":\"fixed\",\"params\":{\"stride\":2,\"summary\":1}}", 3, -.145277, 1.405088);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_strided_rows),    cmocka_unit_test(test_fixed_rows),
    cmocka_unit_test(test_two_steps_reach), cmocka_unit_test(test_decode_rows),
    cmocka_unit_test(test_interleaved),     cmocka_unit_test(test_edge_counts),
    cmocka_unit_test(test_strided_12288),   cmocka_unit_test(test_plans_are_cheap),
    cmocka_unit_test(test_normalizers),     cmocka_unit_test(test_by_hand),
};

int main(void)
{
    sp_error error;
    const sp_device_options options = {.n_threads = 1};
    if (sp_device_open("cpu", &options, &device, &error)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed ? 1 : 0;
}
