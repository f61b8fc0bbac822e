/* Typed getters over request bodies: ranges, exact integers, NULs in strings, raw slices
 * (server/json_body.h). */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "server/json_body.h"

typedef struct fixture {
    char text[512];
    sp_arena arena;
    sp_body body;
    sp_error error;
} fixture;

static sp_status open_body(fixture *f, const char *text)
{
    snprintf(f->text, sizeof f->text, "%s", text);
    sp_arena_init(&f->arena, 65536);
    return sp_body_open(&f->body, f->text, strlen(f->text), &f->arena, &f->error);
}

static void close_body(fixture *f)
{
    sp_body_close(&f->body);
    sp_arena_fini(&f->arena);
}

static void refuses_what_is_no_object(void **state)
{
    (void)state;
    const char *const rows[] = {
        "", "[]", "1", "null", "\"a\"", "{", "{\"a\":1}x", "{\"a\":1,\"a\":1}", "{\"a\":01}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fixture f;
        assert_int_equal(open_body(&f, rows[i]), SP_INVALID);
        close_body(&f);
    }
}

static void reads_integers(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(
        open_body(
            &f, "{\"a\":3,\"b\":3.0,\"c\":3.5,\"d\":\"3\",\"e\":true,\"f\":null,\"max\":9223372036854775807,"
                "\"min\":-9223372036854775808,\"odd\":9007199254740993,\"over\":9223372036854775808}"),
        SP_OK);
    int64_t value = 7;
    assert_int_equal(sp_body_int(&f.body, "a", 0, 3, &value, &f.error), SP_OK);
    assert_int_equal(value, 3);
    assert_int_equal(sp_body_int(&f.body, "b", 3, 9, &value, &f.error), SP_OK);
    assert_int_equal(value, 3);
    value = 7;
    const char *const bad[] = {"c", "d", "e"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sp_body_int(&f.body, bad[i], 0, 9, &value, &f.error), SP_INVALID);
        assert_string_equal(f.error.param, bad[i]);
    }
    assert_int_equal(sp_body_int(&f.body, "a", 4, 9, &value, &f.error), SP_INVALID);
    assert_int_equal(sp_body_int(&f.body, "a", 0, 2, &value, &f.error), SP_INVALID);
    assert_int_equal(sp_body_int(&f.body, "f", 0, 9, &value, &f.error), SP_OK);
    assert_int_equal(sp_body_int(&f.body, "absent", 0, 9, &value, &f.error), SP_OK);
    assert_int_equal(value, 7);
    assert_int_equal(sp_body_int(&f.body, "max", INT64_MIN, INT64_MAX, &value, &f.error), SP_OK);
    assert_true(value == INT64_MAX);
    assert_int_equal(sp_body_int(&f.body, "min", INT64_MIN, INT64_MAX, &value, &f.error), SP_OK);
    assert_true(value == INT64_MIN);
    assert_int_equal(sp_body_int(&f.body, "odd", INT64_MIN, INT64_MAX, &value, &f.error), SP_OK);
    assert_true(value == 9007199254740993);
    assert_int_equal(sp_body_int(&f.body, "over", INT64_MIN, INT64_MAX, &value, &f.error), SP_INVALID);
    close_body(&f);
}

static void reads_numbers_and_booleans(void **state)
{
    (void)state;
    fixture f;
    double number = 5.0;
    bool flag = true;
    assert_int_equal(open_body(&f, "{\"zero\":0,\"one\":1,\"tiny\":1e-400,\"no\":false,\"text\":\"x\"}"),
                     SP_OK);
    assert_int_equal(sp_body_number(&f.body, "zero", 0.0, 1.0, false, &number, &f.error), SP_OK);
    assert_true(number == 0.0);
    assert_int_equal(sp_body_number(&f.body, "zero", 0.0, 1.0, true, &number, &f.error), SP_INVALID);
    assert_int_equal(sp_body_number(&f.body, "tiny", 0.0, 1.0, true, &number, &f.error), SP_INVALID);
    assert_int_equal(sp_body_number(&f.body, "one", 0.0, 1.0, true, &number, &f.error), SP_OK);
    assert_true(number == 1.0);
    assert_int_equal(sp_body_number(&f.body, "no", 0.0, 1.0, false, &number, &f.error), SP_INVALID);
    assert_int_equal(sp_body_number(&f.body, "text", 0.0, 1.0, false, &number, &f.error), SP_INVALID);
    assert_int_equal(sp_body_bool(&f.body, "no", &flag, &f.error), SP_OK);
    assert_false(flag);
    assert_int_equal(sp_body_bool(&f.body, "one", &flag, &f.error), SP_INVALID);
    assert_int_equal(sp_body_bool(&f.body, "NO", &flag, &f.error), SP_OK);
    close_body(&f);
}

static void keeps_nuls(void **state)
{
    (void)state;
    fixture f;
    const char *text = NULL;
    size_t size = 0;
    assert_int_equal(
        open_body(&f, "{\"a\":\"x\\u0000y\\\\u0000\\ufdd0\\uFDD1\xef\xb7\x92\",\"b\":\"\\u0000\"}"), SP_OK);
    assert_int_equal(sp_body_text(&f.body, "a", &text, &size, &f.error), SP_OK);
    static const char wanted[] = "x\0y\\u0000\xef\xb7\x90\xef\xb7\x91\xef\xb7\x92";
    assert_int_equal(size, sizeof wanted - 1);
    assert_memory_equal(text, wanted, size);
    assert_int_equal(sp_body_text(&f.body, "b", &text, &size, &f.error), SP_OK);
    assert_int_equal(size, 1);
    assert_int_equal(text[0], 0);
    close_body(&f);
    assert_int_equal(open_body(&f, "{\"a\":1}"), SP_OK);
    assert_int_equal(sp_body_text(&f.body, "a", &text, &size, &f.error), SP_INVALID);
    assert_string_equal(f.error.param, "a");
    close_body(&f);
}

static void cuts_raw_values(void **state)
{
    (void)state;
    const char *const rows[] = {
        "{\"s\": [1, {\"v\":2}]}", "[1 , 2]", "\"a\\\"b\"", "-1.5e3", "true", "false", "{}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fixture f;
        char text[200];
        const char *raw;
        size_t size;
        snprintf(text, sizeof text, "{\"other\":{\"v\":0},\"\\u0076\" : %s , \"z\":null}", rows[i]);
        assert_int_equal(open_body(&f, text), SP_OK);
        assert_true(sp_body_raw(&f.body, "v", &raw, &size));
        assert_int_equal(size, strlen(rows[i]));
        assert_memory_equal(raw, rows[i], size);
        assert_false(sp_body_raw(&f.body, "z", &raw, &size));
        assert_false(sp_body_raw(&f.body, "absent", &raw, &size));
        close_body(&f);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(refuses_what_is_no_object),
    cmocka_unit_test(reads_integers),
    cmocka_unit_test(reads_numbers_and_booleans),
    cmocka_unit_test(keeps_nuls),
    cmocka_unit_test(cuts_raw_values),
};
TEST_MAIN(tests)
