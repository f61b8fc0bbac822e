/* Softmax attention over a plan, in flash form: for every row a running maximum m, l = sum 2^(s - m) and
 * out = sum 2^(s - m) v (Milakov and Gimelshein 2018; Dao et al. 2022), scores in base 2 because log2(e) is
 * folded into q. A span (16 tiles at absolute positions, 1,024 ranks of a group) starts afresh and is merged
 * into what came before, so that a span computed by another thread gives the same bits.
 *
 * Without groups a task ends with out / l. With groups, tile tasks leave un-normalised out in the output
 * itself and m, l beside it; then each round's groups, in which a row appears at most once, merge into them
 * in parallel; then all rows are divided. Few rows over many keys (decoding): a task is one span, and a
 * second pass merges. Tests: tests/kernels/test_attend.c */
#include <string.h>

#include "kernels/cpu/attend.h"

static void reset(const sp_attend_call *call, const sp_attend_state *state, size_t rows)
{
    for (size_t i = 0; i < rows; i++) state->max[i] = SP_NO_SCORE;
    memset(state->sum, 0, rows * sizeof(float));
    memset(state->out, 0, rows * call->value_dim * sizeof(float));
}

/* out / l, or zeros for a row without an edge. */
static void finish_row(const sp_attend_call *call, sp_attend_worker *worker, float sum, const float *from,
                       float *out)
{
    size_t n = call->args->kv.value_dim;
    if (!(sum > 0)) {
        bool empty = sum == 0;
        worker->stats.rows_empty += empty;
        for (size_t d = 0; d < n; d++) out[d] = empty ? 0 : sum; /* NaN stays NaN */
        return;
    }
    float factor = 1 / sum;
    for (size_t d = 0; d < n; d++) out[d] = from[d] * factor;
}

/* The state of one row where groups still follow: out in place, maximum and sum beside. */
static float *row_sums(const sp_attend_call *call, uint32_t position, uint32_t head)
{
    return call->sums + ((size_t)(position - call->begin) * call->plan->shape.n_heads + head) * 2;
}

/* Hands the rows of a finished query tile to the output. */
static void store_rows(const sp_attend_call *call, sp_attend_worker *worker, const sp_attend_run *run,
                       const sp_attend_state *state, uint32_t first, uint32_t n)
{
    for (uint32_t h = 0, row = 0; h < run->heads; h++) {
        for (uint32_t position = first; position < first + n; position++, row++) {
            float *out = sp_attend_out(call, position, run->head + h);
            const float *from = state->out + row * call->value_dim;
            if (!call->sums) {
                finish_row(call, worker, state->sum[row], from, out);
                continue;
            }
            float *sums = row_sums(call, position, run->head + h);
            sums[0] = state->max[row];
            sums[1] = state->sum[row];
            memcpy(out, from, call->args->kv.value_dim * sizeof *out);
        }
    }
}

/* Merges the rows of a group's span into where they stand in the output. */
static void merge_rows(const sp_attend_call *call, const sp_attend_run *run, const sp_attend_state *state,
                       const uint32_t *positions, uint32_t n)
{
    size_t width = call->args->kv.value_dim;
    for (uint32_t h = 0, row = 0; h < run->heads; h++) {
        for (uint32_t i = 0; i < n; i++, row++) {
            float *sums = row_sums(call, positions[i], run->head + h);
            sp_attend_state into = {sums, sums + 1, sp_attend_out(call, positions[i], run->head + h)};
            sp_attend_state from = {state->max + row, state->sum + row, state->out + row * call->value_dim};
            call->slots->merge(1, width, &into, &from);
        }
    }
}

static sp_attend_tile make_tile(const sp_attend_call *call, const sp_attend_worker *worker,
                                const sp_attend_state *state, size_t rows)
{
    return (sp_attend_tile){.rows = rows,
                            .head_dim = call->head_dim,
                            .value_dim = call->value_dim,
                            .q = worker->q,
                            .state = *state};
}

/* Tiles begin..end, all of one span, into a fresh state. */
static void run_span(const sp_attend_call *call, sp_attend_worker *worker, const sp_attend_run *run,
                     uint32_t first, uint32_t n, uint32_t begin, uint32_t end, const sp_attend_state *state)
{
    sp_attend_tile tile = make_tile(call, worker, state, (size_t)n * run->heads);
    reset(call, state, tile.rows);
    for (uint32_t t = begin; t < end; t++) {
        const sp_tile *piece = &call->plan->tiles[t];
        bool full;
        uint64_t need = sp_attend_tile_words(call, piece, first, n, run->heads, worker->words, &full);
        if (!need) continue;
        tile.words = full ? NULL : worker->words;
        const sp_tile *next = t + 1 < end ? piece + 1 : NULL;
        sp_attend_load_tile(call, worker, run->kv, piece, next, need, true, &tile);
        call->slots->softmax(&tile);
        worker->stats.k_pages++;
        worker->stats.v_pages++;
    }
}

static uint32_t span_end(const sp_plan *plan, uint32_t begin, uint32_t end)
{
    uint32_t span = plan->tiles[begin].key_tile / SP_SPAN_TILES, at = begin;
    while (at < end && plan->tiles[at].key_tile / SP_SPAN_TILES == span) at++;
    return at;
}

static void swap_states(sp_attend_worker *worker)
{
    sp_attend_state state = worker->fresh;
    worker->fresh = worker->total;
    worker->total = state;
}

static sp_attend_state part_state(const sp_attend_call *call, const sp_attend_task *task, size_t rows)
{
    float *part = call->parts + task->part;
    return (sp_attend_state){.max = part, .sum = part + rows, .out = part + 2 * rows};
}

static void tile_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    sp_attend_worker *worker = &call->workers[thread];
    uint32_t first, n = sp_attend_tile_rows(call, task->source, &first);
    size_t rows = (size_t)n * run->heads;
    sp_attend_pack_queries(call, worker, run, first, NULL, n);
    if (task->part != SIZE_MAX) {
        sp_attend_state part = part_state(call, task, rows);
        run_span(call, worker, run, first, n, task->begin, task->end, &part);
        return;
    }
    if (task->begin == task->end) reset(call, &worker->total, rows);
    for (uint32_t begin = task->begin, end; begin < task->end; begin = end) {
        end = span_end(call->plan, begin, task->end);
        run_span(call, worker, run, first, n, begin, end, &worker->fresh);
        if (begin == task->begin)
            swap_states(worker);
        else
            call->slots->merge(rows, call->value_dim, &worker->total, &worker->fresh);
    }
    store_rows(call, worker, run, &worker->total, first, n);
}

/* Merges the parts of one (query tile, run): tasks index .. while they belong to it. Called for its first
 * task only. */
static void merge_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index], *before = task - 1;
    if (index && before->source == task->source && before->run == task->run) return;
    const sp_attend_run *run = &call->runs[task->run];
    uint32_t first, n = sp_attend_tile_rows(call, task->source, &first);
    size_t rows = (size_t)n * run->heads;
    sp_attend_state total = part_state(call, task, rows);
    for (size_t i = index + 1; i < call->n_tasks; i++) {
        const sp_attend_task *next = &call->tasks[i];
        if (next->source != task->source || next->run != task->run) break;
        sp_attend_state part = part_state(call, next, rows);
        call->slots->merge(rows, call->value_dim, &total, &part);
    }
    store_rows(call, &call->workers[thread], run, &total, first, n);
}

static void group_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    const sp_group *group = &call->plan->groups[task->source];
    sp_attend_worker *worker = &call->workers[thread];
    sp_attend_member members[SP_TILE];
    uint32_t positions[SP_TILE], low = UINT32_MAX, high = 0;
    uint32_t n = sp_attend_task_members(call, task, members, positions);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first, end;
        sp_attend_rank_tiles(call->plan, group, members[i].query, &first, &end);
        if (first < end && first < low) low = first;
        if (end > high) high = end;
    }
    if (low >= high) return;
    size_t rows = (size_t)n * run->heads;
    sp_attend_pack_queries(call, worker, run, 0, positions, n);
    sp_attend_tile tile = make_tile(call, worker, &worker->fresh, rows);
    uint32_t last_page = UINT32_MAX;
    reset(call, &worker->fresh, rows);
    for (uint32_t t = low; t < high; t++) {
        uint64_t need = sp_attend_rank_words(call, members, n, t, run->heads, worker->words);
        if (need) {
            uint32_t pages =
                sp_attend_load_ranks(call, worker, run->kv, group, t, need, true, &last_page, &tile);
            tile.words = worker->words;
            call->slots->softmax(&tile);
            worker->stats.k_pages += pages;
            worker->stats.v_pages += pages;
        }
        if (t + 1 < high && (t + 1) % SP_SPAN_TILES) continue;
        merge_rows(call, run, &worker->fresh, positions, n);
        if (t + 1 < high) reset(call, &worker->fresh, rows);
    }
}

static void divide_task(void *context, size_t task, size_t thread)
{
    const sp_attend_call *call = context;
    uint32_t heads = call->plan->shape.n_heads, position = call->begin + (uint32_t)task;
    for (uint32_t h = 0; h < heads; h++) {
        float *out = sp_attend_out(call, position, h);
        finish_row(call, &call->workers[thread], row_sums(call, position, h)[1], out, out);
    }
}

/* Tile tasks: whole, or one a span with their states in parts, then merged. */
static bool run_tiles(sp_attend_call *call)
{
    size_t floats = 0;
    if (!sp_attend_should_split(call)) {
        if (!sp_attend_make_tasks(call, false, 0, &floats)) return false;
        if (call->plan->n_groups)
            sp_threads_run(call->threads, call->n_tasks, tile_task, call);
        else
            sp_attend_run_last(call, tile_task);
        return true;
    }
    if (!sp_attend_make_tasks(call, true, call->value_dim + 2, &floats)) return false;
    if (floats * sizeof(float) > call->scratch / 2) {
        if (!sp_attend_make_tasks(call, false, 0, &floats)) return false;
        sp_threads_run(call->threads, call->n_tasks, tile_task, call);
        return true;
    }
    call->parts = sp_attend_reserve(&call->buffers[SP_BUFFER_PARTS], floats * sizeof(float));
    if (!call->parts) return false;
    sp_threads_run(call->threads, call->n_tasks, tile_task, call);
    sp_threads_run(call->threads, call->n_tasks, merge_task, call);
    return true;
}

bool sp_attend_softmax(sp_attend_call *call)
{
    const sp_plan *plan = call->plan;
    call->sums = NULL;
    call->chain = NULL; /* rounds are merged one after the other */
    if (plan->n_groups) {
        size_t rows = call->end - call->begin;
        call->sums =
            sp_attend_reserve(&call->buffers[SP_BUFFER_SUMS], rows * plan->shape.n_heads * 2 * sizeof(float));
        if (!call->sums) return false;
    }
    if (!run_tiles(call)) return false;
    for (size_t first = 0, end; first < plan->n_groups; first = end) {
        for (end = first; end < plan->n_groups && plan->groups[end].round == plan->groups[first].round;)
            end++;
        if (!sp_attend_make_group_tasks(call, first, end)) return false;
        sp_threads_run(call->threads, call->n_tasks, group_task, call);
    }
    if (call->sums) sp_threads_run(call->threads, call->end - call->begin, divide_task, call);
    return true;
}
