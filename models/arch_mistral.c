/* Mistral (Jiang et al. 2023; MistralForCausalLM): llama with a sliding window, which is served where it is
 * absent, null or at least as long as the context, and refused where it is shorter. Tests:
 * tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-6};

const sp_arch sp_arch_mistral = SP_LLAMA_ARCH("mistral", &family);
