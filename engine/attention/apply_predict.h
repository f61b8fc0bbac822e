/* What sp_apply holds for backends that predict from a fit. Private to engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_APPLY_PREDICT_H
#define SPARSED_ENGINE_ATTENTION_APPLY_PREDICT_H

#include "engine/attention/apply_case.h"
#include "engine/attention/codes.h"
#include "engine/attention/scratch.h"

typedef struct sp_apply_predictor {
    sp_fit *own;       /* from the input's tensors */
    const sp_fit *fit; /* NULL: the backend needs none */
    sp_codes *codes;
    float *q; /* (valid_q, n_heads, head_dim) */
    sp_scratch scratch;
    bool ready;
} sp_apply_predictor;

/* The fit of the input's own tensors, else `served` (may be NULL), checked for heads and size of a head; the
 * attention's parameters are resolved by it. SP_INVALID, SP_DATA. Any thread. */
sp_status sp_apply_predictor_open(sp_apply_predictor *self, sp_apply_case *input, const sp_fit *served,
                                  sp_error *error) SP_MUST_CHECK;
/* Projects the keys, on the device's thread. Takes at most limit bytes, and once more for scratch. */
sp_status sp_apply_predictor_prepare(sp_apply_predictor *self, sp_device *device, const sp_apply_case *input,
                                     size_t limit, sp_error *error) SP_MUST_CHECK;
/* Completes a request for rows from `row` on. */
void sp_apply_predictor_attach(sp_apply_predictor *self, const sp_apply_case *input, uint32_t row,
                               sp_plan_request *request);
void sp_apply_predictor_fini(sp_apply_predictor *self);

#endif
