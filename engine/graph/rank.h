/* Private to engine/graph: the largest weights of a row without sorting it. Weights are not negative, so
 * their bits order as they do; with the place behind them every entry differs, and of equal weights the lower
 * place is the larger entry.
 *
 * Selection: Hoare's FIND (1961), for a mass with the sums of the parts instead of their counts; about 2 n
 * steps, whatever the row holds. Tests: tests/unit/engine/test_graph_rank.c */
#ifndef SPARSED_ENGINE_GRAPH_RANK_H
#define SPARSED_ENGINE_GRAPH_RANK_H

#include "kernels/base.h"

uint64_t sp_rank_pack(float weight, uint32_t place);
uint32_t sp_rank_place(uint64_t entry);
float sp_rank_weight(uint64_t entry);
/* Orders n entries by falling weight. */
void sp_rank_sort(uint64_t *entries, size_t n);
/* The k-th largest of n entries, 1 <= k <= n; their order changes. */
uint64_t sp_rank_find(uint64_t *entries, size_t n, size_t k);
/* The last of the fewest largest entries whose weights sum to at least mass > 0; 0 where all together do not:
 * no entry is below it. Their order changes. */
uint64_t sp_rank_find_mass(uint64_t *entries, size_t n, double mass);

#endif
