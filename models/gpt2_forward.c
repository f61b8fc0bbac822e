/* The forward pass of gpt2 over one batch of rows; see arch_gpt2.c for the formulas. Buffers lie in the
 * caller's scratch as in llama_forward.c. Tests: tests/golden/test_models.c */
#include <math.h>
#include <string.h>

#include "models/gpt2.h"
#include "models/parts.h"

typedef struct buffers {
    float *x, *normed;           /* (rows, hidden) */
    float *q, *k, *v, *attended; /* (rows, hidden) */
    float *up;                   /* (rows, intermediate) in the place of q .. attended */
    float *last;                 /* (logit rows, hidden) */
} buffers;

static bool lay_out(const sp_hparams *h, size_t rows, size_t logits, uint8_t *base, buffers *b, size_t *bytes)
{
    size_t place = 0;
    bool fits = sp_lay(base, &place, rows, h->hidden, &b->x) &&
                sp_lay(base, &place, rows, h->hidden, &b->normed) &&
                sp_lay(base, &place, logits, h->hidden, &b->last);
    size_t shared = place;
    fits = fits && sp_lay(base, &place, rows, h->hidden, &b->q) &&
           sp_lay(base, &place, rows, h->hidden, &b->k) && sp_lay(base, &place, rows, h->hidden, &b->v) &&
           sp_lay(base, &place, rows, h->hidden, &b->attended);
    fits = fits && sp_lay(base, &shared, rows, h->intermediate, &b->up);
    *bytes = place > shared ? place : shared;
    return fits;
}

bool sp_gpt2_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes)
{
    buffers unused;
    return lay_out(&model->hparams, max_rows, max_logits, NULL, &unused, bytes);
}

static void normalize(const sp_model *model, const sp_gpt2_norm *norm, size_t rows, const float *x, float *y)
{
    const sp_hparams *h = &model->hparams;
    model->device->ops->layer_norm(model->device, rows, h->hidden, h->norm_eps, norm->weight, norm->bias, x,
                                   y);
}

static void last_norm(const sp_model *model, size_t rows, const float *x, float *y)
{
    normalize(model, &((const sp_gpt2 *)model->state)->norm, rows, x, y);
}

static void apply(const sp_model *model, const sp_gpt2_linear *linear, size_t rows, const float *x, float *y)
{
    sp_device *device = model->device;
    device->ops->linear(device, &linear->weight, rows, x, y);
    device->ops->add_bias(device, rows, linear->weight.n_out, linear->bias, y);
}

static sp_status add_positions(const sp_model *model, const sp_batch *batch, buffers *b, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_gpt2 *gpt2 = model->state;
    for (size_t row = 0; row < batch->n_rows; row++) {
        if (batch->positions[row] >= h->context)
            return sp_fail(error, SP_INTERNAL, "position %u of row %zu is not below the context's %u",
                           (unsigned)batch->positions[row], row, (unsigned)h->context);
        sp_table_row(&gpt2->positions, batch->positions[row], b->normed + row * h->hidden);
    }
    model->device->ops->add(model->device, batch->n_rows * h->hidden, b->normed, b->x);
    return SP_OK;
}

static sp_status run_layer(sp_model *model, uint32_t index, const sp_batch *batch, sp_attend_fn attend,
                           void *context, buffers *b, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_gpt2_layer *layer = &((const sp_gpt2 *)model->state)->layers[index];
    sp_device *device = model->device;
    size_t rows = batch->n_rows;
    normalize(model, &layer->attention_norm, rows, b->x, b->normed);
    apply(model, &layer->q, rows, b->normed, b->q);
    apply(model, &layer->k, rows, b->normed, b->k);
    apply(model, &layer->v, rows, b->normed, b->v);
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
    apply(model, &layer->o, rows, b->attended, b->normed);
    device->ops->add(device, rows * h->hidden, b->normed, b->x);

    normalize(model, &layer->mlp_norm, rows, b->x, b->normed);
    apply(model, &layer->up, rows, b->normed, b->up);
    device->ops->gelu(device, rows * h->intermediate, b->up, b->up);
    apply(model, &layer->down, rows, b->up, b->normed);
    device->ops->add(device, rows * h->hidden, b->normed, b->x);
    return SP_OK;
}

sp_status sp_gpt2_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                          void *scratch, float *logits, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_gpt2 *gpt2 = model->state;
    size_t bytes;
    buffers b;
    if (!lay_out(h, batch->n_rows, sp_count_wanted(batch), scratch, &b, &bytes))
        return sp_fail(error, SP_INTERNAL, "a batch of %zu rows does not fit into an address", batch->n_rows);
    uint32_t end = batch->end_layer ? batch->end_layer : h->n_layers;
    size_t numbers = batch->n_rows * h->hidden;
    sp_status status = SP_OK;
    if (batch->first_layer)
        memcpy(b.x, batch->states, numbers * sizeof *b.x);
    else
        status = sp_embed_tokens(model, batch, &gpt2->embed, &gpt2->head, b.x, error);
    if (status == SP_OK && !batch->first_layer) status = add_positions(model, batch, &b, error);
    for (uint32_t i = batch->first_layer; i < end && status == SP_OK; i++)
        status = run_layer(model, i, batch, attend, context, &b, error);
    if (status == SP_OK && end < h->n_layers)
        memcpy(batch->states, b.x, numbers * sizeof *b.x);
    else if (status == SP_OK)
        sp_finish_rows(model, batch, last_norm, &gpt2->head, b.x, b.last, logits);
    return status;
}
