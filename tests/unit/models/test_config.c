/* Typed getters of config.json: ranges, types, null as absent, and that every refusal names file and key. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/config.h"

static sp_config *parse(const char *text)
{
    sp_config *config;
    sp_error error = {0};
    assert_ok(sp_config_parse("config.json", text, strlen(text), &config, &error), error);
    return config;
}

static void test_refuses_what_is_no_config(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "[]",
                                        "1",
                                        "{",
                                        "{\"a\":1}x",
                                        "\xef\xbb\xbf{}",
                                        "{a:1}",
                                        "{\"a\":1e999}",
                                        "{\"a\":\"\\u0000\"}",
                                        "{\"a\\u0000\":1}",
                                        "{\"a\":1,\"\\u0061\":2}",
                                        "{\"a\":\"\\ud800\"}",
                                        "{\"a\":01}",
                                        "{\"a\":\"\xff\"}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        sp_config *config;
        sp_error error = {0};
        assert_int_equal(sp_config_parse("config.json", texts[i], strlen(texts[i]), &config, &error),
                         SP_DATA);
        assert_null(config);
        assert_non_null(strstr(error.message, "config.json"));
    }
    sp_config *config = parse("{\"a\":\"\\\\u0000\"}"); /* a backslash, then text */
    assert_string_equal(sp_config_text(config, "a"), "\\u0000");
    sp_config_close(config);
}

static void test_limits_size_and_depth(void **state)
{
    (void)state;
    size_t size = (size_t)1 << 20;
    char *text = malloc(size + 1);
    memset(text, ' ', size + 1);
    text[0] = '{';
    text[1] = '}';
    sp_config *config;
    sp_error error = {0};
    assert_ok(sp_config_parse("c", text, size, &config, &error), error);
    sp_config_close(config);
    assert_int_equal(sp_config_parse("c", text, size + 1, &config, &error), SP_DATA);
    memset(text, '[', 200);
    assert_int_equal(sp_config_parse("c", text, 200, &config, &error), SP_DATA);
    free(text);
    assert_int_equal(sp_config_open("/nowhere/config.json", &config, &error), SP_NOT_FOUND);
    assert_int_equal(sp_config_open("/tmp", &config, &error), SP_DATA);
}

static void test_integers(void **state)
{
    (void)state;
    sp_config *config =
        parse("{\"a\":7,\"whole\":7.0,\"half\":7.5,\"text\":\"7\",\"yes\":true,\"none\":null,\"list\":[7],"
              "\"low\":-1,\"huge\":1e300,\"exact\":9007199254740992}");
    const int64_t fallback = 3;
    static const struct {
        const char *key;
        sp_status status;
        int64_t value;
    } cases[] = {{"a", SP_OK, 7},      {"whole", SP_OK, 7}, {"half", SP_DATA, 0},
                 {"text", SP_DATA, 0}, {"yes", SP_DATA, 0}, {"none", SP_OK, 3},
                 {"list", SP_DATA, 0}, {"low", SP_DATA, 0}, {"huge", SP_DATA, 0},
                 {"absent", SP_OK, 3}, {"A", SP_OK, 3},     {"exact", SP_OK, 9007199254740992}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int64_t value = 0;
        sp_error error = {0};
        sp_status status = sp_config_int(config, cases[i].key, &fallback, 0, INT64_MAX, &value, &error);
        assert_int_equal(status, cases[i].status);
        if (status == SP_OK) {
            assert_int_equal(value, cases[i].value);
            continue;
        }
        assert_string_equal(error.param, cases[i].key);
        assert_non_null(strstr(error.message, "config.json"));
        assert_non_null(strstr(error.message, cases[i].key));
    }
    int64_t value;
    sp_error error = {0};
    assert_int_equal(sp_config_int(config, "absent", NULL, 0, 9, &value, &error), SP_DATA);
    assert_string_equal(error.param, "absent");
    assert_int_equal(sp_config_int(config, "none", NULL, 0, 9, &value, &error), SP_DATA);
    assert_int_equal(sp_config_int(config, "a", NULL, 0, 6, &value, &error), SP_DATA);
    assert_int_equal(sp_config_int(config, "a", NULL, 8, 9, &value, &error), SP_DATA);
    assert_non_null(strstr(error.message, "8..9"));
    assert_ok(sp_config_int(config, "a", NULL, 7, 7, &value, &error), error);
    sp_config_close(config);
}

static void test_doubles_and_booleans(void **state)
{
    (void)state;
    sp_config *config = parse("{\"eps\":1e-5,\"text\":\"1\",\"yes\":true,\"no\":false,\"one\":1}");
    double value, fallback = 2.5;
    bool flag;
    sp_error error = {0};
    assert_ok(sp_config_double(config, "eps", NULL, 0, 1, &value, &error), error);
    assert_true(value == 1e-5);
    assert_ok(sp_config_double(config, "x", &fallback, 0, 1, &value, &error), error);
    assert_true(value == 2.5);
    assert_int_equal(sp_config_double(config, "eps", NULL, 1e-4, 1, &value, &error), SP_DATA);
    assert_int_equal(sp_config_double(config, "text", NULL, 0, 1, &value, &error), SP_DATA);
    assert_int_equal(sp_config_double(config, "yes", NULL, 0, 1, &value, &error), SP_DATA);
    assert_ok(sp_config_bool(config, "yes", false, &flag, &error), error);
    assert_true(flag);
    assert_ok(sp_config_bool(config, "no", true, &flag, &error), error);
    assert_false(flag);
    assert_ok(sp_config_bool(config, "x", true, &flag, &error), error);
    assert_true(flag);
    assert_int_equal(sp_config_bool(config, "one", true, &flag, &error), SP_DATA);
    sp_config_close(config);
}

static void test_ids(void **state)
{
    (void)state;
    sp_config *config =
        parse("{\"one\":5,\"two\":[1,2],\"three\":[1,2,3],\"low\":-1,\"nested\":[[1]],\"wide\":2147483648,"
              "\"most\":2147483647,\"half\":[0.5],\"empty\":[],\"none\":null,\"text\":\"5\"}");
    static const struct {
        const char *key;
        sp_status status;
        size_t count;
    } cases[] = {{"one", SP_OK, 1},      {"two", SP_OK, 2},    {"three", SP_DATA, 0}, {"low", SP_DATA, 0},
                 {"nested", SP_DATA, 0}, {"wide", SP_DATA, 0}, {"most", SP_OK, 1},    {"half", SP_DATA, 0},
                 {"empty", SP_OK, 0},    {"none", SP_OK, 0},   {"text", SP_DATA, 0},  {"absent", SP_OK, 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int32_t ids[2];
        size_t count = 9;
        sp_error error = {0};
        assert_int_equal(sp_config_ids(config, cases[i].key, ids, 2, &count, &error), cases[i].status);
        if (cases[i].status == SP_OK)
            assert_int_equal(count, cases[i].count);
        else
            assert_string_equal(error.param, cases[i].key);
    }
    sp_config_close(config);
}

static void test_normalizers(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        sp_status status;
        double alpha;
    } cases[] = {{"\"softmax\"", SP_OK, 1},
                 {"\"entmax15\"", SP_OK, 1.5},
                 {"\"sparsemax\"", SP_OK, 2},
                 {"{\"alpha\":1.33}", SP_OK, 1.33},
                 {"{\"alpha\":2}", SP_OK, 2},
                 {"{\"alpha\":1}", SP_DATA, 0},
                 {"{\"alpha\":2.01}", SP_DATA, 0},
                 {"{\"alpha\":\"x\"}", SP_DATA, 0},
                 {"{}", SP_DATA, 0},
                 {"{\"alpha\":1.5,\"x\":1}", SP_DATA, 0},
                 {"\"softpick\"", SP_DATA, 0},
                 {"1.5", SP_DATA, 0},
                 {"{\"alpha\":1.00000000001}", SP_DATA, 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"n\":%s}", cases[i].json);
        sp_config *config = parse(text);
        bool present = false;
        sp_normalizer normalizer = {0};
        sp_error error = {0};
        assert_int_equal(sp_config_normalizer(config, "n", &present, &normalizer, &error), cases[i].status);
        assert_true(present);
        if (cases[i].status == SP_OK)
            assert_true(normalizer.alpha == (float)cases[i].alpha);
        else
            assert_string_equal(error.param, "n");
        assert_ok(sp_config_normalizer(config, "m", &present, &normalizer, &error), error);
        assert_false(present);
        sp_config_close(config);
    }
}

static void test_objects_and_json(void **state)
{
    (void)state;
    sp_config *config = parse("{\"rope\":{\"type\":\"yarn\",\"factor\":4},\"flat\":3,\"null\":null}");
    const sp_config *rope = sp_config_object(config, "rope");
    assert_non_null(rope);
    assert_string_equal(sp_config_text(rope, "type"), "yarn");
    int64_t value;
    sp_error error = {0};
    assert_int_equal(sp_config_int(rope, "factor", NULL, 5, 6, &value, &error), SP_DATA);
    assert_non_null(strstr(error.message, "rope"));
    assert_null(sp_config_object(config, "flat"));
    assert_null(sp_config_object(config, "null"));
    assert_null(sp_config_object(config, "absent"));
    assert_null(sp_config_text(config, "flat"));
    assert_true(sp_config_has(config, "flat"));
    assert_false(sp_config_has(config, "null"));
    char *json = sp_config_json(config, "rope");
    assert_string_equal(json, "{\"type\":\"yarn\",\"factor\":4}");
    sp_free(json);
    assert_null(sp_config_json(config, "absent"));
    sp_config_close(config);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_refuses_what_is_no_config),
    cmocka_unit_test(test_limits_size_and_depth),
    cmocka_unit_test(test_integers),
    cmocka_unit_test(test_doubles_and_booleans),
    cmocka_unit_test(test_ids),
    cmocka_unit_test(test_normalizers),
    cmocka_unit_test(test_objects_and_json),
};
TEST_MAIN(tests)
