/* See classes.h. */
#include "engine/attention/classes.h"

#include <string.h>

#define NO_ROW 0u /* the bit row that nobody reads */

typedef struct grouping {
    const sp_classes *classes;
    const sp_band *band;
    uint32_t position;
    sp_plan *plan;
    /* keys of a run, sorted by class: (n_heads, n_keys * top), (n_heads, n_classes + 1) */
    uint32_t *keys, *starts;
    /* rows of the chunk of one head and round, sorted by class: (rows), (n_classes + 1) */
    uint32_t *members, *member_starts;
    uint32_t
        *holders; /* (n_heads, n_classes): 1 + the group of the run that has the keys of a class; 0: none */
    uint32_t *ranges;      /* (rows, 4): of the rows of one class */
    uint32_t *head_groups; /* (n_heads + 1): the round's groups of each head, in the plan */
    uint32_t *row_of;      /* (threads, runs, n_classes): see marking */
    uint64_t *bits;        /* (threads, most_bits) */
    uint32_t run, slot, head;
} grouping;

/* What one thread makes masks with: a bit row for each earlier class of a group's rows. */
typedef struct marking {
    const grouping *g;
    uint32_t head;
    uint32_t *row_of; /* (runs, n_classes): where the bit row of an earlier class starts; NO_ROW outside of a
                         group */
    uint64_t *bits;   /* (1 + bit rows, ceil(keys of the list / 64)) */
} marking;

static const uint16_t *q_ids(const sp_classes *c, uint32_t head, uint32_t run, uint32_t row)
{
    return c->q_ids + (((size_t)head * c->runs + run) * c->rows + row) * c->top;
}

static const uint16_t *k_ids(const sp_classes *c, uint32_t head, uint32_t run, uint32_t key)
{
    return c->k_ids + (((size_t)head * c->runs + run) * c->n_keys + key) * c->top;
}

void sp_classes_sort(const uint16_t *ids, size_t n, size_t stride, uint32_t top, uint32_t n_classes,
                     uint32_t *starts, uint32_t *sorted)
{
    memset(starts, 0, ((size_t)n_classes + 1) * sizeof *starts);
    for (size_t i = 0; i < n; i++)
        for (uint32_t s = 0; s < top; s++)
            if (ids[i * stride + s] != SP_NO_CLASS) starts[ids[i * stride + s]]++;
    uint32_t sum = 0;
    for (uint32_t c = 0; c <= n_classes; c++) {
        uint32_t count = starts[c];
        starts[c] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        for (uint32_t s = 0; s < top; s++)
            if (ids[i * stride + s] != SP_NO_CLASS) sorted[starts[ids[i * stride + s]]++] = (uint32_t)i;
    for (uint32_t c = n_classes; c > 0; c--) starts[c] = starts[c - 1];
    starts[0] = 0;
}

/* --- masks of later rounds --- */

/* Calls of a row's earlier classes: every slot of earlier runs, earlier slots of this one. */
static uint32_t earlier_slots(const grouping *g, uint32_t run)
{
    return run < g->run ? g->classes->top : g->slot;
}

/* Gives every earlier class of the group's rows a bit row of some words; returns how many words all have. */
static uint32_t number_rows(const marking *m, const uint32_t *queries, uint32_t n, uint32_t words)
{
    const grouping *g = m->g;
    uint32_t end = words;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t run = 0; run <= g->run; run++) {
            const uint16_t *ids = q_ids(g->classes, m->head, run, queries[i] - g->position);
            for (uint32_t s = 0; s < earlier_slots(g, run); s++) {
                if (ids[s] == SP_NO_CLASS) continue;
                uint32_t *row = &m->row_of[(size_t)run * g->classes->n_classes + ids[s]];
                if (*row != NO_ROW) continue;
                *row = end;
                end += words;
            }
        }
    return end;
}

static void forget_rows(const marking *m, const uint32_t *queries, uint32_t n)
{
    const grouping *g = m->g;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t run = 0; run <= g->run; run++) {
            const uint16_t *ids = q_ids(g->classes, m->head, run, queries[i] - g->position);
            for (uint32_t s = 0; s < earlier_slots(g, run); s++)
                if (ids[s] != SP_NO_CLASS) m->row_of[(size_t)run * g->classes->n_classes + ids[s]] = NO_ROW;
        }
}

/* Marks in the bit rows which keys of the list have each class; without a branch, since half of them have one
 * that counts. */
static void mark_keys(const marking *m, const uint32_t *keys, uint32_t n)
{
    const grouping *g = m->g;
    const uint32_t top = g->classes->top;
    for (uint32_t run = 0; run <= g->run && earlier_slots(g, run); run++) {
        const uint16_t *all = k_ids(g->classes, m->head, run, 0);
        const uint32_t *row_of = m->row_of + (size_t)run * g->classes->n_classes;
        for (uint32_t k = 0; k < n; k++) {
            const uint16_t *ids = all + (size_t)keys[k] * top;
            for (uint32_t s = 0; s < top; s++) {
                if (ids[s] == SP_NO_CLASS) continue;
                m->bits[row_of[ids[s]] + k / 64] |= (uint64_t)1 << (k % 64);
            }
        }
    }
}

static void fill_masks(const marking *m, const sp_group *group)
{
    const grouping *g = m->g;
    const uint32_t *queries = g->plan->numbers + group->queries;
    uint64_t *masks = g->plan->words + group->masks;
    uint32_t words = (group->n_keys + 63) / 64;
    memset(m->bits, 0, number_rows(m, queries, group->n_queries, words) * sizeof *m->bits);
    mark_keys(m, g->plan->numbers + group->keys, group->n_keys);
    for (uint32_t i = 0; i < group->n_queries; i++, masks += words) {
        memset(masks, 0, words * sizeof *masks);
        for (uint32_t run = 0; run <= g->run; run++) {
            const uint16_t *ids = q_ids(g->classes, m->head, run, queries[i] - g->position);
            for (uint32_t s = 0; s < earlier_slots(g, run); s++) {
                if (ids[s] == SP_NO_CLASS) continue;
                uint32_t row = m->row_of[(size_t)run * g->classes->n_classes + ids[s]];
                for (size_t w = 0; w < words; w++) masks[w] |= m->bits[row + w];
            }
        }
        for (size_t w = 0; w < words; w++) masks[w] = ~masks[w];
    }
    forget_rows(m, queries, group->n_queries);
}

/* Words of the bit rows of a group: at most one row an earlier class, and one an earlier slot of its rows. */
static size_t most_bits(const sp_classes *c)
{
    size_t classes = (size_t)c->runs * c->n_classes, slots = (size_t)c->rows * c->runs * c->top;
    return (1 + (classes < slots ? classes : slots)) * (((size_t)c->n_keys + 63) / 64);
}

/* All masks of one head in this round. */
static void mask_head(void *context, size_t head, size_t worker)
{
    const grouping *g = context;
    const sp_classes *c = g->classes;
    const marking m = {.g = g,
                       .head = (uint32_t)head,
                       .row_of = g->row_of + worker * c->runs * c->n_classes,
                       .bits = g->bits + worker * most_bits(c)};
    for (uint32_t i = g->head_groups[head]; i < g->head_groups[head + 1]; i++)
        fill_masks(&m, &g->plan->groups[i]);
}

/* --- groups --- */

/* Of a class's rows, ascending, those that have a key outside of the band; their ranges go to g->ranges.
 * Global rows see everything in tiles. */
static uint32_t keep_rows(const grouping *g, uint32_t *rows, uint32_t n_rows, const uint32_t *keys,
                          uint32_t n_keys)
{
    uint32_t n = 0, width = 2 * sp_band_n_ranges(g->band), found[4] = {0};
    bool first = true;
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t query = g->position + rows[i];
        if (sp_band_is_global(g->band, query)) continue;
        if (first)
            sp_band_ranges(g->band, query, keys, n_keys, found);
        else
            sp_band_advance(g->band, query, keys, n_keys, found);
        first = false;
        if (found[1] == found[0] && found[3] == found[2]) continue;
        memcpy(g->ranges + (size_t)width * n, found, width * sizeof *found);
        rows[n++] = rows[i];
    }
    return n;
}

/* One class of the round. */
static sp_status add_class(const grouping *g, uint32_t class, sp_error *error)
{
    const sp_classes *c = g->classes;
    const uint32_t *starts = g->starts + (size_t)g->head * (c->n_classes + 1);
    const uint32_t *keys = g->keys + (size_t)g->head * c->n_keys * c->top + starts[class];
    uint32_t *rows = g->members + g->member_starts[class], n_keys = starts[class + 1] - starts[class];
    uint32_t n = keep_rows(g, rows, g->member_starts[class + 1] - g->member_starts[class], keys, n_keys);
    if (n == 0) return SP_OK;
    uint32_t *holder = &g->holders[(size_t)g->head * c->n_classes + class]; /* the keys of an earlier slot */
    const sp_group_data sizes = {.list = g->head,
                                 .round = g->run * c->top + g->slot,
                                 .n_queries = n,
                                 .n_keys = n_keys,
                                 .n_ranges = sp_band_n_ranges(g->band),
                                 .with_masks = g->run + g->slot > 0,
                                 .holder = *holder};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(g->plan, &sizes, &slots, error);
    if (status != SP_OK) return status;
    if (!*holder) memcpy(slots.keys, keys, n_keys * sizeof *keys);
    if (!*holder) *holder = (uint32_t)g->plan->n_groups;
    for (uint32_t i = 0; i < n; i++) slots.queries[i] = g->position + rows[i];
    memcpy(slots.ranges, g->ranges, (size_t)n * 2 * sizes.n_ranges * sizeof *g->ranges);
    return SP_OK;
}

static sp_status add_head(grouping *g, sp_error *error)
{
    const sp_classes *c = g->classes;
    sp_classes_sort(q_ids(c, g->head, g->run, 0) + g->slot, c->rows, c->top, 1, c->n_classes,
                    g->member_starts, g->members);
    sp_status status = SP_OK;
    for (uint32_t class = 0; class < c->n_classes && status == SP_OK; class ++)
        if (g->member_starts[class] < g->member_starts[class + 1]) status = add_class(g, class, error);
    return status;
}

/* The keys of one head and run. */
static void sort_head(void *context, size_t head, size_t worker)
{
    const grouping *g = context;
    const sp_classes *c = g->classes;
    (void)worker;
    sp_classes_sort(k_ids(c, (uint32_t)head, g->run, 0), c->n_keys, c->top, c->top, c->n_classes,
                    g->starts + head * (c->n_classes + 1), g->keys + head * c->n_keys * c->top);
}

static sp_status add_run(grouping *g, sp_error *error)
{
    const sp_classes *c = g->classes;
    memset(g->holders, 0, (size_t)c->n_heads * c->n_classes * sizeof *g->holders);
    sp_threads_run(c->threads, c->n_heads, sort_head, g);
    sp_status status = SP_OK;
    for (g->slot = 0; g->slot < c->top && status == SP_OK; g->slot++) {
        for (g->head = 0; g->head < c->n_heads && status == SP_OK; g->head++) {
            g->head_groups[g->head] = (uint32_t)g->plan->n_groups;
            status = add_head(g, error);
        }
        g->head_groups[c->n_heads] = (uint32_t)g->plan->n_groups;
        if (status == SP_OK && g->run + g->slot > 0) sp_threads_run(c->threads, c->n_heads, mask_head, g);
    }
    return status;
}

static sp_status prepare(grouping *g, sp_scratch *scratch, sp_error *error)
{
    const sp_classes *c = g->classes;
    size_t heads = c->n_heads, classes = (size_t)c->n_classes + 1, threads = sp_threads_count(c->threads);
    sp_status status = sp_scratch_take(scratch, heads * c->n_keys * c->top, sizeof *g->keys, &g->keys, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, heads * classes, sizeof *g->starts, &g->starts, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, c->rows, sizeof *g->members, &g->members, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, c->rows, 4 * sizeof *g->ranges, &g->ranges, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, heads * c->n_classes, sizeof *g->holders, &g->holders, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, classes, sizeof *g->member_starts, &g->member_starts, error);
    if (status == SP_OK)
        status =
            sp_scratch_take(scratch, threads * c->runs * c->n_classes, sizeof *g->row_of, &g->row_of, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, heads + 1, sizeof *g->head_groups, &g->head_groups, error);
    if (status == SP_OK && c->runs * c->top > 1)
        status = sp_scratch_take(scratch, threads * most_bits(c), sizeof *g->bits, &g->bits, error);
    for (size_t i = 0; i < threads * c->runs * c->n_classes && status == SP_OK; i++) g->row_of[i] = NO_ROW;
    return status;
}

sp_status sp_classes_plan(const sp_classes *classes, const sp_band *band, uint32_t position,
                          sp_scratch *scratch, sp_plan *out, sp_error *error)
{
    grouping g = {.classes = classes, .band = band, .position = position, .plan = out};
    sp_status status = SP_OK;
    for (uint32_t list = 0; list < classes->n_heads && status == SP_OK; list++)
        status = sp_band_add(band, out, list, error);
    if (status == SP_OK) status = prepare(&g, scratch, error);
    for (g.run = 0; g.run < classes->runs && status == SP_OK; g.run++) status = add_run(&g, error);
    return status;
}
