/* See clusters.h. */
#include "engine/attention/clusters.h"

#include <string.h>

#include "engine/attention/metrics.h"

#define BLOCK 256u /* rows projected at a time */

/* The centroids of a layer that the attention groups by; NULL: it does not. */
static const sp_fit_table *table_of(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                    const sp_fit_set **set)
{
    const sp_backend *backend = attention->backend;
    uint32_t top, runs;
    *set = fit && backend->codes && backend->centroids ? backend->codes(attention, fit, layer, SP_ATTEND_SELF)
                                                       : NULL;
    return *set ? backend->centroids(attention, *set, &top, &runs) : NULL;
}

sp_status sp_clusters_open(const sp_attention *attention, const sp_fit *fit, uint32_t n_layers,
                           uint32_t n_heads, sp_clusters *out, sp_error *error)
{
    const sp_fit_set *set;
    const sp_fit_table *table = table_of(attention, fit, 0, &set);
    *out = (sp_clusters){.n_layers = n_layers, .n_heads = n_heads};
    if (!table) return SP_OK;
    out->n_clusters = table->size;
    out->counts = sp_alloc_zero((size_t)n_layers * n_heads, (size_t)2 * table->size * sizeof *out->counts);
    return out->counts ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory to count clusters");
}

void sp_clusters_close(sp_clusters *clusters)
{
    sp_free(clusters->counts);
    *clusters = (sp_clusters){0};
}

size_t sp_clusters_bytes(const sp_fit *const *fits, size_t n_fits, uint32_t n_layers, uint32_t n_heads)
{
    size_t most = 0;
    for (size_t f = 0; f < n_fits; f++)
        for (size_t l = 0; fits[f] && l < 2 * (size_t)fits[f]->n_layers; l++)
            for (size_t i = 0; i < fits[f]->layers[l].n_sets; i++) {
                const sp_fit_set *set = &fits[f]->layers[l].sets[i];
                for (size_t t = 0; t < set->n_centroids; t++)
                    if (set->centroids[t].size > most) most = set->centroids[t].size;
            }
    return (size_t)n_layers * n_heads * 2 * most * sizeof(uint64_t);
}

typedef struct counter {
    sp_device *device;
    const sp_fit_set *set;
    const sp_fit_table *table;
    uint32_t n_heads, head_dim;
    float *projected, *wide; /* (BLOCK, n_heads, rank) */
    uint16_t *ids;           /* (BLOCK, n_heads) */
} counter;

/* Counts rows of queries or keys, x: (rows, n_in, head_dim). counts: those of the first head. */
static void count_block(const counter *self, const float *x, uint32_t rows, uint32_t n_in, bool keys,
                        uint64_t *counts)
{
    const sp_fit_set *set = self->set;
    uint32_t n_maps = keys ? set->n_k_maps : self->n_heads, group = self->n_heads / n_maps;
    const sp_project_args project = {.rows = rows,
                                     .n_in = n_in,
                                     .n_maps = n_maps,
                                     .dim = self->head_dim,
                                     .rank = set->rank,
                                     .x = x,
                                     .weight = keys ? set->k_weight : set->q_weight,
                                     .bias = keys ? set->k_bias : set->q_bias,
                                     .out = self->projected};
    self->device->ops->project(self->device, &project);
    for (size_t i = 0; i < (size_t)rows * self->n_heads; i++)
        memcpy(self->wide + i * set->rank, self->projected + i / group * set->rank,
               set->rank * sizeof(float));
    const sp_assign_args assign = {.rows = rows,
                                   .n_maps = self->n_heads,
                                   .rank = set->rank,
                                   .n_centroids = self->table->size,
                                   .top = 1,
                                   .x = self->wide,
                                   .centroids = self->table->values,
                                   .centroid_stride =
                                       (size_t)self->table->runs * self->table->size * set->rank,
                                   .ids = self->ids};
    self->device->ops->assign(self->device, &assign);
    for (size_t i = 0; i < (size_t)rows * self->n_heads; i++)
        counts[i % self->n_heads * 2 * self->table->size + self->ids[i]]++;
}

sp_status sp_clusters_count(sp_clusters *clusters, sp_device *device, const sp_attention *attention,
                            const sp_fit *fit, uint32_t layer, uint32_t rows, uint32_t n_kv_heads,
                            const float *q, const float *k, sp_error *error)
{
    if (!clusters || !clusters->counts) return SP_OK;
    counter self = {.device = device, .n_heads = clusters->n_heads, .head_dim = fit->head_dim};
    self.table = table_of(attention, fit, layer, &self.set);
    size_t floats = (size_t)BLOCK * self.n_heads * self.set->rank;
    self.projected = sp_alloc(floats, sizeof(float));
    self.wide = sp_alloc(floats, sizeof(float));
    self.ids = sp_alloc((size_t)BLOCK * self.n_heads, sizeof(uint16_t));
    bool enough = self.projected && self.wide && self.ids;
    size_t of_layer = (size_t)layer * self.n_heads * 2 * clusters->n_clusters;
    uint64_t *counts = clusters->counts + of_layer;
    for (uint32_t row = 0; enough && row < rows; row += BLOCK) {
        uint32_t n = rows - row < BLOCK ? rows - row : BLOCK;
        count_block(&self, q + (size_t)row * self.n_heads * self.head_dim, n, self.n_heads, false, counts);
        count_block(&self, k + (size_t)row * n_kv_heads * self.head_dim, n, n_kv_heads, true,
                    counts + clusters->n_clusters);
    }
    sp_free(self.projected);
    sp_free(self.wide);
    sp_free(self.ids);
    return enough ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory to count clusters");
}

void sp_clusters_fold(const sp_clusters *clusters, sp_head_measure *measures)
{
    size_t n = clusters->n_clusters;
    for (size_t i = 0; clusters->counts && i < (size_t)clusters->n_layers * clusters->n_heads; i++) {
        const uint64_t *queries = clusters->counts + 2 * i * n, *keys = queries + n;
        uint64_t tokens = 0;
        sp_head_measure *measure = &measures[i];
        for (size_t c = 0; c < n; c++) {
            tokens += queries[c];
            measure->operations += queries[c] * keys[c];
        }
        if (tokens == 0) continue;
        measure->clusters = (uint32_t)n;
        measure->sequences++;
        measure->entropy_q += sp_cluster_entropy(queries, n);
        measure->entropy_k += sp_cluster_entropy(keys, n);
        measure->operations_balanced += sp_balanced_operations(tokens, n);
    }
}
