/* Scans over projected keys: which keys pass a threshold (scan_mask), and which `keep` are nearest
 * (scan_top).
 *
 * A task is a block of rows of the heads that read one map, so that each tile of 64 keys is loaded once for
 * up to 6 rows. For the nearest, a row keeps a list of candidates: a key enters when it is nearer than the
 * floor, and when the list is full it shrinks to the `keep` best, whose last is the new floor. Keys come
 * ascending, so of equal ones the lower stays. The result is the exact set whatever the cuts; few rows over
 * many keys (decoding) are cut into parts of the keys, whose lists are joined. Scratch stays with the device.
 * Tests: tests/kernels/test_predict.c */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/predict.h"

#define LIST_ROOM 128 /* candidates beyond `keep` before a list shrinks */
#define FEW_ROWS 4    /* rows that compute less than it takes to bring a tile */
#define ASK_AHEAD 4   /* tiles */
#define PART_TILES 32 /* least tiles of a part */
#define PART_TASKS 8  /* tasks a thread that parts make at most */

typedef struct scan_scratch {
    sp_attend_buffer workers, parts;
} scan_scratch;

/* Scratch of one thread. */
typedef struct worker_scratch {
    float *q, *lengths, *near; /* (6, stride), (6), (6, 64, 64) */
    uint16_t *pairs;           /* (6, stride) */
    float *list_near;          /* (6, room) */
    uint32_t *list_keys;       /* (6, room) */
} worker_scratch;

typedef struct scan {
    const sp_scan_args *args;
    const sp_predict_slots *slots;
    bool top;
    size_t share, stride, blocks, parts, tiles, part_tiles;
    size_t room, full;          /* numbers of a candidate list; how many make it shrink */
    size_t part_room, row_room; /* numbers of a part's list of one row; of all parts of a row */
    uint8_t *workers;
    size_t worker_bytes;
    float *part_near; /* (n_maps, rows * share, row_room) */
    uint32_t *part_keys, *part_n;
    _Atomic float *floors; /* (n_maps, rows * share): what parts have found; only ever rises */
} scan;

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

static size_t carve_worker(const scan *s, uint8_t *base, worker_scratch *out)
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

/* A row of a head, and the keys it may take: one interval, or two around a window. */
typedef struct scan_row {
    uint32_t row, head;
    uint32_t begin[2], end[2];
} scan_row;

static scan_row row_of(const scan *s, uint32_t map, size_t index)
{
    const sp_scan_args *args = s->args;
    scan_row at = {.row = (uint32_t)(index / s->share),
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

static uint64_t interval_bits(uint32_t tile, uint32_t begin, uint32_t end)
{
    uint64_t low = (uint64_t)tile * SP_TILE, high = low + SP_TILE;
    uint64_t from = begin > low ? begin : low, to = end < high ? end : high;
    if (from >= to) return 0;
    return UINT64_MAX >> (SP_TILE - (to - from)) << (from - low);
}

static uint64_t allowed_bits(const scan_row *row, uint32_t tile)
{
    return interval_bits(tile, row->begin[0], row->end[0]) | interval_bits(tile, row->begin[1], row->end[1]);
}

static void load_queries(const scan *s, const scan_row *rows, size_t n, const worker_scratch *scratch)
{
    const sp_scan_args *args = s->args;
    size_t rank = args->keys.rank;
    bool half = args->keys.dtype == SP_BF16;
    for (size_t i = 0; i < n; i++) {
        const float *from = args->q + ((size_t)rows[i].row * args->n_heads + rows[i].head) * rank;
        float *q = scratch->q + i * s->stride, square = 0;
        memcpy(q, from, rank * sizeof *q);
        if (rank % 2) q[rank] = 0;
        for (size_t d = 0; d < s->stride && half; d++) {
            scratch->pairs[i * s->stride + d] = sp_bf16_from_f32(q[d]);
            q[d] = sp_bf16_to_f32(scratch->pairs[i * s->stride + d]);
        }
        for (size_t d = 0; d < rank && args->metric == SP_METRIC_COSINE; d++)
            square = fmaf(q[d], q[d], square);
        scratch->lengths[i] = sqrtf(square);
    }
}

/* --- one block of rows over one part of the keys --- */

typedef struct block {
    scan_row rows[SP_SCAN_ROWS];
    sp_scan_best best[SP_SCAN_ROWS];
    uint64_t words[SP_SCAN_ROWS][SP_SCAN_STEP];
    size_t n, first;        /* rows; index of the first within its map */
    uint32_t map, whole[2]; /* tiles of which every row may take all keys: from, to */
    worker_scratch scratch;
} block;

static float floor_of(const sp_scan_args *args, uint32_t head)
{
    return args->metric == SP_METRIC_DOT ? args->thresholds[head] : -args->thresholds[head];
}

/* Raises the floor of a row's other parts, and its own to theirs. Keys at the floor itself may have lower
 * keys in another part: they stay wanted. */
static void share_floor(const scan *s, block *b, size_t i)
{
    _Atomic float *floor = &s->floors[b->map * s->args->rows * s->share + b->first + i];
    float mine = nextafterf(b->best[i].floor, -INFINITY),
          theirs = atomic_load_explicit(floor, memory_order_relaxed);
    while (mine > theirs && !atomic_compare_exchange_weak_explicit(floor, &theirs, mine, memory_order_relaxed,
                                                                   memory_order_relaxed)) {
    }
    if (theirs > b->best[i].floor) b->best[i].floor = theirs;
}

static void ask_tile(const scan *s, uint32_t map, uint32_t tile)
{
    const uint8_t *codes = s->args->keys.pages[tile] + map * s->args->keys.map_bytes;
    for (size_t i = 0; i < s->args->keys.map_bytes; i += 64) __builtin_prefetch(codes + i);
}

/* What all tiles of a block share; k and near are the caller's. near_stride: floats from row to row. */
static sp_scan_tile begin_tile(const scan *s, const block *b, size_t near_stride)
{
    const sp_scan_args *args = s->args;
    bool rootless = args->metric == SP_METRIC_EUCLIDEAN && s->top; /* the root would only make ties */
    return (sp_scan_tile){.rows = b->n,
                          .rank = args->keys.rank,
                          .stride = s->stride,
                          .metric = rootless ? SP_METRIC_L2 : args->metric,
                          .q = b->scratch.q,
                          .pairs = b->scratch.pairs,
                          .lengths = b->scratch.lengths,
                          .near_stride = near_stride};
}

static void score_tile(const scan *s, const sp_scan_tile *tile)
{
    if (s->args->keys.dtype == SP_BF16)
        s->slots->near_bf16(tile);
    else
        s->slots->near_f32(tile);
}

/* The keys of a tile that each row may take; returns whether there are any. */
static uint64_t allow_tile(const block *b, uint32_t tile, uint64_t allowed[SP_SCAN_ROWS])
{
    bool whole = tile >= b->whole[0] && tile < b->whole[1];
    uint64_t any = 0;
    for (size_t i = 0; i < b->n; i++) {
        allowed[i] = whole ? UINT64_MAX : allowed_bits(&b->rows[i], tile);
        any |= allowed[i];
    }
    return any;
}

/* Which keys of a tile are above the floors, for all rows of the block. marks (rows) */
static void mark_tile(const scan *s, const block *b, sp_scan_tile *tile, const float *floors, uint64_t *marks)
{
    if (s->args->keys.dtype == SP_BF16 && tile->metric == SP_METRIC_DOT && s->slots->mark_dot_bf16) {
        s->slots->mark_dot_bf16(tile, floors, marks);
        return;
    }
    score_tile(s, tile);
    for (size_t i = 0; i < b->n; i++)
        marks[i] = s->slots->above(tile->near + i * tile->near_stride, floors[i]);
}

/* scan_mask: words of all tiles from begin to end. */
static void mask_part(const scan *s, block *b, uint32_t begin, uint32_t end)
{
    const sp_scan_args *args = s->args;
    sp_scan_tile tile = begin_tile(s, b, SP_TILE);
    uint64_t *words[SP_SCAN_ROWS], allowed[SP_SCAN_ROWS], marks[SP_SCAN_ROWS];
    float floors[SP_SCAN_ROWS];
    tile.near = b->scratch.near;
    for (size_t i = 0; i < b->n; i++) {
        words[i] = args->words + ((size_t)b->rows[i].head * args->rows + b->rows[i].row) * s->tiles;
        floors[i] = floor_of(args, b->rows[i].head);
    }
    for (uint32_t t = begin; t < end; t++) {
        if (!allow_tile(b, t, allowed)) {
            for (size_t i = 0; i < b->n; i++) words[i][t] = 0;
            continue;
        }
        tile.k = args->keys.pages[t] + b->map * args->keys.map_bytes;
        mark_tile(s, b, &tile, floors, marks);
        for (size_t i = 0; i < b->n; i++) words[i][t] = allowed[i] & marks[i];
    }
}

/* scan_top: candidates from begin to end. */
static void top_part(const scan *s, block *b, uint32_t begin, uint32_t end)
{
    const sp_scan_args *args = s->args;
    sp_scan_tile tile = begin_tile(s, b, SP_SCAN_STEP * SP_TILE);
    for (uint32_t t = begin; t < end; t += SP_SCAN_STEP) {
        uint32_t n = end - t < SP_SCAN_STEP ? end - t : SP_SCAN_STEP;
        uint64_t some = 0, allowed[SP_SCAN_ROWS];
        for (uint32_t j = 0; j < n; j++) {
            uint64_t any = allow_tile(b, t + j, allowed);
            for (size_t i = 0; i < b->n; i++) b->words[i][j] = allowed[i];
            some |= any;
            if (!any) continue;
            tile.k = args->keys.pages[t + j] + b->map * args->keys.map_bytes;
            tile.near = b->scratch.near + j * SP_TILE;
            if (b->n <= FEW_ROWS && t + j + ASK_AHEAD < end) ask_tile(s, b->map, t + j + ASK_AHEAD);
            score_tile(s, &tile);
        }
        for (size_t i = 0; i < b->n && some; i++) {
            s->slots->take(b->scratch.near + i * tile.near_stride, b->words[i], n, t * SP_TILE, args->keep,
                           &b->best[i]);
            if (b->best[i].n > s->full)
                s->slots->shrink(&b->best[i], args->keep, args->keep + args->keep / 4);
            if (s->parts > 1) share_floor(s, b, i);
        }
    }
}

/* Hands out a row's list. */
static void put_best(const scan *s, const scan_row *row, sp_scan_best *best)
{
    const sp_scan_args *args = s->args;
    size_t at = (size_t)row->head * args->rows + row->row;
    if (best->n > args->keep) s->slots->shrink(best, args->keep, args->keep);
    memcpy(args->best + at * args->keep, best->keys, best->n * sizeof *best->keys);
    args->n_best[at] = (uint32_t)best->n;
}

static void put_part(const scan *s, const block *b, size_t i, size_t part)
{
    size_t rows = s->args->rows * s->share;
    size_t at = (b->map * rows + b->first + i) * s->parts + part;
    sp_scan_best best = b->best[i];
    if (best.n > s->args->keep) s->slots->shrink(&best, s->args->keep, s->args->keep);
    size_t to = at / s->parts * s->row_room + part * s->part_room;
    memcpy(s->part_near + to, best.near, best.n * sizeof *best.near);
    memcpy(s->part_keys + to, best.keys, best.n * sizeof *best.keys);
    s->part_n[at] = (uint32_t)best.n;
}

static void scan_task(void *context, size_t task, size_t worker)
{
    const scan *s = context;
    block b;
    size_t part = task % s->parts, index = task / s->parts;
    /* the last rows have the most keys: they go first */
    size_t at = s->blocks - 1 - index / s->args->keys.n_maps, rows = s->args->rows * s->share;
    b.map = (uint32_t)(index % s->args->keys.n_maps);
    b.first = at * SP_SCAN_ROWS;
    b.n = rows - b.first < SP_SCAN_ROWS ? rows - b.first : SP_SCAN_ROWS;
    carve_worker(s, s->workers + worker * s->worker_bytes, &b.scratch);
    for (size_t i = 0; i < b.n; i++) {
        b.rows[i] = row_of(s, b.map, b.first + i);
        b.best[i] = (sp_scan_best){.near = s->top ? b.scratch.list_near + i * s->room : NULL,
                                   .keys = s->top ? b.scratch.list_keys + i * s->room : NULL,
                                   .floor = -INFINITY};
        if (s->parts > 1) share_floor(s, &b, i);
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
        top_part(s, &b, (uint32_t)begin, (uint32_t)end);
    else
        mask_part(s, &b, (uint32_t)begin, (uint32_t)end);
    for (size_t i = 0; i < b.n && s->top; i++) {
        if (s->parts > 1)
            put_part(s, &b, i, part);
        else
            put_best(s, &b.rows[i], &b.best[i]);
    }
}

/* Joins the parts of every row; keys ascend from part to part. */
static void join_parts(const scan *s)
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
            scan_row row = row_of(s, map, i);
            put_best(s, &row, &best);
        }
    }
}

/* --- the call --- */

static void choose_parts(scan *s, size_t threads)
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
static bool reserve(scan *s, sp_cpu_state *cpu, size_t threads)
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
    worker_scratch unused;
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
    scan s = {.args = args,
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
