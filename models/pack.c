/* Packs a matrix for the device, as it is stored or converted first (--weights): to float32 exactly, to bf16
 * by rounding to nearest. A converted copy lives until its panels are made. Tests:
 * tests/unit/models/test_pack.c */
#include "models/model.h"

typedef struct convert_job {
    const sp_tensor *from;
    sp_dtype to;
    size_t row_bytes; /* of from */
    void *out;        /* (shape[0], shape[1]) of type to */
} convert_job;

static void convert_row(void *context, size_t row, size_t worker)
{
    const convert_job *job = context;
    (void)worker;
    size_t n = job->from->shape[1], block = sp_dtype_block(job->from->dtype);
    size_t bytes = sp_dtype_block_bytes(job->from->dtype);
    const uint8_t *in = (const uint8_t *)job->from->data + row * job->row_bytes;
    float values[SP_MAX_BLOCK];
    for (size_t k = 0, piece; k < n; k += piece) {
        piece = n - k < SP_MAX_BLOCK ? n - k : SP_MAX_BLOCK;
        sp_convert_to_f32(job->from->dtype, in + k / block * bytes, values, piece);
        if (job->to == SP_F32) {
            memcpy((float *)job->out + row * n + k, values, piece * sizeof *values);
            continue;
        }
        uint16_t *out = (uint16_t *)job->out + row * n + k;
        for (size_t i = 0; i < piece; i++) out[i] = sp_bf16_from_f32(values[i]);
    }
}

static sp_status pack_converted(const sp_model *model, const sp_tensor *w, sp_dtype to, bool round_rows,
                                sp_matrix *out, sp_error *error)
{
    sp_tensor copy = {.dtype = to, .rank = 2, .shape = {w->shape[0], w->shape[1]}};
    size_t count, row_bytes;
    *out = (sp_matrix){0};
    if (!sp_dtype_bytes(w->dtype, w->shape[1], &row_bytes) ||
        !sp_mul_size(w->shape[0], w->shape[1], &count) ||
        !sp_mul_size(count, sp_dtype_size(to), &copy.bytes) || w->bytes / row_bytes < w->shape[0])
        return sp_fail(error, SP_DATA, "a weight matrix of %zu x %zu does not fit its data", w->shape[0],
                       w->shape[1]);
    void *data = sp_alloc(copy.bytes, 1);
    if (!data)
        return sp_fail(error, SP_NO_MEMORY, "no memory for %zu bytes of converted weights", copy.bytes);
    convert_job job = {.from = w, .to = to, .row_bytes = row_bytes, .out = data};
    sp_threads_run(model->device->threads, w->shape[0], convert_row, &job);
    copy.data = data;
    sp_status status = model->device->ops->pack(model->device, &copy, round_rows, out, error);
    sp_free(data);
    return status;
}

sp_status sp_model_pack(const sp_model *model, const sp_model_options *options, const sp_tensor *w,
                        sp_matrix *out, sp_error *error)
{
    bool round_rows = !options->exact, floats = w->dtype == SP_F32 || w->dtype == SP_F16;
    bool known = floats || w->dtype == SP_BF16 || sp_dtype_is_block(w->dtype);
    if (known && w->rank == 2 && w->shape[0] > 0 && w->shape[1] > 0) {
        if (options->weights_as == SP_WEIGHTS_BF16 && w->dtype != SP_BF16)
            return pack_converted(model, w, SP_BF16, round_rows, out, error);
        if (options->weights_as == SP_WEIGHTS_F32 && !floats)
            return pack_converted(model, w, SP_F32, round_rows, out, error);
    }
    return model->device->ops->pack(model->device, w, round_rows, out, error);
}
