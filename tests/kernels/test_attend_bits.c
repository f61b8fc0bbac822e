/* A row's attention has the same bits however it is computed: any number of threads, any split of the rows
 * into chunks, alone as a decode step over the keys so far, with little scratch, beside other sequences, at
 * every CPU level. */
#include "tests/kernels/attend_scene.h"

static const float alphas[] = {1, 1.5f, 2, 1.25f};

typedef struct subject {
    scene s;
    sp_cpu_isa level;
    float alpha;
    float *whole; /* (rows, heads, value_dim): one thread, one chunk */
} subject;

static size_t row_floats(const scene *s)
{
    return (size_t)s->heads * s->value_dim;
}

static void expect_rows(const subject *x, const float *got, uint32_t position, uint32_t rows, const char *how)
{
    const float *expected = x->whole + position * row_floats(&x->s);
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = r * row_floats(&x->s);
        if (memcmp(got + at, expected + at, row_floats(&x->s) * sizeof *got) == 0) continue;
        fail_msg("%s: row %u differs (%s, alpha %g, %s)", how, position + r, sp_cpu_level_name(x->level),
                 (double)x->alpha, sp_dtype_name(x->s.dtype));
    }
}

static void check_threads(const subject *x, float *out)
{
    static const struct {
        size_t threads, scratch;
    } ways[] = {{2, 0}, {3, 0}, {2, 4096}, {3, 200000}};
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        sp_device *device = open_level(x->level, ways[i].threads, ways[i].scratch);
        scene_attend(&x->s, device, x->alpha, 0, x->s.rows, x->s.keys, out, NULL);
        expect_rows(x, out, 0, x->s.rows, "threads or scratch");
        sp_device_close(device);
    }
}

static void check_chunks(const subject *x, test_random *random, float *out)
{
    sp_device *device = open_level(x->level, 2, 0);
    for (uint32_t position = 0; position < x->s.rows;) {
        uint32_t rows = 1 + (uint32_t)test_random_below(random, 100);
        if (rows > x->s.rows - position) rows = x->s.rows - position;
        uint32_t keys = x->s.causal ? position + rows : x->s.keys; /* later keys don't exist yet */
        scene_attend(&x->s, device, x->alpha, position, rows, keys, out, NULL);
        expect_rows(x, out, position, rows, "chunk");
        position += rows;
    }
    sp_device_close(device);
}

static void check_decode(const subject *x, test_random *random, float *out)
{
    for (size_t threads = 1; threads <= 3; threads += 2) {
        sp_device *device = open_level(x->level, threads, 0);
        for (int i = 0; i < 6; i++) {
            uint32_t row = i ? (uint32_t)test_random_below(random, x->s.rows) : x->s.rows - 1;
            scene_attend(&x->s, device, x->alpha, row, 1, x->s.causal ? row + 1 : x->s.keys, out, NULL);
            expect_rows(x, out, row, 1, "one row alone");
        }
        sp_device_close(device);
    }
}

static void check(scene shape, pattern kind, sp_cpu_isa level, float alpha, test_random *random)
{
    subject x = {.s = shape, .level = level, .alpha = alpha};
    scene_open(&x.s, random, kind, 1.5f);
    x.whole = sp_alloc(x.s.rows, row_floats(&x.s) * sizeof *x.whole);
    float *out = sp_alloc(x.s.rows, row_floats(&x.s) * sizeof *out);
    sp_device *device = open_level(level, 1, 0);
    scene_attend(&x.s, device, alpha, 0, x.s.rows, x.s.keys, x.whole, NULL);
    sp_device_close(device);
    check_threads(&x, out);
    check_chunks(&x, random, out);
    check_decode(&x, random, out);
    sp_free(out);
    sp_free(x.whole);
    scene_close(&x.s);
}

/* Short sequences, every pattern, odd sizes. */
static void test_short(void **state)
{
    (void)state;
    test_random random = {3};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++)
        for (pattern kind = 0; kind < PATTERNS; kind++)
            for (size_t a = 0; a < COUNT_OF(alphas); a++) {
                scene s = {.heads = 6,
                           .kv_heads = 2,
                           .lists = kind % 2 ? 3 : 1,
                           .rows = 200,
                           .keys = 200,
                           .head_dim = a % 2 ? 32 : 21,
                           .value_dim = a % 2 ? 48 : 70,
                           .dtype = (a + kind) % 2 ? SP_BF16 : SP_F32};
                check(s, kind, level, alphas[a], &random);
            }
}

/* Several spans of 1,024 keys, so that merging and dealing out spans are exercised; rows only at the end. */
static void test_long(void **state)
{
    (void)state;
    test_random random = {4};
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level <= sp_cpu_level(); level++) {
        for (size_t a = 0; a < 4; a++) {
            scene s = {.heads = 3,
                       .kv_heads = 1,
                       .lists = 1,
                       .rows = 2300,
                       .keys = 2300,
                       .head_dim = 16,
                       .value_dim = 16,
                       .dtype = level % 2 ? SP_F32 : SP_BF16,
                       .groups = 2};
            subject x = {.s = s, .level = level, .alpha = alphas[a % 2]};
            scene_open(&x.s, &random, a / 2 ? STRIDED : DENSE, 1.5f);
            x.whole = sp_alloc(x.s.rows, row_floats(&x.s) * sizeof *x.whole);
            float *out = sp_alloc(x.s.rows, row_floats(&x.s) * sizeof *out);
            sp_device *one = open_level(level, 1, 0), *three = open_level(level, 3, 0);
            scene_attend(&x.s, one, x.alpha, 0, x.s.rows, x.s.keys, x.whole, NULL);
            for (uint32_t rows = 1; rows <= 40; rows += 13) {
                scene_attend(&x.s, three, x.alpha, 2300 - rows, rows, 2300, out, NULL);
                expect_rows(&x, out, 2300 - rows, rows, "few rows, spans dealt out");
            }
            check_decode(&x, &random, out);
            sp_device_close(one);
            sp_device_close(three);
            sp_free(out);
            sp_free(x.whole);
            scene_close(&x.s);
        }
    }
}

/* Sequences of one row, and some of several, at once: the bits and figures of one after another. Some are
 * long enough that their spans are dealt out, so that they run before the others. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 19 };
    static scene s[N];
    test_random random = {5};
    sp_error error;
    for (int i = 0; i < N; i++) {
        uint32_t keys = i % 5 == 4 ? 1500 : 1 + (uint32_t)test_random_below(&random, 300);
        s[i] = (scene){.heads = 6,
                       .kv_heads = 2,
                       .lists = 1,
                       .rows = keys,
                       .keys = keys,
                       .head_dim = 32,
                       .value_dim = i % 2 ? 32 : 48,
                       .dtype = i % 3 ? SP_BF16 : SP_F32};
        scene_open(&s[i], &random, (pattern)(i % PATTERNS), 1.5f);
    }
    for (int t = 0; t < 2 * SP_CPU_ISAS; t++) {
        if (t / 2 > (int)sp_cpu_level()) break;
        sp_device *device = open_level((sp_cpu_isa)(t / 2), t % 2 ? 3 : 2, 0);
        sp_attend_args args[N];
        sp_attend_stats stats[N] = {{0}};
        sp_plan plans[N];
        uint64_t support[2][N][6] = {{{0}}};
        float *out[N], *alone = sp_alloc(3 * 6 * 48, sizeof *alone);
        for (int i = 0; i < N; i++) {
            uint32_t rows = i % 7 == 6 && s[i].rows > 2 ? 3 : 1;
            out[i] = sp_alloc(rows * row_floats(&s[i]), sizeof *out[i]);
            memset(out[i], 0xff, rows * row_floats(&s[i]) * sizeof *out[i]);
            scene_plan(&s[i], &plans[i], s[i].rows - rows, rows, s[i].keys);
            args[i] = scene_args(&s[i], &plans[i], alphas[i % 4], out[i]);
            args[i].support = support[0][i];
        }
        assert_ok(device->ops->attend_many(device, N, args, stats, &error), error);
        for (int i = 0; i < N; i++) {
            sp_attend_args one = args[i];
            sp_attend_stats counted = {0};
            one.out = alone;
            one.support = support[1][i];
            assert_ok(device->ops->attend(device, &one, &counted, &error), error);
            assert_memory_equal(out[i], alone, plans[i].shape.rows * row_floats(&s[i]) * sizeof *alone);
            assert_int_equal(stats[i].rows_empty, counted.rows_empty);
            assert_int_equal(stats[i].k_pages, counted.k_pages);
            assert_int_equal(stats[i].v_pages, counted.v_pages);
            assert_true(stats[i].seconds > 0);
            assert_memory_equal(support[0][i], support[1][i], sizeof support[0][i]);
            sp_plan_fini(&plans[i]);
            sp_free(out[i]);
        }
        sp_free(alone);
        sp_device_close(device);
    }
    for (int i = 0; i < N; i++) scene_close(&s[i]);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_short),
    cmocka_unit_test(test_long),
    cmocka_unit_test(test_many),
};
TEST_MAIN(tests)
