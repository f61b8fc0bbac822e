/* See kmeans.h. Distances to all centroids come from one product: |x - mu|^2 = |x|^2 - 2 x.mu + |mu|^2, where
 * |x|^2 does not change which is nearest. */
#include "engine/sparsefinder/kmeans.h"

#include <math.h>
#include <string.h>

typedef struct clusters {
    const sp_train_ops *ops;
    size_t n, dim, n_centroids, stride;
    const float *points;
    float *columns;  /* (dim, n) padded */
    float *products; /* (n_centroids, n) padded */
    float *nearest;  /* (n) squared distance */
    uint32_t *ids;   /* (n) */
    double *sums;    /* (n_centroids, dim + 1): sum of points, their number */
} clusters;

static double square_distance(size_t dim, const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < dim; i++) sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}

static void start_spread(clusters *c, sp_random *random, float *centroids)
{
    size_t chosen = sp_random_below(random, (uint32_t)c->n);
    for (size_t i = 0; i < c->n; i++) c->nearest[i] = INFINITY;
    for (size_t k = 0;; k++) {
        memcpy(centroids + k * c->dim, c->points + chosen * c->dim, c->dim * sizeof *centroids);
        if (k + 1 == c->n_centroids) return;
        double total = 0;
        for (size_t i = 0; i < c->n; i++) {
            float d = (float)square_distance(c->dim, c->points + i * c->dim, centroids + k * c->dim);
            if (d < c->nearest[i]) c->nearest[i] = d;
            total += (double)c->nearest[i];
        }
        double place = sp_random_share(random) * total;
        for (chosen = 0; chosen + 1 < c->n; chosen++) {
            place -= (double)c->nearest[chosen];
            if (place < 0) break;
        }
    }
}

static void start_random(clusters *c, sp_random *random, float *centroids)
{
    uint32_t *order = c->ids;
    for (size_t i = 0; i < c->n; i++) order[i] = (uint32_t)i;
    for (size_t k = 0; k < c->n_centroids; k++) {
        size_t other = k + sp_random_below(random, (uint32_t)(c->n - k));
        uint32_t point = order[other];
        order[other] = order[k];
        order[k] = point;
        memcpy(centroids + k * c->dim, c->points + (size_t)point * c->dim, c->dim * sizeof *centroids);
    }
}

/* Ids of the nearest centroids; true when one changed. Returns the mean gap to the second nearest. */
static bool assign(clusters *c, const float *centroids, double *gap)
{
    bool changed = false;
    double gaps = 0;
    sp_train_product product = {.n_a = c->n_centroids,
                                .n_d = c->dim,
                                .n_t = c->n,
                                .x = centroids,
                                .x_stride = c->dim,
                                .y = c->columns,
                                .y_stride = c->stride,
                                .out = c->products,
                                .out_stride = c->stride};
    c->ops->product(&product);
    for (size_t k = 0; k < c->n_centroids; k++) {
        float square = 0, *row = c->products + k * c->stride;
        for (size_t r = 0; r < c->dim; r++) square += centroids[k * c->dim + r] * centroids[k * c->dim + r];
        for (size_t i = 0; i < c->n; i++) row[i] = square - 2.0f * row[i];
    }
    for (size_t i = 0; i < c->n; i++) {
        float first = INFINITY, second = INFINITY;
        uint32_t id = 0;
        for (size_t k = 0; k < c->n_centroids; k++) {
            float d = c->products[k * c->stride + i];
            if (d < first) {
                second = first;
                first = d;
                id = (uint32_t)k;
            } else if (d < second) {
                second = d;
            }
        }
        changed |= c->ids[i] != id;
        c->ids[i] = id;
        if (c->n_centroids > 1) gaps += (double)second - (double)first;
    }
    *gap = gaps / (double)c->n;
    return changed;
}

static void move(clusters *c, float *centroids)
{
    size_t width = c->dim + 1;
    memset(c->sums, 0, c->n_centroids * width * sizeof *c->sums);
    for (size_t i = 0; i < c->n; i++) {
        double *sum = c->sums + c->ids[i] * width;
        for (size_t r = 0; r < c->dim; r++) sum[r] += (double)c->points[i * c->dim + r];
        sum[c->dim]++;
    }
    for (size_t k = 0; k < c->n_centroids; k++) {
        const double *sum = c->sums + k * width;
        for (size_t r = 0; r < c->dim && sum[c->dim] > 0; r++)
            centroids[k * c->dim + r] = (float)(sum[r] / sum[c->dim]);
    }
}

static bool open_clusters(clusters *c)
{
    c->stride = (c->n + 63) / 64 * 64;
    c->columns = sp_alloc_zero(c->dim * c->stride, sizeof *c->columns);
    c->products = sp_alloc(c->n_centroids * c->stride, sizeof *c->products);
    c->nearest = sp_alloc(c->n, sizeof *c->nearest);
    c->ids = sp_alloc(c->n, sizeof *c->ids);
    c->sums = sp_alloc(c->n_centroids * (c->dim + 1), sizeof *c->sums);
    return c->columns && c->products && c->nearest && c->ids && c->sums;
}

sp_status sp_kmeans(const sp_train_ops *ops, sp_random *random, sp_kmeans_start start, size_t n, size_t dim,
                    const float *points, size_t n_centroids, unsigned rounds, float *centroids, double *gap,
                    sp_error *error)
{
    clusters c = {.ops = ops, .n = n, .dim = dim, .n_centroids = n_centroids, .points = points};
    bool enough = open_clusters(&c);
    if (enough) {
        double last = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t r = 0; r < dim; r++) c.columns[r * c.stride + i] = points[i * dim + r];
        if (start == SP_KMEANS_SPREAD)
            start_spread(&c, random, centroids);
        else
            start_random(&c, random, centroids);
        memset(c.ids, 0xff, n * sizeof *c.ids);
        bool changed = assign(&c, centroids, &last);
        for (unsigned round = 0; changed && round < rounds; round++) {
            move(&c, centroids);
            changed = assign(&c, centroids, &last);
        }
        if (gap) *gap = last;
    }
    sp_free(c.columns);
    sp_free(c.products);
    sp_free(c.nearest);
    sp_free(c.ids);
    sp_free(c.sums);
    return enough ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for k-means of %zu points", n);
}
