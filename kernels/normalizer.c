/* Softmax and alpha-entmax of one row, float64 inside: the reference that faster code is checked against, and
 * the solver of every CPU level for alphas without a vector form.
 *
 * With c_i = z_i - max(z) <= 0, e = 1 / (alpha - 1) and x_i = max(c_i - t, 0), the threshold t in [-1, 0)
 * solves sum x_i^e = 1. We take Newton steps on the norm h(t) = (sum x_i^e)^(1/e) - 1 rather than on the sum:
 * a norm of convex functions is convex, so steps from t = -1 (where h >= 0) rise monotonically to the root;
 * and h is linear while the keys of the support are equal, so flat rows, on which plain Newton halves its
 * distance, end in one step. For alpha = 2 the step is the closed form on the current support. Sources:
 * Peters et al. 2019 (entmax), Correia et al. 2019 (bracket), spec R1 to R3 for the numbers. Tests:
 * tests/unit/kernels/test_normalizer.c */
#include "kernels/normalizer.h"

#include <math.h>

#define CANDIDATES 1024 /* kept apart from the row, so that later steps skip what can't be in the support */
#define SMALLEST                                                                                             \
    1.17549435e-38    /* a weight that is too small for float32 still is an edge of the gold graph */
#define MAX_STEPS 200 /* quadratic convergence needs about 10; a row of NaN must end too */

/* sum x^(e - 1) and sum x^e over x = z - max - t > 0. */
static void power_sums(double e, const float *z, size_t n, double max, double t, double *lower, double *whole)
{
    double sum = 0, next = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)z[i] - max - t;
        if (!(x > 0)) continue;
        double power = e == 1 ? 1 : e == 2 ? x : pow(x, e - 1);
        sum += power;
        next += power * x;
    }
    *lower = sum;
    *whole = next;
}

static double solve(double e, const float *z, size_t n, double max)
{
    double t = -1;
    for (int step = 0; step < MAX_STEPS; step++) {
        double lower, whole;
        power_sums(e, z, n, max, t, &lower, &whole);
        if (!(whole > 1)) break; /* at the root, or past it by rounding */
        double norm = e == 1 ? whole : e == 2 ? sqrt(whole) : pow(whole, 1 / e);
        double next = t + (norm - 1) * whole / (norm * lower);
        if (!(next > t)) break;
        t = next;
    }
    return t;
}

static float row_max(const float *z, size_t n)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (z[i] > max) max = z[i];
    return max;
}

double sp_entmax_threshold(float alpha, const float *z, size_t n)
{
    double e = 1 / ((double)alpha - 1), max = (double)row_max(z, n);
    float candidates[CANDIDATES];
    size_t count = 0;
    for (size_t i = 0; i < n && count <= CANDIDATES; i++) {
        if (!((double)z[i] - max > -1)) continue;
        if (count < CANDIDATES) candidates[count] = z[i];
        count++;
    }
    return count <= CANDIDATES ? solve(e, candidates, count, max) : solve(e, z, n, max);
}

static size_t softmax_row(float *scores, size_t n, float max)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)scores[i] - (double)max);
    size_t positive = 0;
    for (size_t i = 0; i < n; i++) {
        scores[i] = (float)(exp((double)scores[i] - (double)max) / sum);
        positive += scores[i] > 0;
    }
    return positive;
}

size_t sp_normalize_row(sp_normalizer normalizer, float *scores, size_t n)
{
    float max = row_max(scores, n);
    if (max == -INFINITY) {
        for (size_t i = 0; i < n; i++) scores[i] = 0;
        return 0;
    }
    if (sp_is_softmax(normalizer)) return softmax_row(scores, n, max);

    /* The row is shifted before it is scaled, so that scores far from 0 lose nothing. */
    float factor = normalizer.alpha - 1;
    for (size_t i = 0; i < n; i++) scores[i] = factor * (scores[i] - max);
    double e = 1 / (double)factor, t = sp_entmax_threshold(normalizer.alpha, scores, n);
    size_t positive = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)scores[i] - t;
        scores[i] = !(x > 0) ? 0
                    : e == 1 ? (float)x
                    : e == 2 ? (float)(x * x)
                             : (float)fmax(pow(x, e), SMALLEST);
        positive += scores[i] > 0;
    }
    return positive;
}
