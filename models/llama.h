/* Private to models/: the llama architecture's weights, shared by arch_llama.c (config and loading) and
 * llama_forward.c (the forward pass). */
#ifndef SPARSED_MODELS_LLAMA_H
#define SPARSED_MODELS_LLAMA_H

#include "models/model.h"

typedef struct sp_llama_layer {
    float *attention_norm, *mlp_norm; /* (hidden) */
    sp_matrix q, k, v, o;             /* (n_heads * head_dim, hidden), (n_kv_heads * head_dim, hidden) twice,
                                       * (hidden, n_heads * head_dim) */
    sp_matrix gate, up, down;         /* (intermediate, hidden) twice, (hidden, intermediate) */
} sp_llama_layer;

typedef struct sp_llama {
    sp_llama_layer *layers; /* (n_layers) */
    float *norm;            /* (hidden) */
    sp_matrix head;         /* (vocab, hidden); tied: the embedding too */
    sp_dtype embed_type;    /* F32, F16, BF16 or a block type */
    void *embed;            /* (vocab, hidden) as stored; NULL when tied */
    double *frequencies;    /* (head_dim / 2) radians a position */
} sp_llama;

extern const sp_arch sp_arch_llama;

bool sp_llama_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes);
sp_status sp_llama_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error);

#endif
