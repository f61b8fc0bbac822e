/* Drivers of the predictors' ops that have no scratch: projections, storing codes, nearest centroids. They
 * cut rows into pieces and deal them to the worker pool where there is enough work to pay for waking it.
 * Tests: tests/kernels/test_predict.c,
 * test_assign.c */
#include <assert.h>
#include <stdatomic.h>

#include "kernels/cpu/predict.h"

#define PIECE_STEPS 4096 /* multiplications a piece holds at least: some microseconds */
#define PIECE_ROWS 64    /* rows of a piece at most */

const sp_predict_slots *sp_predict_slots_for(sp_cpu_isa level)
{
    static const sp_predict_slots *const table[SP_CPU_ISAS] = {
        [SP_CPU_REFERENCE] = &sp_predict_reference,   [SP_CPU_AVX2] = &sp_predict_avx2,
        [SP_CPU_AVX512] = &sp_predict_avx512,         [SP_CPU_AVX512VNNI] = &sp_predict_avx512,
        [SP_CPU_AVX512BF16] = &sp_predict_avx512bf16,
    };
    return table[level];
}

/* Rows cut into pieces, for each map. */
typedef struct pieces {
    const sp_predict_slots *slots;
    const void *args;
    size_t rows, piece, maps; /* maps of a task: all of them where rows are few and cheap, else 1 */
    uint32_t n_maps;
} pieces;

static void run(sp_device *device, pieces *work, size_t steps_each, sp_task_fn task)
{
    if (!work->rows || !work->n_maps) return;
    work->slots = sp_predict_slots_for(sp_cpu_of(device)->level);
    work->piece = work->rows < PIECE_ROWS ? work->rows : PIECE_ROWS;
    work->maps = PIECE_STEPS / (work->piece * (steps_each ? steps_each : 1)) + 1;
    if (work->maps > work->n_maps) work->maps = work->n_maps;
    size_t deals = (work->n_maps + work->maps - 1) / work->maps;
    sp_threads_run(device->threads, deals * ((work->rows + work->piece - 1) / work->piece), task, work);
}

typedef struct piece {
    size_t first, rows;
    uint32_t map, end;
} piece;

static piece piece_of(const pieces *work, size_t task)
{
    size_t deals = (work->n_maps + work->maps - 1) / work->maps;
    piece at = {.first = task / deals * work->piece, .map = (uint32_t)(task % deals * work->maps)};
    at.rows = work->rows - at.first < work->piece ? work->rows - at.first : work->piece;
    at.end = work->n_maps - at.map < work->maps ? work->n_maps : at.map + (uint32_t)work->maps;
    return at;
}

static void project_task(void *context, size_t task, size_t worker)
{
    const pieces *work = context;
    const sp_project_args *args = work->args;
    piece at = piece_of(work, task);
    (void)worker;
    uint32_t share = args->n_maps / args->n_in;
    size_t x_stride = (size_t)args->n_in * args->dim, out_stride = (size_t)args->n_maps * args->rank;
    for (uint32_t m = at.map; m < at.end; m++) {
        work->slots->project(
            at.rows, args->dim, args->rank, args->x + at.first * x_stride + (size_t)(m / share) * args->dim,
            x_stride, args->weight + (size_t)m * args->dim * args->rank, args->bias + (size_t)m * args->rank,
            args->out + at.first * out_stride + (size_t)m * args->rank, out_stride);
    }
}

void sp_cpu_project(sp_device *device, const sp_project_args *args)
{
    assert(args->n_in && args->n_maps % args->n_in == 0);
    pieces work = {.args = args, .rows = args->rows, .n_maps = args->n_maps};
    run(device, &work, (size_t)args->dim * args->rank / 16 + 1, project_task);
}

static void assign_task(void *context, size_t task, size_t worker)
{
    const pieces *work = context;
    piece at = piece_of(work, task);
    (void)worker;
    for (uint32_t m = at.map; m < at.end; m++) work->slots->assign(work->args, m, at.first, at.rows);
}

void sp_cpu_assign(sp_device *device, const sp_assign_args *args)
{
    assert(args->top >= 1 && args->top <= SP_MAX_TOP && args->top <= args->n_centroids);
    pieces work = {.args = args, .rows = args->rows, .n_maps = args->n_maps};
    run(device, &work, (size_t)args->n_centroids * args->rank / 16 + 1, assign_task);
}

#define MATCH_TILES 32 /* key tiles of a task */
#define MATCH_AHEAD 2  /* tiles whose ids are asked for before they are needed */
#define MATCHES 64     /* at a time */

typedef struct match_job {
    const sp_predict_slots *slots;
    const sp_match_args *args;
    size_t tiles;
    _Atomic uint32_t *counts;
} match_job;

static void ask_ids(const uint16_t *ids)
{
    for (size_t i = 0; i < (size_t)SP_TILE * 4; i += 32) __builtin_prefetch(ids + i);
}

static void match_task(void *context, size_t task, size_t worker)
{
    const match_job *work = context;
    const sp_match_args *args = work->args;
    size_t begin = task * MATCH_TILES, end = begin + MATCH_TILES;
    (void)worker;
    for (size_t first = 0; first < args->n_matches; first += MATCHES) {
        size_t n = args->n_matches - first < MATCHES ? args->n_matches - first : MATCHES;
        uint32_t counts[MATCHES] = {0};
        for (size_t t = begin; t < end && t < work->tiles; t++) {
            size_t left = args->n_keys - t * SP_TILE;
            uint64_t exist = left < SP_TILE ? ((uint64_t)1 << left) - 1 : UINT64_MAX;
            for (size_t i = first; i < first + n; i++) {
                const sp_match *m = &args->matches[i];
                size_t head = ((size_t)m->run * args->n_heads + m->head) * SP_TILE * 4;
                if (t + MATCH_AHEAD < work->tiles) ask_ids(args->id_pages[t + MATCH_AHEAD] + head);
                args->words[i * work->tiles + t] = work->slots->match(
                    args->id_pages[t] + head, args->n_ids, (uint16_t)m->id, exist, &counts[i - first]);
            }
        }
        for (size_t i = 0; i < n; i++)
            atomic_fetch_add_explicit(&work->counts[first + i], counts[i], memory_order_relaxed);
    }
}

void sp_cpu_match_ids(sp_device *device, const sp_match_args *args)
{
    match_job work = {.slots = sp_predict_slots_for(sp_cpu_of(device)->level),
                      .args = args,
                      .tiles = ((size_t)args->n_keys + SP_TILE - 1) / SP_TILE,
                      .counts = (_Atomic uint32_t *)args->counts};
    for (size_t i = 0; i < args->n_matches; i++) atomic_init(&work.counts[i], 0);
    sp_threads_run(device->threads, (work.tiles + MATCH_TILES - 1) / MATCH_TILES, match_task, &work);
}

void sp_cpu_store_codes(sp_device *device, size_t rows, uint32_t position, uint32_t n_maps, uint32_t rank,
                        sp_dtype dtype, const float *x, size_t map_bytes, uint8_t *const *pages)
{
    (void)device;
    for (size_t r = 0; r < rows; r++) {
        uint8_t *page = pages[(position + r) / SP_TILE];
        size_t lane = (position + r) % SP_TILE;
        for (uint32_t m = 0; m < n_maps; m++, x += rank) {
            float *whole = (float *)(page + m * map_bytes);
            uint16_t *half = (uint16_t *)(page + m * map_bytes);
            for (uint32_t d = 0; d < rank && dtype == SP_F32; d++) whole[d * SP_TILE + lane] = x[d];
            for (uint32_t d = 0; d < rank && dtype == SP_BF16; d++)
                half[(d / 2 * SP_TILE + lane) * 2 + d % 2] = sp_bf16_from_f32(x[d]);
            if (rank % 2 && dtype == SP_BF16) half[(rank / 2 * SP_TILE + lane) * 2 + 1] = 0;
        }
    }
}
