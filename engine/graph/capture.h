/* Captures: one input run once with what graph queries need, in a table under a byte budget.
 *
 * A capture holds the rotated queries of each layer it keeps (float32, as the layer computed them; where a
 * fit takes queries and keys before the rotation, those too) and the pages of keys and values of its
 * sequence, which it takes over when the sequence ends. Heads are made from both on demand (head.h) and kept
 * beside it. The budget counts all of that. When it is short the least recently used idle head goes first,
 * since it can be made again, then the least recently used idle capture; its id is remembered for an hour, so
 * that who asks for it learns that it is gone and not unknown.
 *
 * Owners and threads: one mutex guards the table and everything in a capture that changes. The engine thread
 * fills a running capture; once it is ready its queries, pages and tokens are constant. Who reads one holds
 * it (sp_captures_hold .. sp_capture_release): it may leave the table meanwhile, its memory goes with the
 * last hold. Pages go back to the pool on the engine thread (sp_captures_tidy). The mutex is never held while
 * a scheduler's or a stream's is taken. Tests: tests/unit/engine/test_graph_store.c,
 * tests/http/test_captures.py */
#ifndef SPARSED_ENGINE_GRAPH_CAPTURE_H
#define SPARSED_ENGINE_GRAPH_CAPTURE_H

#include "engine/graph/head.h"
#include "engine/engine.h"
#include "engine/kv.h"
#include "models/model.h"

typedef struct sp_captures sp_captures;
typedef struct sp_capture sp_capture;
struct sp_stream;

#define SP_CAPTURE_ID SP_ATTENTION_ID
#define SP_MAX_LABEL_SETS 8

typedef struct sp_captures_options {
    const sp_model *model;
    const char *const *model_ids;    /* as sp_engine_info */
    const char *const *fingerprints; /* the same; NULL, or entries NULL: not known */
    sp_dtype kv_type;
    size_t page_bytes;           /* of a KV page, its side included */
    size_t side_bytes;           /* of one layer's part of that side; 0: none */
    size_t max_bytes;            /* of all captures and heads; --capture-bytes */
    size_t max_capture_bytes;    /* of one capture without its heads; --capture-max-bytes */
    double expiry;               /* seconds without use; --capture-expiry */
    void (*wake)(void *context); /* the engine thread has something to tidy; NULL: nobody to wake */
    void *wake_context;
    double (*clock)(void); /* NULL: sp_now */
} sp_captures_options;

/* As gold's alpha: that of the run. */
#define SP_GOLD_OF_RUN 0.0f

/* One set of labels, a text a position: {"pos": ["DET", ..]}. */
typedef struct sp_label_set {
    const char *name;
    const char *const *labels; /* (n) */
    uint32_t n;
} sp_label_set;

/* What a request wants kept. Everything is copied. */
typedef struct sp_capture_spec {
    const uint32_t *layers, *heads; /* (n_layers), (n_heads) rising; NULL: all */
    uint32_t n_layers, n_heads;
    bool has_gold;
    sp_gold gold;               /* without has_gold: the attention's normalizer, for softmax mass 0.95 */
    const sp_label_set *labels; /* (n_labels) */
    size_t n_labels;
    uint64_t owner; /* whoever may ask for it; 0: everybody */
    bool alone;     /* a request of its own: when it fails the capture stays, to say why */
} sp_capture_spec;

typedef enum sp_capture_state { SP_CAPTURE_RUNNING, SP_CAPTURE_READY, SP_CAPTURE_FAILED } sp_capture_state;

/* What is constant from the start; tokens grow while it runs. */
typedef struct sp_capture_info {
    const char *id;
    uint32_t n_layers, n_heads; /* kept */
    const uint32_t *layers, *heads;
    uint32_t model_layers, model_heads, kv_heads;
    uint32_t capacity; /* positions it may hold */
    bool causal;
    sp_gold gold;
    const sp_attention *attention;
    const sp_label_set *labels;
    size_t n_labels;
    const sp_graph_source *source;
    const int32_t *tokens; /* (n_tokens of its status) */
} sp_capture_info;

typedef struct sp_head_status {
    uint32_t layer, head;
    size_t bytes;
    double seconds, progress; /* progress 1: done */
} sp_head_status;

typedef struct sp_capture_status {
    sp_capture_state state;
    bool alone;                   /* a request of its own */
    sp_error error;               /* of a failed one */
    uint32_t n_tokens, n_planned; /* positions that are there; that will be, at most */
    size_t bytes;                 /* with its heads */
    int64_t expires;              /* unix seconds */
} sp_capture_status;

sp_status sp_captures_open(const sp_captures_options *options, sp_captures **out,
                           sp_error *error) SP_MUST_CHECK;
/* Frees what is left; nothing may be held. NULL is fine. */
void sp_captures_close(sp_captures *store);
/* Frees the streams of captures that run by themselves: before the scheduler closes. */
void sp_captures_drop_streams(sp_captures *store);

/* --- the engine's side --- */
/* A running capture for a sequence of at most `capacity` tokens, held once. SP_INVALID: layers, heads, gold;
 * SP_TOO_LARGE (param "layers"): over max_capture_bytes; SP_BUSY: the budget is held by captures in use.
 * fit: what the run's backend reads; NULL: none. */
sp_status sp_capture_open(sp_captures *store, const sp_capture_spec *spec, const sp_attention *attention,
                          const sp_fit *fit, uint32_t adapter, const int32_t *tokens, uint32_t n_prompt,
                          uint32_t capacity, sp_capture **out, sp_error *error) SP_MUST_CHECK;
const char *sp_capture_id(const sp_capture *capture);
/* Rows position .. position + rows of one layer: q, (rows, n_heads, head_dim), and fit_q, fit_k, (rows,
 * n_heads or n_kv_heads, head_dim), as the fit takes them. */
void sp_capture_rows(sp_capture *capture, uint32_t layer, uint32_t position, uint32_t rows, const float *q,
                     const float *fit_q, const float *fit_k, float scale);
/* What a prompt that is run layer by layer keeps of one key tile (side_bytes; engine/attention/codes.h), or
 * of the first part of it. */
void sp_capture_side(sp_capture *capture, uint32_t layer, uint32_t tile, const uint8_t *side);
/* n tokens have been run; tokens (n). */
void sp_capture_grow(sp_capture *capture, const int32_t *tokens, uint32_t n);
/* The sequence is over: takes the first pages of its table, and returns how many (0: the capture is gone);
 * the caller pins those, sp_captures_tidy lets them go. */
uint32_t sp_capture_adopt(sp_capture *capture, const uint32_t *pages);
void sp_capture_fail(sp_capture *capture, const sp_error *error);
/* Engine thread: pages of captures that are gone go back to the pool. */
void sp_captures_tidy(sp_captures *store, sp_kv *kv);
/* Engine thread: drops idle captures, least recently used first, until n pages of the pool can be taken or
 * none is left. */
void sp_captures_reclaim(sp_captures *store, sp_kv *kv, uint32_t n);
/* The sequence is closed: drops its hold; what was not adopted leaves the table unless it is a request of its
 * own. */
void sp_capture_leave(sp_capture *capture);
/* The capture keeps the stream of its own request and frees it; it leaves the table, it is cancelled. */
void sp_capture_keep_stream(sp_capture *capture, struct sp_stream *stream);

/* --- readers: any thread --- */
/* *gone: it was evicted or expired within the last hour. SP_NOT_FOUND either way. use: counts as use. */
sp_status sp_captures_hold(sp_captures *store, const char *id, uint64_t owner, bool use, sp_capture **out,
                           bool *gone, sp_error *error) SP_MUST_CHECK;
void sp_capture_release(sp_capture *capture);
void sp_capture_use(sp_capture *capture); /* now */
/* Takes it out of the table; its memory goes with the last hold. */
void sp_capture_delete(sp_capture *capture);
/* The same by its id, of which nobody will ever ask: its client can't have learned it. */
void sp_captures_drop(sp_captures *store, const char *id, uint64_t owner);
const sp_capture_info *sp_capture_get_info(const sp_capture *capture);
/* What the run's backend predicts with; NULL: nothing. */
const sp_fit *sp_capture_fit(const sp_capture *capture);
void sp_capture_get_status(sp_capture *capture, sp_capture_status *out);
/* Up to max cached or growing heads; returns their number. */
size_t sp_capture_list_heads(sp_capture *capture, sp_head_status *out, size_t max);
size_t sp_captures_used(sp_captures *store);
/* Counts so many bytes of work on this capture within the budget, until they are given back; idle heads and
 * captures leave for them. False: they do not fit beside what is in use. */
bool sp_capture_take_bytes(sp_capture *capture, size_t bytes) SP_MUST_CHECK;
void sp_capture_give_bytes(sp_capture *capture, size_t bytes);
/* Running captures that are requests of their own, of this owner; up to max, returns their number. */
typedef struct sp_capture_running {
    char id[SP_CAPTURE_ID];
    uint32_t n_tokens;
    double started; /* as sp_now */
} sp_capture_running;
size_t sp_captures_running(sp_captures *store, uint64_t owner, sp_capture_running *out, size_t max);
/* All positions as tokens, made at the first call; lives as long as the capture is held. */
sp_status sp_capture_tokens(sp_capture *capture, const sp_graph_token **out, sp_error *error) SP_MUST_CHECK;

/* --- heads --- */
/* Asks the engine thread to run call(context) between two steps and waits; stop(context) true ends a wait. */
typedef struct sp_graph_runner {
    sp_status (*run)(void *engine, void (*call)(void *context), void *context, sp_error *error);
    void *engine;
    sp_device *device;
    const sp_kv *kv;
    double step_seconds;
    bool (*stop)(void *context); /* the asker has left or its time is up; NULL: never */
    void *stop_context;
} sp_graph_runner;

/* The head, made if need be: *out is then constant until sp_capture_release_head. runner NULL, or its stop
 * says so: *out NULL and SP_OK (what was made so far is kept), *progress says how far. SP_TOO_LARGE,
 * SP_UNAVAILABLE, SP_INTERNAL. layer and head: of the model, kept ones. */
sp_status sp_capture_head(sp_capture *capture, uint32_t layer, uint32_t head, const sp_graph_runner *runner,
                          const sp_head **out, double *progress, sp_error *error) SP_MUST_CHECK;
void sp_capture_release_head(sp_capture *capture, uint32_t layer, uint32_t head);
/* Rows of a head whose predicted weights are not held (sp_head.lost), made again block by block when they are
 * read: whatever the head has, one block is there at a time. Its work counts within the budget. */
typedef struct sp_head_part sp_head_part;
/* made is the head, held by the caller meanwhile; the runner lives as long. SP_TOO_LARGE. */
sp_status sp_head_part_open(sp_capture *capture, uint32_t layer, uint32_t head, const sp_head *made,
                            const sp_graph_runner *runner, sp_head_part **out, sp_error *error) SP_MUST_CHECK;
/* As sp_head_row and sp_head_row_mass; after a failure rows are empty. */
void sp_head_part_row(sp_head_part *part, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end,
                      sp_row_room *room, sp_row *out);
double sp_head_part_mass(sp_head_part *part, sp_graph graph, uint32_t row);
/* Says what kept rows from being made: SP_CANCELLED, SP_NO_MEMORY, .. NULL is fine. */
sp_status sp_head_part_close(sp_head_part *part, sp_error *error) SP_MUST_CHECK;
/* The record, once the head was made; it outlives the head's edges. */
bool sp_capture_record(sp_capture *capture, uint32_t layer, uint32_t head, sp_head_record *out);
/* 64 x 64 cells of slice.h; NULL: not made yet, or graph not kept. Kept with the capture. */
const uint8_t *sp_capture_thumbnail(sp_capture *capture, uint32_t layer, uint32_t head, sp_graph graph);
sp_status sp_capture_keep_thumbnail(sp_capture *capture, uint32_t layer, uint32_t head, sp_graph graph,
                                    const uint8_t *cells, sp_error *error) SP_MUST_CHECK;
/* The record of another attention's prediction over the same queries and keys, against the given gold of the
 * head (held by the caller); edges_after is not counted. SP_CANCELLED when the runner's stop says so. */
sp_status sp_capture_measure(sp_capture *capture, uint32_t layer, uint32_t head, const sp_head *gold,
                             const sp_attention *attention, const sp_graph_runner *runner,
                             sp_head_record *out, sp_error *error) SP_MUST_CHECK;

#endif
