/* One graph query on its way: what was asked, checked; the capture it reads; the answer.
 *
 * A handler (api_captures.c, api_graph*.c) reads the query parameters on the HTTP thread, everything that can
 * be refused is refused there, and hands the call over (sp_graph_start). What needs no computing is answered
 * at once; the rest runs on one of --graph-jobs threads, which make heads step by step on the engine thread.
 * A head that is not done within `wait` seconds is answered 202 with its progress; the next request goes on
 * where this one stopped. A client that leaves ends its call at the next step.
 *
 * Owner: a call belongs to its exchange and to the thread that runs it; whoever lets go last frees it.
 * Tests: tests/http/test_captures.py, test_graph.py */
#ifndef SPARSED_SERVER_GRAPH_CALL_H
#define SPARSED_SERVER_GRAPH_CALL_H

#include "engine/graph/capture.h"
#include "engine/graph/query.h"
#include "engine/graph/tiles.h"
#include "server/exchange.h"

typedef struct sp_graph_call sp_graph_call;
typedef sp_status (*sp_graph_run)(sp_graph_call *call, sp_error *error);

struct sp_graph_call {
    sp_arena arena; /* texts and lists of what was asked */
    sp_engine *engine;
    const sp_options *options;
    sp_capture *capture, *other; /* held; other: compare's second one, or NULL */
    const sp_capture_info *info;
    uint32_t n; /* positions */

    /* what was asked */
    sp_graph graph;
    uint32_t layer, head;
    bool has_layer, has_head;
    sp_filter filter;
    bool binary, f32;
    uint32_t first; /* row where the page begins */
    uint64_t limit, hash;
    uint32_t line; /* rows/{i}, cols/{j} */
    bool column;
    uint32_t z, ty, tx;
    sp_tile_stat stat;
    uint32_t from, to;
    const char *text; /* q, op, by, sort, set, cluster */
    const char *set;
    bool falling;
    const uint32_t *layers, *heads; /* lists: (n_layers), (n_heads) */
    uint32_t n_layers, n_heads;
    void *more; /* of the route; in the arena */

    sp_graph_run run;
    void (*release)(sp_graph_call *call); /* of `more`, before the call is freed; or NULL */
    bool heavy;                           /* never run on the HTTP thread */
    double wait;                          /* seconds to compute before 202 */

    /* while it runs */
    sp_graph_runner runner, reader; /* reader: of rows that are made when they are read; without a deadline */
    bool blocking;                  /* may compute */
    double until;                   /* of a run on the HTTP thread; 0: none */
    bool pending;                   /* a head is not done */
    double progress;

    /* the answer */
    sp_reply reply;
    unsigned refuse; /* a status that is not the error's own: 409, 410 */

    struct sp_graph_job *job; /* graph_pool.c's */
};

/* A call without a capture; NULL: no memory (refused). */
sp_graph_call *sp_graph_call_new(sp_exchange *exchange);
void sp_graph_call_free(sp_graph_call *call);
/* Releases its captures, before the answer goes out: who has it may evict what it was about. */
void sp_graph_call_let_go(sp_graph_call *call);
/* The capture of this id, held; an answer counts as its use. False: refused (404, 410). */
bool sp_graph_call_hold(sp_exchange *exchange, sp_graph_call *call, const char *id, sp_capture **out);
/* Takes the call over: answers now or later. */
void sp_graph_start(sp_exchange *exchange, sp_graph_call *call);

/* --- for run functions --- */
/* The head, or NULL and SP_OK: then the call is pending and run must return. Release it. */
sp_status sp_graph_head(sp_graph_call *call, sp_capture *capture, uint32_t layer, uint32_t head,
                        const sp_head **out, sp_error *error) SP_MUST_CHECK;
/* What the weights of this graph are read through, where the head does not hold them: a part, else *part
 * NULL. weighs: weights are read, not only which edges there are. The call may be pending then: to be run
 * again on a thread that may compute. */
sp_status sp_graph_part(sp_graph_call *call, sp_capture *capture, uint32_t layer, uint32_t head,
                        const sp_head *made, sp_graph graph, bool weighs, sp_head_part **part,
                        sp_error *error) SP_MUST_CHECK;
/* Closes the part: what kept its rows from being made is the call's failure. */
sp_status sp_graph_part_end(sp_head_part *part, sp_status status, sp_error *error) SP_MUST_CHECK;
/* For loops: the asker has left, or it has run for long enough on the HTTP thread; SP_CANCELLED then takes it
 * to a graph thread. */
bool sp_graph_stopped(void *call);
/* The graph has an edge a pair, too many to read on the HTTP thread: then the call is pending, run must
 * return. */
bool sp_graph_later(sp_graph_call *call, const sp_head *head, sp_graph graph);
void sp_graph_json(sp_graph_call *call, unsigned status, sp_json_writer *writer);
/* The same, and its object begun with graph, layer and head of the call. */
void sp_graph_json_of_head(sp_graph_call *call, sp_json_writer *writer);
void sp_graph_binary(sp_graph_call *call, const char *content_type);
/* The same while something goes on that nobody waits for: 202. */
void sp_graph_write_pending(sp_graph_call *call);

/* --- query parameters: false: refused, naming the parameter --- */
bool sp_graph_ask_graph(sp_exchange *exchange, sp_graph_call *call);
/* rows, cols, top_k, min_weight, mass. */
bool sp_graph_ask_filter(sp_exchange *exchange, sp_graph_call *call);
/* format, weights, limit, cursor; after the filter. formats: "json,safetensors". */
bool sp_graph_ask_page(sp_exchange *exchange, sp_graph_call *call);
/* What `next` is where the next page of this question begins at a row. */
#define SP_CURSOR_SIZE 32
void sp_graph_write_cursor(const sp_graph_call *call, uint32_t row, char cursor[SP_CURSOR_SIZE]);
/* format and Accept: binary where they say safetensors or octet-stream. */
bool sp_graph_ask_format(sp_exchange *exchange, sp_graph_call *call, const char *binary_name);
/* layer and head of the path or the query; text NULL: absent. */
bool sp_graph_ask_layer(sp_exchange *exchange, sp_graph_call *call, const char *text);
bool sp_graph_ask_head(sp_exchange *exchange, sp_graph_call *call, const char *text);
/* layers=0,1 and heads=2; all captured ones without. */
bool sp_graph_ask_lists(sp_exchange *exchange, sp_graph_call *call);
bool sp_graph_ask_index(sp_exchange *exchange, const char *name, const char *text, uint64_t max,
                        uint32_t *out);
/* A finite decimal number in [min, max]. */
bool sp_graph_ask_number(sp_exchange *exchange, const char *name, const char *text, double min, double max,
                         double *out);

/* --- writing (graph_write.c) --- */
void sp_graph_write_record(sp_json_writer *out, const sp_head_record *record);
/* The numbers a record has, in their order: names NULL terminated. */
extern const char *const sp_record_names[];
bool sp_record_value(const sp_head_record *record, const char *name, double *out);
/* A slice as the reply: JSON or safetensors, as the call says. */
sp_status sp_graph_reply_slice(sp_graph_call *call, const sp_slice *slice, sp_error *error) SP_MUST_CHECK;
void sp_graph_write_base64(sp_json_writer *out, const void *bytes, size_t n);
/* Shortest digits of each weight. */
void sp_graph_write_floats(sp_json_writer *out, const float *values, size_t n);

/* --- the pool --- */
typedef struct sp_graph_pool sp_graph_pool;
sp_status sp_graph_pool_open(sp_server *server, sp_graph_pool **out, sp_error *error) SP_MUST_CHECK;
void sp_graph_pool_close(sp_graph_pool *pool); /* exchanges must be gone; NULL is fine */
size_t sp_graph_pool_running(sp_graph_pool *pool);
/* The sweeps that graph threads run. */
struct sp_graph_sweeps *sp_graph_pool_sweeps(sp_graph_pool *pool);
/* Runs a call that has no exchange, taken over on SP_OK, until stop(context). */
sp_status sp_graph_pool_background(sp_graph_pool *pool, sp_graph_call *call, bool (*stop)(void *context),
                                   void *context, sp_error *error) SP_MUST_CHECK;
/* Most bytes that graph queries take beside captures. */
size_t sp_graph_memory_bytes(const sp_options *options, const sp_engine_info *info);

#endif
