/* Normalizers: softmax and alpha-entmax (Peters et al. 2019), from scores to weights.
 *
 *   entmax_alpha(s)_i = max((alpha - 1) s_i - tau, 0)^(1 / (alpha - 1)),  tau such that the weights sum to 1
 *
 * alpha = 1 is softmax, 2 is sparsemax. Exact and without a sort: with z = (alpha - 1) s, only z_i > max(z) -
 * 1 can be in the support; the norm h(t) = (sum (z_i - t)^e)^(1/e) - 1 with e = 1/(alpha-1) is convex and
 * decreasing, so Newton from the left end of the bracket rises to the root (normalizer.c says why the norm
 * and not the sum). For alpha 2 a step is the closed form on the support. Formulas: Correia et al. 2019,
 * Goncalves et al. 2025 (AdaSplash). Tests: tests/unit/kernels/test_normalizer.c, tests/kernels/test_attend.c
 */
#ifndef SPARSED_KERNELS_NORMALIZER_H
#define SPARSED_KERNELS_NORMALIZER_H

#include "kernels/base.h"

typedef struct sp_normalizer {
    float alpha; /* 1: softmax; (1, 2]: entmax */
} sp_normalizer;

static inline bool sp_is_softmax(sp_normalizer n)
{
    return n.alpha == 1.0f;
}

/* Turns n scaled scores into weights in place (reference, float64 inside). Masked scores are -INFINITY and
 * get 0. An empty or fully masked row gives zeros. Returns the number of weights > 0. */
size_t sp_normalize_row(sp_normalizer normalizer, float *scores, size_t n);

/* The threshold tau of entmax for z = (alpha - 1) * score, relative to the maximum of z: weights are
 * max(z - max - tau, 0)^(1/(alpha-1)) with tau in [-1, 0). z need not be sorted. n >= 1, alpha > 1. */
double sp_entmax_threshold(float alpha, const float *z, size_t n);

#endif
