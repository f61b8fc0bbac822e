/* GGUF metadata as the keys of config.json, after everything that is not built was refused by its key.
 *
 * Ignoring a key that changes the result gives wrong text, so the keys that could are listed here, whatever
 * architecture the file claims. Rotary scaling: "linear" and "yarn" as keys; longrope's two rows of factors
 * and Llama 3's frequency divisors as tensors, which are read here. llama.cpp multiplies YaRN's own magnitude
 * 0.1 ln(factor) + 1 by attn_factor, Hugging Face's attention_factor replaces the product. The normalizer
 * keys are ours (DESIGN 5). Tests: tests/unit/models/test_gguf_model.c */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/json.h"
#include "models/gguf_parts.h"

#define MAX_SIZE ((int64_t)1 << 31)
#define MAX_EXACT ((int64_t)1 << 53) /* beyond, a JSON number is no integer */
#define MAX_HALF_HEAD 4096u

/* What is on the way: the first error stays, later calls do nothing. */
typedef struct maker {
    const sp_gguf *gguf;
    const sp_gguf_arch *arch;
    sp_json_writer json;
    sp_status status;
    sp_error *error;
    int64_t context, hidden, heads, head_dim;
} maker;

/* "ARCH.SUFFIX" in a place of its own. */
typedef struct key {
    char text[128];
} key;

static key key_of(const maker *m, const char *suffix)
{
    key k;
    snprintf(k.text, sizeof k.text, "%s.%s", m->arch->name, suffix);
    return k;
}

static bool has(const maker *m, const char *suffix)
{
    return sp_gguf_has(m->gguf, key_of(m, suffix).text);
}

static void refuse(maker *m, const char *suffix, const char *reason)
{
    if (m->status == SP_OK) m->status = sp_gguf_fail_key(m->gguf, key_of(m, suffix).text, reason, m->error);
}

/* An integer behind the architecture's name; fallback NULL: required. */
static int64_t get_int(maker *m, const char *suffix, const int64_t *fallback, int64_t min, int64_t max)
{
    int64_t value = min;
    if (m->status == SP_OK)
        m->status = sp_gguf_int(m->gguf, key_of(m, suffix).text, fallback, min, max, &value, m->error);
    return value;
}

static double get_double(maker *m, const char *suffix, const double *fallback, double min, double max)
{
    double value = min;
    if (m->status == SP_OK)
        m->status = sp_gguf_double(m->gguf, key_of(m, suffix).text, fallback, min, max, &value, m->error);
    return value;
}

/* "" when absent. */
static const char *get_text(maker *m, const char *whole_key)
{
    const char *text = NULL;
    size_t size;
    if (m->status == SP_OK) m->status = sp_gguf_text(m->gguf, whole_key, &text, &size, m->error);
    return text ? text : "";
}

/* --- refusals --- */

/* Split files, and files that hold no model. */
static void check_general(maker *m)
{
    int64_t one = 1, count = 1;
    const char *type = get_text(m, "general.type");
    if (m->status == SP_OK && *type && strcmp(type, "model") != 0)
        m->status = sp_fail_param(m->error, SP_DATA, "general.type",
                                  "%s: key 'general.type' is '%.60s', not 'model'", m->gguf->name, type);
    if (m->status == SP_OK) m->status = sp_gguf_int(m->gguf, "split.count", &one, 0, 65535, &count, m->error);
    if (m->status == SP_OK && count > 1)
        m->status =
            sp_fail_param(m->error, SP_DATA, "split.count",
                          "%s: key 'split.count' is %lld: split files are not supported, merge them first",
                          m->gguf->name, (long long)count);
}

static void check_features(maker *m)
{
    static const char *const zero[] = {"expert_count",
                                       "expert_used_count",
                                       "expert_shared_count",
                                       "attn_logit_softcapping",
                                       "final_logit_softcapping",
                                       "attention.clamp_kqv",
                                       "attention.max_alibi_bias",
                                       "attention.scale",
                                       "attention.q_lora_rank",
                                       "attention.kv_lora_rank",
                                       "attention.temperature_length",
                                       "ssm.inner_size",
                                       "nextn_predict_layers",
                                       "attention.shared_kv_layers"};
    static const char *const one[] = {"logit_scale", "residual_scale", "embedding_scale"};
    double none = 0;
    bool causal = true, parallel = false;
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        if (get_double(m, zero[i], &none, -INFINITY, INFINITY) != 0) refuse(m, zero[i], "is not supported");
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) {
        double scale = get_double(m, one[i], &none, -INFINITY, INFINITY);
        if (scale != 0 && scale != 1) refuse(m, one[i], "is not supported");
    }
    if (m->status == SP_OK)
        m->status = sp_gguf_bool(m->gguf, key_of(m, "attention.causal").text, true, &causal, m->error);
    if (m->status == SP_OK)
        m->status =
            sp_gguf_bool(m->gguf, key_of(m, "use_parallel_residual").text, false, &parallel, m->error);
    if (!causal) refuse(m, "attention.causal", "is false, which is not supported");
    if (parallel) refuse(m, "use_parallel_residual", "is true, which is not supported");
    if (has(m, "rope.dimension_sections")) refuse(m, "rope.dimension_sections", "is not supported");
}

static void check_window(maker *m)
{
    int64_t none = 0;
    int64_t window = get_int(m, "attention.sliding_window", &none, 0, INT64_MAX);
    if (window > 0 && window < m->context)
        refuse(m, "attention.sliding_window", "is shorter than the context and not supported");
}

/* --- sizes --- */

static void write_int(maker *m, const char *name, int64_t value)
{
    sp_json_key(&m->json, name);
    sp_json_int(&m->json, value < MAX_EXACT ? value : MAX_EXACT);
}

static void write_number(maker *m, const char *name, double value)
{
    sp_json_key(&m->json, name);
    sp_json_number(&m->json, value);
}

/* Rows of the embedding: by key, else by tensor, else by the number of tokens. */
static int64_t vocabulary(maker *m)
{
    const sp_gguf_tensor *embedding = sp_gguf_tensor_find(m->gguf, "token_embd.weight");
    sp_gguf_array tokens;
    bool present;
    if (has(m, "vocab_size")) return get_int(m, "vocab_size", NULL, 1, MAX_SIZE);
    if (embedding && embedding->tensor.rank == 2 && embedding->tensor.shape[0] < (size_t)MAX_SIZE)
        return (int64_t)embedding->tensor.shape[0];
    if (m->status == SP_OK)
        m->status =
            sp_gguf_array_open(m->gguf, "tokenizer.ggml.tokens", SP_GGUF_TEXTS, &present, &tokens, m->error);
    if (m->status == SP_OK && !present)
        refuse(m, "vocab_size", "is missing, and there are no tokens to count");
    return m->status == SP_OK ? (int64_t)tokens.count : 1;
}

static void write_sizes(maker *m)
{
    bool gpt2 = m->arch->transposed;
    int64_t layers = get_int(m, "block_count", NULL, 1, MAX_SIZE);
    int64_t inner = get_int(m, "feed_forward_length", NULL, 1, MAX_SIZE);
    int64_t kv_heads = get_int(m, "attention.head_count_kv", &m->heads, 1, MAX_SIZE);
    int64_t vocab = vocabulary(m);
    const char *eps_key = gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    double eps = get_double(m, eps_key, NULL, 1e-30, 1.0);
    if (gpt2 && kv_heads != m->heads)
        refuse(m, "attention.head_count_kv", "differs from the number of heads");
    write_int(m, "vocab_size", vocab);
    write_int(m, gpt2 ? "n_embd" : "hidden_size", m->hidden);
    write_int(m, gpt2 ? "n_layer" : "num_hidden_layers", layers);
    write_int(m, gpt2 ? "n_head" : "num_attention_heads", m->heads);
    write_int(m, gpt2 ? "n_inner" : "intermediate_size", inner);
    write_int(m, gpt2 ? "n_positions" : "max_position_embeddings", m->context);
    write_number(m, gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", eps);
    sp_json_key(&m->json, gpt2 ? "activation_function" : "hidden_act");
    sp_json_cstring(&m->json, gpt2 ? "gelu_new" : "silu");
    if (!gpt2) write_int(m, "num_key_value_heads", kv_heads);
    sp_json_key(&m->json, "tie_word_embeddings");
    sp_json_bool(&m->json, !sp_gguf_tensor_find(m->gguf, "output.weight"));
}

/* --- rotary embedding --- */

/* The head size, which all of key_length, value_length and rope.dimension_count must agree on. */
static void write_head(maker *m)
{
    int64_t quotient = m->hidden / m->heads;
    bool gpt2 = m->arch->transposed;
    m->head_dim = get_int(m, "attention.key_length", &quotient, 1, MAX_SIZE);
    if (get_int(m, "attention.value_length", &m->head_dim, 1, MAX_SIZE) != m->head_dim)
        refuse(m, "attention.value_length", "differs from the length of keys, which is not supported");
    if (get_int(m, "rope.dimension_count", &m->head_dim, 0, MAX_SIZE) != m->head_dim && !gpt2)
        refuse(m, "rope.dimension_count", "is not the head size: partial rotation is not supported");
    if (gpt2 && m->head_dim != quotient)
        refuse(m, "attention.key_length", "is not the quotient of embedding_length and head_count");
    if (!gpt2 && has(m, "attention.key_length")) write_int(m, "head_dim", m->head_dim);
}

/* A tensor of head_dim / 2 divisors as a JSON array. */
static void write_factors(maker *m, const char *name, const char *tensor_name)
{
    double values[MAX_HALF_HEAD];
    const sp_gguf_tensor *t = sp_gguf_tensor_find(m->gguf, tensor_name);
    size_t half = (size_t)m->head_dim / 2;
    if (m->status != SP_OK) return;
    if (!t || t->tensor.rank != 1 || t->tensor.shape[0] != half || half > MAX_HALF_HEAD) {
        m->status =
            sp_fail_param(m->error, SP_DATA, tensor_name, "%s: tensor '%s' %s [%zu]", m->gguf->name,
                          tensor_name, t ? "must have shape" : "is missing; its shape would be", half);
        return;
    }
    m->status = sp_gguf_values(m->gguf, t, values, m->error);
    if (m->status != SP_OK) return;
    sp_json_key(&m->json, name);
    sp_json_open(&m->json, '[');
    for (size_t i = 0; i < half; i++) {
        sp_json_number(&m->json, values[i]);
        if (!(values[i] >= 1e-6 && values[i] <= 1e9) && m->status == SP_OK)
            m->status =
                sp_fail_param(m->error, SP_DATA, tensor_name, "%s: tensor '%s' holds %g, not in 1e-06..1e+09",
                              m->gguf->name, tensor_name, values[i]);
    }
    sp_json_close(&m->json, ']');
}

static void write_type(maker *m, const char *type)
{
    sp_json_key(&m->json, "rope_scaling");
    sp_json_open(&m->json, '{');
    sp_json_key(&m->json, "rope_type");
    sp_json_cstring(&m->json, type);
}

/* Divisors of the frequencies that hold for every length: longrope whose two rows are one. */
static void write_divisors(maker *m)
{
    write_type(m, "longrope");
    write_factors(m, "short_factor", "rope_freqs.weight");
    write_factors(m, "long_factor", "rope_freqs.weight");
    write_number(m, "attention_factor", 1.0);
    write_int(m, "original_max_position_embeddings", m->context);
    sp_json_close(&m->json, '}');
}

static void write_longrope(maker *m)
{
    double none = 0;
    int64_t original = get_int(m, "rope.scaling.original_context_length", NULL, 1, INT64_MAX);
    double magnitude = get_double(m, "rope.scaling.attn_factor", &none, 0, 1e6);
    write_type(m, "longrope");
    write_factors(m, "short_factor", "rope_factors_short.weight");
    write_factors(m, "long_factor", "rope_factors_long.weight");
    if (magnitude > 0) write_number(m, "attention_factor", magnitude);
    write_int(m, "original_max_position_embeddings", original);
    sp_json_close(&m->json, '}');
    write_int(m, "original_max_position_embeddings", original);
}

static void write_yarn(maker *m, double factor)
{
    static const char *const neutral[] = {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"};
    double one = 1, none = 0, fast = 32;
    double magnitude = get_double(m, "rope.scaling.attn_factor", &one, 1e-6, 1e6);
    for (size_t i = 0; i < 2; i++)
        if (get_double(m, neutral[i], &one, -INFINITY, INFINITY) != 1)
            refuse(m, neutral[i], "other than 1 is not supported");
    if (get_double(m, "rope.scaling.yarn_log_multiplier", &none, -INFINITY, INFINITY) != 0)
        refuse(m, "rope.scaling.yarn_log_multiplier", "is not supported");
    write_type(m, "yarn");
    write_number(m, "factor", factor);
    write_number(m, "beta_fast", get_double(m, "rope.scaling.yarn_beta_fast", &fast, 1e-6, 1e6));
    write_number(m, "beta_slow", get_double(m, "rope.scaling.yarn_beta_slow", &one, 1e-6, 1e6));
    if (magnitude != 1) write_number(m, "attention_factor", magnitude * (0.1 * log(factor) + 1));
    write_int(m, "original_max_position_embeddings",
              get_int(m, "rope.scaling.original_context_length", &m->context, 1, INT64_MAX));
    sp_json_close(&m->json, '}');
}

static void write_rope(maker *m)
{
    double theta = 10000, one = 1;
    write_number(m, "rope_theta", get_double(m, "rope.freq_base", &theta, 1, 1e15));
    const char *type = get_text(m, key_of(m, "rope.scaling.type").text);
    bool old = !*type && has(m, "rope.scale_linear"),
         divisors = sp_gguf_tensor_find(m->gguf, "rope_freqs.weight");
    bool rows = sp_gguf_tensor_find(m->gguf, "rope_factors_short.weight") ||
                sp_gguf_tensor_find(m->gguf, "rope_factors_long.weight") || strcmp(type, "longrope") == 0;
    double factor = get_double(m, old ? "rope.scale_linear" : "rope.scaling.factor", &one, 1e-6, 1e6);
    bool linear = old || strcmp(type, "linear") == 0 || (!*type && factor != 1),
         yarn = strcmp(type, "yarn") == 0;
    if (*type && strcmp(type, "none") != 0 && !linear && !yarn && !rows)
        refuse(m, "rope.scaling.type", "is none of none, linear, yarn and longrope");
    if (linear + yarn + rows + divisors > 1)
        refuse(m, "rope.scaling.type", "stands beside tensors of rotary factors, which is not supported");
    double magnitude = get_double(m, "rope.scaling.attn_factor", &one, 0, 1e6);
    if (!yarn && !rows && magnitude != 1 && magnitude != 0)
        refuse(m, "rope.scaling.attn_factor", "is not supported with this scaling");
    if (m->status != SP_OK) return;
    if (divisors) write_divisors(m);
    if (rows) write_longrope(m);
    if (yarn) write_yarn(m, factor);
    if (linear && factor != 1) {
        write_type(m, "linear");
        write_number(m, "factor", factor);
        sp_json_close(&m->json, '}');
    }
}

/* --- what the model was trained with, and its token ids --- */

static void write_normalizer(maker *m)
{
    static const char *const suffix = "attention.normalizer", *const alpha_suffix = "attention.entmax_alpha";
    const char *name = get_text(m, key_of(m, suffix).text);
    bool entmax = strcmp(name, "entmax") == 0;
    if (!entmax && has(m, alpha_suffix)) refuse(m, alpha_suffix, "is there without the normalizer 'entmax'");
    if (m->status != SP_OK || !sp_gguf_has(m->gguf, key_of(m, suffix).text)) return;
    if (entmax) {
        double alpha = get_double(m, alpha_suffix, NULL, 1, 2);
        if (!(alpha > 1)) refuse(m, alpha_suffix, "must be above 1 and at most 2");
        sp_json_key(&m->json, "attention_normalizer");
        sp_json_open(&m->json, '{');
        write_number(m, "alpha", alpha);
        sp_json_close(&m->json, '}');
        return;
    }
    if (strcmp(name, "softmax") != 0 && strcmp(name, "entmax15") != 0 && strcmp(name, "sparsemax") != 0) {
        m->status = sp_fail_param(m->error, SP_DATA, key_of(m, suffix).text,
                                  "%s: key '%s' is '%.60s', not softmax, entmax15, sparsemax or entmax",
                                  m->gguf->name, key_of(m, suffix).text, name);
        return;
    }
    sp_json_key(&m->json, "attention_normalizer");
    sp_json_cstring(&m->json, name);
}

static int64_t token_id(maker *m, const char *whole_key)
{
    int64_t none = -1, id = -1;
    if (m->status == SP_OK && sp_gguf_has(m->gguf, whole_key))
        m->status = sp_gguf_int(m->gguf, whole_key, &none, 0, INT32_MAX, &id, m->error);
    return id;
}

/* A chat's turn may end in another token than a text: both end the answer. */
static void write_tokens(maker *m)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t bos = token_id(m, "tokenizer.ggml.bos_token_id"), ids[3];
    size_t n = 0;
    for (size_t i = 0; i < 3; i++) {
        int64_t id = token_id(m, ends[i]);
        bool known = id < 0;
        for (size_t k = 0; k < n; k++) known = known || ids[k] == id;
        if (!known) ids[n++] = id;
    }
    if (bos >= 0) write_int(m, "bos_token_id", bos);
    sp_json_key(&m->json, "eos_token_id");
    sp_json_open(&m->json, '[');
    for (size_t i = 0; i < n; i++) sp_json_int(&m->json, ids[i]);
    sp_json_close(&m->json, ']');
}

sp_status sp_gguf_config(const sp_gguf *gguf, sp_config **out, sp_error *error)
{
    maker m = {.gguf = gguf, .error = error, .hidden = 1, .heads = 1, .head_dim = 1};
    sp_buffer text;
    *out = NULL;
    sp_buffer_init(&text, (size_t)1 << 20);
    check_general(&m);
    if (m.status == SP_OK) m.status = sp_gguf_arch_of(gguf, &m.arch, error);
    if (m.status != SP_OK) return m.status;
    m.context = get_int(&m, "context_length", NULL, 1, INT64_MAX);
    m.hidden = get_int(&m, "embedding_length", NULL, 1, MAX_SIZE);
    m.heads = get_int(&m, "attention.head_count", NULL, 1, MAX_SIZE);
    check_features(&m);
    check_window(&m);
    if (m.status == SP_OK) m.status = sp_gguf_check_tensors(gguf, m.arch, error);
    sp_json_writer_init(&m.json, &text);
    sp_json_open(&m.json, '{');
    sp_json_key(&m.json, "model_type");
    sp_json_cstring(&m.json, m.arch->model_type);
    write_sizes(&m);
    write_head(&m);
    if (!m.arch->transposed) write_rope(&m);
    write_normalizer(&m);
    write_tokens(&m);
    sp_json_close(&m.json, '}');
    if (m.status == SP_OK && text.failed)
        m.status = sp_fail(error, SP_NO_MEMORY, "%s: out of memory", gguf->name);
    if (m.status == SP_OK) m.status = sp_config_parse(gguf->name, text.data, text.size, out, error);
    sp_buffer_fini(&text);
    return m.status;
}
