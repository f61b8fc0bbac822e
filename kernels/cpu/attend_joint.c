/* Entmax scores of few rows (decoding) whose heads have lists of their own: a task is one KV head and one
 * span of 1,024 keys, and walks the lists of all its heads at once, so that each page is read and packed once
 * for all of them. A score is the same number wherever it is computed; what follows (attend_entmax.c) reads
 * it from the row's area. Tests: tests/kernels/test_attend.c, tests/kernels/test_attend_bits.c */
#include <math.h>

#include "kernels/cpu/attend.h"

/* One head's tiles of the span. */
typedef struct head_walk {
    uint32_t list, at, end, begin; /* next tile, one past the last; the first of the query tile */
} head_walk;

/* First of a head's tiles at or behind a key tile. */
static uint32_t find_tile(const sp_plan *plan, uint32_t low, uint32_t high, uint32_t key_tile)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (plan->tiles[middle].key_tile < key_tile)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static head_walk walk_of(const sp_attend_call *call, uint32_t head, uint32_t span)
{
    head_walk walk = {.list = call->plan->head_list[head]};
    uint32_t end = sp_attend_tile_begin(call, walk.list, 1);
    walk.begin = sp_attend_tile_begin(call, walk.list, 0);
    walk.at = find_tile(call->plan, walk.begin, end, span * SP_SPAN_TILES);
    walk.end = find_tile(call->plan, walk.at, end, (span + 1) * SP_SPAN_TILES);
    return walk;
}

/* The next key tile of any head; UINT32_MAX: none. */
static uint32_t next_tile(const sp_attend_call *call, uint32_t heads, const head_walk *walks)
{
    uint32_t next = UINT32_MAX;
    for (uint32_t h = 0; h < heads; h++)
        if (walks[h].at < walks[h].end && call->plan->tiles[walks[h].at].key_tile < next)
            next = call->plan->tiles[walks[h].at].key_tile;
    return next;
}

/* Asks for the keys of a page: between them, the heads want most of them. */
static void ask_keys(const sp_attend_call *call, uint32_t kv, uint32_t key_tile)
{
    const uint8_t *keys = sp_attend_k_row(call, kv, key_tile * SP_TILE);
    size_t bytes = SP_TILE * call->args->kv.head_dim * call->element;
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(keys + at);
}

/* Scores of a key tile for the heads that have it. */
static void score_tile(const sp_attend_call *call, sp_attend_worker *worker, const sp_attend_run *run,
                       uint32_t n, uint32_t key_tile, head_walk *walks)
{
    float unused[SP_TILE], unused_top;
    const sp_tile *piece = NULL;
    uint64_t need = 0;
    for (uint32_t h = 0; h < run->heads; h++) {
        head_walk *walk = &walks[h];
        const sp_tile *own = walk->at < walk->end ? &call->plan->tiles[walk->at] : NULL;
        uint64_t *words = worker->words + (size_t)h * n;
        bool full, has = own && own->key_tile == key_tile;
        if (has) {
            piece = own;
            if (sp_attend_tile_words(call, own, call->begin, n, 1, words, &full) && full)
                for (uint32_t i = 0; i < n; i++) words[i] = UINT64_MAX;
        }
        for (uint32_t i = 0; i < n; i++) {
            uint32_t position = call->begin + i, slot = walk->at - walk->begin;
            float *area = sp_attend_row_scores(call, walk->list, run->head + h, position);
            size_t tiles = call->row_tiles[sp_attend_row_index(call, walk->list, position)];
            if (!has) words[i] = 0;
            need |= words[i];
            worker->scores[h * n + i] = has ? area + (size_t)slot * SP_TILE : unused;
            worker->tops[h * n + i] = has ? area + tiles * SP_TILE + slot : &unused_top;
            *worker->tops[h * n + i] = -INFINITY;
        }
        walk->at += has;
    }
    uint32_t next = next_tile(call, run->heads, walks);
    if (next != UINT32_MAX) ask_keys(call, run->kv, next);
    if (!need) return;
    sp_attend_tile tile = {.rows = (size_t)n * run->heads,
                           .head_dim = call->head_dim,
                           .value_dim = call->value_dim,
                           .q = worker->q,
                           .words = worker->words,
                           .scores = worker->scores,
                           .tops = worker->tops};
    /* whole pages are packed faster than many scattered rows */
    uint64_t rows = need & (need - 1) ? UINT64_MAX : need;
    sp_attend_load_tile(call, worker, run->kv, piece, NULL, rows, false, &tile);
    call->slots->scores(&tile);
    worker->stats.k_pages++;
}

static void joint_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    sp_attend_worker *worker = &call->workers[thread];
    uint32_t heads = call->plan->shape.n_heads / call->args->n_kv_heads, n = call->end - call->begin;
    sp_attend_run run = {.kv = task->run, .head = task->run * heads, .heads = heads};
    head_walk *walks = (head_walk *)worker->area;
    for (uint32_t h = 0; h < heads; h++) walks[h] = walk_of(call, run.head + h, task->begin);
    uint32_t key_tile = next_tile(call, heads, walks);
    if (key_tile == UINT32_MAX) return;
    sp_attend_pack_queries(call, worker, &run, call->begin, NULL, n);
    for (; key_tile != UINT32_MAX; key_tile = next_tile(call, heads, walks))
        score_tile(call, worker, &run, n, key_tile, walks);
}

bool sp_attend_score_joint(sp_attend_call *call)
{
    uint32_t spans = (call->plan->shape.n_keys + SP_SPAN_KEYS - 1) / SP_SPAN_KEYS;
    call->n_tasks = 0;
    for (uint32_t span = 0; span < spans; span++) {
        for (uint32_t kv = 0; kv < call->args->n_kv_heads; kv++) {
            sp_attend_task task = {.run = kv, .begin = span, .part = SIZE_MAX};
            if (!sp_attend_push_task(call, &task)) return false;
        }
    }
    sp_threads_run(call->threads, call->n_tasks, joint_task, call);
    return true;
}
