/* Qwen 2 (Yang et al. 2024; Qwen2ForCausalLM): llama with biases in q, k and v, of which config.json says
 * nothing. sliding_window and max_window_layers mean nothing unless use_sliding_window is true. The embedding
 * may have more rows than the tokenizer has tokens. Tests: tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-6, .qkv_bias = true, .window_is_opt_in = true};

static sp_status configure(sp_model *model, sp_error *error)
{
    return sp_llama_configure(model, &family, error);
}

static sp_status load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error)
{
    return sp_llama_load(model, &family, weights, options, error);
}

static const char *const model_types[] = {"qwen2", NULL};

const sp_arch sp_arch_qwen2 = {.name = "qwen2",
                               .model_types = model_types,
                               .configure = configure,
                               .load = load,
                               .unload = sp_llama_unload,
                               .modules = sp_llama_modules,
                               .scratch = sp_llama_scratch,
                               .forward = sp_llama_forward};
