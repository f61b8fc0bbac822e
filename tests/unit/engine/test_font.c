/* engine/graph/font: UTF-8, widths, labels of tokens, text for XML. */
#include <math.h>
#include <string.h>

#include "engine/graph/font.h"
#include "tests/support/test.h"

static const char *token_label(const char *text, size_t n, double width)
{
    static char label[256];
    sp_buffer out;
    sp_buffer_init(&out, sizeof label - 1);
    sp_text_token(text, n, SP_FONT_TEXT, width, &out);
    assert_false(out.failed);
    if (out.size > 0) memcpy(label, out.data, out.size);
    label[out.size] = 0;
    sp_buffer_fini(&out);
    return label;
}

static const char *xml(const char *text, size_t n)
{
    static char escaped[256];
    sp_buffer out;
    sp_buffer_init(&out, sizeof escaped - 1);
    sp_text_xml(text, n, &out);
    assert_false(out.failed);
    if (out.size > 0) memcpy(escaped, out.data, out.size);
    escaped[out.size] = 0;
    sp_buffer_fini(&out);
    return escaped;
}

static void test_next(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        uint32_t code;
        size_t used;
    } cases[] = {{"a", 1, 'a', 1},
                 {"\xc3\xa9x", 3, 0xe9, 2},
                 {"\xe2\x86\x93", 3, 0x2193, 3},
                 {"\xf0\x9f\x98\x80", 4, 0x1f600, 4},
                 {"\xff\x61", 2, 0xfffd, 1},
                 {"\xe2\x86", 2, 0xfffd, 1},
                 {"\xed\xa0\x80", 3, 0xfffd, 1}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t used;
        assert_int_equal(sp_text_next(cases[i].text, cases[i].n, &used), cases[i].code);
        assert_int_equal(used, cases[i].used);
    }
}

/* Advances of DejaVu Sans, 2048 units an em: i 569, m 1995, space 651. */
static void test_width(void **state)
{
    (void)state;
    assert_true(fabs(sp_text_width(SP_FONT_TEXT, "i", 1) - 11.0 * 569 / 2048) < 0.02);
    assert_true(fabs(sp_text_width(SP_FONT_TEXT, "mim ", 4) - 11.0 * (1995 + 569 + 1995 + 651) / 2048) <
                0.05);
    assert_true(sp_text_width(SP_FONT_TITLE, "title", 5) > 1.3 * sp_text_width(SP_FONT_TEXT, "title", 5));
    assert_true(fabs(sp_text_width(SP_FONT_TEXT, "\xe4\xb8\xad", 3) - 11 * SP_FONT_BOX) < 1e-9);
    assert_true(sp_text_width(SP_FONT_TEXT, "", 0) == 0);
}

/* An "l" is a vertical bar: some column of its box is full from top to bottom. */
static void test_glyph(void **state)
{
    (void)state;
    const sp_glyph *glyph = sp_font_glyph(SP_FONT_TEXT, 'l');
    assert_non_null(glyph);
    assert_in_range(glyph->height, 14, 19);
    bool full = false;
    for (uint32_t x = 0; x < glyph->width; x++) {
        uint32_t y = 1;
        while (y + 1 < glyph->height && sp_font_coverage(SP_FONT_TEXT, glyph, x, y) == 15) y++;
        full |= y + 1 == glyph->height;
    }
    assert_true(full);
    assert_null(sp_font_glyph(SP_FONT_TEXT, 0x4e2d));
    assert_non_null(sp_font_glyph(SP_FONT_TEXT, 0x2192));
}

static void test_token(void **state)
{
    (void)state;
    assert_string_equal(token_label(" was", 4, 90), "\xc2\xb7was");
    assert_string_equal(token_label("\n\t", 2, 90), "\xe2\x86\xb5\xe2\x87\xa5");
    assert_string_equal(token_label("a\x01\xff", 3, 90), "a\xef\xbf\xbd\xef\xbf\xbd");
    assert_string_equal(token_label("\xe2\x80\xae!", 4, 90), "\xef\xbf\xbd!"); /* no change of direction */
    char many[10240];
    memset(many, 'x', sizeof many);
    const char *label = token_label(many, sizeof many, 60);
    size_t n = strlen(label);
    assert_in_range(n, 5, 20);
    assert_string_equal(label + n - 3, "\xe2\x80\xa6");
    assert_true(sp_text_width(SP_FONT_TEXT, label, n) <= 60);
    assert_string_equal(token_label("x", 1, 7), "x");
}

static void test_xml(void **state)
{
    (void)state;
    assert_string_equal(xml("<a b=\"c\" d='e'>&", 16), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
    assert_string_equal(xml("a\0b\x1b\r\n", 6), "a\xef\xbf\xbd"
                                                "b\xef\xbf\xbd\xef\xbf\xbd\n");
    assert_string_equal(xml("\xc3\xa9\xc3", 3), "\xc3\xa9\xef\xbf\xbd");
    assert_string_equal(xml("\xef\xbf\xbe\xef\xbf\xbf", 6), "\xef\xbf\xbd\xef\xbf\xbd"); /* no characters */
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_next),  cmocka_unit_test(test_width), cmocka_unit_test(test_glyph),
    cmocka_unit_test(test_token), cmocka_unit_test(test_xml),
};
TEST_MAIN(tests)
