/* What the tokenizers need to know of code points: classes as the pre-tokenizers' regular expressions mean
 * them (\p{L}, \p{N}, \p{P}, \p{S}, \p{M}, \s), decompositions, compositions and lower case.
 * The tables are made at build (models/make_unicode.py). Tests: tests/unit/models/test_normalize.c,
 * tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_UNICODE_H
#define SPARSED_MODELS_UNICODE_H

#include "kernels/base.h"

typedef enum sp_char_class { SP_CHAR_OTHER, SP_CHAR_LETTER, SP_CHAR_NUMBER, SP_CHAR_SPACE } sp_char_class;
/* Finer than SP_CHAR_OTHER; the kinds of letters and numbers are SP_KIND_OTHER. Control: Cc, Cf and Co. */
typedef enum sp_char_kind {
    SP_KIND_OTHER,
    SP_KIND_PUNCTUATION,
    SP_KIND_SYMBOL,
    SP_KIND_MARK,   /* Mc, Me */
    SP_KIND_ACCENT, /* Mn */
    SP_KIND_CONTROL
} sp_char_kind;

sp_char_class sp_unicode_class(uint32_t code);
sp_char_kind sp_unicode_kind(uint32_t code);
/* Whether a code point passes NFD and NFKD unchanged and nothing before it can be joined with it. */
bool sp_unicode_is_inert(uint32_t code);
/* Whether it may join what stands before it: a combining mark, or the second of a composition. */
bool sp_unicode_joins(uint32_t code);
uint8_t sp_unicode_combining(uint32_t code); /* canonical combining class */

#define SP_MAX_DECOMPOSITION 18 /* code points: U+FDFA's */
/* Full decomposition (NFD, or NFKD), before ordering; the code point itself when it has none. Returns the
 * count. */
size_t sp_unicode_decompose(uint32_t code, bool compatible, uint32_t out[SP_MAX_DECOMPOSITION]);
/* What a pair composes to, 0 when nothing. */
uint32_t sp_unicode_compose(uint32_t first, uint32_t second);
#define SP_MAX_LOWER 2
size_t sp_unicode_lower(uint32_t code, uint32_t out[SP_MAX_LOWER]); /* without context */

/* The code point at text, which is well-formed UTF-8 and not at its end; *length gets its bytes (1..4). */
uint32_t sp_utf8_decode(const char *text, size_t *length);
size_t sp_utf8_encode(uint32_t code, char out[4]); /* returns the bytes, 1..4 */

#endif
