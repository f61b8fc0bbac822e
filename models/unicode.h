/* Classes of code points, as the pre-tokenizers' regular expressions mean them: \p{L}, \p{N}, \s.
 * The table is made at build (models/make_unicode.py). Tests: tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_UNICODE_H
#define SPARSED_MODELS_UNICODE_H

#include "kernels/base.h"

typedef enum sp_char_class { SP_CHAR_OTHER, SP_CHAR_LETTER, SP_CHAR_NUMBER, SP_CHAR_SPACE } sp_char_class;

sp_char_class sp_unicode_class(uint32_t code);
/* The code point at text, which is well-formed UTF-8 and not at its end; *length gets its bytes (1..4). */
uint32_t sp_utf8_decode(const char *text, size_t *length);

#endif
