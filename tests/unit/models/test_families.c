/* What the families beside llama refuse, and by which key or tensor: copies of their reference folders with
 * one key or tensor changed. */
#include "tests/support/test.h"
#include "tests/support/model_folder.h"

typedef struct change {
    const char *source, *key, *value; /* value NULL: the key is taken out */
    const char *param, *says;         /* of the refusal; NULL: accepted */
} change;

static void check_changes(const change *changes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sp_model *model;
        sp_error error;
        source = changes[i].source;
        copy_all();
        set_key(changes[i].key, changes[i].value);
        if (changes[i].param) {
            check_refused(changes[i].param, changes[i].says);
            continue;
        }
        if (open_model(&model, &error) != SP_OK)
            fail_msg("%s, %s %s: %s", source, changes[i].key, changes[i].value, error.message);
        sp_model_close(model);
    }
}

static void test_windows(void **state)
{
    (void)state;
    static const change changes[] = {
        {"tiny-mistral", "sliding_window", "511", "sliding_window", "512"},
        {"tiny-mistral", "sliding_window", "512", NULL, NULL},
        {"tiny-mistral", "sliding_window", NULL, NULL, NULL},
        {"tiny-phi3", "sliding_window", "256", "sliding_window", "256"},
        {"tiny-phi3-longrope", "sliding_window", "511", "sliding_window", "512"},
        {"tiny-qwen2", "use_sliding_window", "true", "sliding_window", "32"},
        {"tiny-qwen2", "use_sliding_window", NULL, NULL, NULL},
        {"tiny-qwen3", "sliding_window", "8", NULL, NULL},
        {"tiny-qwen3", "layer_types", "[\"sliding_attention\"]", "layer_types", "full_attention"},
    };
    check_changes(changes, COUNT_OF(changes));
}

static void test_keys(void **state)
{
    (void)state;
    static const change changes[] = {
        {"tiny-qwen3", "head_dim", "8", "model.layers.0.self_attn.q_proj.weight", "head_dim"},
        {"tiny-qwen3", "attention_bias", "true", "attention_bias", "true"},
        {"tiny-qwen2", "num_experts", "8", "num_experts", "num_experts"},
        {"tiny-qwen2", "vocab_size", "303", "model.embed_tokens.weight", "vocab_size"},
        {"tiny-phi3", "partial_rotary_factor", "0.75", "partial_rotary_factor", "0.75"},
        {"tiny-phi3", "partial_rotary_factor", "1.0", NULL, NULL},
        {"tiny-phi3", "num_key_value_heads", "3", "model.layers.0.self_attn.qkv_proj.weight",
         "num_key_value_heads"},
        {"tiny-phi3", "intermediate_size", "81", "model.layers.0.mlp.gate_up_proj.weight",
         "intermediate_size"},
        {"tiny-phi3-longrope", "original_max_position_embeddings", "0", "original_max_position_embeddings",
         "0"},
        {"tiny-phi3-longrope", "rope_scaling", "{\"type\":\"longrope\",\"long_factor\":[1,1,1,1,1,1,1,1]}",
         "short_factor", "missing"},
        {"tiny-phi3-longrope", "rope_scaling",
         "{\"type\":\"longrope\",\"long_factor\":[1,1,1,1,1,1,1,0],\"short_factor\":[1,1,1,1,1,1,1,1]}",
         "long_factor", "element 7"},
        {"tiny-llama", "rope_interleaved", "true", "rope_interleaved", "true"},
        {"tiny-llama", "rope_interleaved", "false", NULL, NULL},
        {"tiny-llama", "rope_parameters",
         "{\"rope_type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":0.5}", "partial_rotary_factor",
         "0.5"},
    };
    check_changes(changes, COUNT_OF(changes));
}

static void test_gpt2_keys(void **state)
{
    (void)state;
    static const change changes[] = {
        {"tiny-gpt2", "n_embd", NULL, "n_embd", "missing"},
        {"tiny-gpt2", "n_embd", "48", "transformer.ln_f.weight", "n_embd"},
        {"tiny-gpt2", "n_head", "3", "n_head", "n_embd"},
        {"tiny-gpt2", "n_head", "0", "n_head", "0"},
        {"tiny-gpt2", "n_layer", "3", "transformer.h.2.ln_1.weight", "missing"},
        {"tiny-gpt2", "n_layer", "1", "transformer.h.1.attn.c_attn.bias", "n_layer 1"},
        {"tiny-gpt2-hub", "n_layer", "1", "h.1.attn.bias", "n_layer 1"},
        {"tiny-gpt2", "n_positions", "385", "transformer.wpe.weight", "n_positions"},
        {"tiny-gpt2", "n_inner", "127", "transformer.h.0.mlp.c_fc.weight", "n_inner"},
        {"tiny-gpt2", "n_inner", "128", NULL, NULL},
        {"tiny-gpt2", "activation_function", "\"gelu\"", "activation_function", "'gelu'"},
        {"tiny-gpt2", "activation_function", "1", "activation_function", "?"},
        {"tiny-gpt2", "activation_function", "\"gelu_pytorch_tanh\"", NULL, NULL},
        {"tiny-gpt2", "scale_attn_weights", "false", "scale_attn_weights", "false"},
        {"tiny-gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx", "true"},
        {"tiny-gpt2", "add_cross_attention", "true", "add_cross_attention", "true"},
        {"tiny-gpt2", "quantization_config", "{}", "quantization_config", "quantization_config"},
        {"tiny-gpt2", "layer_norm_epsilon", "-1", "layer_norm_epsilon", "-1"},
        {"tiny-gpt2", "tie_word_embeddings", "false", "lm_head.weight", "missing"},
        {"tiny-gpt2-hub", "tie_word_embeddings", "true", NULL, NULL},
    };
    check_changes(changes, COUNT_OF(changes));
}

/* Every tensor of every family is needed; masks and stale buffers are not. */
static void test_missing_tensors(void **state)
{
    (void)state;
    static const char *const sources[] = {"tiny-qwen2", "tiny-qwen3", "tiny-phi3", "tiny-gpt2",
                                          "tiny-gpt2-hub"};
    for (size_t s = 0; s < COUNT_OF(sources); s++) {
        source = sources[s];
        copy_all();
        edited e;
        begin_edit(&e);
        size_t n = e.n;
        end_edit(&e);
        for (size_t i = 0; i < n; i++) {
            char name[256];
            begin_edit(&e);
            snprintf(name, sizeof name, "%s", e.entries[i].name);
            e.entries[i] = e.entries[--e.n];
            end_edit(&e);
            size_t size = strlen(name);
            bool buffer = size > 10 && strcmp(name + size - 10, ".attn.bias") == 0;
            sp_model *model;
            sp_error error;
            if (buffer) {
                assert_ok(open_model(&model, &error), error);
                sp_model_close(model);
            } else if (strcmp(name, "wte.weight") == 0) {
                check_refused("transformer.ln_f.weight",
                              "missing"); /* then the other spelling is looked for */
            } else {
                check_refused(name, "missing");
            }
        }
    }
}

/* What one family has would change another. */
static void test_foreign_tensors(void **state)
{
    (void)state;
    static const float zeros[64] = {0};
    static const char *const cases[][2] = {
        {"tiny-qwen2", "model.layers.0.self_attn.q_norm.weight"},
        {"tiny-qwen2", "model.layers.1.self_attn.o_proj.bias"},
        {"tiny-qwen3", "model.layers.0.self_attn.q_proj.bias"},
        {"tiny-phi3", "model.layers.0.self_attn.q_proj.weight"},
        {"tiny-phi3", "model.layers.0.self_attn.qkv_proj.bias"},
        {"tiny-llama", "model.layers.0.self_attn.qkv_proj.weight"},
        {"tiny-gpt2", "transformer.h.0.crossattention.c_attn.weight"},
        {"tiny-gpt2", "transformer.h.0.attn.c_attn.lora.bias"},
        {"tiny-gpt2-hub", "h.2.ln_1.weight"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        edited e;
        source = cases[i][0];
        copy_all();
        begin_edit(&e);
        e.entries[e.n++] = (sp_tensor_entry){
            cases[i][1], {.dtype = SP_F32, .rank = 1, .shape = {64}, .data = zeros, .bytes = sizeof zeros}};
        end_edit(&e);
        check_refused(cases[i][1], "belongs to no layer");
    }
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {IN_FOLDER(test_windows), IN_FOLDER(test_keys),
                                       IN_FOLDER(test_gpt2_keys), IN_FOLDER(test_missing_tensors),
                                       IN_FOLDER(test_foreign_tensors)};
    sp_error error = {0};
    sp_device_options options = {.n_threads = 1};
    sp_log_set_level(SP_LOG_ERROR);
    if (sp_device_open("cpu", &options, &device, &error) != SP_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed == 0 ? 0 : 1;
}
