/* Makes the text of a tokenizer.json for tests: the 256 bytes, one special token <|end|> with id 256, and
 * merges. */
#ifndef SPARSED_TESTS_BYTE_TOKENIZER_H
#define SPARSED_TESTS_BYTE_TOKENIZER_H

#include "kernels/base.h"

#define TEST_END_ID 256

/* merges: "left right" in the spelling of tokenizer.json, NULL terminated; their results get the ids from 257
 * on. pre_tokenizer: JSON; NULL: ByteLevel with its regex. extra: members of "model" with a comma in front,
 * or "". added: more added tokens as JSON objects with a comma in front, or "". Appends to out. */
void test_byte_tokenizer(sp_buffer *out, const char *const *merges, const char *pre_tokenizer,
                         const char *added, const char *extra);

#define TEST_BYTE_LEVEL(regex)                                                                               \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":" regex "}"
#define TEST_LLAMA3_PATTERN                                                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "                   \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+"                                                                             \
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define TEST_LLAMA3                                                                                          \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"                  \
    "\"" TEST_LLAMA3_PATTERN                                                                                 \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}," TEST_BYTE_LEVEL("false") "]}"
#define TEST_DIGITS                                                                                          \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}"             \
    "," TEST_BYTE_LEVEL("true") "]}"

#endif
