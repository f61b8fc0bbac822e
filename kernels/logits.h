/* Loops over a vocabulary of logits: what sampling costs each token of each stream. At the highest level the
 * CPU has, with the same bits at each: 16 lanes, nothing fused. Tests: tests/kernels/test_logits.c */
#ifndef SPARSED_KERNELS_LOGITS_H
#define SPARSED_KERNELS_LOGITS_H

#include "kernels/base.h"

/* The largest of n > 0 logits; false where one is infinite or no number, and *max means nothing. x (n) */
bool sp_logits_max(size_t n, const float *x, float *max);
/* Sum of e^(x - max), in double, where max >= every x; 3e-7 of it is off. e^-87 is the least. x (n) */
double sp_logits_sum_exp(size_t n, const float *x, float max);
/* The largest logit (maybe infinite, none NaN) with allowed[i] 1, not 0, the first of equals; one is allowed.
 */
size_t sp_logits_best(size_t n, const float *x, const uint8_t *allowed);

#endif
