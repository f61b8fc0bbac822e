/* The worked cases of predicted graphs: bins (R8), distances, bins, centroids and routing of four queries and
 * keys (R9), blocks by centroids (R11), and that entmax inside a graph that holds the gold edges is entmax
 * (R3). The maps are the identity; every matrix is written out. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/attention/codes.h"

static sp_device *device;

static float *copied(const float *values, size_t n)
{
    float *copy = sp_alloc(n, sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, values, n * sizeof *copy);
    return copy;
}

static void identity(sp_fit_set *set, sp_fit_type type, uint32_t size, uint32_t d, const float *centroids,
                     uint32_t n_centroids)
{
    static const float maps[2][4] = {{1}, {1, 0, 0, 1}}, zeros[2] = {0};
    *set = (sp_fit_set){.type = type, .size = size, .rank = d, .n_k_maps = 1, .shared = true};
    set->q_weight = copied(maps[d - 1], (size_t)d * d);
    set->k_weight = copied(maps[d - 1], (size_t)d * d);
    set->q_bias = copied(zeros, d);
    set->k_bias = copied(zeros, d);
    if (!n_centroids) return;
    set->n_centroids = 1;
    set->centroids = sp_alloc_zero(1, sizeof *set->centroids);
    assert_non_null(set->centroids);
    *set->centroids =
        (sp_fit_table){.size = n_centroids, .runs = 1, .values = copied(centroids, (size_t)n_centroids * d)};
}

/* One layer and head: default maps and blocks of one token, the same centroids for both. */
static sp_fit *new_fit(uint32_t d, const float *centroids, uint32_t n_centroids)
{
    sp_fit *fit = sp_alloc_zero(1, sizeof *fit);
    assert_non_null(fit);
    *fit = (sp_fit){.n_layers = 1, .n_heads = 1, .head_dim = d};
    fit->layers = sp_alloc_zero(2, sizeof *fit->layers);
    fit->layers[0].sets = sp_alloc_zero(2, sizeof(sp_fit_set));
    assert_non_null(fit->layers[0].sets);
    fit->layers[0].n_sets = 2;
    identity(&fit->layers[0].sets[0], SP_FIT_DEFAULT, 0, d, centroids, n_centroids);
    identity(&fit->layers[0].sets[1], SP_FIT_BLOCK, 1, d, centroids, n_centroids);
    return fit;
}

/* The edges of n queries and keys must be the rows, written "1010/0101". */
static void check(sp_fit *fit, const char *params, const float *q, const float *k, uint32_t n,
                  const char *rows)
{
    char json[256], got[80];
    sp_error error;
    sp_attention attention;
    sp_codes *codes;
    sp_plan plan;
    uint32_t keys[8];
    size_t used = 0;
    const sp_attention_host host = {.n_heads = 1, .model_normalizer = {.alpha = 1.5f}};
    snprintf(json, sizeof json, "{\"backend\":%s,\"window\":0,\"global_first\":0}}", params);
    assert_ok(sp_attention_parse(json, strlen(json), &host, &attention, &error), error);
    assert_ok(sp_attention_resolve(&attention, fit, 0, 1, SP_ATTEND_SELF, &error), error);
    const sp_fit *const fits[] = {fit};
    const sp_codes_options options = {.device = device,
                                      .n_heads = 1,
                                      .n_kv_heads = 1,
                                      .head_dim = fit->head_dim,
                                      .dtype = SP_F32,
                                      .max_keys = 64,
                                      .fits = fits,
                                      .n_fits = 1,
                                      .own_pages = true};
    assert_ok(sp_codes_open(&options, &codes, &error), error);
    assert_true(sp_codes_select(codes, &attention, fit, 0, SP_ATTEND_SELF));
    sp_codes_append(codes, 0, n, k);
    sp_plan_request request = {.attention = &attention,
                               .rows = n,
                               .n_keys = n,
                               .n_heads = 1,
                               .n_kv_heads = 1,
                               .device = device,
                               .q = q,
                               .whole_q = q,
                               .whole_rows = n};
    sp_codes_attach(codes, n, &request);
    sp_plan_init(&plan, 0);
    assert_ok(sp_attention_plan(&request, &plan, &error), error);
    assert_ok(sp_plan_validate(&plan, &error), error);
    for (uint32_t i = 0; i < n; i++) {
        size_t found = sp_plan_row(&plan, 0, i, keys), at = 0;
        if (i) got[used++] = '/';
        for (uint32_t j = 0; j < n; j++) {
            bool has = at < found && keys[at] == j;
            got[used++] = has ? '1' : '0';
            at += has;
        }
    }
    got[used] = 0;
    if (strcmp(got, rows) != 0) fail_msg("%s: %s, not %s", params, got, rows);
    sp_plan_fini(&plan);
    sp_codes_close(codes);
}

#define FINDER(text) "\"sparsefinder\",\"params\":{" text

/* Which of seven numbers share a bin: rows of the matrix of these bins. */
static void check_bins(const char *params, uint32_t n, const int *bins)
{
    static const float x[] = {.9f, -1.2f, .1f, 2, -.3f, .4f, -2.5f};
    char rows[80];
    size_t used = 0;
    sp_fit *fit = new_fit(1, NULL, 0);
    for (uint32_t i = 0; i < n; i++) {
        if (i) rows[used++] = '/';
        for (uint32_t j = 0; j < n; j++) rows[used++] = bins[i] == bins[j] ? '1' : '0';
    }
    rows[used] = 0;
    check(fit, params, x, x, n, rows);
    sp_fit_close(fit);
}

static void test_r8(void **state)
{
    (void)state;
    check_bins(FINDER("\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":3"), 7,
               (const int[]){1, 0, 1, 2, 0, 1, 0});
    check_bins(FINDER("\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":4"), 7,
               (const int[]){2, 0, 1, 3, 1, 2, 0});
    check_bins(FINDER("\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":2"), 5,
               (const int[]){1, 0, 0, 1, 0});
    check_bins(FINDER("\"grouping\":\"bucket\",\"bins\":\"fixed\",\"buckets\":4"), 7,
               (const int[]){3, 0, 2, 3, 1, 2, 0});
}

static const float q9[] = {.1f, 2, .9f, -1, -.5f, 0, 1.5f, .7f};
static const float k9[] = {.2f, 1.1f, -.4f, -2, .8f, .3f, 2, -.1f};

static void test_r9(void **state)
{
    (void)state;
    static const float means[] = {0, 1.5f, 1, -.5f, -.5f, -1}, two[] = {0, 1, 1, 0},
                       four[] = {0, 1, 1, 0, 0, 1, 1, 0};
    sp_fit *fit = new_fit(2, means, 3);
    check(fit, FINDER("\"metric\":\"l2\",\"threshold\":1.5,\"grouping\":\"distance\""), q9, k9, 4,
          "1000/0000/0000/0011");
    check(fit, FINDER("\"metric\":\"euclidean\",\"threshold\":1.5,\"grouping\":\"distance\""), q9, k9, 4,
          "1000/0011/1010/1011");
    check(fit, FINDER("\"metric\":\"cosine\",\"threshold\":0.5,\"grouping\":\"distance\""), q9, k9, 4,
          "1000/0101/0000/1011");
    check(fit, FINDER("\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":2"), q9, k9, 4,
          "1110/0111/1101/1011");
    check(fit, FINDER("\"grouping\":\"cluster\",\"top\":1"), q9, k9, 4, "1000/0011/0100/0011");
    check(fit, FINDER("\"grouping\":\"cluster\",\"top\":2"), q9, k9, 4, "1111/1111/1111/1111");
    sp_fit_close(fit);
    fit = new_fit(2, two, 2); /* each mean takes 4 div 2 + 1 */
    check(fit, "\"routing\",\"params\":{\"clusters\":2", q9, k9, 4, "1011/0000/1011/1011");
    sp_fit_close(fit);
    fit = new_fit(2, four, 4); /* 4 div 4 + 1; the second pair of means finds everything taken */
    check(fit, "\"routing\",\"params\":{\"clusters\":4", q9, k9, 4, "1010/0001/0000/1010");
    sp_fit_close(fit);
}

/* The nearest of one row with row budgets: rows 0 and 3 of R9's squared distances .82 16.25 3.38 8.02 and
 * 1.85 10.9 .65 .89. */
static void test_budgets(void **state)
{
    (void)state;
    sp_fit *fit = new_fit(2, NULL, 0);
    check(fit, FINDER("\"metric\":\"l2\",\"keep\":2,\"grouping\":\"distance\""), q9, k9, 4,
          "1010/0011/1010/0011");
    check(fit, FINDER("\"metric\":\"l2\",\"keep\":4,\"grouping\":\"distance\""), q9, k9, 4,
          "1111/1111/1111/1111");
    sp_fit_close(fit);
}

static void test_r11(void **state)
{
    (void)state;
    static const float means[] = {0, 1.5f, 1, -.5f, -.5f, -1};
    sp_fit *fit = new_fit(2, means, 3);
    check(fit, FINDER("\"grouping\":\"block\",\"block\":1,\"select\":\"centroid\",\"keep\":1"), q9, k9, 4,
          "1000/0010/0100/1000");
    check(fit, FINDER("\"grouping\":\"block\",\"block\":1,\"select\":\"centroid\",\"keep\":2"), q9, k9, 4,
          "1010/0011/1010/0011");
    sp_fit_close(fit);
}

/* Weights of one row over some keys of scores -.707107, 1.414214, -2.121320, 0. */
static void check_row(const uint32_t *keys, size_t n, const float *expected)
{
    float pages[128] = {-.707107f, 1.414214f, -2.121320f, 0}, weights[4];
    const float one = 1;
    const uint8_t *const page = (const uint8_t *)pages;
    const sp_kv_view kv = {.dtype = SP_F32,
                           .n_keys = 4,
                           .head_dim = 1,
                           .value_dim = 1,
                           .head_bytes = sizeof pages,
                           .pages = &page};
    device->ops->row_weights(device, &kv, 0, &one, 1.0f, (sp_normalizer){1.5f}, keys, n, weights);
    for (size_t i = 0; i < n; i++) assert_true(fabsf(weights[i] - expected[i]) < 1e-6f);
}

static void test_r3(void **state)
{
    (void)state;
    check_row(NULL, 4, (const float[]){0, .933013f, 0, .066987f});
    check_row((const uint32_t[]){1, 3}, 2, (const float[]){.933013f, .066987f});
    check_row((const uint32_t[]){0, 1, 2}, 3, (const float[]){0, 1, 0});
    check_row((const uint32_t[]){0, 2, 3}, 3, (const float[]){.257939f, 0, .742061f});
}

int main(void)
{
    const sp_device_options options = {.n_threads = 1};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_r3), cmocka_unit_test(test_r8),
                                       cmocka_unit_test(test_r9), cmocka_unit_test(test_budgets),
                                       cmocka_unit_test(test_r11)};
    if (sp_device_open("cpu", &options, &device, NULL) != SP_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed ? 1 : 0;
}
