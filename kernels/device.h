/* Devices: where tensors live and who computes on them. A kind (cpu; later cuda) is a const vtable; an
 * instance holds the worker pool, the CPU level, scratch. Models and engine reach kernels only through
 * device->ops (ops.h). Tests: tests/unit/kernels/test_device.c */
#ifndef SPARSED_KERNELS_DEVICE_H
#define SPARSED_KERNELS_DEVICE_H

#include "kernels/base.h"
#include "kernels/threads.h"

typedef struct sp_device sp_device;
typedef struct sp_ops sp_ops;

typedef struct sp_device_options {
    size_t n_threads;      /* 0: all CPUs */
    size_t attend_scratch; /* bytes; 0: 64 MiB. Bounds what one attend call may hold */
    bool openblas; /* linear layers by OpenBLAS: faster in places, bits depend on the number of rows */
} sp_device_options;

typedef struct sp_device_kind {
    const char *name;
    sp_status (*open)(const sp_device_options *options, sp_device **out, sp_error *error);
    void (*close)(sp_device *device);
} sp_device_kind;

struct sp_device {
    const sp_device_kind *kind;
    const sp_ops *ops;
    sp_threads *threads;
    const char *level;    /* "reference", "avx2", "avx512", "avx512vnni", "avx512bf16" */
    bool has_bf16;        /* bf16 dot products in hardware */
    bool batch_invariant; /* false under openblas */
    size_t attend_scratch;
    const struct sp_train_ops *train; /* loops of fitting: kernels/train.h */
    void *state;                      /* the kind's own */
};

extern const sp_device_kind sp_cpu_kind;

/* name "cpu"; options NULL: defaults. SPARSED_CPU=reference|avx2|avx512|avx512vnni in the environment forces
 * a lower level. */
sp_status sp_device_open(const char *name, const sp_device_options *options, sp_device **out,
                         sp_error *error) SP_MUST_CHECK;
void sp_device_close(sp_device *device);

#endif
