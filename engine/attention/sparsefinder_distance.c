/* sparsefinder, grouping distance: an edge where a projected query and key lie near enough (Treviso et al.
 * 2022, section 3.1; the metric dot is attention.md 1.17's), or the `keep` nearest keys of every row.
 *
 * A threshold gives one bit a pair (the op scan_mask); with the band's bits they are tiles. `keep` gives
 * every row of a head a list of keys (the op scan_top): a group of one query, beside the band's tiles. Both
 * ops compare each row with the keys alone, so the cost is n^2 rank, and a row does not depend on its chunk.
 * Tests: tests/attention/test_conformance.c, tests/attention/test_cases.c */
#include "engine/attention/sparsefinder.h"
#include "kernels/threads.h"

#include <math.h>
#include <string.h>

static sp_status take_thresholds(const sp_finder *self, const float **out, sp_error *error)
{
    const sp_attention *attention = self->request->attention;
    double one = sp_finder_value(attention, SP_FINDER_THRESHOLD);
    uint32_t heads = self->request->n_heads;
    float *values;
    if (isnan(one)) {
        *out = sp_finder_thresholds(attention, self->set)->values;
        return SP_OK;
    }
    sp_status status = sp_scratch_take(self->scratch, heads, sizeof *values, &values, error);
    for (uint32_t h = 0; h < heads && status == SP_OK; h++) values[h] = (float)one;
    *out = values;
    return status;
}

static sp_scan_args scan_args(const sp_finder *self, const float *q)
{
    const sp_plan_request *request = self->request;
    return (sp_scan_args){.rows = request->rows,
                          .n_heads = request->n_heads,
                          .position = request->position,
                          .causal = request->causal,
                          .metric = (sp_metric)sp_finder_u32(self, SP_FINDER_METRIC),
                          .q = q,
                          .keys = *request->codes};
}

/* The tiles of one head in one query tile. bits: (rows, n_tiles) of the head. */
static sp_status add_tiles(const sp_finder *self, uint32_t head, uint32_t query_tile, const uint64_t *bits,
                           uint32_t n_tiles, sp_error *error)
{
    const sp_plan_request *request = self->request;
    uint64_t words[SP_TILE], begin = request->position, end = begin + request->rows;
    uint64_t origin = (uint64_t)query_tile * SP_TILE, from = begin > origin ? begin : origin;
    uint64_t to = end < origin + SP_TILE ? end : origin + SP_TILE;
    uint32_t limit = request->causal && query_tile < n_tiles ? query_tile + 1 : n_tiles;
    sp_status status = SP_OK;
    for (uint32_t tile = 0; tile < limit && status == SP_OK; tile++) {
        bool banded = sp_band_meets(&self->band, (uint32_t)from, (uint32_t)to, tile);
        uint64_t some = 0;
        for (uint64_t query = from; query < to; query++) {
            uint64_t word = bits[(query - begin) * n_tiles + tile];
            if (banded) word |= sp_band_word(&self->band, (uint32_t)query, tile);
            words[query - origin] = word;
            some |= word;
        }
        if (some) status = sp_plan_add_words(self->plan, head, query_tile, tile, words, error);
    }
    return status;
}

static sp_status plan_threshold(const sp_finder *self, const float *q, sp_error *error)
{
    const sp_plan_request *request = self->request;
    uint32_t n_tiles = (request->n_keys + SP_TILE - 1) / SP_TILE, heads = request->n_heads;
    sp_scan_args args = scan_args(self, q);
    sp_status status = take_thresholds(self, &args.thresholds, error);
    if (status == SP_OK)
        status = sp_scratch_take(self->scratch, (size_t)heads * request->rows * n_tiles, sizeof *args.words,
                                 &args.words, error);
    if (status == SP_OK) status = request->device->ops->scan_mask(request->device, &args, error);
    for (uint32_t h = 0; h < heads && status == SP_OK; h++)
        for (uint32_t t = 0; t < self->plan->n_query_tiles && status == SP_OK; t++)
            status = add_tiles(self, h, self->plan->first_tile + t,
                               args.words + (size_t)h * request->rows * n_tiles, n_tiles, error);
    return status;
}

#define LIST_NUMBERS 3 /* of a group beside its keys: the query and its range */

/* What the tasks of fill_lists share: one a head. */
typedef struct list_filling {
    const sp_finder *finder;
    const sp_scan_args *found;
    size_t *groups, *numbers; /* (n_heads + 1): where those of a head begin in the plan */
} list_filling;

/* Keys of a row that are a group: none where the row sees everything in tiles. */
static uint32_t listed(const sp_finder *self, const sp_scan_args *found, size_t head, uint32_t row)
{
    if (sp_band_is_global(&self->band, found->position + row)) return 0;
    return found->n_best[head * found->rows + row];
}

static void fill_lists(void *context, size_t head, size_t worker)
{
    const list_filling *l = context;
    const sp_scan_args *found = l->found;
    sp_plan *plan = l->finder->plan;
    size_t group = l->groups[head], at = l->numbers[head];
    (void)worker;
    for (uint32_t row = 0; row < found->rows; row++) {
        uint32_t n = listed(l->finder, found, head, row), *numbers = plan->numbers + at;
        if (!n) continue;
        plan->groups[group] = (sp_group){.list = (uint32_t)head,
                                         .n_queries = 1,
                                         .n_keys = n,
                                         .queries = (uint32_t)at,
                                         .ranges = (uint32_t)at + 1,
                                         .keys = (uint32_t)at + LIST_NUMBERS,
                                         .n_ranges = 1,
                                         .masks = SP_NO_MASKS,
                                         .holder = (uint32_t)group};
        numbers[0] = found->position + row;
        numbers[1] = 0;
        numbers[2] = n;
        memcpy(numbers + LIST_NUMBERS, found->best + (head * found->rows + row) * found->keep,
               n * sizeof *numbers);
        at += n + LIST_NUMBERS;
        group++;
    }
}

/* Each row's keys as a group. */
static sp_status add_lists(const sp_finder *self, const sp_scan_args *found, sp_error *error)
{
    size_t heads = found->n_heads, first_group, first_number;
    list_filling l = {.finder = self, .found = found};
    sp_status status = sp_scratch_take(self->scratch, heads + 1, sizeof *l.groups, &l.groups, error);
    if (status == SP_OK)
        status = sp_scratch_take(self->scratch, heads + 1, sizeof *l.numbers, &l.numbers, error);
    if (status != SP_OK) return status;
    l.groups[0] = l.numbers[0] = 0;
    for (size_t h = 0; h < heads; h++) {
        l.groups[h + 1] = l.groups[h];
        l.numbers[h + 1] = l.numbers[h];
        for (uint32_t row = 0; row < found->rows; row++) {
            uint32_t n = listed(self, found, h, row);
            l.groups[h + 1] += n > 0;
            l.numbers[h + 1] += n ? n + LIST_NUMBERS : 0;
        }
    }
    status =
        sp_plan_extend(self->plan, l.groups[heads], l.numbers[heads], &first_group, &first_number, error);
    if (status != SP_OK) return status;
    for (size_t h = 0; h < heads; h++) {
        l.groups[h] += first_group;
        l.numbers[h] += first_number;
    }
    sp_threads_run(self->request->device->threads, heads, fill_lists, &l);
    return SP_OK;
}

static sp_status plan_keep(const sp_finder *self, const float *q, sp_error *error)
{
    const sp_plan_request *request = self->request;
    const sp_band *band = &self->band;
    size_t lists = (size_t)request->n_heads * request->rows;
    sp_scan_args args = scan_args(self, q);
    args.keys.n_keys = band->last_begin; /* the last tokens are global */
    args.keep = sp_finder_u32(self, SP_FINDER_KEEP);
    if (args.keep > request->n_keys) args.keep = request->n_keys;
    args.first = band->first;
    args.radius = band->radius;
    args.has_window = band->window;
    sp_status status =
        sp_scratch_take(self->scratch, lists * args.keep, sizeof *args.best, &args.best, error);
    if (status == SP_OK)
        status = sp_scratch_take(self->scratch, lists, sizeof *args.n_best, &args.n_best, error);
    for (uint32_t h = 0; h < request->n_heads && status == SP_OK; h++)
        status = sp_band_add(band, self->plan, h, error);
    if (status == SP_OK && args.keep) status = request->device->ops->scan_top(request->device, &args, error);
    return status == SP_OK && args.keep ? add_lists(self, &args, error) : status;
}

sp_status sp_finder_distance(const sp_finder *self, sp_error *error)
{
    float *q;
    bool keep = !isnan(sp_finder_value(self->request->attention, SP_FINDER_KEEP));
    sp_status status = sp_finder_project(self, self->request->q, self->request->rows, &q, error);
    if (status != SP_OK) return status;
    return keep ? plan_keep(self, q, error) : plan_threshold(self, q, error);
}
