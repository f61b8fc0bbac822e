/* Qwen 3 (Yang et al. 2025; Qwen3ForCausalLM): llama whose heads of q and k are normalized over head_dim, by
 * one weight for all heads of a layer, before they are rotated. sliding_window means nothing unless
 * use_sliding_window is true. Tests: tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-6, .qk_norm = true, .window_is_opt_in = true};

const sp_arch sp_arch_qwen3 = SP_LLAMA_ARCH("qwen3", &family);
