/* The tokenizer in a GGUF file's metadata, by way of the tokenizer.json that means the same.
 *
 *   tokenizer.ggml.model "gpt2"   byte-level BPE; tokens, token_type and merges are arrays
 *   tokenizer.ggml.pre            a name for what cuts the text before; here the pre_tokenizer it stands for
 *
 * Token types: 1 normal; 3 control, special when written in a text; 4 user defined, found in every text;
 * 5 unused, a row of the embedding without a token. GGUF has no word for lstrip, rstrip or normalizers other
 * than the family's own. BOS and EOS are added where add_bos_token and add_eos_token say so. The text is
 * made, read by tokenizer_load.c and dropped. Tests: tests/unit/models/test_gguf_model.c,
 * tests/golden/test_tokenizers.c */
#include <stdio.h>
#include <string.h>

#include "kernels/json.h"
#include "models/gguf.h"
#include "models/tokenizer.h"

#define MAX_JSON ((size_t)64 << 20)

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

/* Parts of tokenizer.json; regular expressions are spelled as JSON spells them. */
/* clang-format off */
#define BYTES(regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":" regex "}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define SPLIT(regex) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "]}"
#define SPACES "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define WORDS(digits) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|" SPACES
#define DEEPSEEK_CODER \
    SPLIT("[\\r\\n]") "," SPLIT("\\\\s?\\\\p{L}+") "," SPLIT("\\\\s?\\\\p{P}+") "," \
    SPLIT("[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+") "," DIGITS
#define DEEPSEEK_V3 \
    SPLIT("\\\\p{N}{1,3}") "," SPLIT("[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+") "," \
    SPLIT("[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+" \
          "|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*" \
          "|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+")
/* clang-format on */

/* A family of pre-tokenizers: names of tokenizer.ggml.pre that mean it, and what it is in tokenizer.json. */
static const struct {
    const char *names[4];
    const char *pre_tokenizer, *normalizer;
    bool ignore_merges;
} families[] = {{.names = {"gpt-2", "phi-2"}, .pre_tokenizer = BYTES("true")},
                {.names = {"llama-bpe", "llama3", "llama-v3"},
                 .pre_tokenizer = SEQUENCE(SPLIT(WORDS("\\\\p{N}{1,3}")) "," BYTES("false")),
                 .ignore_merges = true},
                {.names = {"qwen2"},
                 .pre_tokenizer = SEQUENCE(SPLIT(WORDS("\\\\p{N}")) "," BYTES("false")),
                 .normalizer = "{\"type\":\"NFC\"}"},
                {.names = {"starcoder", "smollm"}, .pre_tokenizer = SEQUENCE(DIGITS "," BYTES("true"))},
                {.names = {"deepseek-coder"}, .pre_tokenizer = SEQUENCE(DEEPSEEK_CODER "," BYTES("false"))},
                {.names = {"deepseek-v3"}, .pre_tokenizer = SEQUENCE(DEEPSEEK_V3 "," BYTES("false"))}};

typedef struct translation {
    const sp_gguf *gguf;
    sp_json_writer json;
    size_t family;
    sp_error *error;
} translation;

static sp_status fail_entry(const translation *t, const char *key, size_t entry, const char *reason)
{
    return sp_fail_param(t->error, SP_DATA, key, "%s: key '%s' entry %zu %s", sp_gguf_name(t->gguf), key,
                         entry, reason);
}

static sp_status choose_family(translation *t)
{
    const char *model, *pre;
    size_t size;
    sp_status status = sp_gguf_text(t->gguf, "tokenizer.ggml.model", &model, &size, t->error);
    if (status == SP_OK) status = sp_gguf_text(t->gguf, "tokenizer.ggml.pre", &pre, &size, t->error);
    if (status != SP_OK) return status;
    if (!model) return sp_gguf_fail_key(t->gguf, "tokenizer.ggml.model", "is missing", t->error);
    if (strcmp(model, "gpt2") != 0)
        return sp_fail_param(t->error, SP_DATA, "tokenizer.ggml.model",
                             "%s: key 'tokenizer.ggml.model' '%.60s' is not supported", sp_gguf_name(t->gguf),
                             model);
    if (!pre) return sp_gguf_fail_key(t->gguf, "tokenizer.ggml.pre", "is missing", t->error);
    for (t->family = 0; t->family < sizeof families / sizeof *families; t->family++)
        for (size_t i = 0; i < 4 && families[t->family].names[i]; i++)
            if (strcmp(families[t->family].names[i], pre) == 0) return SP_OK;
    return sp_fail_param(t->error, SP_DATA, "tokenizer.ggml.pre",
                         "%s: key 'tokenizer.ggml.pre' '%.60s' is not supported", sp_gguf_name(t->gguf), pre);
}

/* Opens the tokens and, in step with them, their types; absent types are all normal. */
static sp_status open_tokens(const translation *t, sp_gguf_array *tokens, sp_gguf_array *kinds)
{
    static const char *const key = "tokenizer.ggml.tokens", *const kind_key = "tokenizer.ggml.token_type";
    bool present;
    sp_status status = sp_gguf_array_open(t->gguf, key, SP_GGUF_TEXTS, &present, tokens, t->error);
    if (status == SP_OK && !present) return sp_gguf_fail_key(t->gguf, key, "is missing", t->error);
    if (status == SP_OK)
        status = sp_gguf_array_open(t->gguf, kind_key, SP_GGUF_INTEGERS, &present, kinds, t->error);
    if (status == SP_OK && present && kinds->count != tokens->count)
        status =
            sp_gguf_fail_key(t->gguf, kind_key, "has another number of elements than the tokens", t->error);
    return status;
}

/* The next token and its type; false behind the last. */
static bool next_token(sp_gguf_array *tokens, sp_gguf_array *kinds, const char **text, size_t *size,
                       int64_t *kind)
{
    *kind = NORMAL;
    if (!sp_gguf_next_text(tokens, text, size)) return false;
    (void)sp_gguf_next_int(kinds, kind);
    return true;
}

static void write_added(translation *t, size_t id, const char *text, size_t size, bool special)
{
    sp_json_open(&t->json, '{');
    sp_json_key(&t->json, "id");
    sp_json_uint(&t->json, id);
    sp_json_key(&t->json, "content");
    sp_json_string(&t->json, text, size);
    sp_json_key(&t->json, "special");
    sp_json_bool(&t->json, special);
    sp_json_close(&t->json, '}');
}

static sp_status write_added_tokens(translation *t)
{
    sp_gguf_array tokens, kinds;
    const char *text;
    size_t size;
    int64_t kind;
    sp_status status = open_tokens(t, &tokens, &kinds);
    if (status != SP_OK) return status;
    sp_json_key(&t->json, "added_tokens");
    sp_json_open(&t->json, '[');
    while (next_token(&tokens, &kinds, &text, &size, &kind)) {
        if (kind < NORMAL || kind > BYTE)
            return fail_entry(t, "tokenizer.ggml.token_type", tokens.index - 1, "is no type of 1 to 6");
        if (!sp_utf8_valid(text, size))
            return fail_entry(t, "tokenizer.ggml.tokens", tokens.index - 1, "is not UTF-8");
        if (kind == CONTROL || kind == USER_DEFINED)
            write_added(t, tokens.index - 1, text, size, kind == CONTROL);
    }
    sp_json_close(&t->json, ']');
    return SP_OK;
}

static sp_status write_vocab(translation *t)
{
    sp_gguf_array tokens, kinds;
    const char *text;
    size_t size;
    int64_t kind;
    char piece[4097];
    sp_status status = open_tokens(t, &tokens, &kinds);
    if (status != SP_OK) return status;
    sp_json_key(&t->json, "vocab");
    sp_json_open(&t->json, '{');
    while (next_token(&tokens, &kinds, &text, &size, &kind)) {
        if (kind != NORMAL && kind != UNKNOWN && kind != BYTE) continue;
        if (size >= sizeof piece || memchr(text, 0, size))
            return fail_entry(t, "tokenizer.ggml.tokens", tokens.index - 1,
                              "is longer than 4096 bytes or holds a NUL");
        memcpy(piece, text, size);
        piece[size] = 0;
        sp_json_key(&t->json, piece);
        sp_json_uint(&t->json, tokens.index - 1);
    }
    sp_json_close(&t->json, '}');
    return SP_OK;
}

static sp_status write_merges(translation *t)
{
    static const char *const key = "tokenizer.ggml.merges";
    sp_gguf_array merges;
    const char *text;
    size_t size;
    bool present;
    sp_status status = sp_gguf_array_open(t->gguf, key, SP_GGUF_TEXTS, &present, &merges, t->error);
    if (status == SP_OK && !present) status = sp_gguf_fail_key(t->gguf, key, "is missing", t->error);
    if (status != SP_OK) return status;
    sp_json_key(&t->json, "merges");
    sp_json_open(&t->json, '[');
    while (sp_gguf_next_text(&merges, &text, &size)) {
        if (!sp_utf8_valid(text, size)) return fail_entry(t, key, merges.index - 1, "is not UTF-8");
        sp_json_string(&t->json, text, size);
    }
    sp_json_close(&t->json, ']');
    return SP_OK;
}

static sp_status write_model(translation *t)
{
    sp_json_key(&t->json, "model");
    sp_json_open(&t->json, '{');
    sp_json_key(&t->json, "type");
    sp_json_cstring(&t->json, "BPE");
    sp_json_key(&t->json, "ignore_merges");
    sp_json_bool(&t->json, families[t->family].ignore_merges);
    sp_status status = write_vocab(t);
    if (status == SP_OK) status = write_merges(t);
    sp_json_close(&t->json, '}');
    return status;
}

/* --- BOS and EOS --- */

/* The text of a token that a key names by its id; *text NULL when the key is absent. */
static sp_status named_token(const translation *t, const char *key, int64_t *id, const char **text,
                             size_t *size)
{
    sp_gguf_array tokens, kinds;
    int64_t kind;
    *text = NULL;
    *id = -1;
    if (!sp_gguf_has(t->gguf, key)) return SP_OK;
    sp_status status = open_tokens(t, &tokens, &kinds);
    if (status != SP_OK) return status;
    if (tokens.count == 0)
        return sp_gguf_fail_key(t->gguf, key, "names a token, and there are none", t->error);
    status = sp_gguf_int(t->gguf, key, NULL, 0, (int64_t)tokens.count - 1, id, t->error);
    for (int64_t i = 0; i <= *id && status == SP_OK; i++)
        (void)next_token(&tokens, &kinds, text, size, &kind);
    if (status == SP_OK && kind == UNUSED)
        status = sp_gguf_fail_key(t->gguf, key, "names an unused token", t->error);
    return status;
}

static sp_status write_ends(translation *t, sp_json_writer *config)
{
    static const char *const keys[2][3] = {
        {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token", "bos_token"},
        {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token", "eos_token"}};
    int64_t ids[2];
    bool adds[2];
    sp_json_open(config, '{');
    for (size_t i = 0; i < 2; i++) {
        const char *text;
        size_t size = 0;
        sp_status status = named_token(t, keys[i][0], &ids[i], &text, &size);
        if (status == SP_OK) status = sp_gguf_bool(t->gguf, keys[i][1], false, &adds[i], t->error);
        if (status == SP_OK && adds[i] && ids[i] < 0)
            status = sp_gguf_fail_key(t->gguf, keys[i][1], "is true but the token's id is missing", t->error);
        if (status != SP_OK) return status;
        if (ids[i] < 0) continue;
        sp_json_key(config, keys[i][2]);
        sp_json_string(config, text, size);
    }
    sp_json_close(config, '}');
    if (!adds[0] && !adds[1]) return SP_OK;
    sp_json_key(&t->json, "post_processor");
    sp_json_open(&t->json, '{');
    sp_json_key(&t->json, "type");
    sp_json_cstring(&t->json, "TemplateProcessing");
    sp_json_key(&t->json, "single");
    char single[160];
    int n = snprintf(single, sizeof single, "[%s{\"Sequence\":{\"id\":\"A\"}}%s]",
                     adds[0] ? "{\"SpecialToken\":{\"id\":\"BOS\"}}," : "",
                     adds[1] ? ",{\"SpecialToken\":{\"id\":\"EOS\"}}" : "");
    sp_json_raw(&t->json, single, (size_t)n);
    n = snprintf(single, sizeof single, "{\"BOS\":{\"ids\":[%lld]},\"EOS\":{\"ids\":[%lld]}}",
                 (long long)ids[0], (long long)ids[1]);
    sp_json_key(&t->json, "special_tokens");
    sp_json_raw(&t->json, single, (size_t)n);
    sp_json_close(&t->json, '}');
    return SP_OK;
}

static void write_raw(translation *t, const char *key, const char *json)
{
    sp_json_key(&t->json, key);
    sp_json_raw(&t->json, json, strlen(json));
}

static sp_status write_all(translation *t, sp_json_writer *config)
{
    sp_status status = choose_family(t);
    if (status != SP_OK) return status;
    const char *normalizer = families[t->family].normalizer;
    sp_json_open(&t->json, '{');
    write_raw(t, "normalizer", normalizer ? normalizer : "null");
    write_raw(t, "pre_tokenizer", families[t->family].pre_tokenizer);
    write_raw(t, "decoder", BYTES("true"));
    status = write_added_tokens(t);
    if (status == SP_OK) status = write_model(t);
    if (status == SP_OK) status = write_ends(t, config);
    sp_json_close(&t->json, '}');
    return status;
}

sp_status sp_tokenizer_from_gguf(const sp_gguf *gguf, sp_tokenizer **out, sp_error *error)
{
    translation t = {.gguf = gguf, .error = error};
    sp_json_writer config_json;
    sp_buffer text, config;
    sp_error reason = {0};
    *out = NULL;
    sp_buffer_init(&text, MAX_JSON);
    sp_buffer_init(&config, (size_t)1 << 20);
    sp_json_writer_init(&t.json, &text);
    sp_json_writer_init(&config_json, &config);
    sp_status status = write_all(&t, &config_json);
    if (status == SP_OK && (text.failed || config.failed))
        status = sp_gguf_fail_key(gguf, "tokenizer.ggml.tokens", "and its fellows are over 64 MiB", error);
    if (status == SP_OK) {
        status = sp_tokenizer_parse(sp_gguf_name(gguf), text.data, text.size, config.data, config.size, out,
                                    &reason);
        if (status != SP_OK) sp_gguf_explain(gguf, &reason);
        if (status != SP_OK && error) *error = reason;
    }
    sp_buffer_fini(&text);
    sp_buffer_fini(&config);
    return status;
}
