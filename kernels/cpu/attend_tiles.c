/* From pages and plans to what the microkernels eat: packed queries, packed tiles of K and V, and edge words.
 *
 * Pages hold rows; the kernels want lanes across keys, so K is transposed on the way in (and pairs of V rows
 * are interleaved for bf16 dot products). Tiles that several tasks read are packed once for all of them while
 * they fit the scratch; else, and always for decoding, a task packs into its own scratch, where it costs a
 * few percent of what 64 queries of a few heads compute with it. Only rows that some query wants are read
 * then. Gathered tiles (64 ranks of a group's keys) take the same way, with scattered row pointers. Tests:
 * tests/kernels/test_attend.c */
#include <string.h>

#include "kernels/cpu/attend.h"

#define ASK_AHEAD 8 /* queries */

static void ask_row(const float *row, size_t n)
{
    for (size_t i = 0; i < n; i += 16) __builtin_prefetch(row + i);
}

void sp_attend_pack_queries(const sp_attend_call *call, const sp_attend_worker *worker,
                            const sp_attend_run *run, uint32_t first, const uint32_t *positions, uint32_t n)
{
    const sp_attend_args *args = call->args;
    size_t width = args->kv.head_dim, stride = call->plan->shape.n_heads * width;
    uint8_t *out = worker->q;
    for (uint32_t head = run->head; head < run->head + run->heads; head++) {
        const float *rows = args->q + head * width;
        for (uint32_t i = 0; i < n; i++, out += call->q_bytes) {
            size_t row = (positions ? positions[i] : first + i) - call->plan->shape.position;
            if (i + ASK_AHEAD < n) {
                uint32_t later = positions ? positions[i + ASK_AHEAD] : first + i + ASK_AHEAD;
                ask_row(rows + (later - call->plan->shape.position) * stride, width);
            }
            call->slots->pack_q(args->kv.head_dim, call->q_scale, rows + row * stride, out);
        }
    }
}

/* --- edge words --- */

/* Bits of the keys 64 * key_tile .. that exist. */
static uint64_t keys_below(uint32_t n_keys, uint32_t key_tile)
{
    uint32_t left = n_keys - key_tile * SP_TILE;
    return left >= SP_TILE ? UINT64_MAX : ((uint64_t)1 << left) - 1;
}

uint64_t sp_attend_tile_words(const sp_attend_call *call, const sp_tile *tile, uint32_t first, uint32_t n,
                              uint32_t heads, uint64_t *words, bool *full)
{
    const sp_plan *plan = call->plan;
    uint64_t exist = keys_below(plan->shape.n_keys, tile->key_tile), any = 0, all = UINT64_MAX;
    *full = tile->kind == SP_TILE_FULL && exist == UINT64_MAX;
    if (*full) return UINT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = (first + i) % SP_TILE;
        uint64_t word = UINT64_MAX;
        if (tile->kind == SP_TILE_CAUSAL)
            word >>= SP_TILE - 1 - row;
        else if (tile->kind == SP_TILE_COLUMNS)
            word = plan->words[tile->word];
        else if (tile->kind == SP_TILE_MASKED)
            word = plan->words[tile->word + row];
        words[i] = word & exist;
        any |= words[i];
        all &= words[i];
    }
    for (uint32_t h = 1; h < heads; h++) memcpy(words + (size_t)h * n, words, n * sizeof *words);
    *full = all == UINT64_MAX;
    return any;
}

/* Bits begin .. end - 1 of a tile's 64 ranks. */
static uint64_t rank_bits(uint32_t rank_tile, uint32_t begin, uint32_t end)
{
    uint32_t low = rank_tile * SP_TILE, high = low + SP_TILE;
    if (begin < low) begin = low;
    if (end > high) end = high;
    if (begin >= end) return 0;
    return UINT64_MAX >> (SP_TILE - (end - begin)) << (begin - low);
}

uint64_t sp_attend_rank_words(const sp_attend_call *call, const sp_attend_member *members, uint32_t n,
                              uint32_t rank_tile, uint32_t heads, uint64_t *words)
{
    const sp_plan *plan = call->plan;
    uint64_t any = 0;
    for (uint32_t i = 0; i < n; i++) {
        const sp_group *group = &plan->groups[members[i].group];
        const uint32_t *range =
            plan->numbers + group->ranges + 2 * (size_t)members[i].query * group->n_ranges;
        uint64_t word = 0;
        for (uint32_t r = 0; r < group->n_ranges; r++)
            word |= rank_bits(rank_tile, range[2 * r], range[2 * r + 1]);
        if (word && group->masks != SP_NO_MASKS) {
            uint32_t tiles = (group->n_keys + SP_TILE - 1) / SP_TILE;
            word &= plan->words[group->masks + (size_t)members[i].query * tiles + rank_tile];
        }
        words[i] = word;
        any |= word;
    }
    for (uint32_t h = 1; h < heads; h++) memcpy(words + (size_t)h * n, words, n * sizeof *words);
    return any;
}

void sp_attend_rank_tiles(const sp_plan *plan, const sp_group *group, uint32_t query, uint32_t *first,
                          uint32_t *end)
{
    const uint32_t *range = plan->numbers + group->ranges + 2 * (size_t)query * group->n_ranges;
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t r = 0; r < group->n_ranges; r++) {
        if (range[2 * r] >= range[2 * r + 1]) continue;
        if (range[2 * r] < low) low = range[2 * r];
        if (range[2 * r + 1] > high) high = range[2 * r + 1];
    }
    *first = high ? low / SP_TILE : 0;
    *end = (high + SP_TILE - 1) / SP_TILE;
}

/* --- packing --- */

static bool v_in_place(const sp_attend_call *call, uint32_t key_tile)
{
    return !call->slots->dots && call->args->kv.dtype == SP_F32 &&
           call->value_dim == call->args->kv.value_dim &&
           keys_below(call->plan->shape.n_keys, key_tile) == UINT64_MAX;
}

static void page_rows(const uint8_t *row, size_t bytes, uint64_t need, const void **rows)
{
    for (uint32_t j = 0; j < SP_TILE; j++) rows[j] = row + j * bytes;
    if (need == UINT64_MAX) return;
    for (uint32_t j = 0; j < SP_TILE; j++)
        if (!(need >> j & 1)) rows[j] = NULL;
}

static void pack_page(const sp_attend_call *call, uint32_t kv, uint32_t key_tile, uint64_t need,
                      ptrdiff_t ahead, void *k, void *v)
{
    const sp_kv_view *view = &call->args->kv;
    const void *rows[SP_TILE];
    uint32_t key = key_tile * SP_TILE;
    need &= keys_below(call->plan->shape.n_keys, key_tile);
    page_rows(sp_attend_k_row(call, kv, key), view->head_dim * call->element, need, rows);
    call->slots->pack_k(rows, view->head_dim, ahead, k);
    if (!v) return;
    page_rows(sp_attend_v_row(call, kv, key), view->value_dim * call->element, need, rows);
    call->slots->pack_v(rows, view->value_dim, ahead, v);
}

static size_t n_key_tiles(const sp_attend_call *call)
{
    return ((size_t)call->plan->shape.n_keys + SP_TILE - 1) / SP_TILE;
}

/* Bytes from a page to the page of the next piece, where that is read whole and not packed for all; else 0.
 */
static ptrdiff_t bytes_ahead(const sp_attend_call *call, uint32_t key_tile, const sp_tile *next)
{
    if (call->packed || !next || next->kind != SP_TILE_FULL) return 0;
    const uint8_t *const *pages = call->args->kv.pages;
    return (ptrdiff_t)((uintptr_t)pages[next->key_tile] - (uintptr_t)pages[key_tile]);
}

void sp_attend_load_tile(const sp_attend_call *call, const sp_attend_worker *worker, uint32_t kv,
                         const sp_tile *piece, const sp_tile *next, uint64_t need, bool want_v,
                         sp_attend_tile *tile)
{
    uint32_t key_tile = piece->key_tile;
    const uint8_t *shared = call->packed ? call->packed[kv * n_key_tiles(call) + key_tile] : NULL;
    tile->v_stride = call->value_dim;
    if (!shared) {
        /* V is copied even where it could stay in place: meanwhile the next page arrives. */
        pack_page(call, kv, key_tile, need, bytes_ahead(call, key_tile, next), worker->k,
                  want_v ? worker->v : NULL);
        tile->k = worker->k;
        tile->v = worker->v;
        return;
    }
    tile->k = shared;
    tile->v =
        v_in_place(call, key_tile) ? sp_attend_v_row(call, kv, key_tile * SP_TILE) : shared + call->k_bytes;
}

uint32_t sp_attend_load_ranks(const sp_attend_call *call, const sp_attend_worker *worker, uint32_t kv,
                              const sp_group *group, uint32_t rank_tile, uint64_t need, bool want_v,
                              uint32_t *last_page, sp_attend_tile *tile)
{
    const uint32_t *keys = call->plan->numbers + group->keys + (size_t)rank_tile * SP_TILE;
    const sp_kv_view *view = &call->args->kv;
    const void *k_rows[SP_TILE], *v_rows[SP_TILE];
    size_t row_bytes = view->head_dim * call->element, head = kv * view->head_bytes;
    uint32_t pages = 0, last = *last_page;
    for (uint32_t j = 0; j < SP_TILE; j++) {
        k_rows[j] = v_rows[j] = NULL;
        if (!(need >> j & 1)) continue;
        const uint8_t *row = view->pages[keys[j] / SP_TILE] + head + keys[j] % SP_TILE * row_bytes;
        k_rows[j] = row;
        for (size_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(row + at); /* they lie scattered */
        pages += keys[j] / SP_TILE != last;
        last = keys[j] / SP_TILE;
    }
    *last_page = last;
    for (uint32_t j = 0; j < SP_TILE && want_v; j++)
        if (k_rows[j]) v_rows[j] = sp_attend_v_row(call, kv, keys[j]);
    call->slots->pack_k(k_rows, call->args->kv.head_dim, 0, worker->k);
    if (want_v) call->slots->pack_v(v_rows, call->args->kv.value_dim, 0, worker->v);
    tile->k = worker->k;
    tile->v = worker->v;
    tile->v_stride = call->value_dim;
    return pages;
}

/* --- tiles packed for all tasks --- */

typedef struct share {
    const sp_attend_call *call;
    const uint32_t *tiles; /* those that some task reads */
    bool want_v;
} share;

static void pack_task(void *context, size_t task, size_t worker)
{
    const share *s = context;
    (void)worker;
    uint32_t tile = s->tiles[task];
    for (uint32_t kv = 0; kv < s->call->args->n_kv_heads; kv++) {
        uint8_t *data = (uint8_t *)s->call->packed[kv * n_key_tiles(s->call) + tile];
        bool with_v = s->want_v && !v_in_place(s->call, tile);
        if (data) pack_page(s->call, kv, tile, UINT64_MAX, 0, data, with_v ? data + s->call->k_bytes : NULL);
    }
}

/* Counts how often the tasks of the window read each tile; returns reads of all. */
static size_t count_reads(const sp_attend_call *call, uint32_t *reads)
{
    const sp_plan *plan = call->plan;
    size_t tiles = n_key_tiles(call), all = 0;
    memset(reads, 0, call->args->n_kv_heads * tiles * sizeof *reads);
    uint32_t low = call->begin / SP_TILE - plan->first_tile,
             high = (call->end - 1) / SP_TILE - plan->first_tile;
    for (size_t r = 0; r < call->n_runs; r++) {
        const sp_attend_run *run = &call->runs[r];
        uint32_t begin = sp_attend_tile_begin(call, run->list, low);
        uint32_t end = sp_attend_tile_begin(call, run->list, high + 1);
        for (uint32_t i = begin; i < end; i++) reads[run->kv * tiles + plan->tiles[i].key_tile]++;
        all += end - begin;
    }
    return all;
}

bool sp_attend_pack_shared(sp_attend_call *call, size_t max_bytes)
{
    size_t tiles = n_key_tiles(call), entries = call->args->n_kv_heads * tiles;
    bool want_v = sp_is_softmax(call->args->normalizer);
    call->packed = NULL;
    bool one = call->begin / SP_TILE == (call->end - 1) / SP_TILE;
    if (call->joint || (one && call->n_runs == call->args->n_kv_heads))
        return true; /* each tile is read once */
    uint8_t *memory =
        sp_attend_reserve(&call->buffers[SP_BUFFER_PACKED_INDEX],
                          entries * (sizeof *call->packed + sizeof(uint32_t)) + tiles * sizeof(uint32_t));
    if (!memory) return false;
    const void **packed = (const void **)memory;
    uint32_t *reads = (uint32_t *)(memory + entries * sizeof *packed);
    size_t all = count_reads(call, reads), distinct = 0, bytes = 0;
    for (size_t i = 0; i < entries; i++) {
        if (!reads[i]) continue;
        distinct++;
        bytes += call->k_bytes + (want_v && !v_in_place(call, (uint32_t)(i % tiles)) ? call->v_bytes : 0);
    }
    if (all < 2 * distinct || !distinct || bytes > max_bytes) return true;

    uint8_t *data = sp_attend_reserve(&call->buffers[SP_BUFFER_PACKED], bytes);
    if (!data) return false;
    for (size_t i = 0; i < entries; i++) {
        packed[i] = reads[i] ? data : NULL;
        if (reads[i])
            data += call->k_bytes + (want_v && !v_in_place(call, (uint32_t)(i % tiles)) ? call->v_bytes : 0);
    }
    call->packed = packed;
    uint32_t *some = reads + entries;
    size_t n = 0;
    for (uint32_t t = 0; t < tiles; t++) {
        bool any = false;
        for (uint32_t kv = 0; kv < call->args->n_kv_heads; kv++) any |= packed[kv * tiles + t] != NULL;
        some[n] = t;
        n += any;
    }
    share s = {.call = call, .tiles = some, .want_v = want_v};
    sp_threads_run(call->threads, n, pack_task, &s);
    return true;
}
