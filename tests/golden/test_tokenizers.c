/* Encodings made by the Hugging Face tokenizers library, told in tests/golden/tokenizers/NAME/cases.json:
 * ids, spelling of tokens, byte offsets, ids with what the post-processor adds, ids with special tokens read
 * as plain text, and decoded text. A byte-level token may hold part of a character: the library widens its
 * range to whole characters, so ours is widened before it is compared. */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "kernels/json.h"
#include "models/gguf.h"
#include "models/tokenizer.h"

#define MAX_IDS 4096

typedef struct ids {
    int64_t values[MAX_IDS];
    size_t n;
} ids;

typedef struct golden {
    sp_arena arena;
    char *name, *text, *decoded, *decoded_skip;
    size_t text_size, decoded_size, skip_size;
    ids base, special, plain, offsets;
    bool has_special, has_plain, has_offsets;
    bool not_gguf; /* vocab.gguf can't say what this case needs */
    char *tokens[MAX_IDS];
    size_t n_tokens;
} golden;

static sp_tokenizer *tokenizer;

static void read_ids(sp_json *reader, ids *out)
{
    assert_int_equal(sp_json_next(reader), SP_JSON_ARRAY);
    uint32_t depth = reader->depth;
    out->n = 0;
    for (sp_json_type type; (type = sp_json_next(reader)) != SP_JSON_ARRAY_END || reader->depth >= depth;)
        if (type == SP_JSON_NUMBER) {
            assert_true(out->n < MAX_IDS);
            assert_true(sp_json_int64(reader, &out->values[out->n++]));
        }
}

static char *read_text(sp_json *reader, golden *g, size_t *size)
{
    assert_int_equal(sp_json_next(reader), SP_JSON_STRING);
    char *text = sp_json_text(reader, &g->arena, size);
    assert_non_null(text);
    return text;
}

static void read_case(sp_json *reader, golden *g)
{
    sp_arena_init(&g->arena, (size_t)16 << 20);
    while (sp_json_next(reader) == SP_JSON_KEY) {
        size_t unused;
        if (sp_json_is(reader, "name"))
            g->name = read_text(reader, g, &unused);
        else if (sp_json_is(reader, "text"))
            g->text = read_text(reader, g, &g->text_size);
        else if (sp_json_is(reader, "decoded"))
            g->decoded = read_text(reader, g, &g->decoded_size);
        else if (sp_json_is(reader, "decoded_skip_special"))
            g->decoded_skip = read_text(reader, g, &g->skip_size);
        else if (sp_json_is(reader, "ids"))
            read_ids(reader, &g->base);
        else if (sp_json_is(reader, "ids_with_special"))
            read_ids(reader, &g->special), g->has_special = true;
        else if (sp_json_is(reader, "ids_plain"))
            read_ids(reader, &g->plain), g->has_plain = true;
        else if (sp_json_is(reader, "offsets"))
            read_ids(reader, &g->offsets), g->has_offsets = true;
        else if (sp_json_is(reader, "gguf"))
            g->not_gguf = sp_json_next(reader) == SP_JSON_FALSE;
        else if (sp_json_is(reader, "tokens")) {
            assert_int_equal(sp_json_next(reader), SP_JSON_ARRAY);
            while (sp_json_next(reader) == SP_JSON_STRING)
                g->tokens[g->n_tokens++] = sp_json_text(reader, &g->arena, &unused);
        } else
            sp_json_skip(reader, sp_json_next(reader));
    }
    if (!g->has_special) g->special = g->base;
    if (!g->has_plain) g->plain = g->base;
    if (!g->decoded) g->decoded = g->text, g->decoded_size = g->text_size;
    if (!g->decoded_skip) g->decoded_skip = g->decoded, g->skip_size = g->decoded_size;
}

static void check_ids(const golden *g, const char *what, unsigned flags, const ids *wanted, sp_tokens *tokens)
{
    sp_error error = {0};
    assert_ok(sp_tokenizer_encode(tokenizer, g->text, g->text_size, flags, tokens, &error), error);
    bool same = tokens->count == wanted->n;
    for (size_t i = 0; same && i < wanted->n; i++) same = tokens->data[i].id == wanted->values[i];
    if (same) return;
    for (size_t i = 0; i < tokens->count; i++) print_error("%d ", (int)tokens->data[i].id);
    fail_msg("case %s: %s differ", g->name, what);
}

static bool inside_character(const char *text, size_t place, size_t size)
{
    return place < size && ((uint8_t)text[place] & 0xc0u) == 0x80u;
}

/* The spelling of token i. One that swallowed white space is told with it, an unknown one as the text it
 * stands for. */
static void check_piece(const golden *g, const sp_token *token, const char *wanted)
{
    const char *piece = sp_tokenizer_piece(tokenizer, token->id);
    if (strcmp(piece, wanted) == 0 || strcmp(piece, "<unk>") == 0 || strcmp(piece, "[UNK]") == 0) return;
    if (!strstr(wanted, piece)) fail_msg("case %s: piece '%s', not '%s'", g->name, piece, wanted);
    assert_int_equal(strlen(wanted), token->end - token->begin);
    assert_memory_equal(wanted, g->text + token->begin, token->end - token->begin);
}

static void check_tokens(const golden *g, const sp_tokens *tokens, bool tiles)
{
    for (size_t i = 0; i < tokens->count; i++) {
        size_t begin = tokens->data[i].begin, end = tokens->data[i].end;
        check_piece(g, &tokens->data[i], g->tokens[i]);
        if (tiles && g->has_offsets) assert_int_equal(begin, i ? tokens->data[i - 1].end : 0);
        while (inside_character(g->text, begin, g->text_size)) begin--;
        while (inside_character(g->text, end, g->text_size)) end++;
        if (!g->has_offsets) continue;
        bool only_prepended = begin == end && strcmp(g->tokens[i], "\xe2\x96\x81") == 0;
        if ((int64_t)begin != g->offsets.values[2 * i] ||
            ((int64_t)end != g->offsets.values[2 * i + 1] && !only_prepended))
            fail_msg("case %s: token %zu is [%zu, %zu), not [%d, %d)", g->name, i, begin, end,
                     (int)g->offsets.values[2 * i], (int)g->offsets.values[2 * i + 1]);
    }
}

/* Decodes token by token; what came out after each must be whole characters. */
static void check_decoded(const golden *g, bool skip, const char *wanted, size_t size)
{
    sp_buffer text;
    sp_decoder decoder;
    sp_buffer_init(&text, 1 << 20);
    sp_decoder_init(&decoder, tokenizer, skip);
    for (size_t i = 0; i < g->base.n; i++) {
        assert_true(sp_decoder_push(&decoder, (int32_t)g->base.values[i], &text));
        assert_true(sp_utf8_valid(text.data ? text.data : "", text.size));
    }
    assert_true(sp_decoder_finish(&decoder, &text));
    if (text.size != size || (size && memcmp(text.data, wanted, size) != 0))
        fail_msg("case %s: decoded (skip %d): %.*s", g->name, skip, (int)text.size,
                 text.data ? text.data : "");
    sp_buffer_fini(&text);
}

static void check_case(const golden *g, bool tiles)
{
    sp_tokens tokens = {0};
    check_ids(g, "ids", SP_ENCODE_SPECIAL, &g->base, &tokens);
    check_tokens(g, &tokens, tiles);
    check_ids(g, "ids_with_special", SP_ENCODE_SPECIAL | SP_ENCODE_ADD, &g->special, &tokens);
    check_ids(g, "ids_plain", 0, &g->plain, &tokens);
    check_decoded(g, false, g->decoded, g->decoded_size);
    check_decoded(g, true, g->decoded_skip, g->skip_size);
    sp_tokens_fini(&tokens);
}

/* Returns how many cases there are; from_gguf: leaves out those that GGUF can't say. */
static size_t check_file(const char *path, bool tiles, bool from_gguf)
{
    char *text;
    size_t size, n_cases = 0;
    sp_error error = {0};
    sp_json reader;
    assert_ok(sp_read_file(path, 1 << 24, &text, &size, &error), error);
    assert_ok(sp_json_validate(text, size, &error), error);
    sp_json_init(&reader, text, size);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        if (!sp_json_is(&reader, "cases")) {
            sp_json_skip(&reader, sp_json_next(&reader));
            continue;
        }
        assert_int_equal(sp_json_next(&reader), SP_JSON_ARRAY);
        for (; sp_json_next(&reader) == SP_JSON_OBJECT; n_cases++) {
            static golden g;
            memset(&g, 0, sizeof g);
            read_case(&reader, &g);
            if (!from_gguf || !g.not_gguf) check_case(&g, tiles);
            sp_arena_fini(&g.arena);
        }
    }
    sp_free(text);
    return n_cases;
}

#define GOLDEN SPARSED_ROOT "/tests/golden/tokenizers/"

typedef struct family {
    const char *name, *folder;
    bool tiles; /* tokens leave no holes */
    bool has_gguf;
} family;

static const family families[] = {
    {"gpt2", GOLDEN "gpt2", true, true},
    {"llama3", GOLDEN "llama3", true, true},
    {"qwen2", GOLDEN "qwen2", true, true},
    {"deepseek-coder", GOLDEN "deepseek-coder", true, true},
    {"deepseek-v3", GOLDEN "deepseek-v3", true, true},
    {"starcoder", GOLDEN "starcoder", true, true},
    {"smollm2", GOLDEN "smollm2", true, false},
    {"austen", SPARSED_ROOT "/models/austen", true, false},
    {"llama2", GOLDEN "llama2", true, true},
    {"mistral", GOLDEN "mistral", true, false},
    {"unigram", GOLDEN "unigram", false, false},
    {"wordpiece", GOLDEN "wordpiece", false, false},
};

static void test_family(void **state)
{
    const family *f = *state;
    char cases[4096];
    sp_error error = {0};
    snprintf(cases, sizeof cases, GOLDEN "%s/cases.json", f->name);
    assert_ok(sp_tokenizer_open(f->folder, &tokenizer, &error), error);
    size_t n = check_file(cases, f->tiles, false);
    sp_tokenizer_close(tokenizer);
    assert_int_equal(n, 70);
}

static void test_gguf(void **state)
{
    const family *f = *state;
    char path[4096];
    sp_gguf *gguf;
    sp_error error = {0};
    snprintf(path, sizeof path, "%s/vocab.gguf", f->folder);
    assert_ok(sp_gguf_open(path, &gguf, &error), error);
    assert_ok(sp_tokenizer_from_gguf(gguf, &tokenizer, &error), error);
    sp_gguf_close(gguf);
    snprintf(path, sizeof path, "%s/cases.json", f->folder);
    assert_int_equal(check_file(path, f->tiles, true), 70);
    sp_tokenizer_close(tokenizer);
}

int main(void)
{
    struct CMUnitTest tests[2 * COUNT_OF(families)];
    size_t n = COUNT_OF(families);
    for (size_t i = 0; i < COUNT_OF(families); i++)
        tests[i] = (struct CMUnitTest){
            .name = families[i].name, .test_func = test_family, .initial_state = (void *)&families[i]};
    for (size_t i = 0; i < COUNT_OF(families); i++)
        if (families[i].has_gguf)
            tests[n++] = (struct CMUnitTest){
                .name = families[i].name, .test_func = test_gguf, .initial_state = (void *)&families[i]};
    return _cmocka_run_group_tests("tokenizers", tests, n, NULL, NULL) == 0 ? 0 : 1;
}
