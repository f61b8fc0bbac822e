/* See random_fit.h. */
#include "tests/support/random_fit.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/random.h"

/* n multiples of step, from -most to most of them. */
static float *draw(test_random *random, size_t n, int most, double step)
{
    float *x = sp_alloc(n, sizeof *x);
    if (!x) abort();
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(step * (double)((int)test_random_below(random, (uint64_t)(2 * most + 1)) - most));
    return x;
}

static void add_table(sp_fit_table **tables, size_t *n, uint32_t size, uint32_t runs, float *values)
{
    sp_fit_table *more = sp_alloc_zero(*n + 1, sizeof *more);
    if (!more) abort();
    if (*n) memcpy(more, *tables, *n * sizeof *more);
    sp_free(*tables);
    more[*n] = (sp_fit_table){.size = size, .runs = runs, .values = values};
    *tables = more;
    (*n)++;
}

static int by_value(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

static void add_default(sp_fit_set *set, const sp_fit *fit, test_random *random)
{
    size_t h = fit->n_heads, r = set->rank;
    add_table(&set->centroids, &set->n_centroids, 7, 2, draw(random, h * 2 * 7 * r, 80, 1.0 / 16));
    add_table(&set->centroids, &set->n_centroids, 5, 1, draw(random, h * 5 * r, 80, 1.0 / 16));
    float *borders = draw(random, h * r * 5, 80, 1.0 / 32);
    for (size_t i = 0; i < h * r; i++) qsort(borders + 5 * i, 5, sizeof *borders, by_value);
    add_table(&set->bins, &set->n_bins, 6, 0, borders);
}

static void fill_set(sp_fit_set *set, const sp_fit *fit, sp_fit_type type, uint32_t size, uint32_t rank,
                     uint32_t k_maps, test_random *random)
{
    size_t h = fit->n_heads, d = fit->head_dim;
    double step = type == SP_FIT_BLOCK ? 1.0 / 512 : 1.0 / 4;
    *set = (sp_fit_set){.type = type, .size = size, .rank = rank, .n_k_maps = k_maps ? k_maps : (uint32_t)h};
    set->q_weight = draw(random, h * d * rank, 3, step);
    set->q_bias = draw(random, h * rank, 3, step);
    if (k_maps) {
        set->k_weight = draw(random, k_maps * d * rank, 3, step);
        set->k_bias = draw(random, k_maps * rank, 3, step);
    } else {
        set->shared = true;
        set->k_weight = sp_alloc(h * d * rank, sizeof(float));
        set->k_bias = sp_alloc(h * rank, sizeof(float));
        if (!set->k_weight || !set->k_bias) abort();
        memcpy(set->k_weight, set->q_weight, h * d * rank * sizeof(float));
        memcpy(set->k_bias, set->q_bias, h * rank * sizeof(float));
    }
    if (type == SP_FIT_DEFAULT) add_default(set, fit, random);
    if (type == SP_FIT_CLUSTER)
        add_table(&set->centroids, &set->n_centroids, size, 1, draw(random, h * size * rank, 60, 1.0 / 16));
    if (type == SP_FIT_BLOCK)
        add_table(&set->centroids, &set->n_centroids, 6, 1,
                  draw(random, h * 6 * size * rank, 30, 1.0 / 1024));
    if (type != SP_FIT_DEFAULT && type != SP_FIT_DOT) return;
    add_table(&set->thresholds, &set->n_thresholds, 0, 0, draw(random, h, 40, 1.0 / 8));
    add_table(&set->thresholds, &set->n_thresholds, 90, 0, draw(random, h, 40, 1.0 / 4));
}

sp_fit *test_fit_new(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, bool shared, uint64_t seed)
{
    test_random random = {seed};
    sp_fit *fit = sp_alloc_zero(1, sizeof *fit);
    if (!fit) abort();
    *fit = (sp_fit){.n_layers = 1, .n_heads = n_heads, .head_dim = head_dim, .alpha = 1.5};
    fit->layers = sp_alloc_zero(2, sizeof *fit->layers);
    if (!fit->layers) abort();
    for (size_t kind = 0; kind < 2; kind++) {
        sp_fit_layer *layer = &fit->layers[kind];
        layer->n_sets = 6;
        layer->sets = sp_alloc_zero(layer->n_sets, sizeof *layer->sets);
        if (!layer->sets) abort();
        fill_set(&layer->sets[0], fit, SP_FIT_DEFAULT, 0, 4, shared ? 0 : n_heads, &random);
        fill_set(&layer->sets[1], fit, SP_FIT_DOT, 0, 6, n_kv_heads, &random);
        fill_set(&layer->sets[2], fit, SP_FIT_CLUSTER, 9, 5, n_heads, &random);
        fill_set(&layer->sets[3], fit, SP_FIT_BLOCK, 7, 2, n_heads, &random);
        fill_set(&layer->sets[4], fit, SP_FIT_BLOCK, 16, 2, 0, &random);
        fill_set(&layer->sets[5], fit, SP_FIT_CLUSTER, 70, 5, n_heads,
                 &random); /* more than are kept as sets */
    }
    return fit;
}

void test_finder_fill(float *x, size_t n, uint64_t seed)
{
    test_random random = {seed};
    for (size_t i = 0; i < n; i++) x[i] = (float)((int)test_random_below(&random, 13) - 6) * 0.25f;
}
