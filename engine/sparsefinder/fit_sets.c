/* See fit_sets.h. */
#include "engine/sparsefinder/fit_sets.h"

#include <stdio.h>
#include <string.h>

static const uint32_t recalls[] = {0, 80, 90, 95, 99}; /* per cent; 0: the default's, without a number */
enum { N_RECALLS = sizeof recalls / sizeof recalls[0] };

uint32_t sp_fit_unit_heads(const sp_hparams *hparams, const sp_fit_options *options)
{
    bool alone = options->k_map_a_head || options->shared;
    return alone ? 1 : hparams->n_heads / hparams->n_kv_heads;
}

/* count tables, each of `numbers[i]` numbers. */
static bool add_tables(sp_fit_table **tables, size_t *n, size_t count, const uint32_t *sizes, uint32_t runs,
                       size_t each, size_t plus)
{
    if (count == 0) return true;
    *tables = sp_alloc_zero(count, sizeof **tables);
    for (size_t i = 0; *tables && i < count; i++) {
        sp_fit_table *table = &(*tables)[(*n)++];
        *table = (sp_fit_table){.size = sizes[i], .runs = runs};
        table->values = sp_alloc_zero(each * (plus > 0   ? sizes[i] - 1
                                              : runs > 0 ? sizes[i] * runs
                                                         : 1),
                                      sizeof *table->values);
        if (!table->values) return false;
    }
    return *tables != NULL;
}

static bool add_set(sp_fit_layer *layer, const sp_hparams *h, const sp_fit_options *options, sp_fit_type type,
                    uint32_t size)
{
    sp_fit_set *set = &layer->sets[layer->n_sets++];
    size_t heads = h->n_heads, rank = options->rank, map = (size_t)h->head_dim * rank;
    *set = (sp_fit_set){.type = type, .size = size, .rank = options->rank, .shared = options->shared};
    set->n_k_maps = h->n_heads / sp_fit_unit_heads(h, options);
    set->q_weight = sp_alloc_zero(heads * map, sizeof(float));
    set->q_bias = sp_alloc_zero(heads * rank, sizeof(float));
    set->k_weight = sp_alloc_zero(set->n_k_maps * map, sizeof(float));
    set->k_bias = sp_alloc_zero(set->n_k_maps * rank, sizeof(float));
    bool enough = set->q_weight && set->q_bias && set->k_weight && set->k_bias;
    if (enough && (type == SP_FIT_DEFAULT || type == SP_FIT_DOT))
        enough = add_tables(&set->thresholds, &set->n_thresholds, N_RECALLS, recalls, 0, heads, 0);
    if (enough && type == SP_FIT_DEFAULT)
        enough =
            add_tables(&set->centroids, &set->n_centroids, options->kmeans.n, options->kmeans.items,
                       options->runs, heads * rank, 0) &&
            add_tables(&set->bins, &set->n_bins, options->bins.n, options->bins.items, 0, heads * rank, 1);
    if (enough && type == SP_FIT_CLUSTER)
        enough = add_tables(&set->centroids, &set->n_centroids, 1, &size, 1, heads * rank, 0);
    if (enough && type == SP_FIT_BLOCK)
        enough = add_tables(&set->centroids, &set->n_centroids, options->kmeans.n, options->kmeans.items,
                            options->runs, heads * rank * size, 0);
    return enough;
}

static bool add_layer(sp_fit_layer *layer, const sp_hparams *h, const sp_fit_options *options)
{
    bool balanced = options->loss == SP_FIT_BALANCED;
    layer->sets = sp_alloc_zero(2 + options->clusters.n + options->blocks.n, sizeof *layer->sets);
    if (!layer->sets || !add_set(layer, h, options, SP_FIT_DEFAULT, 0)) return false;
    if (!balanced) return true;
    if (!add_set(layer, h, options, SP_FIT_DOT, 0)) return false;
    for (size_t i = 0; i < options->clusters.n; i++)
        if (!add_set(layer, h, options, SP_FIT_CLUSTER, options->clusters.items[i])) return false;
    for (size_t i = 0; i < options->blocks.n; i++)
        if (!add_set(layer, h, options, SP_FIT_BLOCK, options->blocks.items[i])) return false;
    return true;
}

sp_status sp_fit_sets_new(const sp_hparams *hparams, const sp_fit_options *options, sp_fit **out,
                          sp_error *error)
{
    sp_fit *fit = sp_alloc_zero(1, sizeof *fit);
    bool enough = fit != NULL;
    if (enough) {
        fit->n_layers = hparams->n_layers;
        fit->n_heads = hparams->n_heads;
        fit->head_dim = hparams->head_dim;
        fit->seed = options->seed;
        fit->layers = sp_alloc_zero(2 * (size_t)fit->n_layers, sizeof *fit->layers);
        enough = fit->layers != NULL;
    }
    for (uint32_t l = 0; enough && l < hparams->n_layers; l++)
        enough = add_layer(&fit->layers[2 * l], hparams, options);
    if (enough) {
        *out = fit;
        return SP_OK;
    }
    sp_fit_close(fit);
    return sp_fail(error, SP_NO_MEMORY, "no memory for the fit of %u layers", hparams->n_layers);
}

sp_fit_set *sp_fit_sets_find(sp_fit_layer *layer, sp_fit_type type, uint32_t size)
{
    for (size_t i = 0; i < layer->n_sets; i++)
        if (layer->sets[i].type == type && layer->sets[i].size == size) return &layer->sets[i];
    return NULL;
}

void sp_fit_sets_visit(sp_fit_layer *layer, uint32_t n_heads, uint32_t head_dim, uint32_t first, uint32_t n,
                       void (*visit)(void *context, float *numbers, size_t count), void *context)
{
    for (size_t i = 0; i < layer->n_sets; i++) {
        sp_fit_set *set = &layer->sets[i];
        size_t rank = set->rank, map = (size_t)head_dim * rank;
        size_t k_first = (size_t)first * set->n_k_maps / n_heads, k_n = (size_t)n * set->n_k_maps / n_heads;
        visit(context, set->q_weight + first * map, n * map);
        visit(context, set->q_bias + first * rank, n * rank);
        visit(context, set->k_weight + k_first * map, k_n * map);
        visit(context, set->k_bias + k_first * rank, k_n * rank);
        for (size_t t = 0; t < set->n_thresholds; t++) visit(context, set->thresholds[t].values + first, n);
        for (size_t t = 0; t < set->n_bins; t++) {
            size_t each = rank * (set->bins[t].size - 1);
            visit(context, set->bins[t].values + first * each, n * each);
        }
        for (size_t t = 0; t < set->n_centroids; t++) {
            size_t each = (size_t)set->centroids[t].runs * set->centroids[t].size * rank;
            if (set->type == SP_FIT_BLOCK) each *= set->size;
            visit(context, set->centroids[t].values + first * each, n * each);
        }
    }
}

void sp_fit_sets_store(const sp_unit *unit, const sp_maps *folded, sp_fit_set *set)
{
    size_t dim = folded->shape.dim, rank = folded->shape.rank, map = dim * rank;
    uint32_t k_map = unit->first_head / (unit->sample->n_heads / set->n_k_maps);
    for (uint32_t h = 0; h < unit->n_heads; h++) {
        size_t head = unit->first_head + h;
        sp_transpose(rank, dim, folded->q + h * map, dim, set->q_weight + head * map, rank);
        memcpy(set->q_bias + head * rank, folded->q_bias + h * rank, rank * sizeof(float));
    }
    sp_transpose(rank, dim, folded->k, dim, set->k_weight + k_map * map, rank);
    memcpy(set->k_bias + k_map * rank, folded->k_bias, rank * sizeof(float));
}
