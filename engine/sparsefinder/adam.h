/* Adam (Kingma and Ba 2015): x -= rate m^ / (sqrt(v^) + tiny), m and v running means of the slopes and their
 * squares, both corrected for their start at zero. Tests: tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_ADAM_H
#define SPARSED_ENGINE_SPARSEFINDER_ADAM_H

#include "kernels/base.h"

typedef struct sp_adam {
    size_t count;
    double beta_1, beta_2;
    float *first, *second; /* (count) zero at the start; the caller's */
    uint32_t step;         /* updates done */
} sp_adam;

/* Slopes are scaled by `factor` first. */
void sp_adam_update(sp_adam *adam, double rate, double factor, const float *slopes, float *values);
/* Warm-up to rate, linear, then half a cosine down to 2 % of it at the last of n_steps. */
double sp_cosine_rate(double rate, uint32_t warm_up, uint32_t n_steps, uint32_t step);

#endif
