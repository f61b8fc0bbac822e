/* Private to models/: pieces that every forward pass of a decoder has: laying out scratch, embedding tokens,
 * and the end (last norm, hidden states, logits). Tests: tests/golden/test_models.c,
 * tests/unit/models/test_model.c */
#ifndef SPARSED_MODELS_PARTS_H
#define SPARSED_MODELS_PARTS_H

#include "models/loading.h"

/* Gives out rows x columns floats behind *place and moves *place on; false on overflow. base NULL: only
 * counts. */
bool sp_lay(uint8_t *base, size_t *place, size_t rows, size_t columns, float **out);

/* Rows of the embedding for the batch's tokens: out of table, or, when its rows are NULL, out of the output
 * matrix. x (n_rows, hidden). SP_INTERNAL for a token beyond the vocabulary. */
sp_status sp_embed_tokens(const sp_model *model, const sp_batch *batch, const sp_table *table,
                          const sp_matrix *tied, float *x, sp_error *error) SP_MUST_CHECK;

/* x (n_rows, hidden) from the last layer, to be normalized by norm(model, rows, x, y); last (logit rows,
 * hidden) is scratch; head (vocab, hidden). Writes logits of the rows that want them, and batch->hidden if
 * asked. */
typedef void (*sp_last_norm_fn)(const sp_model *model, size_t rows, const float *x, float *y);
void sp_finish_rows(const sp_model *model, const sp_batch *batch, sp_last_norm_fn norm, const sp_matrix *head,
                    const float *x, float *last, float *logits);
size_t sp_count_wanted(const sp_batch *batch);

#endif
