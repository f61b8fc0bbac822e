/* engine/graph/rank.h against a sort by insertion: the k-th largest, and the fewest that hold a mass, of rows
 * of every kind: random, ordered, all alike, mostly zeros. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/rank.h"
#include "tests/support/random.h"

enum { MOST = 700, KINDS = 6 };

static void fill(int kind, test_random *random, uint32_t n, float *weights)
{
    for (uint32_t i = 0; i < n; i++) {
        float drawn = (float)test_random_below(random, 1000000) / 1e6f;
        weights[i] = kind == 0   ? drawn
                     : kind == 1 ? (float)i
                     : kind == 2 ? (float)(n - i)
                     : kind == 3 ? 0.25f
                     : kind == 4 ? (i % 7 ? 0 : drawn)
                                 : (float)test_random_below(random, 3);
    }
}

/* Places by falling weight, equal ones by rising place. */
static void insert_all(const float *weights, uint32_t n, uint32_t *places)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && weights[places[at - 1]] < weights[i]; at--) places[at] = places[at - 1];
        places[at] = i;
    }
}

static void pack_all(const float *weights, uint32_t n, uint64_t *entries)
{
    for (uint32_t i = 0; i < n; i++) entries[i] = sp_rank_pack(weights[i], i);
}

static void check(int kind, uint32_t n, test_random *random)
{
    float weights[MOST];
    uint32_t places[MOST];
    uint64_t entries[MOST];
    double total = 0;
    fill(kind, random, n, weights);
    insert_all(weights, n, places);
    for (uint32_t i = 0; i < n; i++) total += (double)weights[i];
    for (uint32_t k = 1; k <= n; k += 1 + k / 5) {
        pack_all(weights, n, entries);
        uint64_t found = sp_rank_find(entries, n, k);
        assert_int_equal(sp_rank_place(found), places[k - 1]);
        assert_true(sp_rank_weight(found) == weights[places[k - 1]]);
    }
    for (int tenth = 1; tenth <= 11 && total > 0; tenth++) {
        double mass = total * tenth / 10 * 0.9999, sum = 0;
        uint32_t fewest = 0;
        while (fewest < n && sum < mass) sum += (double)weights[places[fewest++]];
        pack_all(weights, n, entries);
        uint64_t found = sp_rank_find_mass(entries, n, mass);
        if (tenth == 11)
            assert_true(found == 0);
        else
            assert_int_equal(sp_rank_place(found), places[fewest - 1]);
    }
    pack_all(weights, n, entries);
    sp_rank_sort(entries, n);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(sp_rank_place(entries[i]), places[i]);
}

static void test_rows(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 23, 24, 25, 26, 100, 333, MOST};
    test_random random = {11};
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t s = 0; s < COUNT_OF(sizes); s++) check(kind, sizes[s], &random);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
TEST_MAIN(tests)
