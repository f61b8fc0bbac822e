/* One call of the attend op of the CPU: prepares it (runs of heads, scratch, windows of rows) and hands
 * windows to softmax or entmax.
 *
 * A task is one query tile of one run of heads, so that the heads of a group share every tile of K and V.
 * Tasks go to threads from one atomic counter, last query tiles (the heaviest, when causal) first. Memory is
 * a set of buffers that grow to their bound and stay with the device: what grows with the number of rows
 * (sums, scores, parts, packed tiles) shares device->attend_scratch, and rows are computed in windows where
 * they would not fit; what a thread needs for one task is small and comes on top. Tests:
 * tests/kernels/test_attend.c */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend.h"

#define LOG2_E 1.44269504088896340736
#define TASK_ROWS 256           /* most rows of a task: four heads of 64 queries */
#define AREA_BYTES (512u << 10) /* entmax: scores that a thread holds, to stay in its L2 cache */
#define WINDOW_BYTES (4u << 20) /* entmax in phases: scores of a window of rows, for each thread */
#define JOINT_HEADS 64          /* and heads of a KV head */
#define JOINT_ROWS 4            /* most rows of heads that are scored together */
#define SPLIT_TASKS 4           /* tasks a thread under which spans are dealt out instead */
#define GRAIN ((size_t)16384)   /* buffers grow by this much at least */

void *sp_attend_reserve(sp_attend_buffer *buffer, size_t bytes)
{
    if (buffer->data && buffer->bytes >= bytes) return buffer->data;
    sp_free(buffer->data);
    bytes = (bytes / GRAIN + 1) * GRAIN; /* so that decoding, a little longer every step, rarely comes here */
    buffer->data = sp_alloc(bytes, 1);
    buffer->bytes = buffer->data ? bytes : 0;
    return buffer->data;
}

const sp_attend_slots *sp_attend_slots_for(sp_cpu_isa level, sp_dtype kv)
{
    static const sp_attend_slots *const table[SP_CPU_ISAS][2] = {
        [SP_CPU_REFERENCE] = {&sp_attend_reference_f32, &sp_attend_reference_bf16},
        [SP_CPU_AVX2] = {&sp_attend_avx2_f32, &sp_attend_avx2_bf16},
        [SP_CPU_AVX512] = {&sp_attend_avx512_f32, &sp_attend_avx512_bf16},
        [SP_CPU_AVX512VNNI] = {&sp_attend_avx512_f32, &sp_attend_avx512_bf16},
        [SP_CPU_AVX512BF16] = {&sp_attend_avx512_f32, &sp_attend_avx512bf16_bf16},
    };
    return table[level][kv == SP_BF16];
}

uint32_t sp_attend_tile_rows(const sp_attend_call *call, uint32_t query_tile, uint32_t *first)
{
    uint32_t start = (call->plan->first_tile + query_tile) * SP_TILE, stop = start + SP_TILE;
    if (start < call->begin) start = call->begin;
    if (stop > call->end) stop = call->end;
    *first = start;
    return stop - start;
}

/* --- carving one buffer into arrays --- */

typedef struct carve {
    uint8_t *data; /* NULL: only count */
    size_t used;
} carve;

static void *take(carve *from, size_t bytes)
{
    void *at = from->data ? from->data + from->used : NULL;
    from->used += (bytes + SP_ALIGNMENT - 1) / SP_ALIGNMENT * SP_ALIGNMENT;
    return at;
}

/* --- runs and tasks --- */

static bool make_runs(sp_attend_call *call)
{
    const sp_plan_shape *shape = &call->plan->shape;
    uint32_t heads = shape->n_heads, group = heads / call->args->n_kv_heads;
    uint32_t rows = shape->rows < SP_TILE ? shape->rows : SP_TILE, most = TASK_ROWS / rows;
    call->runs = sp_attend_reserve(&call->buffers[SP_BUFFER_RUNS], heads * sizeof *call->runs);
    if (!call->runs) return false;
    uint32_t longest = 0;
    for (uint32_t head = 0; head < heads;) {
        uint32_t kv = head / group, list = call->plan->head_list[head], n = 1;
        while (n < most && head + n < (kv + 1) * group && call->plan->head_list[head + n] == list) n++;
        call->runs[call->n_runs++] = (sp_attend_run){.kv = kv, .head = head, .heads = n, .list = list};
        if (n > longest) longest = n;
        head += n;
    }
    if (call->joint && group > longest) longest = group;
    call->max_rows = (size_t)longest * rows;
    return true;
}

static uint32_t first_query_tile(const sp_attend_call *call)
{
    return call->begin / SP_TILE - call->plan->first_tile;
}

static uint32_t end_query_tile(const sp_attend_call *call)
{
    return (call->end - 1) / SP_TILE - call->plan->first_tile + 1;
}

bool sp_attend_should_split(const sp_attend_call *call)
{
    size_t threads = sp_threads_count(call->threads);
    size_t tasks = (size_t)(end_query_tile(call) - first_query_tile(call)) * call->n_runs;
    return threads > 1 && tasks < threads * SPLIT_TASKS && call->max_tiles > SP_SPAN_TILES;
}

bool sp_attend_push_task(sp_attend_call *call, const sp_attend_task *task)
{
    sp_attend_buffer *buffer = &call->buffers[SP_BUFFER_TASKS];
    if ((call->n_tasks + 1) * sizeof *task > buffer->bytes) {
        size_t bytes = buffer->bytes < 4096 ? 8192 : 2 * buffer->bytes;
        void *data = sp_alloc(bytes, 1);
        if (!data) return false;
        if (call->n_tasks) memcpy(data, buffer->data, call->n_tasks * sizeof *task);
        sp_free(buffer->data);
        *buffer = (sp_attend_buffer){data, bytes};
    }
    call->tasks = buffer->data;
    call->tasks[call->n_tasks++] = *task;
    return true;
}

bool sp_attend_make_tasks(sp_attend_call *call, bool split, size_t part_floats, size_t *parts)
{
    const sp_plan *plan = call->plan;
    call->n_tasks = 0;
    *parts = 0;
    for (uint32_t tile = end_query_tile(call); tile-- > first_query_tile(call);) {
        for (uint32_t r = 0; r < call->n_runs; r++) {
            uint32_t begin = sp_attend_tile_begin(call, call->runs[r].list, tile);
            uint32_t end = sp_attend_tile_begin(call, call->runs[r].list, tile + 1), first;
            size_t rows = (size_t)sp_attend_tile_rows(call, tile, &first) * call->runs[r].heads;
            do {
                uint32_t stop = end;
                if (split && begin < end) {
                    uint32_t span = plan->tiles[begin].key_tile / SP_SPAN_TILES;
                    for (stop = begin; stop < end && plan->tiles[stop].key_tile / SP_SPAN_TILES == span;)
                        stop++;
                }
                sp_attend_task task = {.source = tile,
                                       .run = r,
                                       .begin = begin,
                                       .end = stop,
                                       .part = part_floats ? *parts : SIZE_MAX};
                if (!sp_attend_push_task(call, &task)) return false;
                *parts += rows * part_floats;
                begin = stop;
            } while (begin < end);
        }
    }
    return true;
}

bool sp_attend_chain_groups(sp_attend_call *call)
{
    const sp_plan *plan = call->plan;
    call->chain = NULL;
    bool shared = false;
    for (uint32_t g = 0; g < plan->n_groups; g++) shared |= plan->groups[g].holder != g;
    if (!shared) return true;
    uint32_t *chain = sp_attend_reserve(&call->buffers[SP_BUFFER_CHAINS], 2 * plan->n_groups * sizeof *chain);
    if (!chain) return false;
    uint32_t *last = chain + plan->n_groups;
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        uint32_t holder = plan->groups[g].holder;
        chain[g] = SP_NO_CHAIN;
        if (holder != g) chain[last[holder]] = g;
        last[holder] = g;
    }
    call->chain = chain;
    return true;
}

/* Queries of one group inside the window: from *low on; returns how many. */
static uint32_t inside(const sp_attend_call *call, const sp_group *group, uint32_t *low)
{
    const uint32_t *queries = call->plan->numbers + group->queries;
    *low = sp_rank_of(queries, group->n_queries, call->begin);
    return sp_rank_of(queries, group->n_queries, call->end) - *low;
}

bool sp_attend_make_group_tasks(sp_attend_call *call, size_t first, size_t end)
{
    const sp_plan *plan = call->plan;
    uint32_t block = plan->shape.rows < SP_TILE ? plan->shape.rows : SP_TILE;
    call->n_tasks = 0;
    for (size_t g = first; g < end; g++) {
        if (call->chain && plan->groups[g].holder != g) continue;
        uint32_t n = 0, low;
        for (uint32_t i = (uint32_t)g; i != SP_NO_CHAIN; i = call->chain ? call->chain[i] : SP_NO_CHAIN)
            n += inside(call, &plan->groups[i], &low);
        for (uint32_t r = 0; r < call->n_runs; r++) {
            if (call->runs[r].list != plan->groups[g].list) continue;
            for (uint32_t at = 0; at < n; at += block) {
                sp_attend_task task = {.source = (uint32_t)g,
                                       .run = r,
                                       .begin = at,
                                       .end = n - at < block ? n : at + block,
                                       .part = SIZE_MAX};
                if (!sp_attend_push_task(call, &task)) return false;
            }
        }
    }
    return true;
}

uint32_t sp_attend_task_members(const sp_attend_call *call, const sp_attend_task *task,
                                sp_attend_member members[SP_TILE], uint32_t positions[SP_TILE])
{
    const sp_plan *plan = call->plan;
    uint32_t n = 0, before = 0, g = task->source;
    for (; g != SP_NO_CHAIN && before < task->end; g = call->chain ? call->chain[g] : SP_NO_CHAIN) {
        const sp_group *group = &plan->groups[g];
        uint32_t low, count = inside(call, group, &low);
        uint32_t from = before < task->begin ? task->begin - before : 0;
        for (uint32_t i = from; i < count && before + i < task->end; i++, n++) {
            members[n] = (sp_attend_member){.group = g, .query = low + i};
            positions[n] = plan->numbers[group->queries + low + i];
        }
        before += count;
    }
    return n;
}

/* --- scratch of a thread --- */

static void take_state(const sp_attend_call *call, carve *from, sp_attend_state *state)
{
    state->max = take(from, call->max_rows * sizeof(float));
    state->sum = take(from, call->max_rows * sizeof(float));
    state->out = take(from, call->max_rows * call->value_dim * sizeof(float));
}

static void take_worker(const sp_attend_call *call, carve *from, sp_attend_worker *worker)
{
    *worker = (sp_attend_worker){0};
    worker->q = take(from, call->max_rows * call->q_bytes);
    worker->k = take(from, call->k_bytes);
    worker->v = take(from, call->v_bytes);
    worker->words = take(from, call->max_rows * sizeof *worker->words);
    worker->support = take(from, call->plan->shape.n_heads * sizeof *worker->support);
    if (sp_is_softmax(call->args->normalizer)) {
        take_state(call, from, &worker->fresh);
        take_state(call, from, &worker->total);
        return;
    }
    worker->scores = take(from, call->max_rows * sizeof *worker->scores);
    worker->tops = take(from, call->max_rows * sizeof *worker->tops);
    worker->area = take(from, call->block_rows * sp_attend_area(call->max_tiles) * sizeof(float));
    worker->candidates = take(from, (call->max_tiles * SP_TILE + 32) * sizeof(float));
    worker->hits = take(from, (call->max_tiles + 16) * sizeof *worker->hits);
    worker->gathered = take(from, 2 * sizeof *worker->gathered);
    worker->seen = take(from, (call->args->kv.n_keys + SP_TILE - 1) / SP_TILE);
}

static bool make_workers(sp_attend_call *call)
{
    size_t threads = sp_threads_count(call->threads);
    carve count = {0};
    sp_attend_worker unused;
    for (size_t i = 0; i < threads; i++) take_worker(call, &count, &unused);
    take(&count, threads * sizeof *call->workers);
    carve from = {.data = sp_attend_reserve(&call->buffers[SP_BUFFER_WORKERS], count.used)};
    if (!from.data) return false;
    call->workers = take(&from, threads * sizeof *call->workers);
    for (size_t i = 0; i < threads; i++) {
        take_worker(call, &from, &call->workers[i]);
        memset(call->workers[i].support, 0, call->plan->shape.n_heads * sizeof *call->workers[i].support);
    }
    return true;
}

/* --- the call --- */

static void measure(sp_attend_call *call)
{
    const sp_attend_args *args = call->args;
    const sp_plan *plan = call->plan;
    size_t packed = call->slots->dots ? sizeof(uint16_t) : sizeof(float);
    call->element = args->kv.dtype == SP_BF16 ? sizeof(uint16_t) : sizeof(float);
    call->head_dim = (args->kv.head_dim + 1) / 2 * 2;
    call->value_dim = (args->kv.value_dim + 15) / 16 * 16;
    call->q_bytes = call->head_dim * packed;
    call->k_bytes = call->head_dim * SP_TILE * packed;
    call->v_bytes = call->value_dim * SP_TILE * packed;
    double factor = sp_is_softmax(args->normalizer) ? LOG2_E : (double)args->normalizer.alpha - 1;
    call->q_scale = (float)((double)args->scale * factor);

    size_t lists = (size_t)plan->shape.n_lists * plan->n_query_tiles;
    for (size_t i = 0; i < lists; i++) {
        size_t tiles = plan->tile_begin[i + 1] - plan->tile_begin[i];
        if (tiles > call->max_tiles) call->max_tiles = tiles;
    }
}

/* Groups of every row, and how many tiles each has, gathered ones included. */
static bool index_rows(sp_attend_call *call)
{
    const sp_plan *plan = call->plan;
    size_t lists = plan->shape.n_lists, rows = plan->shape.rows, n = lists * rows, members = 0;
    for (size_t g = 0; g < plan->n_groups; g++) members += plan->groups[g].n_queries;
    carve count = {0}, from = {0};
    for (int pass = 0; pass < 2; pass++) {
        carve *c = pass ? &from : &count;
        if (pass && !(from.data = sp_attend_reserve(&call->buffers[SP_BUFFER_INDEX], count.used)))
            return false;
        call->row_area = take(c, n * sizeof *call->row_area);
        call->head_area = take(c, plan->shape.n_heads * sizeof *call->head_area);
        call->members = take(c, members * sizeof *call->members);
        call->row_tiles = take(c, n * sizeof *call->row_tiles);
        call->member_begin = take(c, (n + 2) * sizeof *call->member_begin);
    }
    for (uint32_t list = 0; list < lists; list++) {
        for (uint32_t p = plan->shape.position; p < plan->shape.position + rows; p++) {
            uint32_t tile = p / SP_TILE - plan->first_tile;
            call->row_tiles[sp_attend_row_index(call, list, p)] =
                sp_attend_tile_begin(call, list, tile + 1) - sp_attend_tile_begin(call, list, tile);
        }
    }
    /* Counting sort of (group, query) by row; groups come by round, so a row's members do too. */
    uint32_t *begin = call->member_begin;
    memset(begin, 0, (n + 2) * sizeof *begin);
    for (size_t g = 0; g < plan->n_groups; g++)
        for (uint32_t i = 0; i < plan->groups[g].n_queries; i++)
            begin[sp_attend_row_index(call, plan->groups[g].list,
                                      plan->numbers[plan->groups[g].queries + i]) +
                  2]++;
    for (size_t i = 2; i < n + 2; i++) begin[i] += begin[i - 1];
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const sp_group *group = &plan->groups[g];
        for (uint32_t i = 0; i < group->n_queries; i++) {
            uint32_t first, end;
            size_t row = sp_attend_row_index(call, group->list, plan->numbers[group->queries + i]);
            call->members[begin[row + 1]++] = (sp_attend_member){.group = g, .query = i};
            sp_attend_rank_tiles(plan, group, i, &first, &end);
            call->row_tiles[row] += end - first;
            if (call->row_tiles[row] > call->max_tiles) call->max_tiles = call->row_tiles[row];
        }
    }
    return true;
}

/* Every group is the list of one row, which has no other: what `keep` predicts. */
static bool has_row_lists(const sp_attend_call *call)
{
    const sp_plan *plan = call->plan;
    for (size_t g = 0; g < plan->n_groups; g++) {
        const sp_group *group = &plan->groups[g];
        if (group->n_queries != 1 || group->round || group->masks != SP_NO_MASKS) return false;
    }
    return plan->n_groups;
}

/* Bytes that a row adds to what the window keeps for all its rows. */
static size_t row_bytes(const sp_attend_call *call, uint32_t position)
{
    const sp_plan *plan = call->plan;
    size_t heads = plan->shape.n_heads, floats = 0;
    if (sp_is_softmax(call->args->normalizer)) return plan->n_groups ? 2 * heads * sizeof(float) : 0;
    if (!call->row_tiles || call->row_lists) return 0;
    for (uint32_t h = 0; h < heads; h++)
        floats += sp_attend_area(call->row_tiles[sp_attend_row_index(call, plan->head_list[h], position)]);
    return floats * sizeof(float);
}

/* Decoding where heads of a KV head have tiles of their own: together they read each page once. */
static bool wants_joint(const sp_attend_call *call)
{
    const sp_plan_shape *shape = &call->plan->shape;
    size_t heads_rows = (size_t)shape->n_heads * shape->rows;
    return !sp_is_softmax(call->args->normalizer) && call->plan->n_query_tiles == 1 &&
           shape->rows <= JOINT_ROWS && shape->n_lists > call->args->n_kv_heads &&
           call->max_tiles > SP_SPAN_TILES &&
           heads_rows * sp_attend_area(call->max_tiles) * sizeof(float) <= call->scratch / 2;
}

/* Entmax keeps the scores of all rows where groups bring scores from elsewhere, and for few rows over many
 * keys. */
static bool wants_phases(const sp_attend_call *call)
{
    if (sp_is_softmax(call->args->normalizer)) return false;
    size_t heads_rows = (size_t)call->plan->shape.n_heads * call->plan->shape.rows;
    return call->plan->n_groups || call->joint ||
           (sp_attend_should_split(call) &&
            heads_rows * sp_attend_area(call->max_tiles) * sizeof(float) <= call->scratch / 2);
}

/* Where the window that starts at begin ends: rows that fit half of the scratch, and whose scores are still
 * in a shared cache when they are needed again; whole query tiles where one fits, at least one row. */
static uint32_t window_end(const sp_attend_call *call, uint32_t begin)
{
    uint32_t stop = call->plan->shape.position + call->plan->shape.rows, end = begin;
    size_t bytes = 0, most = call->scratch / 2, cached = sp_threads_count(call->threads) * WINDOW_BYTES;
    if (call->row_tiles && !call->row_lists && cached < most) most = cached;
    while (end < stop) {
        bytes += row_bytes(call, end);
        if (bytes > most && end > begin) break;
        end++;
    }
    if (end < stop && end / SP_TILE > begin / SP_TILE) end = end / SP_TILE * SP_TILE;
    return end;
}

static bool run_windows(sp_attend_call *call)
{
    const sp_plan_shape *shape = &call->plan->shape;
    bool softmax = sp_is_softmax(call->args->normalizer);
    for (call->begin = shape->position; call->begin < shape->position + shape->rows;
         call->begin = call->end) {
        call->end = window_end(call, call->begin);
        if (!sp_attend_pack_shared(call, call->scratch / 2)) return false;
        if (!(softmax ? sp_attend_softmax(call) : sp_attend_entmax(call))) return false;
        if (call->left) return true; /* its window is the only one, and still wanted */
    }
    return true;
}

void sp_attend_report(const sp_attend_call *call, double seconds, sp_attend_stats *stats)
{
    const sp_attend_args *args = call->args;
    for (size_t i = 0; i < sp_threads_count(call->threads); i++) {
        const sp_attend_worker *worker = &call->workers[i];
        if (stats) {
            stats->rows_empty += worker->stats.rows_empty;
            stats->k_pages += worker->stats.k_pages;
            stats->v_pages += worker->stats.v_pages;
        }
        if (args->support && !sp_is_softmax(args->normalizer))
            for (size_t h = 0; h < call->plan->shape.n_heads; h++) args->support[h] += worker->support[h];
    }
    if (stats) stats->seconds += seconds;
}

void sp_attend_run_last(sp_attend_call *call, sp_task_fn task)
{
    if (call->may_leave)
        call->left = task;
    else
        sp_threads_run(call->threads, call->n_tasks, task, call);
}

bool sp_attend_run_call(sp_attend_call *call)
{
    measure(call);
    call->joint = wants_joint(call);
    bool done = make_runs(call);
    if (done && wants_phases(call)) done = index_rows(call);
    call->row_lists = call->row_tiles && !call->joint && has_row_lists(call) && !sp_attend_should_split(call);
    call->block_rows = AREA_BYTES / (sp_attend_area(call->max_tiles + 1) * sizeof(float)) / 6 * 6;
    if (call->block_rows < 6) call->block_rows = 6;
    if (call->block_rows > call->max_rows) call->block_rows = call->max_rows;
    return done && make_workers(call) && run_windows(call);
}
