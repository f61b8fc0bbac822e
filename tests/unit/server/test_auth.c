/* server/auth.h: what a key file may hold, and which keys it lets in. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/auth.h"

static bool lets_in(const sp_keys *keys, const char *key)
{
    uint8_t digest[SP_SHA256_BYTES];
    return sp_keys_find(keys, key, strlen(key), digest);
}

static void reads_lines(void **state)
{
    (void)state;
    static const char text[] =
        "# staff\n\n  sk-one-12345 \t\r\n#sk-no-12345\nzw\xc3\xb6lf-bytes\n \t\nsk with "
        "blanks\neightbyt";
    sp_keys *keys;
    sp_error error;
    assert_int_equal(sp_keys_parse("keys", text, sizeof text - 1, &keys, &error), SP_OK);
    assert_int_equal(keys->n, 4);
    assert_true(lets_in(keys, "sk-one-12345"));
    assert_true(lets_in(keys, "zw\xc3\xb6lf-bytes"));
    assert_true(lets_in(keys, "sk with blanks"));
    assert_true(lets_in(keys, "eightbyt"));
    static const char *const others[] = {
        "",        "sk-one-1234",  "sk-one-123456", " sk-one-12345", "sk-no-12345",
        "# staff", "sk-one-12344", "eightby",       "SK-ONE-12345"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) assert_false(lets_in(keys, others[i]));
    sp_keys_free(keys);
}

static void names_owners(void **state)
{
    (void)state;
    sp_keys *keys;
    sp_error error;
    uint8_t a[SP_SHA256_BYTES], b[SP_SHA256_BYTES];
    assert_int_equal(sp_keys_parse("keys", "first-key\nsecond-key\n", 21, &keys, &error), SP_OK);
    assert_true(sp_keys_find(keys, "first-key", 9, a) && sp_keys_find(keys, "second-key", 10, b));
    assert_memory_not_equal(a, b, sizeof a);
    assert_true(sp_keys_find(keys, "first-key", 9, b));
    assert_memory_equal(a, b, sizeof a);
    sp_keys_free(keys);
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size;
        const char *part;
    } rows[] = {
        {"", 0, "no key"},
        {"# only\n\n  \r\n", 12, "no key"},
        {"good-key-1\nshort\n", 17, "line 2"},
        {"1234567\n", 8, "8 to 256"},
        {"bad\x01"
         "control\n",
         12, "line 1"},
        {"good-key\0more\n", 14, "line 1"},
        {"ill\xff"
         "formed12\n",
         13, "UTF-8"},
        {"tab\tinside\n", 11, "line 1"},
    };
    sp_keys *keys;
    sp_error error;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(sp_keys_parse("the-file", rows[i].text, rows[i].size, &keys, &error), SP_DATA);
        assert_null(keys);
        assert_non_null(strstr(error.message, rows[i].part));
        assert_non_null(strstr(error.message, "the-file"));
        assert_null(strstr(error.message, "short"));
    }
    char longest[258];
    memset(longest, 'k', sizeof longest);
    assert_int_equal(sp_keys_parse("keys", longest, 257, &keys, &error), SP_DATA);
    assert_int_equal(sp_keys_parse("keys", longest, 256, &keys, &error), SP_OK);
    sp_keys_free(keys);
}

static void reads_files(void **state)
{
    (void)state;
    char path[] = "/tmp/sparsed-keys-XXXXXX";
    sp_keys *keys;
    sp_error error;
    assert_int_equal(sp_keys_read("/nonexistent/keys", &keys, &error), SP_NOT_FOUND);
    assert_int_equal(sp_keys_read("/tmp", &keys, &error), SP_DATA);
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, "sk-of-a-file\n", 13), 13);
    close(file);
    assert_int_equal(sp_keys_read(path, &keys, &error), SP_OK);
    assert_true(lets_in(keys, "sk-of-a-file"));
    sp_keys_free(keys);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_lines),
        cmocka_unit_test(names_owners),
        cmocka_unit_test(refuses),
        cmocka_unit_test(reads_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
