/* Private to models/: the vocabulary, the merges, and the merging of one piece.
 *
 * Byte-level BPE spells every byte as a printable character ("Ġ" is the space); pieces are kept in that
 * spelling, as tokenizer.json has it, and as the bytes they mean. Tests: tests/unit/models/test_tokenizer.c
 */
#ifndef SPARSED_MODELS_BPE_H
#define SPARSED_MODELS_BPE_H

#include "models/tokenizer.h"

#define SP_MAX_VOCAB ((int32_t)1 << 21)
#define SP_MAX_PIECE 4096u /* bytes of a spelling */

/* Spelling of a byte: 1 or 2 bytes of UTF-8 to out, their number returned. */
size_t sp_byte_spell(uint8_t byte, char out[2]);
/* Bytes that a spelling means, to out (at most size bytes); false when a character stands for no byte. */
bool sp_byte_unspell(const char *text, size_t size, char *out, size_t *out_size);

#define SP_TOKEN_SPECIAL 1u
#define SP_TOKEN_ADDED 2u

/* Tokens by id and by spelling. */
typedef struct sp_vocab {
    int32_t size;        /* 1 + the largest id */
    const char **pieces; /* (size) spelling, NUL terminated; NULL where the id is no token */
    const char **bytes;  /* (size) */
    uint32_t *n_bytes;   /* (size) */
    uint8_t *flags;      /* (size) SP_TOKEN_... */
    uint32_t *slots;     /* (n_slots) id + 1 by hash of the spelling, 0 empty; n_slots a power of two */
    size_t n_slots;
    size_t longest; /* bytes of the longest spelling */
    sp_arena arena;
} sp_vocab;

/* size: 1 + the largest id, at most SP_MAX_VOCAB; n_tokens: how many will be added. */
sp_status sp_vocab_init(sp_vocab *vocab, int32_t size, size_t n_tokens, sp_error *error) SP_MUST_CHECK;
void sp_vocab_fini(sp_vocab *vocab);
/* id < size. literal: bytes are the spelling itself (added tokens). SP_DATA: id or piece taken, or a bad
 * length. */
sp_status sp_vocab_add(sp_vocab *vocab, int32_t id, const char *piece, size_t n, bool literal,
                       sp_error *error) SP_MUST_CHECK;
int32_t sp_vocab_find(const sp_vocab *vocab, const char *piece, size_t n); /* -1: none */

typedef struct sp_merge {
    int32_t left, right;
    uint32_t rank;
    int32_t result;
} sp_merge;

/* Merges sorted by left, then right; first[l] .. first[l + 1] are those of left l: a lookup is a binary
 * search among the partners of one token. */
typedef struct sp_bpe {
    const sp_vocab *vocab;
    sp_merge *merges; /* (n_merges) */
    uint32_t *first;  /* (vocab size + 1) */
    int32_t *results; /* (n_merges) by rank */
    size_t n_merges;
    int32_t byte_ids[256]; /* -1: the vocabulary lacks this byte */
    bool ignore_merges;    /* a piece that is a token as a whole is that token */
} sp_bpe;

/* Takes merges (n, owned from here on, in rank order). SP_DATA: a pair twice. */
sp_status sp_bpe_init(sp_bpe *bpe, const sp_vocab *vocab, sp_merge *merges, size_t n,
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

/* Appends the tokens of text[begin, end) to out; a byte the vocabulary lacks gets id -1. false: out of
 * memory. */
bool sp_bpe_encode(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t begin, size_t end,
                   sp_tokens *out) SP_MUST_CHECK;
/* false: out of memory. */
bool sp_tokens_push(sp_tokens *tokens, int32_t id, size_t begin, size_t end) SP_MUST_CHECK;

#endif
