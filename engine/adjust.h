/* What a request does to logits before a token is drawn: biases, penalties, and no end before min_tokens.
 *
 * In this order, for a token that the prompt or the answer holds, written w times in the answer:
 *   l = l > 0 ? l / repetition : l * repetition     (Keskar et al., "CTRL", arXiv 1909.05858, 4.1)
 *   l = l - frequency * w - presence * [w > 0]      (the OpenAI API's definition)
 *   l = l + bias, and -infinity for tokens that would end the text while fewer than min_tokens are written.
 * Only logits of tokens that are noted here change, and they are put back afterwards; so the work follows the
 * length of the text, not the vocabulary. All memory is taken at open. Owner: the sequence. Tests:
 * tests/unit/engine/test_adjust.c */
#ifndef SPARSED_ENGINE_ADJUST_H
#define SPARSED_ENGINE_ADJUST_H

#include "engine/engine.h"

typedef struct sp_adjust_entry {
    int32_t token;
    uint32_t written; /* times in the answer */
    bool seen;        /* in prompt or answer */
    bool ends;        /* would end the text */
    float bias, raw;  /* raw: the logit before apply */
} sp_adjust_entry;

typedef struct sp_adjust {
    sp_adjust_entry *entries; /* (capacity) */
    uint32_t *index;          /* (index_size, a power of two) 1 + number of the entry; 0: free */
    uint32_t n, capacity, index_size, n_written, min_tokens;
    double presence, frequency, repetition;
} sp_adjust;

/* Whether the request needs any of this; if not, nothing is to be opened. */
bool sp_adjust_wanted(const sp_request *request);
/* ids (n_ids): the prompt; ends (n_ends): tokens that end the text. SP_INVALID names logit_bias; a token
 * beyond the vocabulary is one. SP_NO_MEMORY. */
sp_status sp_adjust_open(sp_adjust *adjust, const sp_request *request, const int32_t *ids, size_t n_ids,
                         const int32_t *ends, size_t n_ends, uint32_t n_vocab, sp_error *error) SP_MUST_CHECK;
void sp_adjust_close(sp_adjust *adjust);
/* Bytes that open takes for a text of n tokens, biases and ends included. */
size_t sp_adjust_bytes(size_t n_tokens);

/* Notes a token of the answer. */
void sp_adjust_note(sp_adjust *adjust, int32_t token);
/* Changes the logits (n_vocab); undo puts back what apply found. The entries' raw values belong to the pair,
 * so one thread at a time. */
void sp_adjust_apply(const sp_adjust *adjust, float *logits);
void sp_adjust_undo(const sp_adjust *adjust, float *logits);

#endif
