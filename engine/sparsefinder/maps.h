/* Affine maps of the query heads that train together, as flat numbers, and the spaces they lead to.
 *
 * Heads that train together share the map of keys: the query heads of one KV head, or one query head alone.
 * A vector x becomes x' = W x + b, W (rank, dim) here and transposed in the file. Vectors lie in columns:
 * (dim, n) padded as in kernels/train.h, so that lanes run across tokens.
 *
 * A space turns projected vectors into codes whose dot product x scores an edge (section "Fitting" of
 * engine/README.md):
 *   DOT      x = q'.k' + b                 codes (q', b), (k', 1)
 *   DISTANCE x = b - |q' - k'|^2           codes (2 q', b - |q'|^2, 1), (k', 1, -|k'|^2)
 *   CLUSTER  x = sum_c a_c(q') a_c(k')     codes a_c(x') = softmax_c(-beta |x' - mu_c|^2)
 * Tests: tests/unit/engine/test_fit_parts.c (derivatives against differences) */
#ifndef SPARSED_ENGINE_SPARSEFINDER_MAPS_H
#define SPARSED_ENGINE_SPARSEFINDER_MAPS_H

#include "kernels/train.h"

typedef struct sp_maps_shape {
    uint32_t n_heads, dim, rank;
    uint32_t n_centroids; /* 0: none */
} sp_maps_shape;

/* Pointers into one array of sp_maps_count numbers. */
typedef struct sp_maps {
    sp_maps_shape shape;
    float *q;         /* (n_heads, rank, dim) */
    float *q_bias;    /* (n_heads, rank) */
    float *k;         /* (rank, dim) */
    float *k_bias;    /* (rank) */
    float *offset;    /* (n_heads) b of the score */
    float *centroids; /* (n_heads, n_centroids, rank) */
} sp_maps;

size_t sp_maps_count(const sp_maps_shape *shape);
sp_maps sp_maps_view(const sp_maps_shape *shape, float *numbers);

/* Gives out count of an array's numbers behind *used, as a padded matrix begins; numbers NULL only counts. */
static inline float *sp_numbers_lay(float *numbers, size_t *used, size_t count)
{
    float *at = numbers ? numbers + *used : NULL;
    *used += (count + 15) / 16 * 16;
    return at;
}

/* Mean and deviation of the inputs, a coordinate. */
typedef struct sp_moments {
    const float *q_mean, *q_deviation; /* (n_heads, dim) */
    const float *k_mean, *k_deviation; /* (dim) */
} sp_moments;
/* Maps of standardised inputs become maps of the inputs: W = W^ / deviation, b = b^ - W mean. */
void sp_maps_fold(const sp_maps *standard, const sp_moments *moments, sp_maps *out);
/* Derivatives by the folded maps become those by the standardised ones, in place. */
void sp_maps_fold_back(const sp_moments *moments, sp_maps *slopes);
/* Derivatives of one map for queries and keys (one head): their sum, in both places. */
void sp_maps_share(sp_maps *slopes);

/* out (rank, n) = W x + b; x (dim, n) padded, rows stride apart in both. */
void sp_maps_project(const sp_train_ops *ops, const sp_maps_shape *shape, const float *weight,
                     const float *bias, size_t n, size_t stride, const float *x, float *out);

/* --- spaces --- */
typedef enum sp_space_kind { SP_SPACE_DOT, SP_SPACE_DISTANCE, SP_SPACE_CLUSTER } sp_space_kind;
typedef struct sp_space {
    sp_space_kind kind;
    uint32_t rank, n_centroids;
    float offset;           /* b */
    float beta;             /* CLUSTER */
    const float *centroids; /* (n_centroids, rank) CLUSTER */
} sp_space;
size_t sp_space_codes(const sp_space *space); /* numbers of a code */
/* x (rank, n) to codes (sp_space_codes, n), both padded with rows stride apart. */
void sp_space_forward(const sp_train_ops *ops, const sp_space *space, bool is_query, size_t n, size_t stride,
                      const float *x, float *codes);
/* Derivatives by the codes to those by x (added to dx), by b (queries: added to *doffset) and by the
 * centroids (added to dcentroids; CLUSTER). dcodes is overwritten. work: sp_space_work numbers. */
void sp_space_backward(const sp_train_ops *ops, const sp_space *space, bool is_query, size_t n, size_t stride,
                       const float *x, const float *codes, float *dcodes, float *dx, float *doffset,
                       float *dcentroids, float *work);
size_t sp_space_work(const sp_space *space, size_t stride);

#endif
