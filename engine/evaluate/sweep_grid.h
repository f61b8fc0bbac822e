/* The grids of a sweep: for each curve a family of attention objects and the values of the one parameter that
 * moves along it. Values are those of the paper's sweeps (arXiv 2109.12188 and its code) with longer windows
 * and strides for longer texts; what the paper varied as thresholds on l2 and cosine, bins and clusters is
 * here as it was, and beside it what serves: `keep`, recalls of the fit, routed clusters.
 *
 * A selection narrows them: backends by name, and grids by name with or without values of their own:
 * "window=1,3,9;dot-keep". Plain data. Tests: tests/unit/engine/test_sweep.c */
#ifndef SPARSED_ENGINE_EVALUATE_SWEEP_GRID_H
#define SPARSED_ENGINE_EVALUATE_SWEEP_GRID_H

#include "kernels/base.h"

#define SP_GRID_MAX_VALUES 32
#define SP_GRID_ATTENTION_BYTES 256

typedef struct sp_grid {
    const char *name, *backend, *meaning;
    const char *format; /* the attention object with one %s for the value */
    const char *values; /* between commas */
} sp_grid;
extern const sp_grid sp_grids[];
extern const size_t sp_grid_count;

typedef struct sp_grid_item {
    const sp_grid *grid;
    double value;
    char attention[SP_GRID_ATTENTION_BYTES]; /* JSON */
} sp_grid_item;

/* All items of the selection whose backends are built, dense first: *out (sp_free), *n. backends, grids: NULL
 * for all. SP_USAGE naming what is unknown. */
sp_status sp_grid_select(const char *backends, const char *grids, sp_grid_item **out, size_t *n,
                         sp_error *error) SP_MUST_CHECK;

#endif
