/* What a forward pass is given and what it asks for.
 *
 * A batch is rows of one or more sequences; rows of one sequence (slot) are neighbours with rising positions.
 * The model embeds them, runs its layers, and for each attention calls attend(); it never knows which
 * attention, device or cache answered. The engine writes k and v into its pages, plans, and attends. */
#ifndef SPARSED_MODELS_FORWARD_H
#define SPARSED_MODELS_FORWARD_H

#include "kernels/ops.h"

typedef struct sp_batch {
    size_t n_rows;
    const int32_t *tokens;       /* (n_rows) */
    const uint32_t *positions;   /* (n_rows) from 0 within their sequence */
    const uint32_t *slots;       /* (n_rows) the engine's number of the sequence */
    const uint8_t *wants_logits; /* (n_rows) 1: this row's logits are needed */
    const uint32_t *lengths;     /* (n_rows) tokens that the row's sequence is planned for, constant over its
                                  * life: prompt and max_tokens. NULL: short ones. See models/rope.h */
    const uint32_t *adapters;    /* (n_rows) 0: the base alone, i: the model's adapter i - 1. NULL: all 0 */
    /* Some layers of a pass: first_layer .. end_layer - 1; end_layer 0: all. states: the rows between the
     * layers, read where first_layer > 0 and written where end_layer is not the last; else not needed. */
    uint32_t first_layer, end_layer;
    float *states; /* (n_rows, hidden) */
    float *hidden; /* written: (n_rows, hidden) states after the last norm; NULL: not wanted */
    /* Written before each attend() by models with rotary embedding: q (n_rows, n_heads, head_dim) and k
     * (n_rows, n_kv_heads, head_dim) before it. NULL: not wanted */
    float *plain_q, *plain_k;
} sp_batch;

typedef enum sp_attend_kind { SP_ATTEND_SELF, SP_ATTEND_CROSS, SP_ATTEND_ENCODER } sp_attend_kind;

typedef struct sp_attend_call {
    sp_attend_kind kind;
    uint32_t layer;
    const sp_batch *batch;
    const float *q; /* (n_rows, n_heads, head_dim), rotated */
    const float *k; /* (n_rows, n_kv_heads, head_dim), rotated; NULL when cached */
    const float *v; /* (n_rows, n_kv_heads, head_dim) */
    float scale;
    float *out; /* (n_rows, n_heads, head_dim) */
} sp_attend_call;

typedef sp_status (*sp_attend_fn)(void *context, const sp_attend_call *call, sp_error *error);

#endif
