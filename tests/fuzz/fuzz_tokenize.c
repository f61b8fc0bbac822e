/* Bytes as a text: decode(encode(x)) = x, without holes between offsets, for each pre-tokenizer and for
 * special tokens read and not read; ill-formed UTF-8 is refused. Corpus: tests/support/make_model_corpus.py.
 */
#include <assert.h>
#include <string.h>

#include "models/tokenizer.h"
#include "tests/support/byte_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TOKENIZERS 3
static sp_tokenizer *tokenizers[TOKENIZERS];

static void make_tokenizers(void)
{
    static const char *const merges[] = {
        "\xc4\xa0 t",        "h e", "\xc4\xa0t he", "a a", "aa aa", "1 2", "12 3", "\xc4\x8a \xc4\x8a",
        "\xc3\x83 \xc2\xa9", "' s", "< |",          NULL};
    static const char *const pre[TOKENIZERS] = {NULL, TEST_LLAMA3, TEST_DIGITS};
    for (int i = 0; i < TOKENIZERS; i++) {
        sp_buffer text;
        sp_buffer_init(&text, 1 << 20);
        test_byte_tokenizer(&text, merges, pre[i], ",{\"id\":300,\"content\":\"<x>\",\"special\":false}",
                            i == 1 ? ",\"ignore_merges\":true" : "");
        sp_status status = sp_tokenizer_parse("t", text.data, text.size, NULL, 0, &tokenizers[i], NULL);
        assert(status == SP_OK);
        (void)status;
        sp_buffer_fini(&text);
    }
}

static void check(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags)
{
    sp_tokens tokens = {0};
    sp_status status = sp_tokenizer_encode(tokenizer, text, size, flags, &tokens, NULL);
    assert(status == (sp_utf8_valid(text, size) ? SP_OK : SP_INVALID));
    if (status == SP_OK) {
        sp_decoder decoder;
        sp_buffer out;
        size_t place = 0;
        sp_buffer_init(&out, size + 1);
        sp_decoder_init(&decoder, tokenizer, false);
        for (size_t i = 0; i < tokens.count; i++) {
            assert(tokens.data[i].begin == place && tokens.data[i].end > place);
            place = tokens.data[i].end;
            bool pushed = sp_decoder_push(&decoder, tokens.data[i].id, &out);
            assert(pushed && sp_utf8_valid(out.data ? out.data : "", out.size));
        }
        bool finished = sp_decoder_finish(&decoder, &out);
        assert(finished && place == size && out.size == size);
        assert(size == 0 || memcmp(out.data, text, size) == 0);
        sp_buffer_fini(&out);
    }
    sp_tokens_fini(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tokenizers[0]) make_tokenizers();
    for (int i = 0; i < TOKENIZERS; i++)
        for (unsigned flags = 0; flags < 2; flags++)
            check(tokenizers[i], size ? (const char *)data : "", size, flags);
    return 0;
}
