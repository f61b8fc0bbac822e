/* A unit: the query heads of one layer that train together, and their part of the sample.
 *
 * With one map of keys a KV head these are the query heads of that KV head, else one query head alone.
 * Maps take the sample's q and k; the true graph is that of the vectors that the model attends by, which are
 * others where q and k are those before the rotary embedding. Windows before n_train are trained on, the
 * others are held out. Owner: whoever opened it; one thread. Tests: tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_UNIT_H
#define SPARSED_ENGINE_SPARSEFINDER_UNIT_H

#include "engine/sparsefinder/gold.h"
#include "engine/sparsefinder/maps.h"
#include "engine/sparsefinder/sample.h"

typedef struct sp_unit {
    const sp_train_ops *ops;
    const sp_sample *sample;
    sp_gold_rule gold;
    uint32_t layer, first_head, n_heads, kv_head; /* layer within the sample */
    size_t n_train;                               /* windows; the others are held out */
    size_t stride;                                /* of padded rows of a window */
    /* of the windows trained on, about 8,192 tokens */
    sp_moments moments;
    float *numbers;                /* owns the moments */
    double *q_covariance;          /* (n_heads, dim, dim) of standardised inputs */
    double *k_covariance;          /* (dim, dim) */
    struct sp_unit_turned *turned; /* where the true graph needs other vectors than the maps; else NULL */
} sp_unit;

/* shared: queries and keys have one map and one standard. */
sp_status sp_unit_open(const sp_train_ops *ops, const sp_sample *sample, uint32_t layer, uint32_t first_head,
                       uint32_t n_heads, size_t n_train, bool shared, double gold_mass, sp_unit *out,
                       sp_error *error) SP_MUST_CHECK;
void sp_unit_close(sp_unit *unit);

/* Keys of a window to columns (dim, length) padded with zeros. */
void sp_unit_keys(const sp_unit *unit, size_t window, float *columns);
/* Query rows of a window of head (counted in the unit): to rows (n, dim) times factor. */
void sp_unit_queries(const sp_unit *unit, uint32_t head, size_t window, const uint32_t *rows, size_t n,
                     float factor, float *out);
/* (n, m) to (m, n): rows of out out_stride apart. */
void sp_transpose(size_t n, size_t m, const float *from, size_t from_stride, float *out, size_t out_stride);

/* True graphs of rows of one window, as sp_train_pairs takes them. */
typedef struct sp_unit_graph {
    size_t *begins;  /* (n + 1) */
    uint32_t *edges; /* keys */
    float *p;
    size_t capacity; /* of edges and p */
} sp_unit_graph;
/* Appends the edges of n rows (ascending positions, at most SP_UNIT_ROWS) of one head at graph->begins[at]
 * on; keys: the window's columns. scores ((SP_UNIT_ROWS + 1) stride) is left holding the rows' scaled scores
 * in its first n rows; queries (SP_UNIT_ROWS, dim) the rows of q times the scale. */
enum { SP_UNIT_ROWS = 32 };
void sp_unit_gold(const sp_unit *unit, uint32_t head, size_t window, const uint32_t *rows, size_t n,
                  const float *keys, float *queries, float *scores, sp_unit_graph *graph, size_t at);

#endif
