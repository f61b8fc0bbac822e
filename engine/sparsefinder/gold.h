/* The graph that a fit learns to predict: the edges of dense attention, row by row.
 *
 * For entmax they are the keys with p > 0, found without a sort: only scores above the largest less
 * 1 / (alpha - 1) can have weight (kernels/normalizer.h). Softmax has no zeros: its graph is the fewest keys
 * that hold a stated share of the row (gold_mass), p as it is. Tests: tests/unit/engine/test_fit_parts.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_GOLD_H
#define SPARSED_ENGINE_SPARSEFINDER_GOLD_H

#include "kernels/normalizer.h"
#include "kernels/train.h"

typedef struct sp_gold_rule {
    sp_normalizer normalizer;
    double mass; /* softmax only */
} sp_gold_rule;

/* Edges of a row of n >= 1 scaled scores: keys, ascending, and p into keys and p (room for n); their number
 * is returned. scratch (n) is overwritten. */
size_t sp_gold_row(const sp_train_ops *ops, const sp_gold_rule *rule, const float *scores, size_t n,
                   uint32_t *keys, float *p, float *scratch);

#endif
