/* PNG files in memory, by libpng: 8-bit RGB, or a palette whose entry 0 is transparent, and texts in iTXt
 * chunks (UTF-8). The only place that includes png.h. Tests: tests/unit/engine/test_picture.c,
 * tests/golden/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_PNG_H
#define SPARSED_ENGINE_GRAPH_PNG_H

#include "engine/graph/color.h"

typedef struct sp_png_text {
    const char *key;  /* Latin-1, at most 79 bytes: "Title", "Description", "Software" */
    const char *text; /* well-formed UTF-8 */
} sp_png_text;

/* pixels: (height, width, 3). Appends the file to out; SP_NO_MEMORY when that is not possible. */
sp_status sp_png_write_rgb(const uint8_t *pixels, uint32_t width, uint32_t height, const sp_png_text *texts,
                           size_t n_texts, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
/* indices: (height, width) into colors (256), of which 0 is drawn transparent. */
sp_status sp_png_write_indexed(const uint8_t *indices, uint32_t width, uint32_t height, const sp_rgb *colors,
                               sp_buffer *out, sp_error *error) SP_MUST_CHECK;

#endif
