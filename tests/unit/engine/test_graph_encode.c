/* engine/graph/encode: base64 (vectors of RFC 4648), zip structure. */
#include <string.h>

#include "engine/graph/encode.h"
#include "tests/support/test.h"

static void test_base64(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xff\xef\xbe", "/+++"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_buffer out;
        sp_buffer_init(&out, 64);
        sp_encode_base64(cases[i][0], strlen(cases[i][0]), &out);
        sp_buffer_append(&out, "", 1);
        assert_string_equal(out.data, cases[i][1]);
        sp_buffer_fini(&out);
    }
}

/* The archive starts behind other bytes of the buffer; offsets count from its own begin. */
static void test_zip(void **state)
{
    (void)state;
    sp_buffer out;
    sp_zip zip;
    sp_error error = {0};
    sp_buffer_init(&out, 4096);
    sp_buffer_text(&out, "before");
    sp_zip_init(&zip, &out);
    sp_zip_begin(&zip, "a.txt");
    sp_buffer_text(&out, "123456789");
    sp_zip_end(&zip);
    assert_ok(sp_zip_finish(&zip, &error), error);
    const uint8_t *bytes = (const uint8_t *)out.data + 6;
    assert_memory_equal(bytes, "PK\x03\x04", 4);
    assert_memory_equal(bytes + 14, "\x26\x39\xf4\xcb", 4); /* CRC-32 of 123456789 */
    assert_memory_equal(bytes + 18, "\x09\0\0\0\x09\0\0\0\x05\0\0\0", 12);
    assert_memory_equal(bytes + 30, "a.txt123456789PK\x01\x02", 18);
    const uint8_t *end = (const uint8_t *)out.data + out.size - 22;
    assert_memory_equal(end, "PK\x05\x06", 4);
    assert_int_equal(end[16], 30 + 5 + 9); /* where the directory begins */
    sp_buffer_fini(&out);
}

static void test_zip_no_room(void **state)
{
    (void)state;
    sp_buffer out;
    sp_zip zip;
    sp_buffer_init(&out, 40);
    sp_zip_init(&zip, &out);
    sp_zip_begin(&zip, "a.txt");
    sp_buffer_text(&out, "123456789");
    sp_zip_end(&zip);
    assert_int_equal(sp_zip_finish(&zip, NULL), SP_NO_MEMORY);
    sp_buffer_fini(&out);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_base64),
    cmocka_unit_test(test_zip),
    cmocka_unit_test(test_zip_no_room),
};
TEST_MAIN(tests)
