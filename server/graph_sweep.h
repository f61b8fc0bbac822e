/* Sweeps over a capture: one attention with several values of its parameters, laid over the same queries and
 * keys, each head's recall and sparsity for every combination.
 *
 * A sweep runs on a graph thread by itself; who asks for it reads what is there. The table keeps the newest
 * SP_MAX_SWEEPS. Owner: the table; a sweep is counted, its job and its readers hold it. Tests:
 * tests/http/test_graph_many.py */
#ifndef SPARSED_SERVER_GRAPH_SWEEP_H
#define SPARSED_SERVER_GRAPH_SWEEP_H

#include "server/graph_call.h"
#include "server/json_body.h"

#define SP_MAX_SWEEPS 64u
#define SP_MAX_SWEEP_POINTS 20000u

typedef struct sp_graph_sweep_point {
    uint32_t attention, layer, head;
    sp_head_record record;
} sp_graph_sweep_point;

typedef struct sp_graph_sweep_job sp_graph_sweep_job;
struct sp_graph_sweep_job {
    sp_graph_sweep_job *next;
    char id[32], capture[SP_CAPTURE_ID];
    uint64_t owner;
    sp_arena arena;
    sp_attention *attentions; /* (n_attentions) */
    const char **texts;       /* (n_attentions) each as JSON */
    size_t n_attentions;
    const sp_fit *fit;              /* the engine's, or NULL */
    const uint32_t *layers, *heads; /* (n_layers), (n_heads) */
    uint32_t n_layers, n_heads;
    sp_graph_sweep_point *points; /* (total) */
    size_t total;
    /* guarded by the table's lock */
    size_t done;
    enum { SP_GRAPH_SWEEP_RUNNING, SP_GRAPH_SWEEP_READY, SP_GRAPH_SWEEP_FAILED } state;
    sp_error error;
    unsigned holds;
    bool dropped; /* out of the table: its job stops */
    bool cancelled;
    double started; /* as sp_now */
};

typedef struct sp_graph_sweeps sp_graph_sweeps;
sp_status sp_graph_sweeps_open(sp_graph_sweeps **out, sp_error *error) SP_MUST_CHECK;
void sp_graph_sweeps_close(sp_graph_sweeps *sweeps); /* jobs must be over; NULL is fine */

/* Reads the body for a capture: {attention, grid, layers, heads}. SP_INVALID, SP_TOO_LARGE. */
sp_status sp_graph_sweep_read(const sp_body *body, const sp_capture_info *info, const sp_fit *fit,
                              sp_graph_sweep_job **out, sp_error *error) SP_MUST_CHECK;
/* Into the table, held once by the caller. SP_BUSY: SP_MAX_SWEEPS run. */
sp_status sp_graph_sweeps_add(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep,
                              sp_error *error) SP_MUST_CHECK;
sp_graph_sweep_job *sp_graph_sweeps_find(sp_graph_sweeps *sweeps, const char *capture, const char *id,
                                         uint64_t owner);
void sp_graph_sweeps_release(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep);
/* One point more; the end. */
void sp_graph_sweep_note(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep,
                         const sp_graph_sweep_point *point);
void sp_graph_sweep_end(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep, sp_status status,
                        const sp_error *error);
/* Whether it is to stop. */
bool sp_graph_sweep_dropped(sp_graph_sweeps *sweeps, const sp_graph_sweep_job *sweep);
/* Up to max that run, of this owner; returns their number. */
typedef struct sp_graph_sweep_running {
    char id[32];
    double started;
} sp_graph_sweep_running;
size_t sp_graph_sweeps_running(sp_graph_sweeps *sweeps, uint64_t owner, sp_graph_sweep_running *out,
                               size_t max);
/* Ends one that runs; false: there is none. */
bool sp_graph_sweeps_cancel(sp_graph_sweeps *sweeps, uint64_t owner, const char *id);
/* The answer of GET. */
void sp_graph_sweep_write(sp_graph_sweeps *sweeps, const sp_graph_sweep_job *sweep, sp_json_writer *out);

#endif
