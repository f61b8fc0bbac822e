/* Qwen 2 (Yang et al. 2024; Qwen2ForCausalLM): llama with biases in q, k and v, of which config.json says
 * nothing. sliding_window and max_window_layers mean nothing unless use_sliding_window is true. The embedding
 * may have more rows than the tokenizer has tokens. Tests: tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-6, .qkv_bias = true, .window_is_opt_in = true};

const sp_arch sp_arch_qwen2 = SP_LLAMA_ARCH("qwen2", &family);
