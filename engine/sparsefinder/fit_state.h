/* Private to fit_job.c: the units of a job that are finished, in a file that survives the process.
 *
 * A header names the job (a hash of everything its numbers depend on); records follow, one a unit, each with
 * a hash. A file of another job that holds something is refused, a record cut short is dropped. Tests:
 * tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_STATE_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_STATE_H

#include <stdio.h>

#include "engine/sparsefinder/fit_sets.h"

typedef struct sp_fit_state {
    FILE *file;
    char *path;
    uint64_t job;
    bool *done; /* (n_layers, units a layer) */
    size_t n_done;
    bool ours; /* the file is this job's: what it holds may be dropped */
} sp_fit_state;

/* Where the numbers of a job lie. */
typedef struct sp_fit_room {
    sp_fit *fit;
    sp_head_figures *figures; /* (n_layers, n_heads) */
    uint32_t unit_heads;      /* query heads of a unit */
} sp_fit_room;

/* Opens path or makes it, and reads what is done into room. SP_DATA for the state of another job; SP_IO. */
sp_status sp_fit_state_open(const char *path, uint64_t job, const sp_fit_room *room, sp_fit_state *out,
                            sp_error *error) SP_MUST_CHECK;
/* Adds the unit whose first head is `first`, as it stands in room. */
sp_status sp_fit_state_add(sp_fit_state *state, const sp_fit_room *room, uint32_t layer, uint32_t first,
                           sp_error *error) SP_MUST_CHECK;
/* Closes the file, and removes it where all is over or nothing was done. */
void sp_fit_state_close(sp_fit_state *state, bool over);

#endif
