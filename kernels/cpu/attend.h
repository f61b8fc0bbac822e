/* Private to kernels/cpu: attention over a plan. This header holds the table of microkernels that each CPU
 * level fills (sp_attend_slots), and the state that the drivers share during one call.
 *
 * Bits. What a row computes depends on its query, its edges and the keys alone: lanes run across keys for
 * scores (one accumulator a score, d ascending) and across value columns for outputs (keys ascending), tiles
 * are the plan's, and partial results start afresh every 16 tiles (a span: 1,024 keys or ranks) and are
 * merged ascending, tiles first, then groups by round. So rows may be cut into chunks, tasks and threads at
 * will.
 *
 * Files: attend.c (the call: runs of heads, windows of rows, scratch), attend_many.c (several),
 * attend_tiles.c (packing pages and gathered rows, edge words), attend_softmax.c, attend_entmax.c,
 * attend_weights.c (one row, for graphs), attend_LEVEL.c (slots). Tests: tests/kernels/test_attend.c,
 * tests/kernels/test_attend_bits.c */
#ifndef SPARSED_KERNELS_CPU_ATTEND_H
#define SPARSED_KERNELS_CPU_ATTEND_H

#include <float.h>

#include "kernels/cpu/cpu.h"

#define SP_SPAN_TILES 16
#define SP_SPAN_KEYS (SP_SPAN_TILES * SP_TILE)
#define SP_NO_CHAIN UINT32_MAX
/* The maximum of a row that has met no edge: finite, so that differences of two never make a NaN. */
#define SP_NO_SCORE (-FLT_MAX)

/* Un-normalised softmax of some rows: out = sum of 2^(score - max) v, sum = sum of 2^(score - max). Rows
 * without an edge hold SP_NO_SCORE, 0, 0. */
typedef struct sp_attend_state {
    float *max, *sum; /* (rows) */
    float *out;       /* (rows, value_dim padded to 16) */
} sp_attend_state;

/* One packed tile of 64 keys and the rows that meet it. */
typedef struct sp_attend_tile {
    size_t rows;
    size_t head_dim;       /* padded to even */
    size_t value_dim;      /* padded to 16 */
    const void *q;         /* (rows, head_dim), packed by pack_q */
    const void *k;         /* packed by pack_k */
    const void *v;         /* packed by pack_v; or float32 rows in place */
    size_t v_stride;       /* elements between rows of v (float32), or between pairs of rows (dots) */
    const uint64_t *words; /* (rows): bit j set where key j is an edge; NULL: all are */
    sp_attend_state state; /* softmax */
    float *const *scores;  /* (rows): 64 numbers each; entmax */
    float *const *tops;    /* (rows): the largest of them */
} sp_attend_tile;

/* Entmax: one row whose scores are all there, and what may be in its support: scores > top - 1. */
typedef struct sp_attend_row {
    uint32_t tiles;
    const float *scores, *tops; /* (tiles, 64), (tiles) */
    float top;                  /* out: the largest; -INFINITY without an edge, and then the rest is 0 */
    uint32_t *hits;             /* out: tiles that hold candidates, ascending; room for tiles + 16 */
    uint32_t n_hits;
    float *candidates; /* out: score - top, in order; room for 64 * tiles + 16 */
    size_t n;
} sp_attend_row;

/* Microkernels for one CPU level and KV type. Rows of K and V come as 64 pointers; NULL stands for zeros. */
typedef struct sp_attend_slots {
    bool dots; /* q, K, V and softmax weights are bf16 pairs for dot products; else float32 */
    /* q * scale, head_dim numbers, as float32 or bf16; an odd head_dim gets one zero more. */
    void (*pack_q)(size_t head_dim, float scale, const float *q, void *out);
    /* To out[d][64] float32, or out[d / 2][64][2] bf16; d up to even, zero padded. ahead: bytes from each row
     * to the one that will be packed next in its place, which is asked for meanwhile; 0: none. */
    void (*pack_k)(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
    /* To out[64][d] float32, or out[32][d][2] bf16; d padded to 16 with zeros. */
    void (*pack_v)(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);
    /* Scores in base 2, running maximum and sum, out: one flash step. Rows without an edge keep their state.
     */
    void (*softmax)(const sp_attend_tile *tile);
    /* into = into merged with from, rows of any value_dim. Merging into an empty state copies. */
    void (*merge)(size_t rows, size_t value_dim, const sp_attend_state *into, const sp_attend_state *from);
    /* Scores and their maximum; -INFINITY where no edge. Where the maximum is -INFINITY the scores may stay
     * unset. */
    void (*scores)(const sp_attend_tile *tile);
    /* Finds what may be in a row's support; see sp_attend_row. */
    void (*collect)(sp_attend_row *row);
    /* The entmax threshold in [-1, 0) of candidates whose maximum is 0; may write 16 numbers behind n.
     * For 1.5 and 2 it is a float32; other alphas keep their double, because the power 1 / (alpha - 1)
     * multiplies its error. */
    double (*threshold)(float alpha, float *candidates, size_t n);
    /* Weights of one tile's support, compressed ascending (room for 64 + 16); returns its word. */
    uint64_t (*weigh)(float alpha, const float *scores, float top, double tau, float *weights);
    /* out[d] += sum over i of weights[i] * rows[i][d], summed ascending by itself first; value_dim not
     * padded. rows in the KV type. */
    void (*accumulate)(size_t n, const float *weights, const void *const *rows, size_t value_dim, float *out);
} sp_attend_slots;

/* Defines slot(tile) as block(6, tile, row), then 3, then 1 until no rows are left. A size is a function of
 * its own: inlined into one, its constants would be kept in registers that the accumulators need. */
#define SP_EACH_BLOCK(slot, block)                                                                           \
    static __attribute__((noinline)) void slot##_6(const sp_attend_tile *tile, size_t row)                   \
    {                                                                                                        \
        block(6, tile, row);                                                                                 \
    }                                                                                                        \
    static __attribute__((noinline)) void slot##_3(const sp_attend_tile *tile, size_t row)                   \
    {                                                                                                        \
        block(3, tile, row);                                                                                 \
    }                                                                                                        \
    static __attribute__((noinline)) void slot##_1(const sp_attend_tile *tile, size_t row)                   \
    {                                                                                                        \
        block(1, tile, row);                                                                                 \
    }                                                                                                        \
    static void slot(const sp_attend_tile *tile)                                                             \
    {                                                                                                        \
        size_t row = 0;                                                                                      \
        for (; row + 6 <= tile->rows; row += 6) slot##_6(tile, row);                                         \
        for (; row + 3 <= tile->rows; row += 3) slot##_3(tile, row);                                         \
        for (; row < tile->rows; row++) slot##_1(tile, row);                                                 \
    }

/* The slots of a level for KV pages of F32 or BF16. */
/* weigh for any alpha, in float64. */
uint64_t sp_attend_weigh_power(float alpha, const float *scores, float top, double tau, float *weights);
const sp_attend_slots *sp_attend_slots_for(sp_cpu_isa level, sp_dtype kv);
extern const sp_attend_slots sp_attend_reference_f32, sp_attend_reference_bf16;
extern const sp_attend_slots sp_attend_avx2_f32, sp_attend_avx2_bf16;
extern const sp_attend_slots sp_attend_avx512_f32, sp_attend_avx512_bf16;
extern const sp_attend_slots sp_attend_avx512bf16_bf16;

/* --- drivers --- */

/* Consecutive heads of one KV head that share a list: they read a tile together. */
typedef struct sp_attend_run {
    uint32_t kv, head, heads, list;
} sp_attend_run;

/* A piece of work: tiles begin..end of the plan for the rows of one query tile; or, for a group, queries
 * begin..end of those inside the window, counted on through the groups of its chain. */
typedef struct sp_attend_task {
    uint32_t source; /* query tile (counted from plan->first_tile) or group */
    uint32_t run;
    uint32_t begin, end;
    size_t part; /* where a split task leaves its state, in floats of call->parts; SIZE_MAX: not split */
} sp_attend_task;

/* Entmax: what one span adds to one row: weights and where their rows of V lie. */
typedef struct sp_attend_support {
    float weights[SP_SPAN_KEYS + 16];
    const void *rows[SP_SPAN_KEYS];
    size_t n;
    float *out;
} sp_attend_support;

/* Scratch of one thread. */
typedef struct sp_attend_worker {
    void *q, *k, *v;
    uint64_t *words;              /* (max_rows) */
    float **scores, **tops;       /* (max_rows) */
    sp_attend_state fresh, total; /* (max_rows): this span, and what came before */
    float *area;                  /* entmax: scores of a block of rows */
    float *candidates;            /* entmax: one row's, and the tiles that hold them */
    uint32_t *hits;
    sp_attend_support *gathered; /* entmax: (2), one being filled while the rows of the other arrive */
    unsigned filling;            /* entmax: which of gathered */
    uint8_t *seen;               /* entmax: pages of V that the task has read */
    uint64_t *support;           /* (n_heads) */
    sp_attend_stats stats;
} sp_attend_worker;

/* A group that a row belongs to, and which of the group's queries it is. */
typedef struct sp_attend_member {
    uint32_t group, query;
} sp_attend_member;

/* Memory that grows to its bound and is kept between calls. */
typedef struct sp_attend_buffer {
    void *data;
    size_t bytes;
} sp_attend_buffer;
enum {
    SP_BUFFER_RUNS,
    SP_BUFFER_TASKS,
    SP_BUFFER_WORKERS,
    SP_BUFFER_PACKED,
    SP_BUFFER_PACKED_INDEX,
    SP_BUFFER_INDEX,
    SP_BUFFER_CHAINS,
    SP_BUFFER_SUMS,
    SP_BUFFER_PARTS,
    SP_BUFFER_SCORES,
    SP_BUFFERS
};
/* cpu->attend: buffers of single calls, and of each that runs beside others. */
#define SP_ATTEND_MANY 16
typedef struct sp_attend_scratch {
    sp_attend_buffer buffers[SP_ATTEND_MANY][SP_BUFFERS];
} sp_attend_scratch;
/* At least bytes bytes, old contents lost; NULL when out of memory. */
void *sp_attend_reserve(sp_attend_buffer *buffer, size_t bytes);

typedef struct sp_attend_call {
    const sp_attend_args *args;
    const sp_plan *plan;
    const sp_attend_slots *slots;
    sp_threads *threads;
    sp_attend_buffer *buffers; /* (SP_BUFFERS) */
    size_t scratch;            /* bytes that packed tiles, scores and sums may take together */

    size_t element;                   /* bytes of a KV number */
    size_t head_dim, value_dim;       /* padded: to even, to 16 */
    size_t q_bytes, k_bytes, v_bytes; /* of a packed row of q, a packed tile of K, of V */
    float q_scale;                    /* folded into q: scale * log2(e), or scale * (alpha - 1) */
    size_t max_rows;                  /* of a task */
    size_t max_tiles;                 /* most tiles of a row, gathered ones included */
    size_t block_rows;                /* entmax: rows whose scores a worker holds at once */

    sp_attend_run *runs;
    size_t n_runs;
    sp_attend_worker *workers;
    sp_attend_task *tasks;
    size_t n_tasks;

    /* Rows of absolute position begin <= p < end are being computed: all of the chunk, or what fits the
     * scratch. */
    uint32_t begin, end;

    /* Groups that share keys are read together: chain[g] is the next that shares those of g, or SP_NO_CHAIN.
     * NULL: each is read alone. */
    const uint32_t *chain;
    const void *
        *packed; /* (n_kv_heads, key tiles): K then V, packed for all tasks; NULL: each packs for itself */
    /* Of several calls at once: one whose work is a single run of tasks leaves it to who runs them. */
    bool may_leave;
    sp_task_fn left; /* NULL: all is done */
    float *sums;     /* softmax with groups: (rows of the window, n_heads, 2): max, sum; out holds the rest */
    float *parts;    /* softmax: states of split tasks */

    /* Entmax: groups of each (list, row): members[member_begin[i]] .. , by round. NULL without groups. */
    uint32_t *member_begin;
    sp_attend_member *members;
    /* Entmax in phases: scores of all rows of the window, a row's area at scores + head_area + row_area. */
    uint32_t
        *row_tiles; /* (n_lists, rows of the chunk): tiles and gathered tiles of a row; NULL: not in phases */
    bool joint;     /* few rows of heads with lists of their own: scored a KV head and span at a time */
    bool row_lists; /* each group is one row's own: scored in the task of its tiles, not in phases */
    size_t *row_area;  /* (n_lists, rows of the chunk): where its area starts within its head's, in floats */
    size_t *head_area; /* (n_heads): where a head's areas start */
    float *scores;
} sp_attend_call;

/* Entmax: floats of a row's area: 64 scores a tile, then the largest of each tile. */
static inline size_t sp_attend_area(size_t tiles)
{
    return tiles * SP_TILE + (tiles + 15) / 16 * 16;
}
static inline size_t sp_attend_row_index(const sp_attend_call *call, uint32_t list, uint32_t position)
{
    return (size_t)list * call->plan->shape.rows + (position - call->plan->shape.position);
}
/* The area of one row. */
static inline float *sp_attend_row_scores(const sp_attend_call *call, uint32_t list, uint32_t head,
                                          uint32_t position)
{
    return call->scores + call->head_area[head] + call->row_area[sp_attend_row_index(call, list, position)];
}
/* Rows of a query tile inside the window: first position and number. */
uint32_t sp_attend_tile_rows(const sp_attend_call *call, uint32_t query_tile, uint32_t *first);
static inline uint32_t sp_attend_tile_begin(const sp_attend_call *call, uint32_t list, uint32_t query_tile)
{
    return call->plan->tile_begin[(size_t)list * call->plan->n_query_tiles + query_tile];
}
static inline float *sp_attend_out(const sp_attend_call *call, uint32_t position, uint32_t head)
{
    const sp_attend_args *args = call->args;
    size_t row = position - call->plan->shape.position;
    return args->out + (row * call->plan->shape.n_heads + head) * args->kv.value_dim;
}
static inline const uint8_t *sp_attend_k_row(const sp_attend_call *call, uint32_t kv, uint32_t key)
{
    const sp_kv_view *view = &call->args->kv;
    return view->pages[key / SP_TILE] + kv * view->head_bytes +
           key % SP_TILE * view->head_dim * call->element;
}
static inline const uint8_t *sp_attend_v_row(const sp_attend_call *call, uint32_t kv, uint32_t key)
{
    const sp_kv_view *view = &call->args->kv;
    return view->pages[key / SP_TILE] + kv * view->head_bytes +
           (SP_TILE * view->head_dim + key % SP_TILE * view->value_dim) * call->element;
}

/* --- attend_tiles.c --- */
/* Packs the queries of a run: row head * n + i is position positions[i], or first + i where positions is
 * NULL. */
void sp_attend_pack_queries(const sp_attend_call *call, const sp_attend_worker *worker,
                            const sp_attend_run *run, uint32_t first, const uint32_t *positions, uint32_t n);
/* Points tile->k (and with want_v tile->v) at the keys of a piece of the plan, packing them into the worker's
 * scratch unless they are packed for all. need: keys that some row wants; others may read as zeros. next: the
 * piece after it, whose page is asked for meanwhile, or NULL. */
void sp_attend_load_tile(const sp_attend_call *call, const sp_attend_worker *worker, uint32_t kv,
                         const sp_tile *piece, const sp_tile *next, uint64_t need, bool want_v,
                         sp_attend_tile *tile);
/* The same for ranks 64 * tile .. of a group's keys. Returns the number of pages met that are not *last_page,
 * which it updates. */
uint32_t sp_attend_load_ranks(const sp_attend_call *call, const sp_attend_worker *worker, uint32_t kv,
                              const sp_group *group, uint32_t rank_tile, uint64_t need, bool want_v,
                              uint32_t *last_page, sp_attend_tile *tile);
/* Edge words of n rows from position first in a plan tile, repeated for each head, into words. Returns their
 * union; *full is true where every row has all 64 keys. */
uint64_t sp_attend_tile_words(const sp_attend_call *call, const sp_tile *tile, uint32_t first, uint32_t n,
                              uint32_t heads, uint64_t *words, bool *full);
/* The same for n queries of groups that share keys. */
uint64_t sp_attend_rank_words(const sp_attend_call *call, const sp_attend_member *members, uint32_t n,
                              uint32_t rank_tile, uint32_t heads, uint64_t *words);
/* Gathered tiles that a group's query reads: first and one past the last. */
void sp_attend_rank_tiles(const sp_plan *plan, const sp_group *group, uint32_t query, uint32_t *first,
                          uint32_t *end);
/* Packs every key tile that several tasks read, if they fit max_bytes. False when out of memory. */
bool sp_attend_pack_shared(sp_attend_call *call, size_t max_bytes);

/* --- attend_softmax.c, attend_entmax.c: the rows of one window. False when out of memory --- */
bool sp_attend_softmax(sp_attend_call *call);
bool sp_attend_entmax(sp_attend_call *call);

/* --- attend_joint.c: scores of all tiles where call->joint. False when out of memory --- */
bool sp_attend_score_joint(sp_attend_call *call);

/* --- attend.c --- */
/* Adds a task; false when out of memory. */
bool sp_attend_push_task(sp_attend_call *call, const sp_attend_task *task);
/* All of a call that has its first fields up to scratch, may_leave, begin and end: or all but the tasks of
 * call->left. False when out of memory. */
bool sp_attend_run_call(sp_attend_call *call);
/* Adds what the workers counted to stats (or NULL) and to the supports asked for. */
void sp_attend_report(const sp_attend_call *call, double seconds, sp_attend_stats *stats);
/* The last run of a call's tasks: now, or left to who runs several calls. */
void sp_attend_run_last(sp_attend_call *call, sp_task_fn task);
/* Tasks of the window: one a (query tile, run), last query tiles first; or, split, one a span of it. Returns
 * false when out of memory. part_floats: 0, or floats of state a row for split tasks, laid out from 0; *parts
 * gets their sum. */
bool sp_attend_make_tasks(sp_attend_call *call, bool split, size_t part_floats, size_t *parts);
/* Finds which groups share keys. False when out of memory. */
bool sp_attend_chain_groups(sp_attend_call *call);
/* Tasks over the groups first .. end - 1: blocks of queries inside the window, at most 64. */
bool sp_attend_make_group_tasks(sp_attend_call *call, size_t first, size_t end);
/* The queries of a group task, and their positions; returns how many. */
uint32_t sp_attend_task_members(const sp_attend_call *call, const sp_attend_task *task,
                                sp_attend_member members[SP_TILE], uint32_t positions[SP_TILE]);
/* Few rows and many keys: spans are dealt out to threads. */
bool sp_attend_should_split(const sp_attend_call *call);

#endif
