/* The door to OpenBLAS: linear layers by one sgemm over plain float32 weights, for --gemm openblas and as a
 * peer in the benchmarks. Its bits depend on the number of rows and on a row's place
 * (sp_device.batch_invariant is false). OpenBLAS has a worker pool of its own, which sleeps unless a device
 * asks for it. Tests: tests/kernels/test_linear.c */
#include "kernels/cpu/cpu.h"

#include <cblas.h>
#include <limits.h>

/* OpenBLAS has one pool for the process: as many threads as this device's. */
static void use_threads(const sp_device *device)
{
    size_t count = sp_threads_count(device->threads);
    int n = count < 256 ? (int)count : 256;
    if (openblas_get_num_threads() != n) openblas_set_num_threads(n);
}

sp_status sp_openblas_pack(sp_device *device, const sp_tensor *w, bool round_rows, sp_matrix *out,
                           sp_error *error)
{
    (void)device;
    (void)round_rows;
    *out = (sp_matrix){0};
    if (w->rank != 2 || w->shape[0] == 0 || w->shape[1] == 0 || w->shape[0] > INT_MAX ||
        w->shape[1] > INT_MAX) {
        return sp_fail(error, SP_DATA, "a weight matrix must have two dimensions between 1 and %d", INT_MAX);
    }
    size_t count = sp_tensor_count(w);
    float *data = sp_alloc(count, sizeof *data);
    if (!data) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu weights", count);
    if (!sp_convert_to_f32(w->dtype, w->data, data, count)) {
        sp_free(data);
        return sp_fail(error, SP_DATA, "weights of type %s are not supported", sp_dtype_name(w->dtype));
    }
    *out = (sp_matrix){.n_out = w->shape[0],
                       .n_in = w->shape[1],
                       .dtype = SP_F32,
                       .data = data,
                       .bytes = count * sizeof *data};
    return SP_OK;
}

void sp_openblas_widen_row(const sp_matrix *w, size_t row, float *out)
{
    memcpy(out, (const float *)w->data + row * w->n_in, w->n_in * sizeof *out);
}

void sp_openblas_linear(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y)
{
    const size_t most = 1 << 20;
    use_threads(device);
    for (size_t row = 0; row < rows; row += most) {
        size_t n = rows - row < most ? rows - row : most;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)w->n_out, (int)w->n_in, 1.0f,
                    x + row * w->n_in, (int)w->n_in, w->data, (int)w->n_in, 0.0f, y + row * w->n_out,
                    (int)w->n_out);
    }
}

void sp_openblas_linear_many(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows,
                             const float *x, float *const *y)
{
    for (size_t i = 0; i < n; i++) sp_openblas_linear(device, w[i], rows, x, y[i]);
}
