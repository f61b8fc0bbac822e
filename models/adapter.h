/* LoRA adapters (Hu et al. 2021) beside a model, in the layout of PEFT: adapter_config.json and
 * adapter_model.safetensors.
 *
 * A linear layer y = W x of a row that has an adapter becomes y + s B (A x): A (r, n_in), B (n_out, r), s =
 * lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. W is never touched, so rows of the base and of
 * several adapters share a batch: those of one adapter are gathered, multiplied together and added where they
 * belong. A row's bits depend on that row and its adapter alone.
 *
 * Refused by name: a key that would change the result and is not built (adapter_config.json), a module that
 * the architecture has not, a tensor that is missing, of another shape, or belongs to nothing.
 * `attention_normalizer`, a key of our own, says which attention the adapter was trained with. The model owns
 * its adapters. Tests: tests/golden/test_adapter.c, tests/golden/test_smollm2_entmax.c,
 * tests/http/test_adapters.py, tests/fuzz/fuzz_adapter.c */
#ifndef SPARSED_MODELS_ADAPTER_H
#define SPARSED_MODELS_ADAPTER_H

#include "models/model.h"

#define SP_MAX_ADAPTER_NAME 64u
#define SP_MAX_ADAPTER_RANK 1024

/* A stored matrix of every layer that may be adapted. Where it holds several of the model's matrices, one
 * below the other, A is theirs together and B is cut. */
#define SP_MAX_MODULES 8u
#define SP_MAX_MODULE_PARTS 3u
struct sp_adapter_module {
    const char *name; /* "self_attn.q_proj" */
    size_t n_in;
    uint32_t first_part, n_parts;      /* the architecture's numbers of its matrices */
    size_t n_out[SP_MAX_MODULE_PARTS]; /* (n_parts) */
};

/* data NULL: this matrix is not adapted. */
typedef struct sp_low_rank {
    sp_matrix a, b; /* (rank, n_in), (n_out, rank) */
} sp_low_rank;

struct sp_adapter {
    char *name;
    bool has_normalizer;
    sp_normalizer normalizer; /* what it was trained with, where it says so */
    char fingerprint[65];     /* of the model with it; "" where the options did not ask for it */
    uint32_t rank, n_layers, n_parts;
    float scale;
    sp_low_rank *parts; /* (n_layers, n_parts) */
    size_t bytes;
};

/* What adapter_config.json says. */
typedef struct sp_adapter_settings {
    uint32_t rank;
    float scale;
    bool has_normalizer;
    sp_normalizer normalizer;
    const char *targets[64]; /* (n_targets) live as long as the config */
    size_t n_targets;
} sp_adapter_settings;
/* SP_DATA names file and key. */
sp_status sp_adapter_read_settings(const sp_config *config, sp_adapter_settings *out,
                                   sp_error *error) SP_MUST_CHECK;

/* Loads the folder path as an adapter of the loaded model. name: 1 to 64 letters, digits, '.', '_', '-', not
 * taken yet: else SP_USAGE. SP_NOT_FOUND, SP_DATA, SP_UNSUPPORTED (the architecture takes none),
 * SP_NO_MEMORY. */
sp_status sp_adapter_open(const sp_model *model, const char *name, const char *path,
                          const sp_model_options *options, sp_adapter **out, sp_error *error) SP_MUST_CHECK;
void sp_adapter_close(sp_adapter *adapter);

/* --- the forward pass: which rows have which adapter, and room to work in --- */
typedef struct sp_adapt {
    const sp_model *model;
    uint32_t *starts; /* (n_adapters + 1) into order */
    uint32_t *order;  /* (rows) rows of adapter 0, ascending, then of adapter 1 .. */
    float *low;       /* (rows, largest rank) */
    float *wide;      /* (rows, width) gathered inputs, then outputs */
} sp_adapt;

/* Gives out the room behind *place (models/parts.h) for rows whose matrices are at most width wide; takes
 * nothing without adapters. false on overflow. */
bool sp_adapt_lay(const sp_model *model, uint8_t *base, size_t *place, size_t rows, size_t width,
                  sp_adapt *out);
/* Sorts the rows of a batch. */
void sp_adapt_begin(sp_adapt *adapt, const sp_batch *batch);
/* y += s B (A x) for the rows with adapters. x (rows, n_in), y (rows, n_out) of the matrix number part. */
void sp_adapt_add(const sp_adapt *adapt, uint32_t layer, uint32_t part, const float *x, float *y);

#endif
