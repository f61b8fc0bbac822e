/* See adam.h. */
#include "engine/sparsefinder/adam.h"

#include <math.h>

#define TINY 1e-8
#define LAST_SHARE 0.02 /* of the rate, at the end of the cosine */

void sp_adam_update(sp_adam *adam, double rate, double factor, const float *slopes, float *values)
{
    double n = (double)++adam->step;
    double now = rate / (1 - pow(adam->beta_1, n)), correct = 1 / (1 - pow(adam->beta_2, n));
    for (size_t i = 0; i < adam->count; i++) {
        double slope = factor * (double)slopes[i];
        double m = adam->beta_1 * (double)adam->first[i] + (1 - adam->beta_1) * slope;
        double v = adam->beta_2 * (double)adam->second[i] + (1 - adam->beta_2) * slope * slope;
        adam->first[i] = (float)m;
        adam->second[i] = (float)v;
        values[i] -= (float)(now * m / (sqrt(v * correct) + TINY));
    }
}

double sp_cosine_rate(double rate, uint32_t warm_up, uint32_t n_steps, uint32_t step)
{
    if (step < warm_up) return rate * (step + 1) / warm_up;
    double share = n_steps > warm_up + 1 ? (double)(step - warm_up) / (n_steps - warm_up - 1) : 1;
    return rate * (LAST_SHARE + (1 - LAST_SHARE) * 0.5 * (1 + cos(acos(-1.0) * share)));
}
