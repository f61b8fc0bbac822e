/* An independent answer to which keys sparsefinder and routing predict: every rule is the sentence of
 * engine/README.md, tried on every pair in float64. With the fits of tests/support/random_fit.h edges must be
 * equal, ties too. Only the fit's plain arrays are shared with the engine. */
#ifndef SPARSED_TESTS_SUPPORT_FINDER_H
#define SPARSED_TESTS_SUPPORT_FINDER_H

#include "engine/sparsefinder/fit.h"
#include "tests/support/oracle.h"

typedef enum finder_rule {
    FINDER_L2,
    FINDER_EUCLIDEAN,
    FINDER_COSINE,
    FINDER_DOT,
    FINDER_EQUAL,
    FINDER_FIXED,
    FINDER_FROZEN,
    FINDER_CLUSTER,
    FINDER_TOKEN,
    FINDER_CENTROID,
    FINDER_ROUTING
} finder_rule;

typedef struct finder_pattern {
    const char *json; /* the attention object that says the same */
    finder_rule rule;
    sp_fit_type set;
    uint32_t set_size, table; /* table: size of centroids (0: the first), per cent of thresholds */
    double threshold;         /* NAN: the fit's */
    uint32_t keep, buckets, top, runs, block, window, first, last;
    double temperature;
} finder_pattern;
extern const finder_pattern finder_patterns[];
extern const size_t n_finder_patterns;
bool finder_streams(const finder_pattern *pattern);

/* q (n, n_heads, d) of positions 0 .. n - 1, or of n queries (cross); k (n_keys, n_kv_heads, d). mask
 * (n_heads, n, n_keys): 1 where there is an edge. */
void finder_mask(const finder_pattern *pattern, const sp_fit *fit, bool cross, bool causal,
                 uint32_t n_kv_heads, const float *q, uint32_t n, const float *k, uint32_t n_keys,
                 uint8_t *mask);

#endif
