/* Counting of gold and predicted edges, and the ratios of attention.md 1.10: recall = both / gold, precision = both /
 * predicted, sparsity = 1 - predicted / pairs, gold sparsity = 1 - gold / pairs. A row is exact when every gold edge is
 * predicted. Tests: tests/golden/test_attend.c, tests/unit/engine/test_metrics.c */
#include "engine/attention/metrics.h"

#include <stdlib.h>

/* qsort has no context: weights travel in the sorted items. */
typedef struct sp_weighted {
    float weight;
    uint32_t key;
} sp_weighted;

static int by_weight(const void *a, const void *b)
{
    const sp_weighted *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    return x->key < y->key ? -1 : 1;
}
