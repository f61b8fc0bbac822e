/* See parts.h. */
#include "models/parts.h"

#include <string.h>

bool sp_lay(uint8_t *base, size_t *place, size_t rows, size_t columns, float **out)
{
    size_t count, bytes, end;
    if (!sp_mul_size(rows, columns, &count) || !sp_mul_size(count, sizeof(float), &bytes)) return false;
    if (!sp_add_size(*place, bytes, &end)) return false;
    *out = base ? (float *)(void *)(base + *place) : NULL;
    return sp_align_size(end, SP_ALIGNMENT, place);
}

sp_status sp_embed_tokens(const sp_model *model, const sp_batch *batch, const sp_table *table,
                          const sp_matrix *tied, float *x, sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    for (size_t row = 0; row < batch->n_rows; row++, x += h->hidden) {
        int32_t token = batch->tokens[row];
        if (token < 0 || (uint32_t)token >= h->vocab)
            return sp_fail(error, SP_INTERNAL, "token %d of row %zu is not below the vocabulary's %u",
                           (int)token, row, (unsigned)h->vocab);
        if (table->rows)
            sp_table_row(table, (size_t)token, x);
        else
            model->device->ops->widen_row(tied, (size_t)token, x);
    }
    return SP_OK;
}

size_t sp_count_wanted(const sp_batch *batch)
{
    size_t wanted = 0;
    for (size_t row = 0; row < batch->n_rows; row++) wanted += batch->wants_logits[row] != 0;
    return wanted;
}

void sp_finish_rows(const sp_model *model, const sp_batch *batch, sp_last_norm_fn norm, const sp_matrix *head,
                    const float *x, float *last, float *logits)
{
    size_t hidden = model->hparams.hidden, wanted = 0;
    if (batch->hidden) norm(model, batch->n_rows, x, batch->hidden);
    for (size_t row = 0; row < batch->n_rows; row++)
        if (batch->wants_logits[row])
            memcpy(last + wanted++ * hidden, x + row * hidden, hidden * sizeof *last);
    if (wanted == 0) return;
    norm(model, wanted, last, last);
    model->device->ops->linear(model->device, head, wanted, last, logits);
}
