/* Phi-3 (Abdin et al. 2024; Phi3ForCausalLM): llama whose q, k, v and gate, up are stored as one matrix each,
 * with longrope for long contexts (rope.h). A sliding_window shorter than the context and a
 * partial_rotary_factor below 1 are refused. Tests: tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-5, .fused = true};

static sp_status configure(sp_model *model, sp_error *error)
{
    return sp_llama_configure(model, &family, error);
}

static sp_status load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error)
{
    return sp_llama_load(model, &family, weights, options, error);
}

static const char *const model_types[] = {"phi3", NULL};

const sp_arch sp_arch_phi3 = {.name = "phi3",
                              .model_types = model_types,
                              .configure = configure,
                              .load = load,
                              .unload = sp_llama_unload,
                              .modules = sp_llama_modules,
                              .scratch = sp_llama_scratch,
                              .forward = sp_llama_forward};
