/* How evenly an attention by clusters spreads a sequence, for `measure`: counts of queries and of keys by
 * nearest centroid of the first run, per layer and head, and what follows from them when the sequence ends:
 *
 *   entropy     -sum p log p / log C, queries and keys apart; 1: all clusters are alike (arXiv 2109.12188)
 *   operations  sum over clusters of queries x keys, what attention inside of clusters multiplies without
 *               the causal rule; and C ceil(n / C)^2, what it would be were they balanced
 *
 * Owner: the sequence. Tests: tests/unit/engine/test_attention_metrics.c, tests/unit/engine/test_clusters.c
 */
#ifndef SPARSED_ENGINE_ATTENTION_CLUSTERS_H
#define SPARSED_ENGINE_ATTENTION_CLUSTERS_H

#include "engine/attention/attention.h"

typedef struct sp_clusters {
    uint32_t n_layers, n_heads, n_clusters;
    uint64_t *counts; /* (n_layers, n_heads, 2, n_clusters): queries, then keys; NULL: it has no clusters */
} sp_clusters;

/* Counts of a resolved attention; nothing where it does not group by clusters. SP_NO_MEMORY. */
sp_status sp_clusters_open(const sp_attention *attention, const sp_fit *fit, uint32_t n_layers,
                           uint32_t n_heads, sp_clusters *out, sp_error *error) SP_MUST_CHECK;
void sp_clusters_close(sp_clusters *clusters);
/* The most bytes that sp_clusters_open takes with any of these fits (entries may be NULL). */
size_t sp_clusters_bytes(const sp_fit *const *fits, size_t n_fits, uint32_t n_layers, uint32_t n_heads);

/* Counts rows of one layer; clusters may be NULL: nothing. q: (rows, n_heads, head_dim), k: (rows,
 * n_kv_heads, head_dim). SP_NO_MEMORY. */
sp_status sp_clusters_count(sp_clusters *clusters, sp_device *device, const sp_attention *attention,
                            const sp_fit *fit, uint32_t layer, uint32_t rows, uint32_t n_kv_heads,
                            const float *q, const float *k, sp_error *error) SP_MUST_CHECK;
/* Adds the sequence's figures to measures (n_layers, n_heads). */
void sp_clusters_fold(const sp_clusters *clusters, sp_head_measure *measures);

#endif
