/* Private to models/: how a vocabulary spells text, that is, what bytes a token stands for.
 *
 * Byte-level BPE spells every byte as a printable character ("Ġ" is the space), SentencePiece writes spaces
 * as U+2581, WordPiece marks what continues a word with "##". Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c */
#ifndef SPARSED_MODELS_SPELLING_H
#define SPARSED_MODELS_SPELLING_H

#include "kernels/base.h"

typedef enum sp_spelling {
    SP_SPELLING_LITERAL,
    SP_SPELLING_BYTES,     /* byte-level */
    SP_SPELLING_META,      /* U+2581 is a space */
    SP_SPELLING_FALLBACK,  /* the same, and <0xHH> is a byte */
    SP_SPELLING_WORDS,     /* "##" continues a word, anything else has a space in front */
    SP_SPELLING_WORDS_TIDY /* and no space stands before punctuation */
} sp_spelling;

#define SP_MAX_PIECE 4096u                 /* bytes of a spelling */
#define SP_MAX_SPELLED (SP_MAX_PIECE + 1u) /* bytes it can stand for */

/* What a piece (size bytes, at most SP_MAX_PIECE) stands for inside a text, to out (at least size + 1 bytes);
 * returns the bytes. A piece that SP_SPELLING_BYTES can't read stands for itself. */
size_t sp_spelling_text(sp_spelling spelling, const char *piece, size_t size, char *out);
/* The same at the start of a text, where WordPiece writes no space and Metaspace drops those of the piece. */
size_t sp_spelling_start(sp_spelling spelling, const char *piece, size_t size, char *out);

/* Spelling of a byte: 1 or 2 bytes of UTF-8 to out, their number returned. */
size_t sp_byte_spell(uint8_t byte, char out[2]);

/* <0xHH>: the byte, or -1 when the piece has another form. */
int sp_byte_token(const char *piece, size_t size);
/* Whether a piece is formed like a byte token, <0x??>, though its digits are none. */
bool sp_byte_token_is_bad(const char *piece, size_t size);

#endif
