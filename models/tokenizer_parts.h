/* Private to models/: what a tokenizer is made of. tokenizer_load.c fills it from tokenizer.json, tokenizer.c
 * encodes and decodes with it, added.c finds added tokens in text. */
#ifndef SPARSED_MODELS_TOKENIZER_PARTS_H
#define SPARSED_MODELS_TOKENIZER_PARTS_H

#include "models/bpe.h"
#include "models/pretokenize.h"

#define SP_MAX_ADDED_BYTES 255u
#define SP_MAX_SPLITS 8u
#define SP_MAX_AFFIX 16u /* ids that the post-processor adds on one side */

typedef struct sp_added_token {
    const char *content; /* in the vocabulary's arena */
    uint32_t size;       /* 1..SP_MAX_ADDED_BYTES */
    int32_t id;
    bool special, lstrip, rstrip;
} sp_added_token;

/* Added tokens sorted by content; first[b] .. first[b + 1] are those whose first byte is b. */
typedef struct sp_added_set {
    sp_added_token *tokens; /* (count), owned */
    size_t count;
    uint32_t first[257];
} sp_added_set;

/* Sorts the tokens and indexes them. */
void sp_added_index(sp_added_set *set);
/* The longest token that begins at place, NULL for none; special ones only when wanted. */
const sp_added_token *sp_added_match(const sp_added_set *set, const char *text, size_t place, size_t end,
                                     bool special);

struct sp_tokenizer {
    sp_vocab vocab;
    sp_bpe bpe;
    sp_added_set added[2]; /* [0] found first; [1]: those marked normalized, found in what is left */
    sp_split splits[SP_MAX_SPLITS];
    size_t n_splits;
    int32_t prefix[SP_MAX_AFFIX], suffix[SP_MAX_AFFIX];
    size_t n_prefix, n_suffix;
    int32_t bos, eos; /* -1: none */
};

#endif
