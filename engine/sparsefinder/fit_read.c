/* Reads a fit file (engine/README.md, "The fit file"): hostile input. The safetensors reader has checked that
 * every tensor's bytes are there, so what is copied is no larger than the file.
 *
 * Two walks over the tensors, whose names the table hands out sorted. The first makes a set of every
 * q_proj.weight and learns from it heads, head size and rank; the second gives every other tensor to its set
 * and refuses those that have none. Every value is finite, but thresholds may be infinite. Tests:
 * tests/unit/engine/test_fit_file.c, tests/fuzz/fuzz_fit.c */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sparsefinder/fit_parts.h"

#define MAX_SETS 64u    /* of a layer */
#define MAX_TABLES 128u /* of one sort in a set */

static sp_status fail(const sp_fit_reading *r, const char *name, const char *reason)
{
    return sp_fail_param(r->error, SP_DATA, name, "%s: %.120s: %s", r->file, name, reason);
}

static sp_status fail_memory(const sp_fit_reading *r)
{
    return sp_fail(r->error, SP_NO_MEMORY, "%s: out of memory while reading a fit", r->file);
}

/* --- values --- */

static sp_status check_shape(const sp_fit_reading *r, const char *name, const sp_tensor *t, uint32_t rank,
                             const size_t *wanted)
{
    bool same = t->rank == rank;
    for (uint32_t i = 0; same && i < rank; i++) same = t->shape[i] == wanted[i];
    if (same) return SP_OK;
    char text[160];
    size_t used = (size_t)snprintf(text, sizeof text, "the shape is [");
    for (uint32_t i = 0; i < t->rank; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%zu", i ? ", " : "", t->shape[i]);
    used += (size_t)snprintf(text + used, sizeof text - used, "], not [");
    for (uint32_t i = 0; i < rank && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%zu", i ? ", " : "", wanted[i]);
    if (used < sizeof text) snprintf(text + used, sizeof text - used, "]");
    return fail(r, name, text);
}

/* Copies a tensor whose shape was checked. */
static sp_status copy_values(const sp_fit_reading *r, const char *name, const sp_tensor *t, bool infinite_too,
                             float **out)
{
    if (t->dtype != SP_F32) return fail(r, name, "the numbers of a fit are F32");
    if (*out) return fail(r, name, "is there twice");
    size_t n = sp_tensor_count(t);
    const float *values = t->data;
    for (size_t i = 0; i < n; i++)
        if (isnan(values[i]) || (isinf(values[i]) && !infinite_too))
            return fail(r, name, "holds NaN or infinity");
    *out = sp_alloc(n, sizeof **out);
    if (!*out) return n ? fail_memory(r) : fail(r, name, "is empty");
    memcpy(*out, values, n * sizeof **out);
    return SP_OK;
}

/* --- the first walk: sets --- */

static sp_fit_set *find_set(const sp_fit *fit, const sp_fit_place *where)
{
    sp_fit_layer *layer = &fit->layers[2 * (size_t)where->layer + where->kind];
    for (size_t i = 0; i < layer->n_sets; i++)
        if (layer->sets[i].type == where->type && layer->sets[i].size == where->size) return &layer->sets[i];
    return NULL;
}

/* A longer copy of an array with room for one more item at its end, cleared; NULL out of memory. */
static void *grown(void *items, size_t n, size_t size)
{
    uint8_t *more = sp_alloc_zero(n + 1, size);
    if (more && n) memcpy(more, items, n * size);
    if (more) sp_free(items);
    return more;
}

static sp_status read_sizes(const sp_fit_reading *r, const char *name, const sp_tensor *t, sp_fit_set *set)
{
    sp_fit *fit = r->fit;
    if (t->rank != 3 || t->shape[0] < 1 || t->shape[0] > SP_FIT_MAX_HEADS || t->shape[1] < 1 ||
        t->shape[1] > SP_MAX_HEAD_DIM || t->shape[2] < 1 || t->shape[2] > SP_FIT_MAX_RANK)
        return fail(r, name, "must have three dimensions: heads, head size and rank, each 1 to 1024");
    if (fit->n_heads == 0) {
        fit->n_heads = (uint32_t)t->shape[0];
        fit->head_dim = (uint32_t)t->shape[1];
    }
    const size_t wanted[3] = {fit->n_heads, fit->head_dim, t->shape[2]};
    sp_status status = check_shape(r, name, t, 3, wanted);
    if (status != SP_OK) return status;
    set->rank = (uint32_t)t->shape[2];
    return copy_values(r, name, t, false, &set->q_weight);
}

static sp_status make_set(const sp_fit_reading *r, const char *name, const sp_fit_place *where,
                          const sp_tensor *t)
{
    sp_fit_layer *layer = &r->fit->layers[2 * (size_t)where->layer + where->kind];
    if (layer->n_sets == MAX_SETS) return fail(r, name, "the layer has more than 64 sets");
    sp_fit_set *sets = grown(layer->sets, layer->n_sets, sizeof *sets);
    if (!sets) return fail_memory(r);
    layer->sets = sets;
    sp_fit_set *set = &sets[layer->n_sets++];
    set->type = where->type;
    set->size = where->size;
    return read_sizes(r, name, t, set);
}

/* Names that are no part of a fit are refused in a fit file and passed over in a body that holds one. */
static sp_status make_sets(const sp_fit_reading *r)
{
    sp_status status = SP_OK;
    for (size_t i = 0; i < sp_weights_count(r->weights) && status == SP_OK; i++) {
        const char *name = sp_weights_name(r->weights, i);
        sp_fit_place where;
        if (!sp_fit_read_name(name, &where)) {
            if (!r->one_layer || strncmp(name, "layers.", 7) == 0)
                status = fail(r, name, "is no tensor of a fit");
        } else if (where.layer >= r->fit->n_layers)
            status = fail(r, name, "lies beyond the number of layers");
        else if (where.what == SP_FIT_Q_WEIGHT)
            status = make_set(r, name, &where, sp_weights_at(r->weights, i));
    }
    return status;
}

/* --- the second walk: everything else --- */

/* Whether the table that has no size in its name is there too: it comes first. */
static bool has_bare(const sp_fit_reading *r, const char *name)
{
    char bare[256];
    snprintf(bare, sizeof bare, "%s", name);
    char *dot = strrchr(bare, '.');
    if (dot) *dot = 0;
    return sp_weights_find(r->weights, bare) != NULL;
}

/* Names come sorted as texts, sizes are numbers. Takes table.values over, also when it fails. */
static sp_status insert_table(const sp_fit_reading *r, const char *name, sp_fit_table table, bool bare,
                              sp_fit_table **tables, size_t *n)
{
    sp_fit_table *more = *n == MAX_TABLES ? NULL : grown(*tables, *n, sizeof *more);
    if (!more) {
        sp_free(table.values);
        return *n == MAX_TABLES ? fail(r, name, "the set has more than 128 of them") : fail_memory(r);
    }
    *tables = more;
    size_t first = !bare && *n && has_bare(r, name) ? 1 : 0, at = bare ? 0 : *n;
    while (!bare && at > first && more[at - 1].size > table.size) at--;
    memmove(more + at + 1, more + at, (*n - at) * sizeof *more);
    more[at] = table;
    (*n)++;
    return SP_OK;
}

static sp_status read_thresholds(const sp_fit_reading *r, const char *name, const sp_fit_place *where,
                                 const sp_tensor *t, sp_fit_set *set)
{
    sp_fit_table table = {.size = where->table};
    sp_status status = check_shape(r, name, t, 1, (const size_t[]){r->fit->n_heads});
    if (status == SP_OK) status = copy_values(r, name, t, true, &table.values);
    if (status != SP_OK) return status;
    return insert_table(r, name, table, !where->table, &set->thresholds, &set->n_thresholds);
}

static sp_status read_bins(const sp_fit_reading *r, const char *name, const sp_fit_place *where,
                           const sp_tensor *t, sp_fit_set *set)
{
    size_t borders = where->table ? where->table - 1 : t->rank == 3 ? t->shape[2] : 1;
    sp_fit_table table = {.size = (uint32_t)borders + 1};
    if (borders < 1 || borders >= SP_FIT_MAX_CENTROIDS) return fail(r, name, "a head has 2 to 65535 bins");
    sp_status status = check_shape(r, name, t, 3, (const size_t[]){r->fit->n_heads, set->rank, borders});
    if (status == SP_OK) status = copy_values(r, name, t, false, &table.values);
    if (status != SP_OK) return status;
    return insert_table(r, name, table, !where->table, &set->bins, &set->n_bins);
}

static sp_status read_centroids(const sp_fit_reading *r, const char *name, const sp_fit_place *where,
                                const sp_tensor *t, sp_fit_set *set)
{
    size_t runs = t->rank == 4 ? t->shape[1] : 1, count = t->rank == 4 ? t->shape[2] : 1;
    size_t wide = (size_t)set->rank * (set->type == SP_FIT_BLOCK ? set->size : 1);
    if (where->table) count = where->table;
    if (set->type == SP_FIT_CLUSTER) count = set->size;
    if (runs < 1 || runs > 64 || count < 1 || count > SP_FIT_MAX_CENTROIDS)
        return fail(r, name, "a head has 1 to 64 runs of 1 to 65535 centroids");
    sp_fit_table table = {.size = (uint32_t)count, .runs = (uint32_t)runs};
    sp_status status = check_shape(r, name, t, 4, (const size_t[]){r->fit->n_heads, runs, count, wide});
    if (status == SP_OK) status = copy_values(r, name, t, false, &table.values);
    if (status != SP_OK) return status;
    return insert_table(r, name, table, !where->table, &set->centroids, &set->n_centroids);
}

static sp_status read_k_weight(const sp_fit_reading *r, const char *name, const sp_tensor *t, sp_fit_set *set)
{
    size_t heads = r->fit->n_heads, maps = t->rank == 3 ? t->shape[0] : heads;
    if (maps < 1 || maps > heads || heads % maps != 0)
        return fail(r, name, "the number of key maps does not divide the number of heads");
    sp_status status = check_shape(r, name, t, 3, (const size_t[]){maps, r->fit->head_dim, set->rank});
    set->n_k_maps = (uint32_t)maps;
    return status == SP_OK ? copy_values(r, name, t, false, &set->k_weight) : status;
}

static sp_status read_k_bias(const sp_fit_reading *r, const char *name, const sp_tensor *t, sp_fit_set *set)
{
    /* k_proj.bias comes before k_proj.weight: how many maps there are is checked at the end. */
    size_t maps = t->rank == 2 ? t->shape[0] : r->fit->n_heads;
    sp_status status = check_shape(r, name, t, 2, (const size_t[]){maps, set->rank});
    if (status == SP_OK) status = copy_values(r, name, t, false, &set->k_bias);
    return status;
}

static sp_status read_part(const sp_fit_reading *r, const char *name, const sp_fit_place *where,
                           const sp_tensor *t)
{
    sp_fit_set *set = find_set(r->fit, where);
    sp_status status;
    if (!set) return fail(r, name, "its set has no q_proj.weight");
    switch (where->what) {
    case SP_FIT_Q_BIAS:
        status = check_shape(r, name, t, 2, (const size_t[]){r->fit->n_heads, set->rank});
        return status == SP_OK ? copy_values(r, name, t, false, &set->q_bias) : status;
    case SP_FIT_K_WEIGHT:
        return read_k_weight(r, name, t, set);
    case SP_FIT_K_BIAS:
        return read_k_bias(r, name, t, set);
    case SP_FIT_CENTROIDS:
        return read_centroids(r, name, where, t, set);
    case SP_FIT_BINS:
        return read_bins(r, name, where, t, set);
    case SP_FIT_THRESHOLDS:
        return read_thresholds(r, name, where, t, set);
    default:
        return SP_OK;
    }
}

static sp_status read_parts(const sp_fit_reading *r)
{
    sp_status status = SP_OK;
    for (size_t i = 0; i < sp_weights_count(r->weights) && status == SP_OK; i++) {
        const char *name = sp_weights_name(r->weights, i);
        sp_fit_place where;
        if (sp_fit_read_name(name, &where)) status = read_part(r, name, &where, sp_weights_at(r->weights, i));
    }
    return status;
}

/* --- whole sets --- */

static float *copy_of(const float *values, size_t n)
{
    float *copy = sp_alloc(n, sizeof *copy);
    if (copy) memcpy(copy, values, n * sizeof *copy);
    return copy;
}

static sp_status finish_set(const sp_fit_reading *r, const char *where, sp_fit_set *set)
{
    size_t heads = r->fit->n_heads, rank = set->rank;
    if (!set->q_bias) return fail(r, where, "q_proj.bias is missing");
    if (!set->k_weight != !set->k_bias) return fail(r, where, "of k_proj one of weight and bias is missing");
    if (set->k_weight) {
        char name[128];
        snprintf(name, sizeof name, "%sk_proj.bias", where);
        const sp_tensor *bias = sp_weights_find(r->weights, name);
        return check_shape(r, name, bias, 2, (const size_t[]){set->n_k_maps, rank});
    }
    set->shared = true;
    set->n_k_maps = (uint32_t)heads;
    set->k_weight = copy_of(set->q_weight, heads * r->fit->head_dim * rank);
    set->k_bias = copy_of(set->q_bias, heads * rank);
    return set->k_weight && set->k_bias ? SP_OK : fail_memory(r);
}

static int by_type(const void *left, const void *right)
{
    const sp_fit_set *a = left, *b = right;
    if (a->type != b->type) return a->type < b->type ? -1 : 1;
    return a->size < b->size ? -1 : a->size > b->size;
}

static sp_status finish_sets(const sp_fit_reading *r)
{
    sp_status status = SP_OK;
    for (size_t i = 0; i < 2 * (size_t)r->fit->n_layers && status == SP_OK; i++) {
        sp_fit_layer *layer = &r->fit->layers[i];
        for (size_t k = 0; k < layer->n_sets && status == SP_OK; k++) {
            char where[96];
            sp_fit_name_set(where, i, &layer->sets[k]);
            status = finish_set(r, where, &layer->sets[k]);
        }
        if (layer->n_sets) qsort(layer->sets, layer->n_sets, sizeof *layer->sets, by_type);
    }
    return status;
}

static sp_status read_all(const sp_fit_reading *r)
{
    sp_status status = sp_fit_read_metadata(r);
    if (status != SP_OK) return status;
    if (r->fit->n_layers == 0)
        return sp_fail_param(r->error, SP_DATA, "fit", "%s holds no tensors of a fit", r->file);
    r->fit->layers = sp_alloc_zero(2 * (size_t)r->fit->n_layers, sizeof *r->fit->layers);
    if (!r->fit->layers) return fail_memory(r);
    status = make_sets(r);
    if (status == SP_OK) status = read_parts(r);
    return status == SP_OK ? finish_sets(r) : status;
}

sp_status sp_fit_from(const char *name, const sp_weights *weights, bool one_layer, sp_fit **out,
                      sp_error *error)
{
    const sp_fit_reading r = {.file = name,
                              .weights = weights,
                              .one_layer = one_layer,
                              .fit = sp_alloc_zero(1, sizeof(sp_fit)),
                              .error = error};
    *out = NULL;
    sp_status status = r.fit ? read_all(&r) : fail_memory(&r);
    if (status == SP_OK)
        *out = r.fit;
    else
        sp_fit_close(r.fit);
    return status;
}

/* Thresholds may be infinite: values are checked here, not by the reader of tensors. */
sp_status sp_fit_open(const char *path, sp_fit **out, sp_error *error)
{
    static const sp_weights_options options = {.allow_nonfinite = true};
    sp_weights *weights;
    *out = NULL;
    sp_status status = sp_weights_open(path, &options, &weights, error);
    if (status != SP_OK) return status;
    status = sp_fit_from(path, weights, false, out, error);
    sp_weights_close(weights);
    return status;
}

sp_status sp_fit_read(const char *name, const void *bytes, size_t size, bool one_layer, sp_fit **out,
                      sp_error *error)
{
    sp_weights *weights;
    *out = NULL;
    sp_status status = sp_weights_parse(name, bytes, size, &weights, error);
    if (status != SP_OK) return status;
    status = sp_fit_from(name, weights, one_layer, out, error);
    sp_weights_close(weights);
    return status;
}
