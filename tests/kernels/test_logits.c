/* Loops over logits against naive ones in double, for sizes off the lanes' multiple, and level against level,
 * bit by bit. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/logits.h"

#define MOST 3001

static const size_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 100, 2999, MOST};

static void fill(test_random *random, size_t n, float *x, uint8_t *allowed)
{
    test_random_fill(random, x, n, 30.0f);
    for (size_t i = 0; i < n; i++) {
        if (test_random_below(random, 4) == 0) x[i] = (float)(int)x[i]; /* equals */
        if (test_random_below(random, 50) == 0) x[i] -= 200;
        allowed[i] = test_random_below(random, 3) > 0;
    }
    allowed[test_random_below(random, (uint32_t)n)] = 1;
}

static void test_against_double(void **state)
{
    (void)state;
    static float x[MOST];
    static uint8_t allowed[MOST];
    test_random random = {.state = 1};
    for (size_t round = 0; round < 50 * COUNT_OF(sizes); round++) {
        size_t n = sizes[round % COUNT_OF(sizes)], best = n;
        float max = 0, top = -INFINITY;
        double sum = 0;
        fill(&random, n, x, allowed);
        for (size_t i = 0; i < n; i++) {
            top = fmaxf(top, x[i]);
            if (allowed[i] && (best == n || x[i] > x[best])) best = i;
        }
        for (size_t i = 0; i < n; i++) sum += exp(fmax((double)x[i] - (double)top, -87));
        assert_true(sp_logits_max(n, x, &max));
        assert_true(max == top);
        double got = sp_logits_sum_exp(n, x, max);
        assert_true(fabs(got - sum) <= 4e-7 * sum);
        assert_int_equal(sp_logits_best(n, x, allowed), best);
    }
}

/* One bad number anywhere is found; a ban is no bad number to the choice. */
static void test_bad(void **state)
{
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    static float x[100];
    uint8_t allowed[100];
    float max;
    for (size_t at = 0; at < 100; at++) {
        for (size_t b = 0; b < COUNT_OF(bad); b++) {
            memset(x, 0, sizeof x);
            x[at] = bad[b];
            assert_false(sp_logits_max(100, x, &max));
        }
        for (size_t i = 0; i < 100; i++) x[i] = -INFINITY, allowed[i] = i >= at;
        assert_int_equal(sp_logits_best(100, x, allowed), at);
        x[99] = -1e30f;
        assert_int_equal(sp_logits_best(100, x, allowed), 99);
        x[99] = INFINITY;
        assert_int_equal(sp_logits_best(100, x, allowed), 99);
    }
}

static void test_levels_agree(void **state)
{
    (void)state;
    enum { N = MOST / SP_LOGITS_LANES * SP_LOGITS_LANES, LANES = SP_LOGITS_LANES };
    static float x[MOST + 1];
    static uint8_t allowed[MOST + 1];
    test_random random = {.state = 2};
    const sp_cpu_slots *plain = sp_cpu_slots_for(SP_CPU_REFERENCE);
    for (sp_cpu_isa level = 0; level <= sp_cpu_level(); level++) {
        const sp_cpu_slots *slots = sp_cpu_slots_for(level);
        for (size_t round = 0; round < 200; round++) {
            float best[4][LANES];
            int32_t most[2][LANES] = {0};
            double sums[2][LANES] = {{0}};
            fill(&random, MOST, x + 1, allowed + 1); /* off alignment */
            x[1 + test_random_below(&random, MOST)] = round % 3 ? 0.0f : INFINITY;
            x[1 + test_random_below(&random, MOST)] = -0.0f;
            for (size_t j = 0; j < LANES; j++)
                for (size_t i = 0; i < 4; i++) best[i][j] = i < 2 ? x[1] : -INFINITY;
            plain->logits_max(N, x + 1, best[0], most[0]);
            slots->logits_max(N, x + 1, best[1], most[1]);
            plain->logits_best(N, x + 1, allowed + 1, best[2]);
            slots->logits_best(N, x + 1, allowed + 1, best[3]);
            assert_memory_equal(best[0], best[1], sizeof best[0]);
            assert_memory_equal(best[2], best[3], sizeof best[2]);
            assert_memory_equal(most[0], most[1], sizeof most[0]);
            if (round % 3 == 0) continue;
            plain->logits_exp(N, x + 1, 60, sums[0]);
            slots->logits_exp(N, x + 1, 60, sums[1]);
            assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        }
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_double), cmocka_unit_test(test_bad),
                                          cmocka_unit_test(test_levels_agree)};
TEST_MAIN(tests)
