/* Exact alpha-entmax attention over a plan, in three phases a row: *score* stores z = (alpha - 1) s of every
 * listed tile and its maximum; *threshold* solves for tau over the candidates z > max - 1, which are few;
 * *value* sums p v over the support only, so that V is read nowhere else. Most of the work is the scores:
 * half of what softmax computes.
 *
 * Without groups, or where each group is the list of one row, a task does the three phases for a block of
 * rows whose scores stay in its L2 cache. With other groups, whose scores are made by other tasks, and for
 * few rows over many keys (decoding), the phases are passes over a window of rows, and a row's area in
 * call->scores holds its tiles, then its gathered tiles by round. Sums of values start afresh every span and
 * are added ascending. Source: Peters et al. 2019. Tests: tests/kernels/test_attend.c,
 * tests/kernels/test_attend_bits.c */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend.h"

#define ASK_FLOATS 400 /* six tiles */

/* A row on its way from scores to its output. */
typedef struct row_job {
    uint32_t head, kv, position;
    uint32_t begin, end; /* its tiles in the plan */
    const sp_attend_member *members;
    uint32_t n_members;
    sp_attend_row row; /* its area */
} row_job;

/* What the value phase of one row carries from tile to tile. */
typedef struct value_sum {
    const sp_attend_call *call;
    sp_attend_worker *worker;
    const row_job *job;
    double tau;
    float alpha;
    float *out;
} value_sum;

/* Tiles slot .. end - 1 of a row's area: of the plan (keys NULL), or of the group member before next. */
typedef struct area_part {
    uint32_t slot, end;
    uint32_t first; /* gathered tile of slot */
    const uint32_t *keys;
    uint32_t next;
} area_part;

static void add_gathered(const sp_attend_call *call, sp_attend_support *gathered)
{
    if (gathered->n) {
        call->slots->accumulate(gathered->n, gathered->weights, (const void *const *)gathered->rows,
                                call->args->kv.value_dim, gathered->out);
    }
    gathered->n = 0;
}

/* Closes a span. Its rows of V have only just been asked for, so the span before it is summed first. */
static void flush(const value_sum *sum)
{
    sp_attend_worker *worker = sum->worker;
    if (!worker->gathered[worker->filling].n) return;
    worker->gathered[worker->filling].out = sum->out;
    worker->filling ^= 1;
    add_gathered(sum->call, &worker->gathered[worker->filling]);
}

/* At the start and the end of a task: no span is left open, and none waiting. */
static void clear_gathered(const sp_attend_worker *worker)
{
    worker->gathered[0].n = worker->gathered[1].n = 0;
}

static void finish_gathered(const sp_attend_call *call, const sp_attend_worker *worker)
{
    add_gathered(call, &worker->gathered[worker->filling ^ 1]);
}

/* Puts one row of V on the list and asks for it. */
static void gather_row(sp_attend_support *gathered, const uint8_t *row, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
    gathered->rows[gathered->n++] = row;
}

static void see_page(sp_attend_worker *worker, uint32_t page)
{
    worker->stats.v_pages += !worker->seen[page];
    worker->seen[page] = 1;
}

/* The support of one tile of the area; its keys are base .. base + 63, or keys[0 ..]. */
static void add_tile(const value_sum *sum, uint32_t slot, uint32_t base, const uint32_t *keys)
{
    const row_job *job = sum->job;
    sp_attend_worker *worker = sum->worker;
    sp_attend_support *gathered = &worker->gathered[worker->filling];
    if (!((double)(job->row.tops[slot] - job->row.top) > sum->tau)) return;
    uint64_t word = sum->call->slots->weigh(sum->alpha, job->row.scores + (size_t)slot * SP_TILE,
                                            job->row.top, sum->tau, gathered->weights + gathered->n);
    size_t before = gathered->n, bytes = sum->call->args->kv.value_dim * sum->call->element;
    if (keys) {
        for (; word; word &= word - 1) {
            uint32_t key = keys[__builtin_ctzll(word)];
            gather_row(gathered, sp_attend_v_row(sum->call, job->kv, key), bytes);
            see_page(worker, key / SP_TILE);
        }
    } else if (word) {
        const uint8_t *page = sp_attend_v_row(sum->call, job->kv, base);
        see_page(worker, base / SP_TILE);
        for (; word; word &= word - 1)
            gather_row(gathered, page + (size_t)__builtin_ctzll(word) * bytes, bytes);
    }
    worker->support[job->head] += gathered->n - before;
}

/* Moves to the part that holds a slot. */
static void find_part(const value_sum *sum, uint32_t slot, area_part *part)
{
    const sp_plan *plan = sum->call->plan;
    while (slot >= part->end) {
        const sp_attend_member *member = &sum->job->members[part->next++];
        const sp_group *group = &plan->groups[member->group];
        uint32_t end;
        sp_attend_rank_tiles(plan, group, member->query, &part->first, &end);
        part->slot = part->end;
        part->end += end - part->first;
        part->keys = plan->numbers + group->keys;
    }
}

/* Values of the tiles that hold candidates, a span at a time. */
static void add_values(const value_sum *sum)
{
    const row_job *job = sum->job;
    area_part part = {.end = job->end - job->begin};
    uint32_t open = UINT32_MAX; /* the span being gathered, counted within its part */
    for (uint32_t i = 0; i < job->row.n_hits; i++) {
        uint32_t slot = job->row.hits[i], before = part.next;
        find_part(sum, slot, &part);
        uint32_t tile =
            part.keys ? part.first + slot - part.slot : sum->call->plan->tiles[job->begin + slot].key_tile;
        if (tile / SP_SPAN_TILES != open || part.next != before) flush(sum);
        open = tile / SP_SPAN_TILES;
        add_tile(sum, slot, tile * SP_TILE, part.keys ? part.keys + (size_t)tile * SP_TILE : NULL);
    }
    flush(sum);
}

/* Threshold and values of one row whose scores are all there. */
static void finish_row(const sp_attend_call *call, sp_attend_worker *worker, row_job *job)
{
    float *out = sp_attend_out(call, job->position, job->head), alpha = call->args->normalizer.alpha;
    memset(out, 0, call->args->kv.value_dim * sizeof *out);
    job->row.hits = worker->hits;
    job->row.candidates = worker->candidates;
    call->slots->collect(&job->row);
    if (job->row.top == -INFINITY) {
        worker->stats.rows_empty++;
        return;
    }
    double tau = call->slots->threshold(alpha, job->row.candidates, job->row.n);
    value_sum sum = {.call = call, .worker = worker, .job = job, .tau = tau, .alpha = alpha, .out = out};
    add_values(&sum);
}

static void clear_seen(const sp_attend_call *call, const sp_attend_worker *worker)
{
    memset(worker->seen, 0, (call->args->kv.n_keys + SP_TILE - 1) / SP_TILE);
}

/* Scores of plan tiles begin..end for rows low..high of a run's rows; worker->scores and tops point at the
 * rows' first tile and move on. */
static void score_tiles(const sp_attend_call *call, sp_attend_worker *worker, const sp_attend_run *run,
                        uint32_t first, uint32_t n, uint32_t begin, uint32_t end, size_t low, size_t high)
{
    sp_attend_tile tile = {.rows = high - low,
                           .head_dim = call->head_dim,
                           .value_dim = call->value_dim,
                           .q = (const uint8_t *)worker->q + low * call->q_bytes,
                           .scores = worker->scores,
                           .tops = worker->tops};
    for (uint32_t t = begin; t < end; t++) {
        const sp_tile *piece = &call->plan->tiles[t];
        bool full;
        uint64_t need = sp_attend_tile_words(call, piece, first, n, run->heads, worker->words, &full);
        tile.words = full ? NULL : worker->words + low;
        const sp_tile *next = t + 1 < end ? piece + 1 : NULL;
        if (need) sp_attend_load_tile(call, worker, run->kv, piece, next, need, false, &tile);
        if (need) call->slots->scores(&tile);
        worker->stats.k_pages += need != 0;
        for (size_t i = 0; i < tile.rows; i++) {
            if (!need) *worker->tops[i] = -INFINITY;
            worker->scores[i] += SP_TILE;
            worker->tops[i]++;
        }
    }
}

/* --- three phases in one task --- */

/* Scores of a row's own list of keys behind those of its tiles; returns pages met. */
static uint32_t score_list(const sp_attend_call *call, sp_attend_worker *worker, const sp_attend_run *run,
                           size_t row, const row_job *job)
{
    const sp_plan *plan = call->plan;
    uint32_t pages = 0, last_page = UINT32_MAX, first, end, tiles = job->end - job->begin;
    for (uint32_t m = 0; m < job->n_members; m++) {
        const sp_group *group = &plan->groups[job->members[m].group];
        sp_attend_rank_tiles(plan, group, job->members[m].query, &first, &end);
        for (uint32_t t = first; t < end; t++, tiles++) {
            float *scores = (float *)job->row.scores + (size_t)tiles * SP_TILE,
                  *top = (float *)job->row.tops + tiles;
            sp_attend_tile tile = {.rows = 1,
                                   .head_dim = call->head_dim,
                                   .value_dim = call->value_dim,
                                   .q = (const uint8_t *)worker->q + row * call->q_bytes,
                                   .words = worker->words,
                                   .scores = &scores,
                                   .tops = &top};
            uint64_t need = sp_attend_rank_words(call, &job->members[m], 1, t, 1, worker->words);
            *top = -INFINITY;
            if (!need) continue;
            pages += sp_attend_load_ranks(call, worker, run->kv, group, t, need, false, &last_page, &tile);
            call->slots->scores(&tile);
        }
    }
    return pages;
}

static void local_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    sp_attend_worker *worker = &call->workers[thread];
    uint32_t first, n = sp_attend_tile_rows(call, task->source, &first), tiles = task->end - task->begin;
    uint32_t most = call->row_lists ? (uint32_t)call->max_tiles : tiles;
    size_t rows = (size_t)n * run->heads, area = sp_attend_area(most);
    sp_attend_pack_queries(call, worker, run, first, NULL, n);
    clear_seen(call, worker);
    clear_gathered(worker);
    uint64_t pages = worker->stats.k_pages, listed = 0;
    for (size_t low = 0, high; low < rows; low = high) {
        high = low + call->block_rows < rows ? low + call->block_rows : rows;
        for (size_t i = low; i < high; i++) {
            worker->scores[i - low] = worker->area + (i - low) * area;
            worker->tops[i - low] = worker->scores[i - low] + (size_t)most * SP_TILE;
        }
        worker->stats.k_pages = pages; /* blocks of a task read the same pages */
        score_tiles(call, worker, run, first, n, task->begin, task->end, low, high);
        for (size_t i = low; i < high; i++) {
            const float *scores = worker->area + (i - low) * area;
            row_job job = {
                .head = run->head + (uint32_t)(i / n),
                .kv = run->kv,
                .position = first + (uint32_t)(i % n),
                .begin = task->begin,
                .end = task->end,
                .row = {.tiles = tiles, .scores = scores, .tops = scores + (size_t)most * SP_TILE}};
            if (call->row_lists) {
                size_t row = sp_attend_row_index(call, run->list, job.position);
                job.members = call->members + call->member_begin[row];
                job.n_members = call->member_begin[row + 1] - call->member_begin[row];
                job.row.tiles = call->row_tiles[row];
                listed += score_list(call, worker, run, i, &job);
            }
            finish_row(call, worker, &job);
        }
    }
    worker->stats.k_pages += listed;
    finish_gathered(call, worker);
}

/* --- phases as passes over the window --- */

static bool lay_out_scores(sp_attend_call *call)
{
    const sp_plan_shape *shape = &call->plan->shape;
    for (uint32_t list = 0; list < shape->n_lists; list++) {
        size_t at = 0;
        for (uint32_t p = call->begin; p < call->end; p++) {
            size_t row = sp_attend_row_index(call, list, p);
            call->row_area[row] = at;
            at += sp_attend_area(call->row_tiles[row]);
        }
    }
    size_t floats = 0;
    for (uint32_t h = 0; h < shape->n_heads; h++) {
        size_t last = sp_attend_row_index(call, call->plan->head_list[h], call->end - 1);
        call->head_area[h] = floats;
        floats += call->row_area[last] + sp_attend_area(call->row_tiles[last]);
    }
    call->scores = sp_attend_reserve(&call->buffers[SP_BUFFER_SCORES], floats * sizeof(float));
    return call->scores;
}

static void score_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    sp_attend_worker *worker = &call->workers[thread];
    uint32_t first, n = sp_attend_tile_rows(call, task->source, &first);
    uint32_t slot = task->begin - sp_attend_tile_begin(call, run->list, task->source);
    for (size_t i = 0; i < (size_t)n * run->heads; i++) {
        uint32_t position = first + (uint32_t)(i % n);
        float *scores = sp_attend_row_scores(call, run->list, run->head + (uint32_t)(i / n), position);
        size_t tiles = call->row_tiles[sp_attend_row_index(call, run->list, position)];
        worker->scores[i] = scores + (size_t)slot * SP_TILE;
        worker->tops[i] = scores + tiles * SP_TILE + slot;
    }
    sp_attend_pack_queries(call, worker, run, first, NULL, n);
    score_tiles(call, worker, run, first, n, task->begin, task->end, 0, (size_t)n * run->heads);
}

/* Where a row's scores of one group start in its area, in tiles: behind its tiles and earlier groups. */
static uint32_t member_slot(const sp_attend_call *call, uint32_t list, uint32_t position, uint32_t group)
{
    const sp_plan *plan = call->plan;
    size_t row = sp_attend_row_index(call, list, position);
    uint32_t tile = position / SP_TILE - plan->first_tile, first, end;
    uint32_t slot = sp_attend_tile_begin(call, list, tile + 1) - sp_attend_tile_begin(call, list, tile);
    for (uint32_t m = call->member_begin[row]; call->members[m].group != group; m++) {
        sp_attend_rank_tiles(plan, &plan->groups[call->members[m].group], call->members[m].query, &first,
                             &end);
        slot += end - first;
    }
    return slot;
}

static void group_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_plan *plan = call->plan;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    const sp_group *holder = &plan->groups[task->source];
    sp_attend_worker *worker = &call->workers[thread];
    sp_attend_member members[SP_TILE];
    uint32_t positions[SP_TILE], low[SP_TILE], high[SP_TILE], slots[SP_TILE], from = UINT32_MAX, to = 0;
    uint32_t n = sp_attend_task_members(call, task, members, positions);
    for (uint32_t i = 0; i < n; i++) {
        sp_attend_rank_tiles(plan, &plan->groups[members[i].group], members[i].query, &low[i], &high[i]);
        slots[i] = member_slot(call, run->list, positions[i], members[i].group);
        if (low[i] < high[i] && low[i] < from) from = low[i];
        if (high[i] > to) to = high[i];
    }
    if (from >= to) return;
    float unused_scores[SP_TILE], unused_top;
    sp_attend_tile tile = {.rows = (size_t)n * run->heads,
                           .head_dim = call->head_dim,
                           .value_dim = call->value_dim,
                           .q = worker->q,
                           .words = worker->words,
                           .scores = worker->scores,
                           .tops = worker->tops};
    uint32_t last_page = UINT32_MAX;
    sp_attend_pack_queries(call, worker, run, 0, positions, n);
    for (uint32_t t = from; t < to; t++) {
        uint64_t need = sp_attend_rank_words(call, members, n, t, run->heads, worker->words);
        for (size_t i = 0; i < tile.rows; i++) {
            uint32_t q = (uint32_t)(i % n), position = positions[q];
            float *area = sp_attend_row_scores(call, run->list, run->head + (uint32_t)(i / n), position);
            size_t tiles = call->row_tiles[sp_attend_row_index(call, run->list, position)];
            bool inside = t >= low[q] && t < high[q];
            worker->scores[i] = inside ? area + (size_t)(slots[q] + t - low[q]) * SP_TILE : unused_scores;
            worker->tops[i] = inside ? area + tiles * SP_TILE + slots[q] + t - low[q] : &unused_top;
            if (!need) *worker->tops[i] = -INFINITY;
        }
        if (!need) continue;
        worker->stats.k_pages +=
            sp_attend_load_ranks(call, worker, run->kv, holder, t, need, false, &last_page, &tile);
        call->slots->scores(&tile);
    }
}

/* The next row's area, which lies behind this one's, or its beginning. */
static void ask_scores(const float *scores)
{
    for (size_t i = 0; i < ASK_FLOATS; i += 16) __builtin_prefetch(scores + i);
}

static void finish_task(void *context, size_t index, size_t thread)
{
    const sp_attend_call *call = context;
    const sp_attend_task *task = &call->tasks[index];
    const sp_attend_run *run = &call->runs[task->run];
    sp_attend_worker *worker = &call->workers[thread];
    uint32_t first, n = sp_attend_tile_rows(call, task->source, &first);
    clear_seen(call, worker);
    clear_gathered(worker);
    for (size_t i = 0; i < (size_t)n * run->heads; i++) {
        uint32_t position = first + (uint32_t)(i % n), head = run->head + (uint32_t)(i / n);
        size_t row = sp_attend_row_index(call, run->list, position);
        const float *scores = sp_attend_row_scores(call, run->list, head, position);
        ask_scores(scores + sp_attend_area(call->row_tiles[row]));
        row_job job = {.head = head,
                       .kv = run->kv,
                       .position = position,
                       .begin = task->begin,
                       .end = task->end,
                       .members = call->members + call->member_begin[row],
                       .n_members = call->member_begin[row + 1] - call->member_begin[row],
                       .row = {.tiles = call->row_tiles[row],
                               .scores = scores,
                               .tops = scores + (size_t)call->row_tiles[row] * SP_TILE}};
        finish_row(call, worker, &job);
    }
    finish_gathered(call, worker);
}

bool sp_attend_entmax(sp_attend_call *call)
{
    size_t unused;
    if (!call->row_tiles || call->row_lists) {
        if (!sp_attend_make_tasks(call, false, 0, &unused)) return false;
        sp_attend_run_last(call, local_task);
        return true;
    }
    if (!lay_out_scores(call)) return false;
    if (call->joint) {
        if (!sp_attend_score_joint(call)) return false;
    } else {
        if (!sp_attend_make_tasks(call, sp_attend_should_split(call), 0, &unused)) return false;
        sp_threads_run(call->threads, call->n_tasks, score_task, call);
    }
    if (!sp_attend_chain_groups(call) || !sp_attend_make_group_tasks(call, 0, call->plan->n_groups))
        return false;
    sp_threads_run(call->threads, call->n_tasks, group_task, call);
    if (!sp_attend_make_tasks(call, false, 0, &unused)) return false;
    sp_threads_run(call->threads, call->n_tasks, finish_task, call);
    return true;
}
