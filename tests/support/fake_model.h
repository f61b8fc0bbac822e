/* A model small enough to step through: two layers of attention over hashed weights, no file behind it. Its
 * logits depend on every earlier token through attend(), so that a foreign or stale key changes what it says.
 * The vocabulary is the first FAKE_VOCAB ids of its tokenizer. */
#ifndef SPARSED_TESTS_SUPPORT_FAKE_MODEL_H
#define SPARSED_TESTS_SUPPORT_FAKE_MODEL_H

#include "models/model.h"

enum { FAKE_VOCAB = 320, FAKE_CONTEXT = 512, FAKE_NAN_TOKEN = 300, FAKE_EOS = 7, FAKE_TOKENIZER_EOS = 0 };

/* A row of FAKE_NAN_TOKEN gives NaN logits. The model owns its device and the tokenizer: read from a folder,
 * or for NULL one of single bytes. */
sp_status fake_model_open(const char *tokenizer, size_t n_threads, sp_model *model, sp_error *error);
void fake_model_close(sp_model *model);
/* The next forward pass fails with SP_NO_MEMORY. */
void fake_model_fail_once(sp_model *model);
/* spend(rows) is called in every forward pass: to let a clock of the test's pass. */
void fake_model_spend(sp_model *model, void (*spend)(size_t n_rows));

#endif
