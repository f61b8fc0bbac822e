/* Looks up the class of a code point in the table made at build. Tests: tests/unit/models/test_tokenizer.c */
#include "models/unicode.h"

#include "models/unicode_tables.h"

sp_char_class sp_unicode_class(uint32_t code)
{
    if (code > 0x10ffffu) return SP_CHAR_OTHER;
    return (sp_char_class)sp_unicode_classes[sp_unicode_blocks[code >> 8]][code & 255u];
}

uint32_t sp_utf8_decode(const char *text, size_t *length)
{
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *length = 2;
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    }
    if (b[0] < 0xf0) {
        *length = 3;
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    }
    *length = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}
