/* SentencePiece BPE, Unigram and WordPiece on vocabularies small enough to work results out by hand: rules
 * for spaces, bytes and unknown characters, decoding at the start of a text and in its middle; Unigram
 * against all segmentations; pipelines that are refused by name. */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "models/tokenizer.h"
#include "tests/support/random.h"

#define META "\xe2\x96\x81"
#define LLAMA_NORMALIZER                                                                                     \
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" META                      \
    "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META "\"}]}"
#define METASPACE(scheme, split)                                                                             \
    "{\"type\":\"Metaspace\",\"replacement\":\"" META "\",\"prepend_scheme\":\"" scheme                      \
    "\",\"split\":" split "}"
#define FALLBACK(strip)                                                                                      \
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" META             \
    "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}" strip "]}"
#define STRIP ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define JSON(normalizer, pre, decoder, added, model)                                                         \
    "{\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre ",\"decoder\":" decoder                          \
    ",\"added_tokens\":[" added "],\"model\":" model "}"

#define SPECIAL "{\"id\":1,\"content\":\"<s>\",\"special\":true}"
#define PIECES                                                                                               \
    "\"<unk>\":0,\"<s>\":1,\"" META "\":2,\"a\":3,\"b\":4,\"" META "a\":5,\"ab\":6,\"" META                  \
    "ab\":7,\"<0xC3>\":8,\"<0xA9>\":9"
#define MERGES "[[\"" META "\",\"a\"],[\"a\",\"b\"],[\"" META "a\",\"b\"]]"
#define BPE(vocab, merges)                                                                                   \
    "{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{" vocab   \
    "},\"merges\":" merges "}"
#define LLAMA JSON(LLAMA_NORMALIZER, "null", FALLBACK(STRIP), SPECIAL, BPE(PIECES, MERGES))
#define MISTRAL JSON("null", METASPACE("first", "false"), FALLBACK(STRIP), SPECIAL, BPE(PIECES, MERGES))

#define BERT                                                                                                 \
    "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"                        \
    "\"strip_accents\":null,\"lowercase\":true}"
#define WORDS                                                                                                \
    "\"[UNK]\":0,\"un\":1,\"##able\":2,\"##a\":3,\"a\":4,\"##b\":5,\".\":6,\"'\":7,\"n't\":8,"               \
    "\"\xe4\xb8\xad\":9"
#define WORDPIECE(vocab)                                                                                     \
    "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"vocab\":{" vocab \
    "}}"
#define WORD_DECODER "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}"
#define BERT_MODEL                                                                                           \
    JSON(BERT, "{\"type\":\"BertPreTokenizer\"}", WORD_DECODER,                                              \
         "{\"id\":10,\"content\":\"<N>\",\"normalized\":true}", WORDPIECE(WORDS))

static sp_tokenizer *open_json(const char *json)
{
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    assert_ok(sp_tokenizer_parse("t.json", json, strlen(json), NULL, 0, &tokenizer, &error), error);
    return tokenizer;
}

/* ids and ranges of a text, "id:b-e id:b-e ...". */
static void check_encoded(const sp_tokenizer *tokenizer, const char *text, const char *wanted)
{
    sp_tokens tokens = {0};
    sp_error error = {0};
    char got[512] = "";
    size_t used = 0;
    assert_ok(sp_tokenizer_encode(tokenizer, text, strlen(text), SP_ENCODE_SPECIAL, &tokens, &error), error);
    for (size_t i = 0; i < tokens.count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d:%u-%u", i ? " " : "",
                                 (int)tokens.data[i].id, (unsigned)tokens.data[i].begin,
                                 (unsigned)tokens.data[i].end);
    if (strcmp(got, wanted) != 0) fail_msg("%s: %s, not %s", text, got, wanted);
    sp_tokens_fini(&tokens);
}

/* ids end with -1. */
static void check_decoded(const sp_tokenizer *tokenizer, const int32_t *ids, bool resumed, const char *wanted)
{
    sp_buffer out;
    sp_decoder decoder;
    sp_buffer_init(&out, 256);
    sp_decoder_init(&decoder, tokenizer, false);
    if (resumed) sp_decoder_resume(&decoder);
    for (; *ids >= 0; ids++) assert_true(sp_decoder_push(&decoder, *ids, &out));
    assert_true(sp_decoder_finish(&decoder, &out));
    sp_buffer_append(&out, "", 1);
    assert_string_equal(out.data, wanted);
    sp_buffer_fini(&out);
}
#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})

static void test_sentencepiece(void **state)
{
    (void)state;
    sp_tokenizer *t = open_json(LLAMA);
    check_encoded(t, "", "");
    check_encoded(t, "ab", "7:0-2");
    check_encoded(t, "a a", "5:0-1 5:1-3");
    check_encoded(t, "<s>a<s>ab", "1:0-3 5:3-4 1:4-7 7:7-9"); /* a meta symbol behind every special token */
    check_encoded(t, "\xc3\xa9", "2:0-0 8:0-1 9:1-2");
    check_encoded(t,
                  "\xc3\xbc\xc3\xbc"
                  "a\xc3\xbc",
                  "2:0-0 0:0-4 3:4-5 0:5-7"); /* no byte 0xbc: unknown, joined */
    check_encoded(t, META "a", "2:0-0 5:0-4");
    check_decoded(t, IDS(5, 5), false, "a a");
    check_decoded(t, IDS(5, 5), true, " a a");
    check_decoded(t, IDS(2, 2, 3), false, " a");
    check_decoded(t, IDS(1, 5), false, "<s> a");
    check_decoded(t, IDS(3, 8, 9, 8), false, "a\xc3\xa9\xef\xbf\xbd");
    sp_tokenizer_close(t);
    t = open_json(MISTRAL);
    check_encoded(t, "a<s>ab", "5:0-1 1:1-4 6:4-6"); /* only in front of the text */
    check_encoded(t, "<s>a", "1:0-3 3:3-4");
    check_encoded(t, " a", "5:0-2"); /* one that stands there already is enough */
    check_encoded(t, META "a", "5:0-4");
    sp_tokenizer_close(t);
    t = open_json(JSON(LLAMA_NORMALIZER, "null", FALLBACK(""), SPECIAL, BPE(PIECES, MERGES)));
    check_decoded(t, IDS(5), false, " a");
    sp_tokenizer_close(t);
}

static void test_wordpiece(void **state)
{
    (void)state;
    sp_tokenizer *t = open_json(BERT_MODEL);
    char longest[128];
    check_encoded(t, " Unable. unx", "1:1-3 2:3-7 6:7-8 0:9-12");
    check_encoded(t,
                  "U\xcc\x81n"
                  "ab",
                  "1:0-4 3:4-5 5:5-6");
    check_encoded(t,
                  "a\xe4\xb8\xad"
                  "a\xc2\xa0"
                  "a",
                  "4:0-1 9:1-4 4:4-5 4:7-8");
    check_encoded(t, "a<n>a <N>", "4:0-1 10:1-4 4:4-5 10:6-9");
    memset(longest, 'a', sizeof longest);
    longest[101] = 0;
    check_encoded(t, longest, "0:0-101");
    longest[100] = 0;
    sp_tokens tokens = {0};
    assert_int_equal(sp_tokenizer_encode(t, longest, 100, 0, &tokens, NULL), SP_OK);
    assert_int_equal(tokens.count, 100);
    sp_tokens_fini(&tokens);
    check_decoded(t, IDS(1, 2, 6, 4), false, "unable. a");
    check_decoded(t, IDS(2, 4), false, "##able a");
    check_decoded(t, IDS(4, 8, 7), false, "an't '");
    check_decoded(t, IDS(4, 4), true, " a a");
    sp_tokenizer_close(t);
}

/* --- Unigram against all segmentations --- */

static const struct {
    const char *piece;
    double score;
} scored[] = {{"<unk>", 0},   {META, -1.25}, {"a", -2},       {"b", -2.5},       {"ab", -3.75},
              {META "a", -3}, {"ba", -4.5},  {"aba", -5.25},  {META "ab", -4.5}, {"bb", -6},
              {"c" META, -9}, {"aab", -6.5}, {"abab", -7.25}, {"bab", -6.125}};

static void write_unigram(sp_buffer *out)
{
    sp_buffer_text(
        out,
        "{\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":" METASPACE(
            "always", "true") ",\"decoder\":" METASPACE("always", "true") ",\"model\":{\"type\":\"Unigram\","
                                                                          "\"unk_id\":0,\"vocab\":[");
    for (size_t i = 0; i < COUNT_OF(scored); i++)
        sp_buffer_format(out, "%s[\"%s\",%g]", i ? "," : "", scored[i].piece, scored[i].score);
    sp_buffer_text(out, "]}}");
}

/* The best score of text[0, n) over all segmentations, by trying each piece in front. */
static double best_score(const char *text, size_t n)
{
    if (n == 0) return 0;
    double best = -1e9;
    for (size_t i = 1; i < COUNT_OF(scored); i++) {
        size_t size = strlen(scored[i].piece);
        if (size > n || memcmp(text, scored[i].piece, size) != 0) continue;
        double score = scored[i].score + best_score(text + size, n - size);
        if (score > best) best = score;
    }
    if (text[0] == 'c') { /* no piece by itself */
        double score = -9 - 10 + best_score(text + 1, n - 1);
        if (score > best) best = score;
    }
    return best;
}

static void test_unigram(void **state)
{
    (void)state;
    sp_buffer json;
    sp_buffer_init(&json, 1 << 16);
    write_unigram(&json);
    sp_buffer_append(&json, "", 1);
    sp_tokenizer *t = open_json(json.data);
    test_random random = {11};
    for (int round = 0; round < 3000; round++) {
        char text[16] = META;
        size_t n = 1 + test_random_below(&random, 11);
        for (size_t i = 0; i < n; i++) text[3 + i] = "aaabbbc"[test_random_below(&random, 7)];
        sp_tokens tokens = {0};
        double score = 0;
        assert_int_equal(sp_tokenizer_encode(t, text + 3, n, 0, &tokens, NULL), SP_OK);
        for (size_t i = 0; i < tokens.count; i++) {
            const sp_token *token = &tokens.data[i];
            assert_true(i == 0 || token->id != 0 || tokens.data[i - 1].id != 0); /* unknown ones are joined */
            assert_int_equal(token->begin, i ? tokens.data[i - 1].end : 0);
            score += token->id ? scored[token->id].score : -19.0 * (token->end - token->begin);
        }
        assert_true(score == best_score(text, 3 + n));
        sp_tokens_fini(&tokens);
    }
    check_encoded(t, "a b", "5:0-1 1:1-2 3:2-3");
    check_encoded(t, "\xef\xbd\x81", "5:0-3"); /* a wide a */
    check_decoded(t, IDS(5, 5), false, "a a");
    check_decoded(t, IDS(1, 1, 2), false, " a"); /* the first token loses its spaces */
    check_decoded(t, IDS(1, 2), true, " a");
    sp_tokenizer_close(t);
    sp_buffer_fini(&json);
}

/* --- refusals --- */

static void check_refused(const char *json, const char *param, const char *says)
{
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    sp_status status = sp_tokenizer_parse("t.json", json, strlen(json), NULL, 0, &tokenizer, &error);
    if (status != SP_DATA || strcmp(error.param, param) != 0 || !strstr(error.message, says) ||
        strncmp(error.message, "t.json: ", 8) != 0)
        fail_msg("%s: %s [%s] %s", json, sp_status_name(status), error.param, error.message);
}

static void test_refuses_steps(void **state)
{
    (void)state;
    static const struct {
        const char *json, *param, *says;
    } cases[] = {
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}}", "normalizer",
         "Precompiled"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}}", "normalizer",
         "Nmt"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[null]}}", "normalizer", "null"},
        {"{\"normalizer\":{\"type\":\"Sequence\"}}", "normalizer", "array"},
        {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"}}", "normalizer Prepend", "'_'"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"y\"}}",
         "normalizer Replace", "'x'"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\" \"}}",
         "normalizer Replace", "\\s+"},
        {"{\"normalizer\":{\"type\":\"Replace\"}}", "normalizer", "pattern"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}}", "pre_tokenizer", "U+2581"},
        {"{\"pre_tokenizer\":" METASPACE("sometimes", "true") "}", "pre_tokenizer prepend_scheme",
         "sometimes"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
         "\"individual_digits\":true},{\"type\":\"BertPreTokenizer\"}]}}",
         "pre_tokenizer", "in front"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
         "\"individual_digits\":true}]}}",
         "pre_tokenizer", "must end"},
        {"{\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"@@\"}}", "decoder prefix", "@@"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}]}}", "decoder", "Fuse"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[]}}", "decoder", "ByteFallback"},
        {"{\"decoder\":" FALLBACK(",{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":0}") "}",
         "decoder", "Strip"},
        {"{\"decoder\":" METASPACE("never", "true") "}", "decoder", "Metaspace"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) check_refused(cases[i].json, cases[i].param, cases[i].says);
}

#define LLAMA_OF(model) JSON(LLAMA_NORMALIZER, "null", FALLBACK(STRIP), "", model)
#define UNIGRAM_OF(vocab, rest)                                                                              \
    JSON("null", METASPACE("always", "true"), METASPACE("always", "true"), "",                               \
         "{\"type\":\"Unigram\",\"vocab\":" vocab rest "}")
#define WORDPIECE_OF(added, model) JSON(BERT, "{\"type\":\"BertPreTokenizer\"}", WORD_DECODER, added, model)

static void test_refuses_models(void **state)
{
    (void)state;
    static const struct {
        const char *json, *param, *says;
    } cases[] = {
        {LLAMA_OF(BPE("\"<unk>\":0,\"<0x-1>\":1", "[]")), "vocab", "<0x-1>"},
        {LLAMA_OF(BPE("\"<unk>\":0,\"<0xG0>\":1", "[]")), "vocab", "<0xG0>"},
        {LLAMA_OF(BPE("\"a\":0", "[]")), "unk_token", "<unk>"},
        {LLAMA_OF(BPE("\"<unk>\":0,\"\":1", "[]")), "vocab", "empty"},
        {LLAMA_OF(BPE("\"<unk>\":0,\"a\":1,\"aa\":2", "[\"a a\",\"a a\"]")), "model", "twice"},
        {LLAMA_OF(BPE("\"<unk>\":0,\"a\":1", "[\"a \\u0000\"]")), "merges", "joins"},
        {LLAMA_OF(WORDPIECE("\"[UNK]\":0")), "model", "belong"},
        {JSON("null", "null", FALLBACK(STRIP), "", BPE(PIECES, "[]")), "model", "belong"},
        {JSON("null", METASPACE("always", "true"), "{\"type\":\"ByteLevel\"}", "", BPE(PIECES, "[]")),
         "model", "belong"},
        {JSON(LLAMA_NORMALIZER, METASPACE("always", "true"), FALLBACK(STRIP), "", BPE(PIECES, "[]")), "model",
         "belong"},
        {UNIGRAM_OF("{}", ""), "vocab", "array"},
        {UNIGRAM_OF("[[\"a\"]]", ""), "vocab", "scores"},
        {UNIGRAM_OF("[[\"a\",1e300]]", ""), "vocab", "1e9"},
        {UNIGRAM_OF("[[\"a\",-1],[\"a\",-2]]", ""), "vocab", "ids 0 and 1"},
        {UNIGRAM_OF("[[\"\",-1]]", ""), "vocab", "empty"},
        {UNIGRAM_OF("[[\"a\",-1]]", ",\"unk_id\":1"), "unk_id", "piece"},
        {UNIGRAM_OF("[[\"a\",-1]]", ",\"unk_id\":-1"), "unk_id", "piece"},
        {UNIGRAM_OF("[[\"a\",-1]]", ",\"byte_fallback\":true"), "byte_fallback", "supported"},
        {WORDPIECE_OF("", "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":{\"[UNK]\":0}}"),
         "continuing_subword_prefix", "type"},
        {WORDPIECE_OF("", WORDPIECE("\"a\":0")), "unk_token", "[UNK]"},
        {WORDPIECE_OF("{\"id\":1,\"content\":\"\\u0301\",\"normalized\":true}", WORDPIECE("\"[UNK]\":0")),
         "added_tokens", "nothing"},
        {WORDPIECE_OF("",
                      "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
                      "\"max_input_chars_per_word\":0,\"vocab\":{\"[UNK]\":0}}"),
         "max_input_chars_per_word", "10000"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) check_refused(cases[i].json, cases[i].param, cases[i].says);
}

/* A text with a character that no token covers and no unknown token stands for. */
static void test_uncovered_characters_are_refused(void **state)
{
    (void)state;
    sp_tokenizer *t = open_json(UNIGRAM_OF("[[\"" META "\",-1],[\"a\",-1]]", ""));
    sp_tokens tokens = {0};
    sp_error error = {0};
    check_encoded(t, "aa", "0:0-0 1:0-1 1:1-2");
    assert_int_equal(sp_tokenizer_encode(t, "ab", 2, 0, &tokens, &error), SP_INVALID);
    assert_non_null(strstr(error.message, "0x62 at offset 1"));
    sp_tokens_fini(&tokens);
    sp_tokenizer_close(t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_sentencepiece),  cmocka_unit_test(test_wordpiece),
    cmocka_unit_test(test_unigram),        cmocka_unit_test(test_refuses_steps),
    cmocka_unit_test(test_refuses_models), cmocka_unit_test(test_uncovered_characters_are_refused),
};
TEST_MAIN(tests)
