/* Loops of fitting: what training small maps of queries and keys to predict an attention graph spends its
 * time in (engine/sparsefinder/). Not for serving: sums run in lanes, so bits belong to a CPU level.
 *
 * Matrices whose last dimension is called "padded" have rows of `stride` numbers, 64-byte aligned, a multiple
 * of 16 numbers apart; numbers behind the given length up to the next multiple of 16 are read and written,
 * and must be finite. One thread each: callers run heads in parallel. Tests: tests/kernels/test_train.c */
#ifndef SPARSED_KERNELS_TRAIN_H
#define SPARSED_KERNELS_TRAIN_H

#include "kernels/base.h"

/* out[a][t] = sum_d x[a][d] y[d][t] */
typedef struct sp_train_product {
    size_t n_a, n_d, n_t;
    const float *x; /* (n_a, n_d), rows x_stride apart */
    size_t x_stride;
    const float *y; /* (n_d, n_t) padded */
    size_t y_stride;
    float *out; /* (n_a, n_t) padded */
    size_t out_stride;
    const uint32_t *lengths; /* (n_a) ascending: row a is wanted up to lengths[a] only; NULL: n_t */
} sp_train_product;

/* A predicted graph against the true one, over rows of queries and the keys before them:
 *   x = sum_r q[i][r] k[r][j] for j < lengths[i]
 * BALANCED: loss = sum over true edges of w softplus(-x) + others * sum over the rest of softplus(x)
 * ROUTED:   loss = sum over true edges of -w log max(x, floor) - others * sum over the rest of log(1 - x)
 * and its derivatives by q and k. */
typedef enum sp_train_loss { SP_TRAIN_BALANCED, SP_TRAIN_ROUTED } sp_train_loss;
#define SP_ROUTED_FLOOR 0.01f /* true edges less likely than this push no further */

typedef struct sp_train_pairs {
    sp_train_loss loss;
    size_t n_rows, rank;
    const uint32_t *lengths; /* (n_rows) ascending */
    const float *q;          /* (n_rows, rank) */
    const float *k;          /* (rank, longest) padded */
    size_t stride;           /* of k and dk */
    const size_t *begins;    /* (n_rows + 1) true edges of row i are numbers begins[i] .. begins[i + 1] of */
    const uint32_t *edges;   /* keys, ascending in a row */
    const float *weights;    /* w of each */
    float others;            /* weight of a pair that is no true edge */
    float *dq;               /* (n_rows, rank) overwritten */
    float *dk;               /* (rank, longest) padded, added to */
    float *scratch;          /* (4 * 16 * rank) aligned to 64 */
    double *value;           /* the loss is added here; NULL: not wanted (faster) */
} sp_train_pairs;

typedef struct sp_train_ops {
    void (*product)(const sp_train_product *product);
    /* out[a][b] = sum_t x[a][t] y[b][t];  x (n_a, n_t), y (n_b, n_t) padded with zeros behind n_t in one of
     * them, out (n_a, n_b) */
    void (*dots)(size_t n_a, size_t n_b, size_t n_t, const float *x, size_t x_stride, const float *y,
                 size_t y_stride, float *out);
    void (*pairs)(const sp_train_pairs *pairs);
    void (*widen)(size_t n, const uint16_t *bf16, float *out);
    /* Largest of n >= 1 numbers. */
    float (*highest)(size_t n, const float *x);
    /* y = exp(x - shift), n numbers; y may be x. Returns their sum. */
    double (*exp_sum)(size_t n, float shift, const float *x, float *y);
    /* Numbers above cut and their places, ascending: to values and places (room for n); returns how many. */
    size_t (*collect)(size_t n, float cut, const float *x, uint32_t *places, float *values);
    /* sums[0] = sum of max(x - t, 0), sums[1] = sum of its squares. */
    void (*excess)(size_t n, float t, const float *x, double sums[2]);
    /* Sum of the numbers >= cut. */
    double (*sum_from)(size_t n, float cut, const float *x);
} sp_train_ops;

#endif
