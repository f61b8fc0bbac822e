/* Keys kept as sets at every CPU level against plain loops: words and counts read from pages that hold
 * anything behind the last key, lists of any density, which keys two sets share. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/level.h"
#include "tests/support/random.h"

enum { SETS = 7, MOST = 3000, TILES = (MOST + 63) / 64 };

/* Sets from empty to full: set s holds a key with probability s / 6. Pages lie apart in memory. */
typedef struct scene {
    uint64_t memory[TILES][SETS + 3];
    const uint64_t *pages[TILES];
    bool has[SETS][TILES * 64];
} scene;

static void fill_scene(scene *s)
{
    test_random random = {5};
    memset(s, 0, sizeof *s);
    for (uint32_t t = 0; t < TILES; t++) {
        s->pages[t] = s->memory[(t * 5 + 3) % TILES];
        for (uint32_t i = 0; i < SETS; i++)
            for (uint32_t b = 0; b < 64; b++) {
                bool in = test_random_below(&random, SETS - 1) < i;
                s->has[i][t * 64 + b] = in;
                if (in) s->memory[(t * 5 + 3) % TILES][i] |= (uint64_t)1 << b;
            }
    }
}

/* keys, shared: one word more than there is room for, which stays as it is. */
static void check_list(const sp_device *device, const scene *s, const uint64_t *words, uint32_t n_keys,
                       uint32_t set, uint32_t count)
{
    static const uint32_t others[] = {6, 0, 2, 3};
    uint32_t keys[MOST + 1], tiles = (n_keys + 63) / 64, n = 0;
    uint64_t shared[COUNT_OF(others) * TILES + 1];
    size_t n_words = (count + 63) / 64;
    memset(keys, 0x77, sizeof keys);
    memset(shared, 0x77, sizeof shared);
    const sp_set_list list = {.n_tiles = tiles,
                              .count = count,
                              .words = words + set * tiles,
                              .keys = keys,
                              .n_others = COUNT_OF(others),
                              .others = others,
                              .all_words = words,
                              .shared = shared};
    device->ops->list_set(device, &list);
    for (uint32_t key = 0; key < n_keys; key++) {
        if (!s->has[set][key]) continue;
        assert_int_equal(keys[n], key);
        for (size_t o = 0; o < COUNT_OF(others); o++)
            assert_int_equal(shared[o * n_words + n / 64] >> n % 64 & 1, s->has[others[o]][key]);
        n++;
    }
    assert_int_equal(n, count);
    assert_int_equal(keys[n], 0x77777777);
    assert_int_equal(shared[COUNT_OF(others) * n_words], 0x7777777777777777);
    if (count % 64) assert_int_equal(shared[n_words - 1] >> count % 64, 0);
}

static void test_sets(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 63, 64, 65, 500, 512, 513, 2047, 2049, MOST};
    static const uint32_t sets[SETS] = {0, 1, 2, 3, 4, 5, 6};
    scene *s = malloc(sizeof *s);
    uint64_t *words = malloc(SETS * TILES * sizeof *words);
    assert_true(s && words);
    fill_scene(s);
    for (int level = 0; level <= (int)sp_cpu_level(); level++) {
        sp_device *device = open_level((sp_cpu_isa)level, 2);
        for (size_t i = 0; i < COUNT_OF(lengths); i++) {
            uint32_t n_keys = lengths[i], tiles = (n_keys + 63) / 64, counts[SETS];
            const sp_set_args args = {
                .view = {n_keys, s->pages}, .n = SETS, .sets = sets, .words = words, .counts = counts};
            device->ops->read_sets(device, &args);
            for (uint32_t set = 0; set < SETS; set++) {
                uint32_t n = 0;
                for (uint32_t key = 0; key < tiles * 64; key++) {
                    bool in = key < n_keys && s->has[set][key];
                    assert_int_equal(words[set * tiles + key / 64] >> key % 64 & 1, in);
                    n += in;
                }
                assert_int_equal(counts[set], n);
                check_list(device, s, words, n_keys, set, n);
            }
        }
        sp_device_close(device);
    }
    free(words);
    free(s);
}

/* Some sets only, in any order. */
static void test_some(void **state)
{
    (void)state;
    static const uint32_t sets[] = {5, 1};
    scene *s = malloc(sizeof *s);
    assert_non_null(s);
    fill_scene(s);
    sp_device *device = open_level(sp_cpu_level(), 2);
    uint64_t words[2 * 3];
    uint32_t counts[2];
    const sp_set_args args = {
        .view = {150, s->pages}, .n = 2, .sets = sets, .words = words, .counts = counts};
    device->ops->read_sets(device, &args);
    for (uint32_t key = 0; key < 150; key++)
        for (size_t i = 0; i < 2; i++)
            assert_int_equal(words[i * 3 + key / 64] >> key % 64 & 1, s->has[sets[i]][key]);
    sp_device_close(device);
    free(s);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_sets), cmocka_unit_test(test_some)};
TEST_MAIN(tests)
