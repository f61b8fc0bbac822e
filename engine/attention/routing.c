/* routing (Roy et al. 2021, as attention.md 1.11 has it): each mean takes the queries and the keys nearest to
 * it.
 *
 * q', k' by the fit's default maps and the means (its centroids, run 0) have unit length; similarity is their
 * product. Of n queries and m keys (valid ones) each mean takes its n div C + 1 queries and m div C + 1 keys;
 * what several take stays with the lowest; an edge where both were taken by the same, plus window and first
 * tokens. A row's mean depends on all rows: it does not stream. Classes become groups in classes.c. Tests:
 * tests/attention/test_conformance.c, tests/attention/test_cases.c */
#include "engine/attention/classes.h"
#include "engine/attention/nearest.h"
#include "engine/attention/sparsefinder.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CLUSTERS, WINDOW, FIRST };

static const sp_fit_table *table_of(const sp_attention *attention, const sp_fit_set *set)
{
    double clusters = attention->params[CLUSTERS];
    return sp_fit_table_find(set->centroids, set->n_centroids, isnan(clusters) ? 0 : (uint32_t)clusters);
}

static const sp_fit_set *routing_set(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                     sp_attend_kind kind)
{
    (void)attention;
    return sp_fit_find(fit, layer, kind, SP_FIT_DEFAULT, 0);
}

static sp_status routing_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                                 sp_attend_kind kind, sp_error *error)
{
    if (isnan(attention->params[WINDOW])) attention->params[WINDOW] = kind == SP_ATTEND_CROSS ? 0 : 3;
    for (uint32_t layer = begin; layer < end; layer++) {
        const sp_fit_set *set = sp_fit_find(fit, layer, kind, SP_FIT_DEFAULT, 0);
        const sp_fit_table *table = set ? table_of(attention, set) : NULL;
        char present[160] = "none";
        size_t used = 0;
        for (size_t i = 0; !table && set && i < set->n_centroids && used < sizeof present; i++)
            used += (size_t)snprintf(present + used, sizeof present - used, "%s%u", i ? ", " : "",
                                     (unsigned)set->centroids[i].size);
        if (!table)
            return sp_fail_param(error, SP_INVALID, "attention.params.clusters",
                                 "the fit has no such centroids on its default maps in layer %u; it has %s",
                                 (unsigned)layer, present);
        if (isnan(attention->params[CLUSTERS])) attention->params[CLUSTERS] = table->size;
    }
    return SP_OK;
}

/* Generated tokens: clusters around the same centroids, else what the fit has. */
static bool routing_fall_back(const sp_attention *attention, uint32_t number, sp_attention *decode,
                              const char *names[2])
{
    sp_finder_blank(decode, SP_GROUPING_CLUSTER);
    names[0] = "routing";
    names[1] = "cluster";
    if (number == 0) decode->params[SP_FINDER_CLUSTERS] = attention->params[CLUSTERS];
    decode->params[SP_FINDER_WINDOW] = attention->params[WINDOW];
    decode->params[SP_FINDER_FIRST] = attention->params[FIRST];
    return number < 2;
}

/* Room for one side of one head: x (n, rank) with the given stride. */
typedef struct router {
    const float *means; /* (C, rank) */
    uint32_t C, rank;
    double *unit;       /* (max n, rank) */
    double *unit_means; /* (C, rank) */
    sp_near *heap;
} router;

static void make_unit(const float *x, uint32_t rank, double *out)
{
    double square = 0;
    for (uint32_t d = 0; d < rank; d++) square += (double)x[d] * (double)x[d];
    double length = sqrt(square);
    for (uint32_t d = 0; d < rank; d++) out[d] = length > 0 ? (double)x[d] / length : 0;
}

/* Which mean takes each of n things. */
static void route(const router *self, const float *x, size_t stride, uint32_t n, uint16_t *out)
{
    uint32_t most = n / self->C + 1;
    for (size_t i = 0; i < n; i++) {
        make_unit(x + i * stride, self->rank, self->unit + i * self->rank);
        out[i] = SP_NO_CLASS;
    }
    for (uint32_t c = 0; c < self->C; c++) {
        const double *mean = self->unit_means + (size_t)c * self->rank;
        uint32_t held = 0;
        for (uint32_t i = 0; i < n; i++) {
            const double *unit = self->unit + (size_t)i * self->rank;
            double dot = 0;
            for (uint32_t d = 0; d < self->rank; d++) dot += unit[d] * mean[d];
            held = sp_near_offer(self->heap, held, most, (sp_near){-dot, i});
        }
        for (uint32_t s = 0; s < held; s++)
            if (out[self->heap[s].id] == SP_NO_CLASS) out[self->heap[s].id] = (uint16_t)c;
    }
}

typedef struct sides {
    float *q, *k;                  /* (whole_rows, n_heads, rank), (n_keys, rank) */
    uint16_t *all, *q_ids, *k_ids; /* (whole_rows), (n_heads, rows), (n_heads, n_keys) */
} sides;

static sp_status take_room(const sp_finder *self, router *r, sides *s, sp_error *error)
{
    const sp_plan_request *request = self->request;
    sp_scratch *scratch = self->scratch;
    size_t rank = r->rank, heads = request->n_heads, n = request->n_keys, rows = request->whole_rows;
    size_t most = n > rows ? n : rows;
    sp_status status = sp_finder_project(self, request->whole_q, request->whole_rows, &s->q, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, n * rank, sizeof *s->k, &s->k, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, rows, sizeof *s->all, &s->all, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, heads * request->rows, sizeof *s->q_ids, &s->q_ids, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, heads * n, sizeof *s->k_ids, &s->k_ids, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, most * rank, sizeof *r->unit, &r->unit, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, r->C * rank, sizeof *r->unit_means, &r->unit_means, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, most / r->C + 1, sizeof *r->heap, &r->heap, error);
    return status;
}

static sp_status plan_all(const sp_finder *self, const sp_fit_table *table, sp_error *error)
{
    const sp_plan_request *request = self->request;
    router r = {.C = table->size, .rank = self->set->rank};
    sides s;
    sp_status status = take_room(self, &r, &s, error);
    if (status != SP_OK) return status;
    for (uint32_t h = 0; h < request->n_heads; h++) {
        r.means = table->values + (size_t)h * table->runs * r.C * r.rank;
        for (uint32_t c = 0; c < r.C; c++)
            make_unit(r.means + (size_t)c * r.rank, r.rank, r.unit_means + (size_t)c * r.rank);
        route(&r, s.q + (size_t)h * r.rank, (size_t)request->n_heads * r.rank, request->whole_rows, s.all);
        memcpy(s.q_ids + (size_t)h * request->rows, s.all + (request->position - request->whole_position),
               request->rows * sizeof *s.q_ids);
        sp_finder_keys(self, h, s.k);
        route(&r, s.k, r.rank, request->n_keys, s.k_ids + (size_t)h * request->n_keys);
    }
    const sp_classes classes = {.threads = request->device->threads,
                                .n_heads = request->n_heads,
                                .rows = request->rows,
                                .n_keys = request->n_keys,
                                .runs = 1,
                                .top = 1,
                                .n_classes = r.C,
                                .q_ids = s.q_ids,
                                .k_ids = s.k_ids};
    return sp_classes_plan(&classes, &self->band, request->position, self->scratch, self->plan, error);
}

static sp_status routing_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    sp_scratch own, *scratch = request->scratch ? request->scratch : &own;
    sp_finder self = {.request = request, .scratch = scratch, .plan = out};
    sp_status status = sp_pattern_begin(request, request->n_heads, out, error);
    if (status != SP_OK || request->rows == 0) return status;
    assert(request->fit && request->whole_q);
    self.set = routing_set(request->attention, request->fit, request->layer, request->kind);
    self.band =
        sp_band_make(request, sp_param_u32(request, "window"), sp_param_u32(request, "global_first"), 0);
    if (scratch == &own) sp_scratch_init(&own, 0);
    sp_scratch_begin(scratch);
    status = plan_all(&self, table_of(request->attention, self.set), error);
    if (scratch == &own) sp_scratch_fini(&own);
    return status;
}

static const sp_param params[] = {
    [CLUSTERS] = {.name = "clusters",
                  .summary = "which set of centroids of the fit are the means",
                  .fallback = NAN,
                  .min = 1,
                  .max = 65535},
    [WINDOW] = {.name = "window",
                .summary = "keys around the query, the centre counted: odd, or 0 for none (3)",
                .fallback = NAN,
                .max = 1048577,
                .odd_only = true},
    [FIRST] = {.name = "global_first",
               .summary = "first tokens that see and are seen by all",
               .fallback = 1,
               .max = 1048576},
};

const sp_backend sp_backend_routing = {
    .name = "routing",
    .summary = "each mean takes its nearest queries and keys, plus a window and the first tokens",
    .caps = SP_CAP_NEEDS_QK | SP_CAP_NEEDS_FIT | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .plan = routing_plan,
    .codes = routing_set,
    .resolve = routing_resolve,
    .fall_back = routing_fall_back,
};
