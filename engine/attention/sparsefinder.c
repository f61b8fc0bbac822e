/* sparsefinder (Treviso et al. 2022, arXiv 2109.12188): the graph of attention predicted from queries and
 * keys projected into few dimensions by a fit, plus a window and global tokens.
 *
 * q' = q W + b and k' = k W + b a head; groupings say which pairs are edges: near ones (distance), those with
 * a bin in common (bucket), a centroid in common (cluster), or blocks of them (block): one file each. Keys
 * are projected once, when they are written (codes.h). Parameters that the request leaves out depend on the
 * fit and are filled in by resolve. Exact definitions: engine/README.md, "The attention object". Tests:
 * tests/attention/test_conformance.c, tests/attention/test_cases.c, tests/golden/test_attend_golden.c */
#include "engine/attention/sparsefinder.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- checks without a fit --- */

static sp_status finder_check(const sp_attention *attention, uint32_t n_heads, sp_error *error)
{
    static const sp_finder_param choices[] = {SP_FINDER_THRESHOLD, SP_FINDER_RECALL, SP_FINDER_KEEP};
    const char *first = NULL;
    (void)n_heads;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        if (isnan(attention->params[choices[i]])) continue;
        const char *name = attention->backend->params[choices[i]].name;
        char field[64];
        snprintf(field, sizeof field, "attention.params.%s", name);
        if (first)
            return sp_fail_param(error, SP_INVALID, field, "give at most one of threshold, recall and keep");
        first = name;
    }
    return SP_OK;
}

static bool finder_streams(const sp_attention *attention)
{
    double grouping = attention->params[SP_FINDER_GROUPING], bins = attention->params[SP_FINDER_BINS];
    return grouping != SP_GROUPING_BLOCK && !(grouping == SP_GROUPING_BUCKET && bins == SP_BINS_EQUAL);
}

/* --- projected vectors --- */

sp_status sp_finder_project(const sp_finder *self, const float *q, uint32_t rows, float **out,
                            sp_error *error)
{
    const sp_plan_request *request = self->request;
    size_t numbers = (size_t)rows * request->n_heads;
    sp_status status = sp_scratch_take(self->scratch, numbers, self->set->rank * sizeof **out, out, error);
    if (status != SP_OK) return status;
    const sp_project_args args = {.rows = rows,
                                  .n_in = request->n_heads,
                                  .n_maps = request->n_heads,
                                  .dim = request->fit->head_dim,
                                  .rank = self->set->rank,
                                  .x = q,
                                  .weight = self->set->q_weight,
                                  .bias = self->set->q_bias,
                                  .out = *out};
    request->device->ops->project(request->device, &args);
    return SP_OK;
}

void sp_finder_codes(const sp_code_view *codes, uint32_t map, uint32_t tile, uint32_t d, float out[SP_TILE])
{
    const uint8_t *page = codes->pages[tile] + map * codes->map_bytes;
    if (codes->dtype == SP_F32) {
        memcpy(out, page + (size_t)d * SP_TILE * sizeof(float), SP_TILE * sizeof(float));
        return;
    }
    const uint16_t *pairs = (const uint16_t *)(const void *)page + (size_t)d / 2 * SP_TILE * 2 + d % 2;
    for (size_t i = 0; i < SP_TILE; i++) out[i] = sp_bf16_to_f32(pairs[2 * i]);
}

void sp_finder_keys(const sp_finder *self, uint32_t head, float *out)
{
    const sp_code_view *codes = self->request->codes;
    uint32_t n = self->request->n_keys, map = head / (self->request->n_heads / codes->n_maps);
    float lanes[SP_TILE];
    for (uint32_t t = 0; t * SP_TILE < n; t++)
        for (uint32_t d = 0; d < codes->rank; d++) {
            uint32_t end = n - t * SP_TILE < SP_TILE ? n - t * SP_TILE : SP_TILE;
            sp_finder_codes(codes, map, t, d, lanes);
            for (uint32_t i = 0; i < end; i++) out[((size_t)t * SP_TILE + i) * codes->rank + d] = lanes[i];
        }
}

/* --- planning --- */

static sp_status run_grouping(const sp_finder *self, sp_error *error)
{
    switch ((int)self->request->attention->params[SP_FINDER_GROUPING]) {
    case SP_GROUPING_DISTANCE:
        return sp_finder_distance(self, error);
    case SP_GROUPING_BUCKET:
        return sp_finder_bucket(self, error);
    case SP_GROUPING_CLUSTER:
        return sp_finder_cluster(self, error);
    default:
        return sp_finder_block(self, error);
    }
}

static sp_status finder_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    const sp_attention *attention = request->attention;
    sp_scratch own, *scratch = request->scratch ? request->scratch : &own;
    sp_finder self = {.request = request, .scratch = scratch, .plan = out};
    sp_status status = sp_pattern_begin(request, request->n_heads, out, error);
    if (status != SP_OK || request->rows == 0) return status;
    assert(request->fit && !isnan(attention->params[SP_FINDER_GROUPING]));
    self.set = sp_finder_set(attention, request->fit, request->layer, request->kind);
    bool block = attention->params[SP_FINDER_GROUPING] == SP_GROUPING_BLOCK;
    self.band = sp_band_make(request, block ? 0 : sp_finder_u32(&self, SP_FINDER_WINDOW),
                             block ? 0 : sp_finder_u32(&self, SP_FINDER_FIRST),
                             block ? 0 : sp_finder_u32(&self, SP_FINDER_LAST));
    if (scratch == &own) sp_scratch_init(&own, 0);
    sp_scratch_begin(scratch);
    status = run_grouping(&self, error);
    if (scratch == &own) sp_scratch_fini(&own);
    return status;
}

/* --- the table --- */

static const char *const groupings[] = {"distance", "bucket", "cluster", "block", NULL};
static const char *const metrics[] = {"l2", "euclidean", "cosine", "dot", NULL};
static const char *const bin_names[] = {"equal", "fixed", "frozen", NULL};
static const char *const selects[] = {"token", "centroid", NULL};

static const sp_param params[SP_FINDER_PARAMS] = {
    [SP_FINDER_GROUPING] = {.name = "grouping",
                            .summary =
                                "how projected queries and keys are linked (distance where the fit has "
                                "a dot set, else cluster)",
                            .type = SP_PARAM_NAME,
                            .fallback = NAN,
                            .values = groupings},
    [SP_FINDER_METRIC] = {.name = "metric",
                          .summary = "distance: l2 is squared; dot is a product, larger is nearer (dot where "
                                     "the fit has that set, else l2)",
                          .type = SP_PARAM_NAME,
                          .fallback = NAN,
                          .values = metrics},
    [SP_FINDER_THRESHOLD] = {.name = "threshold",
                             .summary = "distance: edge below it, dot above it (the fit's, one a head)",
                             .type = SP_PARAM_NUMBER,
                             .fallback = NAN,
                             .min = -1e15,
                             .max = 1e15},
    [SP_FINDER_RECALL] = {.name = "recall",
                          .summary = "distance: the fit's thresholds for this recall",
                          .type = SP_PARAM_NUMBER,
                          .fallback = NAN,
                          .min = 0.8,
                          .max = 0.99},
    [SP_FINDER_KEEP] = {.name = "keep",
                        .summary = "distance: in place of a threshold, the nearest keys that each row takes; "
                                   "block: attended blocks (16)",
                        .fallback = NAN,
                        .min = 1,
                        .max = 1048576},
    [SP_FINDER_BUCKETS] = {.name = "buckets",
                           .summary = "bucket: bins of a dimension (those of the fit)",
                           .fallback = NAN,
                           .min = 1,
                           .max = 65535},
    [SP_FINDER_BINS] = {.name = "bins",
                        .summary = "bucket: equal counts in the sequence, fixed widths of tanh, or frozen "
                                   "borders of the fit (frozen)",
                        .type = SP_PARAM_NAME,
                        .fallback = NAN,
                        .values = bin_names},
    [SP_FINDER_TEMPERATURE] = {.name = "temperature",
                               .summary = "bucket, fixed: bins of tanh(temperature x) (1)",
                               .type = SP_PARAM_NUMBER,
                               .fallback = NAN,
                               .min = 1e-6,
                               .max = 1e6},
    [SP_FINDER_CLUSTERS] = {.name = "clusters",
                            .summary = "cluster, block: which set of centroids of the fit",
                            .fallback = NAN,
                            .min = 1,
                            .max = 65535},
    [SP_FINDER_TOP] = {.name = "top",
                       .summary = "cluster, block: nearest centroids that a query and a key take (2)",
                       .fallback = NAN,
                       .min = 1,
                       .max = 4},
    [SP_FINDER_RUNS] = {.name = "runs",
                        .summary = "cluster: k-means runs, any may match (1)",
                        .fallback = NAN,
                        .min = 1,
                        .max = 64},
    [SP_FINDER_BLOCK] = {.name = "block",
                         .summary = "block: tokens of a block (64)",
                         .fallback = NAN,
                         .min = 1,
                         .max = 1048576},
    [SP_FINDER_SELECT] = {.name = "select",
                          .summary = "block: by scores of block pairs (token) or by centroids (token)",
                          .type = SP_PARAM_NAME,
                          .fallback = NAN,
                          .values = selects},
    [SP_FINDER_WINDOW] = {.name = "window",
                          .summary =
                              "keys around the query, the centre counted, added to the prediction: odd, "
                              "or 0 for none (33); of blocks with block (3)",
                          .fallback = NAN,
                          .max = 1048577,
                          .odd_only = true},
    [SP_FINDER_FIRST] = {.name = "global_first",
                         .summary = "first tokens (block: blocks) that see and are seen by all",
                         .fallback = 1,
                         .max = 1048576},
    [SP_FINDER_LAST] = {.name = "global_last",
                        .summary = "last valid tokens (block: blocks) that see and are seen by all; 0 while "
                                   "generating and in cross-attention",
                        .fallback = 0,
                        .max = 1048576},
};

const sp_backend sp_backend_sparsefinder = {
    .name = "sparsefinder",
    .summary = "the graph predicted from projected queries and keys, a window and global tokens",
    .caps = SP_CAP_NEEDS_QK | SP_CAP_NEEDS_FIT | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS |
            SP_CAP_PREFIX,
    .params = params,
    .n_params = SP_FINDER_PARAMS,
    .check = finder_check,
    .plan = finder_plan,
    .codes = sp_finder_set,
    .centroids = sp_finder_kept,
    .resolve = sp_finder_resolve,
    .fall_back = sp_finder_fall_back,
    .streams = finder_streams,
};
