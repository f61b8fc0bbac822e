/* sparsefinder, grouping cluster, where the keys of every centroid are kept as a set (codes.h): the plan of
 * classes.c without sorting keys or looking at what the chunk's rows do not have.
 *
 * A round is a run and a slot of the query; a group is a centroid: the rows that took it in this slot by all
 * keys of its set. Ranks in a set are counts of bits, taken from its nearer end. Keys of earlier centroids of
 * a row are dropped by masks: one bit row an earlier centroid of the group's rows (the op list_set), put
 * together row by row. A row alone (decoding) is a chunk of one. Tests: tests/attention/test_conformance.c,
 * tests/attention/test_predicted.c */
#include "engine/attention/classes.h"
#include "engine/attention/sparsefinder.h"

#include <string.h>

#define FILL_GROUPS 4 /* of a task */

/* A group on its way: which row of words it is. */
typedef struct listed {
    uint32_t group, row;
} listed;

typedef struct grouping {
    const sp_plan_request *request;
    const sp_band *band;
    sp_plan *plan;
    uint32_t heads, rows, runs, top, size; /* size: centroids of a run */
    const uint16_t *q_ids;                 /* (heads, runs, rows, top) */
    uint32_t n_tiles;
    uint32_t *read; /* (runs, heads, size): the row of words that a set has; of those that rows took */
    uint32_t *wanted, *counts; /* (sets read): the set; its keys */
    uint64_t *words;           /* (sets read, n_tiles) */
    uint32_t run;
    uint32_t *members, *starts, *kept, *ranges; /* of the run, (top, heads): see sorted_rows */
    uint32_t *holders; /* (heads, size): 1 + the group of the run that has the keys */
    listed *listed;    /* (most groups) */
    size_t n_listed;
    size_t most_others, most_shared; /* of a group */
    uint32_t *place, *others;        /* of each thread: see marking */
    uint64_t *shared;
} grouping;

static const uint16_t *ids_of(const grouping *g, uint32_t head, uint32_t run, uint32_t row)
{
    return g->q_ids + (((size_t)head * g->runs + run) * g->rows + row) * g->top;
}

static uint32_t set_of(const grouping *g, uint32_t run, uint32_t head, uint32_t centroid)
{
    return (run * g->heads + head) * g->size + centroid;
}

/* Reads all sets that the rows took. */
static sp_status read_sets(grouping *g, sp_scratch *scratch, sp_error *error)
{
    uint32_t sets = g->runs * g->heads * g->size, n = 0;
    memset(g->read, 0, sets * sizeof *g->read);
    for (uint32_t head = 0; head < g->heads; head++)
        for (uint32_t run = 0; run < g->runs; run++) {
            const uint16_t *ids = ids_of(g, head, run, 0);
            for (size_t i = 0; i < (size_t)g->rows * g->top; i++) g->read[set_of(g, run, head, ids[i])] = 1;
        }
    for (uint32_t set = 0; set < sets; set++) {
        if (!g->read[set]) continue;
        g->wanted[n] = set;
        g->read[set] = n++;
    }
    sp_status status = sp_scratch_take(scratch, (size_t)n * g->n_tiles, sizeof *g->words, &g->words, error);
    if (status != SP_OK) return status;
    const sp_set_args args = {
        .view = *g->request->sets, .n = n, .sets = g->wanted, .words = g->words, .counts = g->counts};
    g->request->device->ops->read_sets(g->request->device, &args);
    return SP_OK;
}

/* --- ranks --- */

/* A number of keys below a position that moves on. */
typedef struct rank {
    uint64_t position;
    uint32_t below;
} rank;

static uint32_t move(const grouping *g, uint32_t row, rank *at, uint64_t position)
{
    const uint64_t *words = g->words + (size_t)row * g->n_tiles;
    uint64_t end = g->request->n_keys;
    if (position > end) position = end;
    if (position == at->position) return at->below;
    if (position < at->position || position - at->position > end - position) /* from the nearer side */
        *at = (rank){position, g->counts[row] - sp_count_bits(words, position, end)};
    else
        *at = (rank){position, at->below + sp_count_bits(words, at->position, position)};
    return at->below;
}

/* As sp_band_ranges, from bits; at (4): of the rows before. False: nothing is outside of the band. */
static bool find_ranges(const grouping *g, uint32_t row, uint32_t query, rank at[4], uint32_t ranges[4])
{
    uint64_t before, behind;
    sp_band_edges(g->band, query, &before, &behind);
    ranges[0] = move(g, row, &at[0], g->band->first);
    ranges[1] = move(g, row, &at[1], before);
    ranges[2] = ranges[3] = 0;
    if (sp_band_n_ranges(g->band) == 2) {
        ranges[2] = move(g, row, &at[2], behind);
        ranges[3] = move(g, row, &at[3], g->band->last_begin);
    }
    sp_band_order(g->band, ranges);
    return ranges[1] > ranges[0] || ranges[3] > ranges[2];
}

/* --- groups --- */

/* Rows of one head and slot of the run by centroid, and of those the ones that have a key outside of the
 * band, with their ranges. Global rows see everything in tiles. */
typedef struct sorted_rows {
    uint32_t *members; /* (rows) */
    uint32_t *starts;  /* (size + 1): where a centroid's rows begin in members and ranges */
    uint32_t *kept;    /* (size): how many are left */
    uint32_t *ranges;  /* (rows, 4) */
} sorted_rows;

static sorted_rows rows_of(const grouping *g, uint32_t slot, uint32_t head)
{
    size_t list = (size_t)slot * g->heads + head;
    return (sorted_rows){.members = g->members + list * g->rows,
                         .starts = g->starts + list * (g->size + 1),
                         .kept = g->kept + list * g->size,
                         .ranges = g->ranges + list * g->rows * 4};
}

static void sort_rows(void *context, size_t task, size_t worker)
{
    const grouping *g = context;
    uint32_t slot = (uint32_t)(task / g->heads), head = (uint32_t)(task % g->heads);
    sorted_rows of = rows_of(g, slot, head);
    (void)worker;
    sp_classes_sort(ids_of(g, head, g->run, 0) + slot, g->rows, g->top, 1, g->size, of.starts, of.members);
    for (uint32_t c = 0; c < g->size; c++) {
        uint32_t n = of.starts[c], row = g->read[set_of(g, g->run, head, c)];
        rank at[4] = {{0}};
        for (uint32_t i = of.starts[c]; i < of.starts[c + 1]; i++) {
            uint32_t query = g->request->position + of.members[i];
            if (sp_band_is_global(g->band, query)) continue;
            if (!find_ranges(g, row, query, at, of.ranges + (size_t)n * 4)) continue;
            of.members[n++] = of.members[i];
        }
        of.kept[c] = n - of.starts[c];
    }
}

static sp_status add_group(grouping *g, uint32_t slot, uint32_t head, uint32_t centroid, sp_error *error)
{
    const sorted_rows of = rows_of(g, slot, head);
    uint32_t row = g->read[set_of(g, g->run, head, centroid)], n = of.kept[centroid];
    uint32_t *holder = &g->holders[head * g->size + centroid];
    const sp_group_data sizes = {.list = head,
                                 .round = g->run * g->top + slot,
                                 .n_queries = n,
                                 .n_keys = g->counts[row],
                                 .n_ranges = sp_band_n_ranges(g->band),
                                 .with_masks = g->run + slot > 0,
                                 .holder = *holder};
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(g->plan, &sizes, &slots, error);
    if (status != SP_OK) return status;
    g->listed[g->n_listed++] = (listed){.group = (uint32_t)g->plan->n_groups - 1, .row = row};
    if (!*holder) *holder = (uint32_t)g->plan->n_groups;
    for (uint32_t i = 0; i < n; i++) {
        size_t at = of.starts[centroid] + i;
        slots.queries[i] = g->request->position + of.members[at];
        for (uint32_t r = 0; r < 2 * sizes.n_ranges; r++)
            slots.ranges[(size_t)i * 2 * sizes.n_ranges + r] = of.ranges[4 * at + r];
    }
    return SP_OK;
}

static sp_status add_groups(grouping *g, sp_error *error)
{
    sp_status status = SP_OK;
    for (g->run = 0; g->run < g->runs && status == SP_OK; g->run++) {
        memset(g->holders, 0, (size_t)g->heads * g->size * sizeof *g->holders);
        sp_threads_run(g->request->device->threads, (size_t)g->top * g->heads, sort_rows, g);
        for (uint32_t slot = 0; slot < g->top; slot++)
            for (uint32_t head = 0; head < g->heads; head++)
                for (uint32_t c = 0; c < g->size && status == SP_OK; c++)
                    if (rows_of(g, slot, head).kept[c]) status = add_group(g, slot, head, c, error);
    }
    return status;
}

/* --- keys and masks --- */

/* How many slots of a run come before a round: all of earlier runs, the earlier ones of its own. */
static uint32_t earlier_slots(const grouping *g, uint32_t round, uint32_t run)
{
    return run < round / g->top ? g->top : round % g->top;
}

/* What one thread makes masks with. */
typedef struct marking {
    uint32_t *place;  /* (runs, size): 1 + which of the group's others; 0: none */
    uint32_t *others; /* (most_others) rows of words */
    uint64_t *shared; /* (most_shared): their bit rows */
} marking;

/* Gives every earlier centroid of the group's rows a place among the others; returns how many. */
static uint32_t place_others(const grouping *g, const sp_group *group, const marking *m)
{
    const uint32_t *queries = g->plan->numbers + group->queries;
    uint32_t n = 0;
    for (uint32_t i = 0; i < group->n_queries; i++)
        for (uint32_t run = 0; run <= group->round / g->top; run++) {
            const uint16_t *ids = ids_of(g, group->list, run, queries[i] - g->request->position);
            for (uint32_t s = 0; s < earlier_slots(g, group->round, run); s++) {
                uint32_t *place = &m->place[run * g->size + ids[s]];
                if (*place) continue;
                m->others[n++] = g->read[set_of(g, run, group->list, ids[s])];
                *place = n;
            }
        }
    return n;
}

static void forget_others(const grouping *g, const marking *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t set = g->wanted[m->others[i]];
        m->place[set / (g->heads * g->size) * g->size + set % g->size] = 0;
    }
}

static void fill_masks(const grouping *g, const sp_group *group, const marking *m)
{
    const uint32_t *queries = g->plan->numbers + group->queries;
    size_t words = ((size_t)group->n_keys + 63) / 64;
    uint64_t *masks = g->plan->words + group->masks;
    for (uint32_t i = 0; i < group->n_queries; i++, masks += words) {
        memset(masks, 0, words * sizeof *masks);
        for (uint32_t run = 0; run <= group->round / g->top; run++) {
            const uint16_t *ids = ids_of(g, group->list, run, queries[i] - g->request->position);
            for (uint32_t s = 0; s < earlier_slots(g, group->round, run); s++) {
                const uint64_t *bits = m->shared + (m->place[run * g->size + ids[s]] - 1) * words;
                for (size_t w = 0; w < words; w++) masks[w] |= bits[w];
            }
        }
        for (size_t w = 0; w < words; w++) masks[w] = ~masks[w];
    }
}

/* The keys of some groups, and their masks. */
static void fill_task(void *context, size_t task, size_t worker)
{
    const grouping *g = context;
    const marking m = {.place = g->place + worker * g->runs * g->size,
                       .others = g->others + worker * g->most_others,
                       .shared = g->shared + worker * g->most_shared};
    for (size_t i = task * FILL_GROUPS; i < (task + 1) * FILL_GROUPS && i < g->n_listed; i++) {
        const listed *of = &g->listed[i];
        const sp_group *group = &g->plan->groups[of->group];
        const sp_set_list list = {.n_tiles = g->n_tiles,
                                  .count = group->n_keys,
                                  .words = g->words + (size_t)of->row * g->n_tiles,
                                  .keys = group->holder == of->group ? g->plan->numbers + group->keys : NULL,
                                  .n_others = group->round ? place_others(g, group, &m) : 0,
                                  .others = m.others,
                                  .all_words = g->words,
                                  .shared = m.shared};
        g->request->device->ops->list_set(g->request->device, &list);
        if (!group->round) continue;
        fill_masks(g, group, &m);
        forget_others(g, &m, list.n_others);
    }
}

static sp_status fill_groups(grouping *g, sp_scratch *scratch, sp_error *error)
{
    size_t classes = (size_t)g->runs * g->size, threads = sp_threads_count(g->request->device->threads);
    for (size_t i = 0; i < g->n_listed; i++) {
        const sp_group *group = &g->plan->groups[g->listed[i].group];
        size_t others = (size_t)group->n_queries * group->round; /* each row has one of each earlier round */
        if (others > classes) others = classes;
        size_t shared = others * (((size_t)group->n_keys + 63) / 64);
        if (others > g->most_others) g->most_others = others;
        if (shared > g->most_shared) g->most_shared = shared;
    }
    sp_status status =
        sp_scratch_take(scratch, threads * g->most_shared, sizeof *g->shared, &g->shared, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, threads * g->most_others, sizeof *g->others, &g->others, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, threads * classes, sizeof *g->place, &g->place, error);
    if (status != SP_OK) return status;
    memset(g->place, 0, threads * classes * sizeof *g->place);
    sp_threads_run(g->request->device->threads, (g->n_listed + FILL_GROUPS - 1) / FILL_GROUPS, fill_task, g);
    return SP_OK;
}

static sp_status take_room(grouping *g, sp_scratch *scratch, sp_error *error)
{
    size_t sets = (size_t)g->runs * g->heads * g->size, lists = (size_t)g->top * g->heads;
    size_t a_round = g->rows < g->size ? g->rows : g->size;
    size_t groups = (size_t)g->runs * g->top * g->heads * a_round;
    sp_status status = sp_scratch_take(scratch, sets, sizeof *g->read, &g->read, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, sets, sizeof *g->wanted, &g->wanted, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, sets, sizeof *g->counts, &g->counts, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, lists * g->rows, sizeof *g->members, &g->members, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, lists * (g->size + 1), sizeof *g->starts, &g->starts, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, lists * g->size, sizeof *g->kept, &g->kept, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, lists * g->rows, 4 * sizeof *g->ranges, &g->ranges, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, (size_t)g->heads * g->size, sizeof *g->holders, &g->holders, error);
    if (status == SP_OK) status = sp_scratch_take(scratch, groups, sizeof *g->listed, &g->listed, error);
    return status;
}

sp_status sp_finder_cluster_sets(const sp_finder *self, uint32_t runs, uint32_t top, uint32_t size,
                                 const uint16_t *q_ids, sp_error *error)
{
    const sp_plan_request *request = self->request;
    grouping g = {.request = request,
                  .band = &self->band,
                  .plan = self->plan,
                  .heads = request->n_heads,
                  .rows = request->rows,
                  .n_tiles = (request->n_keys + SP_TILE - 1) / SP_TILE,
                  .runs = runs,
                  .top = top,
                  .size = size,
                  .q_ids = q_ids};
    sp_status status = SP_OK;
    for (uint32_t h = 0; h < request->n_heads && status == SP_OK; h++)
        status = sp_band_add(&self->band, self->plan, h, error);
    if (status == SP_OK) status = take_room(&g, self->scratch, error);
    if (status != SP_OK) return status;
    status = read_sets(&g, self->scratch, error);
    if (status == SP_OK) status = add_groups(&g, error);
    return status == SP_OK ? fill_groups(&g, self->scratch, error) : status;
}
