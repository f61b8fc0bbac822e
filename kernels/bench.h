/* Benchmarks of the kernels, for `sparsed bench` and tests/bench: linear layers in the shapes of SmolLM2-135M
 * (30 layers of width 576, 9 heads and 3 KV heads of 64, 1,536 inside, 49,152 tokens), on random weights.
 * Times are wall clock, best of 5. Compare with sp_peak_measure of the same run. Tests:
 * tests/unit/kernels/test_bench.c */
#ifndef SPARSED_KERNELS_BENCH_H
#define SPARSED_KERNELS_BENCH_H

#include "kernels/device.h"
#include "kernels/tensor.h"

typedef struct sp_bench_shape {
    size_t n_in, n_out;
    size_t count; /* how often the model has it */
} sp_bench_shape;
#define SP_BENCH_SHAPES 5
extern const sp_bench_shape sp_bench_shapes[SP_BENCH_SHAPES];

/* n_in as a row of this type can have it: rounded up to whole blocks. */
size_t sp_bench_n_in(sp_dtype dtype, size_t n_in);

/* 10^9 operations a second of one shape on rows rows. dtype SP_F32; SP_BF16: activations rounded, by bf16 dot
 * products where the CPU has them; or a block type (n_in whole blocks): activations rounded to int8.
 * SP_NO_MEMORY, SP_DATA for other types. */
sp_status sp_bench_linear_shape(sp_device *device, sp_dtype dtype, size_t n_in, size_t n_out, size_t rows,
                                double *gflops, sp_error *error) SP_MUST_CHECK;

/* The whole model's linear layers: all shapes, each weighted by its count: operations over seconds. */
sp_status sp_bench_linear(sp_device *device, sp_dtype dtype, size_t rows, double *gflops,
                          sp_error *error) SP_MUST_CHECK;

/* Decoding: 8 layers (30 of block types) and the output layer in the model's order, rows rows, weights too
 * large for caches: 10^9 bytes of weights read a second. */
sp_status sp_bench_decode(sp_device *device, sp_dtype dtype, size_t rows, double *gbps,
                          sp_error *error) SP_MUST_CHECK;

#endif
