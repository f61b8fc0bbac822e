/* Opening a model folder: what is refused, and by which key or tensor; what config.json may leave out; and
 * that a forward pass gives the same bits for a row in any batch. The folder is a copy of
 * tests/golden/models/tiny-llama-tied with changes made to its texts or to its weights. */
#include "tests/support/test.h"
#include "tests/support/model_folder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/model.h"

static void test_opens(void **state)
{
    (void)state;
    sp_model *model;
    sp_error error;
    assert_ok(open_model(&model, &error), error);
    assert_string_equal(model->arch->name, "llama");
    assert_string_equal(model->name, folder + 5);
    const sp_hparams *h = &model->hparams;
    assert_int_equal(h->hidden, 32);
    assert_int_equal(h->n_heads, 4);
    assert_int_equal(h->head_dim, 16);
    assert_true(h->tied);
    assert_true(h->normalizer.alpha == 1.0f);
    assert_int_equal(h->n_eos, 1);
    assert_int_equal(h->bos, 0);
    assert_null(model->attention_pattern);
    /* every value of the file once */
    struct stat info;
    assert_int_equal(stat(inside("model.safetensors"), &info), 0);
    assert_true(model->n_params * 4 < (size_t)info.st_size &&
                model->n_params * 4 + 4096 > (size_t)info.st_size);
    assert_true(model->weight_bytes >= model->n_params * 4);
    sp_model_close(model);
}

static void test_refuses_config(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *param, *says;
    } cases[] = {
        {"model_type", NULL, "model_type", "missing"},
        {"model_type", "\"mixtral\"", "model_type", "mixtral"},
        {"hidden_size", NULL, "hidden_size", "missing"},
        {"hidden_size", "0", "hidden_size", "0"},
        {"hidden_size", "\"32\"", "hidden_size", "integer"},
        {"hidden_size", "48", "model.norm.weight", "hidden_size"},
        {"vocab_size", "271", "vocab_size", "271"},
        {"vocab_size", "280", "model.embed_tokens.weight", "vocab_size"},
        {"vocab_size", "2147483648", "vocab_size", "2147483648"},
        {"num_hidden_layers", "0", "num_hidden_layers", "0"},
        {"num_hidden_layers", "2147483648", "num_hidden_layers", "1024"},
        {"num_hidden_layers", "3", "model.layers.2.self_attn.q_proj.weight", "num_hidden_layers"},
        {"num_hidden_layers", "1", "model.layers.1.input_layernorm.weight", "num_hidden_layers"},
        {"num_attention_heads", "0", "num_attention_heads", "0"},
        {"num_attention_heads", "3", "num_key_value_heads", "num_attention_heads 3"},
        {"num_attention_heads", "8", "model.layers.0.self_attn.q_proj.weight", "num_attention_heads"},
        {"num_key_value_heads", "3", "num_key_value_heads", "num_attention_heads 4"},
        {"num_key_value_heads", "0", "num_key_value_heads", "0"},
        {"num_key_value_heads", "4", "model.layers.0.self_attn.k_proj.weight", "num_key_value_heads"},
        {"head_dim", "15", "head_dim", "even"},
        {"head_dim", "8", "model.layers.0.self_attn.q_proj.weight", "head_dim"},
        {"intermediate_size", "57", "model.layers.0.mlp.gate_proj.weight", "intermediate_size"},
        {"intermediate_size", "-1", "intermediate_size", "-1"},
        {"max_position_embeddings", "0", "max_position_embeddings", "0"},
        {"rms_norm_eps", "0", "rms_norm_eps", "0"},
        {"rope_theta", "0", "rope_theta", "0"},
        {"rope_theta", "-10000", "rope_theta", "-10000"},
        {"rope_scaling", "{\"type\":\"linear\"}", "factor", "rope_scaling"},
        {"rope_scaling", "{\"type\":\"dynamic\",\"factor\":0.5}", "factor", "0.5"},
        {"rope_scaling", "{\"type\":\"yarn\",\"factor\":\"4\"}", "factor", "number"},
        {"rope_scaling", "{\"type\":\"longrope\",\"long_factor\":[1,2]}", "long_factor", "2 elements, not 8"},
        {"rope_scaling", "{\"type\":\"su\",\"short_mscale\":1.1}", "short_mscale", "rope_scaling"},
        {"rope_scaling", "{\"rope_type\":\"spiral\"}", "rope_scaling", "spiral"},
        {"rope_scaling", "{\"factor\":2}", "rope_scaling", "none"},
        {"rope_scaling", "3", "rope_scaling", "object"},
        {"rope_parameters", "{\"rope_type\":\"llama3\",\"rope_theta\":1e5}", "factor", "rope_parameters"},
        {"rope_parameters", "{\"rope_type\":\"mrope\"}", "rope_parameters", "mrope"},
        {"rope_parameters", "{\"full_attention\":{\"rope_theta\":1e5}}", "full_attention", "rope_parameters"},
        {"rope_parameters",
         "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
         "high_freq_factor", "above"},
        {"layer_types", "[\"full_attention\",\"sliding_attention\"]", "layer_types", "full_attention"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":0}", "rope_theta", "rope_parameters"},
        {"partial_rotary_factor", "0.75", "partial_rotary_factor", "0.75"},
        {"hidden_act", "\"gelu\"", "hidden_act", "gelu"},
        {"hidden_act", "3", "hidden_act", "hidden_act"},
        {"attention_bias", "true", "attention_bias", "attention_bias"},
        {"mlp_bias", "true", "mlp_bias", "mlp_bias"},
        {"mlp_bias", "1", "mlp_bias", "true or false"},
        {"sliding_window", "32", "sliding_window", "32"},
        {"num_experts", "8", "num_experts", "num_experts"},
        {"num_local_experts", "8", "num_local_experts", "num_local_experts"},
        {"n_routed_experts", "8", "n_routed_experts", "n_routed_experts"},
        {"quantization_config", "{\"bits\":4}", "quantization_config", "quantization_config"},
        {"attention_normalizer", "\"softpick\"", "attention_normalizer", "entmax15"},
        {"attention_normalizer", "{\"alpha\":0.5}", "attention_normalizer", "alpha"},
        {"bos_token_id", "272", "bos_token_id", "vocab_size"},
        {"bos_token_id", "-1", "bos_token_id", "id"},
        {"eos_token_id", "[0,272]", "eos_token_id", "vocab_size"},
        {"eos_token_id", "[0,1,2,3,4,5,6,7,8]", "eos_token_id", "8"},
        {"tie_word_embeddings", "false", "lm_head.weight", "missing"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        set_key(cases[i].key, cases[i].value);
        check_refused(cases[i].param, cases[i].says);
    }
}

static void test_accepts_config(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"rope_scaling", "null"},
        {"rope_scaling", "{\"rope_type\":\"default\"}"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500}"},
        {"max_position_embeddings", "9007199254740992"},
        {"sliding_window", "null"},
        {"sliding_window", "512"},
        {"layer_types", "[\"full_attention\",\"full_attention\"]"},
        {"mlp_bias", "null"},
        {"bos_token_id", NULL},
        {"eos_token_id", "[1,2]"},
        {"rms_norm_eps", NULL},
        {"unheard_of", "[{}]"},
        {"hidden_act", NULL},
        {"attention_pattern", "{\"backend\":\"strided\"}"},
        {"attention_normalizer", "{\"alpha\":1.25}"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_model *model;
        sp_error error;
        set_key(cases[i][0], cases[i][1]);
        sp_status status = open_model(&model, &error);
        if (status != SP_OK) fail_msg("%s %s: %s", cases[i][0], cases[i][1], error.message);
        if (strcmp(cases[i][0], "rope_parameters") == 0) assert_true(model->hparams.rope_theta == 500);
        if (strcmp(cases[i][0], "attention_normalizer") == 0)
            assert_true(model->hparams.normalizer.alpha == 1.25f);
        if (strcmp(cases[i][0], "attention_pattern") == 0)
            assert_string_equal(model->attention_pattern, "{\"backend\":\"strided\"}");
        if (strcmp(cases[i][0], "bos_token_id") == 0)
            assert_int_equal(model->hparams.bos, 0); /* tokenizer_config's */
        if (strcmp(cases[i][0], "eos_token_id") == 0) assert_int_equal(model->hparams.n_eos, 2);
        sp_model_close(model);
    }
    copy_file("config.json");
}

static void test_refuses_missing_files(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    sp_model *model;
    sp_error error;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        unlink(inside(names[i]));
        assert_int_equal(open_model(&model, &error), SP_NOT_FOUND);
        assert_non_null(strstr(error.message, names[i]));
        assert_int_equal(mkdir(inside(names[i]), 0700), 0);
        assert_int_equal(open_model(&model, &error), SP_DATA);
        assert_non_null(strstr(error.message, names[i]));
        rmdir(inside(names[i]));
        copy_file(names[i]);
    }
    unlink(inside("tokenizer_config.json")); /* this one may be absent */
    assert_ok(open_model(&model, &error), error);
    sp_model_close(model);
    assert_int_equal(sp_model_open("/nowhere", device, NULL, &model, &error), SP_NOT_FOUND);
    assert_int_equal(sp_model_open(inside("config.json"), device, NULL, &model, &error), SP_DATA);
}

/* --- changed weights --- */

static void test_missing_and_swapped_tensors(void **state)
{
    (void)state;
    edited e;
    char name[256];
    begin_edit(&e);
    size_t n = e.n;
    end_edit(&e);
    for (size_t i = 0; i < n; i++) {
        begin_edit(&e);
        snprintf(name, sizeof name, "%s", e.entries[i].name);
        e.entries[i] = e.entries[--e.n];
        end_edit(&e);
        check_refused(name, "missing");
        begin_edit(&e);
        e.entries[i].tensor.dtype = SP_I32;
        end_edit(&e);
        check_refused(name, "I32");
    }
}

static void test_unknown_tensors(void **state)
{
    (void)state;
    static const uint16_t zeros[32] = {0};
    static const struct {
        const char *name;
        bool refused;
    } cases[] = {{"model.layers.0.self_attn.q_proj.bias", true},
                 {"model.layers.1.self_attn.q_norm.weight", true},
                 {"model.layers.2.mlp.up_proj.weight", true},
                 {"model.layers.00x.mlp.up_proj.weight", true},
                 {"model.layers.0.self_attn.rotary_emb.inv_freq", false},
                 {"model.layers.0.something", false},
                 {"lm_head.weight", false},
                 {"extra", false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        edited e;
        sp_model *model;
        sp_error error;
        begin_edit(&e);
        e.entries[e.n++] = (sp_tensor_entry){
            cases[i].name,
            {.dtype = SP_BF16, .rank = 1, .shape = {32}, .data = zeros, .bytes = sizeof zeros}};
        end_edit(&e);
        if (cases[i].refused) {
            check_refused(cases[i].name, "layer");
            continue;
        }
        assert_ok(open_model(&model, &error), error);
        sp_model_close(model);
    }
}

static void test_nonfinite_weights(void **state)
{
    (void)state;
    edited e;
    begin_edit(&e);
    size_t n = e.n;
    end_edit(&e);
    for (size_t i = 0; i < n; i++) {
        char name[256];
        begin_edit(&e);
        snprintf(name, sizeof name, "%s", e.entries[i].name);
        float *values = sp_alloc(e.entries[i].tensor.bytes, 1);
        memcpy(values, e.entries[i].tensor.data, e.entries[i].tensor.bytes);
        values[e.entries[i].tensor.bytes / 4 - 1] = i % 2 ? NAN : -INFINITY;
        e.entries[i].tensor.data = values;
        end_edit(&e);
        sp_free(values);
        check_refused(name, "NaN");
        sp_model *model;
        sp_error error;
        sp_model_options options = {.weights = {.allow_nonfinite = true}};
        assert_ok(sp_model_open(folder, device, &options, &model, &error), error);
        sp_model_close(model);
    }
}

/* --- forward --- */

/* No mixing of rows: every head gets its own value back. */
static sp_status attend(void *context, const sp_attend_call *call, sp_error *error)
{
    const sp_hparams *h = context;
    size_t d = h->head_dim, share = h->n_heads / h->n_kv_heads;
    (void)error;
    for (size_t row = 0; row < call->batch->n_rows; row++)
        for (size_t head = 0; head < h->n_heads; head++)
            for (size_t i = 0; i < d; i++) {
                float q = call->q[(row * h->n_heads + head) * d + i];
                float v = call->v[(row * h->n_kv_heads + head / share) * d + i];
                call->out[(row * h->n_heads + head) * d + i] = v + q * call->scale;
            }
    return SP_OK;
}

static sp_status refuse(void *context, const sp_attend_call *call, sp_error *error)
{
    (void)context;
    return call->layer == 1 ? sp_fail(error, SP_NO_MEMORY, "enough") : (memset(call->out, 0, 64), SP_OK);
}

static void test_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { ROWS = 70 };
    sp_model *model;
    sp_error error;
    assert_ok(open_model(&model, &error), error);
    size_t vocab = model->hparams.vocab, bytes;
    int32_t tokens[ROWS];
    uint32_t positions[ROWS], slots[ROWS];
    uint8_t wants[ROWS];
    for (int i = 0; i < ROWS; i++) {
        tokens[i] = i * 3 % (int)vocab;
        positions[i] = (uint32_t)(i * 5);
        slots[i] = (uint32_t)i / 10;
        wants[i] = i % 3 != 0;
    }
    assert_true(sp_model_scratch_bytes(model, ROWS, ROWS, &bytes));
    void *scratch = sp_alloc(bytes, 1);
    float *all = sp_alloc(ROWS * vocab, sizeof *all), *one = sp_alloc(vocab, sizeof *one);
    sp_batch batch = {
        .n_rows = ROWS, .tokens = tokens, .positions = positions, .slots = slots, .wants_logits = wants};
    memset(scratch, 0xff, bytes);
    assert_ok(sp_model_forward(model, &batch, attend, &model->hparams, scratch, all, &error), error);
    size_t given = 0;
    for (size_t row = 0; row < ROWS; row++) {
        if (!wants[row]) continue;
        sp_batch alone = {.n_rows = 1,
                          .tokens = tokens + row,
                          .positions = positions + row,
                          .slots = slots + row,
                          .wants_logits = wants + row};
        memset(scratch, 0xff, bytes);
        assert_ok(sp_model_forward(model, &alone, attend, &model->hparams, scratch, one, &error), error);
        assert_memory_equal(one, all + given++ * vocab, vocab * sizeof *one);
    }
    memset(wants, 0, sizeof wants);
    assert_ok(sp_model_forward(model, &batch, attend, &model->hparams, scratch, NULL, &error), error);
    assert_int_equal(sp_model_forward(model, &batch, refuse, NULL, scratch, NULL, &error), SP_NO_MEMORY);
    tokens[69] = (int32_t)vocab;
    assert_int_equal(sp_model_forward(model, &batch, attend, &model->hparams, scratch, NULL, &error),
                     SP_INTERNAL);
    assert_false(sp_model_scratch_bytes(model, SIZE_MAX / 8, 1, &bytes));
    sp_free(scratch);
    sp_free(all);
    sp_free(one);
    sp_model_close(model);
}

static double last_fraction;
static void note(void *context, double fraction)
{
    assert_true(fraction >= last_fraction && fraction <= 1.0);
    last_fraction = fraction;
    ++*(int *)context;
}

static void test_tells_progress(void **state)
{
    (void)state;
    int calls = 0;
    sp_model *model;
    sp_error error = {0};
    sp_model_options options = {.progress = note, .progress_context = &calls};
    last_fraction = 0;
    assert_ok(sp_model_open(folder, device, &options, &model, &error), error);
    assert_true(calls >= 3 && last_fraction == 1.0);
    sp_model_close(model);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_opens),
        IN_FOLDER(test_refuses_config),
        IN_FOLDER(test_accepts_config),
        IN_FOLDER(test_refuses_missing_files),
        IN_FOLDER(test_missing_and_swapped_tensors),
        IN_FOLDER(test_unknown_tensors),
        IN_FOLDER(test_nonfinite_weights),
        IN_FOLDER(test_rows_do_not_depend_on_the_batch),
        IN_FOLDER(test_tells_progress),
    };
    sp_error error = {0};
    sp_device_options options = {.n_threads = 2};
    sp_log_set_level(SP_LOG_ERROR);
    if (sp_device_open("cpu", &options, &device, &error) != SP_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed == 0 ? 0 : 1;
}
