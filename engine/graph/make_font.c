/* Draws the glyphs of graph pictures at build time: one C header out of a TrueType file, by FreeType.
 *
 * usage: make_font REGULAR.ttf BOLD.ttf OUTPUT.h
 *
 * Two faces, 22 and 30 pixels an em (twice what a picture's units say: PNG is drawn at double size), coverage
 * in 4 bits, two pixels a byte, rows one after another without padding between them. A glyph has its code
 * point, advance in 1/64 pixel, the place of its box relative to the pen, and where its pixels begin. Not
 * part of the program, which needs neither FreeType nor fonts. Tests: tests/unit/engine/test_font.c */
#include <ft2build.h>
#include FT_FREETYPE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* First and last code point of what is covered; beyond it a picture shows the number in a box. */
static const uint32_t ranges[][2] = {{0x20, 0x7e},     {0xa0, 0x17f},    {0x192, 0x192},   {0x370, 0x3ff},
                                     {0x400, 0x45f},   {0x490, 0x491},   {0x1e9e, 0x1e9e}, {0x2010, 0x2027},
                                     {0x2030, 0x203a}, {0x20ac, 0x20ac}, {0x2122, 0x2122}, {0x2190, 0x2193},
                                     {0x21b5, 0x21b5}, {0x21e5, 0x21e5}, {0x2208, 0x2208}, {0x2212, 0x2212},
                                     {0x2248, 0x2248}, {0x2260, 0x2265}, {0x2423, 0x2423}, {0x2581, 0x2581},
                                     {0x25a1, 0x25a1}, {0xfffd, 0xfffd}};
#define N_RANGES (sizeof ranges / sizeof ranges[0])

typedef struct writer {
    FILE *file;
    FT_Face face;
    const char *name;
    uint32_t n_glyphs, n_bytes;
} writer;

static int load(const writer *w, uint32_t code)
{
    FT_UInt index = FT_Get_Char_Index(w->face, code);
    return index && !FT_Load_Glyph(w->face, index, FT_LOAD_RENDER | FT_LOAD_NO_HINTING);
}

static void write_pixels(writer *w)
{
    const FT_Bitmap *bitmap = &w->face->glyph->bitmap;
    uint32_t n = bitmap->width * bitmap->rows;
    for (uint32_t i = 0; i < n; i += 2) {
        unsigned pair[2] = {0, 0};
        for (uint32_t k = 0; k < 2 && i + k < n; k++) {
            uint32_t y = (i + k) / bitmap->width, x = (i + k) % bitmap->width;
            pair[k] = (bitmap->buffer[(size_t)y * (size_t)bitmap->pitch + x] * 15u + 127u) / 255u;
        }
        fprintf(w->file, "%u,%s", pair[0] << 4 | pair[1], w->n_bytes++ % 24 == 23 ? "\n" : "");
    }
}

static void write_face(writer *w)
{
    fprintf(w->file, "static const uint8_t %s_pixels[] = {\n", w->name);
    for (size_t r = 0; r < N_RANGES; r++)
        for (uint32_t code = ranges[r][0]; code <= ranges[r][1]; code++)
            if (load(w, code)) write_pixels(w);
    fprintf(w->file, "0};\nstatic const sp_glyph %s_glyphs[] = {\n", w->name);
    uint32_t at = 0;
    for (size_t r = 0; r < N_RANGES; r++) {
        for (uint32_t code = ranges[r][0]; code <= ranges[r][1]; code++) {
            if (!load(w, code)) continue;
            const FT_GlyphSlot slot = w->face->glyph;
            fprintf(w->file, "{%u,%u,%ld,%d,%d,%u,%u},\n", code, at, slot->linearHoriAdvance >> 10,
                    slot->bitmap_left, slot->bitmap_top, slot->bitmap.width, slot->bitmap.rows);
            at += (slot->bitmap.width * slot->bitmap.rows + 1) / 2;
            w->n_glyphs++;
        }
    }
    fprintf(w->file, "};\n#define %s_count %u\n", w->name, w->n_glyphs);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        unsigned pixels;
    } faces[] = {{"text", 22}, {"title", 30}};
    FT_Library library;
    if (argc != 4 || FT_Init_FreeType(&library)) {
        fputs("usage: make_font REGULAR.ttf BOLD.ttf OUTPUT.h\n", stderr);
        return EXIT_FAILURE;
    }
    FILE *file = fopen(argv[3], "w");
    if (!file) return EXIT_FAILURE;
    fputs("/* Made by engine/graph/make_font.c. */\n", file);
    for (size_t f = 0; f < 2; f++) {
        writer w = {.file = file, .name = faces[f].name};
        if (FT_New_Face(library, argv[1 + f], 0, &w.face) || FT_Set_Pixel_Sizes(w.face, 0, faces[f].pixels)) {
            fprintf(stderr, "make_font: cannot read %s\n", argv[1 + f]);
            return EXIT_FAILURE;
        }
        write_face(&w);
        FT_Done_Face(w.face);
    }
    FT_Done_FreeType(library);
    return fclose(file) ? EXIT_FAILURE : EXIT_SUCCESS;
}
