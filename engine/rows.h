/* Which rows a step computes, and how many fit into its time.
 *
 * Every sequence that decodes gives its one row. Then come prompts, with as many rows as the step's time
 * leaves at the measured rate, at least one tile: half of them are the oldest prompt's, the rest goes to the
 * shortest rest of a prompt first. So a short prompt does not wait for a long one before it, and whatever
 * comes later, no prompt takes more than twice as long as if prompts were read one after another: at any
 * moment half of the rows go to one that is not younger. Where a step has room for one tile only, they take
 * turns. A prompt that is alone, with nobody who decodes, reads or waits between steps, takes steps of
 * SP_ALONE_STEPS times the time: longer chunks read faster, and who comes meanwhile waits for one of them.
 * Chunks end at multiples of 64 where they can; bits do not depend on them.
 * Owner: the engine thread. Tests: tests/unit/engine/test_rows.c */
#ifndef SPARSED_ENGINE_ROWS_H
#define SPARSED_ENGINE_ROWS_H

#include "engine/step.h"

#define SP_ALONE_STEPS 4

typedef struct sp_pace {
    double step_seconds;                        /* what a step should take */
    double decode_seconds, prefill_row_seconds; /* smoothed: a step without prefill; a row of prefill */
    double part_row_seconds[2]; /* the same of parts, in the first and second pass of a layer */
    int64_t owed;               /* rows that the oldest prompt is behind the others */
} sp_pace;

/* What a step became. */
typedef struct sp_step_rows {
    uint32_t n_active;  /* sequences with a place: those that lag are left out */
    uint32_t n_prefill; /* rows of prompts */
} sp_step_rows;

/* Fills an empty step from the running sequences, (n_running) in order of admission. Prompts that are run
 * layer by layer take a place but no rows. awaited: somebody waits for the step to be over. */
void sp_rows_fill(sp_pace *pace, sp_step *step, sp_sequence *const *running, uint32_t n_running, bool awaited,
                  sp_step_rows *out);
/* The step took so long; not for one that failed. */
void sp_rows_learn(sp_pace *pace, const sp_step *step, uint32_t n_prefill, double seconds);

/* Rows of the next part of a prompt that is run layer by layer. */
uint32_t sp_rows_part(const sp_pace *pace, const sp_step *step, const sp_sequence *sequence);
/* That part, which did not fail, took so long; attends: of the second pass. */
void sp_rows_learn_part(sp_pace *pace, bool attends, uint32_t rows, double seconds);

#endif
