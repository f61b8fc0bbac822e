/* Private to models/: the weights of gpt2, shared by arch_gpt2.c (config and loading) and gpt2_forward.c. */
#ifndef SPARSED_MODELS_GPT2_H
#define SPARSED_MODELS_GPT2_H

#include "models/loading.h"

typedef struct sp_gpt2_norm {
    float *weight, *bias; /* (hidden) */
} sp_gpt2_norm;

/* A linear layer with its bias. */
typedef struct sp_gpt2_linear {
    sp_matrix weight; /* (n_out, n_in) */
    float *bias;      /* (n_out) */
} sp_gpt2_linear;

typedef struct sp_gpt2_layer {
    sp_gpt2_norm attention_norm, mlp_norm;
    sp_gpt2_linear q, k, v, o; /* (hidden, hidden) */
    sp_gpt2_linear up, down;   /* (intermediate, hidden), (hidden, intermediate) */
} sp_gpt2_layer;

typedef struct sp_gpt2 {
    sp_gpt2_layer *layers; /* (n_layers) */
    sp_gpt2_norm norm;
    sp_matrix head;            /* (vocab, hidden); tied: the embedding too */
    sp_table embed, positions; /* (vocab, hidden), rows NULL when tied; (context, hidden) */
} sp_gpt2;

extern const sp_arch sp_arch_gpt2;

bool sp_gpt2_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes);
sp_status sp_gpt2_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                          void *scratch, float *logits, sp_error *error);

#endif
