/* What predictors of attention graphs are composed of: the slots of sp_ops that work on projected vectors.
 *
 * Projected keys k' of a sequence and layer lie in pages of 64 positions beside the KV pages. For map g and
 * key tile t, pages[t] + g * map_bytes holds a tile of rank x 64 numbers, laid out so that lanes run across
 * keys:  SP_F32: [rank][64]   SP_BF16: [ceil(rank / 2)][64][2], an odd rank padded with zero.
 * Head h reads map g = h / (n_heads / n_maps). Positions >= n_keys are never read as edges.
 * q' stays float32 (rows, n_heads, rank); with bf16 keys q' is rounded to bf16 once a row, so that decoding
 * and prefill select alike. As everywhere, a row's result depends on that row and the keys alone. Tests:
 * tests/kernels/test_predict.c, tests/kernels/test_assign.c, tests/kernels/test_sets.c */
#ifndef SPARSED_KERNELS_PREDICT_H
#define SPARSED_KERNELS_PREDICT_H

#include "kernels/plan.h"
#include "kernels/tensor.h"

/* Projected keys. */
typedef struct sp_code_view {
    sp_dtype dtype; /* SP_F32 or SP_BF16 */
    uint32_t n_keys, rank, n_maps;
    size_t map_bytes;
    const uint8_t *const *pages; /* (ceil(n_keys / 64)) */
} sp_code_view;

typedef struct sp_project_args {
    size_t rows;
    uint32_t n_in;       /* heads of x */
    uint32_t n_maps;     /* a multiple of n_in: map m reads head m / (n_maps / n_in) */
    uint32_t dim, rank;  /* of a head of x; of the result */
    const float *x;      /* (rows, n_in, dim) */
    const float *weight; /* (n_maps, dim, rank) */
    const float *bias;   /* (n_maps, rank) */
    float *out;          /* (rows, n_maps, rank) */
} sp_project_args;

/* L2: squared Euclid. COSINE: 1 - cos, a zero vector has no edge. DOT: larger is nearer. */
typedef enum sp_metric { SP_METRIC_L2, SP_METRIC_EUCLIDEAN, SP_METRIC_COSINE, SP_METRIC_DOT } sp_metric;

/* The allowed keys of row r (query position + r): key <= query where causal, key < keys.n_keys. */
typedef struct sp_scan_args {
    uint32_t rows, n_heads, position;
    bool causal;
    sp_metric metric;
    const float *q; /* (rows, n_heads, rank) projected */
    sp_code_view keys;
    /* scan_mask: edge where the distance is below thresholds[head], DOT: where the product is above; strict
     */
    const float *thresholds; /* (n_heads) */
    uint64_t *words; /* (n_heads, rows, ceil(n_keys / 64)): all allowed keys that pass, one bit each */
    /* scan_top: the `keep` best keys, ties to the lower position, of the allowed keys outside of
     * [0, first) and the window abs(query - key) <= radius (has_window) */
    uint32_t keep, first, radius;
    bool has_window;
    uint32_t *best;   /* (n_heads, rows, keep) key positions, ascending */
    uint32_t *n_best; /* (n_heads, rows) how many: fewer than keep where there are fewer */
} sp_scan_args;

typedef struct sp_assign_args {
    size_t rows;
    uint32_t n_maps, rank, n_centroids, top; /* top 1..4, <= n_centroids */
    const float *x;                          /* (rows, n_maps, rank) projected */
    const float *centroids; /* (n_maps, n_centroids, rank), maps centroid_stride numbers apart */
    size_t centroid_stride;
    uint16_t *ids; /* (rows, n_maps, top): nearest first (squared Euclid), ties to the lower id */
} sp_assign_args;

/* Keys kept as ids of centroids: key tile t is (n_runs, n_heads, 64, 4) numbers at id_pages[t], of which the
 * first n_ids of each four are used. */
typedef struct sp_match {
    uint32_t run, head, id;
} sp_match;

typedef struct sp_match_args {
    uint32_t n_keys, n_heads, n_ids;
    const uint16_t *const *id_pages; /* (ceil(n_keys / 64)) */
    size_t n_matches;
    const sp_match *matches; /* (n_matches) */
    uint64_t *words;         /* (n_matches, ceil(n_keys / 64)): keys that have the id in this run and head */
    uint32_t *counts;        /* (n_matches): how many */
} sp_match_args;

/* Keys kept as sets: key tile t has words of 64 bits at pages[t]; bit i of word s: key 64 t + i is in set s.
 * What a page says of keys >= n_keys is not read. */
typedef struct sp_set_view {
    uint32_t n_keys;
    const uint64_t *const *pages; /* (ceil(n_keys / 64)) */
} sp_set_view;

typedef struct sp_set_args {
    sp_set_view view;
    size_t n;
    const uint32_t *sets; /* (n) */
    uint64_t *words;      /* (n, ceil(n_keys / 64)): the keys of each set, one bit each */
    uint32_t *counts;     /* (n): how many */
} sp_set_args;

/* A set to be listed, with which of its keys are in others too. */
typedef struct sp_set_list {
    uint32_t n_tiles, count; /* of words; keys of the set */
    const uint64_t *words;   /* (n_tiles) */
    uint32_t *keys;          /* (count) ascending; NULL: not wanted */
    uint32_t n_others;
    const uint32_t *others;    /* (n_others) rows of all_words */
    const uint64_t *all_words; /* (any, n_tiles) */
    uint64_t *shared;          /* (n_others, ceil(count / 64)): bit r: key r of the list is in that set too */
} sp_set_list;

#endif
