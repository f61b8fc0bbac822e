/* The fits that an engine serves with: which file belongs to which model.
 *
 * The base's fit is --fit, else sparsefinder.safetensors in the model's folder; beside a GGUF file
 * NAME.sparsefinder.safetensors, else sparsefinder.safetensors. An adapter's is sparsefinder.safetensors in
 * its own folder, else whichever of these was made for the model with it. A fit that was made for none of
 * them is refused. Owner: sp_fits owns the fits. Tests: tests/golden/test_prefix.c,
 * tests/http/test_adapters.py, tests/http/test_rope_pre.py */
#ifndef SPARSED_ENGINE_FITS_H
#define SPARSED_ENGINE_FITS_H

#include "engine/sparsefinder/fit.h"
#include "models/model.h"

typedef struct sp_fits {
    const sp_fit **of; /* (n) of the base, then of adapter i - 1; entries may be NULL */
    size_t n;
    sp_fit **owned; /* (n) */
} sp_fits;

/* Whether any file is there: then the model must be opened with fingerprints. fit: --fit or NULL. */
bool sp_fits_wanted(const char *model_path, const char *fit, const sp_adapter_option *adapters,
                    size_t n_adapters);
/* Reads and checks them. SP_NOT_FOUND, SP_DATA naming the file and both values. */
sp_status sp_fits_open(const sp_model *model, const char *model_path, const char *fit,
                       const sp_adapter_option *adapters, size_t n_adapters, sp_fits *out,
                       sp_error *error) SP_MUST_CHECK;
void sp_fits_close(sp_fits *fits);

#endif
