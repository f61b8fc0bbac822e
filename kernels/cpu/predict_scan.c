/* Scans over projected keys: which keys pass a threshold (scan_mask), and which `keep` are nearest
 * (scan_top).
 *
 * A task is a block of rows of the heads that read one map, so that each tile of 64 keys is loaded once for
 * up to 6 rows (predict_step.c). For the nearest, a row keeps a list of candidates: a key enters when it is
 * nearer than the floor, and when the list is full it shrinks to the `keep` best, whose last is the new
 * floor. Keys come ascending, so of equal ones the lower stays. The result is the exact set whatever the
 * cuts; few rows over many keys (decoding) are cut into parts of the keys, whose lists are joined. Scratch
 * stays with the device. Tests: tests/kernels/test_predict.c */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/predict_scan.h"

#define LIST_ROOM 128 /* candidates beyond `keep` before a list shrinks */
#define PART_TILES 32 /* least tiles of a part */
#define PART_TASKS 8  /* tasks a thread that parts make at most */

typedef struct scan_scratch {
    sp_attend_buffer workers, parts;
} scan_scratch;

static void scratch_free(void *pointer)
{
    scan_scratch *scratch = pointer;
    sp_free(scratch->workers.data);
    sp_free(scratch->parts.data);
    sp_free(scratch);
}

static uint8_t *carve(uint8_t *base, size_t *used, size_t bytes)
{
    uint8_t *at = base ? base + *used : NULL;
    *used += (bytes + SP_ALIGNMENT - 1) / SP_ALIGNMENT * SP_ALIGNMENT;
    return at;
}

static size_t carve_worker(const sp_scan *s, uint8_t *base, sp_scan_worker *out)
{
    size_t used = 0;
    out->q = (float *)carve(base, &used, SP_SCAN_ROWS * s->stride * sizeof *out->q);
    out->pairs = (uint16_t *)carve(base, &used, SP_SCAN_ROWS * s->stride * sizeof *out->pairs);
    out->lengths = (float *)carve(base, &used, SP_SCAN_ROWS * sizeof *out->lengths);
    out->near = (float *)carve(base, &used,
                               (SP_SCAN_ROWS * SP_SCAN_STEP * SP_TILE + SP_SCAN_PAD) * sizeof *out->near);
    if (!s->top) return used;
    out->list_near = (float *)carve(base, &used, SP_SCAN_ROWS * s->room * sizeof *out->list_near);
    out->list_keys = (uint32_t *)carve(base, &used, SP_SCAN_ROWS * s->room * sizeof *out->list_keys);
    return used;
}

/* --- rows --- */

static sp_scan_row row_of(const sp_scan *s, uint32_t map, size_t index)
{
    const sp_scan_args *args = s->args;
    sp_scan_row at = {.row = (uint32_t)(index / s->share),
                      .head = (uint32_t)(map * s->share + index % s->share)};
    uint32_t query = args->position + at.row, end = args->keys.n_keys;
    if (args->causal && query < end) end = query + 1;
    at.end[0] = end;
    if (!s->top) return at;
    at.begin[0] = args->first;
    if (!args->has_window) return at;
    uint32_t low = query > args->radius ? query - args->radius : 0;
    uint64_t high = (uint64_t)query + args->radius + 1;
    if (low < end) at.end[0] = low;
    at.begin[1] = high > args->first ? (high < end ? (uint32_t)high : end) : args->first;
    at.end[1] = end;
    return at;
}

static void load_queries(const sp_scan *s, const sp_scan_row *rows, size_t n, const sp_scan_worker *scratch)
{
    const sp_scan_args *args = s->args;
    size_t rank = args->keys.rank;
    bool half = args->keys.dtype == SP_BF16;
    for (size_t i = 0; i < n; i++) {
        const float *from = args->q + ((size_t)rows[i].row * args->n_heads + rows[i].head) * rank;
        float *q = scratch->q + i * s->stride, square = 0;
        memcpy(q, from, rank * sizeof *q);
        if (rank % 2) q[rank] = 0;
        uint16_t *pairs = scratch->pairs + i * s->stride;
        for (size_t d = 0; half && d < s->stride; d++) pairs[d] = sp_bf16_from_f32(q[d]);
        for (size_t d = 0; half && d < s->stride; d++) q[d] = sp_bf16_to_f32(pairs[d]);
        for (size_t d = 0; d < rank && args->metric == SP_METRIC_COSINE; d++)
            square = fmaf(q[d], q[d], square);
        scratch->lengths[i] = sqrtf(square);
    }
}

/* Another part may hold lower keys that are as near as the floor: they stay wanted, so just less is shared.
 */
void sp_scan_share(const sp_scan *s, sp_scan_block *b, size_t i)
{
    _Atomic float *floor = &s->floors[b->map * s->args->rows * s->share + b->first + i];
    float mine = nextafterf(b->best[i].floor, -INFINITY),
          theirs = atomic_load_explicit(floor, memory_order_relaxed);
    while (mine > theirs && !atomic_compare_exchange_weak_explicit(floor, &theirs, mine, memory_order_relaxed,
                                                                   memory_order_relaxed)) {
    }
    if (theirs > b->best[i].floor) b->best[i].floor = theirs;
}

/* Lists with more than `keep` keys lose the others. */
static void settle(const sp_scan *s, sp_scan_best *best, size_t rows)
{
    if (s->slots->settle) {
        s->slots->settle(best, rows, s->args->keep);
        return;
    }
    for (size_t i = 0; i < rows; i++)
        if (best[i].n > s->args->keep) s->slots->shrink(&best[i], s->args->keep, s->args->keep);
}

/* Hands out a row's list. */
static void put_best(const sp_scan *s, const sp_scan_row *row, const sp_scan_best *best)
{
    const sp_scan_args *args = s->args;
    size_t at = (size_t)row->head * args->rows + row->row;
    memcpy(args->best + at * args->keep, best->keys, best->n * sizeof *best->keys);
    args->n_best[at] = (uint32_t)best->n;
}

static void put_part(const sp_scan *s, const sp_scan_block *b, size_t i, size_t part)
{
    size_t rows = s->args->rows * s->share;
    size_t at = (b->map * rows + b->first + i) * s->parts + part;
    const sp_scan_best best = b->best[i];
    size_t to = at / s->parts * s->row_room + part * s->part_room;
    memcpy(s->part_near + to, best.near, best.n * sizeof *best.near);
    memcpy(s->part_keys + to, best.keys, best.n * sizeof *best.keys);
    s->part_n[at] = (uint32_t)best.n;
}

static void scan_task(void *context, size_t task, size_t worker)
{
    const sp_scan *s = context;
    sp_scan_block b;
    size_t part = task % s->parts, index = task / s->parts;
    /* map by map, that its keys stay in the cache; the last rows have the most keys: they go first */
    size_t at = s->blocks - 1 - index % s->blocks, rows = s->args->rows * s->share;
    b.map = (uint32_t)(index / s->blocks);
    b.first = at * SP_SCAN_ROWS;
    b.n = rows - b.first < SP_SCAN_ROWS ? rows - b.first : SP_SCAN_ROWS;
    carve_worker(s, s->workers + worker * s->worker_bytes, &b.scratch);
    for (size_t i = 0; i < b.n; i++) {
        b.rows[i] = row_of(s, b.map, b.first + i);
        b.best[i] = (sp_scan_best){.near = s->top ? b.scratch.list_near + i * s->room : NULL,
                                   .keys = s->top ? b.scratch.list_keys + i * s->room : NULL,
                                   .floor = -INFINITY};
        if (s->parts > 1) sp_scan_share(s, &b, i);
    }
    b.whole[0] = 0, b.whole[1] = UINT32_MAX;
    for (size_t i = 0; i < b.n; i++) {
        uint32_t from = (b.rows[i].begin[0] + SP_TILE - 1) / SP_TILE, to = b.rows[i].end[0] / SP_TILE;
        if (from > b.whole[0]) b.whole[0] = from;
        if (to < b.whole[1]) b.whole[1] = to;
    }
    load_queries(s, b.rows, b.n, &b.scratch);
    size_t begin = part * s->part_tiles, end = begin + s->part_tiles;
    if (end > s->tiles) end = s->tiles;
    if (s->top)
        sp_scan_top_part(s, &b, (uint32_t)begin, (uint32_t)end);
    else
        sp_scan_mask_part(s, &b, (uint32_t)begin, (uint32_t)end);
    if (!s->top) return;
    settle(s, b.best, b.n);
    for (size_t i = 0; i < b.n; i++) {
        if (s->parts > 1)
            put_part(s, &b, i, part);
        else
            put_best(s, &b.rows[i], &b.best[i]);
    }
}

/* Joins the parts of every row; keys ascend from part to part. */
static void join_parts(const sp_scan *s)
{
    size_t rows = s->args->rows * s->share;
    for (uint32_t map = 0; map < s->args->keys.n_maps; map++) {
        for (size_t i = 0; i < rows; i++) {
            size_t at = (map * rows + i) * s->parts;
            sp_scan_best best = {.near = s->part_near + (map * rows + i) * s->row_room,
                                 .keys = s->part_keys + (map * rows + i) * s->row_room,
                                 .n = s->part_n[at]};
            for (size_t part = 1; part < s->parts; part++) {
                size_t n = s->part_n[at + part];
                memmove(best.near + best.n, best.near + part * s->part_room, n * sizeof *best.near);
                memmove(best.keys + best.n, best.keys + part * s->part_room, n * sizeof *best.keys);
                best.n += n;
            }
            sp_scan_row row = row_of(s, map, i);
            settle(s, &best, 1);
            put_best(s, &row, &best);
        }
    }
}

/* --- the call --- */

static void choose_parts(sp_scan *s, size_t threads)
{
    size_t tasks = s->blocks * s->args->keys.n_maps;
    s->parts = 1;
    if (s->top && threads > 1 && tasks < threads * PART_TASKS) {
        s->parts = (threads * PART_TASKS + tasks - 1) / tasks;
        if (s->parts > s->tiles / PART_TILES) s->parts = s->tiles / PART_TILES;
        if (s->parts == 0) s->parts = 1;
    }
    s->part_tiles = (s->tiles + s->parts - 1) / s->parts;
    s->parts = (s->tiles + s->part_tiles - 1) / s->part_tiles;
}

/* Scratch for all threads and, with parts, their lists. */
static bool reserve(sp_scan *s, sp_cpu_state *cpu, size_t threads)
{
    if (!cpu->predict) {
        cpu->predict = sp_alloc_zero(1, sizeof(scan_scratch));
        cpu->predict_free = cpu->predict ? scratch_free : NULL;
    }
    scan_scratch *scratch = cpu->predict;
    if (!scratch) return false;
    size_t keys = s->tiles * SP_TILE, keep = s->args->keep < keys ? s->args->keep : keys;
    size_t spare = keep > LIST_ROOM ? keep : LIST_ROOM;
    s->full = keep + spare < keys ? keep + spare : keys;
    s->room = s->full + SP_SCAN_STEP * SP_TILE + SP_SCAN_PAD;
    sp_scan_worker unused;
    s->worker_bytes = carve_worker(s, NULL, &unused);
    s->workers = sp_attend_reserve(&scratch->workers, s->worker_bytes * threads);
    if (!s->workers) return false;
    if (s->parts == 1) return true;
    s->part_room = s->part_tiles * SP_TILE < keep ? s->part_tiles * SP_TILE : keep;
    size_t lists = s->args->keys.n_maps * s->args->rows * s->share * s->parts, used = 0;
    s->row_room = s->parts * s->part_room + SP_SCAN_PAD;
    size_t numbers = lists / s->parts * s->row_room;
    carve(NULL, &used, numbers * sizeof *s->part_near);
    carve(NULL, &used, numbers * sizeof *s->part_keys);
    carve(NULL, &used, lists * sizeof *s->part_n);
    carve(NULL, &used, lists / s->parts * sizeof *s->floors);
    uint8_t *data = sp_attend_reserve(&scratch->parts, used);
    if (!data) return false;
    used = 0;
    s->part_near = (float *)carve(data, &used, numbers * sizeof *s->part_near);
    s->part_keys = (uint32_t *)carve(data, &used, numbers * sizeof *s->part_keys);
    s->part_n = (uint32_t *)carve(data, &used, lists * sizeof *s->part_n);
    s->floors = (_Atomic float *)carve(data, &used, lists / s->parts * sizeof *s->floors);
    for (size_t i = 0; i < lists / s->parts; i++) atomic_init(&s->floors[i], -INFINITY);
    return true;
}

static sp_status run(sp_device *device, const sp_scan_args *args, bool top, sp_error *error)
{
    const sp_code_view *keys = &args->keys;
    assert(keys->n_maps && args->n_heads % keys->n_maps == 0);
    sp_cpu_state *cpu = sp_cpu_of(device);
    size_t threads = sp_threads_count(device->threads);
    sp_scan s = {.args = args,
                 .slots = sp_predict_slots_for(cpu->level),
                 .top = top,
                 .share = args->n_heads / keys->n_maps,
                 .stride = (keys->rank + 1) / 2 * 2,
                 .tiles = ((size_t)keys->n_keys + SP_TILE - 1) / SP_TILE};
    s.blocks = (args->rows * s.share + SP_SCAN_ROWS - 1) / SP_SCAN_ROWS;
    if (!s.blocks) return SP_OK;
    if (top && (!args->keep || !s.tiles)) {
        memset(args->n_best, 0, (size_t)args->n_heads * args->rows * sizeof *args->n_best);
        return SP_OK;
    }
    if (!s.tiles) return SP_OK;
    choose_parts(&s, threads);
    if (!reserve(&s, cpu, threads))
        return sp_fail(error, SP_NO_MEMORY, "prediction over %u keys: out of memory", keys->n_keys);
    sp_threads_run(device->threads, s.blocks * keys->n_maps * s.parts, scan_task, &s);
    if (s.parts > 1) join_parts(&s);
    return SP_OK;
}

sp_status sp_cpu_scan_mask(sp_device *device, const sp_scan_args *args, sp_error *error)
{
    return run(device, args, false, error);
}

sp_status sp_cpu_scan_top(sp_device *device, const sp_scan_args *args, sp_error *error)
{
    return run(device, args, true, error);
}
