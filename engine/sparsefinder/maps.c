/* See maps.h. */
#include "engine/sparsefinder/maps.h"

#include <string.h>

size_t sp_maps_count(const sp_maps_shape *s)
{
    size_t map = (size_t)s->rank * s->dim + s->rank;
    return s->n_heads * (map + 1 + (size_t)s->n_centroids * s->rank) + map;
}

sp_maps sp_maps_view(const sp_maps_shape *s, float *numbers)
{
    sp_maps maps = {.shape = *s, .q = numbers};
    maps.q_bias = maps.q + (size_t)s->n_heads * s->rank * s->dim;
    maps.k = maps.q_bias + (size_t)s->n_heads * s->rank;
    maps.k_bias = maps.k + (size_t)s->rank * s->dim;
    maps.offset = maps.k_bias + s->rank;
    maps.centroids = maps.offset + s->n_heads;
    return maps;
}

static void fold_one(const sp_maps_shape *s, const float *weight, const float *bias, const float *mean,
                     const float *deviation, float *weight_out, float *bias_out)
{
    for (uint32_t r = 0; r < s->rank; r++) {
        double shift = 0;
        for (uint32_t i = 0; i < s->dim; i++) {
            float w = weight[r * s->dim + i] / deviation[i];
            weight_out[r * s->dim + i] = w;
            shift += (double)w * (double)mean[i];
        }
        bias_out[r] = bias[r] - (float)shift;
    }
}

void sp_maps_fold(const sp_maps *standard, const sp_moments *moments, sp_maps *out)
{
    const sp_maps_shape *s = &standard->shape;
    size_t map = (size_t)s->rank * s->dim;
    for (uint32_t h = 0; h < s->n_heads; h++)
        fold_one(s, standard->q + h * map, standard->q_bias + h * s->rank, moments->q_mean + h * s->dim,
                 moments->q_deviation + h * s->dim, out->q + h * map, out->q_bias + h * s->rank);
    fold_one(s, standard->k, standard->k_bias, moments->k_mean, moments->k_deviation, out->k, out->k_bias);
    memcpy(out->offset, standard->offset, s->n_heads * sizeof *out->offset);
    if (s->n_centroids > 0)
        memcpy(out->centroids, standard->centroids,
               (size_t)s->n_heads * s->n_centroids * s->rank * sizeof *out->centroids);
}

static void fold_back_one(const sp_maps_shape *s, const float *bias, const float *mean,
                          const float *deviation, float *weight)
{
    for (uint32_t r = 0; r < s->rank; r++)
        for (uint32_t i = 0; i < s->dim; i++) {
            float *w = weight + (size_t)r * s->dim + i;
            *w = (*w - mean[i] * bias[r]) / deviation[i];
        }
}

void sp_maps_fold_back(const sp_moments *moments, sp_maps *slopes)
{
    const sp_maps_shape *s = &slopes->shape;
    for (uint32_t h = 0; h < s->n_heads; h++)
        fold_back_one(s, slopes->q_bias + h * s->rank, moments->q_mean + h * s->dim,
                      moments->q_deviation + h * s->dim, slopes->q + (size_t)h * s->rank * s->dim);
    fold_back_one(s, slopes->k_bias, moments->k_mean, moments->k_deviation, slopes->k);
}

static void share(size_t n, float *a, float *b)
{
    for (size_t i = 0; i < n; i++) a[i] = b[i] = a[i] + b[i];
}

void sp_maps_share(sp_maps *slopes)
{
    share((size_t)slopes->shape.rank * slopes->shape.dim, slopes->q, slopes->k);
    share(slopes->shape.rank, slopes->q_bias, slopes->k_bias);
}

void sp_maps_project(const sp_train_ops *ops, const sp_maps_shape *shape, const float *weight,
                     const float *bias, size_t n, size_t stride, const float *x, float *out)
{
    sp_train_product product = {.n_a = shape->rank,
                                .n_d = shape->dim,
                                .n_t = n,
                                .x = weight,
                                .x_stride = shape->dim,
                                .y = x,
                                .y_stride = stride,
                                .out = out,
                                .out_stride = stride};
    ops->product(&product);
    for (uint32_t r = 0; r < shape->rank; r++)
        for (size_t t = 0; t < n; t++) out[r * stride + t] += bias[r];
}

/* --- spaces --- */

size_t sp_space_codes(const sp_space *space)
{
    if (space->kind == SP_SPACE_CLUSTER) return space->n_centroids;
    return space->rank + (space->kind == SP_SPACE_DISTANCE ? 2u : 1u);
}

static void fill_row(float *row, size_t n, float value)
{
    for (size_t t = 0; t < n; t++) row[t] = value;
}

static void forward_dot(const sp_space *space, bool is_query, size_t n, size_t stride, const float *x,
                        float *codes)
{
    for (size_t r = 0; r < space->rank; r++) memcpy(codes + r * stride, x + r * stride, n * sizeof *x);
    fill_row(codes + space->rank * stride, n, is_query ? space->offset : 1.0f);
}

static void forward_distance(const sp_space *space, bool is_query, size_t n, size_t stride, const float *x,
                             float *codes)
{
    float *square = codes + (space->rank + (is_query ? 0u : 1u)) * stride;
    fill_row(codes + (space->rank + (is_query ? 1u : 0u)) * stride, n, 1.0f);
    fill_row(square, n, is_query ? space->offset : 0.0f);
    for (size_t r = 0; r < space->rank; r++) {
        const float *from = x + r * stride, factor = is_query ? 2.0f : 1.0f;
        float *to = codes + r * stride;
        for (size_t t = 0; t < n; t++) {
            to[t] = factor * from[t];
            square[t] -= from[t] * from[t];
        }
    }
}

/* -beta |x - mu_c|^2 less what is the same for all c: beta (2 mu_c.x - |mu_c|^2). */
static void forward_cluster(const sp_train_ops *ops, const sp_space *space, size_t n, size_t stride,
                            const float *x, float *codes)
{
    size_t n_c = space->n_centroids;
    sp_train_product product = {.n_a = n_c,
                                .n_d = space->rank,
                                .n_t = n,
                                .x = space->centroids,
                                .x_stride = space->rank,
                                .y = x,
                                .y_stride = stride,
                                .out = codes,
                                .out_stride = stride};
    ops->product(&product);
    for (size_t c = 0; c < n_c; c++) {
        float square = 0, *row = codes + c * stride;
        for (size_t r = 0; r < space->rank; r++)
            square += space->centroids[c * space->rank + r] * space->centroids[c * space->rank + r];
        for (size_t t = 0; t < n; t++) row[t] = space->beta * (2.0f * row[t] - square);
    }
    for (size_t begin = 0; begin < n; begin += 256) {
        size_t some = n - begin < 256 ? n - begin : 256;
        float most[256], sum[256];
        memcpy(most, codes + begin, some * sizeof *most);
        memset(sum, 0, sizeof sum);
        for (size_t c = 1; c < n_c; c++)
            for (size_t t = 0; t < some; t++) {
                float e = codes[c * stride + begin + t];
                most[t] = e > most[t] ? e : most[t];
            }
        for (size_t c = 0; c < n_c; c++) {
            float *row = codes + c * stride + begin;
            for (size_t t = 0; t < some; t++) row[t] -= most[t];
            ops->exp_sum(some, 0, row, row);
            for (size_t t = 0; t < some; t++) sum[t] += row[t];
        }
        for (size_t c = 0; c < n_c; c++)
            for (size_t t = 0; t < some; t++) codes[c * stride + begin + t] /= sum[t];
    }
}

void sp_space_forward(const sp_train_ops *ops, const sp_space *space, bool is_query, size_t n, size_t stride,
                      const float *x, float *codes)
{
    switch (space->kind) {
    case SP_SPACE_DOT:
        forward_dot(space, is_query, n, stride, x, codes);
        return;
    case SP_SPACE_DISTANCE:
        forward_distance(space, is_query, n, stride, x, codes);
        return;
    case SP_SPACE_CLUSTER:
        forward_cluster(ops, space, n, stride, x, codes);
    }
}

static float sum_row(const float *row, size_t n)
{
    double sum = 0;
    for (size_t t = 0; t < n; t++) sum += (double)row[t];
    return (float)sum;
}

static void backward_dot(const sp_space *space, bool is_query, size_t n, size_t stride, const float *dcodes,
                         float *dx, float *doffset)
{
    for (size_t r = 0; r < space->rank; r++)
        for (size_t t = 0; t < n; t++) dx[r * stride + t] += dcodes[r * stride + t];
    if (is_query) *doffset += sum_row(dcodes + space->rank * stride, n);
}

static void backward_distance(const sp_space *space, bool is_query, size_t n, size_t stride, const float *x,
                              const float *dcodes, float *dx, float *doffset)
{
    const float *square = dcodes + (space->rank + (is_query ? 0u : 1u)) * stride;
    const float factor = is_query ? 2.0f : 1.0f;
    for (size_t r = 0; r < space->rank; r++)
        for (size_t t = 0; t < n; t++)
            dx[r * stride + t] += factor * dcodes[r * stride + t] - 2.0f * x[r * stride + t] * square[t];
    if (is_query) *doffset += sum_row(square, n);
}

/* With e_c = -beta |x - mu_c|^2: de = a (da - sum_c a da), and g_c = -beta de_c is the derivative by the
 * squared distance: dx = 2 (x sum_c g_c - sum_c g_c mu_c), dmu_c = 2 (mu_c sum_t g_c - sum_t g_c x). */
static void backward_cluster(const sp_train_ops *ops, const sp_space *space, size_t n, size_t stride,
                             const float *x, const float *codes, float *g, float *dx, float *dcentroids,
                             float *work)
{
    size_t n_c = space->n_centroids, rank = space->rank;
    float *mean = work, *sum = work + stride, *pull = sum + stride, *turned = pull + rank * stride,
          *products = turned + rank * n_c;
    memset(mean, 0, 2 * stride * sizeof *mean);
    for (size_t c = 0; c < n_c; c++)
        for (size_t t = 0; t < n; t++) mean[t] += codes[c * stride + t] * g[c * stride + t];
    for (size_t c = 0; c < n_c; c++)
        for (size_t t = 0; t < n; t++) {
            float *to = g + c * stride + t;
            *to = -space->beta * codes[c * stride + t] * (*to - mean[t]);
            sum[t] += *to;
        }
    for (size_t c = 0; c < n_c; c++)
        for (size_t r = 0; r < rank; r++) turned[r * n_c + c] = space->centroids[c * rank + r];
    sp_train_product product = {.n_a = rank,
                                .n_d = n_c,
                                .n_t = n,
                                .x = turned,
                                .x_stride = n_c,
                                .y = g,
                                .y_stride = stride,
                                .out = pull,
                                .out_stride = stride};
    ops->product(&product);
    for (size_t r = 0; r < rank; r++)
        for (size_t t = 0; t < n; t++)
            dx[r * stride + t] += 2.0f * (x[r * stride + t] * sum[t] - pull[r * stride + t]);
    for (size_t c = 0; c < n_c; c++) /* behind n nothing may count */
        memset(g + c * stride + n, 0, (stride - n) * sizeof *g);
    ops->dots(n_c, rank, n, g, stride, x, stride, products);
    for (size_t c = 0; c < n_c; c++) {
        float total = sum_row(g + c * stride, n);
        for (size_t r = 0; r < rank; r++)
            dcentroids[c * rank + r] +=
                2.0f * (space->centroids[c * rank + r] * total - products[c * rank + r]);
    }
}

size_t sp_space_work(const sp_space *space, size_t stride)
{
    return (space->rank + 2) * stride + 2 * (size_t)space->rank * space->n_centroids;
}

void sp_space_backward(const sp_train_ops *ops, const sp_space *space, bool is_query, size_t n, size_t stride,
                       const float *x, const float *codes, float *dcodes, float *dx, float *doffset,
                       float *dcentroids, float *work)
{
    switch (space->kind) {
    case SP_SPACE_DOT:
        backward_dot(space, is_query, n, stride, dcodes, dx, doffset);
        return;
    case SP_SPACE_DISTANCE:
        backward_distance(space, is_query, n, stride, x, dcodes, dx, doffset);
        return;
    case SP_SPACE_CLUSTER:
        backward_cluster(ops, space, n, stride, x, codes, dcodes, dx, dcentroids, work);
    }
}
