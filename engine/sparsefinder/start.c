/* Where training starts (train.h).
 *
 * With C_q, C_k the covariances of the standardised inputs, C_q^1/2 C_k^1/2 = U S V^T holds the dot products
 * in white coordinates, so the best r directions are
 *   W_q = C_q^-1/2 U_r sqrt(S_r c)   W_k = C_k^-1/2 V_r sqrt(S_r c),   c = 1 / sqrt(d)
 * and half of c for distances, where q'.k' counts twice. Heads that share a map of keys take the eigenpairs
 * V_r, e_r of C_k^1/2 (mean of their C_q) C_k^1/2: s = c sqrt(e_r), W_k = C_k^-1/2 V_r sqrt(s),
 * W_q = c C_k^1/2 V_r / sqrt(s). */
#include "engine/sparsefinder/train.h"

#include <math.h>
#include <string.h>

#include "engine/sparsefinder/linalg.h"

/* Column r of the map: out[r][i] = sum_j m[i][j] v[r][j] factor. */
static void set_row(size_t dim, const double *m, const double *v, double factor, float *out)
{
    for (size_t i = 0; i < dim; i++) {
        double sum = 0;
        for (size_t j = 0; j < dim; j++) sum += m[i * dim + j] * v[j];
        out[i] = (float)(sum * factor);
    }
}

typedef struct start_work {
    double *a, *product, *square, *k_root, *k_inverse, *q_root, *q_inverse, *vectors; /* (dim, dim) */
    double *values, *direction;                                                       /* (dim) */
    double *power;                                                                    /* (2 dim dim + dim) */
} start_work;

static void root_of(const start_work *work, size_t dim, const double *covariance, double power, double *out)
{
    memcpy(work->a, covariance, dim * dim * sizeof *work->a);
    sp_matrix_power(dim, work->a, power, out, work->power);
}

/* M = C_q^1/2 C_k^1/2; the eigenvectors of M^T M are V, and U = M V / S. */
static void start_alone(const sp_unit *unit, const start_work *work, double c, sp_maps *maps)
{
    size_t dim = maps->shape.dim;
    root_of(work, dim, unit->q_covariance, 0.5, work->q_root);
    root_of(work, dim, unit->q_covariance, -0.5, work->q_inverse);
    sp_matrix_product(dim, dim, dim, work->q_root, work->k_root, work->product);
    for (size_t i = 0; i < dim; i++)
        for (size_t k = 0; k < dim; k++) {
            double sum = 0;
            for (size_t j = 0; j < dim; j++) sum += work->product[j * dim + i] * work->product[j * dim + k];
            work->square[i * dim + k] = sum;
        }
    sp_eigen_symmetric(dim, work->square, work->values, work->vectors);
    for (size_t r = 0; r < maps->shape.rank; r++) {
        const double *v = work->vectors + r * dim;
        double s = sqrt(work->values[r] > 1e-12 ? work->values[r] : 1e-12), factor = sqrt(s * c);
        for (size_t i = 0; i < dim; i++) {
            double sum = 0;
            for (size_t j = 0; j < dim; j++) sum += work->product[i * dim + j] * v[j];
            work->direction[i] = sum / s;
        }
        set_row(dim, work->q_inverse, work->direction, factor, maps->q + r * dim);
        set_row(dim, work->k_inverse, v, factor, maps->k + r * dim);
    }
}

static void start_group(const sp_unit *unit, const start_work *work, double c, double scale, sp_maps *maps)
{
    size_t dim = maps->shape.dim, rank = maps->shape.rank;
    memset(work->a, 0, dim * dim * sizeof *work->a);
    for (uint32_t h = 0; h < unit->n_heads; h++)
        for (size_t i = 0; i < dim * dim; i++)
            work->a[i] += unit->q_covariance[h * dim * dim + i] / unit->n_heads;
    sp_matrix_product(dim, dim, dim, work->k_root, work->a, work->product);
    sp_matrix_product(dim, dim, dim, work->product, work->k_root, work->square);
    sp_eigen_symmetric(dim, work->square, work->values, work->vectors);
    for (size_t r = 0; r < rank; r++) {
        const double *v = work->vectors + r * dim;
        double s = c * sqrt(work->values[r] > 1e-12 ? work->values[r] : 1e-12);
        set_row(dim, work->k_inverse, v, sqrt(s * scale), maps->k + r * dim);
        for (uint32_t h = 0; h < unit->n_heads; h++)
            set_row(dim, work->k_root, v, c * sqrt(scale / s), maps->q + (h * rank + r) * dim);
    }
}

sp_status sp_start_spectral(const sp_unit *unit, sp_space_kind space, sp_maps *maps, sp_error *error)
{
    size_t dim = maps->shape.dim, square = dim * dim;
    double *numbers = sp_alloc(10 * square + 3 * dim, sizeof *numbers);
    if (!numbers) return sp_fail(error, SP_NO_MEMORY, "no memory to start a fit");
    start_work work = {numbers,
                       numbers + square,
                       numbers + 2 * square,
                       numbers + 3 * square,
                       numbers + 4 * square,
                       numbers + 5 * square,
                       numbers + 6 * square,
                       numbers + 7 * square,
                       numbers + 10 * square + dim,
                       numbers + 10 * square + 2 * dim,
                       numbers + 8 * square};
    double c = 1 / sqrt((double)dim), scale = space == SP_SPACE_DISTANCE ? 0.5 : 1;
    memset(maps->q, 0, sp_maps_count(&maps->shape) * sizeof *maps->q);
    root_of(&work, dim, unit->k_covariance, 0.5, work.k_root);
    root_of(&work, dim, unit->k_covariance, -0.5, work.k_inverse);
    if (unit->n_heads == 1)
        start_alone(unit, &work, c * scale, maps);
    else
        start_group(unit, &work, c, scale, maps);
    for (uint32_t h = 0; h < unit->n_heads; h++) maps->offset[h] = space == SP_SPACE_DISTANCE ? 1.0f : -1.0f;
    sp_free(numbers);
    return SP_OK;
}

static void uniform(sp_random *random, size_t n, double radius, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = (float)((2 * sp_random_share(random) - 1) * radius);
}

void sp_start_uniform(sp_random *random, bool shared, sp_maps *maps)
{
    const sp_maps_shape *s = &maps->shape;
    size_t map = (size_t)s->rank * s->dim;
    double radius = 1 / sqrt((double)map);
    memset(maps->q, 0, sp_maps_count(s) * sizeof *maps->q);
    uniform(random, s->n_heads * map, radius, maps->q);
    uniform(random, (size_t)s->n_heads * s->rank, 1, maps->q_bias);
    uniform(random, map, radius, maps->k);
    uniform(random, s->rank, 1, maps->k_bias);
    if (!shared) return;
    memcpy(maps->k, maps->q, map * sizeof *maps->k);
    memcpy(maps->k_bias, maps->q_bias, s->rank * sizeof *maps->k_bias);
}
