/* Gold graph against plan: counting for `--metrics` and `measure`.
 *
 * Gold is the graph of dense attention with the same normalizer over the allowed keys: weights > 0 for
 * entmax; for softmax, which has no zeros, the fewest largest weights whose sum reaches 0.95 (ties to the
 * lower key). Tests: tests/golden/test_attend_golden.c, tests/unit/engine/test_attention_metrics.c */
#ifndef SPARSED_ENGINE_ATTENTION_METRICS_H
#define SPARSED_ENGINE_ATTENTION_METRICS_H

#include "engine/attention/attention.h"

#define SP_GOLD_MASS 0.95

/* Entropy of a clustering as a share of the largest: -sum p log p / log C, where p is the share of items in
 * each of C clusters. 1 for one cluster; NaN without items. */
double sp_cluster_entropy(const uint64_t *counts, size_t n_clusters);
/* Products of queries and keys if n items lay evenly in C clusters: C ceil(n / C)^2. */
uint64_t sp_balanced_operations(uint64_t n, uint64_t n_clusters);

/* Adds one valid row of one head. gold: dense weights of keys 0 .. n_allowed - 1; for softmax those outside
 * the gold graph become 0. predicted: the plan's n_predicted keys, ascending, below n_allowed. scratch: room
 * for n_allowed, used for softmax only, else NULL. */
void sp_measure_row(sp_head_measure *measure, sp_normalizer normalizer, float *gold, size_t n_allowed,
                    const uint32_t *predicted, size_t n_predicted, uint64_t *scratch);
/* Adds the rows that another measure counted. */
void sp_measure_add(sp_head_measure *sum, const sp_head_measure *more);
/* The integers and ratios as members of an open object: edges_gold .. rows_empty, recall, precision,
 * sparsity, sparsity_gold; 0/0 is null. */
void sp_measure_write(const sp_head_measure *measure, sp_json_writer *out);
/* Writes key: a / b, or null for b = 0. */
void sp_ratio_write(const char *key, double a, double b, sp_json_writer *out);

#endif
