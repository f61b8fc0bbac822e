/* Bytes as a GGUF file: read, looked through with every getter, made into a config, a tokenizer and weights.
 * Whatever is accepted must be readable to the last byte, findable by its name and lie within the file; what
 * is refused must say so as SP_DATA with the file's name. Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <string.h>

#include "models/gguf.h"
#include "models/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned sum;

static void check_refusal(sp_status status, const sp_error *error)
{
    assert(status == SP_OK || (status == SP_DATA && strstr(error->message, "fuzz.gguf")));
}

static void walk_arrays(const sp_gguf *gguf, const char *key)
{
    sp_gguf_array array;
    sp_error error = {0};
    bool present;
    const char *text;
    size_t n, steps = 0;
    int64_t integer;
    double number;
    if (sp_gguf_array_open(gguf, key, SP_GGUF_TEXTS, &present, &array, &error) == SP_OK)
        for (; sp_gguf_next_text(&array, &text, &n); steps++)
            for (size_t i = 0; i < n; i++) sum += (uint8_t)text[i];
    if (sp_gguf_array_open(gguf, key, SP_GGUF_INTEGERS, &present, &array, &error) == SP_OK)
        for (; sp_gguf_next_int(&array, &integer); steps++) sum += (unsigned)integer;
    if (sp_gguf_array_open(gguf, key, SP_GGUF_NUMBERS, &present, &array, &error) == SP_OK)
        for (; sp_gguf_next_double(&array, &number); steps++) sum += number > 0;
    assert(present && steps < (size_t)1 << 26);
}

static void walk_keys(const sp_gguf *gguf)
{
    for (size_t i = 0; i < sp_gguf_count(gguf); i++) {
        const char *key = sp_gguf_key(gguf, i), *text;
        sp_error error = {0};
        size_t n;
        int64_t integer;
        double number;
        bool flag;
        assert(sp_gguf_has(gguf, key) && (i == 0 || strcmp(sp_gguf_key(gguf, i - 1), key) < 0));
        int taken = sp_gguf_text(gguf, key, &text, &n, &error) == SP_OK;
        if (taken) assert(strlen(text) == n);
        taken += sp_gguf_int(gguf, key, NULL, INT64_MIN, INT64_MAX, &integer, &error) == SP_OK;
        taken += sp_gguf_bool(gguf, key, false, &flag, &error) == SP_OK;
        assert(taken <= 1);
        check_refusal(sp_gguf_double(gguf, key, NULL, -1e30, 1e30, &number, &error), &error);
        walk_arrays(gguf, key);
    }
}

static void walk_weights(const sp_gguf *gguf, size_t size)
{
    sp_weights *weights;
    sp_error error = {0};
    sp_status status = sp_weights_from_gguf(gguf, NULL, &weights, &error);
    check_refusal(status, &error);
    if (status != SP_OK) return;
    size_t total = 0;
    for (size_t i = 0; i < sp_weights_count(weights); i++) {
        const sp_tensor *tensor = sp_weights_at(weights, i);
        const char *name = sp_weights_name(weights, i);
        sp_tensor taken;
        assert(sp_weights_find(weights, name) == tensor);
        for (size_t k = 0; k < tensor->bytes; k++) sum += ((const uint8_t *)tensor->data)[k];
        total += tensor->bytes;
        check_refusal(sp_weights_take(weights, name, tensor->rank, tensor->shape, &taken, &error), &error);
    }
    assert(total <= size);
    sp_weights_close(weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_gguf *gguf;
    sp_config *config;
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    sp_status status = sp_gguf_parse("fuzz.gguf", data, size, &gguf, &error);
    check_refusal(status, &error);
    if (status != SP_OK) return 0;
    for (size_t i = 0; i < sp_gguf_tensor_count(gguf); i++) {
        const sp_gguf_tensor *tensor = sp_gguf_tensor_at(gguf, i);
        assert(sp_gguf_tensor_find(gguf, tensor->name) == tensor);
        assert(tensor->tensor.bytes <= size && tensor->offset <= size);
    }
    walk_keys(gguf);
    status = sp_gguf_config(gguf, &config, &error);
    check_refusal(status, &error);
    if (status == SP_OK) assert(sp_config_text(config, "model_type"));
    sp_config_close(config);
    status = sp_tokenizer_from_gguf(gguf, &tokenizer, &error);
    check_refusal(status, &error);
    sp_tokenizer_close(tokenizer);
    walk_weights(gguf, size);
    sp_gguf_close(gguf);
    return sum == 1 && size == 0; /* the bytes are read for good */
}
