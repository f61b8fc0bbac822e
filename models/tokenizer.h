/* Text to token ids and back, from tokenizer.json or GGUF metadata: byte-level BPE (GPT-2, Llama 3, Qwen 2,
 * DeepSeek, StarCoder, SmolLM2), SentencePiece BPE (Llama 2, Mistral), Unigram and WordPiece.
 *
 * Encoding is linear in the text up to a logarithm (a heap of merges a piece), without recursion. Offsets are
 * exact byte ranges of the input; byte-level tokens leave no gaps, leading spaces belong to their token. A
 * pipeline that isn't known is refused by name. Decoding streams: bytes are held back until they complete a
 * code point. Special tokens written in a text are found only when asked for; Unigram alone can still reach
 * them, because they are pieces of its vocabulary (as in the Hugging Face library). Tests:
 * tests/unit/models/test_tokenizer.c, test_tokenizer_models.c, tests/golden/test_tokenizers.c,
 * tests/fuzz/fuzz_tokenizer.c, fuzz_tokenize.c */
#ifndef SPARSED_MODELS_TOKENIZER_H
#define SPARSED_MODELS_TOKENIZER_H

#include "kernels/base.h"

typedef struct sp_tokenizer sp_tokenizer;

typedef struct sp_token {
    int32_t id;
    uint32_t begin, end; /* bytes of the text */
} sp_token;

typedef struct sp_tokens {
    sp_token *data;
    size_t count, capacity;
} sp_tokens;
void sp_tokens_fini(sp_tokens *tokens);

/* folder: holds tokenizer.json (at most 64 MiB) and perhaps tokenizer_config.json. */
sp_status sp_tokenizer_open(const char *folder, sp_tokenizer **out, sp_error *error) SP_MUST_CHECK;
/* config may be NULL. */
sp_status sp_tokenizer_parse(const char *name, const char *json, size_t size, const char *config,
                             size_t config_size, sp_tokenizer **out, sp_error *error) SP_MUST_CHECK;
/* From the metadata of a GGUF file (tokenizer.ggml.*). */
struct sp_gguf;
sp_status sp_tokenizer_from_gguf(const struct sp_gguf *gguf, sp_tokenizer **out,
                                 sp_error *error) SP_MUST_CHECK;
void sp_tokenizer_close(sp_tokenizer *tokenizer);

#define SP_ENCODE_SPECIAL                                                                                    \
    1u /* special tokens written in the text are recognised; without it they are plain text */
#define SP_ENCODE_ADD 2u /* add what the post-processor adds (BOS, EOS); their range is empty */
/* Text is UTF-8; ill-formed bytes are SP_INVALID, and so is a byte for which the vocabulary has no token.
 * *out is overwritten, its memory reused. */
sp_status sp_tokenizer_encode(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                              sp_tokens *out, sp_error *error) SP_MUST_CHECK;

/* A text that a template wrote around what people wrote: special tokens are recognised outside the people's
 * spans only; nothing is added. spans (n): in order, without overlap. */
typedef struct sp_span {
    size_t begin, end; /* bytes */
} sp_span;
sp_status sp_tokenizer_encode_template(const sp_tokenizer *tokenizer, const char *text, size_t size,
                                       const sp_span *spans, size_t n_spans, sp_tokens *out,
                                       sp_error *error) SP_MUST_CHECK;

int32_t sp_tokenizer_size(const sp_tokenizer *tokenizer); /* 1 + the largest id */
int32_t sp_tokenizer_bos(const sp_tokenizer *tokenizer);  /* -1: none. Known, not necessarily added */
int32_t sp_tokenizer_eos(const sp_tokenizer *tokenizer);  /* -1: none */
bool sp_tokenizer_is_special(const sp_tokenizer *tokenizer, int32_t id);
bool sp_tokenizer_adds_bos(const sp_tokenizer *tokenizer);
/* What a token stands for inside a text, with its leading space (the bytes may be part of a code point); ""
 * and size 0 for ids that are not tokens. */
const char *sp_tokenizer_bytes(const sp_tokenizer *tokenizer, int32_t id, size_t *size);
/* The token as its tokenizer.json spells it. */
const char *sp_tokenizer_piece(const sp_tokenizer *tokenizer, int32_t id);

/* Streaming decode. Special tokens are dropped when skip_special. */
typedef struct sp_decoder {
    const sp_tokenizer *tokenizer;
    bool skip_special;
    bool at_start, strips_space; /* nothing was decoded yet; a leading space is to be dropped */
    char held[4];
    size_t n_held;
} sp_decoder;
void sp_decoder_init(sp_decoder *decoder, const sp_tokenizer *tokenizer, bool skip_special);
/* The text goes on from another: the rules for leading spaces do not apply. Right after init. */
void sp_decoder_resume(sp_decoder *decoder);
/* Appends to out the text that this token completes; ill-formed bytes become U+FFFD. False when out is full.
 */
bool sp_decoder_push(sp_decoder *decoder, int32_t id, sp_buffer *out);
/* End of text: a held, incomplete code point becomes U+FFFD. */
bool sp_decoder_finish(sp_decoder *decoder, sp_buffer *out);

#endif
