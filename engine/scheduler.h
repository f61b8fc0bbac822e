/* The scheduler: who waits, who runs, and what the next step computes.
 *
 * A request's pages, ceil((prompt + max_tokens) / 64), are reserved when it is admitted, first come first
 * served; so a running sequence never lacks memory. A step takes the rows of all decoding sequences, then
 * chunks of prompts (rows.h); between two steps runs one piece of a call, or of a prompt that is run layer by
 * layer. A sequence whose reader lags (stream without room) keeps its pages and leaves the batch. What a
 * client is told when the queue is full is in drain.h. Owner and threads: queue, counters and
 * calls are guarded by one mutex; all else belongs to whoever calls step(): the engine thread. Streams are
 * never touched with the mutex held. Tests: tests/unit/engine/test_scheduler.c,
 * tests/unit/engine/test_scheduler_time.c, tests/golden/test_austen.c */
#ifndef SPARSED_ENGINE_SCHEDULER_H
#define SPARSED_ENGINE_SCHEDULER_H

#include "engine/kv.h"
#include "engine/sequence.h"

typedef struct sp_scheduler sp_scheduler;

typedef struct sp_scheduler_options {
    sp_model *model;
    sp_dtype kv_type;
    uint32_t context, n_pages, max_sequences, max_queue;
    double queue_timeout, request_timeout, step_seconds;
    struct sp_captures *captures; /* may pin pages; NULL: none */
    bool poison;                  /* fill freed pages with NaN */
    uint32_t max_whole;           /* longest prompt that may be run layer by layer; 0: none */
    const sp_fit *const *fits;    /* (n_fits) by sp_sequence.adapter: 0 the base's; entries may be NULL */
    size_t n_fits;
    uint32_t max_chunk;    /* prefill rows of one step; 0: 512 */
    double (*clock)(void); /* NULL: sp_now */
} sp_scheduler_options;

sp_status sp_scheduler_open(const sp_scheduler_options *options, sp_scheduler **out,
                            sp_error *error) SP_MUST_CHECK;
/* Ends what waits and runs with SP_UNAVAILABLE and frees all. Nobody may be in step() or run(). */
void sp_scheduler_close(sp_scheduler *scheduler);
size_t sp_scheduler_scratch_bytes(const sp_scheduler *scheduler);
/* The pool: to read pages that somebody owns. */
const sp_kv *sp_scheduler_kv(const sp_scheduler *scheduler);

/* --- any thread --- */
/* Takes the sequence over on SP_OK. SP_BUSY when the queue is full, SP_UNAVAILABLE after stop. */
sp_status sp_scheduler_submit(sp_scheduler *scheduler, sp_sequence *sequence, sp_error *error) SP_MUST_CHECK;
/* A stream was cancelled or drained. context is the scheduler. */
void sp_scheduler_wake(void *context);
/* Runs call(context) between two steps and waits for it. SP_UNAVAILABLE after stop: it did not run. */
sp_status sp_scheduler_call(sp_scheduler *scheduler, void (*call)(void *context), void *context,
                            sp_error *error) SP_MUST_CHECK;
void sp_scheduler_stats(sp_scheduler *scheduler, sp_stats *out);
/* Makes run() return after the step it is in. */
void sp_scheduler_stop(sp_scheduler *scheduler);

/* --- the engine thread --- */
/* One step: ends, admits, runs. False: there was nothing to do. */
bool sp_scheduler_step(sp_scheduler *scheduler);
/* Steps until stopped, sleeping while there is nothing to do. */
void sp_scheduler_run(sp_scheduler *scheduler);

#endif
