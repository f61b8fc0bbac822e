/* fixed (Child et al. 2019, arXiv 1904.10509): the own window floor(j / l) = floor(i / l), and the summary
 * columns j mod l in [l - (u + 1) c, l - u c) of every window, u the head's sub-block of `distinct` ones.
 *
 * Where columns are few (at most a quarter of a window) they are packed: one group a list, its queries the
 * rows of the chunk, its keys all summary columns; the columns below position x number (x div l) c + clamp(x
 * mod l - a, 0, c), a the first column of a window. Ranges leave out the own window where the head has it,
 * and the first globals; both are tiles. Where columns are many they are COLUMNS tiles. Tests:
 * tests/attention/test_conformance.c */
#include "engine/attention/pattern.h"

typedef struct sp_fixed {
    uint32_t n_keys, stride, summary, first;
    uint32_t start;       /* a: the first summary column of a window */
    bool window, columns; /* what the list holds */
} sp_fixed;

static uint32_t fixed_row(const void *context, uint32_t query, sp_interval *out)
{
    const sp_fixed *self = context;
    if (query < self->first) return sp_interval_add(out, 0, 0, self->n_keys);
    uint32_t n = sp_interval_add(out, 0, 0, self->first), begin = query - query % self->stride;
    return self->window ? sp_interval_add(out, n, begin, begin + self->stride) : n;
}

/* The first tile at or after *key_tile with a summary column, and its columns. */
static uint64_t fixed_columns(const void *context, uint32_t *key_tile)
{
    const sp_fixed *self = context;
    uint64_t begin = (uint64_t)*key_tile * SP_TILE, window = begin / self->stride;
    if (window * self->stride + self->start + self->summary <= begin) window++;
    uint64_t column = window * self->stride + self->start;
    if (column > begin) *key_tile = (uint32_t)(column / SP_TILE), begin = (uint64_t)*key_tile * SP_TILE;
    if (begin >= self->n_keys) return 0;
    uint64_t word = 0;
    for (; column < begin + SP_TILE; column += self->stride) {
        uint64_t from = column > begin ? column - begin : 0, to = column + self->summary - begin;
        word |= (to < SP_TILE ? ((uint64_t)1 << to) - 1 : UINT64_MAX) & (UINT64_MAX << from);
    }
    return word;
}

/* Number of summary columns below x. */
static uint32_t rank_below(const sp_fixed *self, uint32_t x)
{
    uint32_t inside = x % self->stride, over = inside > self->start ? inside - self->start : 0;
    return x / self->stride * self->summary + (over < self->summary ? over : self->summary);
}

/* Ranks of the columns that query sees outside of tiles. */
static void column_ranges(const sp_fixed *self, bool causal, uint32_t query, uint32_t *ranges)
{
    uint32_t begin = rank_below(self, self->first), total = rank_below(self, self->n_keys);
    uint32_t end = total, behind = total;
    if (self->window) {
        uint32_t own = query / self->stride * self->summary;
        if (own < end) end = own;
        if (own + self->summary < behind) behind = own + self->summary;
    } else if (causal && query + 1 < self->n_keys) {
        end = rank_below(self, query + 1);
    }
    ranges[0] = begin < end ? begin : end, ranges[1] = end;
    ranges[2] = behind > begin ? behind : begin < total ? begin : total;
    ranges[3] = total;
}

static sp_status add_group(const sp_plan_request *request, const sp_fixed *self, uint32_t list, sp_plan *out,
                           sp_error *error)
{
    uint32_t begin = request->position, end = request->position + request->rows, ranges[4];
    uint32_t n_ranges = self->window && !request->causal ? 2 : 1;
    if (begin < self->first) begin = self->first; /* global rows are whole in tiles */
    for (; begin < end; begin++) {
        column_ranges(self, request->causal, begin, ranges);
        if (ranges[0] < ranges[1] || (n_ranges == 2 && ranges[2] < ranges[3])) break;
    }
    if (begin >= end) return SP_OK;
    sp_group_data sizes = {.list = list,
                           .n_queries = end - begin,
                           .n_keys = rank_below(self, self->n_keys),
                           .n_ranges = n_ranges};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(out, &sizes, &slots, error);
    if (status) return status;
    for (uint32_t k = 0; k < sizes.n_keys; k++) {
        slots.keys[k] = k / self->summary * self->stride + self->start + k % self->summary;
    }
    for (uint32_t q = 0; q < sizes.n_queries; q++) {
        slots.queries[q] = begin + q;
        column_ranges(self, request->causal, begin + q, ranges);
        for (uint32_t i = 0; i < 2 * n_ranges; i++) slots.ranges[2 * n_ranges * q + i] = ranges[i];
    }
    return SP_OK;
}

/* Adds the next list: columns of sub-block u where it has columns. */
static sp_status add_list(const sp_plan_request *request, sp_fixed *self, uint32_t list, uint32_t u,
                          sp_plan *out, sp_error *error)
{
    self->start = self->stride - (u + 1) * self->summary;
    bool packed = self->columns && self->summary <= self->stride / 4;
    sp_columns_fn columns = self->columns && !packed ? fixed_columns : NULL;
    sp_status status = sp_plan_add_rows(out, list, fixed_row, columns, self, error);
    return status || !packed ? status : add_group(request, self, list, out, error);
}

/* Lists: merged and interleaved columns one a sub-block; multihead the local list, then one a sub-block used.
 */
static sp_status fixed_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    sp_heads_mode mode = request->attention->heads;
    uint32_t distinct = sp_param_u32(request, "distinct"), n_heads = request->n_heads;
    bool odd_layer = request->layer % 2 == 1, multihead = mode == SP_HEADS_MULTIHEAD;
    sp_fixed self = {.n_keys = request->n_keys,
                     .stride = sp_param_u32(request, "stride"),
                     .summary = sp_param_u32(request, "summary"),
                     .first = sp_param_u32(request, "global_first"),
                     .window = mode != SP_HEADS_INTERLEAVED || !odd_layer,
                     .columns = mode == SP_HEADS_MERGED || (mode == SP_HEADS_INTERLEAVED && odd_layer)};
    uint32_t blocks = multihead && n_heads / 2 < distinct ? n_heads / 2 : distinct;
    uint32_t n_lists = multihead ? 1 + blocks : self.columns ? blocks : 1;
    sp_status status = sp_pattern_begin(request, n_lists, out, error);
    if (status) return status;
    for (uint32_t h = 0; h < n_heads; h++) {
        out->head_list[h] = !multihead ? h % n_lists : h % 2 ? 1 + h / 2 % distinct : 0;
    }
    for (uint32_t list = 0; list < n_lists && status == SP_OK; list++) {
        if (multihead) self.window = list == 0, self.columns = list > 0;
        status = add_list(request, &self, list, multihead && list ? list - 1 : list, out, error);
    }
    return status;
}

static sp_status fixed_check(const sp_attention *attention, uint32_t n_heads, sp_error *error)
{
    uint32_t stride = (uint32_t)sp_attention_param(attention, "stride");
    uint32_t summary = (uint32_t)sp_attention_param(attention, "summary");
    uint32_t distinct = (uint32_t)sp_attention_param(attention, "distinct");
    if (summary > stride) {
        return sp_fail_param(error, SP_INVALID, "attention.params.summary",
                             "summary must be an integer from 1 to stride (%u), not %u", stride, summary);
    }
    if (distinct > stride / summary || n_heads % distinct != 0) {
        return sp_fail_param(
            error, SP_INVALID, "attention.params.distinct",
            "distinct must divide the number of heads (%u) and be at most stride / summary (%u), not %u",
            n_heads, stride / summary, distinct);
    }
    return SP_OK;
}

static uint32_t fixed_part(const sp_attention *attention, uint32_t layer)
{
    return attention->heads == SP_HEADS_INTERLEAVED ? layer % 2 : 0;
}

static const sp_param params[] = {
    {.name = "stride", .summary = "length of a window", .fallback = 128, .min = 1, .max = 1048576},
    {.name = "summary",
     .summary = "summary columns a window: 1 to stride",
     .fallback = 32,
     .min = 1,
     .max = 1048576},
    {.name = "distinct",
     .summary =
         "sub-blocks of columns dealt to the heads: divides their number, times summary at most stride",
     .fallback = 1,
     .min = 1,
     .max = 1024},
    {.name = "global_first",
     .summary = "first tokens that see and are seen by all",
     .fallback = 0,
     .max = 1048576},
};

const sp_backend sp_backend_fixed = {
    .name = "fixed",
    .summary = "the query's own window and the summary columns of every window",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_PREFIX,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .has_heads = true,
    .check = fixed_check,
    .part = fixed_part,
    .plan = fixed_plan,
};
