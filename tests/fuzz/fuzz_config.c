/* Bytes as config.json, through every getter with the keys that the loaders use. A refusal names the file.
 * Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <string.h>

#include "models/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const keys[] = {"model_type",
                                   "hidden_size",
                                   "rope_theta",
                                   "tie_word_embeddings",
                                   "eos_token_id",
                                   "bos_token_id",
                                   "rope_scaling",
                                   "attention_normalizer",
                                   "factor",
                                   "attention_pattern",
                                   "a"};

static void check(sp_status status, const sp_error *error, const char *key)
{
    assert(status == SP_OK || (status == SP_DATA && strcmp(error->param, key) == 0));
}

static void read_all(sp_config *config)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *key = keys[i];
        sp_error error = {0};
        int64_t integer, least = 1;
        double number;
        bool flag, present;
        int32_t ids[3];
        size_t count;
        sp_normalizer normalizer;
        check(sp_config_int(config, key, &least, 1, 1 << 20, &integer, &error), &error, key);
        assert(error.status != SP_OK || (integer >= 1 && integer <= 1 << 20));
        check(sp_config_double(config, key, NULL, 0.5, 1e9, &number, &error), &error, key);
        check(sp_config_bool(config, key, true, &flag, &error), &error, key);
        check(sp_config_ids(config, key, ids, 3, &count, &error), &error, key);
        assert(count <= 3);
        check(sp_config_normalizer(config, key, &present, &normalizer, &error), &error, key);
        const char *text = sp_config_text(config, key);
        assert(!text || sp_config_has(config, key));
        char *json = sp_config_json(config, key);
        assert(!json || sp_config_has(config, key));
        sp_free(json);
        const sp_config *inner = sp_config_object(config, key);
        if (inner) check(sp_config_int(inner, "factor", &least, 1, 64, &integer, &error), &error, "factor");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_config *config;
    sp_error error = {0};
    sp_status status = sp_config_parse("fuzz.json", (const char *)data, size, &config, &error);
    if (status == SP_OK)
        read_all(config);
    else
        assert(status == SP_DATA && strstr(error.message, "fuzz.json"));
    sp_config_close(config);
    return 0;
}
