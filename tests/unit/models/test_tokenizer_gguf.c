/* Tokenizers of GGUF metadata on crafted files: SentencePiece by scores against the rule said plainly,
 * spaces, BOS and EOS, and one file for every refusal. The golden vocabularies are in
 * golden/test_tokenizers.c. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/gguf.h"
#include "models/tokenizer.h"
#include "tests/support/gguf_file.h"
#include "tests/support/random.h"

#define META "\xe2\x96\x81"

typedef struct entry {
    const char *piece;
    uint32_t type;
    float score;
} entry;

/* A file of tokens with types and scores; keys: how many the caller appends. */
static void begin(gguf_file *f, const char *model, const entry *entries, size_t n, bool scores, uint64_t keys)
{
    gguf_begin(f, 3, 0, keys + 3 + scores);
    gguf_key_text(f, "tokenizer.ggml.model", model);
    gguf_key_array(f, "tokenizer.ggml.tokens", GGUF_TEXT, n);
    for (size_t i = 0; i < n; i++) gguf_text(f, entries[i].piece);
    gguf_key_array(f, "tokenizer.ggml.token_type", GGUF_I32, n);
    for (size_t i = 0; i < n; i++) gguf_number(f, entries[i].type, 4);
    if (!scores) return;
    gguf_key_array(f, "tokenizer.ggml.scores", GGUF_F32, n);
    for (size_t i = 0; i < n; i++) gguf_float(f, entries[i].score);
}

static sp_status open_file(gguf_file *f, sp_tokenizer **tokenizer, sp_error *error)
{
    sp_gguf *gguf;
    memset(error, 0, sizeof *error);
    assert_ok(sp_gguf_parse("v.gguf", f->bytes, f->size, &gguf, error), *error);
    sp_status status = sp_tokenizer_from_gguf(gguf, tokenizer, error);
    sp_gguf_close(gguf);
    gguf_free(f);
    return status;
}

static sp_tokenizer *open_good(gguf_file *f)
{
    sp_tokenizer *tokenizer;
    sp_error error;
    assert_ok(open_file(f, &tokenizer, &error), error);
    return tokenizer;
}

static void check_encoded(const sp_tokenizer *tokenizer, const char *text, unsigned flags, const char *wanted)
{
    sp_tokens tokens = {0};
    sp_error error = {0};
    char got[256] = "";
    size_t used = 0;
    assert_ok(sp_tokenizer_encode(tokenizer, text, strlen(text), flags, &tokens, &error), error);
    for (size_t i = 0; i < tokens.count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d", i ? " " : "", (int)tokens.data[i].id);
    if (strcmp(got, wanted) != 0) fail_msg("%s: %s, not %s", text, got, wanted);
    sp_tokens_fini(&tokens);
}

/* Some scores are equal, so the leftmost pair decides between different pieces. */
static const entry letters[] = {
    {"<unk>", 2, 0},   {"<s>", 3, 0},   {"</s>", 3, 0},  {"<t>", 4, 0},   {"<0xC3>", 6, 0}, {META, 1, -9},
    {"a", 1, -9},      {"b", 1, -9},    {"c", 1, -9},    {"ab", 1, -1},   {"ba", 1, -1},    {"bb", 1, -2},
    {"aab", 1, -3},    {"abba", 1, -3}, {"bab", 1, -2},  {"cc", 1, 0},    {"ccc", 1, -4},   {"acc", 1, -1},
    {META "a", 1, -2}, {"", 5, 0},      {"bbbb", 1, -1}, {"b" META, 1, 0}};

/* The rule said plainly: join the neighbours whose union scores highest, leftmost first. */
static size_t join_slowly(const char *text, size_t n, char pieces[][32])
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++, count++) snprintf(pieces[count], 32, "%c", text[i]);
    for (;;) {
        size_t best = count;
        float score = -INFINITY;
        for (size_t i = 0; i + 1 < count; i++) {
            char joined[64];
            snprintf(joined, sizeof joined, "%s%s", pieces[i], pieces[i + 1]);
            for (size_t k = 0; k < COUNT_OF(letters); k++)
                if (strcmp(letters[k].piece, joined) == 0 && letters[k].score > score)
                    score = letters[k].score, best = i;
        }
        if (best == count) return count;
        size_t length = strlen(pieces[best]);
        memcpy(pieces[best] + length, pieces[best + 1], strlen(pieces[best + 1]) + 1);
        memmove(pieces[best + 1], pieces[best + 2], (count - best - 2) * sizeof *pieces);
        count--;
    }
}

static void test_scores(void **state)
{
    (void)state;
    gguf_file f = {0};
    begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
    gguf_key(&f, "tokenizer.ggml.add_space_prefix", GGUF_BOOL), gguf_number(&f, 0, 1);
    sp_tokenizer *t = open_good(&f);
    test_random random = {5};
    for (int round = 0; round < 3000; round++) {
        char text[24];
        static char pieces[24][32];
        size_t n = 1 + test_random_below(&random, sizeof text - 1);
        for (size_t i = 0; i < n; i++) text[i] = "aabbbc"[test_random_below(&random, 6)];
        sp_tokens tokens = {0};
        assert_int_equal(sp_tokenizer_encode(t, text, n, 0, &tokens, NULL), SP_OK);
        size_t count = join_slowly(text, n, pieces);
        assert_int_equal(tokens.count, count);
        for (size_t i = 0; i < count; i++)
            assert_string_equal(sp_tokenizer_piece(t, tokens.data[i].id), pieces[i]);
        sp_tokens_fini(&tokens);
    }
    sp_tokenizer_close(t);
}

static void test_ends_and_spaces(void **state)
{
    (void)state;
    gguf_file f = {0};
    begin(&f, "llama", letters, COUNT_OF(letters), true, 4);
    gguf_key_u32(&f, "tokenizer.ggml.bos_token_id", 1);
    gguf_key_u32(&f, "tokenizer.ggml.eos_token_id", 2);
    gguf_key(&f, "tokenizer.ggml.add_bos_token", GGUF_BOOL), gguf_number(&f, 1, 1);
    gguf_key(&f, "tokenizer.ggml.add_eos_token", GGUF_BOOL), gguf_number(&f, 1, 1);
    sp_tokenizer *t = open_good(&f);
    check_encoded(t, "a", SP_ENCODE_ADD, "1 18 2");
    check_encoded(t, "", SP_ENCODE_ADD, "1 2");
    check_encoded(t, "<s>a<t>a", SP_ENCODE_SPECIAL, "1 18 3 18");
    check_encoded(t,
                  "x\xc3\x83"
                  "a",
                  0, "5 0 6"); /* no bytes for them: one unknown */
    check_encoded(t, "b", 0, "5 7");
    assert_int_equal(sp_tokenizer_eos(t), 2);
    assert_true(sp_tokenizer_adds_bos(t));
    assert_true(sp_tokenizer_is_special(t, 0) && !sp_tokenizer_is_special(t, 3));
    assert_int_equal(sp_tokenizer_size(t), COUNT_OF(letters));
    assert_string_equal(sp_tokenizer_piece(t, 19), ""); /* unused: no token */
    sp_tokenizer_close(t);
    begin(&f, "llama", letters, COUNT_OF(letters), true, 2);
    gguf_key_u32(&f, "tokenizer.ggml.bos_token_id", 1);
    gguf_key(&f, "tokenizer.ggml.add_space_prefix", GGUF_BOOL), gguf_number(&f, 0, 1);
    t = open_good(&f);
    check_encoded(t, "a", SP_ENCODE_ADD, "6"); /* an id alone adds nothing */
    assert_int_equal(sp_tokenizer_bos(t), 1);
    sp_tokenizer_close(t);
}

/* --- refusals --- */

static void check_refused(gguf_file *f, const char *param, const char *says)
{
    sp_tokenizer *tokenizer;
    sp_error error;
    sp_status status = open_file(f, &tokenizer, &error);
    if (status != SP_DATA || strcmp(error.param, param) != 0 || !strstr(error.message, says) ||
        !strstr(error.message, param) || strncmp(error.message, "v.gguf: ", 8) != 0)
        fail_msg("wanted [%s] %s, got %s [%s] %s", param, says, sp_status_name(status), error.param,
                 error.message);
}

static void test_refuses_tokens(void **state)
{
    (void)state;
    static const char *const key = "tokenizer.ggml.tokens";
    static const struct {
        entry entries[3];
        const char *param, *says;
    } cases[] = {
        {{{"<unk>", 2, 0}, {"a", 1, 0}, {"a", 1, -1}}, key, "entry 2: token 'a'"},
        {{{"<unk>", 2, 0}, {"", 1, 0}, {"a", 1, -1}}, key, "entry 1: token 1 is empty"},
        {{{"<unk>", 2, 0}, {"\xff", 1, 0}, {"a", 1, -1}}, key, "entry 1: is not UTF-8"},
        {{{"<unk>", 2, 0}, {"<0x-1>", 6, 0}, {"a", 1, -1}}, key, "entry 1: is no byte"},
        {{{"<unk>", 2, 0}, {"<0x-1>", 1, 0}, {"a", 1, -1}}, key, "entry 1: is no byte"},
        {{{"<unk>", 2, 0}, {"byte", 6, 0}, {"a", 1, -1}}, key, "entry 1: is no byte"},
        {{{"<unk>", 2, 0}, {"b", 7, 0}, {"a", 1, -1}}, "tokenizer.ggml.token_type", "entry 1"},
        {{{"<unk>", 2, 0}, {"b", 0, 0}, {"a", 1, -1}}, "tokenizer.ggml.token_type", "entry 1"},
        {{{"<unk>", 2, 0}, {"b", 1, 0}, {"a", 1, NAN}}, "tokenizer.ggml.scores", "entry 2"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        gguf_file f = {0};
        begin(&f, "llama", cases[i].entries, 3, true, 0);
        check_refused(&f, cases[i].param, cases[i].says);
    }
    char longest[600];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    const entry long_entry[] = {{longest, 1, 0}}, long_added[] = {{longest, 3, 0}};
    gguf_file f = {0};
    begin(&f, "llama", long_entry, 1, true, 0);
    check_refused(&f, key, "512");
    begin(&f, "llama", long_added, 1, true, 0);
    check_refused(&f, key, "255");
    begin(&f, "llama", letters, 0, true, 0);
    check_refused(&f, key, "empty");
}

static void begin_gpt2(gguf_file *f, uint64_t keys)
{
    static const entry entries[] = {{"a", 1, 0}, {"b", 1, 0}, {"ab", 1, 0}, {"<e>", 3, 0}, {"<u>", 5, 0}};
    begin(f, "gpt2", entries, COUNT_OF(entries), false, keys);
}

static void put_merges(gguf_file *f, const char *first, const char *second)
{
    gguf_key_text(f, "tokenizer.ggml.pre", "gpt-2");
    gguf_key_array(f, "tokenizer.ggml.merges", GGUF_TEXT, 2);
    gguf_text(f, first), gguf_text(f, second);
}

static void test_refuses_merges(void **state)
{
    (void)state;
    static const char *const key = "tokenizer.ggml.merges";
    static const struct {
        const char *first, *second, *says;
    } cases[] = {{"a b", "a b", "twice"},
                 {"a b", "ab", "entry 1: has no space"},
                 {"a b", "a c", "entry 1: joins"},
                 {"b a", "a b", "entry 0: makes"},
                 {" a", "a b", "entry 0: has an empty"},
                 {"a ", "a b", "entry 0: has an empty"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        gguf_file f = {0};
        begin_gpt2(&f, 2);
        put_merges(&f, cases[i].first, cases[i].second);
        check_refused(&f, key, cases[i].says);
    }
    gguf_file f = {0};
    begin_gpt2(&f, 1);
    gguf_key_text(&f, "tokenizer.ggml.pre", "gpt-2");
    check_refused(&f, key, "missing");
}

static void test_refuses_pipelines(void **state)
{
    (void)state;
    gguf_file f = {0};
    begin(&f, "t5", letters, COUNT_OF(letters), true, 0);
    check_refused(&f, "tokenizer.ggml.model", "'t5'");
    begin(&f, "llama", letters, COUNT_OF(letters), false, 0);
    check_refused(&f, "tokenizer.ggml.scores", "missing");
    begin_gpt2(&f, 0);
    check_refused(&f, "tokenizer.ggml.pre", "missing");
    begin_gpt2(&f, 1);
    gguf_key_text(&f, "tokenizer.ggml.pre", "default");
    check_refused(&f, "tokenizer.ggml.pre", "'default'");
    begin_gpt2(&f, 2);
    gguf_key_text(&f, "tokenizer.ggml.pre", "gpt-2");
    gguf_key(&f, "tokenizer.ggml.add_space_prefix", GGUF_BOOL), gguf_number(&f, 1, 1);
    check_refused(&f, "tokenizer.ggml.add_space_prefix", "true");
    begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
    gguf_key_text(&f, "tokenizer.ggml.pre", "tekken");
    check_refused(&f, "tokenizer.ggml.pre", "'tekken'");
    begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
    gguf_key_array(&f, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, 1), gguf_number(&f, 0, 1);
    check_refused(&f, "tokenizer.ggml.precompiled_charsmap", "supported");
    begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
    gguf_key(&f, "tokenizer.ggml.remove_extra_whitespaces", GGUF_BOOL), gguf_number(&f, 1, 1);
    check_refused(&f, "tokenizer.ggml.remove_extra_whitespaces", "true");
}

static void test_refuses_ends(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t id;
        const char *says;
    } cases[] = {{"tokenizer.ggml.bos_token_id", 22, ""},
                 {"tokenizer.ggml.eos_token_id", UINT32_MAX, ""},
                 {"tokenizer.ggml.bos_token_id", 19, "unused"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        gguf_file f = {0};
        begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
        gguf_key_u32(&f, cases[i].key, cases[i].id);
        check_refused(&f, cases[i].key, cases[i].says);
    }
    gguf_file f = {0};
    begin(&f, "llama", letters, COUNT_OF(letters), true, 1);
    gguf_key(&f, "tokenizer.ggml.add_eos_token", GGUF_BOOL), gguf_number(&f, 1, 1);
    check_refused(&f, "tokenizer.ggml.add_eos_token", "missing");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_scores),
    cmocka_unit_test(test_ends_and_spaces),
    cmocka_unit_test(test_refuses_tokens),
    cmocka_unit_test(test_refuses_merges),
    cmocka_unit_test(test_refuses_pipelines),
    cmocka_unit_test(test_refuses_ends),
};
TEST_MAIN(tests)
