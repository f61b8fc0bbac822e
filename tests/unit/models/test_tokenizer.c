/* Parts of the tokenizer that the golden encodings do not reach: refusals by name, splits checked against a
 * table, merge order against a quadratic reference, long pieces, added tokens, and streaming decode at every
 * cut. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "models/pretokenize.h"
#include "models/tokenizer.h"
#include "models/unicode.h"
#include "tests/support/byte_tokenizer.h"

static const char *const no_merges[] = {NULL};

static sp_status parse(const char *const *merges, const char *pre, const char *added, const char *extra,
                       const char *config, sp_tokenizer **out, sp_error *error)
{
    sp_buffer text;
    sp_buffer_init(&text, 1 << 20);
    test_byte_tokenizer(&text, merges, pre, added, extra);
    assert_false(text.failed);
    sp_status status = sp_tokenizer_parse("tokenizer.json", text.data, text.size, config,
                                          config ? strlen(config) : 0, out, error);
    sp_buffer_fini(&text);
    return status;
}

static sp_tokenizer *make(const char *const *merges, const char *pre, const char *added, const char *extra)
{
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    assert_ok(parse(merges, pre, added, extra, NULL, &tokenizer, &error), error);
    return tokenizer;
}

static void encode(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                   sp_tokens *out)
{
    sp_error error = {0};
    assert_ok(sp_tokenizer_encode(tokenizer, text, size, flags, out, &error), error);
}

/* Pieces of text joined by "|". */
static void check_split(sp_split split, const char *text, const char *wanted)
{
    char joined[512];
    size_t used = 0, size = strlen(text);
    for (size_t place = 0; place < size;) {
        size_t end = sp_split_next(split, text, place, size);
        assert_true(end > place && end <= size);
        if (place) joined[used++] = '|';
        memcpy(joined + used, text + place, end - place);
        used += end - place;
        place = end;
    }
    joined[used] = 0;
    assert_string_equal(joined, wanted);
}

/* Worked out by hand from the regular expressions. */
static void test_splits(void **state)
{
    (void)state;
    check_split(SP_SPLIT_GPT2, "Hello world", "Hello| world");
    check_split(SP_SPLIT_GPT2, "it's we'll I'D 'x", "it|'s| we|'ll| I|'|D| '|x");
    check_split(SP_SPLIT_GPT2, "a   b", "a|  | b");
    check_split(SP_SPLIT_GPT2, "a \n\n b  ", "a| \n\n| b|  ");
    check_split(SP_SPLIT_GPT2, "a\tb", "a|\t|b");
    check_split(SP_SPLIT_GPT2, "x12 345!? (y", "x|12| 345|!?| (|y");
    check_split(SP_SPLIT_GPT2, "\xc2\xa0z", "\xc2\xa0|z"); /* a no-break space is space, but not " " */
    check_split(SP_SPLIT_GPT2, "\xc2\xbd\xe2\x85\xa3", "\xc2\xbd\xe2\x85\xa3");
    check_split(SP_SPLIT_LLAMA3, "Hello world", "Hello| world");
    check_split(SP_SPLIT_LLAMA3, "it'S WE'LL x'\xc5\xbf 's", "it|'S| WE|'LL| x|'\xc5\xbf| '|s");
    check_split(SP_SPLIT_LLAMA3, "12345 678", "123|45| |678");
    check_split(SP_SPLIT_LLAMA3, "a(b)c", "a|(b|)c");
    check_split(SP_SPLIT_LLAMA3, "a!!\n\nb", "a|!!\n\n|b");
    check_split(SP_SPLIT_LLAMA3, "a  \n \n  b", "a|  \n \n| | b");
    check_split(SP_SPLIT_LLAMA3, "a\n", "a|\n");
    check_split(SP_SPLIT_LLAMA3, "\tx  ", "\tx|  ");
    check_split(SP_SPLIT_QWEN2, "ab12 3", "ab|1|2| |3");
    check_split(SP_SPLIT_LINES, "a\r\nb", "a|\r|\n|b");
    check_split(SP_SPLIT_WORDS, "  ab1 c\tde", " | ab|1| c|\tde");
    check_split(SP_SPLIT_PUNCTUATION, "a !?b$\xe2\x80\x9c", "a| !?|b$|\xe2\x80\x9c");
    check_split(SP_SPLIT_CJK, "a\xe4\xb8\xad\xe3\x81\x82\xea\xb0\x80z",
                "a|\xe4\xb8\xad\xe3\x81\x82\xea\xb0\x80|z");
    check_split(SP_SPLIT_KANA, "a\xe4\xb8\xad\xe3\x81\x82\xea\xb0\x80z",
                "a|\xe4\xb8\xad\xe3\x81\x82|\xea\xb0\x80z");
    check_split(SP_SPLIT_NUMBERS3, "a12345 6", "a|123|45| |6");
    check_split(SP_SPLIT_DEEPSEEK3, "a$bc d\xcc\x81!! \n x", "a|$bc| d\xcc\x81|!!| \n| x");
    check_split(SP_SPLIT_DEEPSEEK3,
                "\x01\x02"
                "ab (1",
                "\x01|\x02"
                "ab| (|1");
    check_split(SP_SPLIT_META,
                "\xe2\x96\x81\xe2\x96\x81"
                "a\xe2\x96\x81"
                "b",
                "\xe2\x96\x81|\xe2\x96\x81"
                "a|\xe2\x96\x81"
                "b");
    check_split(SP_SPLIT_BERT, "ab, $c  d", "ab|,| |$|c|  |d");
    check_split(SP_SPLIT_DIGITS, "ab12 c\xc2\xbd", "ab|1|2| c|\xc2\xbd");
}

static void test_unicode_classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t code;
        sp_char_class class;
    } cases[] = {{'a', SP_CHAR_LETTER},     {'Z', SP_CHAR_LETTER},    {'5', SP_CHAR_NUMBER},
                 {'_', SP_CHAR_OTHER},      {0x00aa, SP_CHAR_LETTER}, {0x0301, SP_CHAR_OTHER},
                 {0x0085, SP_CHAR_SPACE},   {0x00a0, SP_CHAR_SPACE},  {0x001c, SP_CHAR_OTHER},
                 {0x000b, SP_CHAR_SPACE},   {0x200b, SP_CHAR_OTHER},  {0x2028, SP_CHAR_SPACE},
                 {0x3000, SP_CHAR_SPACE},   {0x180e, SP_CHAR_OTHER},  {0x00bd, SP_CHAR_NUMBER},
                 {0x2163, SP_CHAR_NUMBER},  {0x4e2d, SP_CHAR_LETTER}, {0x1f600, SP_CHAR_OTHER},
                 {0x10ffff, SP_CHAR_OTHER}, {0x110000, SP_CHAR_OTHER}};
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        assert_int_equal(sp_unicode_class(cases[i].code), cases[i].class);
}

/* The rule said plainly: merge the lowest rank, leftmost first, again and again. */
static size_t merge_slowly(const char *const *merges, const char *text, size_t n, char pieces[][64])
{
    for (size_t i = 0; i < n; i++) pieces[i][0] = text[i], pieces[i][1] = 0;
    for (;;) {
        size_t found = n, rank = 0;
        for (; merges[rank] && found == n; rank++)
            for (size_t i = 0; i + 1 < n && found == n; i++) {
                char pair[130];
                snprintf(pair, sizeof pair, "%.63s %.63s", pieces[i], pieces[i + 1]);
                if (strcmp(pair, merges[rank]) == 0) found = i;
            }
        if (found == n) return n;
        char joined[130];
        snprintf(joined, sizeof joined, "%.63s%.63s", pieces[found], pieces[found + 1]);
        assert_true(strlen(joined) < sizeof *pieces);
        memcpy(pieces[found], joined, strlen(joined) + 1);
        memmove(pieces[found + 1], pieces[found + 2], (n - found - 2) * sizeof *pieces);
        n--;
    }
}

static void test_merges_in_order(void **state)
{
    (void)state;
    static const char *const merges[] = {"b c",   "a a",     "a b",   "aa aa", "ab c",  "c c", "aa b",
                                         "bc bc", "aaaa aa", "cc cc", "ab ab", "aab c", NULL};
    sp_tokenizer *tokenizer = make(merges, NULL, "", "");
    sp_tokens tokens = {0};
    uint64_t seed = 7;
    for (int round = 0; round < 2000; round++) {
        char text[40];
        static char pieces[41][64];
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t n = 1 + (seed >> 33) % 40;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[i] = "aaabbc"[(seed >> 33) % 6];
        }
        encode(tokenizer, text, n, 0, &tokens);
        size_t count = merge_slowly(merges, text, n, pieces);
        assert_int_equal(tokens.count, count);
        for (size_t i = 0; i < count; i++)
            assert_string_equal(sp_tokenizer_piece(tokenizer, tokens.data[i].id), pieces[i]);
    }
    sp_tokens_fini(&tokens);
    sp_tokenizer_close(tokenizer);
}

/* One piece of 10 MiB: 'A's that merge into ever longer tokens. */
static void test_long_piece(void **state)
{
    (void)state;
    static const char *const merges[] = {"A A", "AA AA", "AAAA AAAA", "AAAAAAAA AAAAAAAA", NULL};
    sp_tokenizer *tokenizer = make(merges, NULL, "", "");
    size_t n = (size_t)10 << 20;
    char *text = malloc(n);
    memset(text, 'A', n);
    sp_tokens tokens = {0};
    struct timespec start, stop;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    encode(tokenizer, text, n, SP_ENCODE_SPECIAL, &tokens);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &stop);
    assert_true(stop.tv_sec - start.tv_sec < 60); /* each piece with each would take days */
    assert_int_equal(tokens.count, n / 16);
    assert_int_equal(tokens.data[1].begin, 16);
    free(text);
    sp_tokens_fini(&tokens);
    sp_tokenizer_close(tokenizer);
}

static void check_ids(const sp_tokenizer *tokenizer, const char *text, unsigned flags, size_t n,
                      const int32_t *ids)
{
    sp_tokens tokens = {0};
    encode(tokenizer, text, strlen(text), flags, &tokens);
    assert_int_equal(tokens.count, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(tokens.data[i].id, ids[i]);
    sp_tokens_fini(&tokens);
}

static void test_added_tokens(void **state)
{
    (void)state;
    sp_tokenizer *tokenizer = make(no_merges, NULL,
                                   ",{\"id\":300,\"content\":\"<|end\",\"special\":true}"
                                   ",{\"id\":301,\"content\":\"<x>\",\"special\":false}"
                                   ",{\"id\":302,\"content\":\"<x><x>\",\"special\":false}"
                                   ",{\"id\":303,\"content\":\"<l>\",\"special\":true,\"lstrip\":true}"
                                   ",{\"id\":304,\"content\":\"<r>\",\"special\":true,\"rstrip\":true}",
                                   "");
    assert_int_equal(sp_tokenizer_size(tokenizer), 305);
    check_ids(tokenizer, "<|end|>", SP_ENCODE_SPECIAL, 1, (const int32_t[]){256});
    check_ids(tokenizer, "<|end|", SP_ENCODE_SPECIAL, 2, (const int32_t[]){300, '|'});
    check_ids(tokenizer, "<|end", 0, 5, (const int32_t[]){'<', '|', 'e', 'n', 'd'});
    check_ids(tokenizer, "<x><x><x>", 0, 2, (const int32_t[]){302, 301});
    check_ids(tokenizer, "a \n<l><r> \tb", SP_ENCODE_SPECIAL, 4, (const int32_t[]){'a', 303, 304, 'b'});
    sp_tokens tokens = {0};
    encode(tokenizer, "a \xe3\x80\x80<l>", 8, SP_ENCODE_SPECIAL, &tokens);
    assert_int_equal(tokens.count, 2);
    assert_int_equal(tokens.data[1].begin, 1);
    assert_int_equal(tokens.data[1].end, 8);
    sp_tokens_fini(&tokens);
    assert_true(sp_tokenizer_is_special(tokenizer, 300));
    assert_false(sp_tokenizer_is_special(tokenizer, 301));
    assert_false(sp_tokenizer_is_special(tokenizer, 299));
    assert_false(sp_tokenizer_is_special(tokenizer, -1));
    assert_false(sp_tokenizer_is_special(tokenizer, 305));
    size_t size = 9;
    assert_string_equal(sp_tokenizer_bytes(tokenizer, 270, &size), "");
    assert_int_equal(size, 0);
    sp_tokenizer_close(tokenizer);
}

static void test_ill_formed_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80",
                                        "\x80"};
    sp_tokenizer *tokenizer = make(no_merges, NULL, "", "");
    sp_tokens tokens = {0};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        assert_int_equal(sp_tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), 0, &tokens, NULL),
                         SP_INVALID);
    encode(tokenizer, "", 0, SP_ENCODE_SPECIAL | SP_ENCODE_ADD, &tokens);
    assert_int_equal(tokens.count, 0);
    encode(tokenizer, "\0x", 2, 0, &tokens);
    assert_int_equal(tokens.count, 2);
    sp_tokens_fini(&tokens);
    sp_tokenizer_close(tokenizer);
}

/* A vocabulary without some byte refuses texts that need it, and says where. */
static void test_missing_byte(void **state)
{
    (void)state;
    sp_buffer text;
    sp_buffer_init(&text, 1 << 20);
    test_byte_tokenizer(&text, no_merges, NULL, "", "");
    sp_buffer_append(&text, "", 1);
    char *place = strstr(text.data, "\"\\u007a\":122,"); /* z */
    assert_non_null(place);
    memset(place, ' ', strlen("\"\\u007a\":122,"));
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    assert_ok(sp_tokenizer_parse("t", text.data, text.size - 1, NULL, 0, &tokenizer, &error), error);
    sp_tokens tokens = {0};
    encode(tokenizer, "abc", 3, 0, &tokens);
    assert_int_equal(sp_tokenizer_encode(tokenizer, "abzzc", 5, 0, &tokens, &error), SP_INVALID);
    assert_non_null(strstr(error.message, "0x7a at offset 2"));
    sp_tokens_fini(&tokens);
    sp_tokenizer_close(tokenizer);
    sp_buffer_fini(&text);
}

/* --- refusals --- */

static void check_refused(const char *json, const char *param, const char *says)
{
    sp_tokenizer *tokenizer = NULL;
    sp_error error = {0};
    sp_status status = sp_tokenizer_parse("tokenizer.json", json, strlen(json), NULL, 0, &tokenizer, &error);
    if (status != SP_DATA || strcmp(error.param, param) != 0 || !strstr(error.message, says) ||
        !strstr(error.message, "tokenizer.json") || tokenizer)
        fail_msg("%s: %s [%s] %s", json, sp_status_name(status), error.param, error.message);
}

#define HEAD "{\"pre_tokenizer\":" TEST_BYTE_LEVEL("true") ",\"decoder\":{\"type\":\"ByteLevel\"},"
#define MODEL(vocab, merges) HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}}"
#define PIPELINE(pre, decoder) "{\"pre_tokenizer\":" pre ",\"decoder\":" decoder "}"

static void test_refuses_by_name(void **state)
{
    (void)state;
    check_refused("", "", "");
    check_refused("[]", "", "object");
    check_refused("{\"model\":{},\"model\":{}}", "", "");
    check_refused("{\"normalizer\":{\"type\":\"Lowercase\"}}", "normalizer", "Lowercase");
    check_refused("{\"normalizer\":7}", "normalizer", "object");
    check_refused("{}", "decoder", "missing");
    check_refused(PIPELINE("{\"type\":\"Metaspace\"}", "null"), "pre_tokenizer", "Metaspace");
    check_refused(PIPELINE("{\"type\":\"Meta\\u001bspace\"}", "null"), "pre_tokenizer", "x1b");
    check_refused(PIPELINE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"}]}", "null"),
                  "pre_tokenizer", "Whitespace");
    check_refused(PIPELINE("{\"type\":\"Sequence\"}", "null"), "pre_tokenizer", "pretokenizers");
    check_refused(PIPELINE("{\"type\":\"Sequence\",\"pretokenizers\":[null]}", "null"), "pre_tokenizer",
                  "null");
    check_refused(
        PIPELINE(
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":false}]}",
            "null"),
        "pre_tokenizer", "Digits");
    check_refused(PIPELINE("{\"type\":\"Sequence\",\"pretokenizers\":[" TEST_BYTE_LEVEL(
                               "true") "," TEST_BYTE_LEVEL("true") "]}",
                           "null"),
                  "pre_tokenizer", "behind");
    check_refused(PIPELINE("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "null"), "pre_tokenizer",
                  "add_prefix_space");
    check_refused(
        PIPELINE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+\"},\"behavior\":\"Isolated\"}", "null"),
        "pre_tokenizer pattern", "\\w+");
    check_refused(PIPELINE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" TEST_LLAMA3_PATTERN
                           "\"},\"behavior\":\"Removed\"}",
                           "null"),
                  "pre_tokenizer", "Isolated");
    check_refused(PIPELINE(TEST_BYTE_LEVEL("true"), "{\"type\":\"CTC\"}"), "decoder", "CTC");
    check_refused(PIPELINE(TEST_BYTE_LEVEL("true"), "null"), "decoder", "missing");
    check_refused(HEAD "\"model\":null}", "model", "object");
    check_refused(HEAD "\"model\":{\"type\":\"WordLevel\"}}", "model", "WordLevel");
    check_refused(HEAD "\"model\":{\"type\":\"Unigram\"}}", "model", "belong");
    check_refused(HEAD "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}}", "byte_fallback", "supported");
    check_refused(HEAD "\"model\":{\"type\":\"BPE\",\"dropout\":0.1}}", "dropout", "supported");
    check_refused(HEAD "\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix",
                  "</w>");
    check_refused(MODEL("[]", "[]"), "vocab", "object");
    check_refused(MODEL("{\"a\":-1}", "[]"), "vocab", "ids");
    check_refused(MODEL("{\"a\":0.5}", "[]"), "vocab", "ids");
    check_refused(MODEL("{\"a\":2097152}", "[]"), "vocab", "ids");
    check_refused(MODEL("{\"a\":\"0\"}", "[]"), "vocab", "ids");
    check_refused(MODEL("{\"a\":0,\"b\":0}", "[]"), "vocab", "id 0");
    check_refused(MODEL("{\"\":0}", "[]"), "vocab", "empty");
    check_refused(MODEL("{\"a\\u0000\":0}", "[]"), "vocab", "NUL");
    check_refused(MODEL("{\"a\":0,\"b\":1}", "{}"), "merges", "array");
    check_refused(MODEL("{\"a\":0,\"b\":1}", "[\"ab\"]"), "merges", "entry 0");
    check_refused(MODEL("{\"a\":0,\"b\":1}", "[\"a b\"]"), "merges", "makes");
    check_refused(MODEL("{\"a\":0,\"ab\":1}", "[\"a b\"]"), "merges", "joins");
    check_refused(MODEL("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\",\"b\"],\"a b\"]"), "model", "twice");
    check_refused(MODEL("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\"]]"), "merges", "pair");
    check_refused(MODEL("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\",\"b\",\"c\"]]"), "merges", "pair");
    check_refused(MODEL("{\"a\":0,\"b\":1,\"ab\":2}", "[7]"), "merges", "pair");
    check_refused(MODEL("{\"a\":0,\" \":1,\"a \":2}", "[\"a \"]"), "merges", "half");
}

static void check_added_refused(const char *added, const char *says)
{
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    sp_status status = parse(no_merges, NULL, added, "", NULL, &tokenizer, &error);
    if (status != SP_DATA || strcmp(error.param, "added_tokens") != 0 || !strstr(error.message, says))
        fail_msg("%s: %s [%s] %s", added, sp_status_name(status), error.param, error.message);
}

static void test_refuses_added_tokens(void **state)
{
    (void)state;
    check_added_refused(",{\"id\":256,\"content\":\"<other>\"}", "id 256");
    check_added_refused(",{\"id\":300,\"content\":\"<|end|>\"}", "ids 256 and 300");
    check_added_refused(",{\"id\":256,\"content\":\"<|end|>\"}", "twice");
    check_added_refused(",{\"id\":300,\"content\":\"\"}", "content");
    check_added_refused(",{\"id\":300}", "content");
    check_added_refused(",{\"content\":\"x\"}", "ids");
    check_added_refused(",{\"id\":-1,\"content\":\"x\"}", "ids");
    check_added_refused(",{\"id\":4294967296,\"content\":\"x\"}", "ids");
    check_added_refused(",{\"id\":300,\"content\":\"<w>\",\"single_word\":true}", "single_word");
    check_added_refused(",7", "objects");
}

/* --- bos, eos and what is added --- */

static void test_config_and_post_processor(void **state)
{
    (void)state;
    static const char *const added =
        ",{\"id\":257,\"content\":\"<s>\",\"special\":true}],\"post_processor\":"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\"}},"
        "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"E\"}}],"
        "\"special_tokens\":{\"B\":{\"ids\":[257]},\"E\":{\"ids\":[256,256]}}},\"x\":[";
    sp_tokenizer *tokenizer;
    sp_error error = {0};
    const char *config =
        "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<|end|>\",\"add_bos_token\":true}";
    assert_ok(parse(no_merges, NULL, added, "", config, &tokenizer, &error), error);
    assert_int_equal(sp_tokenizer_bos(tokenizer), 257);
    assert_int_equal(sp_tokenizer_eos(tokenizer), 256);
    assert_true(sp_tokenizer_adds_bos(tokenizer));
    check_ids(tokenizer, "a", SP_ENCODE_ADD, 4, (const int32_t[]){257, 'a', 256, 256}); /* one bos, not two */
    check_ids(tokenizer, "a", 0, 1, (const int32_t[]){'a'});
    check_ids(tokenizer, "", SP_ENCODE_ADD, 3, (const int32_t[]){257, 256, 256});
    sp_tokenizer_close(tokenizer);

    assert_ok(parse(no_merges, NULL, "", "", "{\"bos_token\":\"<|end|>\"}", &tokenizer, &error), error);
    assert_int_equal(sp_tokenizer_bos(tokenizer), 256);
    assert_int_equal(sp_tokenizer_eos(tokenizer), -1);
    assert_false(sp_tokenizer_adds_bos(tokenizer)); /* a name alone adds nothing */
    sp_tokenizer_close(tokenizer);

    assert_ok(parse(no_merges, NULL, "", "", "{\"bos_token\":\"<|end|>\",\"add_bos_token\":true}", &tokenizer,
                    &error),
              error);
    check_ids(tokenizer, "a", SP_ENCODE_ADD, 2, (const int32_t[]){256, 'a'});
    sp_tokenizer_close(tokenizer);

    static const struct {
        const char *config, *param;
    } refused[] = {{"{\"bos_token\":\"<none>\"}", "bos_token"}, {"{\"eos_token\":[1]}", "eos_token"},
                   {"{\"eos_token\":{}}", "eos_token"},         {"{\"add_bos_token\":true}", "add_bos_token"},
                   {"{\"add_bos_token\":1}", "add_bos_token"},  {"[]", ""}};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        memset(&error, 0, sizeof error);
        assert_int_equal(parse(no_merges, NULL, "", "", refused[i].config, &tokenizer, &error), SP_DATA);
        assert_string_equal(error.param, refused[i].param);
        assert_non_null(strstr(error.message, "tokenizer_config.json"));
    }
}

static void test_refuses_post_processors(void **state)
{
    (void)state;
#define TEMPLATE(single, tokens)                                                                             \
    "],\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":" single ",\"special_tokens\":" tokens \
    "},\"x\":["
    static const char *const cases[] = {
        "],\"post_processor\":{\"type\":\"BertProcessing\"},\"x\":[",
        "],\"post_processor\":[],\"x\":[",
        "],\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"Other\"}]},\"x\":[",
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":{\"id\":\"A\"}}]", "{}"),
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":{}}]", "{\"B\":{\"ids\":[999]}}"),
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":{}}]", "{\"B\":{\"ids\":[-1]}}"),
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":{}}]", "{\"B\":{}}"),
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}}]", "{\"B\":{\"ids\":[256]}}"),
        TEMPLATE("[{\"Sequence\":{}},{\"Sequence\":{}}]", "{}"),
        TEMPLATE("[7]", "{}"),
        TEMPLATE("[{}]", "{}"),
        TEMPLATE("7", "{}"),
        TEMPLATE("[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":{}}]",
                 "{\"B\":{\"ids\":[256,256,256,256,256,256,256,256,256,256,256,256,256,256,256,256,256]}}"),
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_tokenizer *tokenizer;
        sp_error error = {0};
        sp_status status = parse(no_merges, NULL, cases[i], "", NULL, &tokenizer, &error);
        if (status != SP_DATA || strcmp(error.param, "post_processor") != 0)
            fail_msg("%s: %s [%s] %s", cases[i], sp_status_name(status), error.param, error.message);
    }
}

static void test_ignore_merges(void **state)
{
    (void)state;
    /* "abc" is a token that no merge order reaches: "b c" comes first, and "a bc" is no merge */
    static const char *const merges[] = {"b c", "a b", "ab c", NULL};
    sp_tokenizer *strict = make(merges, NULL, "", ""),
                 *whole = make(merges, NULL, "", ",\"ignore_merges\":true");
    check_ids(strict, "abc", 0, 2, (const int32_t[]){'a', 257});
    check_ids(whole, "abc", 0, 1, (const int32_t[]){259});
    check_ids(whole, "abcb", 0, 3, (const int32_t[]){'a', 257, 'b'});
    sp_tokenizer_close(strict);
    sp_tokenizer_close(whole);
}

/* --- decoding --- */

/* Ill-formed bytes, with what decoding gives: one U+FFFD for each longest beginning of a character. */
static void test_decoder_replaces_ill_formed_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {{"a\x80z", "a\xef\xbf\xbdz"},
                 {"\xe2\x82", "\xef\xbf\xbd"},
                 {"\xe2\x82z", "\xef\xbf\xbdz"},
                 {"\xf0\x9f\x98\xf0\x9f\x98\x80", "\xef\xbf\xbd\xf0\x9f\x98\x80"},
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xff\xc3\xa9\xc3", "\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd"}};
    sp_tokenizer *tokenizer = make(no_merges, NULL, "", "");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_decoder decoder;
        sp_buffer out;
        sp_buffer_init(&out, 256);
        sp_decoder_init(&decoder, tokenizer, true);
        for (const char *c = cases[i].bytes; *c; c++) {
            assert_true(sp_decoder_push(&decoder, (uint8_t)*c, &out));
            assert_true(sp_decoder_push(&decoder, TEST_END_ID, &out)); /* skipped */
            assert_true(sp_utf8_valid(out.data ? out.data : "", out.size));
        }
        assert_true(sp_decoder_finish(&decoder, &out));
        assert_int_equal(out.size, strlen(cases[i].text));
        assert_memory_equal(out.data, cases[i].text, out.size);
        sp_buffer_fini(&out);
    }
    sp_decoder decoder;
    sp_buffer tight;
    sp_buffer_init(&tight, 1);
    sp_decoder_init(&decoder, tokenizer, false);
    assert_true(sp_decoder_push(&decoder, 'a', &tight));
    assert_true(sp_decoder_push(&decoder, 999999, &tight)); /* no token: no text */
    assert_false(sp_decoder_push(&decoder, 'b', &tight));
    sp_buffer_fini(&tight);
    sp_tokenizer_close(tokenizer);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_splits),
    cmocka_unit_test(test_unicode_classes),
    cmocka_unit_test(test_merges_in_order),
    cmocka_unit_test(test_long_piece),
    cmocka_unit_test(test_added_tokens),
    cmocka_unit_test(test_ill_formed_text),
    cmocka_unit_test(test_missing_byte),
    cmocka_unit_test(test_refuses_by_name),
    cmocka_unit_test(test_refuses_added_tokens),
    cmocka_unit_test(test_config_and_post_processor),
    cmocka_unit_test(test_refuses_post_processors),
    cmocka_unit_test(test_ignore_merges),
    cmocka_unit_test(test_decoder_replaces_ill_formed_bytes),
};
TEST_MAIN(tests)
