/* strided (Child et al. 2019, arXiv 1904.10509): local keys abs(i - j) < l, and the column (i - j) mod l = 0.
 *
 * The column of a query is its residue class: keys j = r, r + l, r + 2l, .. with r = i mod l. Each class that
 * the chunk meets becomes one group: its queries against all its keys, so that scattered keys are gathered
 * once and run as a dense triangle of n / l. Where the head also has the local part, the ranges leave out
 * rank i div l (the only key of the class inside the window); they always leave out the first globals, which
 * are tiles. So a chunk costs O(n) and a decode row O(n / l). Tests: tests/attention/test_conformance.c,
 * tests/attention/test_cases.c */
#include "engine/attention/pattern.h"

typedef struct sp_strided {
    uint32_t n_keys, stride, first;
    bool local, column; /* what the list holds */
} sp_strided;

/* The tiles' part: window and globals; with stride 1 the column is everything. */
static uint32_t strided_row(const void *context, uint32_t query, sp_interval *out)
{
    const sp_strided *self = context;
    if (query < self->first || (self->column && self->stride == 1)) {
        return sp_interval_add(out, 0, 0, self->n_keys);
    }
    uint32_t n = sp_interval_add(out, 0, 0, self->first);
    return self->local ? sp_interval_add_window(out, n, query, self->stride - 1) : n;
}

/* Number of keys below x in the residue class. */
static uint32_t rank_below(const sp_strided *self, uint32_t residue, uint32_t x)
{
    return x > residue ? (x - residue - 1) / self->stride + 1 : 0;
}

/* Ranks of the class that query sees outside of tiles: n_ranges pairs begin, end. */
static uint32_t column_ranges(const sp_strided *self, bool causal, uint32_t query, uint32_t *ranges)
{
    uint32_t residue = query % self->stride;
    uint32_t begin = rank_below(self, residue, self->first), end = rank_below(self, residue, self->n_keys);
    uint32_t own = query / self->stride;
    ranges[0] = begin, ranges[1] = end;
    if (!self->local) {
        if (causal && own + 1 < end) ranges[1] = own + 1;
    } else {
        if (own < end) ranges[1] = own;
        ranges[2] = own + 1 < end ? own + 1 : end;
        ranges[3] = end;
        if (ranges[2] < begin) ranges[2] = begin < end ? begin : end;
    }
    if (ranges[1] < ranges[0]) ranges[0] = ranges[1];
    return self->local && !causal ? 2 : 1;
}

/* One group for the queries first, first + stride, .. below end. */
static sp_status add_class(const sp_plan_request *request, const sp_strided *self, uint32_t list,
                           uint32_t first, uint32_t end, sp_plan *out, sp_error *error)
{
    uint32_t residue = first % self->stride, ranges[4];
    /* causal ranges grow with the query: leave out queries that have none yet, and classes without any */
    while (first < end) {
        uint32_t n = column_ranges(self, request->causal, first, ranges);
        if (ranges[0] < ranges[1] || (n == 2 && ranges[2] < ranges[3])) break;
        if (end - first <= self->stride) return SP_OK;
        first += self->stride;
    }
    sp_group_data sizes = {.list = list,
                           .n_queries = (end - first - 1) / self->stride + 1,
                           .n_keys = rank_below(self, residue, self->n_keys),
                           .n_ranges = self->local && !request->causal ? 2 : 1};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(out, &sizes, &slots, error);
    if (status) return status;
    for (uint32_t k = 0; k < sizes.n_keys; k++) slots.keys[k] = residue + k * self->stride;
    for (uint32_t q = 0; q < sizes.n_queries; q++) {
        slots.queries[q] = first + q * self->stride;
        uint32_t n = column_ranges(self, request->causal, slots.queries[q], ranges);
        for (uint32_t i = 0; i < 2 * n; i++) slots.ranges[2 * n * q + i] = ranges[i];
    }
    return SP_OK;
}

static sp_status add_list(const sp_plan_request *request, const sp_strided *self, uint32_t list, sp_plan *out,
                          sp_error *error)
{
    sp_status status = sp_plan_add_intervals(out, list, strided_row, self, error);
    if (status || !self->column || self->stride == 1) return status;
    uint32_t begin = request->position, end = request->position + request->rows;
    if (begin < self->first) begin = self->first; /* global rows are whole in tiles */
    for (uint32_t i = begin; i < end && i - begin < self->stride && status == SP_OK; i++) {
        status = add_class(request, self, list, i, end, out, error);
    }
    return status;
}

static sp_status strided_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    sp_heads_mode mode = request->attention->heads;
    bool split = mode == SP_HEADS_MULTIHEAD && request->n_heads > 1;
    sp_status status = sp_pattern_begin(request, split ? 2 : 1, out, error);
    if (status) return status;
    sp_strided self = {.n_keys = request->n_keys,
                       .stride = sp_param_u32(request, "stride"),
                       .first = sp_param_u32(request, "global_first"),
                       .local = mode != SP_HEADS_INTERLEAVED || request->layer % 2 == 0,
                       .column = mode == SP_HEADS_MERGED ||
                                 (mode == SP_HEADS_INTERLEAVED && request->layer % 2 == 1)};
    status = add_list(request, &self, 0, out, error);
    if (status || !split) return status;
    for (uint32_t h = 0; h < request->n_heads; h++) out->head_list[h] = h % 2;
    self.local = false, self.column = true;
    return add_list(request, &self, 1, out, error);
}

static uint32_t strided_part(const sp_attention *attention, uint32_t layer)
{
    return attention->heads == SP_HEADS_INTERLEAVED ? layer % 2 : 0;
}

static const sp_param params[] = {
    {.name = "stride",
     .summary = "length of the window and step of the column",
     .fallback = 128,
     .min = 1,
     .max = 1048576},
    {.name = "global_first",
     .summary = "first tokens that see and are seen by all",
     .fallback = 0,
     .max = 1048576},
};

const sp_backend sp_backend_strided = {
    .name = "strided",
    .summary = "the last stride keys and every stride-th key before them",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_PREFIX,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .has_heads = true,
    .part = strided_part,
    .plan = strided_plan,
};
