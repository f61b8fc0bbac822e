/* Private to engine/: the PNG half of canvas.c. Everything is in pixels of canvas->pixels here. */
#ifndef SPARSED_ENGINE_GRAPH_RASTER_H
#define SPARSED_ENGINE_GRAPH_RASTER_H

#include "engine/graph/canvas.h"

/* Fills the page. */
void sp_raster_clear(sp_canvas *canvas);
/* Edges are rounded to whole pixels; something of positive size stays at least one pixel. */
void sp_raster_rect(sp_canvas *canvas, sp_rect rect, sp_rgb color);
void sp_raster_hatch(sp_canvas *canvas, sp_rect rect, sp_rgb fill, sp_rgb line);
void sp_raster_cells(sp_canvas *canvas, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                     const sp_rgb ramp[256]);
void sp_raster_line(sp_canvas *canvas, sp_point a, sp_point b, double width, sp_rgb color, double opacity);
void sp_raster_ring(sp_canvas *canvas, sp_point center, double radius, double width, sp_rgb color);
/* origin: the pen's start. */
void sp_raster_text(sp_canvas *canvas, sp_font font, sp_point origin, const char *text, size_t n,
                    sp_rgb color, bool upward);

#endif
