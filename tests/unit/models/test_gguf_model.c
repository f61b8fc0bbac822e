/* A GGUF file as a model: which keys of config.json its metadata becomes, which tensor gets which name, rows
 * of llama's q and k put back in order whatever their type, and every refusal by the GGUF key or tensor, also
 * where an architecture raised it in Hugging Face words. Files are tests/golden/models/NAME/model.gguf with
 * bytes changed, or small ones made by hand. */
#include "tests/support/test.h"
#include "tests/support/gguf_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/model.h"

#define MODELS SPARSED_ROOT "/tests/golden/models/"

static sp_device *device;
static char path[64];

static int open_all(void **state)
{
    (void)state;
    sp_device_options options = {.n_threads = 1};
    snprintf(path, sizeof path, "/tmp/sparsed-gguf-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0) return -1;
    return sp_device_open("cpu", &options, &device, NULL) == SP_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    sp_device_close(device);
    return unlink(path);
}

/* Stores the file, opens it as a model, frees it; both end in one status. */
static sp_status open_model(gguf_file *file, sp_model **model, sp_error *error)
{
    memset(error, 0, sizeof *error);
    gguf_store(file, path);
    gguf_free(file);
    return sp_model_open(path, device, NULL, model, error);
}

static void check_refused(gguf_file *file, const char *param, const char *says)
{
    sp_model *model = NULL;
    sp_error e;
    sp_status status = open_model(file, &model, &e);
    sp_model_close(model);
    if (status != SP_DATA || strcmp(e.param, param) != 0 || !strstr(e.message, says) ||
        strncmp(e.message, path, strlen(path)) != 0)
        fail_msg("wanted [%s] ...%s..., got %s [%s] %s", param, says, sp_status_name(status), e.param,
                 e.message);
}

static void load(gguf_file *file, const char *model)
{
    char name[256];
    snprintf(name, sizeof name, MODELS "%s/model.gguf", model);
    gguf_load(file, name);
}

/* tiny-llama with one more key. */
static void with_key(gguf_file *file, const char *key, uint32_t type, uint64_t value, size_t bytes)
{
    gguf_file keys = {0};
    gguf_key(&keys, key, type), gguf_number(&keys, value, bytes);
    load(file, "tiny-llama");
    gguf_insert(file, &keys, 1);
    gguf_free(&keys);
}

static void with_text(gguf_file *file, const char *key, const char *value)
{
    gguf_file keys = {0};
    gguf_key_text(&keys, key, value);
    load(file, "tiny-llama");
    gguf_insert(file, &keys, 1);
    gguf_free(&keys);
}

static uint64_t bits(float value)
{
    uint32_t word;
    memcpy(&word, &value, 4);
    return word;
}

/* Renames a key or tensor in place by its last letter: absent. */
static void hide(gguf_file *file, const char *name)
{
    size_t place = gguf_find(file, name);
    assert_true(place != 0);
    file->bytes[place - 1] ^= 1;
}

static void test_config(void **state)
{
    (void)state;
    static const struct {
        const char *model, *key, *value; /* value NULL: absent */
    } cases[] = {{"tiny-llama", "model_type", "\"llama\""},
                 {"tiny-llama", "hidden_size", "64"},
                 {"tiny-llama", "intermediate_size", "40"},
                 {"tiny-llama", "num_hidden_layers", "2"},
                 {"tiny-llama", "num_attention_heads", "4"},
                 {"tiny-llama", "num_key_value_heads", "2"},
                 {"tiny-llama", "max_position_embeddings", "512"},
                 {"tiny-llama", "vocab_size", "272"},
                 {"tiny-llama", "rope_theta", "10000"},
                 {"tiny-llama", "rope_scaling", NULL},
                 {"tiny-llama", "head_dim", NULL},
                 {"tiny-llama", "tie_word_embeddings", "false"},
                 {"tiny-llama", "attention_normalizer", NULL},
                 {"tiny-llama", "bos_token_id", "0"},
                 {"tiny-llama", "eos_token_id", "[0]"},
                 {"tiny-llama-entmax15", "attention_normalizer", "\"entmax15\""},
                 {"tiny-llama-entmax15", "head_dim", "16"},
                 {"tiny-llama-linear", "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":4}"},
                 {"tiny-llama-yarn", "rope_scaling",
                  "{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":32,\"beta_slow\":1,"
                  "\"original_max_position_embeddings\":128}"},
                 {"tiny-qwen2", "model_type", "\"qwen2\""},
                 {"tiny-qwen2", "vocab_size", "304"},
                 {"tiny-qwen2", "tie_word_embeddings", "true"},
                 {"tiny-qwen3", "model_type", "\"qwen3\""},
                 {"tiny-phi3", "model_type", "\"phi3\""},
                 {"tiny-phi3", "rope_scaling", NULL},
                 {"tiny-phi3", "original_max_position_embeddings", NULL},
                 {"tiny-gpt2", "model_type", "\"gpt2\""},
                 {"tiny-gpt2", "n_embd", "32"},
                 {"tiny-gpt2", "n_layer", "2"},
                 {"tiny-gpt2", "n_head", "2"},
                 {"tiny-gpt2", "n_positions", "384"},
                 {"tiny-gpt2", "n_inner", "128"},
                 {"tiny-gpt2", "activation_function", "\"gelu_new\""},
                 {"tiny-gpt2", "vocab_size", "272"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char name[256];
        sp_gguf *gguf;
        sp_config *config;
        sp_error e = {0};
        snprintf(name, sizeof name, MODELS "%s/model.gguf", cases[i].model);
        assert_ok(sp_gguf_open(name, &gguf, &e), e);
        assert_ok(sp_gguf_config(gguf, &config, &e), e);
        char *value = sp_config_json(config, cases[i].key);
        if (!value != !cases[i].value || (value && strcmp(value, cases[i].value) != 0))
            fail_msg("%s: %s is %s", cases[i].model, cases[i].key, value ? value : "absent");
        sp_free(value);
        sp_config_close(config);
        sp_gguf_close(gguf);
    }
}

/* The rest of the keys, on small changes of tiny-llama: served with this value in the config. */
static void check_value(gguf_file *file, const char *key, const char *wanted)
{
    sp_model *model;
    sp_error e;
    assert_ok(open_model(file, &model, &e), e);
    char *value = sp_config_json(model->config, key);
    assert_non_null(value);
    assert_string_equal(value, wanted);
    sp_free(value);
    sp_model_close(model);
}

static void test_more_config(void **state)
{
    (void)state;
    gguf_file f = {0}, keys = {0};
    with_key(&f, "llama.rope.scale_linear", GGUF_F32, bits(2.0f), 4);
    check_value(&f, "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":2}");
    with_key(&f, "tokenizer.ggml.eot_token_id", GGUF_U32, 7, 4);
    check_value(&f, "eos_token_id", "[0,7]");
    gguf_key_text(&keys, "llama.attention.normalizer", "entmax");
    gguf_key(&keys, "llama.attention.entmax_alpha", GGUF_F32), gguf_float(&keys, 1.25f);
    load(&f, "tiny-llama"), gguf_insert(&f, &keys, 2), gguf_free(&keys);
    check_value(&f, "attention_normalizer", "{\"alpha\":1.25}");
    gguf_key_text(&keys, "llama.rope.scaling.type", "yarn");
    gguf_key(&keys, "llama.rope.scaling.factor", GGUF_F32), gguf_float(&keys, 4.0f);
    gguf_key(&keys, "llama.rope.scaling.attn_factor", GGUF_F32), gguf_float(&keys, 0.5f);
    load(&f, "tiny-llama"), gguf_insert(&f, &keys, 3), gguf_free(&keys);
    sp_model *model;
    sp_error e;
    double factor;
    assert_ok(open_model(&f, &model, &e), e);
    const sp_config *rope = sp_config_object(model->config, "rope_scaling");
    assert_ok(sp_config_double(rope, "attention_factor", NULL, 0, 9, &factor, &e), e);
    assert_true(fabs(factor - 0.5 * (0.1 * log(4.0) + 1)) < 1e-12);
    assert_string_equal(model->name, path + 5);
    sp_model_close(model);
    /* What may stand beside all that: keys that say nothing has been done. */
    with_key(&f, "llama.expert_count", GGUF_U32, 0, 4);
    check_value(&f, "model_type", "\"llama\"");
    with_key(&f, "llama.attention.sliding_window", GGUF_U32, 512, 4);
    check_value(&f, "model_type", "\"llama\"");
    with_key(&f, "llama.attention.causal", GGUF_BOOL, 1, 1);
    check_value(&f, "model_type", "\"llama\"");
    with_key(&f, "llama.logit_scale", GGUF_F32, bits(1.0f), 4);
    check_value(&f, "model_type", "\"llama\"");
    with_key(&f, "split.count", GGUF_U16, 1, 2);
    check_value(&f, "model_type", "\"llama\"");
    with_text(&f, "llama.rope.scaling.type", "none");
    check_value(&f, "rope_theta", "10000");
    load(&f, "tiny-llama"), gguf_set(&f, "llama.context_length", UINT32_MAX, 4);
    check_value(&f, "max_position_embeddings", "4294967295");
}

static void test_features_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t type;
        uint64_t value;
        size_t bytes;
    } cases[] = {{"llama.expert_count", GGUF_U32, 8, 4},
                 {"llama.expert_used_count", GGUF_U32, 2, 4},
                 {"llama.attention.sliding_window", GGUF_U32, 511, 4},
                 {"llama.attention.sliding_window", GGUF_F32, 0, 4},
                 {"llama.attention.causal", GGUF_BOOL, 0, 1},
                 {"llama.attention.causal", GGUF_U8, 1, 1},
                 {"llama.use_parallel_residual", GGUF_BOOL, 1, 1},
                 {"llama.attn_logit_softcapping", GGUF_F32, 0x42480000, 4},
                 {"llama.final_logit_softcapping", GGUF_F32, 0x41f00000, 4},
                 {"llama.logit_scale", GGUF_F32, 0x40000000, 4},
                 {"llama.embedding_scale", GGUF_F32, 0x7fc00000, 4},
                 {"llama.attention.clamp_kqv", GGUF_F32, 0x41000000, 4},
                 {"llama.attention.scale", GGUF_F32, 0x3f000000, 4},
                 {"llama.attention.kv_lora_rank", GGUF_U32, 512, 4},
                 {"llama.attention.value_length", GGUF_U32, 8, 4},
                 {"llama.rope.dimension_sections", GGUF_U32, 0, 4},
                 {"llama.rope.scaling.attn_factor", GGUF_F32, 0x3f000000, 4},
                 {"llama.attention.entmax_alpha", GGUF_F32, 0x3fc00000, 4},
                 {"split.count", GGUF_U16, 2, 2},
                 {"split.count", GGUF_F32, 0, 4}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        gguf_file f = {0};
        with_key(&f, cases[i].key, cases[i].type, cases[i].value, cases[i].bytes);
        check_refused(&f, cases[i].key, cases[i].key);
    }
    gguf_file f = {0}, keys = {0};
    with_text(&f, "llama.attention.normalizer", "softpick");
    check_refused(&f, "llama.attention.normalizer", "softpick");
    with_text(&f, "llama.attention.normalizer", "entmax");
    check_refused(&f, "llama.attention.entmax_alpha", "missing");
    for (float alpha = 1.0f; alpha < 3; alpha += 1.5f) {
        gguf_key_text(&keys, "llama.attention.normalizer", "entmax");
        gguf_key(&keys, "llama.attention.entmax_alpha", GGUF_F32), gguf_float(&keys, alpha);
        load(&f, "tiny-llama"), gguf_insert(&f, &keys, 2), gguf_free(&keys);
        check_refused(&f, "llama.attention.entmax_alpha", "2");
    }
    with_text(&f, "llama.rope.scaling.type", "spiral");
    check_refused(&f, "llama.rope.scaling.type", "none of none");
    with_text(&f, "llama.rope.scaling.type", "longrope");
    check_refused(&f, "llama.rope.scaling.original_context_length", "missing");
    load(&f, "tiny-llama"), memcpy(f.bytes + gguf_find(&f, "general.type") + 12, "vocab", 5);
    check_refused(&f, "general.type", "vocab");
    load(&f, "tiny-llama"), memcpy(f.bytes + gguf_find(&f, "general.architecture") + 12, "lambda", 5);
    check_refused(&f, "general.architecture", "'lambd'");
}

/* Values that are wrong, missing or at odds, whoever finds out. */
static void test_values_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint64_t value;
        const char *says;
    } cases[] = {
        {"llama.block_count", 0, "llama.block_count"},
        {"llama.block_count", 1, "blk.1"},
        {"llama.block_count", 3, "blk.2."},
        {"llama.block_count", 0x7fffffff, "llama.block_count"},
        {"llama.embedding_length", 0, "llama.embedding_length"},
        {"llama.attention.head_count", 0, "llama.attention.head_count"},
        {"llama.attention.head_count", 0xffffffff, "llama.attention.head_count"},
        {"llama.attention.head_count_kv", 3, "llama.attention.head_count_kv 3"},
        {"llama.context_length", 0, "llama.context_length"},
        {"llama.vocab_size", 270, "270"},
        {"llama.attention.layer_norm_rms_epsilon", 0xff800000, "llama.attention.layer_norm_rms_epsilon"},
        {"llama.rope.freq_base", 0x7fc00000, "llama.rope.freq_base"},
        {"llama.rope.dimension_count", 8, "partial rotation"},
        {"tokenizer.ggml.bos_token_id", 272, "tokenizer.ggml.bos_token_id"},
        {"tokenizer.ggml.eos_token_id", 0xffffffff, "tokenizer.ggml.eos_token_id"}};
    gguf_file f = {0};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_model *model = NULL;
        sp_error e;
        load(&f, "tiny-llama"), gguf_set(&f, cases[i].key, cases[i].value, 4);
        assert_int_equal(open_model(&f, &model, &e), SP_DATA);
        if (!strstr(e.message, cases[i].says) || !strstr(e.message, path) ||
            strstr(e.message, "config.json") || strstr(e.message, "model.layers") ||
            strstr(e.message, "num_"))
            fail_msg("%s: [%s] %s", cases[i].key, e.param, e.message);
    }
    static const char *const required[] = {"general.architecture",
                                           "llama.block_count",
                                           "llama.context_length",
                                           "llama.embedding_length",
                                           "llama.feed_forward_length",
                                           "llama.attention.head_count",
                                           "llama.attention.layer_norm_rms_epsilon",
                                           "tokenizer.ggml.model",
                                           "tokenizer.ggml.tokens",
                                           "tokenizer.ggml.merges"};
    for (size_t i = 0; i < COUNT_OF(required); i++) {
        load(&f, "tiny-llama"), hide(&f, required[i]);
        check_refused(&f, required[i], "is missing");
    }
    /* A key whose value would be read as another type. */
    load(&f, "tiny-llama"), f.bytes[gguf_find(&f, "llama.block_count")] = GGUF_F32;
    check_refused(&f, "llama.block_count", "one integer");
    load(&f, "tiny-llama"), f.bytes[gguf_find(&f, "tokenizer.ggml.token_type") + 4] = GGUF_F32;
    check_refused(&f, "tokenizer.ggml.token_type", "array of integers");
}

static void test_tensors_are_refused(void **state)
{
    (void)state;
    gguf_file f = {0};
    static const char *const needed[] = {"blk.1.ffn_up.weight", "blk.0.attn_q.weight", "token_embd.weight",
                                         "output_norm.weight"};
    for (size_t i = 0; i < COUNT_OF(needed); i++) {
        char renamed[64];
        snprintf(renamed, sizeof renamed, "%s", needed[i]);
        renamed[strlen(renamed) - 1] ^= 1;
        load(&f, "tiny-llama"), hide(&f, needed[i]);
        check_refused(&f, renamed, "belongs to no part");
    }
    /* Without output.weight the head is tied: no missing tensor. But not under a name in its place. */
    load(&f, "tiny-llama"), memcpy(f.bytes + gguf_find(&f, "output.weight") - 13, "unused", 6);
    sp_model *model;
    sp_error e;
    assert_ok(open_model(&f, &model, &e), e);
    assert_true(model->hparams.tied);
    sp_model_close(model);
    load(&f, "tiny-llama"), memcpy(f.bytes + gguf_find(&f, "blk.1.attn_v.weight") - 13, "attn_z", 6);
    check_refused(&f, "blk.1.attn_z.weight", "belongs to no part");
    load(&f, "tiny-llama"), memcpy(f.bytes + gguf_find(&f, "blk.1.attn_v.weight") - 15, "7", 1);
    check_refused(&f, "blk.7.attn_v.weight", "blk.7.attn_v.weight");
    load(&f, "tiny-llama"), f.bytes[gguf_find(&f, "blk.1.attn_v.weight") + 4] = 32;
    check_refused(&f, "blk.1.attn_v.weight", "[32, 32]");
    load(&f, "tiny-llama"), f.bytes[gguf_find(&f, "blk.0.attn_k.weight") + 12] = 31;
    check_refused(&f, "blk.0.attn_k.weight", "31 rows");
    load(&f, "tiny-llama"), memset(f.bytes + f.size - 16, 0xff, 16);
    check_refused(&f, "output_norm.weight", "NaN");
}

/* Two heads and one KV head of 4 rows; each row's bytes say where it stood. */
static void make_rows(gguf_file *f, uint32_t type, size_t row_bytes)
{
    const uint64_t q[] = {32, 8}, k[] = {32, 4};
    gguf_begin(f, 3, 3, 3);
    gguf_key_text(f, "general.architecture", "llama");
    gguf_key_u32(f, "llama.attention.head_count", 2), gguf_key_u32(f, "llama.attention.head_count_kv", 1);
    gguf_tensor(f, "blk.0.attn_q.weight", 2, q, type, 0),
        gguf_tensor(f, "blk.0.attn_k.weight", 2, k, type, 1024);
    gguf_tensor(f, "blk.0.attn_v.weight", 2, k, type, 2048);
    gguf_data(f, 32, 0);
    size_t start = f->size, rows[] = {8, 4, 4};
    gguf_data(f, 1, 3072);
    for (size_t t = 0; t < 3; t++)
        for (size_t r = 0; r < rows[t]; r++)
            memset(f->bytes + start + 1024 * t + r * row_bytes, 1 + (int)r, row_bytes);
}

static void check_rows(const sp_weights *weights, const char *name, size_t row_bytes, const char *order)
{
    const sp_tensor *t = sp_weights_find(weights, name);
    assert_non_null(t);
    assert_int_equal(t->bytes, strlen(order) * row_bytes);
    for (size_t i = 0; i < t->bytes; i++)
        assert_int_equal(((const uint8_t *)t->data)[i], order[i / row_bytes] - '0' + 1);
}

static void test_rows_are_put_back(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        size_t row_bytes;
    } types[] = {{0, 128}, {1, 64}, {30, 64}, {8, 34}, {2, 18}, {7, 24}};
    for (size_t i = 0; i < COUNT_OF(types); i++)
        for (int how = 0; how < 3; how++) {
            gguf_file f = {0};
            sp_gguf *gguf;
            sp_weights *weights;
            sp_error e = {0};
            sp_weights_options options = {.use_mmap = how == 1, .allow_nonfinite = true};
            make_rows(&f, types[i].type, types[i].row_bytes);
            gguf_store(&f, path);
            if (how == 2)
                assert_ok(sp_gguf_parse("file", f.bytes, f.size, &gguf, &e), e);
            else
                assert_ok(sp_gguf_open(path, &gguf, &e), e);
            assert_ok(sp_weights_from_gguf(gguf, &options, &weights, &e), e);
            assert_false(sp_weights_transposed(weights));
            size_t row = types[i].row_bytes;
            check_rows(weights, "model.layers.0.self_attn.q_proj.weight", row, "02134657");
            check_rows(weights, "model.layers.0.self_attn.k_proj.weight", row, "0213");
            check_rows(weights, "model.layers.0.self_attn.v_proj.weight", row, "0123");
            sp_gguf_close(gguf);
            sp_weights_close(weights);
            gguf_free(&f);
        }
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *model, *name;
        size_t rank, rows;
    } cases[] = {{"tiny-llama", "model.layers.1.post_attention_layernorm.weight", 1, 64},
                 {"tiny-llama", "model.layers.0.mlp.gate_proj.weight", 2, 40},
                 {"tiny-llama", "lm_head.weight", 2, 272},
                 {"tiny-qwen2", "model.layers.1.self_attn.k_proj.bias", 1, 32},
                 {"tiny-qwen3", "model.layers.1.self_attn.q_norm.weight", 1, 16},
                 {"tiny-phi3", "model.layers.0.self_attn.qkv_proj.weight", 2, 80},
                 {"tiny-phi3", "model.layers.0.mlp.gate_up_proj.weight", 2, 160},
                 {"tiny-gpt2", "transformer.wpe.weight", 2, 384},
                 {"tiny-gpt2", "transformer.h.1.attn.c_attn.weight", 2, 96},
                 {"tiny-gpt2", "transformer.h.1.mlp.c_proj.bias", 1, 32},
                 {"tiny-gpt2", "transformer.ln_f.bias", 1, 32}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char name[256];
        sp_weights *weights;
        sp_error e = {0};
        snprintf(name, sizeof name, MODELS "%s/model.gguf", cases[i].model);
        assert_ok(sp_weights_open(name, NULL, &weights, &e), e);
        const sp_tensor *t = sp_weights_find(weights, cases[i].name);
        if (!t) fail_msg("%s lacks %s", cases[i].model, cases[i].name);
        assert_int_equal(t->rank, cases[i].rank);
        assert_int_equal(t->shape[0], cases[i].rows);
        assert_int_equal(sp_weights_transposed(weights), strcmp(cases[i].model, "tiny-gpt2") == 0);
        sp_weights_close(weights);
    }
}

static void test_what_is_no_model(void **state)
{
    (void)state;
    sp_model *model;
    gguf_file f = {0};
    sp_error e;
    gguf_raw(&f, "just a text", 11);
    assert_int_equal(open_model(&f, &model, &e), SP_DATA);
    assert_non_null(strstr(e.message, "neither"));
    gguf_raw(&f, "GGUF", 4);
    check_refused(&f, "header", "cut short");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_config),
                                       cmocka_unit_test(test_more_config),
                                       cmocka_unit_test(test_features_are_refused),
                                       cmocka_unit_test(test_values_are_refused),
                                       cmocka_unit_test(test_tensors_are_refused),
                                       cmocka_unit_test(test_rows_are_put_back),
                                       cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_what_is_no_model)};
    return cmocka_run_group_tests(tests, open_all, close_all) == 0 ? 0 : 1;
}
