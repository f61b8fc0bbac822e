/* A model: weights packed for a device, an architecture that knows how to run them, a tokenizer.
 *
 * Registry of architectures: each arch_*.c exports one const sp_arch; models/arch.c lists them. The model
 * owns its weights and tokenizer; forward() needs scratch that the caller sizes once
 * (sp_model_scratch_bytes). Tests: tests/unit/models/test_model.c, tests/golden/test_models.c */
#ifndef SPARSED_MODELS_MODEL_H
#define SPARSED_MODELS_MODEL_H

#include "kernels/sha256.h"
#include "models/config.h"
#include "models/forward.h"
#include "models/gguf.h"
#include "models/rope.h"
#include "models/tokenizer.h"
#include "models/weights.h"

typedef struct sp_model sp_model;
typedef struct sp_adapter sp_adapter;
struct sp_adapter_module;

#define SP_MAX_ADAPTERS 64u
/* A LoRA adapter to load beside the model (models/adapter.h). */
typedef struct sp_adapter_option {
    const char *name, *path;
} sp_adapter_option;

typedef struct sp_hparams {
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, intermediate, vocab, context;
    float norm_eps;
    double rope_theta;
    bool tied;
    sp_normalizer normalizer; /* what it was trained with; softmax where nothing says */
    int32_t bos;              /* -1: none */
    int32_t eos[8];
    size_t n_eos;
} sp_hparams;

/* What matrices become at load. */
typedef enum sp_weights_as { SP_WEIGHTS_STORED, SP_WEIGHTS_BF16, SP_WEIGHTS_F32 } sp_weights_as;

typedef struct sp_model_options {
    sp_weights_options weights;
    sp_weights_as weights_as;
    bool exact; /* float32 activations with bf16 and quantized weights too (reference arithmetic, as --kv f32
                 * asks) */
    bool fingerprint; /* take the fingerprints of the model and its adapters (models/fingerprint.h) */
    const sp_adapter_option *adapters; /* (n_adapters, at most SP_MAX_ADAPTERS) */
    size_t n_adapters;
    /* Progress: called with a fraction 0..1 while loading; may be NULL. */
    void (*progress)(void *context, double fraction);
    void *progress_context;
} sp_model_options;

typedef struct sp_arch {
    const char *name;
    /* model_type of config.json this file serves, NULL terminated */
    const char *const *model_types;
    const void *family; /* what tells it from others that share its functions; their own business, or NULL */
    /* Fills model->hparams from model->config and refuses what is not built, before anything large is read.
     */
    sp_status (*configure)(sp_model *model, sp_error *error);
    sp_status (*load)(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error);
    void (*unload)(sp_model *model); /* also after a load that failed half way */
    /* Bytes of scratch a forward pass over at most max_rows rows and max_logits logit rows needs. */
    bool (*scratch)(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes);
    /* The matrices of a layer that adapters may change: at most SP_MAX_MODULES to out, their number returned.
     * After load. NULL: takes no adapters. */
    size_t (*modules)(const sp_model *model, struct sp_adapter_module *out);
    /* logits: (number of rows with wants_logits, vocab). */
    sp_status (*forward)(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                         void *scratch, float *logits, sp_error *error);
} sp_arch;

struct sp_model {
    const sp_arch *arch;
    sp_device *device;
    sp_hparams hparams;
    sp_tokenizer *tokenizer;
    sp_config *config;             /* of a GGUF file: made from its metadata */
    sp_gguf *gguf;                 /* while it is opened; NULL for folders and afterwards */
    char *name;                    /* last part of the path */
    char *chat_template;           /* Jinja text; NULL: none */
    char *attention_pattern;       /* JSON of config.json's attention_pattern, or NULL */
    char fingerprint[65];          /* hex; "" where the options did not ask for it */
    sp_sha256_state hashed;        /* its state, which adapters go on from */
    size_t weight_bytes, n_params; /* adapters included in weight_bytes */
    sp_adapter **adapters;         /* (n_adapters) */
    size_t n_adapters;
    sp_rope *rope; /* NULL where positions are learned */
    void *state;   /* the architecture's own */
};

/* path: a folder with config.json, tokenizer.json and safetensors, or one GGUF file. device outlives the
 * model. */
sp_status sp_model_open(const char *path, sp_device *device, const sp_model_options *options, sp_model **out,
                        sp_error *error) SP_MUST_CHECK;
void sp_model_close(sp_model *model);
bool sp_model_scratch_bytes(const sp_model *model, size_t max_rows, size_t max_logits,
                            size_t *bytes) SP_MUST_CHECK;
/* max_rows and max_logits of the call must not exceed those the scratch was sized for. */
sp_status sp_model_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error) SP_MUST_CHECK;

/* Packs a matrix (rank 2) for the model's device, converted first where options say so. SP_DATA,
 * SP_NO_MEMORY.
 */
sp_status sp_model_pack(const sp_model *model, const sp_model_options *options, const sp_tensor *w,
                        sp_matrix *out, sp_error *error) SP_MUST_CHECK;

/* The architectures there are, NULL terminated (models/arch.c). */
extern const sp_arch *const sp_archs[];

#endif
