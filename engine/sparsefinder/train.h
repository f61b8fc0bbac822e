/* Training the maps of a unit (engine/README.md, "Fitting"): Adam on standardised inputs, 4 windows of 32
 * random rows a step (two of them in the first half, so that short contexts count too), every key before
 * them. Losses: balanced  sum over p > 0 of w softplus(-x) + (1 / N-) sum over p = 0 of softplus(x), w = 1 /
 * (2 N+) + p / (2 sum p), N+ and N- the pairs of a step with and without weight routed    the same weights on
 * -log max(x, 0.01), lambda / N- on -log(1 - x), x the probability that both are in one cluster hinge Treviso
 * et al. 2022: a row costs max(0, 1 + sum over its edges of |q' - k'|^2 - the sum over as many random other
 * keys) Starts: from the spectrum of the inputs' covariances, or the paper's (uniform). Tests:
 * tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_TRAIN_H
#define SPARSED_ENGINE_SPARSEFINDER_TRAIN_H

#include <stdatomic.h>

#include "engine/sparsefinder/random.h"
#include "engine/sparsefinder/unit.h"

typedef enum sp_fit_loss { SP_FIT_BALANCED, SP_FIT_ROUTED, SP_FIT_HINGE } sp_fit_loss;

typedef struct sp_train_options {
    sp_space_kind space;
    sp_fit_loss loss;
    bool shared; /* one map for queries and keys: units of one head only */
    uint32_t steps, warm_up;
    double rate;
    double lambda; /* routed */
    sp_random random;
    const atomic_bool *stop; /* becomes true: ends with SP_CANCELLED; or NULL */
} sp_train_options;

typedef struct sp_train_result {
    double first_loss, last_loss; /* means over the first and the last four steps */
} sp_train_result;

/* Fills maps (standardised inputs; offsets set) for a space DOT or DISTANCE. SP_NO_MEMORY. */
sp_status sp_start_spectral(const sp_unit *unit, sp_space_kind space, sp_maps *maps,
                            sp_error *error) SP_MUST_CHECK;
/* Weights uniform in +-1 / sqrt(dim rank), biases in +-1, of inputs as they are. */
void sp_start_uniform(sp_random *random, bool shared, sp_maps *maps);

/* Trains maps in place. moments NULL: inputs as they are. */
sp_status sp_train_maps(const sp_unit *unit, const sp_moments *moments, const sp_train_options *options,
                        sp_maps *maps, sp_train_result *result, sp_error *error) SP_MUST_CHECK;

/* Rows of one window under the hinge loss (hinge.c): adds the derivatives by q' (n, rank) and k' (rank,
 * length) padded, and returns the summed loss. marks (length) must be zero and is left so. */
double sp_hinge_rows(sp_random *random, uint32_t rank, size_t n, uint32_t length, const float *q,
                     const float *k, size_t stride, const size_t *begins, const uint32_t *edges, float *dq,
                     float *dk, uint8_t *marks, uint32_t *others);

#endif
