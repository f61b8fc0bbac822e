/* What pictures are drawn on: SVG text or PNG pixels behind one set of calls, so that both show the same.
 *
 * Units are CSS pixels from the top left corner; PNG is drawn at double size, at single size where it would
 * pass 16 million pixels. Shapes are anti-aliased by coverage = clamp(half width + 1/2 - distance). SVG
 * states the width of every text as measured here, so that another font gets the same layout.
 *
 * Ownership: the canvas owns pixels and markup; running out of memory is remembered and reported by
 * sp_canvas_finish. Tests: tests/unit/engine/test_canvas.c */
#ifndef SPARSED_ENGINE_GRAPH_CANVAS_H
#define SPARSED_ENGINE_GRAPH_CANVAS_H

#include "engine/graph/color.h"
#include "engine/graph/font.h"

typedef enum sp_canvas_kind { SP_CANVAS_SVG, SP_CANVAS_PNG } sp_canvas_kind;

typedef struct sp_rect {
    double x, y, width, height;
} sp_rect;
typedef struct sp_point {
    double x, y;
} sp_point;

typedef enum sp_anchor { SP_START, SP_MIDDLE, SP_END } sp_anchor;
typedef enum sp_mark { SP_MARK_RING, SP_MARK_CROSS } sp_mark;

typedef struct sp_canvas {
    sp_canvas_kind kind;
    double width, height;
    sp_rgb page;
    /* PNG */
    uint32_t scale, pixel_width, pixel_height;
    uint8_t *pixels; /* (pixel_height, pixel_width, 3) */
    /* SVG */
    sp_buffer body;
    uint32_t n_patterns;
    bool failed;
} sp_canvas;

sp_status sp_canvas_init(sp_canvas *canvas, sp_canvas_kind kind, double width, double height, sp_rgb page,
                         sp_error *error) SP_MUST_CHECK;
void sp_canvas_fini(sp_canvas *canvas);

/* Filled rectangles of one colour. */
void sp_canvas_rects(sp_canvas *canvas, const sp_rect *rects, size_t n, sp_rgb color);
/* The outline just outside of rect. */
void sp_canvas_frame(sp_canvas *canvas, sp_rect rect, sp_rgb color);
/* Rectangles filled with one colour and hatched with another. */
void sp_canvas_hatch(sp_canvas *canvas, const sp_rect *rects, size_t n, sp_rgb fill, sp_rgb line);
/* Cells of a grid: levels (rows, columns) index ramp, 0 draws nothing. rect is split evenly. */
void sp_canvas_cells(sp_canvas *canvas, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                     const sp_rgb ramp[256]);
/* A line from a to b, opacity 0..1. */
void sp_canvas_line(sp_canvas *canvas, sp_point a, sp_point b, double width, sp_rgb color, double opacity);
/* Rings or crosses of one colour round points, radius and line width in units. */
void sp_canvas_marks(sp_canvas *canvas, sp_mark mark, const sp_point *points, size_t n, double radius,
                     double width, sp_rgb color);
/* Text whose baseline is at y; anchor says which of its points is at x. upward: turned by 90 degrees, read
 * from bottom to top, x is the baseline then, y where the anchor is. */
void sp_canvas_text(sp_canvas *canvas, sp_font font, sp_point at, const char *text, size_t n, sp_rgb color,
                    sp_anchor anchor, bool upward);

/* Appends the file. title and description: of a person who can't see it, and of PNG's iTXt; well-formed
 * UTF-8. */
sp_status sp_canvas_finish(sp_canvas *canvas, const char *title, const char *description, sp_buffer *out,
                           sp_error *error) SP_MUST_CHECK;

#endif
