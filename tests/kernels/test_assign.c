/* Centroids of projected vectors at every CPU level against float64 loops: the nearest of them, ties and
 * numbers that are none, and the keys that took one of them. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/level.h"
#include "tests/support/random.h"

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

static void check_assign(const sp_assign_args *a)
{
    nearest *all = sp_alloc(a->n_centroids, sizeof *all);
    for (size_t r = 0; r < a->rows; r++) {
        for (uint32_t m = 0; m < a->n_maps; m++) {
            for (uint32_t c = 0; c < a->n_centroids; c++) {
                all[c] = (nearest){0, c};
                for (uint32_t d = 0; d < a->rank; d++) {
                    double t = (double)a->x[(r * a->n_maps + m) * a->rank + d] -
                               a->centroids[m * a->centroid_stride + (size_t)c * a->rank + d];
                    all[c].distance += t * t;
                }
            }
            qsort(all, a->n_centroids, sizeof *all, compare_nearest);
            for (uint32_t t = 0; t < a->top; t++)
                assert_int_equal(a->ids[(r * a->n_maps + m) * a->top + t], all[t].key);
        }
    }
    sp_free(all);
}

static void test_assign(void **state)
{
    (void)state;
    static const sp_assign_args cases[] = {
        {.rows = 1, .n_maps = 3, .rank = 16, .n_centroids = 32, .top = 2},
        {.rows = 70, .n_maps = 2, .rank = 8, .n_centroids = 5, .top = 4},
        {.rows = 150, .n_maps = 1, .rank = 3, .n_centroids = 1, .top = 1},
        {.rows = 40, .n_maps = 2, .rank = 130, .n_centroids = 100, .top = 3}};
    test_random random = {13};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_assign_args a = cases[i];
        a.centroid_stride = (size_t)a.n_centroids * a.rank + 7;
        size_t n_x = a.rows * a.n_maps * a.rank, n_c = a.n_maps * a.centroid_stride;
        float *x = sp_alloc(n_x, 4), *c = sp_alloc(n_c, 4);
        test_random_eighths(&random, x, n_x);
        test_random_eighths(&random, c, n_c);
        uint16_t *ids = sp_alloc(a.rows * a.n_maps * a.top, 2);
        a.x = x, a.centroids = c, a.ids = ids;
        for (int level = 0; level <= (int)sp_cpu_level(); level++) {
            sp_device *device = open_level((sp_cpu_isa)level, 2);
            device->ops->assign(device, &a);
            check_assign(&a);
            sp_device_close(device);
        }
        sp_free(x);
        sp_free(c);
        sp_free(ids);
    }
}

static void test_match(void **state)
{
    (void)state;
    enum { KEYS = 9000, M_HEADS = 3, M_RUNS = 2, TILES = (KEYS + 63) / 64, IDS = M_RUNS * M_HEADS * 64 * 4 };
    test_random random = {17};
    uint16_t *ids = sp_alloc((size_t)TILES * IDS, sizeof *ids);
    const uint16_t **pages = sp_alloc(TILES, sizeof *pages);
    for (size_t i = 0; i < (size_t)TILES * IDS; i++) ids[i] = (uint16_t)test_random_below(&random, 5);
    for (size_t t = 0; t < TILES; t++) pages[t] = ids + t * IDS;
    static const sp_match matches[] = {{0, 0, 0}, {0, 0, 4}, {1, 2, 3}, {1, 0, 65535}};
    uint64_t *words = sp_alloc(COUNT_OF(matches) * TILES, sizeof *words);
    uint32_t counts[COUNT_OF(matches)];
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 2);
        for (uint32_t n_ids = 1; n_ids <= 4; n_ids++) {
            sp_match_args args = {KEYS, M_HEADS, n_ids, pages, COUNT_OF(matches), matches, words, counts};
            memset(words, 0x55, COUNT_OF(matches) * TILES * sizeof *words);
            device->ops->match_ids(device, &args);
            for (size_t m = 0; m < COUNT_OF(matches); m++) {
                uint32_t n = 0;
                for (size_t key = 0; key < TILES * 64; key++) {
                    const uint16_t *four =
                        pages[key / 64] + ((matches[m].run * M_HEADS + matches[m].head) * 64 + key % 64) * 4;
                    bool want = false;
                    for (uint32_t i = 0; i < n_ids && key < KEYS; i++) want |= four[i] == matches[m].id;
                    assert_int_equal(words[m * TILES + key / 64] >> key % 64 & 1, want);
                    n += want;
                }
                assert_int_equal(counts[m], n);
            }
        }
        sp_device_close(device);
    }
    sp_free(ids);
    sp_free((void *)pages);
    sp_free(words);
}

/* Infinite and undefined distances come last, the lower id first; ids stay valid and distinct. */
static void test_assign_far(void **state)
{
    (void)state;
    float x[20 * 2], centroids[] = {INFINITY, 0, 0, 0, NAN, 0, 1, 0, -INFINITY, 0};
    for (size_t i = 0; i < COUNT_OF(x); i++) x[i] = 0;
    uint16_t ids[20 * 4];
    static const uint16_t want[] = {1, 3, 0, 2};
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 1);
        sp_assign_args args = {.rows = 20,
                               .n_maps = 1,
                               .rank = 2,
                               .n_centroids = 5,
                               .top = 4,
                               .x = x,
                               .centroids = centroids,
                               .ids = ids};
        device->ops->assign(device, &args);
        for (size_t r = 0; r < 20; r++) assert_memory_equal(ids + 4 * r, want, sizeof want);
        sp_device_close(device);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_assign),
    cmocka_unit_test(test_match),
    cmocka_unit_test(test_assign_far),
};
TEST_MAIN(tests)
