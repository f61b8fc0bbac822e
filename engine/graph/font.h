/* Text of graph pictures: glyphs drawn at build time from DejaVu Sans (make_font.c), widths for layout, and
 * tokens made fit to be shown.
 *
 * Lengths are in picture units; glyph bitmaps are in pixels of a picture drawn at double size. SVG names the
 * same font first and gives each text the width measured here, so both kinds of picture have one layout.
 * Tests: tests/unit/engine/test_font.c */
#ifndef SPARSED_ENGINE_GRAPH_FONT_H
#define SPARSED_ENGINE_GRAPH_FONT_H

#include "kernels/base.h"

typedef enum sp_font { SP_FONT_TEXT, SP_FONT_TITLE, SP_FONTS } sp_font; /* regular 11, bold 15 units an em */
extern const double sp_font_sizes[SP_FONTS];

typedef struct sp_glyph {
    uint32_t code, pixels; /* code point; first byte in the face's pixels */
    uint16_t advance;      /* 1/64 pixel at double size */
    int16_t left, top;     /* of the box, from the pen; top counts upward */
    uint8_t width, height; /* of the box */
} sp_glyph;

/* NULL where the font has none: then the code's number is shown in a box one SP_FONT_BOX em wide. */
const sp_glyph *sp_font_glyph(sp_font font, uint32_t code);
/* Coverage 0..15 of a pixel of a glyph's box. */
uint8_t sp_font_coverage(sp_font font, const sp_glyph *glyph, uint32_t x, uint32_t y);
#define SP_FONT_BOX 1.1

/* The code point at text (n > 0 bytes), and its length in *used; U+FFFD and 1 for ill-formed UTF-8. */
uint32_t sp_text_next(const char *text, size_t n, size_t *used);
/* Width of well-formed or ill-formed UTF-8 in picture units. */
double sp_text_width(sp_font font, const char *text, size_t n);
/* Appends text as a person should see a token: blanks as a middle dot, newline, tab and other controls as
 * signs, ill-formed bytes as U+FFFD; cut with an ellipsis where it would be wider than max_width. */
void sp_text_token(const char *text, size_t n, sp_font font, double max_width, sp_buffer *out);
/* Appends text that is legal in XML, with < > & " and ' escaped; controls and ill-formed bytes become
 * U+FFFD. */
void sp_text_xml(const char *text, size_t n, sp_buffer *out);

#endif
