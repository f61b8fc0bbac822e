/* The input of one attention layer, read and checked. Private to engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_APPLY_CASE_H
#define SPARSED_ENGINE_ATTENTION_APPLY_CASE_H

#include "engine/attention/attention.h"
#include "models/weights.h"

/* Tensors are views into *weights; k and v are copied into pages. */
typedef struct sp_apply_case {
    sp_weights *weights;
    sp_tensor q, k, v; /* (n_heads, n, head_dim), (n_kv_heads, m, head_dim), (n_kv_heads, m, value_dim) */
    sp_tensor q_pre, k_pre; /* as q and k, before their rotary embedding; data NULL: not given */
    uint32_t n_heads, n_kv_heads, n, m, head_dim, value_dim;
    sp_attention attention;
    sp_attend_kind kind;
    uint32_t layer, offset, valid, valid_q;
    bool causal, wants_edges;
    float scale;
} sp_apply_case;

/* Parses and checks safetensors bytes, which must outlive the case. SP_DATA names a tensor, SP_INVALID a
 * metadata key or field. On failure nothing is held; on success call sp_apply_case_close. */
sp_status sp_apply_case_open(const char *name, const void *bytes, size_t size, sp_apply_case *out,
                             sp_error *error) SP_MUST_CHECK;
void sp_apply_case_close(sp_apply_case *self);

/* Row number `row` (heads times length) of q, k or v as float32. */
void sp_apply_convert(const sp_tensor *tensor, size_t row, float *to);

/* Keys that a valid row may see: all valid ones, or those up to its position. */
static inline uint32_t sp_apply_allowed(const sp_apply_case *self, uint32_t row)
{
    uint32_t past = self->offset + row + 1;
    return self->causal && past < self->valid ? past : self->valid;
}

#endif
