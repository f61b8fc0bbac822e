/* Benchmarks of linear layers (bench.h). A case owns its weights and activations; weights are packed from one
 * random row-major tensor, which is freed before the clock starts. */
#include "kernels/bench.h"
#include "kernels/ops.h"

#include <math.h>

#define REPEATS 5
#define DECODE_LAYERS 8 /* 30 of block types, so that they exceed caches too */
#define MOST_LAYERS 30
#define LAYER_MATRICES 7

size_t sp_bench_n_in(sp_dtype dtype, size_t n_in)
{
    size_t block = sp_dtype_block(dtype);
    return (n_in + block - 1) / block * block;
}

const sp_bench_shape sp_bench_shapes[SP_BENCH_SHAPES] = {
    {576, 576, 60}, {576, 192, 60}, {576, 1536, 60}, {1536, 576, 30}, {576, 49152, 1},
};

/* Uniform in [-1, 1), never denormal. */
static float next_number(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)((uint32_t)(*seed >> 32) | 256u) * 0x1p-31f;
}

static sp_status no_memory(sp_error *error)
{
    return sp_fail(error, SP_NO_MEMORY, "no memory for the benchmark's matrices");
}

static float *random_numbers(size_t n, uint64_t seed)
{
    float *x = sp_alloc(n, sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = next_number(&seed);
    return x;
}

/* Random bytes with scales (and minimums) of 2^-6. */
static void fill_blocks(sp_dtype dtype, uint8_t *data, size_t bytes, uint64_t *seed)
{
    for (size_t i = 0; i < bytes; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        data[i] = (uint8_t)(*seed >> 56);
    }
    const uint16_t half = 0x2400;
    for (size_t at = 0; at < bytes; at += sp_dtype_block_bytes(dtype)) {
        memcpy(data + at + (dtype == SP_Q6_K ? 208 : 0), &half, sizeof half);
        if (sp_block_has_mins(dtype)) memcpy(data + at + 2, &half, sizeof half);
    }
}

static sp_status random_matrix(sp_device *device, sp_dtype dtype, size_t n_in, size_t n_out, sp_matrix *out,
                               sp_error *error)
{
    size_t count = n_in * n_out;
    uint64_t seed = count;
    *out = (sp_matrix){0};
    sp_tensor tensor = {.dtype = dtype, .rank = 2, .shape = {n_out, n_in}};
    if ((dtype != SP_F32 && dtype != SP_BF16 && !sp_dtype_is_block(dtype)) ||
        !sp_dtype_bytes(dtype, count, &tensor.bytes)) {
        return sp_fail(error, SP_DATA, "there is no benchmark for weights of type %s", sp_dtype_name(dtype));
    }
    void *data = sp_alloc(tensor.bytes, 1);
    if (!data) return no_memory(error);
    if (sp_dtype_is_block(dtype)) fill_blocks(dtype, data, tensor.bytes, &seed);
    for (size_t i = 0; i < count && !sp_dtype_is_block(dtype); i++) {
        float value = next_number(&seed);
        if (dtype == SP_F32) {
            ((float *)data)[i] = value;
        } else {
            ((uint16_t *)data)[i] = sp_bf16_from_f32(value);
        }
    }
    tensor.data = data;
    sp_status status = device->ops->pack(device, &tensor, true, out, error);
    sp_free(data);
    return status;
}

/* Best seconds of one product. Short ones repeat within a measurement until it lasts a few milliseconds. */
static double best_seconds(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y)
{
    double best = INFINITY;
    size_t times = 1;
    for (int i = 0; i < REPEATS; i++) {
        double start = sp_now();
        for (size_t t = 0; t < times; t++) device->ops->linear(device, w, rows, x, y);
        double seconds = (sp_now() - start) / (double)times;
        if (i == 0 && seconds < 4e-3) times = (size_t)(4e-3 / (seconds + 1e-7)) + 1;
        best = fmin(best, seconds);
    }
    return best;
}

static sp_status shape_seconds(sp_device *device, sp_dtype dtype, size_t n_in, size_t n_out, size_t rows,
                               double *seconds, sp_error *error)
{
    sp_matrix w;
    sp_status status = random_matrix(device, dtype, n_in, n_out, &w, error);
    if (status != SP_OK) return status;
    float *x = random_numbers(rows * n_in, 1), *y = sp_alloc_zero(rows * n_out, sizeof *y);
    if (x && y) {
        *seconds = best_seconds(device, &w, rows, x, y);
    } else {
        status = no_memory(error);
    }
    sp_free(x);
    sp_free(y);
    sp_matrix_fini(&w);
    return status;
}

sp_status sp_bench_linear_shape(sp_device *device, sp_dtype dtype, size_t n_in, size_t n_out, size_t rows,
                                double *gflops, sp_error *error)
{
    double seconds = 0;
    *gflops = 0;
    sp_status status = shape_seconds(device, dtype, n_in, n_out, rows, &seconds, error);
    if (status == SP_OK) *gflops = 2e-9 * (double)rows * (double)n_in * (double)n_out / seconds;
    return status;
}

sp_status sp_bench_linear(sp_device *device, sp_dtype dtype, size_t rows, double *gflops, sp_error *error)
{
    double total = 0, operations = 0;
    *gflops = 0;
    for (size_t i = 0; i < SP_BENCH_SHAPES; i++) {
        const sp_bench_shape *shape = &sp_bench_shapes[i];
        size_t n_in = sp_bench_n_in(dtype, shape->n_in);
        double seconds = 0;
        sp_status status = shape_seconds(device, dtype, n_in, shape->n_out, rows, &seconds, error);
        if (status != SP_OK) return status;
        total += seconds * (double)shape->count;
        operations += 2.0 * (double)rows * (double)n_in * (double)shape->n_out * (double)shape->count;
    }
    *gflops = operations / total * 1e-9;
    return SP_OK;
}

static const size_t layer_shapes[LAYER_MATRICES][2] = {
    {576, 576}, {576, 192}, {576, 192}, {576, 576}, {576, 1536}, {576, 1536}, {1536, 576},
};

sp_status sp_bench_decode(sp_device *device, sp_dtype dtype, size_t rows, double *gbps, sp_error *error)
{
    sp_matrix w[MOST_LAYERS * LAYER_MATRICES + 1] = {0};
    const size_t n = (sp_dtype_is_block(dtype) ? MOST_LAYERS : DECODE_LAYERS) * LAYER_MATRICES + 1;
    sp_status status = random_matrix(device, dtype, sp_bench_n_in(dtype, 576), 49152, &w[n - 1], error);
    double bytes = (double)w[n - 1].bytes;
    for (size_t i = 0; i + 1 < n && status == SP_OK; i++) {
        const size_t *shape = layer_shapes[i % LAYER_MATRICES];
        status = random_matrix(device, dtype, sp_bench_n_in(dtype, shape[0]), shape[1], &w[i], error);
        bytes += (double)w[i].bytes;
    }
    float *x = random_numbers(rows * 1536, 2), *y = sp_alloc_zero(rows * 49152, sizeof *y);
    if (status == SP_OK && (!x || !y)) status = no_memory(error);
    *gbps = 0;
    for (int repeat = 0; repeat < REPEATS && status == SP_OK; repeat++) {
        double start = sp_now();
        for (size_t i = 0; i < n; i++) device->ops->linear(device, &w[i], rows, x, y);
        *gbps = fmax(*gbps, bytes / (sp_now() - start) * 1e-9);
    }
    for (size_t i = 0; i < n; i++) sp_matrix_fini(&w[i]);
    sp_free(x);
    sp_free(y);
    return status;
}
