/* Private to models/: Unigram, the segmentation of one piece with the largest sum of scores.
 * Tests: tests/unit/models/test_tokenizer_models.c, tests/golden/test_tokenizers.c */
#ifndef SPARSED_MODELS_UNIGRAM_H
#define SPARSED_MODELS_UNIGRAM_H

#include "models/prefixes.h"
#include "models/vocab.h"

typedef struct sp_unigram {
    sp_prefixes pieces; /* values are ids */
    double *scores;     /* (vocab size), finite; owned */
    double unknown_score;
    int32_t unknown; /* -1: none */
} sp_unigram;

/* Takes scores (vocabulary size), also when it fails; n: pieces of the model are the ids below n. unknown: -1
 * or below n. */
sp_status sp_unigram_init(sp_unigram *unigram, const sp_vocab *vocab, double *scores, int32_t n,
                          int32_t unknown, sp_error *error) SP_MUST_CHECK;
void sp_unigram_fini(sp_unigram *unigram);

typedef struct sp_unigram_scratch {
    struct sp_unigram_node *nodes; /* (capacity) */
    size_t capacity;
} sp_unigram_scratch;
void sp_unigram_scratch_fini(sp_unigram_scratch *scratch);

/* Appends the tokens of text[begin, end); characters that no piece covers become one unknown, -1 when there
 * is none. false: out of memory. */
bool sp_unigram_encode(const sp_unigram *unigram, sp_unigram_scratch *scratch, const char *text, size_t begin,
                       size_t end, sp_tokens *out) SP_MUST_CHECK;

#endif
