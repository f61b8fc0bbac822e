/* The architectures there are: one line each. Tests: tests/unit/models/test_model.c */
#include "models/llama.h"

const sp_arch *const sp_archs[] = {&sp_arch_llama, NULL};
