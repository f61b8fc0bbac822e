/* See font.h. */
#include "engine/graph/font.h"

#include <math.h>
#include <string.h>

#include "engine/graph/font_table.h"

const double sp_font_sizes[SP_FONTS] = {11, 15};

typedef struct face {
    const sp_glyph *glyphs; /* (n) by rising code point */
    size_t n;
    const uint8_t *pixels;
} face;

static const face faces[SP_FONTS] = {{text_glyphs, text_count, text_pixels},
                                     {title_glyphs, title_count, title_pixels}};

const sp_glyph *sp_font_glyph(sp_font font, uint32_t code)
{
    const face *f = &faces[font];
    size_t low = 0, high = f->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->glyphs[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < f->n && f->glyphs[low].code == code ? &f->glyphs[low] : NULL;
}

uint8_t sp_font_coverage(sp_font font, const sp_glyph *glyph, uint32_t x, uint32_t y)
{
    size_t at = (size_t)y * glyph->width + x;
    uint8_t pair = faces[font].pixels[glyph->pixels + at / 2];
    return at % 2 ? pair & 15 : pair >> 4;
}

uint32_t sp_text_next(const char *text, size_t n, size_t *used)
{
    static const uint8_t first[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    size_t length = sp_utf8_length(text, n);
    *used = length ? length : 1;
    if (!length) return 0xfffd;
    uint32_t code = (uint8_t)text[0] & first[length];
    for (size_t i = 1; i < length; i++) code = code << 6 | ((uint8_t)text[i] & 0x3f);
    return code;
}

static double advance_of(sp_font font, uint32_t code)
{
    const sp_glyph *glyph = sp_font_glyph(font, code);
    return glyph ? glyph->advance / 128.0 : SP_FONT_BOX * sp_font_sizes[font];
}

double sp_text_width(sp_font font, const char *text, size_t n)
{
    double width = 0;
    for (size_t i = 0, used; i < n; i += used)
        width += advance_of(font, sp_text_next(text + i, n - i, &used));
    return width;
}

static size_t put_utf8(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00 >> n & 0xff) | code);
    return n;
}

static bool is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff ||
           (code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
}

/* The sign that stands for a code point in a label. */
static uint32_t shown_as(uint32_t code)
{
    switch (code) {
    case ' ':
    case 0xa0:
        return 0xb7;
    case '\n':
        return 0x21b5;
    case '\t':
        return 0x21e5;
    default:
        return is_control(code) ? 0xfffd : code;
    }
}

void sp_text_token(const char *text, size_t n, sp_font font, double max_width, sp_buffer *out)
{
    double dots = advance_of(font, 0x2026), width = 0;
    size_t begin = out->size, fits = begin; /* fits: where an ellipsis still has room */
    for (size_t i = 0, used; i < n; i += used) {
        char bytes[4];
        uint32_t code = shown_as(sp_text_next(text + i, n - i, &used));
        width += advance_of(font, code);
        if (width > max_width) {
            out->size = out->size > fits ? fits : out->size;
            sp_buffer_text(out, "\xe2\x80\xa6");
            return;
        }
        sp_buffer_append(out, bytes, put_utf8(code, bytes));
        if (width + dots <= max_width) fits = out->size;
    }
}

static const char *escape_of(uint32_t code)
{
    switch (code) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

/* Legal in XML 1.0 and of use: no controls but newline and tab, no surrogates, no non-characters. */
static bool is_legal(uint32_t code)
{
    if (code == '\n' || code == '\t') return true;
    return code >= 0x20 && !(code >= 0x7f && code < 0xa0) && (code & 0xfffe) != 0xfffe &&
           !(code >= 0xfdd0 && code <= 0xfdef);
}

void sp_text_xml(const char *text, size_t n, sp_buffer *out)
{
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t code = sp_text_next(text + i, n - i, &used);
        const char *escape = escape_of(code);
        if (escape)
            sp_buffer_text(out, escape);
        else if (!is_legal(code) || (code == 0xfffd && used == 1))
            sp_buffer_text(out, "\xef\xbf\xbd");
        else
            sp_buffer_append(out, text + i, used);
    }
}
