/* One head as a matrix, and gold | predicted | after side by side. See picture.h. */
#include "engine/graph/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MATRIX_SIDE 720.0
#define MATRIX_CELL 20.0
#define PANEL_SIDE 432.0
#define PANEL_CELL 16.0
#define PANEL_GAP 22.0
#define PANEL_WIDTH 190.0 /* of a heading: a panel takes at least so much */
#define HEADING 22.0      /* above a panel */

static const char matrix_reading[] =
    "A coloured cell is an edge: the query of its row reads the key of its column, with this weight.";

static void say_step(sp_sheet *sheet, const sp_grid *grid, const char *what)
{
    char text[96];
    if (grid->step == 1) return;
    snprintf(text, sizeof text, "a cell is %u \xc3\x97 %u pairs,", grid->step, grid->step);
    sp_legend_note(sheet, text);
    sp_legend_note(sheet, what);
}

static sp_status draw_cells(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice, double low,
                            double high, sp_error *error)
{
    uint8_t *levels = sp_alloc((size_t)grid->rows * grid->columns, 1);
    if (!levels) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    sp_grid_levels(grid, slice, sheet->scale, low, high, levels);
    sp_canvas_cells(&sheet->canvas, grid->rect, levels, grid->rows, grid->columns, sheet->palette.ramp);
    sp_free(levels);
    return SP_OK;
}

static sp_status draw_matrix(sp_sheet *sheet, sp_grid *grid, const sp_slice *slice, sp_error *error)
{
    double low, high;
    sp_weight_range(&slice, 1, sheet->scale, &low, &high);
    grid->rect.x = sheet->content.x + grid->row_labels;
    grid->rect.y = sheet->content.y + grid->column_labels;
    sp_grid_draw_base(sheet, grid);
    sp_grid_draw_rows(sheet, grid, slice);
    sp_grid_draw_columns(sheet, grid, slice);
    sp_grid_draw_axes(sheet, grid);
    sp_status status = draw_cells(sheet, grid, slice, low, high, error);
    if (status) return status;
    sp_legend_heading(sheet, "weight of the edge");
    sp_legend_ramp(sheet, low, high);
    sp_legend_entry(sheet, SP_KEY_NONE, true, "no edge");
    if (slice->causal) sp_legend_entry(sheet, SP_KEY_MASKED, true, "masked: key after query");
    say_step(sheet, grid, "coloured by their largest");
    return SP_OK;
}

static sp_status make_matrix(const sp_slice *slice, const sp_picture_options *options, sp_picture_area *area,
                             sp_buffer *out, sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    sp_grid grid;
    sp_grid_fit(slice, MATRIX_SIDE, MATRIX_CELL, true, &grid);
    sp_sheet_texts_init(&texts);
    sp_caption_title(slice->source, slice, &texts.title);
    sp_caption_facts(slice, &texts.facts);
    sp_caption_provenance(slice->source, &texts.provenance);
    texts.reading = matrix_reading;
    texts.bare = area != NULL;
    double height = fmax(grid.column_labels + grid.rect.height, sp_legend_height(true, 2, 2));
    sp_status status =
        sp_sheet_open(&sheet, options, &texts, grid.row_labels + grid.rect.width, height, error);
    if (!status) status = draw_matrix(&sheet, &grid, slice, error);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    if (area) *area = (sp_picture_area){grid.rect, grid.step, grid.cell};
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}

sp_status sp_picture_matrix(const sp_slice *slice, const sp_picture_options *options, sp_buffer *out,
                            sp_error *error)
{
    return make_matrix(slice, options, NULL, out, error);
}

sp_status sp_picture_matrix_bare(const sp_slice *slice, const sp_picture_options *options,
                                 sp_picture_area *area, sp_buffer *out, sp_error *error)
{
    return make_matrix(slice, options, area, out, error);
}

/* --- panels --- */

enum { BOTH, MISSED, EXTRA, KINDS };

/* How many edges of each kind the cells of a grid hold. */
typedef struct difference {
    uint32_t *counts; /* (rows, columns, KINDS) */
    uint64_t totals[KINDS];
} difference;

static void count_edge(const sp_grid *grid, const sp_slice *slice, uint32_t row, uint32_t key, int kind,
                       difference *out)
{
    uint32_t column = (key - slice->col_begin) / grid->step;
    out->counts[((size_t)(row / grid->step) * grid->columns + column) * KINDS + (size_t)kind]++;
    out->totals[kind]++;
}

static void count_differences(const sp_grid *grid, const sp_slice *gold, const sp_slice *pred,
                              difference *out)
{
    for (uint32_t i = 0; i < sp_slice_rows(gold); i++) {
        uint32_t g = gold->indptr[i], g_end = gold->indptr[i + 1], p = pred->indptr[i],
                 p_end = pred->indptr[i + 1];
        while (g < g_end || p < p_end) {
            uint32_t a = g < g_end ? gold->indices[g] : UINT32_MAX,
                     b = p < p_end ? pred->indices[p] : UINT32_MAX;
            count_edge(grid, gold, i, a < b ? a : b, a == b ? BOTH : a < b ? MISSED : EXTRA, out);
            g += a <= b;
            p += b <= a;
        }
    }
}

/* The most frequent kind of a cell, in doubt the one that matters more; KINDS without edges. */
static int kind_of(const uint32_t *counts)
{
    int kind = MISSED;
    if (counts[BOTH] > counts[kind]) kind = BOTH;
    if (counts[EXTRA] > counts[kind]) kind = EXTRA;
    return counts[kind] > 0 ? kind : KINDS;
}

/* Whether cells are large enough for a ring and a cross. */
static bool has_shapes(const sp_grid *grid)
{
    return grid->cell >= 6;
}

/* Cells too small for shapes: colours alone. */
static void draw_kind_cells(sp_sheet *sheet, const sp_grid *grid, const difference *d, uint8_t *levels)
{
    sp_rgb colors[256] = {sheet->palette.page, sheet->palette.both, sheet->palette.missed,
                          sheet->palette.extra};
    for (size_t i = 0; i < (size_t)grid->rows * grid->columns; i++) {
        int kind = kind_of(d->counts + i * KINDS);
        levels[i] = kind == KINDS ? 0 : (uint8_t)(1 + kind);
    }
    sp_canvas_cells(&sheet->canvas, grid->rect, levels, grid->rows, grid->columns, colors);
}

static sp_status draw_kind_marks(sp_sheet *sheet, const sp_grid *grid, const difference *d, sp_error *error)
{
    size_t n = (size_t)grid->rows * grid->columns, found[KINDS] = {0};
    sp_rect *squares = sp_alloc(n, sizeof *squares);
    sp_point *rings = sp_alloc(n, sizeof *rings), *crosses = sp_alloc(n, sizeof *crosses);
    sp_status status = SP_OK;
    if (squares && rings && crosses) {
        double cell = grid->cell, inset = fmax(1, round(cell * 0.14));
        for (size_t i = 0; i < n; i++) {
            double x = grid->rect.x + (double)(i % grid->columns) * cell;
            double y = grid->rect.y + (double)(i / grid->columns) * cell;
            sp_point middle = {x + cell / 2, y + cell / 2};
            int kind = kind_of(d->counts + i * KINDS);
            if (kind == BOTH)
                squares[found[BOTH]++] = (sp_rect){x + inset, y + inset, cell - 2 * inset, cell - 2 * inset};
            if (kind == MISSED) rings[found[MISSED]++] = middle;
            if (kind == EXTRA) crosses[found[EXTRA]++] = middle;
        }
        sp_canvas_rects(&sheet->canvas, squares, found[BOTH], sheet->palette.both);
        sp_canvas_marks(&sheet->canvas, SP_MARK_CROSS, crosses, found[EXTRA], cell * 0.24,
                        fmin(1.5, cell / 7), sheet->palette.extra);
        sp_canvas_marks(&sheet->canvas, SP_MARK_RING, rings, found[MISSED], cell * 0.32, fmin(2, cell / 5),
                        sheet->palette.missed);
    } else {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    }
    sp_free(squares);
    sp_free(rings);
    sp_free(crosses);
    return status;
}

static sp_status draw_difference(sp_sheet *sheet, const sp_grid *grid, const difference *d, sp_error *error)
{
    if (has_shapes(grid)) return draw_kind_marks(sheet, grid, d, error);
    uint8_t *levels = sp_alloc((size_t)grid->rows * grid->columns, 1);
    if (!levels) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    draw_kind_cells(sheet, grid, d, levels);
    sp_free(levels);
    return SP_OK;
}

static void say_kind(sp_sheet *sheet, const sp_grid *grid, sp_legend_key key, const char *word,
                     uint64_t count)
{
    sp_buffer text;
    sp_buffer_init(&text, 256);
    sp_caption_count(count, &text);
    sp_buffer_format(&text, " %s%c", word, 0);
    if (!text.failed) sp_legend_entry(sheet, key, has_shapes(grid), text.data);
    sp_buffer_fini(&text);
}

static void draw_panel_head(sp_sheet *sheet, const sp_grid *grid, const char *name, const sp_slice *slice)
{
    sp_buffer text;
    sp_buffer_init(&text, 256);
    sp_buffer_format(&text, "%s: ", name);
    sp_caption_count(sp_slice_edges(slice), &text);
    sp_buffer_text(&text, sp_slice_edges(slice) == 1 ? " edge" : " edges");
    double x = grid->rect.x, y = grid->rect.y - grid->column_labels - 10;
    sp_canvas_text(&sheet->canvas, SP_FONT_TEXT, (sp_point){x, y}, text.data, text.size, sheet->palette.ink,
                   SP_START, false);
    sp_buffer_fini(&text);
}

static sp_status draw_panels(sp_sheet *sheet, sp_grid *grid, const sp_slice *const slices[3],
                             const difference *d, double pitch, sp_error *error)
{
    static const char *const names[3] = {"gold", "predicted, against gold", "after normalizing"};
    const sp_slice *weighed[2] = {slices[0], slices[2]};
    double low, high;
    sp_status status = SP_OK;
    sp_weight_range(weighed, 2, sheet->scale, &low, &high);
    for (int i = 0; i < 3 && !status; i++) {
        grid->rect.x = sheet->content.x + grid->row_labels + i * pitch;
        grid->rect.y = sheet->content.y + HEADING + grid->column_labels;
        draw_panel_head(sheet, grid, names[i], slices[i]);
        sp_grid_draw_base(sheet, grid);
        sp_grid_draw_columns(sheet, grid, slices[i]);
        if (i == 0) sp_grid_draw_rows(sheet, grid, slices[i]);
        if (i == 0) sp_grid_draw_axes(sheet, grid);
        status = i == 1 ? draw_difference(sheet, grid, d, error)
                        : draw_cells(sheet, grid, slices[i], low, high, error);
    }
    sp_legend_heading(sheet, "weight (gold, after)");
    sp_legend_ramp(sheet, low, high);
    say_kind(sheet, grid, SP_KEY_BOTH, "both", d->totals[BOTH]);
    say_kind(sheet, grid, SP_KEY_MISSED, "missed: gold only", d->totals[MISSED]);
    say_kind(sheet, grid, SP_KEY_EXTRA, "extra: predicted only", d->totals[EXTRA]);
    sp_legend_entry(sheet, SP_KEY_NONE, true, "no edge");
    if (grid->causal) sp_legend_entry(sheet, SP_KEY_MASKED, true, "masked: key after query");
    say_step(sheet, grid, "their largest, or most frequent");
    return status;
}

static void put_share(const difference *d, int other, const char *name, sp_buffer *out)
{
    uint64_t all = d->totals[BOTH] + d->totals[other];
    if (all > 0) sp_buffer_format(out, "; %s %.3f", name, (double)d->totals[BOTH] / (double)all);
}

static void panel_texts(const sp_slice *gold, const sp_slice *pred, const difference *d,
                        sp_sheet_texts *texts)
{
    sp_caption_head(gold->source, gold, &texts->title);
    sp_buffer_text(&texts->title, ": gold, predicted, and after normalizing");
    texts->reading = "A mark is an edge: the query of its row reads the key of its column. Left: what full "
                     "attention would read. Middle: what the backend predicted. Right: what was computed.";
    sp_caption_count(d->totals[BOTH], &texts->facts);
    sp_buffer_text(&texts->facts, " of ");
    sp_caption_count(sp_slice_edges(gold), &texts->facts);
    sp_buffer_text(&texts->facts, " gold edges are predicted, by ");
    sp_caption_count(sp_slice_edges(pred), &texts->facts);
    sp_buffer_text(&texts->facts, " edges");
    put_share(d, MISSED, "recall", &texts->facts);
    put_share(d, EXTRA, "precision", &texts->facts);
    sp_caption_part(gold, &texts->facts);
    sp_buffer_text(&texts->facts, ".");
    sp_caption_provenance(gold->source, &texts->provenance);
}

static sp_status make_panels(const sp_slice *const slices[3], sp_grid *grid, const difference *d,
                             const sp_picture_options *options, sp_buffer *out, sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    sp_sheet_texts_init(&texts);
    panel_texts(slices[0], slices[1], d, &texts);
    double pitch = fmax(grid->rect.width, PANEL_WIDTH) + PANEL_GAP;
    double width = grid->row_labels + 3 * pitch - PANEL_GAP;
    double height = fmax(HEADING + grid->column_labels + grid->rect.height, sp_legend_height(true, 5, 2));
    sp_status status = sp_sheet_open(&sheet, options, &texts, width, height, error);
    if (!status) status = draw_panels(&sheet, grid, slices, d, pitch, error);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}

sp_status sp_picture_panels(const sp_slice *gold, const sp_slice *pred, const sp_slice *after,
                            const sp_picture_options *options, sp_buffer *out, sp_error *error)
{
    const sp_slice *slices[3] = {gold, pred, after};
    sp_grid grid;
    sp_grid_fit(gold, PANEL_SIDE, PANEL_CELL, true, &grid);
    difference d = {.counts = sp_alloc_zero((size_t)grid.rows * grid.columns * KINDS, sizeof *d.counts)};
    if (!d.counts) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    count_differences(&grid, gold, pred, &d);
    sp_status status = make_panels(slices, &grid, &d, options, out, error);
    sp_free(d.counts);
    return status;
}
