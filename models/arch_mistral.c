/* Mistral (Jiang et al. 2023; MistralForCausalLM): llama with a sliding window, which is served where it is
 * absent, null or at least as long as the context, and refused where it is shorter. Tests:
 * tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-6};

static sp_status configure(sp_model *model, sp_error *error)
{
    return sp_llama_configure(model, &family, error);
}

static sp_status load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error)
{
    return sp_llama_load(model, &family, weights, options, error);
}

static const char *const model_types[] = {"mistral", NULL};

const sp_arch sp_arch_mistral = {.name = "mistral",
                                 .model_types = model_types,
                                 .configure = configure,
                                 .load = load,
                                 .unload = sp_llama_unload,
                                 .modules = sp_llama_modules,
                                 .scratch = sp_llama_scratch,
                                 .forward = sp_llama_forward};
