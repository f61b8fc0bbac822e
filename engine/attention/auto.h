/* Putting in the place of `auto` what the rules of choose.h choose. Tests: tests/golden/test_auto.py */
#ifndef SPARSED_ENGINE_ATTENTION_AUTO_H
#define SPARSED_ENGINE_ATTENTION_AUTO_H

#include "engine/attention/attention.h"
#include "engine/attention/choose.h"

typedef struct sp_auto_request {
    const sp_sweep *sweep; /* NULL: none */
    const sp_attention_host *host;
    const sp_fit *fit; /* NULL: none */
    uint32_t n_layers, n_prompt, n_new;
    sp_normalizer measured; /* what the model was trained with: that of sweeps */
    const char *device;
} sp_auto_request;

/* Nothing for another backend than auto. Otherwise backend, parameters, heads and reason become those of what
 * is chosen; normalizer, measure and the rest stay the request's. SP_NO_MEMORY. */
sp_status sp_attention_choose(sp_attention *attention, const sp_auto_request *request,
                              sp_error *error) SP_MUST_CHECK;
/* What is still auto, where no model is or nothing chose, becomes dense. */
void sp_attention_settle(sp_attention *attention);

#endif
