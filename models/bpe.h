/* Private to models/: byte pair encoding of one piece, over bytes (GPT-2) or over characters with bytes for
 * those the vocabulary lacks (SentencePiece). Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c */
#ifndef SPARSED_MODELS_BPE_H
#define SPARSED_MODELS_BPE_H

#include "models/vocab.h"

typedef struct sp_merge {
    int32_t left, right;
    uint32_t rank; /* least first; equal ranks leftmost first */
    int32_t result;
} sp_merge;

/* Finds the tokens of a merge given by its halves, or by "left right". NULL, or what is wrong with it. */
const char *sp_bpe_find_merge(const sp_vocab *vocab, const char *left, size_t n_left, const char *right,
                              size_t n_right, size_t rank, sp_merge *out) SP_MUST_CHECK;
const char *sp_bpe_read_merge(const sp_vocab *vocab, const char *text, size_t size, size_t rank,
                              sp_merge *out) SP_MUST_CHECK;

/* Merges sorted by left, then right; first[l] .. first[l + 1] are those of left l: a lookup is a binary
 * search among the partners of one token. */
typedef struct sp_bpe {
    const sp_vocab *vocab;
    sp_merge *merges; /* (n_merges) */
    uint32_t *first;  /* (vocab size + 1) */
    size_t n_merges;
    bool characters;        /* over characters; else over bytes in the byte-level spelling */
    int32_t byte_ids[256];  /* the byte's token, -1 none. characters: <0xHH>, if byte_fallback */
    int32_t ascii_ids[128]; /* characters: the tokens of ASCII, -1 none */
    int32_t unknown;        /* characters: for those that bytes can't spell; -1 none */
    bool fuse_unknown;      /* neighbours make one unknown */
    bool ignore_merges;     /* a piece that is a token as a whole is that token */
} sp_bpe;

/* Takes merges (n, owned from here on, also when it fails). The flags are set by the caller before.
 * byte_fallback: <0xHH> stand for bytes. SP_DATA: a pair twice. */
sp_status sp_bpe_init(sp_bpe *bpe, const sp_vocab *vocab, sp_merge *merges, size_t n, bool byte_fallback,
                      sp_error *error) SP_MUST_CHECK;
void sp_bpe_fini(sp_bpe *bpe);

/* Memory for merging a piece, reused from piece to piece. */
typedef struct sp_bpe_scratch {
    struct sp_bpe_symbol *symbols;
    uint64_t *heap;
    size_t capacity; /* bytes of the longest piece it can hold */
    char *spelling;  /* (vocab longest) for ignore_merges */
} sp_bpe_scratch;
void sp_bpe_scratch_fini(sp_bpe_scratch *scratch);

/* Appends the tokens of text[begin, end) to out; a byte or character the vocabulary lacks gets id -1. false:
 * out of memory. */
bool sp_bpe_encode(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t begin, size_t end,
                   sp_tokens *out) SP_MUST_CHECK;

#endif
