/* Private to models/: WordPiece, greedy longest match within one word.
 * Tests: tests/unit/models/test_tokenizer_models.c, tests/golden/test_tokenizers.c */
#ifndef SPARSED_MODELS_WORDPIECE_H
#define SPARSED_MODELS_WORDPIECE_H

#include "models/prefixes.h"
#include "models/vocab.h"

typedef struct sp_wordpiece {
    sp_prefixes starts, rests; /* pieces that begin a word, and that continue one (without "##"); ids */
    int32_t unknown;
    size_t most_characters; /* a longer word is unknown */
} sp_wordpiece;

/* unknown and most_characters are set by the caller before. n: pieces of the model are among the ids below n.
 */
sp_status sp_wordpiece_init(sp_wordpiece *wordpiece, const sp_vocab *vocab, int32_t n,
                            sp_error *error) SP_MUST_CHECK;
void sp_wordpiece_fini(sp_wordpiece *wordpiece);

/* Appends the tokens of the word text[begin, end), one unknown for all of it when a part is none. false: out
 * of memory. */
bool sp_wordpiece_encode(const sp_wordpiece *wordpiece, const char *text, size_t begin, size_t end,
                         sp_tokens *out) SP_MUST_CHECK;

#endif
