/* See guarded.h. */
#include "tests/support/guarded.h"

#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>

#define CANARY 12345.678f
#define MARGIN 19

guarded guarded_new(size_t n)
{
    guarded g = {.all = malloc((n + 2 * MARGIN) * sizeof(float)), .n = n};
    assert_non_null(g.all);
    for (size_t i = 0; i < n + 2 * MARGIN; i++) g.all[i] = CANARY;
    g.x = g.all + MARGIN;
    for (size_t i = 0; i < n; i++) g.x[i] = NAN;
    return g;
}

void guarded_poison(const guarded *g)
{
    for (size_t i = 0; i < MARGIN; i++) g->all[i] = g->x[g->n + i] = NAN;
}

void guarded_check(const guarded *g)
{
    for (size_t i = 0; i < MARGIN; i++) {
        assert_true(g->all[i] == CANARY);
        assert_true(g->x[g->n + i] == CANARY);
    }
}
