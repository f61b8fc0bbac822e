/* The sweeps that `auto` chooses from: sweep.json in the model's folder (beside a GGUF file NAME.sweep.json,
 * else sweep.json), and in an adapter's for the model with it.
 *
 * A file that is broken or was measured on another model is logged and left out: then `auto` is dense, and
 * says why. Owner: sp_sweeps owns the sweeps. Tests: tests/golden/test_auto.py */
#ifndef SPARSED_ENGINE_SWEEPS_H
#define SPARSED_ENGINE_SWEEPS_H

#include "engine/evaluate/sweep.h"
#include "models/model.h"

typedef struct sp_sweeps {
    const sp_sweep **of; /* (n) of the base, then of adapter i - 1; NULL: none */
    size_t n;
} sp_sweeps;

/* Whether any file is there: then the model must be opened with fingerprints. */
bool sp_sweeps_wanted(const char *model_path, const sp_adapter_option *adapters, size_t n_adapters);
/* Reads what there is. SP_NO_MEMORY. */
sp_status sp_sweeps_open(const sp_model *model, const char *model_path, const sp_adapter_option *adapters,
                         size_t n_adapters, sp_sweeps *out, sp_error *error) SP_MUST_CHECK;
void sp_sweeps_close(sp_sweeps *sweeps);

#endif
