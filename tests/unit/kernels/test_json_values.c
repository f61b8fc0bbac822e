/* The JSON reader and writer, and exact numbers: against strtod and known spellings. The validator:
 * test_json.c. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"
#include "tests/support/random.h"

struct text {
    const char *bytes;
    size_t size;
};
#define T(literal)                                                                                           \
    {                                                                                                        \
        literal, sizeof(literal) - 1                                                                         \
    }

/* --- numbers --- */

static double read_double(const char *text)
{
    sp_json reader;
    assert_int_equal(sp_json_validate(text, strlen(text), NULL), SP_OK);
    sp_json_init(&reader, text, strlen(text));
    assert_int_equal(sp_json_next(&reader), SP_JSON_NUMBER);
    return sp_json_double(&reader);
}

static void check_double(const char *text)
{
    double expected = strtod(text, NULL), found = read_double(text);
    if (memcmp(&expected, &found, sizeof found) != 0) fail_msg("%s: %.17g, not %.17g", text, found, expected);
}

static void test_doubles(void **state)
{
    (void)state;
    static const char *const texts[] = {"0",
                                        "-0",
                                        "-0.0e5",
                                        "1",
                                        "0.1",
                                        "0.3",
                                        "1e22",
                                        "1e23",
                                        "123456789012345e22",
                                        "1234567890123456e22",
                                        "5e-324",
                                        "2.4703282292062327e-324",
                                        "2.4703282292062328e-324",
                                        "2.2250738585072011e-308",
                                        "2.2250738585072014e-308",
                                        "9007199254740992",
                                        "9007199254740993",
                                        "9007199254740993.0000000000000000000000000000000001",
                                        "1e-400",
                                        "179769313486231570814527423731704356798070e267",
                                        "1.7976931348623158e308",
                                        "0.000001",
                                        "1.00e-22",
                                        "1e-23",
                                        "8.5e-23",
                                        "100000000000000000000000000000000000000000000000000000",
                                        "4503599627370496.5",
                                        "4503599627370497.5"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) check_double(texts[i]);

    test_random random = {11};
    for (size_t i = 0; i < 20000; i++) {
        char text[64];
        uint64_t bits = test_random_u64(&random);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        snprintf(text, sizeof text, "%.*e", (int)test_random_below(&random, 20), value);
        if (isfinite(strtod(text, NULL))) check_double(text);
        snprintf(text, sizeof text, "%lld.%llue%d", (long long)bits % 1000,
                 (unsigned long long)bits % 1000003, (int)test_random_below(&random, 50) - 25);
        check_double(text);
    }
}

/* The exact midpoint between the two smallest subnormals, 3 * 2^-1075, has 751 digits and rounds to even (2
 * units); one unit less in the last place, or a 1 a thousand places behind, must be seen. */
static void test_midpoint(void **state)
{
    (void)state;
    char text[2200];
    char digits[1076]; /* of 3 * 5^1075, most significant first: 3 * 2^-1075 = 3 * 5^1075 * 10^-1075 */
    memset(digits, 0, sizeof digits);
    digits[sizeof digits - 1] = 3;
    for (int power = 0; power < 1075; power++) {
        int carry = 0;
        for (size_t i = sizeof digits; i-- > 0; carry /= 10) {
            carry += 5 * digits[i];
            digits[i] = (char)(carry % 10);
        }
    }
    memcpy(text, "0.", 2);
    for (size_t i = 0; i < 1075; i++) text[2 + i] = (char)('0' + digits[i + 1]);
    text[1077] = 0;
    assert_true(read_double(text) == 2 * 5e-324);
    text[1076]--; /* its last digit is 5 */
    assert_true(read_double(text) == 5e-324);
    text[1076]++;
    memset(text + 1077, '0', 1000);
    text[2077] = 0;
    assert_true(read_double(text) == 2 * 5e-324);

    /* between 1 and its successor the tie goes down to 1, and any digit behind it goes up */
    memcpy(text, "1.00000000000000011102230246251565404236316680908203125", 55);
    memset(text + 55, '0', 1500);
    text[1555] = 0;
    assert_true(read_double(text) == 1.0);
    text[1554] = '1';
    assert_true(read_double(text) == 1 + 0x1p-52);
}

/* More integer digits than are kept, brought back by the exponent. */
static void test_long_integer(void **state)
{
    (void)state;
    char text[1100];
    sp_json reader;
    int64_t value = 0;
    memset(text, '0', sizeof text);
    memcpy(text, "42", 2);
    memcpy(text + 1002, "e-1000", 7);
    assert_true(read_double(text) == 42);
    sp_json_init(&reader, text, strlen(text));
    assert_int_equal(sp_json_next(&reader), SP_JSON_NUMBER);
    assert_true(sp_json_int64(&reader, &value));
    assert_int_equal(value, 42);
    text[1001] = '1'; /* 42.00...01 */
    assert_true(read_double(text) == 42);
    assert_false(sp_json_int64(&reader, &value));
}

static void test_int64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool integral;
        int64_t value;
    } cases[] = {{"0", true, 0},
                 {"-0", true, 0},
                 {"0.000", true, 0},
                 {"0e999999", true, 0},
                 {"1", true, 1},
                 {"1.0", true, 1},
                 {"-1.000e0", true, -1},
                 {"1e3", true, 1000},
                 {"1.5e1", true, 15},
                 {"1.50e1", true, 15},
                 {"1500e-2", true, 15},
                 {"9223372036854775807", true, INT64_MAX},
                 {"-9223372036854775808", true, INT64_MIN},
                 {"9223372036854775808", false, 0},
                 {"-9223372036854775809", false, 0},
                 {"1e18", true, 1000000000000000000},
                 {"1e19", false, 0},
                 {"10000000000000000000", false, 0},
                 {"0.1e19", true, 1000000000000000000},
                 {"0.5", false, 0},
                 {"1.5", false, 0},
                 {"1e-1", false, 0},
                 {"1e-400", false, 0},
                 {"1e300", false, 0},
                 {"9007199254740993", true, 9007199254740993},
                 {"922337203685477580.7e1", true, INT64_MAX},
                 {"92233720368547758070e-1", true, INT64_MAX},
                 {"100000000000000000000000000000e-29", true, 1}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_json reader;
        int64_t value = 77;
        assert_int_equal(sp_json_validate(cases[i].text, strlen(cases[i].text), NULL), SP_OK);
        sp_json_init(&reader, cases[i].text, strlen(cases[i].text));
        assert_int_equal(sp_json_next(&reader), SP_JSON_NUMBER);
        bool integral = sp_json_int64(&reader, &value);
        if (integral != cases[i].integral || value != (integral ? cases[i].value : 77))
            fail_msg("%s: %d %lld", cases[i].text, integral, (long long)value);
    }
}

/* --- reader --- */

static void test_reader(void **state)
{
    (void)state;
    static const char text[] =
        " {\"a\\u0062\" : [1, \"x\\n\\ud83d\\ude00\", true, {}], \"b\": {\"c\": [[], {\"d\": 1}]}, "
        "\"e\": null, \"f\": false} ";
    sp_json reader;
    sp_arena arena;
    size_t size;
    assert_int_equal(sp_json_validate(text, sizeof text - 1, NULL), SP_OK);
    sp_arena_init(&arena, 1000);
    sp_json_init(&reader, text, sizeof text - 1);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    assert_true(sp_json_is(&reader, "ab"));
    assert_false(sp_json_is(&reader, "a"));
    assert_false(sp_json_is(&reader, "abc"));
    assert_false(sp_json_is(&reader, "a\\u0062"));
    assert_int_equal(sp_json_next(&reader), SP_JSON_ARRAY);
    assert_int_equal(sp_json_next(&reader), SP_JSON_NUMBER);
    assert_true(sp_json_double(&reader) == 1.0);
    assert_int_equal(sp_json_next(&reader), SP_JSON_STRING);
    assert_string_equal(sp_json_text(&reader, &arena, &size), "x\n\xf0\x9f\x98\x80");
    assert_int_equal(size, 6);
    assert_int_equal(sp_json_next(&reader), SP_JSON_TRUE);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT_END);
    assert_int_equal(sp_json_next(&reader), SP_JSON_ARRAY_END);
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    sp_json_type value = sp_json_next(&reader);
    assert_int_equal(value, SP_JSON_OBJECT);
    sp_json_skip(&reader, value);
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    assert_true(sp_json_is(&reader, "e"));
    value = sp_json_next(&reader);
    assert_int_equal(value, SP_JSON_NULL);
    sp_json_skip(&reader, value);
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    assert_int_equal(sp_json_next(&reader), SP_JSON_FALSE);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT_END);
    assert_int_equal(sp_json_next(&reader), SP_JSON_END);
    assert_int_equal(sp_json_next(&reader), SP_JSON_END);
    sp_arena_fini(&arena);
}

/* Quotes and backslashes inside strings do not end them. */
static void test_escaped_quotes(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\\"]\":\"\\\\\",\"b\":\"\\\\\\\"}\"}"; /* {"a\"]":"\\","b":"\\\"}"} */
    sp_json reader;
    assert_int_equal(sp_json_validate(text, sizeof text - 1, NULL), SP_OK);
    sp_json_init(&reader, text, sizeof text - 1);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    assert_true(sp_json_is(&reader, "a\"]"));
    assert_int_equal(sp_json_next(&reader), SP_JSON_STRING);
    assert_true(sp_json_is(&reader, "\\"));
    assert_int_equal(sp_json_next(&reader), SP_JSON_KEY);
    assert_int_equal(sp_json_next(&reader), SP_JSON_STRING);
    assert_true(sp_json_is(&reader, "\\\"}"));
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT_END);
    assert_int_equal(sp_json_next(&reader), SP_JSON_END);
}

static void test_text_limits(void **state)
{
    (void)state;
    static const char text[] = "\"a\\u0000b\"";
    sp_json reader;
    sp_arena arena;
    size_t size;
    sp_json_init(&reader, text, sizeof text - 1);
    assert_int_equal(sp_json_next(&reader), SP_JSON_STRING);
    assert_false(sp_json_is(&reader, "a"));
    sp_arena_init(&arena, 100);
    assert_memory_equal(sp_json_text(&reader, &arena, &size), "a\0b", 4);
    assert_int_equal(size, 3);
    sp_arena_fini(&arena);
    sp_arena_init(&arena, 8);
    assert_null(sp_json_text(&reader, &arena, &size));
    sp_arena_fini(&arena);
}

/* --- writer --- */

static void expect_text(sp_buffer *out, const char *expected)
{
    assert_false(out->failed);
    if (out->size != strlen(expected) || memcmp(out->data, expected, out->size) != 0)
        fail_msg("%.*s, not %s", (int)out->size, out->data, expected);
    assert_int_equal(sp_json_validate(out->data, out->size, NULL), SP_OK);
    sp_buffer_clear(out);
}

static void test_writer(void **state)
{
    (void)state;
    sp_buffer out;
    sp_json_writer w;
    sp_buffer_init(&out, 4096);
    sp_json_writer_init(&w, &out);
    sp_json_open(&w, '{');
    sp_json_key(&w, "a\"b");
    sp_json_open(&w, '[');
    sp_json_int(&w, INT64_MIN);
    sp_json_uint(&w, UINT64_MAX);
    sp_json_bool(&w, true);
    sp_json_bool(&w, false);
    sp_json_null(&w);
    sp_json_open(&w, '[');
    sp_json_close(&w, ']');
    sp_json_open(&w, '{');
    sp_json_close(&w, '}');
    sp_json_raw(&w, "{\"x\":1}", 7);
    sp_json_close(&w, ']');
    sp_json_key(&w, "c");
    sp_json_cstring(&w, NULL);
    sp_json_key(&w, "d");
    sp_json_cstring(&w, "e");
    sp_json_close(&w, '}');
    expect_text(&out,
                "{\"a\\\"b\":[-9223372036854775808,18446744073709551615,true,false,null,[],{},{\"x\":1}],"
                "\"c\":null,\"d\":\"e\"}");
    sp_buffer_fini(&out);

    sp_buffer_init(&out, 4);
    sp_json_writer_init(&w, &out);
    sp_json_cstring(&w, "long");
    assert_true(out.failed);
    sp_buffer_fini(&out);
}

static void test_writer_strings(void **state)
{
    (void)state;
    static const struct {
        struct text text;
        const char *expected;
    } cases[] = {
        {T(""), "\"\""},
        {T("\"\\/"), "\"\\\"\\\\/\""},
        {T("\b\f\n\r\t\x1f\x7f"), "\"\\b\\f\\n\\r\\t\\u001f\x7f\""},
        {T("a\0b"), "\"a\\u0000b\""},
        {T("\xc3\xa9\xf0\x9f\x98\x80"), "\"\xc3\xa9\xf0\x9f\x98\x80\""},
        {T("a\xff"
           "b"),
         "\"a\xef\xbf\xbd"
         "b\""},
        {T("\x80\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {T("\xf0\x9f\x98"), "\"\xef\xbf\xbd\""},
        {T("\xf0\x9f\x98x"), "\"\xef\xbf\xbdx\""},
        {T("\xe2\x82"), "\"\xef\xbf\xbd\""},
        {T("\xc3"), "\"\xef\xbf\xbd\""},
        {T("\xc3\n"), "\"\xef\xbf\xbd\\n\""},
        {T("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {T("\xc0\xaf"), "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {T("\xf0\x80\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {T("\xf4\x90\x80\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {T("\xf1\x80\xe1\x80\xc2"),
         "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* as in the Unicode standard, table 3-11 */
    };
    sp_buffer out;
    sp_buffer_init(&out, 4096);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_json_writer w;
        sp_json_writer_init(&w, &out);
        sp_json_string(&w, cases[i].text.bytes, cases[i].text.size);
        expect_text(&out, cases[i].expected);
    }
    sp_buffer_fini(&out);
}

static void test_writer_numbers(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *expected;
    } doubles[] = {{0, "0"},
                   {-0.0, "-0"},
                   {1, "1"},
                   {-3, "-3"},
                   {0.1, "0.1"},
                   {0.7, "0.7"},
                   {1.0 / 3, "0.3333333333333333"},
                   {0.1 + 0.2, "0.30000000000000004"},
                   {1e6, "1000000"},
                   {123456789012345, "123456789012345"},
                   {1e22, "1e+22"},
                   {5e-324, "5e-324"},
                   {1.7976931348623157e308, "1.7976931348623157e+308"},
                   {1e-7, "1e-07"},
                   {123456.75, "123456.75"},
                   {NAN, "null"},
                   {INFINITY, "null"},
                   {-INFINITY, "null"}};
    static const struct {
        float value;
        const char *expected;
    } floats[] = {
        {0.1f, "0.1"},       {-1.5f, "-1.5"},   {16777216.0f, "16777216"},        {1.0f / 3, "0.33333334"},
        {-9999.0f, "-9999"}, {1e-45f, "1e-45"}, {3.4028235e38f, "3.4028235e+38"}, {NAN, "null"},
        {-INFINITY, "null"}};
    sp_buffer out;
    sp_json_writer w;
    sp_buffer_init(&out, 4096);
    for (size_t i = 0; i < COUNT_OF(doubles); i++) {
        sp_json_writer_init(&w, &out);
        sp_json_number(&w, doubles[i].value);
        expect_text(&out, doubles[i].expected);
    }
    for (size_t i = 0; i < COUNT_OF(floats); i++) {
        sp_json_writer_init(&w, &out);
        sp_json_float(&w, floats[i].value);
        expect_text(&out, floats[i].expected);
    }
    test_random random = {5};
    for (size_t i = 0; i < 5000; i++) {
        uint64_t bits = test_random_u64(&random);
        double value;
        float single;
        memcpy(&value, &bits, sizeof value);
        memcpy(&single, &bits, sizeof single);
        if (!isfinite(value) || !isfinite(single)) continue;
        sp_json_writer_init(&w, &out);
        sp_json_number(&w, value);
        sp_buffer_append(&out, "", 1);
        assert_true(strtod(out.data, NULL) == value);
        sp_buffer_clear(&out);
        sp_json_float(&w, single);
        sp_buffer_append(&out, "", 1);
        assert_true(strtof(out.data, NULL) == single);
        assert_true(out.size <= 1 + 1 + 1 + 9 + 4 + 1); /* sign, point, digits, exponent, NUL */
        sp_buffer_clear(&out);
    }
    sp_buffer_fini(&out);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_doubles),        cmocka_unit_test(test_midpoint),
    cmocka_unit_test(test_int64),          cmocka_unit_test(test_long_integer),
    cmocka_unit_test(test_escaped_quotes), cmocka_unit_test(test_reader),
    cmocka_unit_test(test_text_limits),    cmocka_unit_test(test_writer),
    cmocka_unit_test(test_writer_strings), cmocka_unit_test(test_writer_numbers)};

TEST_MAIN(tests)
