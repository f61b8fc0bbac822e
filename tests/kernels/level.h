/* The CPU device at one level of instructions, for tests that go through all that this machine has. */
#ifndef SPARSED_TESTS_KERNELS_LEVEL_H
#define SPARSED_TESTS_KERNELS_LEVEL_H

#include "tests/support/test.h"

#include "kernels/cpu/cpu.h"

/* The caller closes it with sp_device_close. */
static inline sp_device *open_level(sp_cpu_isa level, size_t threads)
{
    sp_device_options options = {.n_threads = threads};
    sp_device *device = NULL;
    sp_error error;
    assert_ok(sp_cpu_open_level(&options, level, &device, &error), error);
    return device;
}

#endif
