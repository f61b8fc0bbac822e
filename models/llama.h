/* Private to models/: llama and the families that differ from it in a few places. arch_llama.c reads config
 * and weights for all of them, llama_forward.c runs them; arch_qwen2.c, arch_qwen3.c, arch_mistral.c and
 * arch_phi3.c say what is different. */
#ifndef SPARSED_MODELS_LLAMA_H
#define SPARSED_MODELS_LLAMA_H

#include "models/adapter.h"
#include "models/loading.h"

/* How a family differs. */
typedef struct sp_llama_family {
    double epsilon;        /* of norms, where config.json has no rms_norm_eps */
    bool qkv_bias;         /* q_proj, k_proj and v_proj have biases */
    bool qk_norm;          /* every head of q and k is normalized before it is rotated */
    bool fused;            /* qkv_proj and gate_up_proj in one matrix each: q, k, v; gate, up */
    bool window_is_opt_in; /* sliding_window means nothing unless use_sliding_window is true */
} sp_llama_family;

/* Numbers of a layer's matrices for adapters. */
enum { SP_LLAMA_Q, SP_LLAMA_K, SP_LLAMA_V, SP_LLAMA_O, SP_LLAMA_GATE, SP_LLAMA_UP, SP_LLAMA_DOWN };

typedef struct sp_llama_layer {
    float *attention_norm, *mlp_norm; /* (hidden) */
    sp_matrix q, k, v, o;             /* (n_heads * head_dim, hidden), (n_kv_heads * head_dim, hidden) twice,
                                       * (hidden, n_heads * head_dim) */
    sp_matrix gate, up, down;         /* (intermediate, hidden) twice, (hidden, intermediate) */
    float *q_bias, *k_bias, *v_bias;  /* (n_heads * head_dim), (n_kv_heads * head_dim) twice; or NULL */
    float *q_norm, *k_norm;           /* (head_dim); or NULL */
} sp_llama_layer;

typedef struct sp_llama {
    bool fused;             /* the family's: adapters speak of the matrices as they were stored */
    sp_llama_layer *layers; /* (n_layers) */
    float *norm;            /* (hidden) */
    sp_matrix head;         /* (vocab, hidden); tied: the embedding too */
    sp_table embed;         /* (vocab, hidden); rows NULL when tied */
} sp_llama;

extern const sp_arch sp_arch_llama, sp_arch_qwen2, sp_arch_qwen3, sp_arch_mistral, sp_arch_phi3;

sp_status sp_llama_configure(sp_model *model, sp_error *error) SP_MUST_CHECK;
sp_status sp_llama_load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                        sp_error *error) SP_MUST_CHECK;
void sp_llama_unload(sp_model *model);
size_t sp_llama_modules(const sp_model *model, struct sp_adapter_module *out);
bool sp_llama_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes);
sp_status sp_llama_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error);

/* The sp_arch of a family: its model_type, which is its name too, and an sp_llama_family. */
#define SP_LLAMA_ARCH(type, of_family)                                                                       \
    {                                                                                                        \
        .name = type, .model_types = (const char *const[]){type, NULL}, .family = of_family,                 \
        .configure = sp_llama_configure, .load = sp_llama_load, .unload = sp_llama_unload,                   \
        .modules = sp_llama_modules, .scratch = sp_llama_scratch, .forward = sp_llama_forward,               \
    }

#endif
