/* Bytes as config.json, through every getter with the keys that the loaders use, and through every
 * architecture: what one takes must be within its limits, with angles that are numbers. A refusal names the
 * file or the key. Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "models/model.h"

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

static void turn(const sp_rope *rope, uint32_t position, uint32_t length)
{
    float cosines[SP_MAX_HEAD_DIM / 2], sines[SP_MAX_HEAD_DIM / 2];
    char note[16];
    sp_rope_fill(rope, 1, &position, &length, cosines, sines);
    for (uint32_t i = 0; i < rope->head_dim / 2; i++) {
        double radius = hypot((double)cosines[i], (double)sines[i]) / rope->scale;
        assert(fabs(radius - 1) < 1e-5);
    }
    sp_rope_note(rope, length, note, sizeof note);
    assert(memchr(note, '\0', sizeof note));
}

static void configure(const sp_arch *arch, sp_config *config)
{
    sp_model model = {.arch = arch, .config = config};
    sp_error error = {0};
    sp_status status = arch->configure(&model, &error);
    const sp_hparams *h = &model.hparams;
    assert(status == SP_OK || (status == SP_DATA && error.param[0]));
    if (status == SP_OK) {
        assert(h->context > 0 && h->hidden > 0 && h->n_layers > 0 && h->vocab > 0 && h->intermediate > 0);
        assert(h->n_kv_heads > 0 && h->n_heads % h->n_kv_heads == 0 && h->head_dim % 2 == 0);
        assert(h->norm_eps > 0);
    }
    if (status == SP_OK && model.rope) {
        turn(model.rope, 0, 1);
        turn(model.rope, h->context - 1, h->context);
    }
    sp_rope_close(model.rope);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_config *config;
    sp_error error = {0};
    sp_status status = sp_config_parse("fuzz.json", (const char *)data, size, &config, &error);
    if (status == SP_OK) {
        read_all(config);
        for (size_t i = 0; sp_archs[i]; i++) configure(sp_archs[i], config);
    } else
        assert(status == SP_DATA && strstr(error.message, "fuzz.json"));
    sp_config_close(config);
    return 0;
}
