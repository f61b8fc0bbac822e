/* The architectures there are: one line each. Tests: tests/unit/models/test_model.c */
#include "models/gpt2.h"
#include "models/llama.h"

const sp_arch *const sp_archs[] = {
    &sp_arch_llama, &sp_arch_qwen2, &sp_arch_qwen3, &sp_arch_mistral, &sp_arch_phi3, &sp_arch_gpt2, NULL};
