/* Counts of clusters under a fit made by hand: identity maps, four centroids on the corners of a square, two
 * query heads that share keys. Case R13: ids 0, 0, 1, 2 of four have entropy .75. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "engine/attention/clusters.h"

enum { HEADS = 2, KV_HEADS = 1, DIM = 2, CLUSTERS = 4, ROWS = 4 };

static float q_weight[] = {1, 0, 0, 1, -1, 0, 0, 1}, q_bias[] = {0, 0, 0, 0}; /* head 1 mirrors x */
static float k_weight[] = {1, 0, 0, 1}, k_bias[] = {0, 0};
/* corners, the same of both heads: 0 (1, 1), 1 (1, -1), 2 (-1, 1), 3 (-1, -1) */
static float corners[] = {1, 1, 1, -1, -1, 1, -1, -1, 1, 1, 1, -1, -1, 1, -1, -1};

static sp_fit_table table = {.size = CLUSTERS, .runs = 1, .values = corners};
static sp_fit_set set = {.type = SP_FIT_CLUSTER,
                         .size = CLUSTERS,
                         .rank = DIM,
                         .n_k_maps = KV_HEADS,
                         .q_weight = q_weight,
                         .q_bias = q_bias,
                         .k_weight = k_weight,
                         .k_bias = k_bias,
                         .centroids = &table,
                         .n_centroids = 1};
static sp_fit_layer layers[2] = {{.sets = &set, .n_sets = 1}};
static const sp_fit fit = {.n_layers = 1, .n_heads = HEADS, .head_dim = DIM, .alpha = 1.5, .layers = layers};

/* (ROWS, HEADS, DIM): head 0 in corners 0, 0, 1, 2; head 1, mirrored, in 2, 2, 2, 2. */
static const float q[] = {.9f, .8f, .5f, .5f, 2, 1, .1f, 3, .4f, -.7f, 1, 1, -.3f, .2f, 2, 2};
/* (ROWS, KV_HEADS, DIM): corners 3, 3, 0, 1 */
static const float k[] = {-1, -2, -.1f, -.1f, 1, 1, 5, -1};

static sp_attention attention_of(const char *text)
{
    sp_attention attention;
    sp_error error = {0};
    const sp_attention_host host = {.n_heads = HEADS, .n_layers = 1, .model_normalizer = {1.5f}};
    assert_ok(sp_attention_parse(text, strlen(text), &host, &attention, &error), error);
    assert_ok(sp_attention_resolve(&attention, &fit, 0, 1, SP_ATTEND_SELF, &error), error);
    return attention;
}

static void test_counts(void **state)
{
    (void)state;
    sp_device *device;
    sp_clusters clusters;
    sp_error error = {0};
    sp_attention attention = attention_of(
        "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"clusters\":4,\"top\":2}}");
    assert_ok(sp_device_open("cpu", &(sp_device_options){.n_threads = 1}, &device, &error), error);
    assert_ok(sp_clusters_open(&attention, &fit, 1, HEADS, &clusters, &error), error);
    assert_int_equal(clusters.n_clusters, CLUSTERS);
    for (uint32_t row = 0; row < ROWS; row += 2) /* in two chunks */
        assert_ok(sp_clusters_count(&clusters, device, &attention, &fit, 0, 2, KV_HEADS,
                                    q + (size_t)row * HEADS * DIM, k + (size_t)row * KV_HEADS * DIM, &error),
                  error);
    static const uint64_t expected[] = {2, 1, 1, 0, 1, 1, 0, 2, 0, 0, 4, 0, 1, 1, 0, 2};
    for (size_t i = 0; i < COUNT_OF(expected); i++) assert_int_equal(clusters.counts[i], expected[i]);

    sp_head_measure measures[HEADS] = {{0}};
    sp_clusters_fold(&clusters, measures);
    assert_int_equal(measures[0].clusters, CLUSTERS);
    assert_int_equal(measures[0].sequences, 1);
    assert_true(fabs(measures[0].entropy_q - 0.75) < 1e-12 && fabs(measures[0].entropy_k - 0.75) < 1e-12);
    assert_true(measures[1].entropy_q == 0);
    assert_int_equal(measures[0].operations, 2 * 1 + 1 * 1); /* corner 0: 2 x 1, corner 1: 1 x 1 */
    assert_int_equal(measures[1].operations, 0);
    assert_int_equal(measures[0].operations_balanced, 4); /* four clusters of one */
    sp_clusters_close(&clusters);
    sp_device_close(device);
}

static void test_no_clusters(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\"window\"", "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\"}}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        sp_clusters clusters;
        sp_error error = {0};
        sp_attention attention = attention_of(texts[i]);
        assert_ok(sp_clusters_open(&attention, i ? &fit : NULL, 1, HEADS, &clusters, &error), error);
        assert_int_equal(clusters.n_clusters, i ? CLUSTERS : 0);
        sp_head_measure measures[HEADS] = {{0}};
        sp_clusters_fold(&clusters, measures); /* nothing was counted */
        assert_int_equal(measures[0].sequences, 0);
        sp_clusters_close(&clusters);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_no_clusters)};
TEST_MAIN(tests)
