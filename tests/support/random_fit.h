/* Random fits, queries and keys, for tests of what predicts from a fit.
 *
 * All numbers are multiples of small powers of two and so few bits long that float32 sums of their products
 * are exact in any order: edges must be equal to those of tests/support/finder.h, ties too. Owner: the
 * caller; sp_fit_close. Tests: tests/attention/test_predicted.c */
#ifndef SPARSED_TESTS_SUPPORT_RANDOM_FIT_H
#define SPARSED_TESTS_SUPPORT_RANDOM_FIT_H

#include "engine/sparsefinder/fit.h"

/* One layer, kinds self and cross: default maps (rank 4, 2 runs of 7 centroids, 5 more in centroids.5, 6
 * bins, thresholds, thresholds.90), dot (rank 6, k maps one a KV head), cluster9 and cluster70 (rank 5),
 * block16 and block7 (rank 2, 6 centroids). shared: the default maps are those of q. */
sp_fit *test_fit_new(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, bool shared, uint64_t seed);

/* Numbers in [-1.5, 1.5], multiples of 1/4. */
void test_finder_fill(float *x, size_t n, uint64_t seed);

#endif
