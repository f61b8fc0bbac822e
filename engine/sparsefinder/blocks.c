/* Maps and centroids of blocks: see fit_sets.h. Tests: tests/unit/engine/test_fit_job.c */
#include "engine/sparsefinder/fit_sets.h"
sp_status sp_fit_blocks(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                        const sp_maps *start, sp_fit_set *set, sp_error *error)
{
    (void)unit, (void)options, (void)stop, (void)start, (void)set;
    return sp_fail(error, SP_UNSUPPORTED, "blocks");
}
