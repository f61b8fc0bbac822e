/* The forward pass of llama and its relatives (llama.h) over one batch of rows; see arch_llama.c for the
 * formulas.
 *
 * All buffers lie in the caller's scratch, laid out by one function that also counts the bytes. The rows of
 * queries and keys share their place with the rows of the feed-forward part, which are never alive together.
 * Only rows whose logits are wanted pass the last norm and the output matrix, or all rows the norm where
 * hidden states are wanted. Tests: tests/golden/test_models.c, tests/unit/models/test_model.c */
#include <math.h>
#include <string.h>

#include "models/llama.h"
#include "models/parts.h"

typedef struct buffers {
    float *x, *normed;           /* (rows, hidden) */
    float *cos, *sin;            /* (rows, head_dim / 2) */
    float *q, *k, *v, *attended; /* (rows, n_heads * head_dim), (rows, n_kv_heads * head_dim) twice, as q */
    float *gate, *up;            /* (rows, intermediate) in the place of q .. attended */
    float *last;                 /* (logit rows, hidden) */
    sp_adapt adapt;
} buffers;

static bool lay_out(const sp_model *model, size_t rows, size_t logits, uint8_t *base, buffers *b,
                    size_t *bytes)
{
    const sp_hparams *h = &model->hparams;
    size_t place = 0, wide = (size_t)h->n_heads * h->head_dim, narrow = (size_t)h->n_kv_heads * h->head_dim;
    bool fits = sp_lay(base, &place, rows, h->hidden, &b->x) &&
                sp_lay(base, &place, rows, h->hidden, &b->normed) &&
                sp_lay(base, &place, rows, h->head_dim / 2, &b->cos) &&
                sp_lay(base, &place, rows, h->head_dim / 2, &b->sin) &&
                sp_lay(base, &place, logits, h->hidden, &b->last);
    size_t width = h->hidden > h->intermediate ? h->hidden : h->intermediate;
    fits = fits && sp_adapt_lay(model, base, &place, rows, width > wide ? width : wide, &b->adapt);
    size_t shared = place;
    fits = fits && sp_lay(base, &place, rows, wide, &b->q) && sp_lay(base, &place, rows, narrow, &b->k) &&
           sp_lay(base, &place, rows, narrow, &b->v) && sp_lay(base, &place, rows, wide, &b->attended);
    fits = fits && sp_lay(base, &shared, rows, h->intermediate, &b->gate) &&
           sp_lay(base, &shared, rows, h->intermediate, &b->up);
    *bytes = place > shared ? place : shared;
    return fits;
}

bool sp_llama_scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes)
{
    buffers unused;
    return lay_out(model, max_rows, max_logits, NULL, &unused, bytes);
}

/* q, k and v of the normalized rows, not rotated yet. */
static void project(sp_model *model, uint32_t index, size_t rows, buffers *b)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama_layer *layer = &((const sp_llama *)model->state)->layers[index];
    sp_device *device = model->device;
    const sp_ops *ops = device->ops;
    size_t wide = (size_t)h->n_heads * h->head_dim, narrow = (size_t)h->n_kv_heads * h->head_dim;
    const sp_matrix *const matrices[] = {&layer->q, &layer->k, &layer->v};
    float *const out[] = {b->q, b->k, b->v};
    ops->linear_many(device, 3, matrices, rows, b->normed, out);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_Q, b->normed, b->q);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_K, b->normed, b->k);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_V, b->normed, b->v);
    if (layer->q_bias) ops->add_bias(device, rows, wide, layer->q_bias, b->q);
    if (layer->k_bias) ops->add_bias(device, rows, narrow, layer->k_bias, b->k);
    if (layer->v_bias) ops->add_bias(device, rows, narrow, layer->v_bias, b->v);
    if (layer->q_norm)
        ops->rms_norm(device, rows * h->n_heads, h->head_dim, h->norm_eps, layer->q_norm, b->q, b->q);
    if (layer->k_norm)
        ops->rms_norm(device, rows * h->n_kv_heads, h->head_dim, h->norm_eps, layer->k_norm, b->k, b->k);
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
    project(model, index, rows, b);
    if (batch->plain_q) {
        memcpy(batch->plain_q, b->q, rows * h->n_heads * h->head_dim * sizeof *b->q);
        memcpy(batch->plain_k, b->k, rows * h->n_kv_heads * h->head_dim * sizeof *b->k);
    }
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
    sp_adapt_add(&b->adapt, index, SP_LLAMA_O, b->attended, b->normed);
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
    const sp_matrix *const matrices[] = {&layer->gate, &layer->up};
    float *const out[] = {b->gate, b->up};
    ops->linear_many(device, 2, matrices, rows, b->normed, out);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_GATE, b->normed, b->gate);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_UP, b->normed, b->up);
    ops->silu_mul(device, rows * h->intermediate, b->gate, b->up, b->gate);
    ops->linear(device, &layer->down, rows, b->gate, b->normed);
    sp_adapt_add(&b->adapt, index, SP_LLAMA_DOWN, b->gate, b->normed);
    ops->add(device, rows * h->hidden, b->normed, b->x);
}

static void last_norm(const sp_model *model, size_t rows, const float *x, float *y)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama *llama = model->state;
    model->device->ops->rms_norm(model->device, rows, h->hidden, h->norm_eps, llama->norm, x, y);
}

sp_status sp_llama_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    const sp_llama *llama = model->state;
    size_t rows = batch->n_rows, bytes;
    buffers b;
    if (!lay_out(model, rows, sp_count_wanted(batch), scratch, &b, &bytes))
        return sp_fail(error, SP_INTERNAL, "a batch of %zu rows does not fit into an address", rows);
    uint32_t end = batch->end_layer ? batch->end_layer : h->n_layers;
    sp_status status = SP_OK;
    if (batch->first_layer)
        memcpy(b.x, batch->states, rows * h->hidden * sizeof *b.x);
    else
        status = sp_embed_tokens(model, batch, &llama->embed, &llama->head, b.x, error);
    if (status != SP_OK) return status;
    sp_adapt_begin(&b.adapt, batch);
    sp_rope_fill(model->rope, rows, batch->positions, batch->lengths, b.cos, b.sin);
    for (uint32_t i = batch->first_layer; i < end; i++) {
        status = attend_layer(model, i, batch, attend, context, &b, error);
        if (status != SP_OK) return status;
        feed_forward(model, i, rows, &b);
    }
    if (end < h->n_layers)
        memcpy(batch->states, b.x, rows * h->hidden * sizeof *b.x);
    else
        sp_finish_rows(model, batch, last_norm, &llama->head, b.x, b.last, logits);
    return SP_OK;
}
