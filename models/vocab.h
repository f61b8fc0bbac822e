/* Private to models/: the vocabulary, tokens by id and by spelling. Pieces are kept as the file spells them
 * and as the bytes they stand for inside a text (spelling.h). Tests: tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_VOCAB_H
#define SPARSED_MODELS_VOCAB_H

#include "models/spelling.h"
#include "models/tokenizer.h"

#define SP_MAX_VOCAB ((int32_t)1 << 21)

#define SP_TOKEN_SPECIAL 1u
#define SP_TOKEN_ADDED 2u

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
/* id < size; piece: well-formed UTF-8. SP_DATA: id or piece taken, or a bad length. */
sp_status sp_vocab_add(sp_vocab *vocab, int32_t id, const char *piece, size_t n, sp_spelling spelling,
                       sp_error *error) SP_MUST_CHECK;
int32_t sp_vocab_find(const sp_vocab *vocab, const char *piece, size_t n); /* -1: none */

/* false: out of memory. */
bool sp_tokens_push(sp_tokens *tokens, int32_t id, size_t begin, size_t end) SP_MUST_CHECK;

#endif
