/* sparsefinder, grouping cluster, one row at a time (decoding) where keys are kept as ids (more than 64
 * centroids): the plan of classes.c for a single row,
 * without looking at the classes that the row does not have. The op match_ids gives for each head and each of
 * the row's classes one bit a key; set bits are the group's keys, and the bits of earlier rounds its masks.
 * What it costs beside attention is reading 8 bytes a key and head. Tests: tests/attention/test_conformance.c
 * (rows alone against rows together) */
#include "engine/attention/band.h"
#include "engine/attention/sparsefinder.h"

#include <string.h>

/* What the tasks share: a match is (run, slot, head), in the order of rounds and lists. */
typedef struct row_lists {
    const sp_plan_request *request;
    const sp_band *band;
    sp_plan *plan;
    uint32_t n_tiles, heads;
    sp_match *matches; /* (n_matches) */
    uint64_t *words;   /* (n_matches, n_tiles) */
    uint32_t *counts;  /* (n_matches) keys */
    uint32_t *groups;  /* (n_matches): of the plan; UINT32_MAX: none */
} row_lists;

/* Keys of a match below a position, from the nearer end. */
static uint32_t count_below(const row_lists *l, size_t match, uint64_t position)
{
    const uint64_t *words = l->words + match * l->n_tiles;
    uint64_t end = l->request->n_keys;
    if (position >= end) return l->counts[match];
    return position < end / 2 ? sp_count_bits(words, 0, position)
                              : l->counts[match] - sp_count_bits(words, position, end);
}

/* As sp_band_ranges, from bits. */
static void find_ranges(const row_lists *l, size_t match, uint32_t ranges[4])
{
    uint64_t before, behind;
    sp_band_edges(l->band, l->request->position, &before, &behind);
    ranges[0] = count_below(l, match, l->band->first);
    ranges[1] = count_below(l, match, before);
    ranges[2] = ranges[3] = 0;
    if (sp_band_n_ranges(l->band) == 2) {
        ranges[2] = count_below(l, match, behind);
        ranges[3] = count_below(l, match, l->band->last_begin);
    }
    sp_band_order(l->band, ranges);
}

static sp_status add_group(row_lists *l, size_t match, uint32_t round, sp_error *error)
{
    uint32_t ranges[4], n_ranges = sp_band_n_ranges(l->band);
    l->groups[match] = UINT32_MAX;
    find_ranges(l, match, ranges);
    if (ranges[1] == ranges[0] && ranges[3] == ranges[2]) return SP_OK;
    const sp_group_data sizes = {.list = l->matches[match].head,
                                 .round = round,
                                 .n_queries = 1,
                                 .n_keys = l->counts[match],
                                 .n_ranges = n_ranges,
                                 .with_masks = round > 0};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(l->plan, &sizes, &slots, error);
    if (status != SP_OK) return status;
    l->groups[match] = (uint32_t)l->plan->n_groups - 1;
    slots.queries[0] = l->request->position;
    memcpy(slots.ranges, ranges, 2 * n_ranges * sizeof *ranges);
    return SP_OK;
}

/* Keys of one match whose bits are set, and which of them an earlier round does not hold. */
static void list_keys(void *context, size_t match, size_t worker)
{
    const row_lists *l = context;
    (void)worker;
    if (l->groups[match] == UINT32_MAX) return;
    const sp_group *group = &l->plan->groups[l->groups[match]];
    const uint64_t *words = l->words + match * l->n_tiles;
    uint32_t *keys = l->plan->numbers + group->keys, n = 0;
    uint64_t *masks = group->masks == SP_NO_MASKS ? NULL : l->plan->words + group->masks;
    if (masks) memset(masks, 0, ((size_t)group->n_keys + SP_TILE - 1) / SP_TILE * sizeof *masks);
    for (uint32_t t = 0; t < l->n_tiles; t++) {
        for (uint64_t word = words[t]; word; word &= word - 1)
            keys[n++] = t * SP_TILE + (uint32_t)__builtin_ctzll(word);
    }
    for (size_t m = match % l->heads; masks && m < match; m += l->heads) {
        const uint64_t *held = l->words + m * l->n_tiles;
        for (uint32_t k = 0; k < n; k++)
            masks[k / SP_TILE] |= (held[keys[k] / SP_TILE] >> keys[k] % SP_TILE & 1) << k % SP_TILE;
    }
    for (uint32_t w = 0; masks && w * SP_TILE < n; w++) masks[w] = ~masks[w];
}

static sp_status take_room(row_lists *l, sp_scratch *scratch, size_t n, sp_error *error)
{
    sp_status status = sp_scratch_take(scratch, n, sizeof *l->matches, &l->matches, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, n * l->n_tiles, sizeof *l->words, &l->words, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, n, sizeof *l->counts, &l->counts, error);
    return status == SP_OK ? sp_scratch_take(scratch, n, sizeof *l->groups, &l->groups, error) : status;
}

sp_status sp_finder_cluster_row(const sp_finder *self, uint32_t runs, uint32_t top, const uint16_t *q_ids,
                                sp_error *error)
{
    const sp_plan_request *request = self->request;
    row_lists l = {.request = request,
                   .band = &self->band,
                   .plan = self->plan,
                   .n_tiles = (request->n_keys + SP_TILE - 1) / SP_TILE,
                   .heads = request->n_heads};
    size_t n = (size_t)runs * top * request->n_heads;
    sp_status status = SP_OK;
    for (uint32_t h = 0; h < request->n_heads && status == SP_OK; h++)
        status = sp_band_add(&self->band, self->plan, h, error);
    if (status != SP_OK || sp_band_is_global(&self->band, request->position)) return status;
    status = take_room(&l, self->scratch, n, error);
    if (status != SP_OK) return status;
    for (size_t i = 0; i < n; i++) {
        uint32_t head = (uint32_t)(i % l.heads), slot = (uint32_t)(i / l.heads % top),
                 run = (uint32_t)(i / l.heads / top);
        l.matches[i] =
            (sp_match){.run = run, .head = head, .id = q_ids[((size_t)head * runs + run) * top + slot]};
    }
    const sp_match_args args = {.n_keys = request->n_keys,
                                .n_heads = request->n_heads,
                                .n_ids = request->n_ids,
                                .id_pages = request->id_pages,
                                .n_matches = n,
                                .matches = l.matches,
                                .words = l.words,
                                .counts = l.counts};
    request->device->ops->match_ids(request->device, &args);
    for (size_t i = 0; i < n && status == SP_OK; i++)
        status = add_group(&l, i, (uint32_t)(i / l.heads), error);
    if (status == SP_OK) sp_threads_run(request->device->threads, n, list_keys, &l);
    return status;
}
