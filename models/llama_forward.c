/* The forward pass of llama over one batch of rows; see arch_llama.c for the formulas.
 *
 * All buffers lie in the caller's scratch, laid out by one function that also counts the bytes. The rows of
 * queries and keys share their place with the rows of the feed-forward part, which are never alive together.
 * Rotary angles are made in double and rounded once: in float32 an angle at position 300 has lost five
 * digits. Only rows whose logits are wanted pass the last norm and the output matrix. Tests:
 * tests/golden/test_models.c, tests/unit/models/test_model.c */
#include <math.h>
#include <string.h>

#include "models/llama.h"

typedef struct buffers {
    float *x, *normed;           /* (rows, hidden) */
    float *cos, *sin;            /* (rows, head_dim / 2) */
    float *q, *k, *v, *attended; /* (rows, n_heads * head_dim), (rows, n_kv_heads * head_dim) twice, as q */
    float *gate, *up;            /* (rows, intermediate) in the place of q .. attended */
    float *last;                 /* (logit rows, hidden) */
} buffers;

/* Gives out rows x columns floats behind *place; false on overflow. base NULL: only counts. */
static bool lay(uint8_t *base, size_t *place, size_t rows, size_t columns, float **out)
{
    size_t count, bytes, end;
    if (!sp_mul_size(rows, columns, &count) || !sp_mul_size(count, sizeof(float), &bytes)) return false;
    if (!sp_add_size(*place, bytes, &end)) return false;
    *out = base ? (float *)(void *)(base + *place) : NULL;
    return sp_align_size(end, SP_ALIGNMENT, place);
}

static bool lay_out(const sp_hparams *h, size_t rows, size_t logits, uint8_t *base, buffers *b, size_t *bytes)
{
    size_t place = 0, wide = (size_t)h->n_heads * h->head_dim, narrow = (size_t)h->n_kv_heads * h->head_dim;
    bool fits = lay(base, &place, rows, h->hidden, &b->x) && lay(base, &place, rows, h->hidden, &b->normed) &&
                lay(base, &place, rows, h->head_dim / 2, &b->cos) &&
                lay(base, &place, rows, h->head_dim / 2, &b->sin) &&
                lay(base, &place, logits, h->hidden, &b->last);
    size_t shared = place;
    fits = fits && lay(base, &place, rows, wide, &b->q) && lay(base, &place, rows, narrow, &b->k) &&
           lay(base, &place, rows, narrow, &b->v) && lay(base, &place, rows, wide, &b->attended);
    fits = fits && lay(base, &shared, rows, h->intermediate, &b->gate) &&
           lay(base, &shared, rows, h->intermediate, &b->up);
    *bytes = place > shared ? place : shared;
    return fits;
}

bool sp_llama_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes)
{
    buffers unused;
    return lay_out(&model->hparams, max_rows, max_logits, NULL, &unused, bytes);
}

/* Row of the embedding: as stored, or, tied, out of the output matrix. */
static void embed_row(const sp_model *model, size_t token, float *out)
{
    const sp_llama *llama = model->state;
    size_t hidden = model->hparams.hidden, row_bytes;
    if (llama->embed && sp_dtype_bytes(llama->embed_type, hidden, &row_bytes)) {
        sp_convert_to_f32(llama->embed_type, (const uint8_t *)llama->embed + token * row_bytes, out, hidden);
    } else {
        model->device->ops->widen_row(&llama->head, token, out);
    }
}

static sp_status embed(const sp_model *model, const sp_batch *batch, float *x, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    for (size_t row = 0; row < batch->n_rows; row++) {
        int32_t token = batch->tokens[row];
        if (token < 0 || (uint32_t)token >= h->vocab)
            return sp_fail(error, SP_INTERNAL, "token %d of row %zu is not below the vocabulary's %u",
                           (int)token, row, (unsigned)h->vocab);
        embed_row(model, (size_t)token, x + row * h->hidden);
    }
    return SP_OK;
}

static void fill_angles(const sp_model *model, const sp_batch *batch, float *cosines, float *sines)
{
    const sp_llama *llama = model->state;
    size_t half = model->hparams.head_dim / 2;
    for (size_t row = 0; row < batch->n_rows; row++)
        for (size_t i = 0; i < half; i++) {
            double angle = batch->positions[row] * llama->frequencies[i];
            cosines[row * half + i] = (float)cos(angle);
            sines[row * half + i] = (float)sin(angle);
        }
}

static sp_status attend_layer(sp_model *model, uint32_t index, const sp_batch *batch, sp_attend_fn attend,
                              void *context, buffers *b, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama_layer *layer = &((const sp_llama *)model->state)->layers[index];
    sp_device *device = model->device;
    const sp_ops *ops = device->ops;
    size_t rows = batch->n_rows;
    ops->rms_norm(device, rows, h->hidden, h->norm_eps, layer->attention_norm, b->x, b->normed);
    ops->linear(device, &layer->q, rows, b->normed, b->q);
    ops->linear(device, &layer->k, rows, b->normed, b->k);
    ops->linear(device, &layer->v, rows, b->normed, b->v);
    ops->rope(device, rows, h->n_heads, h->head_dim, b->cos, b->sin, b->q);
    ops->rope(device, rows, h->n_kv_heads, h->head_dim, b->cos, b->sin, b->k);
    const sp_attend_call call = {.kind = SP_ATTEND_SELF,
                                 .layer = index,
                                 .batch = batch,
                                 .q = b->q,
                                 .k = b->k,
                                 .v = b->v,
                                 .scale = (float)(1.0 / sqrt((double)h->head_dim)),
                                 .out = b->attended};
    sp_status status = attend(context, &call, error);
    if (status != SP_OK) return status;
    ops->linear(device, &layer->o, rows, b->attended, b->normed);
    ops->add(device, rows * h->hidden, b->normed, b->x);
    return SP_OK;
}

static void feed_forward(sp_model *model, uint32_t index, size_t rows, buffers *b)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama_layer *layer = &((const sp_llama *)model->state)->layers[index];
    sp_device *device = model->device;
    const sp_ops *ops = device->ops;
    ops->rms_norm(device, rows, h->hidden, h->norm_eps, layer->mlp_norm, b->x, b->normed);
    ops->linear(device, &layer->gate, rows, b->normed, b->gate);
    ops->linear(device, &layer->up, rows, b->normed, b->up);
    ops->silu_mul(device, rows * h->intermediate, b->gate, b->up, b->gate);
    ops->linear(device, &layer->down, rows, b->gate, b->normed);
    ops->add(device, rows * h->hidden, b->normed, b->x);
}

sp_status sp_llama_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama *llama = model->state;
    sp_device *device = model->device;
    size_t rows = batch->n_rows, wanted = 0, bytes;
    buffers b;
    for (size_t row = 0; row < rows; row++) wanted += batch->wants_logits[row] != 0;
    if (!lay_out(h, rows, wanted, scratch, &b, &bytes))
        return sp_fail(error, SP_INTERNAL, "a batch of %zu rows does not fit into an address", rows);
    sp_status status = embed(model, batch, b.x, error);
    if (status != SP_OK) return status;
    fill_angles(model, batch, b.cos, b.sin);
    for (uint32_t i = 0; i < h->n_layers; i++) {
        status = attend_layer(model, i, batch, attend, context, &b, error);
        if (status != SP_OK) return status;
        feed_forward(model, i, rows, &b);
    }
    if (wanted == 0) return SP_OK;
    float *last = b.last;
    for (size_t row = 0; row < rows; row++)
        if (batch->wants_logits[row]) {
            memcpy(last, b.x + row * h->hidden, h->hidden * sizeof *last);
            last += h->hidden;
        }
    device->ops->rms_norm(device, wanted, h->hidden, h->norm_eps, llama->norm, b.last, b.last);
    device->ops->linear(device, &llama->head, wanted, b.last, logits);
    return SP_OK;
}
