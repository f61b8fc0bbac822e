/* Private to engine/: what all pictures share. A sheet is a page with title and reading help above, a content
 * area and a legend column in the middle, provenance below; a grid is a matrix of cells in it with its
 * labels.
 */
#ifndef SPARSED_ENGINE_GRAPH_SHEET_H
#define SPARSED_ENGINE_GRAPH_SHEET_H

#include "engine/graph/bins.h"

#define SP_LEGEND_WIDTH 176.0
#define SP_LEGEND_GAP 26.0
#define SP_LINE_HEIGHT 15.0 /* of text below text */
#define SP_LABEL_BYTES 4096 /* room for a token's label */

typedef struct sp_sheet {
    sp_canvas canvas;
    sp_palette palette;
    sp_color_scale scale;
    sp_point content; /* top left corner of the content */
    sp_point legend;  /* where the next entry of the legend begins */
    sp_buffer title, description;
} sp_sheet;

/* Each a paragraph: title in bold, reading (one sentence: how to read it) and facts below it, provenance at
 * the bottom. bare: not drawn, only part of the file's description. */
typedef struct sp_sheet_texts {
    sp_buffer title, facts, provenance;
    const char *reading;
    bool bare;
    double legend_width; /* where an entry needs more than SP_LEGEND_WIDTH; 0: it does not */
} sp_sheet_texts;
void sp_sheet_texts_init(sp_sheet_texts *texts);
void sp_sheet_texts_fini(sp_sheet_texts *texts);

/* content_height also holds the legend. */
sp_status sp_sheet_open(sp_sheet *sheet, const sp_picture_options *options, const sp_sheet_texts *texts,
                        double content_width, double content_height, sp_error *error) SP_MUST_CHECK;
sp_status sp_sheet_finish(sp_sheet *sheet, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
void sp_sheet_fini(sp_sheet *sheet);
/* A text of NUL-terminated UTF-8. */
void sp_sheet_say(sp_sheet *sheet, double x, double y, const char *text, sp_rgb color, sp_anchor anchor);

/* --- legend entries, one below the other --- */
void sp_legend_heading(sp_sheet *sheet, const char *text);
void sp_legend_note(sp_sheet *sheet, const char *text);
/* The ramp with values at five places, and the scale's name. */
void sp_legend_ramp(sp_sheet *sheet, double low, double high);
typedef enum sp_legend_key {
    SP_KEY_NONE,
    SP_KEY_EDGE,
    SP_KEY_MASKED,
    SP_KEY_BOTH,
    SP_KEY_MISSED,
    SP_KEY_EXTRA,
    SP_KEY_PENDING
} sp_legend_key;
/* shapes: differences have their shapes; else they are squares, as in cells too small for shapes. */
void sp_legend_entry(sp_sheet *sheet, sp_legend_key key, bool shapes, const char *text);
double sp_legend_entry_width(const char *text, size_t size);
double sp_legend_height(bool ramp, uint32_t entries, uint32_t notes);

/* --- a matrix --- */
typedef struct sp_grid {
    double cell;            /* side of a cell in units */
    uint32_t step;          /* positions a cell stands for, on both axes */
    uint32_t rows, columns; /* cells */
    uint32_t row_begin, row_end, col_begin, col_end;
    bool causal;
    double row_labels, column_labels; /* width and height of the labels with their gap */
    sp_rect rect;                     /* of the cells; x and y set by the caller */
} sp_grid;
/* The largest grid with sides of at most max_side and cells of at most max_cell. */
void sp_grid_fit(const sp_slice *slice, double max_side, double max_cell, bool row_labels, sp_grid *grid);
void sp_grid_draw_base(sp_sheet *sheet, const sp_grid *grid); /* frame, mask, grid lines */
void sp_grid_draw_rows(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice);
void sp_grid_draw_columns(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice);
/* "query" and "key" with their arrows, in the corner left above. */
void sp_grid_draw_axes(sp_sheet *sheet, const sp_grid *grid);
/* Fills levels (rows, columns) with the ramp levels of the largest weight of each cell, 0 without an edge. */
void sp_bins_levels(const sp_bins *bins, sp_color_scale scale, double low, double high, uint8_t *levels);

/* The matrix alone, without title, sentences and provenance, for a page that says them itself, and where its
 * cells lie in it. */
typedef struct sp_picture_area {
    sp_rect rect;
    uint32_t step; /* positions a cell */
    double cell;
} sp_picture_area;
sp_status sp_picture_matrix_bare(const sp_slice *slice, const sp_picture_options *options,
                                 sp_picture_area *area, sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* Range of the weights above 0 of one or two graphs: low 0 unless the scale is log; 0..1 when there are none.
 * b: NULL: one. */
void sp_weight_range(const sp_bins *a, const sp_bins *b, sp_color_scale scale, double *low, double *high);
/* Every how many positions a label fits, where positions lie pitch units apart: 1, 2, 5, 10, 20, .. */
uint32_t sp_label_stride(double pitch);
/* A position's label: its token, with its number before it where only some positions have a label. */
void sp_label_text(const sp_slice *slice, uint32_t position, uint32_t stride, sp_buffer *out);
/* Units that the widest of the labels takes that positions begin:end have at this stride. */
double sp_labels_width(const sp_slice *slice, uint32_t begin, uint32_t end, uint32_t stride);

#endif
