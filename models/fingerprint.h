/* What tells a model from another where a fit was made for one: the hex SHA-256 over the stored bytes of
 * every layer's query and key projection weights, in layer order (tensors that hold both, and more, count
 * whole). With an adapter the bytes of its q and k A and B follow, in layer order: q's A, q's B, k's A, k's
 * B.
 *
 * The bytes are those of the file at hand: a model and its GGUF form differ. Taken while loading, when
 * sp_model_options.fingerprint asks for it. Tests: tests/unit/models/test_fingerprint.c */
#ifndef SPARSED_MODELS_FINGERPRINT_H
#define SPARSED_MODELS_FINGERPRINT_H

#include "kernels/sha256.h"
#include "models/gguf.h"
#include "models/weights.h"

/* Adds the projections of the layers. gguf: the file that weights came from, or NULL. */
sp_status sp_fingerprint_weights(sp_sha256_state *state, const sp_weights *weights, const sp_gguf *gguf,
                                 uint32_t n_layers, sp_error *error) SP_MUST_CHECK;
/* Adds those of adapter_model.safetensors. */
void sp_fingerprint_adapter(sp_sha256_state *state, const sp_weights *weights, uint32_t n_layers);

#endif
