/* See clusters.h. Rows are projected and assigned a few hundred at a time, each part one step on the engine
 * thread. */
#include "engine/graph/clusters.h"

#include <string.h>

#include "engine/graph/capture_parts.h"

#define ROWS_A_STEP 512u

typedef struct assigning {
    sp_capture *capture;
    const sp_graph_runner *runner;
    uint32_t layer, head;
    const sp_fit_set *set;
    const sp_fit_table *table;
    sp_token_clusters *out;
    const uint8_t **pages;
    float *k;         /* (ROWS_A_STEP, n_kv_heads, head_dim) */
    float *projected; /* (ROWS_A_STEP, maps, rank) */
    float *own;       /* (ROWS_A_STEP, rank) of the head */
    uint16_t *ids;    /* (ROWS_A_STEP, top) */
    uint32_t first, rows;
    bool keys;
} assigning;

static sp_status no_clusters(const sp_attention *attention, sp_error *error)
{
    return sp_fail_param(error, SP_NOT_FOUND, "clusters",
                         "the attention %s of this capture makes no clusters; capture with sparsefinder, "
                         "grouping cluster",
                         attention->backend->name);
}

static void load_keys(const assigning *a)
{
    const sp_capture_info *info = &a->capture->info;
    sp_kv_view kv = sp_kv_layer(a->runner->kv, a->capture->pages, a->layer, a->out->n, a->pages);
    size_t row = kv.head_dim * sp_dtype_size(kv.dtype);
    for (uint32_t i = 0; i < a->rows; i++) {
        uint32_t at = a->first + i;
        for (uint32_t h = 0; h < info->kv_heads; h++)
            (void)sp_convert_to_f32(kv.dtype, kv.pages[at / SP_TILE] + h * kv.head_bytes + at % SP_TILE * row,
                                    a->k + ((size_t)i * info->kv_heads + h) * kv.head_dim, kv.head_dim);
    }
}

/* The queries or keys at hand as the fit takes them. */
static const float *load_rows(const assigning *a)
{
    const sp_capture_info *info = &a->capture->info;
    uint32_t slot = a->capture->slot_of[a->layer];
    size_t q_row = info->model_heads * a->capture->head_dim, k_row = info->kv_heads * a->capture->head_dim;
    const float *plain = a->capture->plain ? a->capture->plain[slot] : NULL;
    if (!a->keys) return (plain ? plain : a->capture->q[slot]) + a->first * q_row;
    if (plain) return plain + info->capacity * q_row + a->first * k_row;
    load_keys(a);
    return a->k;
}

/* Projects the rows at hand and gives each its nearest centroids, run by run. */
static void assign_rows(void *context)
{
    assigning *a = context;
    const sp_capture_info *info = &a->capture->info;
    sp_device *device = a->runner->device;
    uint32_t rank = a->set->rank, maps = a->keys ? a->set->n_k_maps : info->model_heads;
    uint32_t map = a->head / (info->model_heads / maps);
    size_t C = a->table->size;
    const float *x = load_rows(a);
    const sp_project_args project = {.rows = a->rows,
                                     .n_in = a->keys ? info->kv_heads : info->model_heads,
                                     .n_maps = maps,
                                     .dim = (uint32_t)a->capture->head_dim,
                                     .rank = rank,
                                     .x = x,
                                     .weight = a->keys ? a->set->k_weight : a->set->q_weight,
                                     .bias = a->keys ? a->set->k_bias : a->set->q_bias,
                                     .out = a->projected};
    device->ops->project(device, &project);
    for (uint32_t i = 0; i < a->rows; i++)
        memcpy(a->own + (size_t)i * rank, a->projected + ((size_t)i * maps + map) * rank,
               rank * sizeof(float));
    uint16_t *to = a->keys ? a->out->k : a->out->q;
    uint32_t top = a->out->top, runs = a->out->runs;
    for (uint32_t run = 0; run < runs; run++) {
        const sp_assign_args assign = {.rows = a->rows,
                                       .n_maps = 1,
                                       .rank = rank,
                                       .n_centroids = (uint32_t)C,
                                       .top = top,
                                       .x = a->own,
                                       .centroids =
                                           a->table->values + (a->head * a->table->runs + run) * C * rank,
                                       .centroid_stride = C * rank,
                                       .ids = a->ids};
        device->ops->assign(device, &assign);
        for (uint32_t i = 0; i < a->rows; i++)
            memcpy(to + ((size_t)(a->first + i) * runs + run) * top, a->ids + (size_t)i * top,
                   top * sizeof *to);
    }
}

static sp_status allocate(assigning *a, sp_error *error)
{
    const sp_capture_info *info = &a->capture->info;
    sp_token_clusters *out = a->out;
    size_t ids = (size_t)out->n * out->runs * out->top, dim = a->capture->head_dim;
    out->q = sp_alloc(ids, sizeof *out->q);
    out->k = sp_alloc(ids, sizeof *out->k);
    a->pages = sp_alloc(sp_pages_of(out->n), sizeof *a->pages);
    a->k = sp_alloc((size_t)ROWS_A_STEP * info->kv_heads, dim * sizeof(float));
    a->projected = sp_alloc((size_t)ROWS_A_STEP * info->model_heads, a->set->rank * sizeof(float));
    a->own = sp_alloc(ROWS_A_STEP, a->set->rank * sizeof(float));
    a->ids = sp_alloc((size_t)ROWS_A_STEP * out->top, sizeof *a->ids);
    if (out->q && out->k && a->pages && a->k && a->projected && a->own && a->ids) return SP_OK;
    return sp_fail(error, SP_NO_MEMORY, "no memory for the clusters of %u tokens", out->n);
}

static sp_status run_steps(assigning *a, sp_error *error)
{
    sp_status status = SP_OK;
    for (int side = 0; side < 2; side++) {
        a->keys = side == 1;
        for (a->first = 0; a->first < a->out->n && status == SP_OK; a->first += ROWS_A_STEP) {
            uint32_t left = a->out->n - a->first;
            a->rows = left < ROWS_A_STEP ? left : ROWS_A_STEP;
            if (a->runner->stop && a->runner->stop(a->runner->stop_context))
                return sp_fail(error, SP_CANCELLED, "the request was cancelled");
            status = a->runner->run(a->runner->engine, assign_rows, a, error);
        }
    }
    return status;
}

sp_status sp_token_clusters_make(sp_capture *capture, uint32_t layer, uint32_t head,
                                 const sp_graph_runner *runner, sp_token_clusters *out, sp_error *error)
{
    const sp_attention *attention = &capture->attention;
    const sp_backend *backend = attention->backend;
    assigning a = {.capture = capture, .runner = runner, .layer = layer, .head = head, .out = out};
    *out = (sp_token_clusters){.n = capture->n_tokens};
    if (capture->fit && backend->codes && backend->centroids)
        a.set = backend->codes(attention, capture->fit, layer, SP_ATTEND_SELF);
    if (a.set) a.table = backend->centroids(attention, a.set, &out->top, &out->runs);
    if (!a.table || out->top == 0 || out->runs == 0) return no_clusters(attention, error);
    out->n_clusters = a.table->size;
    sp_status status = allocate(&a, error);
    if (status == SP_OK) status = run_steps(&a, error);
    sp_free((void *)a.pages);
    sp_free(a.k);
    sp_free(a.projected);
    sp_free(a.own);
    sp_free(a.ids);
    if (status != SP_OK) sp_token_clusters_fini(out);
    return status;
}

void sp_token_clusters_fini(sp_token_clusters *clusters)
{
    sp_free(clusters->q);
    sp_free(clusters->k);
    clusters->q = clusters->k = NULL;
}

bool sp_token_clusters_meet(const sp_token_clusters *clusters, uint32_t query, uint32_t key)
{
    uint32_t top = clusters->top;
    for (uint32_t run = 0; run < clusters->runs; run++) {
        const uint16_t *q = clusters->q + ((size_t)query * clusters->runs + run) * top;
        const uint16_t *k = clusters->k + ((size_t)key * clusters->runs + run) * top;
        for (uint32_t i = 0; i < top; i++)
            for (uint32_t j = 0; j < top; j++)
                if (q[i] == k[j]) return true;
    }
    return false;
}
