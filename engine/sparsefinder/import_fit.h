/* Fits from what the published Sparsefinder code saved (deep-spin/sparsefinder, sparsefinder-mlm).
 *
 * Projections: a list over layers of {"q": {"w": (H, d, r), "b": (H, 1, r)}, "k": the same}. Centroids: a
 * list over layers of (H, runs, C, r), or of (H, runs, C, b r) for blocks of b tokens, on the same
 * projections. They become the default set of a fit, and a block set where the centroids are those of blocks.
 * Maps whose k equals q are written as shared. Projections with a hidden layer (w1, b1, w2, b2) are refused:
 * a fit holds affine maps. Files are read by import_torch.h: as data, nothing in them is executed. Tests:
 * tests/unit/engine/test_import_fit.c, tests/http/test_import_fit.py */
#ifndef SPARSED_ENGINE_SPARSEFINDER_IMPORT_FIT_H
#define SPARSED_ENGINE_SPARSEFINDER_IMPORT_FIT_H

#include "engine/sparsefinder/fit.h"
#include "engine/sparsefinder/import_torch.h"

typedef struct sp_import_options {
    uint32_t layers, heads, head_dim; /* what must be found; 0: anything */
    const char *model;                /* fingerprint to write; NULL: none */
    double alpha;                     /* of the attention that the maps were trained on */
} sp_import_options;

/* centroids may be NULL. *out: sp_fit_close. SP_DATA naming file, layer and tensor; SP_UNSUPPORTED for the
 * form with a hidden layer. */
sp_status sp_fit_import(sp_torch_file *projections, sp_torch_file *centroids,
                        const sp_import_options *options, sp_fit **out, sp_error *error) SP_MUST_CHECK;

#endif
