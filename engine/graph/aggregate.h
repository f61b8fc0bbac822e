/* Graphs made of several heads: sums, maxima, and products over layers.
 *
 * A mix is a sparse matrix that grows head by head, row by row; it is bounded, and what passes the bound is
 * refused. Rollout (Abnar & Zuidema 2020) is the product over layers of (A_l + I) / 2, A_l the mean of a
 * layer's heads, later layers on the left: how much of each position's last state comes from which input.
 * With a cut each row keeps its top_k largest entries after every product; what is lost is 1 minus the row's
 * sum. Owner: whoever opened it. Tests: tests/unit/engine/test_graph_aggregate.c,
 * tests/http/test_graph_many.py */
#ifndef SPARSED_ENGINE_GRAPH_AGGREGATE_H
#define SPARSED_ENGINE_GRAPH_AGGREGATE_H

#include "engine/graph/query.h"

typedef struct sp_mix_row {
    uint32_t n;
    uint32_t *keys; /* (n) rising */
    float *weights; /* (n) */
    double mass;    /* what the row would hold without any cut */
} sp_mix_row;

typedef struct sp_mix {
    uint32_t n_query, n_key;
    uint32_t row_begin, row_end; /* rows that add and multiply fill: all, unless their owner wants fewer */
    sp_mix_row *rows;            /* (n_query) */
    uint64_t edges, max_edges;
} sp_mix;

/* Most bytes of a mix with so many edges, and of the work on it. */
size_t sp_mix_bytes(uint32_t n_query, uint64_t max_edges);
size_t sp_mix_work_bytes(uint32_t n_key);
/* Empty. SP_NO_MEMORY. */
sp_status sp_mix_open(sp_mix *mix, uint32_t n_query, uint32_t n_key, uint64_t max_edges,
                      sp_error *error) SP_MUST_CHECK;
void sp_mix_close(sp_mix *mix);
/* The identity. */
sp_status sp_mix_identity(sp_mix *mix, sp_error *error) SP_MUST_CHECK;
/* mix += factor * rows, or (largest) the larger of both. SP_TOO_LARGE naming "heads"; SP_CANCELLED. */
sp_status sp_mix_add(sp_mix *mix, const sp_rows *rows, double factor, bool largest,
                     bool (*stop)(void *context), void *context, sp_error *error) SP_MUST_CHECK;
/* out = left * right, each row cut to its top_k largest (0: all). A row's mass is what left's row sums to
 * over right's masses. SP_TOO_LARGE naming "top_k"; SP_CANCELLED. out is open and empty. */
sp_status sp_mix_multiply(const sp_mix *left, const sp_mix *right, uint32_t top_k, sp_mix *out,
                          bool (*stop)(void *context), void *context, sp_error *error) SP_MUST_CHECK;
/* To be read as any graph. */
sp_rows sp_mix_rows(const sp_mix *mix);

/* Edges of two graphs over the same positions. */
typedef struct sp_difference {
    uint64_t edges_a, edges_b, both;
} sp_difference;
sp_status sp_rows_compare(const sp_rows *a, const sp_rows *b, sp_difference *out,
                          sp_error *error) SP_MUST_CHECK;

/* counts[query label][key label] += edges, mass likewise += weights; labels (n_query), (n_key) numbers below
 * n_labels; counts and mass (n_labels, n_labels). */
sp_status sp_rows_label(const sp_rows *rows, const uint32_t *labels, uint32_t n_labels, uint64_t *counts,
                        double *mass, sp_error *error) SP_MUST_CHECK;

#endif
