/* An independent answer to "which keys, and what comes out": edge predicates written straight from the table
 * of backends, one (head, row, key) at a time, and attention in float64 over a token mask. Nothing of the
 * engine is used. */
#ifndef SPARSED_TESTS_SUPPORT_ORACLE_H
#define SPARSED_TESTS_SUPPORT_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum oracle_heads { ORACLE_MERGED, ORACLE_INTERLEAVED, ORACLE_MULTIHEAD } oracle_heads;

/* A backend's parameters, all of them filled in. */
typedef struct oracle_pattern {
    const char *backend;
    const char *json; /* the attention object that says the same */
    oracle_heads heads;
    int64_t stride, summary, distinct, window, first, last, random;
    uint64_t seed;
} oracle_pattern;

typedef struct oracle_shape {
    uint32_t n_heads, n_kv_heads, layer;
    uint32_t position, rows, n_keys;
    bool causal;
} oracle_shape;

/* mask (n_heads, rows, n_keys): 1 where there is an edge. False for a backend it does not know. */
bool oracle_mask(const oracle_pattern *pattern, const oracle_shape *shape, uint8_t *mask);

/* Weights of one row over n keys: float64, entmax by bisection (alpha 1: softmax), masked keys and empty rows
 * 0. */
void oracle_weights(double alpha, const double *scores, const uint8_t *mask, size_t n, double *weights);

/* One head and row: q (d), k (n, d), v (n, dv) with the given strides in floats between keys; out (dv). */
typedef struct oracle_head {
    const float *q, *k, *v;
    size_t d, dv, k_stride, v_stride, n;
    double scale, alpha;
} oracle_head;
void oracle_attend(const oracle_head *head, const uint8_t *mask, double *out);

#endif
