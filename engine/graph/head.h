/* One head's graphs: which keys dense attention gives weight (gold), which the backend chose (pred), and the
 * weights of both; everything else (both, missed, extra, after) is read off these two row by row.
 *
 * A head is made in steps on the device's owner's thread, a block of rows at a time: dense weights of a row
 * by ops->row_weights, cut where softmax asks for it, and the row's predicted keys from the backend's plan.
 * Nothing of n x n size is ever held: kept are the edges, in CSR, one exact allocation a block. Where the
 * backend takes every allowed key its edges are not stored (full), and its weights only where they differ
 * from gold's.
 *
 * Owner: whoever opened it; a head that is done is constant and readable from any thread. Tests:
 * tests/unit/engine/test_graph_head.c, tests/http/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_HEAD_H
#define SPARSED_ENGINE_GRAPH_HEAD_H

#include "engine/attention/attention.h"
#include "engine/graph/slice.h"

/* What gold is: dense attention under this normalizer; for softmax, which has no zeros, cut row by row. */
typedef enum sp_gold_cut { SP_CUT_NONE, SP_CUT_MASS, SP_CUT_TOP_K, SP_CUT_MIN_WEIGHT } sp_gold_cut;
typedef struct sp_gold {
    sp_normalizer normalizer;
    sp_gold_cut cut;
    double mass;       /* the fewest keys by falling weight, ties to the lower key, that hold it */
    uint32_t top_k;    /* so many */
    double min_weight; /* those of at least this weight */
} sp_gold;

/* q and k of one layer and the backend that looks at them. Everything is borrowed and stays while a head is
 * made. */
typedef struct sp_head_source {
    sp_device *device;
    const sp_attention *attention; /* of pred */
    /* Of rows n_prompt and behind, which see no later key; NULL: all rows have the same attention. The others
     * are then chosen among themselves, as when they were run. */
    const sp_attention *decoding;
    uint32_t n_prompt;
    sp_gold gold;
    sp_kv_view kv;  /* K of the layer; n_keys valid keys */
    const float *q; /* (n_query, n_heads, head_dim) */
    float scale;
    uint32_t layer, head, n_heads, n_kv_heads, n_query, n_key; /* rows and keys beyond kv.n_keys: padding */
    uint32_t n_valid_query; /* the rows behind them are padding: no edges */
    sp_attend_kind kind;
    bool causal;
    const sp_fit *fit; /* what the backend predicts with; NULL: none */
    /* Where it takes queries and keys as before the rotary embedding: those, (n_query, n_heads, head_dim) and
     * (n_key, n_kv_heads, head_dim); NULL: q and the keys of kv */
    const float *fit_q, *fit_k;
    /* (key tiles) what the run kept of keys for the attention, and for decoding; NULL: nothing, it is made
     * anew where it is needed */
    uint8_t *const *sides, *const *decoding_sides;
    const int32_t *tokens; /* (n_key) for duplicate and induction; NULL: those shares are 0 */
} sp_head_source;

/* CSR whose rows come in blocks. */
typedef struct sp_csr {
    uint32_t *indptr;   /* (n_query + 1) */
    uint32_t **indices; /* (n_blocks) each (edges of the block); NULL where the block has none */
    float **weights;    /* (n_blocks) */
} sp_csr;

typedef struct sp_head {
    uint32_t n_query, n_key, n_valid_key, n_valid_query;
    bool causal;
    uint32_t block_rows, n_blocks; /* the last block may be shorter */
    sp_csr gold, pred;             /* pred.indices NULL where pred is full */
    bool full;                     /* pred is every allowed pair */
    bool like_gold;                /* full, and pred's weights are gold's, 0 elsewhere */
    bool lost;  /* full, and pred's weights are not held, for they are too many: only its counts are known */
    float *cut; /* (n_query) gold mass that the cut dropped; NULL: no cut */
    sp_head_record record;
    uint32_t rows_done; /* a multiple of block_rows until the end */
    bool done;
    size_t bytes; /* of all arrays */
    double seconds;
    struct sp_head_sums *sums; /* while it is made */
} sp_head;

/* Rows of a block. */
uint32_t sp_head_block_rows(uint32_t n_key);
/* Bytes that opening takes; a block adds what its edges need. */
size_t sp_head_base_bytes(const sp_head_source *source);
sp_status sp_head_open(const sp_head_source *source, sp_head **out, sp_error *error) SP_MUST_CHECK;
void sp_head_close(sp_head *head);

/* Scratch of making a head: a few blocks of dense rows. One a thread that makes heads. */
typedef struct sp_head_builder sp_head_builder;
size_t sp_head_builder_bytes(uint32_t n_key, size_t n_workers);
/* What making a head may do besides computing. */
typedef struct sp_head_options {
    const sp_head *given; /* gold is read from it instead of computed; or NULL */
    bool record_only;     /* no edges are kept, edges_after is not counted; needs given */
    bool (*reserve)(void *context, size_t bytes); /* asked before the edges of a block are kept */
    void (*release)(void *context, size_t bytes); /* told when some are given up */
    void *context;
} sp_head_options;
/* Borrows source, head and given. A head that is partly made is taken up where it was left. */
sp_status sp_head_builder_open(const sp_head_source *source, sp_head *head, const sp_head_options *options,
                               sp_head_builder **out, sp_error *error) SP_MUST_CHECK;
void sp_head_builder_close(sp_head_builder *builder);
/* Rows for about `seconds`, at least one a worker; head->done after the last. Only on the thread that owns
 * the device. SP_NO_MEMORY; SP_TOO_LARGE: reserve refused. */
sp_status sp_head_step(sp_head_builder *builder, double seconds, sp_error *error) SP_MUST_CHECK;

/* A full head that is not done goes on at the block of this row, whatever was made before; the edges of the
 * block at hand are freed. */
void sp_head_builder_seek(sp_head_builder *builder, uint32_t row);

/* --- reading a head that is done --- */
typedef struct sp_row {
    const uint32_t *keys; /* rising */
    const float *weights;
    uint32_t n;
} sp_row;
/* Room for one row's edges: (n_key) each. */
typedef struct sp_row_room {
    uint32_t *keys;
    float *weights;
    uint64_t *order;
} sp_row_room;
sp_status sp_row_room_open(sp_row_room *room, uint32_t n_key, sp_error *error) SP_MUST_CHECK;
void sp_row_room_close(sp_row_room *room);
/* Edges of one row with begin <= key < end; *out points into the head or the room. */
void sp_head_row(const sp_head *head, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end,
                 sp_row_room *room, sp_row *out);
/* The row's full mass before any cut: of gold for gold, both, missed; of pred for the others. */
double sp_head_row_mass(const sp_head *head, sp_graph graph, uint32_t row);
/* Edges of one row with begin <= key < end, where they are counted without being listed; else SP_NOT_COUNTED.
 */
uint32_t sp_head_row_count(const sp_head *head, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end);
#define SP_NOT_COUNTED UINT32_MAX
/* Keys that a row may see: 0 .. n - 1. */
static inline uint32_t sp_head_allowed(const sp_head *head, uint32_t row)
{
    if (row >= head->n_valid_query) return 0;
    return head->causal && row + 1 < head->n_valid_key ? row + 1 : head->n_valid_key;
}
/* Whether this graph's weights are held. */
bool sp_head_holds(const sp_head *head, sp_graph graph);

#endif
