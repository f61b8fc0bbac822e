/* The text of a fit: files joined, tokenized, cut into windows of one length.
 *
 * Each file is tokenized alone and their tokens follow each other. A model whose tokenizer puts a begin of
 * sequence before every text gets one at the start of every window, as its prompts have. With fewer windows
 * wanted than the text holds, those taken lie evenly over it. Tests: tests/unit/engine/test_fit_parts.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_TEXT_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_TEXT_H

#include "models/tokenizer.h"

typedef struct sp_fit_text {
    int32_t *ids; /* (n_windows, length) */
    size_t n_windows;
    uint32_t length;
    char sha256[65]; /* hex, of the files' bytes one after another */
} sp_fit_text;

/* max_tokens 0: all. SP_NOT_FOUND, SP_DATA where the files hold no two windows, SP_NO_MEMORY. */
sp_status sp_fit_text_open(const sp_tokenizer *tokenizer, const char *const *paths, size_t n_paths,
                           uint32_t length, size_t max_tokens, sp_fit_text *out,
                           sp_error *error) SP_MUST_CHECK;
void sp_fit_text_close(sp_fit_text *text);

#endif
