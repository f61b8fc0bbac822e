/* Bytes as tokenizer.json, what follows the first NUL as tokenizer_config.json. An accepted tokenizer must
 * encode and decode without fault, with offsets in order. Corpus:
 * tests/support/make_model_corpus.py. */
#include <assert.h>
#include <string.h>

#include "models/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "The cat's 12 <|end|> <x>\n\n  caf\xc3\xa9 \xf0\x9f\x98\x80'LL"
    " e\xcc\x81\xcc\xa3 \xef\xac\x81 \xe2\x96\x81 \xe4\xb8\xad<s>\xed\x95\x9c unaffable";

static void use(const sp_tokenizer *tokenizer)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        sp_tokens tokens = {0};
        sp_status status = sp_tokenizer_encode(tokenizer, text, sizeof text - 1, flags, &tokens, NULL);
        assert(status == SP_OK || status == SP_INVALID);
        sp_decoder decoder;
        sp_buffer out;
        sp_buffer_init(&out, 1 << 20);
        sp_decoder_init(&decoder, tokenizer, flags & 1);
        for (size_t i = 0; status == SP_OK && i < tokens.count; i++) {
            const sp_token *token = &tokens.data[i];
            assert(token->id >= 0 && token->id < sp_tokenizer_size(tokenizer));
            assert(token->begin <= token->end && token->end < sizeof text);
            assert(i == 0 || (token->begin >= token[-1].begin && token->end >= token[-1].end));
            (void)sp_decoder_push(&decoder, token->id, &out);
        }
        (void)sp_decoder_finish(&decoder, &out);
        assert(out.failed || sp_utf8_valid(out.data ? out.data : "", out.size));
        sp_buffer_fini(&out);
        sp_tokens_fini(&tokens);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t json = nul ? (size_t)(nul - data) : size;
    const char *config = nul ? (const char *)nul + 1 : NULL;
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    sp_status status = sp_tokenizer_parse("fuzz.json", (const char *)data, json, config,
                                          nul ? size - json - 1 : 0, &tokenizer, &error);
    if (status == SP_OK)
        use(tokenizer);
    else
        assert(status == SP_DATA &&
               (strstr(error.message, "fuzz.json") || strstr(error.message, "_config.json")));
    sp_tokenizer_close(tokenizer);
    return 0;
}
