/* attend at every CPU level against double loops over an edge matrix that the test draws itself: all tile
 * kinds, groups with one and two ranges, rounds with masks, both KV types, four normalizers, odd sizes. Also
 * spec case R10, pages that no plan lists, empty rows, support counts, row_weights. */
#include "tests/kernels/attend_scene.h"

/* Weights of z over n keys by bisection: nothing in common with the Newton steps of the code under test. */
static void reference_weights(double alpha, double *z, size_t n)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) max = z[i] > max ? z[i] : max;
    if (alpha == 1) {
        for (size_t i = 0; i < n; i++) sum += exp(z[i] - max);
        for (size_t i = 0; i < n; i++) z[i] = exp(z[i] - max) / sum;
        return;
    }
    double low = -1, high = 0, e = 1 / (alpha - 1);
    for (size_t i = 0; i < n; i++) z[i] = (alpha - 1) * (z[i] - max);
    for (int step = 0; step < 60; step++) {
        double middle = (low + high) / 2, whole = 0;
        for (size_t i = 0; i < n; i++) whole += z[i] > middle ? pow(z[i] - middle, e) : 0;
        if (whole >= 1)
            low = middle;
        else
            high = middle;
    }
    for (size_t i = 0; i < n; i++) z[i] = z[i] > low ? pow(z[i] - low, e) : 0;
}

/* One row and head by double loops; returns the number of edges and of weights > 1e-9. */
static uint32_t reference_row(const scene *s, double alpha, uint32_t row, uint32_t head, double *out,
                              uint64_t *support)
{
    static double z[MAX_KEYS];
    static uint32_t keys[MAX_KEYS];
    uint32_t n = 0, kv = head / (s->heads / s->kv_heads);
    for (uint32_t key = 0; key < s->keys; key++) {
        if (!scene_edge(s, list_of(s, head), row, key)) continue;
        double dot = 0;
        for (uint32_t d = 0; d < s->head_dim; d++)
            dot += (double)s->q[((size_t)row * s->heads + head) * s->head_dim + d] *
                   (double)s->k[((size_t)key * s->kv_heads + kv) * s->head_dim + d];
        z[n] = dot * (double)(1 / sqrtf((float)s->head_dim));
        keys[n++] = key;
    }
    for (uint32_t d = 0; d < s->value_dim; d++) out[d] = 0;
    if (n) reference_weights(alpha, z, n);
    for (uint32_t i = 0; i < n; i++) {
        *support += z[i] > 1e-9;
        for (uint32_t d = 0; d < s->value_dim; d++)
            out[d] += z[i] * (double)s->v[((size_t)keys[i] * s->kv_heads + kv) * s->value_dim + d];
    }
    return n;
}

/* Largest difference over the rows from first on; counts empty rows. */
static double compare(const scene *s, float alpha, uint32_t first, const float *out, uint64_t *empty,
                      uint64_t *support)
{
    double worst = 0, expected[256];
    for (uint32_t row = first; row < s->rows; row++) {
        for (uint32_t head = 0; head < s->heads; head++) {
            const float *got = out + ((size_t)(row - first) * s->heads + head) * s->value_dim;
            *empty += reference_row(s, (double)alpha, row, head, expected, support) == 0;
            for (uint32_t d = 0; d < s->value_dim; d++) {
                double difference = fabs((double)got[d] - expected[d]);
                if (!(difference <= worst)) worst = difference; /* NaN is the worst */
            }
        }
    }
    return worst;
}

static const struct size {
    uint32_t heads, kv_heads, lists, rows, keys, head_dim, value_dim;
} sizes[] = {
    {6, 2, 1, 150, 150, 64, 64}, {4, 1, 2, 65, 65, 33, 17},  {2, 2, 2, 130, 130, 16, 80},
    {1, 1, 1, 1, 1, 1, 1},       {8, 1, 8, 64, 64, 128, 96},
};

static void check_scene(sp_device *device, scene *s, pattern kind, float alpha, test_random *random)
{
    float *out = sp_alloc((size_t)s->rows * s->heads * s->value_dim, sizeof *out);
    sp_attend_stats stats = {0};
    uint64_t empty = 0, support = 0;
    scene_open(s, random, kind, 2);
    scene_attend(s, device, alpha, 0, s->rows, s->keys, out, &stats);
    double worst = compare(s, alpha, 0, out, &empty, &support);
    /* bf16 dot products round q and the weights of softmax to 8 bits. */
    double tolerance = device->has_bf16 && s->dtype == SP_BF16 ? 6e-2 : alpha == 1 ? 1e-5 : 3e-5;
    if (!(worst < tolerance)) {
        fail_msg("%s pattern %d alpha %g %s %ux%u: off by %g", device->level, kind, (double)alpha,
                 sp_dtype_name(s->dtype), s->head_dim, s->value_dim, worst);
    }
    assert_int_equal(stats.rows_empty, empty);
    scene_close(s);
    sp_free(out);
}

static void test_all_levels_match_double_loops(void **state)
{
    (void)state;
    static const float alphas[] = {1, 1.5f, 2, 1.33f, 1.05f, 1.0000002f};
    test_random random = {11};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2, 0);
        for (pattern kind = 0; kind < PATTERNS; kind++)
            for (size_t i = 0; i < COUNT_OF(sizes); i++)
                for (size_t a = 0; a < COUNT_OF(alphas); a++) {
                    const struct size *z = &sizes[i];
                    scene s = {.heads = z->heads,
                               .kv_heads = z->kv_heads,
                               .lists = z->lists,
                               .rows = z->rows,
                               .keys = z->keys,
                               .head_dim = z->head_dim,
                               .value_dim = z->value_dim,
                               .dtype = (a + i) % 2 ? SP_BF16 : SP_F32};
                    check_scene(device, &s, kind, alphas[a], &random);
                    s = (scene){.heads = z->heads,
                                .kv_heads = z->kv_heads,
                                .lists = z->lists,
                                .rows = z->rows,
                                .keys = z->keys,
                                .head_dim = z->head_dim,
                                .value_dim = z->value_dim,
                                .dtype = (a + i) % 2 ? SP_F32 : SP_BF16};
                    if (kind == DENSE || kind == ROUNDS) check_scene(device, &s, kind, alphas[a], &random);
                }
        sp_device_close(device);
    }
}

/* Several spans of tiles, and of ranks of a group: the last rows of a long sequence. */
static void test_many_spans(void **state)
{
    (void)state;
    static const pattern kinds[] = {DENSE, STRIDED};
    static const float alphas[] = {1, 1.5f};
    test_random random = {12};
    for (size_t i = 0; i < 4; i++) {
        scene s = {.heads = 2,
                   .kv_heads = 1,
                   .lists = 1,
                   .rows = 2300,
                   .keys = 2300,
                   .head_dim = 16,
                   .value_dim = 16,
                   .dtype = SP_F32,
                   .groups = 2};
        float out[10 * 2 * 16];
        scene_open(&s, &random, kinds[i / 2], 2);
        for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
            sp_device *device = open_level(level, 2, 0);
            uint64_t empty = 0, support = 0;
            scene_attend(&s, device, alphas[i % 2], 2290, 10, 2300, out, NULL);
            double worst = compare(&s, alphas[i % 2], 2290, out, &empty, &support);
            if (!(worst < 3e-5)) fail_msg("%s, case %zu: off by %g", device->level, i, worst);
            sp_device_close(device);
        }
        scene_close(&s);
    }
}

/* Spec R10: four rows of two dimensions. */
static const float r10_q[] = {1, 0, 0, 1, 1, 1, -1, 2}, r10_k[] = {1, 0, 0, 1, 1, -1, 2, 1},
                   r10_v[] = {1, 0, 0, 1, 2, 2, -1, 3};

static void check_r10(sp_device *device, float alpha, const float *expected)
{
    float page[2 * SP_TILE * 2] = {0}, out[8];
    memcpy(page, r10_k, sizeof r10_k);
    memcpy(page + 2 * SP_TILE, r10_v, sizeof r10_v);
    const uint8_t *pages[] = {(const uint8_t *)page};
    sp_plan plan;
    sp_error error;
    sp_plan_init(&plan, 1 << 20);
    assert_ok(sp_plan_begin(&plan, &(sp_plan_shape){1, 1, 0, 4, 4, true}, &error), error);
    assert_ok(sp_plan_add_tile(&plan, 0, 0, 0, SP_TILE_CAUSAL, NULL, &error), error);
    assert_ok(sp_plan_end(&plan, &error), error);
    sp_attend_args args = {.plan = &plan,
                           .normalizer = {alpha},
                           .scale = 1 / sqrtf(2),
                           .n_kv_heads = 1,
                           .q = r10_q,
                           .kv = {SP_F32, 4, 2, 2, sizeof page, pages},
                           .out = out};
    assert_ok(device->ops->attend(device, &args, NULL, &error), error);
    assert_float_equal(out[0], 1, 0);
    assert_float_equal(out[1], 0, 0);
    for (size_t i = 0; i < 6; i++) assert_float_equal(out[2 + i], expected[i], 1e-6);
    sp_plan_fini(&plan);
}

static void test_r10(void **state)
{
    (void)state;
    static const float softmax[] = {.330238f, .669762f, .796664f, .796664f, -.046660f, 1.284099f};
    static const float entmax15[] = {.257939f, .742061f, .650799f, .650799f, -.066987f, 1.133975f};
    static const float sparsemax[] = {.146447f, .853553f, .5f, .5f, 0, 1};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 1, 0);
        check_r10(device, 1, softmax);
        check_r10(device, 1.5f, entmax15);
        check_r10(device, 2, sparsemax);
        sp_device_close(device);
    }
}

/* NaN in every page that the plan doesn't list changes nothing, and entmax counts its support. */
static void test_unlisted_pages_are_never_read(void **state)
{
    (void)state;
    static const pattern kinds[] = {WINDOW, COLUMNS, STRIDED};
    static const float alphas[] = {1, 1.5f};
    test_random random = {5};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2, 0);
        for (size_t i = 0; i < 6; i++) {
            scene s = {.heads = 4,
                       .kv_heads = 2,
                       .lists = 1,
                       .rows = 400,
                       .keys = 400,
                       .head_dim = 24,
                       .value_dim = 40,
                       .dtype = i % 2 ? SP_BF16 : SP_F32};
            scene_open(&s, &random, kinds[i % 3], 1);
            float clean[4 * 40], dirty[4 * 40];
            scene_attend(&s, device, alphas[i / 3], 399, 1, 400, clean, NULL);
            for (uint32_t t = 0; t < 7; t++) {
                bool listed = false;
                for (uint32_t key = t * SP_TILE; key < (t + 1) * SP_TILE && key < 400; key++)
                    listed |= scene_edge(&s, 0, 399, key);
                if (!listed)
                    memset(s.memory + t * s.kv_heads * head_bytes(&s), 0xff, s.kv_heads * head_bytes(&s));
            }
            scene_attend(&s, device, alphas[i / 3], 399, 1, 400, dirty, NULL);
            assert_memory_equal(clean, dirty, sizeof clean);
            assert_false(isnan(clean[0]));
            scene_close(&s);
        }
        sp_device_close(device);
    }
}

static void test_support_is_counted(void **state)
{
    (void)state;
    test_random random = {6};
    static const pattern kinds[] = {DENSE, ROUNDS};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 2, 0);
        for (size_t i = 0; i < 2; i++) {
            scene s = {.heads = 2,
                       .kv_heads = 1,
                       .lists = 1,
                       .rows = 200,
                       .keys = 200,
                       .head_dim = 32,
                       .value_dim = 32,
                       .dtype = SP_F32};
            scene_open(&s, &random, kinds[i], 2);
            float *out = sp_alloc((size_t)200 * 2 * 32, sizeof *out);
            uint64_t support[2] = {7, 0}, expected = 7, empty = 0;
            sp_plan plan;
            sp_error error;
            scene_plan(&s, &plan, 0, 200, 200);
            sp_attend_args args = scene_args(&s, &plan, 1.5f, out);
            args.support = support;
            assert_ok(device->ops->attend(device, &args, NULL, &error), error);
            compare(&s, 1.5f, 0, out, &empty, &expected);
            assert_in_range(support[0] + support[1], expected - 3,
                            expected + 3); /* weights of 1e-9 may go either way */
            sp_plan_fini(&plan);
            sp_free(out);
            scene_close(&s);
        }
        sp_device_close(device);
    }
}

/* A decode step reads each page of each KV head once; entmax reads V only where there is support. */
static void test_pages_are_counted(void **state)
{
    (void)state;
    test_random random = {9};
    sp_device *device = open_level(SP_CPU_REFERENCE, 2, 0);
    scene s = {.heads = 4,
               .kv_heads = 2,
               .lists = 1,
               .rows = 200,
               .keys = 200,
               .head_dim = 8,
               .value_dim = 8,
               .dtype = SP_BF16};
    scene_open(&s, &random, DENSE, 8);
    for (int entmax = 0; entmax < 2; entmax++) {
        float out[4 * 8];
        sp_attend_stats stats = {.k_pages = 100};
        scene_attend(&s, device, entmax ? 2 : 1, 199, 1, 200, out, &stats);
        assert_int_equal(stats.k_pages, 100 + 2 * 4);
        assert_int_equal(stats.rows_empty, 0);
        assert_in_range(stats.v_pages, entmax ? 2 : 8, entmax ? 7 : 8);
        assert_true(stats.seconds > 0);
    }
    scene_close(&s);
    sp_device_close(device);
}

static void test_row_weights(void **state)
{
    (void)state;
    test_random random = {8};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        sp_device *device = open_level(level, 1, 0);
        scene s = {.heads = 2,
                   .kv_heads = 2,
                   .lists = 1,
                   .rows = 150,
                   .keys = 150,
                   .head_dim = 48,
                   .value_dim = 48,
                   .dtype = SP_F32};
        scene_open(&s, &random, DENSE, 2);
        for (uint32_t row = 0; row < 150; row += 37) {
            float weights[150];
            double z[150];
            uint32_t keys[150], n = 0;
            for (uint32_t key = 0; key <= row; key += 1 + row % 3) keys[n++] = key;
            sp_kv_view kv = {SP_F32, 150, 48, 48, head_bytes(&s), s.pages};
            size_t got = device->ops->row_weights(device, &kv, 1, s.q + (row * 2 + 1) * 48, 0.25f,
                                                  (sp_normalizer){1.5f}, row % 3 ? keys : NULL, n, weights);
            size_t expected = 0;
            for (uint32_t i = 0; i < n; i++) {
                z[i] = 0;
                for (uint32_t d = 0; d < 48; d++)
                    z[i] +=
                        0.25 * (double)s.q[(row * 2 + 1) * 48 + d] * (double)s.k[(keys[i] * 2 + 1) * 48 + d];
            }
            reference_weights(1.5, z, n);
            for (uint32_t i = 0; i < n; i++) {
                assert_float_equal(weights[i], z[i], 1e-5);
                expected += z[i] > 0;
            }
            assert_int_equal(got, expected);
        }
        scene_close(&s);
        sp_device_close(device);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_r10),
    cmocka_unit_test(test_all_levels_match_double_loops),
    cmocka_unit_test(test_many_spans),
    cmocka_unit_test(test_unlisted_pages_are_never_read),
    cmocka_unit_test(test_pages_are_counted),
    cmocka_unit_test(test_support_is_counted),
    cmocka_unit_test(test_row_weights),
};
TEST_MAIN(tests)
