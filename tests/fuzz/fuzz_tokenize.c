/* Bytes as a text: decode(encode(x)) = x, without holes between offsets, for every byte-level pre-tokenizer
 * and for special tokens read and not read; with NFC, what was decoded must decode to itself again. For
 * SentencePiece with all bytes the same, but for meta symbols, which are spaces. Ill-formed UTF-8 is refused.
 * Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"
#include "models/pretokenize.h"
#include "models/tokenizer.h"
#include "tests/support/byte_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define META "\xe2\x96\x81"

typedef enum promise_kind { SAME, COMPOSED, META_IS_SPACE } promise_kind;

static const struct {
    sp_split splits[5];
    size_t n;
} families[] = {{{SP_SPLIT_GPT2}, 1},
                {{SP_SPLIT_LLAMA3}, 1},
                {{SP_SPLIT_QWEN2}, 1},
                {{SP_SPLIT_DIGITS, SP_SPLIT_GPT2}, 2},
                {{SP_SPLIT_LINES, SP_SPLIT_WORDS, SP_SPLIT_PUNCTUATION, SP_SPLIT_CJK, SP_SPLIT_DIGITS}, 5},
                {{SP_SPLIT_NUMBERS3, SP_SPLIT_KANA, SP_SPLIT_DEEPSEEK3}, 3}};
#define FAMILIES (sizeof families / sizeof *families)
static sp_tokenizer *tokenizers[FAMILIES + 2]; /* then one with NFC, then SentencePiece */

static void write_pre_tokenizer(sp_buffer *out, size_t family)
{
    sp_json_writer json;
    sp_buffer_text(out, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (size_t i = 0; i < families[family].n; i++) {
        const char *pattern = sp_split_pattern(families[family].splits[i]);
        if (!pattern) {
            sp_buffer_text(out, "{\"type\":\"Digits\",\"individual_digits\":true},");
            continue;
        }
        sp_buffer_text(out, "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":");
        sp_json_writer_init(&json, out);
        sp_json_cstring(&json, pattern);
        sp_buffer_text(out, "}},");
    }
    sp_buffer_text(out, TEST_BYTE_LEVEL("false") "]}");
    sp_buffer_append(out, "", 1);
}

static void open_json(const sp_buffer *text, sp_tokenizer **tokenizer)
{
    sp_status status = sp_tokenizer_parse("t", text->data, text->size, NULL, 0, tokenizer, NULL);
    if (text->failed || status != SP_OK) abort();
}

static void make_bytes(size_t family, bool composes, bool ignore_merges, sp_tokenizer **tokenizer)
{
    static const char *const merges[] = {
        "\xc4\xa0 t",        "h e", "\xc4\xa0t he", "a a", "aa aa", "1 2", "12 3", "\xc4\x8a \xc4\x8a",
        "\xc3\x83 \xc2\xa9", "' s", "< |",          NULL};
    sp_buffer text, pre;
    sp_buffer_init(&text, 1 << 20);
    sp_buffer_init(&pre, 1 << 16);
    write_pre_tokenizer(&pre, family);
    if (composes) {
        pre.size--;
        sp_buffer_text(&pre, ",\"normalizer\":{\"type\":\"NFC\"}");
        sp_buffer_append(&pre, "", 1);
    }
    test_byte_tokenizer(&text, merges, pre.data, ",{\"id\":300,\"content\":\"<x>\",\"special\":false}",
                        ignore_merges ? ",\"ignore_merges\":true" : "");
    open_json(&text, tokenizer);
    sp_buffer_fini(&text);
    sp_buffer_fini(&pre);
}

static void make_sentencepiece(sp_tokenizer **tokenizer)
{
    sp_buffer text;
    sp_buffer_init(&text, 1 << 20);
    sp_buffer_text(
        &text, "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
               "\"" META "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META
               "\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
               "{\"String\":\"" META "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
               "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\","
               "\"byte_fallback\":true,\"vocab\":{");
    for (unsigned byte = 0; byte < 256; byte++) sp_buffer_format(&text, "\"<0x%02X>\":%u,", byte, byte);
    sp_buffer_text(&text, "\"" META "\":256,\"t\":257,\"h\":258,\"" META "t\":259,\"" META
                          "th\":260,\"a\":261,\"aa\":262,"
                          "\"" META META "\":263},\"merges\":[\"" META " t\",\"" META "t h\",\"a a\",\"" META
                          " " META "\"]}}");
    open_json(&text, tokenizer);
    sp_buffer_fini(&text);
}

static void make_tokenizers(void)
{
    for (size_t i = 0; i < FAMILIES; i++) make_bytes(i, false, i == 1, &tokenizers[i]);
    make_bytes(2, true, false, &tokenizers[FAMILIES]);
    make_sentencepiece(&tokenizers[FAMILIES + 1]);
}

/* Encodes and decodes; the ranges must lie in the text in order, and tile it unless composed. */
static void round_trip(const sp_tokenizer *tokenizer, promise_kind promise, const char *text, size_t size,
                       unsigned flags, sp_buffer *out)
{
    sp_tokens tokens = {0};
    sp_decoder decoder;
    uint32_t begin = 0, end = 0;
    sp_status status = sp_tokenizer_encode(tokenizer, text, size, flags, &tokens, NULL);
    assert(status == (sp_utf8_valid(text, size) ? SP_OK : SP_INVALID));
    sp_decoder_init(&decoder, tokenizer, false);
    for (size_t i = 0; status == SP_OK && i < tokens.count; i++) {
        const sp_token *token = &tokens.data[i];
        assert(token->begin >= begin && token->end >= end && token->begin <= token->end &&
               token->end <= size);
        assert(promise == COMPOSED || token->begin == end);
        assert(promise != SAME || token->end > end);
        begin = token->begin;
        end = token->end;
        bool pushed = sp_decoder_push(&decoder, token->id, out);
        assert(pushed && sp_utf8_valid(out->data ? out->data : "", out->size));
    }
    bool finished = sp_decoder_finish(&decoder, out);
    assert(finished && (status != SP_OK || end == size));
    sp_tokens_fini(&tokens);
}

/* The text with spaces for meta symbols. */
static void spaces(const char *text, size_t size, sp_buffer *out)
{
    for (size_t i = 0; i < size; i++) {
        bool meta = size - i >= 3 && memcmp(text + i, META, 3) == 0;
        sp_buffer_append(out, meta ? " " : text + i, 1);
        i += meta ? 2 : 0;
    }
}

static void check(const sp_tokenizer *tokenizer, promise_kind promise, const char *text, size_t size,
                  unsigned flags)
{
    sp_buffer out, wanted;
    if (!sp_utf8_valid(text, size)) flags = 0;
    sp_buffer_init(&out, 16 * size + 16);
    sp_buffer_init(&wanted, 16 * size + 16);
    round_trip(tokenizer, promise, text, size, flags, &out);
    if (sp_utf8_valid(text, size)) {
        if (promise == COMPOSED)
            round_trip(tokenizer, promise, out.data ? out.data : "", out.size, flags, &wanted);
        else if (promise == META_IS_SPACE)
            spaces(text, size, &wanted);
        else
            sp_buffer_append(&wanted, text, size);
        assert(!out.failed && !wanted.failed && out.size == wanted.size);
        assert(out.size == 0 || memcmp(out.data, wanted.data, out.size) == 0);
    }
    sp_buffer_fini(&out);
    sp_buffer_fini(&wanted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tokenizers[0]) make_tokenizers();
    for (size_t i = 0; i < FAMILIES + 2; i++)
        for (unsigned flags = 0; flags < 2; flags++)
            check(tokenizers[i],
                  i < FAMILIES    ? SAME
                  : i == FAMILIES ? COMPOSED
                                  : META_IS_SPACE,
                  size ? (const char *)data : "", size, flags);
    return 0;
}
