/* Measures one point of a sweep: scores windows of a text with the gold graph counted, then reads a prompt
 * and writes a few tokens behind it, in turns with dense attention, so that both suffer the same from
 * whatever else the machine does; the best of the rounds counts. The engine must be the caller's alone.
 * Tests: tests/http/test_sweep.py */
#ifndef SPARSED_ENGINE_EVALUATE_SWEEP_RUN_H
#define SPARSED_ENGINE_EVALUATE_SWEEP_RUN_H

#include "engine/engine.h"
#include "engine/evaluate/sweep.h"
#include "engine/evaluate/sweep_grid.h"

typedef struct sp_sweep_job {
    sp_engine *engine;
    const int32_t *ids; /* (n_ids) of the text */
    size_t n_ids;
    uint32_t adapter;
    uint32_t length, windows; /* tokens a window; how many: at least windows * length + 1 ids are there */
    double perplexity_dense;  /* 0: not known, then the point is dense's own */
    size_t n_prompts;         /* timed so far: every one begins elsewhere in the text */
    bool (*watch)(void *context, double fraction); /* of the point; false: stop with SP_CANCELLED */
    void *context;
} sp_sweep_job;

/* Fills the point's figures; its texts are those of item and engine. SP_INVALID: the engine refuses this
 * attention, and says why. */
sp_status sp_sweep_measure(sp_sweep_job *job, const sp_grid_item *item, sp_sweep_point *out,
                           sp_error *error) SP_MUST_CHECK;

/* Measures the seconds of a point again, and nothing else. */
sp_status sp_sweep_time(sp_sweep_job *job, sp_sweep_point *point, sp_error *error) SP_MUST_CHECK;

#endif
