/* See linalg.h. */
#include "engine/sparsefinder/linalg.h"

#include <math.h>
#include <string.h>

enum { MAX_SWEEPS = 40 };

/* Turns rows and columns p and q of a by the angle that makes a[p][q] zero, and rows p and q of vectors. */
static void rotate(size_t n, double *a, double *vectors, size_t p, size_t q)
{
    double apq = a[p * n + q];
    double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
    double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    for (size_t k = 0; k < n; k++) {
        double x = a[k * n + p], y = a[k * n + q];
        a[k * n + p] = c * x - s * y;
        a[k * n + q] = s * x + c * y;
    }
    for (size_t k = 0; k < n; k++) {
        double x = a[p * n + k], y = a[q * n + k];
        a[p * n + k] = c * x - s * y;
        a[q * n + k] = s * x + c * y;
        x = vectors[p * n + k], y = vectors[q * n + k];
        vectors[p * n + k] = c * x - s * y;
        vectors[q * n + k] = s * x + c * y;
    }
}

static void sort_falling(size_t n, double *values, double *vectors)
{
    for (size_t i = 0; i < n; i++) {
        size_t best = i;
        for (size_t k = i + 1; k < n; k++) best = values[k] > values[best] ? k : best;
        if (best == i) continue;
        double value = values[i];
        values[i] = values[best];
        values[best] = value;
        for (size_t k = 0; k < n; k++) {
            double x = vectors[i * n + k];
            vectors[i * n + k] = vectors[best * n + k];
            vectors[best * n + k] = x;
        }
    }
}

void sp_eigen_symmetric(size_t n, double *a, double *values, double *vectors)
{
    double total = 0;
    for (size_t i = 0; i < n * n; i++) {
        vectors[i] = i % (n + 1) == 0 ? 1 : 0;
        total += a[i] * a[i];
    }
    for (int sweep = 0; sweep < MAX_SWEEPS; sweep++) {
        double off = 0;
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++) off += a[p * n + q] * a[p * n + q];
        if (off <= 1e-22 * total) break;
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++)
                if (a[p * n + q] * a[p * n + q] > 1e-30 * total) rotate(n, a, vectors, p, q);
    }
    for (size_t i = 0; i < n; i++) values[i] = a[i * n + i];
    sort_falling(n, values, vectors);
}

void sp_matrix_product(size_t n, size_t m, size_t k, const double *a, const double *b, double *out)
{
    memset(out, 0, n * k * sizeof *out);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            for (size_t l = 0; l < k; l++) out[i * k + l] += a[i * m + j] * b[j * k + l];
}

void sp_matrix_power(size_t n, double *a, double power, double *out, double *work)
{
    double *vectors = work, *scaled = work + n * n, *values = work + 2 * n * n;
    sp_eigen_symmetric(n, a, values, vectors);
    double least = values[0] > 0 ? 1e-6 * values[0] : 1e-12;
    for (size_t i = 0; i < n; i++) {
        double factor = pow(values[i] > least ? values[i] : least, power);
        for (size_t k = 0; k < n; k++) {
            scaled[k * n + i] = vectors[i * n + k] * factor;
        }
    }
    sp_matrix_product(n, n, n, scaled, vectors, out);
}
