/* Phi-3 (Abdin et al. 2024; Phi3ForCausalLM): llama whose q, k, v and gate, up are stored as one matrix each,
 * with longrope for long contexts (rope.h). A sliding_window shorter than the context and a
 * partial_rotary_factor below 1 are refused. Tests: tests/golden/test_models.c,
 * tests/unit/models/test_families.c */
#include "models/llama.h"

static const sp_llama_family family = {.epsilon = 1e-5, .fused = true};

const sp_arch sp_arch_phi3 = SP_LLAMA_ARCH("phi3", &family);
