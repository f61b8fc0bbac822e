/* sparsefinder, grouping cluster: an edge where a projected query and key share one of their `top` nearest
 * centroids, in any of `runs` k-means runs (Treviso et al. 2022, section 3.3; attention.md 1.7: the sets must
 * meet). The chunk's queries are assigned here, keys when they were written (codes.h). Up to 64 centroids
 * have their keys as sets, which become groups in sparsefinder_sets.c; of more each key brings its ids, and
 * classes become groups in classes.c, those of a row alone in sparsefinder_row.c. Tests:
 * tests/attention/test_conformance.c */
#include "engine/attention/classes.h"
#include "engine/attention/sparsefinder.h"

/* ids of the chunk's queries: (n_heads, runs, rows, top). */
static sp_status assign_queries(const sp_finder *self, const sp_fit_table *table, uint32_t runs, uint32_t top,
                                uint16_t **out, sp_error *error)
{
    const sp_plan_request *request = self->request;
    size_t rows = request->rows, heads = request->n_heads, one = (size_t)table->size * self->set->rank;
    float *q;
    uint16_t *ids;
    sp_status status = sp_finder_project(self, request->q, request->rows, &q, error);
    if (status == SP_OK)
        status = sp_scratch_take(self->scratch, rows * heads * top, sizeof *ids, &ids, error);
    if (status == SP_OK)
        status = sp_scratch_take(self->scratch, rows * heads * runs * top, sizeof **out, out, error);
    for (uint32_t run = 0; run < runs && status == SP_OK; run++) {
        const sp_assign_args args = {.rows = rows,
                                     .n_maps = request->n_heads,
                                     .rank = self->set->rank,
                                     .n_centroids = table->size,
                                     .top = top,
                                     .x = q,
                                     .centroids = table->values + run * one,
                                     .centroid_stride = table->runs * one,
                                     .ids = ids};
        request->device->ops->assign(request->device, &args);
        for (size_t h = 0; h < heads; h++) {
            uint16_t *to = *out + (h * runs + run) * rows * top;
            for (size_t r = 0; r < rows; r++, to += top)
                for (uint32_t s = 0; s < top; s++) to[s] = ids[(r * heads + h) * top + s];
        }
    }
    return status;
}

/* What the tasks of gather_keys share: one a head and run. */
typedef struct gathering {
    const sp_plan_request *request;
    uint32_t runs, top;
    uint16_t *ids;
} gathering;

static void gather_list(void *context, size_t list, size_t worker)
{
    const gathering *g = context;
    const sp_plan_request *request = g->request;
    size_t n = request->n_keys, head = list / g->runs, run = list % g->runs;
    uint16_t *to = g->ids + list * n * g->top;
    (void)worker;
    for (size_t j = 0; j < n; j++, to += g->top) {
        const uint16_t *from =
            request->id_pages[j / SP_TILE] + ((run * request->n_heads + head) * SP_TILE + j % SP_TILE) * 4;
        for (uint32_t s = 0; s < g->top; s++) to[s] = from[s];
    }
}

/* ids of all keys: (n_heads, runs, n_keys, top). */
static sp_status gather_keys(const sp_finder *self, uint32_t runs, uint32_t top, uint16_t **out,
                             sp_error *error)
{
    const sp_plan_request *request = self->request;
    size_t n = request->n_keys, lists = (size_t)request->n_heads * runs;
    sp_status status = sp_scratch_take(self->scratch, lists * n * top, sizeof **out, out, error);
    if (status != SP_OK) return status;
    gathering g = {.request = request, .runs = runs, .top = top, .ids = *out};
    sp_threads_run(request->device->threads, lists, gather_list, &g);
    return SP_OK;
}

sp_status sp_finder_cluster(const sp_finder *self, sp_error *error)
{
    const sp_plan_request *request = self->request;
    const sp_fit_table *table = sp_finder_centroids(request->attention, self->set);
    uint32_t runs = sp_finder_u32(self, SP_FINDER_RUNS), top = sp_finder_u32(self, SP_FINDER_TOP);
    uint16_t *q_ids, *k_ids;
    sp_status status = assign_queries(self, table, runs, top, &q_ids, error);
    if (status == SP_OK && request->sets)
        return sp_finder_cluster_sets(self, runs, top, table->size, q_ids, error);
    if (status == SP_OK && request->rows == 1) return sp_finder_cluster_row(self, runs, top, q_ids, error);
    if (status == SP_OK) status = gather_keys(self, runs, top, &k_ids, error);
    if (status != SP_OK) return status;
    const sp_classes classes = {.threads = request->device->threads,
                                .n_heads = request->n_heads,
                                .rows = request->rows,
                                .n_keys = request->n_keys,
                                .runs = runs,
                                .top = top,
                                .n_classes = table->size,
                                .q_ids = q_ids,
                                .k_ids = k_ids};
    return sp_classes_plan(&classes, &self->band, request->position, self->scratch, self->plan, error);
}
