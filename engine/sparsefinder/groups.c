/* Groupings on trained maps (fit_sets.h): plain k-means, frozen bins, and routed clusters, whose maps and
 * centroids are trained together.
 *
 * Routed: k-means++ and 15 rounds on q' and k' of the distance maps; the space is scaled so that the nearest
 * centroid leads the second by 1 on average, then 150 steps of the routed loss (train.h). */
#include "engine/sparsefinder/fit_sets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sparsefinder/kmeans.h"

enum { POINTS = 4000, ROUNDS = 15, ROUTED_STEPS = 150, ROUTED_WARM_UP = 10 };
#define ROUTED_RATE 0.005
enum { PURPOSE_KMEANS = 16, PURPOSE_ROUTED = 1024, PURPOSE_ROUTED_START = 1 << 20 };

/* Projected queries of one head, then keys, of tokens evenly over the windows trained on. */
typedef struct points {
    float *x; /* (n, rank) */
    size_t n;
} points;

static void project(size_t dim, size_t rank, const float *weight, const float *bias, const float *from,
                    float *to)
{
    for (size_t r = 0; r < rank; r++) {
        double sum = (double)bias[r];
        for (size_t i = 0; i < dim; i++) sum += (double)weight[r * dim + i] * (double)from[i];
        to[r] = (float)sum;
    }
}

static bool find_points(const sp_unit *unit, uint32_t head, const sp_maps *folded, points *out)
{
    size_t length = unit->sample->length, total = unit->n_train * length, dim = unit->sample->head_dim;
    size_t rank = folded->shape.rank, n = total < POINTS ? total : POINTS;
    float token[SP_MAX_HEAD_DIM];
    out->n = 2 * n;
    out->x = sp_alloc(out->n * rank, sizeof *out->x);
    for (size_t i = 0; out->x && i < n; i++) {
        size_t t = i * total / n;
        uint32_t row = (uint32_t)(t % length);
        sp_unit_queries(unit, head, t / length, &row, 1, 1.0f, token);
        project(dim, rank, folded->q + head * rank * dim, folded->q_bias + head * rank, token,
                out->x + i * rank);
        const uint16_t *k = sp_sample_k(unit->sample, unit->layer, unit->kv_head, t / length);
        for (size_t d = 0; d < dim; d++) token[d] = sp_bf16_to_f32(k[d * length + row]);
        project(dim, rank, folded->k, folded->k_bias, token, out->x + (n + i) * rank);
    }
    return out->x != NULL;
}

/* The unit's maps of a stored set, as find_points takes them. */
static void read_set(const sp_unit *unit, const sp_fit_set *set, sp_maps *maps)
{
    size_t dim = maps->shape.dim, rank = maps->shape.rank, map = dim * rank;
    uint32_t k_map = unit->first_head / (unit->sample->n_heads / set->n_k_maps);
    for (uint32_t h = 0; h < unit->n_heads; h++) {
        size_t head = unit->first_head + h;
        sp_transpose(dim, rank, set->q_weight + head * map, rank, maps->q + h * map, dim);
        memcpy(maps->q_bias + h * rank, set->q_bias + head * rank, rank * sizeof(float));
    }
    sp_transpose(dim, rank, set->k_weight + k_map * map, rank, maps->k, dim);
    memcpy(maps->k_bias, set->k_bias + k_map * rank, rank * sizeof(float));
}

/* --- bins --- */

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool fill_bins(const points *all, uint32_t head, size_t rank, const sp_fit_set *set)
{
    float *column = sp_alloc(all->n, sizeof *column);
    for (size_t r = 0; column && r < rank; r++) {
        for (size_t i = 0; i < all->n; i++) column[i] = all->x[i * rank + r];
        qsort(column, all->n, sizeof *column, compare_floats);
        for (size_t t = 0; t < set->n_bins; t++) {
            size_t bins = set->bins[t].size;
            float *to = set->bins[t].values + (head * rank + r) * (bins - 1);
            for (size_t b = 1; b < bins; b++) to[b - 1] = column[b * all->n / bins];
        }
    }
    sp_free(column);
    return column != NULL;
}

/* --- plain k-means --- */

static sp_status fill_centroids(const sp_unit *unit, const sp_fit_options *options, const points *all,
                                uint32_t head, size_t rank, const sp_fit_set *set, sp_error *error)
{
    sp_status status = SP_OK;
    for (size_t t = 0; t < set->n_centroids; t++) {
        const sp_fit_table *table = &set->centroids[t];
        for (uint32_t run = 0; status == SP_OK && run < table->runs; run++) {
            sp_random random = sp_random_open(options->seed, unit->sample->first_layer + unit->layer, head,
                                              PURPOSE_KMEANS + table->size * 8 + run);
            float *to = table->values + ((size_t)head * table->runs + run) * table->size * rank;
            status = sp_kmeans(unit->ops, &random, run == 0 ? SP_KMEANS_SPREAD : SP_KMEANS_RANDOM, all->n,
                               rank, all->x, table->size, ROUNDS, to, NULL, error);
        }
    }
    return status;
}

sp_status sp_fit_groups(const sp_unit *unit, const sp_fit_options *options, sp_fit_set *set, sp_error *error)
{
    sp_maps_shape shape = {unit->n_heads, unit->sample->head_dim, set->rank, 0};
    float *numbers = sp_alloc_zero(sp_maps_count(&shape), sizeof *numbers);
    sp_status status = numbers ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for groups");
    sp_maps maps = sp_maps_view(&shape, numbers);
    if (status == SP_OK) read_set(unit, set, &maps);
    for (uint32_t h = 0; status == SP_OK && h < unit->n_heads; h++) {
        points all = {0};
        uint32_t head = unit->first_head + h;
        if (!find_points(unit, h, &maps, &all) || !fill_bins(&all, head, set->rank, set))
            status = sp_fail(error, SP_NO_MEMORY, "no memory for the bins of a head");
        if (status == SP_OK) status = fill_centroids(unit, options, &all, head, set->rank, set, error);
        sp_free(all.x);
    }
    sp_free(numbers);
    return status;
}

/* --- routed clusters --- */

/* Centroids of every head, and the scale of the space: the heads' mean, because they share keys. */
static sp_status start_routed(const sp_unit *unit, const sp_fit_options *options, const sp_maps *folded,
                              sp_maps *maps, sp_error *error)
{
    const sp_maps_shape *s = &maps->shape;
    size_t centroids = (size_t)s->n_centroids * s->rank;
    double scale = 0;
    sp_status status = SP_OK;
    for (uint32_t h = 0; status == SP_OK && h < s->n_heads; h++) {
        points all = {0};
        double gap = 0;
        sp_random random = sp_random_open(options->seed, unit->sample->first_layer + unit->layer,
                                          unit->first_head + h, PURPOSE_ROUTED_START + s->n_centroids);
        status = find_points(unit, h, folded, &all)
                     ? sp_kmeans(unit->ops, &random, SP_KMEANS_SPREAD, all.n, s->rank, all.x, s->n_centroids,
                                 ROUNDS, maps->centroids + h * centroids, &gap, error)
                     : sp_fail(error, SP_NO_MEMORY, "no memory for the clusters of a head");
        sp_free(all.x);
        scale += 1 / sqrt(gap > 1e-12 ? gap : 1e-12) / s->n_heads;
    }
    size_t map = (size_t)s->rank * s->dim, n = s->n_heads * (map + s->rank) + map + s->rank;
    for (size_t i = 0; i < n; i++) maps->q[i] *= (float)scale;
    for (size_t i = 0; i < s->n_heads * centroids; i++) maps->centroids[i] *= (float)scale;
    return status;
}

sp_status sp_fit_routed(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                        const sp_maps *start, sp_fit_set *set, sp_error *error)
{
    sp_maps_shape shape = start->shape;
    size_t maps_only = sp_maps_count(&shape);
    shape.n_centroids = set->size;
    size_t count = (sp_maps_count(&shape) + 15) / 16 * 16;
    float *numbers = sp_alloc_zero(2 * count, sizeof *numbers);
    if (!numbers) return sp_fail(error, SP_NO_MEMORY, "no memory for routed clusters");
    sp_maps maps = sp_maps_view(&shape, numbers), folded = sp_maps_view(&shape, numbers + count);
    memcpy(maps.q, start->q, maps_only * sizeof *maps.q);
    sp_maps_fold(&maps, &unit->moments, &folded);
    sp_status status = start_routed(unit, options, &folded, &maps, error);
    sp_train_options train = {.space = SP_SPACE_CLUSTER,
                              .loss = SP_FIT_ROUTED,
                              .shared = options->shared,
                              .steps = ROUTED_STEPS,
                              .warm_up = ROUTED_WARM_UP,
                              .rate = ROUTED_RATE,
                              .lambda = options->lambda,
                              .random = sp_random_open(options->seed, unit->sample->first_layer + unit->layer,
                                                       unit->first_head, PURPOSE_ROUTED + set->size),
                              .stop = stop};
    sp_train_result result;
    if (status == SP_OK) status = sp_train_maps(unit, &unit->moments, &train, &maps, &result, error);
    if (status == SP_OK) {
        size_t each = (size_t)set->size * set->rank;
        sp_maps_fold(&maps, &unit->moments, &folded);
        sp_fit_sets_store(unit, &folded, set);
        memcpy(set->centroids[0].values + unit->first_head * each, folded.centroids,
               unit->n_heads * each * sizeof(float));
    }
    sp_free(numbers);
    return status;
}
