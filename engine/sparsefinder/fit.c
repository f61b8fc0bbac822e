/* See fit.h: finding what a fit holds, checking it against a model, freeing it. Reading and writing are in
 * fit_read.c and fit_write.c. */
#include <stdio.h>
#include <string.h>

#include "engine/sparsefinder/fit_parts.h"

static void free_tables(sp_fit_table *tables, size_t n)
{
    for (size_t i = 0; i < n; i++) sp_free(tables[i].values);
    sp_free(tables);
}

static void free_set(sp_fit_set *set)
{
    sp_free(set->q_weight);
    sp_free(set->q_bias);
    sp_free(set->k_weight);
    sp_free(set->k_bias);
    free_tables(set->centroids, set->n_centroids);
    free_tables(set->bins, set->n_bins);
    free_tables(set->thresholds, set->n_thresholds);
}

void sp_fit_close(sp_fit *fit)
{
    if (!fit) return;
    for (size_t i = 0; fit->layers && i < 2 * (size_t)fit->n_layers; i++) {
        for (size_t k = 0; k < fit->layers[i].n_sets; k++) free_set(&fit->layers[i].sets[k]);
        sp_free(fit->layers[i].sets);
    }
    sp_free(fit->layers);
    sp_free(fit);
}

static sp_status fail_count(sp_error *error, const char *key, const char *what, uint32_t has, uint32_t wants)
{
    return sp_fail_param(error, SP_DATA, key, "the fit was made for %u %s, the model has %u", (unsigned)has,
                         what, (unsigned)wants);
}

/* The file alone does not say how many KV heads the model has. */
static sp_status check_key_maps(const sp_fit *fit, uint32_t n_kv_heads, sp_error *error)
{
    for (size_t i = 0; i < 2 * (size_t)fit->n_layers; i++)
        for (size_t k = 0; k < fit->layers[i].n_sets; k++) {
            uint32_t maps = fit->layers[i].sets[k].n_k_maps;
            if (maps != fit->n_heads && maps != n_kv_heads)
                return sp_fail_param(error, SP_DATA, "k_proj",
                                     "the fit has %u maps of keys in layer %u; the model takes one a query "
                                     "head (%u) or one a KV head (%u)",
                                     (unsigned)maps, (unsigned)(i / 2), (unsigned)fit->n_heads,
                                     (unsigned)n_kv_heads);
        }
    return SP_OK;
}

sp_status sp_fit_check(const sp_fit *fit, const char *fingerprint, uint32_t n_layers, uint32_t n_heads,
                       uint32_t n_kv_heads, uint32_t head_dim, sp_error *error)
{
    if (fit->n_layers != n_layers) return fail_count(error, "layers", "layers", fit->n_layers, n_layers);
    if (fit->n_heads != n_heads) return fail_count(error, "heads", "query heads", fit->n_heads, n_heads);
    if (fit->head_dim != head_dim) return fail_count(error, "d", "numbers a head", fit->head_dim, head_dim);
    if (fingerprint[0] && !fit->model[0])
        return sp_fail_param(error, SP_DATA, "model",
                             "the fit does not say which model it was made for; this one is %s", fingerprint);
    if (fingerprint[0] && strcmp(fit->model, fingerprint) != 0)
        return sp_fail_param(error, SP_DATA, "model", "the fit was made for the model %s, this one is %s",
                             fit->model, fingerprint);
    return check_key_maps(fit, n_kv_heads, error);
}

/* --- layers alike --- */

static sp_status fail_layer(const char *set, const char *leaf, uint32_t size, size_t other, sp_error *error)
{
    char name[128], what[48] = "is missing";
    snprintf(name, sizeof name, "%s%s", set, leaf);
    if (size) snprintf(what, sizeof what, "has none of size %u", (unsigned)size);
    return sp_fail_param(error, SP_DATA, name, "%s %s, layer %u has it", name, what, (unsigned)(other / 2));
}

/* The tables of one sort, by their sizes. */
static sp_status same_tables(const char *set, const char *leaf, size_t other, const sp_fit_table *tables,
                             size_t n, const sp_fit_table *wanted, size_t n_wanted, sp_error *error)
{
    for (size_t i = 0; i < n_wanted; i++) {
        const sp_fit_table *found = sp_fit_table_find(tables, n, wanted[i].size); /* size 0 finds any */
        if (!found || found->size != wanted[i].size)
            return fail_layer(set, leaf, wanted[i].size, other, error);
    }
    return SP_OK;
}

/* Whether place (2 layer + kind) has a set of the place `other`, with its tables. */
static sp_status has_set(const sp_fit *fit, size_t place, size_t other, const sp_fit_set *wanted,
                         sp_error *error)
{
    char name[96];
    sp_fit_name_set(name, place, wanted);
    const sp_fit_set *set = sp_fit_find(
        fit, (uint32_t)(place / 2), place % 2 ? SP_ATTEND_CROSS : SP_ATTEND_SELF, wanted->type, wanted->size);
    if (!set) return fail_layer(name, "q_proj.weight", 0, other, error);
    sp_status status = same_tables(name, "centroids", other, set->centroids, set->n_centroids,
                                   wanted->centroids, wanted->n_centroids, error);
    if (status == SP_OK)
        status =
            same_tables(name, "bins", other, set->bins, set->n_bins, wanted->bins, wanted->n_bins, error);
    if (status == SP_OK)
        status = same_tables(name, "thresholds", other, set->thresholds, set->n_thresholds,
                             wanted->thresholds, wanted->n_thresholds, error);
    return status;
}

sp_status sp_fit_check_layers(const sp_fit *fit, sp_error *error)
{
    const sp_fit_layer *layers = fit->layers;
    size_t n_sets = 0;
    for (size_t place = 0; place < 2 * (size_t)fit->n_layers; place++) {
        size_t first = place % 2;
        sp_status status = SP_OK;
        n_sets += layers[place].n_sets;
        for (size_t k = 0; k < layers[first].n_sets && status == SP_OK; k++)
            status = has_set(fit, place, first, &layers[first].sets[k], error);
        for (size_t k = 0; k < layers[place].n_sets && status == SP_OK; k++)
            status = has_set(fit, first, place, &layers[place].sets[k], error);
        if (status != SP_OK) return status;
    }
    if (n_sets) return SP_OK;
    return sp_fail_param(error, SP_DATA, "layers.0.self.q_proj.weight",
                         "layers.0.self.q_proj.weight is missing: the fit holds no maps");
}

const sp_fit_set *sp_fit_find(const sp_fit *fit, uint32_t layer, sp_attend_kind kind, sp_fit_type type,
                              uint32_t size)
{
    if (layer >= fit->n_layers) return NULL;
    const sp_fit_layer *all = &fit->layers[2 * (size_t)layer + (kind == SP_ATTEND_CROSS)];
    for (size_t i = 0; i < all->n_sets; i++)
        if (all->sets[i].type == type && all->sets[i].size == size) return &all->sets[i];
    return NULL;
}

/* A table with a size in its name comes before the one without, where both have this size. */
const sp_fit_table *sp_fit_table_find(const sp_fit_table *tables, size_t n, uint32_t size)
{
    if (n == 0) return NULL;
    if (size == 0) return &tables[0];
    for (size_t i = 1; i < n; i++)
        if (tables[i].size == size) return &tables[i];
    return tables[0].size == size ? &tables[0] : NULL;
}
