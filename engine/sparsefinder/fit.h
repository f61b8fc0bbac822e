/* A fit in memory: the learned projections of Sparsefinder (Treviso et al. 2022, arXiv 2109.12188) and what
 * was measured on them, as the fit file holds it (engine/README.md, "The fit file").
 *
 * For every layer and kind of attention there are sets. A set is one affine map of queries a head and one of
 * keys (a head, or a KV head), x' = x W + b with W (head_dim, rank), and tables on the projected vectors:
 * centroids, bin boundaries, thresholds. The default set serves distance with other metrics than dot, bucket
 * and routing; dot, cluster C and block b may have sets with maps of their own.
 * Owner: sp_fit owns all arrays. Constant after open, readable from any thread. Tests:
 * tests/unit/engine/test_fit_file.c, tests/fuzz/fuzz_fit.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_H

#include "kernels/base.h"
#include "models/forward.h"

typedef enum sp_fit_type { SP_FIT_DEFAULT, SP_FIT_DOT, SP_FIT_CLUSTER, SP_FIT_BLOCK } sp_fit_type;

/* What a set holds of one size. */
typedef struct sp_fit_table {
    uint32_t size; /* centroids: C; bins: B; thresholds: the recall in per cent, 0 for the default */
    uint32_t runs; /* centroids only */
    float *values; /* centroids (H, runs, C, r), of a block set (H, runs, C, b r); bins (H, r, B - 1);
                      thresholds (H) */
} sp_fit_table;

typedef struct sp_fit_set {
    sp_fit_type type;
    uint32_t size;     /* CLUSTER: C; BLOCK: b; else 0 */
    uint32_t rank;     /* r */
    uint32_t n_k_maps; /* H, or one a KV head: then k' is computed and stored once a KV head */
    float *q_weight;   /* (H, d, r) */
    float *q_bias;     /* (H, r) */
    float *k_weight;   /* (n_k_maps, d, r); where the maps are shared a copy of q_weight */
    float *k_bias;     /* (n_k_maps, r) */
    bool shared;       /* the file has no k_proj */
    sp_fit_table *centroids, *bins, *thresholds; /* ascending by size; the table without a size in its name
                                                    comes first: size as its shape says, thresholds 0 */
    size_t n_centroids, n_bins, n_thresholds;
} sp_fit_set;

typedef struct sp_fit_layer {
    sp_fit_set *sets; /* by type, then size; none: the file has nothing for this layer and kind */
    size_t n_sets;
} sp_fit_layer;

typedef struct sp_fit {
    char model[65]; /* hex SHA-256 of the query and key projections (sp_fit_fingerprint); "": not stated */
    uint32_t n_layers, n_heads, head_dim;
    double alpha;     /* of the gold graph; 0 for softmax */
    double gold_mass; /* softmax: the mass its gold graph holds; else 0 */
    int64_t seed;
    char corpus[65];      /* hex SHA-256 of the text; "": not stated */
    uint32_t length;      /* longest window the maps were fitted on; 0: not stated */
    bool rope_pre;        /* q and k before the rotary embedding */
    sp_fit_layer *layers; /* (n_layers, 2): [layer][0] self and encoder, [layer][1] cross */
} sp_fit;

/* Reads a file. SP_NOT_FOUND, SP_DATA naming file and tensor. *out: sp_fit_close. */
sp_status sp_fit_open(const char *path, sp_fit **out, sp_error *error) SP_MUST_CHECK;
/* The same from bytes (they stay the caller's). one_layer: what `sparsed attend` takes; fingerprint and other
 * layers may be absent, counts are those of the tensors. */
sp_status sp_fit_read(const char *name, const void *bytes, size_t size, bool one_layer, sp_fit **out,
                      sp_error *error) SP_MUST_CHECK;
/* The same from tensors at hand. */
struct sp_weights;
sp_status sp_fit_from(const char *name, const struct sp_weights *weights, bool one_layer, sp_fit **out,
                      sp_error *error) SP_MUST_CHECK;
void sp_fit_close(sp_fit *fit);
/* Writes path anew (a temporary file, then rename). The same fit gives the same bytes. */
sp_status sp_fit_write(const sp_fit *fit, const char *path, sp_error *error) SP_MUST_CHECK;

/* SP_DATA naming both values where the fit was made for another model. fingerprint "": not compared. After
 * SP_OK every set has n_heads or n_kv_heads maps of keys. */
sp_status sp_fit_check(const sp_fit *fit, const char *fingerprint, uint32_t n_layers, uint32_t n_heads,
                       uint32_t n_kv_heads, uint32_t head_dim, sp_error *error) SP_MUST_CHECK;

/* SP_DATA naming the tensor where a layer lacks a set or a table that another has: what serves a model
 * predicts for all of its layers. */
sp_status sp_fit_check_layers(const sp_fit *fit, sp_error *error) SP_MUST_CHECK;

/* The set of a layer; NULL where absent. */
const sp_fit_set *sp_fit_find(const sp_fit *fit, uint32_t layer, sp_attend_kind kind, sp_fit_type type,
                              uint32_t size);
/* What people call a set: "default", "dot", "cluster32", "block16". */
void sp_fit_set_label(const sp_fit_set *set, char out[32]);
/* A table of this size; size 0: the first. NULL where absent. */
const sp_fit_table *sp_fit_table_find(const sp_fit_table *tables, size_t n, uint32_t size);

#endif
