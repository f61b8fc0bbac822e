/* See import_fit.h. */
#include "engine/sparsefinder/import_fit.h"

#include <stdio.h>
#include <string.h>

#define MAX_LAYERS 1024u
#define MAX_HEADS 1024u
#define MAX_DIM 4096u
#define MAX_CENTROIDS 65535u
#define MAX_FLOATS ((size_t)1 << 26) /* of all tensors that are taken from one file */

/* A tensor of the file by its path in words: "layer 3, q, w". */
typedef struct named_tensor {
    const sp_stored_tensor *tensor;
    char what[64];
} named_tensor;

static sp_status take_tensor(const sp_torch_file *file, const sp_value *dict, const char *key, size_t layer,
                             const char *side, uint32_t rank, named_tensor *out, sp_error *error)
{
    const sp_value *value = sp_value_find(dict, key);
    (void)snprintf(out->what, sizeof out->what, "layer %zu, %s, %s", layer, side, key);
    if (!value || value->type != SP_VALUE_TENSOR || value->tensor->rank != rank)
        return sp_fail(error, SP_DATA, "%s: %s is no tensor of %u dimensions", file->name, out->what, rank);
    out->tensor = value->tensor;
    return SP_OK;
}

/* All values of a tensor in fresh memory. */
static sp_status read_values(sp_torch_file *file, const named_tensor *from, float **out, sp_error *error)
{
    size_t n;
    if (!sp_torch_count(from->tensor, &n) || n == 0 || n > MAX_FLOATS - file->n_taken)
        return sp_fail(error, SP_DATA, "%s: %s is empty, or the tensors have more than %zu values",
                       file->name, from->what, MAX_FLOATS);
    file->n_taken += n;
    *out = sp_alloc(n, sizeof **out);
    if (!*out) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu values", n);
    return sp_torch_floats(file, from->tensor, from->what, *out, error);
}

/* --- projections --- */

static sp_status check_form(const sp_torch_file *file, const sp_value *map, size_t layer, const char *side,
                            sp_error *error)
{
    if (!map || map->type != SP_VALUE_DICT)
        return sp_fail(error, SP_DATA, "%s: layer %zu has no dictionary \"%s\"", file->name, layer, side);
    if (map->n == 8 && sp_value_find(map, "w1"))
        return sp_fail(error, SP_UNSUPPORTED,
                       "%s: layer %zu, %s is an MLP (w1, b1, w2, b2); only linear projections (w, b) can be "
                       "imported",
                       file->name, layer, side);
    if (map->n != 4)
        return sp_fail(error, SP_DATA,
                       "%s: layer %zu, %s has %zu entries, not the two of a linear projection", file->name,
                       layer, side, map->n / 2);
    return SP_OK;
}

/* One side's map: weight (H, d, r), bias (H, r). The first one sets the fit's head counts and the rank. */
static sp_status read_map(sp_torch_file *file, const sp_value *of_layer, size_t layer, const char *side,
                          sp_fit *fit, uint32_t *rank, float **weight, float **bias, sp_error *error)
{
    named_tensor w, b;
    const sp_value *map = sp_value_find(of_layer, side);
    sp_status status = check_form(file, map, layer, side, error);
    if (!status) status = take_tensor(file, map, "w", layer, side, 3, &w, error);
    if (!status) status = take_tensor(file, map, "b", layer, side, 3, &b, error);
    if (status) return status;
    const size_t *shape = w.tensor->shape, *bias_shape = b.tensor->shape;
    if (shape[0] - 1 >= MAX_HEADS || shape[1] - 1 >= MAX_DIM || shape[2] - 1 >= shape[1])
        return sp_fail(error, SP_DATA, "%s: %s has shape [%zu, %zu, %zu]: no projection of a head",
                       file->name, w.what, shape[0], shape[1], shape[2]);
    if (fit->n_heads == 0) {
        fit->n_heads = (uint32_t)shape[0];
        fit->head_dim = (uint32_t)shape[1];
    }
    if (*rank == 0) *rank = (uint32_t)shape[2];
    if (shape[0] != fit->n_heads || shape[1] != fit->head_dim || shape[2] != *rank)
        return sp_fail(error, SP_DATA, "%s: %s has shape [%zu, %zu, %zu]; those before have [%u, %u, %u]",
                       file->name, w.what, shape[0], shape[1], shape[2], fit->n_heads, fit->head_dim, *rank);
    if (bias_shape[0] != shape[0] || bias_shape[1] != 1 || bias_shape[2] != shape[2])
        return sp_fail(error, SP_DATA, "%s: %s has shape [%zu, %zu, %zu], not [%zu, 1, %zu]", file->name,
                       b.what, bias_shape[0], bias_shape[1], bias_shape[2], shape[0], shape[2]);
    status = read_values(file, &w, weight, error);
    return status ? status : read_values(file, &b, bias, error);
}

static sp_status read_projections(sp_torch_file *file, size_t layer, sp_fit *fit, sp_fit_set *set,
                                  sp_error *error)
{
    const sp_value *of_layer = file->root->items[layer];
    sp_status status =
        read_map(file, of_layer, layer, "q", fit, &set->rank, &set->q_weight, &set->q_bias, error);
    if (!status)
        status = read_map(file, of_layer, layer, "k", fit, &set->rank, &set->k_weight, &set->k_bias, error);
    if (status) return status;
    size_t biases = (size_t)fit->n_heads * set->rank, weights = biases * fit->head_dim;
    set->n_k_maps = fit->n_heads;
    set->shared = memcmp(set->q_weight, set->k_weight, weights * sizeof(float)) == 0 &&
                  memcmp(set->q_bias, set->k_bias, biases * sizeof(float)) == 0;
    return SP_OK;
}

/* --- centroids --- */

/* A second set with the same maps, for blocks of `block` tokens. */
static sp_status copy_maps(const sp_fit *fit, const sp_fit_set *from, uint32_t block, sp_fit_set *to,
                           sp_error *error)
{
    size_t biases = (size_t)fit->n_heads * from->rank, weights = biases * fit->head_dim;
    *to = (sp_fit_set){.type = SP_FIT_BLOCK,
                       .size = block,
                       .rank = from->rank,
                       .n_k_maps = from->n_k_maps,
                       .shared = from->shared};
    const float *const values[] = {from->q_weight, from->k_weight, from->q_bias, from->k_bias};
    float **const places[] = {&to->q_weight, &to->k_weight, &to->q_bias, &to->k_bias};
    for (size_t i = 0; i < 4; i++) {
        size_t n = i < 2 ? weights : biases;
        *places[i] = sp_alloc(n, sizeof(float));
        if (!*places[i]) return sp_fail(error, SP_NO_MEMORY, "no memory for the maps of a layer");
        memcpy(*places[i], values[i], n * sizeof(float));
    }
    return SP_OK;
}

static sp_status read_centroids(sp_torch_file *file, size_t n, sp_fit *fit, sp_fit_layer *layer,
                                sp_error *error)
{
    named_tensor from;
    const sp_value *value = file->root->items[n];
    (void)snprintf(from.what, sizeof from.what, "the centroids of layer %zu", n);
    if (value->type != SP_VALUE_TENSOR || value->tensor->rank != 4)
        return sp_fail(error, SP_DATA, "%s: layer %zu is no tensor of 4 dimensions", file->name, n);
    from.tensor = value->tensor;
    const size_t *shape = value->tensor->shape;
    uint32_t rank = layer->sets[0].rank;
    if (shape[0] != fit->n_heads || shape[1] - 1 >= 256 || shape[2] - 1 >= MAX_CENTROIDS || shape[3] == 0 ||
        shape[3] % rank || shape[3] / rank > MAX_DIM)
        return sp_fail(error, SP_DATA,
                       "%s: %s have shape [%zu, %zu, %zu, %zu]; expected [%u heads, runs, clusters, %u or a "
                       "multiple for blocks]",
                       file->name, from.what, shape[0], shape[1], shape[2], shape[3], fit->n_heads, rank);
    sp_fit_set *set = &layer->sets[0];
    if (shape[3] != rank) {
        set = &layer->sets[layer->n_sets++];
        sp_status status = copy_maps(fit, &layer->sets[0], (uint32_t)(shape[3] / rank), set, error);
        if (status) return status;
    }
    set->centroids = sp_alloc_zero(1, sizeof *set->centroids);
    if (!set->centroids) return sp_fail(error, SP_NO_MEMORY, "no memory for centroids");
    set->n_centroids = 1;
    set->centroids[0].size = (uint32_t)shape[2];
    set->centroids[0].runs = (uint32_t)shape[1];
    return read_values(file, &from, &set->centroids[0].values, error);
}

/* --- the whole --- */

static sp_status check_counts(const sp_torch_file *file, const sp_import_options *options, const sp_fit *fit,
                              sp_error *error)
{
    const struct {
        const char *what;
        uint32_t wanted, found;
    } counts[] = {{"layers", options->layers, fit->n_layers},
                  {"heads", options->heads, fit->n_heads},
                  {"numbers a head", options->head_dim, fit->head_dim}};
    for (size_t i = 0; i < 3; i++)
        if (counts[i].wanted && counts[i].wanted != counts[i].found)
            return sp_fail(error, SP_DATA, "%s: the projections are of %u %s, expected are %u", file->name,
                           counts[i].found, counts[i].what, counts[i].wanted);
    return SP_OK;
}

static sp_status check_lists(const sp_torch_file *projections, const sp_torch_file *centroids,
                             sp_error *error)
{
    const sp_value *list = projections->root;
    if (list->type != SP_VALUE_LIST || list->n == 0 || list->n > MAX_LAYERS)
        return sp_fail(error, SP_DATA, "%s: no list of 1 to %u layers", projections->name, MAX_LAYERS);
    if (!centroids) return SP_OK;
    const sp_value *other = centroids->root;
    if (other->type != SP_VALUE_LIST || other->n != list->n)
        return sp_fail(error, SP_DATA, "%s: no list of %zu layers, as %s has", centroids->name, list->n,
                       projections->name);
    return SP_OK;
}

static sp_status read_layers(sp_torch_file *projections, sp_torch_file *centroids,
                             const sp_import_options *options, sp_fit *fit, sp_error *error)
{
    for (size_t n = 0; n < fit->n_layers; n++) {
        sp_fit_layer *layer = &fit->layers[2 * n];
        layer->sets = sp_alloc_zero(2, sizeof *layer->sets);
        if (!layer->sets) return sp_fail(error, SP_NO_MEMORY, "no memory for layer %zu", n);
        layer->n_sets = 1;
        sp_status status = read_projections(projections, n, fit, &layer->sets[0], error);
        if (!status && n == 0) status = check_counts(projections, options, fit, error);
        if (!status && centroids) status = read_centroids(centroids, n, fit, layer, error);
        if (status) return status;
    }
    return SP_OK;
}

sp_status sp_fit_import(sp_torch_file *projections, sp_torch_file *centroids,
                        const sp_import_options *options, sp_fit **out, sp_error *error)
{
    sp_status status = check_lists(projections, centroids, error);
    if (status) return status;
    sp_fit *fit = sp_alloc_zero(1, sizeof *fit);
    if (!fit) return sp_fail(error, SP_NO_MEMORY, "no memory for a fit");
    fit->n_layers = (uint32_t)projections->root->n;
    fit->alpha = options->alpha;
    if (options->model) (void)snprintf(fit->model, sizeof fit->model, "%s", options->model);
    fit->layers = sp_alloc_zero((size_t)2 * fit->n_layers, sizeof *fit->layers);
    status = fit->layers ? read_layers(projections, centroids, options, fit, error)
                         : sp_fail(error, SP_NO_MEMORY, "no memory for %u layers", fit->n_layers);
    if (status)
        sp_fit_close(fit);
    else
        *out = fit;
    return status;
}
