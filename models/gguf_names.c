/* Names: what GGUF calls an architecture, its tensors and its keys, and what Hugging Face calls them.
 *
 * Tensor names are kept as pairs of stems; ".weight" or ".bias" behind them stays. A tensor inside a layer,
 * or at the ends of the model, whose name is not in the table would change the result if it were ignored: it
 * is refused by its name. Errors that architectures raise in Hugging Face words are turned back the same way.
 * Source: the names of the GGUF specification and of gguf-py's tensor mapping. Tests:
 * tests/unit/models/test_gguf_model.c */
#include <stdio.h>
#include <string.h>

#include "models/gguf_parts.h"

/* clang-format off */
static const char *const llama_names[] = {
    "token_embd",           "model.embed_tokens",
    "output_norm",          "model.norm",
    "output",               "lm_head",
    "blk.%u.attn_norm",     "model.layers.%u.input_layernorm",
    "blk.%u.attn_q",        "model.layers.%u.self_attn.q_proj",
    "blk.%u.attn_k",        "model.layers.%u.self_attn.k_proj",
    "blk.%u.attn_v",        "model.layers.%u.self_attn.v_proj",
    "blk.%u.attn_output",   "model.layers.%u.self_attn.o_proj",
    "blk.%u.attn_q_norm",   "model.layers.%u.self_attn.q_norm",
    "blk.%u.attn_k_norm",   "model.layers.%u.self_attn.k_norm",
    "blk.%u.ffn_norm",      "model.layers.%u.post_attention_layernorm",
    "blk.%u.ffn_gate",      "model.layers.%u.mlp.gate_proj",
    "blk.%u.ffn_up",        "model.layers.%u.mlp.up_proj",
    "blk.%u.ffn_down",      "model.layers.%u.mlp.down_proj",
    NULL};
static const char *const phi3_names[] = {
    "token_embd",           "model.embed_tokens",
    "output_norm",          "model.norm",
    "output",               "lm_head",
    "blk.%u.attn_norm",     "model.layers.%u.input_layernorm",
    "blk.%u.attn_qkv",      "model.layers.%u.self_attn.qkv_proj",
    "blk.%u.attn_output",   "model.layers.%u.self_attn.o_proj",
    "blk.%u.ffn_norm",      "model.layers.%u.post_attention_layernorm",
    "blk.%u.ffn_up",        "model.layers.%u.mlp.gate_up_proj",
    "blk.%u.ffn_down",      "model.layers.%u.mlp.down_proj",
    NULL};
static const char *const gpt2_names[] = {
    "token_embd",           "transformer.wte",
    "position_embd",        "transformer.wpe",
    "output_norm",          "transformer.ln_f",
    "output",               "lm_head",
    "blk.%u.attn_norm",     "transformer.h.%u.ln_1",
    "blk.%u.attn_qkv",      "transformer.h.%u.attn.c_attn",
    "blk.%u.attn_output",   "transformer.h.%u.attn.c_proj",
    "blk.%u.ffn_norm",      "transformer.h.%u.ln_2",
    "blk.%u.ffn_up",        "transformer.h.%u.mlp.c_fc",
    "blk.%u.ffn_down",      "transformer.h.%u.mlp.c_proj",
    NULL};
/* clang-format on */

static const sp_gguf_arch archs[] = {
    {.name = "llama", .model_type = "llama", .rotates_pairs = true, .names = llama_names},
    {.name = "qwen2", .model_type = "qwen2", .names = llama_names},
    {.name = "qwen3", .model_type = "qwen3", .names = llama_names},
    {.name = "phi3", .model_type = "phi3", .names = phi3_names},
    {.name = "gpt2", .model_type = "gpt2", .transposed = true, .names = gpt2_names}};

sp_status sp_gguf_arch_of(const sp_gguf *gguf, const sp_gguf_arch **out, sp_error *error)
{
    static const char *const key = "general.architecture";
    const char *name;
    size_t size;
    *out = NULL;
    sp_status status = sp_gguf_text(gguf, key, &name, &size, error);
    if (status != SP_OK) return status;
    if (!name) return sp_gguf_fail_key(gguf, key, "is missing", error);
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(archs[i].name, name) == 0) {
            *out = &archs[i];
            return SP_OK;
        }
    return sp_fail_param(
        error, SP_DATA, key,
        "%s: key '%s' is '%.60s', which is not supported; llama, qwen2, qwen3, phi3 and gpt2 are", gguf->name,
        key, name);
}

/* --- tensors --- */

/* Whether the stem (n bytes) is the pattern with a number in the place of "%u"; the number's digits. */
static bool matches(const char *pattern, const char *stem, size_t n, const char **digits, size_t *n_digits)
{
    const char *mark = strstr(pattern, "%u");
    *n_digits = 0;
    *digits = "";
    if (!mark) return strlen(pattern) == n && memcmp(pattern, stem, n) == 0;
    size_t before = (size_t)(mark - pattern), after = strlen(mark + 2);
    if (n <= before + after || memcmp(pattern, stem, before) != 0) return false;
    if (memcmp(mark + 2, stem + n - after, after) != 0) return false;
    *digits = stem + before;
    *n_digits = n - before - after;
    if (*n_digits > 6 || (**digits == '0' && *n_digits > 1)) return false;
    return strspn(*digits, "0123456789") >= *n_digits;
}

/* Translates pairs[i] into pairs[i + 1] (from 0) or back (from 1); out has room for 256 bytes. */
static bool translate(const char *const *pairs, size_t from, const char *name, char *out)
{
    const char *suffix = strrchr(name, '.'), *digits;
    size_t n_digits;
    if (!suffix || (strcmp(suffix, ".weight") != 0 && strcmp(suffix, ".bias") != 0)) return false;
    for (size_t i = 0; pairs[i]; i += 2) {
        if (!matches(pairs[i + from], name, (size_t)(suffix - name), &digits, &n_digits)) continue;
        const char *to = pairs[i + 1 - from], *mark = strstr(to, "%u");
        int before = (int)(mark ? mark - to : (ptrdiff_t)strlen(to));
        snprintf(out, 256, "%.*s%.*s%s%s", before, to, (int)n_digits, digits, mark ? mark + 2 : "", suffix);
        return true;
    }
    return false;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

sp_gguf_naming sp_gguf_to_hugging(const sp_gguf_arch *arch, const char *name, char *out)
{
    /* What stands in front of names that belong to a model's own passage through its tensors. */
    static const char *const inner[] = {"blk.", "output", "token_", "position_", "rope_",
                                        "enc.", "dec.",   "cls",    "v.",        "mm."};
    static const char *const read_elsewhere[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                                 "rope_factors_short.weight"};
    if (translate(arch->names, 0, name, out)) return SP_GGUF_NAMED;
    if (strncmp(name, "blk.", 4) == 0 &&
        (ends_with(name, ".attn_rot_embd") || ends_with(name, ".attn_rot_embd.weight")))
        return SP_GGUF_IGNORE;
    for (size_t i = 0; i < sizeof read_elsewhere / sizeof *read_elsewhere; i++)
        if (strcmp(name, read_elsewhere[i]) == 0) return arch->transposed ? SP_GGUF_REFUSE : SP_GGUF_IGNORE;
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++)
        if (strncmp(name, inner[i], strlen(inner[i])) == 0) return SP_GGUF_REFUSE;
    snprintf(out, 256, "%s", name);
    return SP_GGUF_OTHER;
}

sp_status sp_gguf_check_tensors(const sp_gguf *gguf, const sp_gguf_arch *arch, sp_error *error)
{
    char name[256];
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const sp_gguf_tensor *t = &gguf->tensors[i];
        if (!t->supported)
            return sp_fail_param(
                error, SP_DATA, t->name,
                "%s: tensor '%.100s' has type %s (%u), which is not supported; F32, F16, BF16, "
                "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are",
                gguf->name, t->name, t->type, (unsigned)t->type_number);
        if (sp_gguf_to_hugging(arch, t->name, name) == SP_GGUF_REFUSE)
            return sp_fail_param(error, SP_DATA, t->name,
                                 "%s: tensor '%.100s' belongs to no part of a %s model", gguf->name, t->name,
                                 arch->name);
    }
    return SP_OK;
}

/* --- errors --- */

/* A key of config.json and the key it came from; a leading '.' stands for the architecture. */
static const char *const keys[][2] = {
    {"model_type", "general.architecture"},
    {"vocab_size", ".vocab_size"},
    {"hidden_size", ".embedding_length"},
    {"n_embd", ".embedding_length"},
    {"intermediate_size", ".feed_forward_length"},
    {"n_inner", ".feed_forward_length"},
    {"num_hidden_layers", ".block_count"},
    {"n_layer", ".block_count"},
    {"num_attention_heads", ".attention.head_count"},
    {"n_head", ".attention.head_count"},
    {"num_key_value_heads", ".attention.head_count_kv"},
    {"head_dim", ".attention.key_length"},
    {"max_position_embeddings", ".context_length"},
    {"n_positions", ".context_length"},
    {"rms_norm_eps", ".attention.layer_norm_rms_epsilon"},
    {"layer_norm_epsilon", ".attention.layer_norm_epsilon"},
    {"rope_theta", ".rope.freq_base"},
    {"rope_scaling", ".rope.scaling.type"},
    {"factor", ".rope.scaling.factor"},
    {"attention_factor", ".rope.scaling.attn_factor"},
    {"beta_fast", ".rope.scaling.yarn_beta_fast"},
    {"beta_slow", ".rope.scaling.yarn_beta_slow"},
    {"original_max_position_embeddings", ".rope.scaling.original_context_length"},
    {"short_factor", "rope_factors_short.weight"},
    {"long_factor", "rope_factors_long.weight"},
    {"attention_normalizer", ".attention.normalizer"},
    {"bos_token_id", "tokenizer.ggml.bos_token_id"},
    {"eos_token_id", "tokenizer.ggml.eos_token_id"},
    {"tie_word_embeddings", "output.weight"},
    {"tokenizer.json", "tokenizer.ggml.tokens"},
    {"vocab", "tokenizer.ggml.tokens"},
    {"added_tokens", "tokenizer.ggml.tokens"},
    {"merges", "tokenizer.ggml.merges"},
    {"pre_tokenizer", "tokenizer.ggml.pre"},
    {"pre_tokenizer pattern", "tokenizer.ggml.pre"},
    {"normalizer", "tokenizer.ggml.pre"},
    {"bos_token", "tokenizer.ggml.bos_token_id"},
    {"eos_token", "tokenizer.ggml.eos_token_id"}};

/* What a word of an error is called in this file; false where it is nothing of ours. arch may be NULL. */
static bool rename_word(const sp_gguf *gguf, const sp_gguf_arch *arch, const char *word, bool quoted,
                        char *out)
{
    static const char *const files[] = {"config.json", "tokenizer_config.json", "model.safetensors"};
    if (arch && translate(arch->names, 1, word, out)) return true;
    if (quoted) return false; /* a value */
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(word, files[i]) == 0) {
            snprintf(out, 256, "%s", gguf->name);
            return true;
        }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(word, keys[i][0]) == 0) {
            bool within = keys[i][1][0] == '.';
            if (within && !arch) return false;
            snprintf(out, 256, "%s%s", within ? arch->name : "", keys[i][1]);
            return true;
        }
    return false;
}

static size_t word_length(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.");
    while (n > 0 && text[n - 1] == '.') n--;
    return n;
}

void sp_gguf_explain(const sp_gguf *gguf, sp_error *error)
{
    const sp_gguf_arch *arch = NULL;
    char param[256], message[sizeof error->message], word[256], renamed[256];
    size_t used = 0;
    if (!error || sp_gguf_arch_of(gguf, &arch, NULL) == SP_NO_MEMORY) return;
    for (const char *from = error->message; *from && used + 1 < sizeof message;) {
        size_t n = word_length(from);
        bool quoted = from > error->message && from[-1] == '\'';
        bool path = (from > error->message && from[-1] == '/') || from[n] == '/';
        if (n && n < sizeof word) {
            memcpy(word, from, n);
            word[n] = 0;
            const char *to = !path && rename_word(gguf, arch, word, quoted, renamed) ? renamed : word;
            used += (size_t)snprintf(message + used, sizeof message - used, "%s", to);
            from += n;
        } else {
            message[used++] = *from++;
        }
    }
    message[used < sizeof message ? used : sizeof message - 1] = 0;
    if (!rename_word(gguf, arch, error->param, false, param))
        snprintf(param, sizeof param, "%s", error->param);
    if (strncmp(message, gguf->name, strlen(gguf->name)) == 0)
        sp_fail_param(error, error->status, param, "%s", message);
    else
        sp_fail_param(error, error->status, param, "%s: %s", gguf->name, message);
}
