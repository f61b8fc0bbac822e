/* The numbers of a head, added row by row (engine/graph/head.c) and turned into ratios at the end.
 *
 * With A the gold weights every share is sum(A D) / sum(A) with D the 0/1 pattern: self j = i; previous
 * j = i - 1; sink j = 0; duplicate j < i with the same token; induction 1 <= j <= i with token[j - 1] =
 * token[i] (the "mul" score of TransformerLens' detect_head). Tests: tests/unit/engine/test_graph_head.c,
 * tests/http/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_RECORD_H
#define SPARSED_ENGINE_GRAPH_RECORD_H

#include "engine/graph/slice.h"

/* Of one row, or of all rows so far. */
typedef struct sp_head_sums {
    uint64_t gold, pred, both, after, pairs, rows, exact, empty, max_degree;
    double weight, both_weight, distance, entropy; /* sums of gold weights, of weight |i - j|, of -w ln w */
    double self, previous, sink, duplicate, induction;
} sp_head_sums;

/* Adds one gold edge. tokens (n) or NULL. */
void sp_sums_edge(sp_head_sums *sums, uint32_t query, uint32_t key, float weight, bool predicted,
                  const int32_t *tokens);
/* The row's edges are in: sets what counts rows. */
void sp_sums_end_row(sp_head_sums *row, uint64_t pairs, uint64_t pred);
void sp_sums_add(sp_head_sums *sums, const sp_head_sums *row);
void sp_record_finish(const sp_head_sums *sums, sp_head_record *out);

#endif
