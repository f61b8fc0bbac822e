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

static sp_status draw_cells(sp_sheet *sheet, const sp_grid *grid, const sp_bins *bins, double low,
                            double high, sp_error *error)
{
    uint8_t *levels = sp_alloc((size_t)grid->rows * grid->columns, 1);
    if (!levels) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    sp_bins_levels(bins, sheet->scale, low, high, levels);
    sp_canvas_cells(&sheet->canvas, grid->rect, levels, grid->rows, grid->columns, sheet->palette.ramp);
    sp_free(levels);
    return SP_OK;
}

static sp_status draw_matrix(sp_sheet *sheet, sp_grid *grid, const sp_slice *slice, const sp_bins *bins,
                             sp_error *error)
{
    double low, high;
    sp_weight_range(bins, NULL, sheet->scale, &low, &high);
    grid->rect.x = sheet->content.x + grid->row_labels;
    grid->rect.y = sheet->content.y + grid->column_labels;
    sp_grid_draw_base(sheet, grid);
    sp_grid_draw_rows(sheet, grid, slice);
    sp_grid_draw_columns(sheet, grid, slice);
    sp_grid_draw_axes(sheet, grid);
    sp_status status = draw_cells(sheet, grid, bins, low, high, error);
    if (status) return status;
    sp_legend_heading(sheet, "weight of the edge");
    sp_legend_ramp(sheet, low, high);
    sp_legend_entry(sheet, SP_KEY_NONE, true, "no edge");
    if (slice->causal) sp_legend_entry(sheet, SP_KEY_MASKED, true, "masked: key after query");
    say_step(sheet, grid, "coloured by their largest");
    return SP_OK;
}

static sp_status make_matrix(const sp_slice *slice, sp_grid *grid, const sp_bins *bins,
                             const sp_picture_options *options, bool bare, sp_buffer *out, sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    sp_sheet_texts_init(&texts);
    sp_caption_title(slice->source, slice, &texts.title);
    sp_caption_facts(slice, &texts.facts);
    sp_caption_provenance(slice->source, &texts.provenance);
    texts.reading = matrix_reading;
    texts.bare = bare;
    double height = fmax(grid->column_labels + grid->rect.height, sp_legend_height(true, 2, 2));
    sp_status status =
        sp_sheet_open(&sheet, options, &texts, grid->row_labels + grid->rect.width, height, error);
    if (!status) status = draw_matrix(&sheet, grid, slice, bins, error);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}

/* area: where its cells lie; NULL: not bare. */
static sp_status read_matrix(const sp_picture_graph *graph, const sp_picture_options *options,
                             sp_picture_area *area, sp_buffer *out, sp_error *error)
{
    sp_grid grid;
    sp_bins bins;
    sp_slice about = *graph->about; /* its arrays stay the caller's */
    sp_grid_fit(&about, MATRIX_SIDE, MATRIX_CELL, true, &grid);
    sp_status status = sp_bins_fill(graph, grid.step, false, &bins, error);
    if (status) return status;
    about.edges_total = bins.edges;
    status = make_matrix(&about, &grid, &bins, options, area != NULL, out, error);
    if (area) *area = (sp_picture_area){grid.rect, grid.step, grid.cell};
    sp_bins_close(&bins);
    return status;
}

sp_status sp_picture_matrix(const sp_picture_graph *graph, const sp_picture_options *options, sp_buffer *out,
                            sp_error *error)
{
    return read_matrix(graph, options, NULL, out, error);
}

sp_status sp_picture_matrix_bare(const sp_slice *slice, const sp_picture_options *options,
                                 sp_picture_area *area, sp_buffer *out, sp_error *error)
{
    const sp_picture_graph graph = {.about = slice};
    return read_matrix(&graph, options, area, out, error);
}

/* --- panels --- */

/* The most frequent kind of a cell, in doubt the one that matters more; SP_KINDS without edges. */
static int kind_of(const uint32_t *counts)
{
    int kind = SP_MISSED;
    if (counts[SP_BOTH] > counts[kind]) kind = SP_BOTH;
    if (counts[SP_EXTRA] > counts[kind]) kind = SP_EXTRA;
    return counts[kind] > 0 ? kind : SP_KINDS;
}

/* Whether cells are large enough for a ring and a cross. */
static bool has_shapes(const sp_grid *grid)
{
    return grid->cell >= 6;
}

/* Cells too small for shapes: colours alone. */
static void draw_kind_cells(sp_sheet *sheet, const sp_grid *grid, const sp_difference_bins *d,
                            uint8_t *levels)
{
    sp_rgb colors[256] = {sheet->palette.page, sheet->palette.both, sheet->palette.missed,
                          sheet->palette.extra};
    for (size_t i = 0; i < (size_t)grid->rows * grid->columns; i++) {
        int kind = kind_of(d->counts + i * SP_KINDS);
        levels[i] = kind == SP_KINDS ? 0 : (uint8_t)(1 + kind);
    }
    sp_canvas_cells(&sheet->canvas, grid->rect, levels, grid->rows, grid->columns, colors);
}

static sp_status draw_kind_marks(sp_sheet *sheet, const sp_grid *grid, const sp_difference_bins *d,
                                 sp_error *error)
{
    size_t n = (size_t)grid->rows * grid->columns, found[SP_KINDS] = {0};
    sp_rect *squares = sp_alloc(n, sizeof *squares);
    sp_point *rings = sp_alloc(n, sizeof *rings), *crosses = sp_alloc(n, sizeof *crosses);
    sp_status status = SP_OK;
    if (squares && rings && crosses) {
        double cell = grid->cell, inset = fmax(1, round(cell * 0.14));
        for (size_t i = 0; i < n; i++) {
            double x = grid->rect.x + (double)(i % grid->columns) * cell;
            double y = grid->rect.y + (double)(i / grid->columns) * cell;
            sp_point middle = {x + cell / 2, y + cell / 2};
            int kind = kind_of(d->counts + i * SP_KINDS);
            if (kind == SP_BOTH)
                squares[found[SP_BOTH]++] =
                    (sp_rect){x + inset, y + inset, cell - 2 * inset, cell - 2 * inset};
            if (kind == SP_MISSED) rings[found[SP_MISSED]++] = middle;
            if (kind == SP_EXTRA) crosses[found[SP_EXTRA]++] = middle;
        }
        sp_canvas_rects(&sheet->canvas, squares, found[SP_BOTH], sheet->palette.both);
        sp_canvas_marks(&sheet->canvas, SP_MARK_CROSS, crosses, found[SP_EXTRA], cell * 0.24,
                        fmin(1.5, cell / 7), sheet->palette.extra);
        sp_canvas_marks(&sheet->canvas, SP_MARK_RING, rings, found[SP_MISSED], cell * 0.32, fmin(2, cell / 5),
                        sheet->palette.missed);
    } else {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    }
    sp_free(squares);
    sp_free(rings);
    sp_free(crosses);
    return status;
}

static sp_status draw_difference(sp_sheet *sheet, const sp_grid *grid, const sp_difference_bins *d,
                                 sp_error *error)
{
    if (has_shapes(grid)) return draw_kind_marks(sheet, grid, d, error);
    uint8_t *levels = sp_alloc((size_t)grid->rows * grid->columns, 1);
    if (!levels) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    draw_kind_cells(sheet, grid, d, levels);
    sp_free(levels);
    return SP_OK;
}

/* "1,234 missed: gold only", ending with a NUL. */
static void kind_text(int kind, uint64_t count, sp_buffer *out)
{
    static const char *const words[SP_KINDS] = {"both", "missed: gold only", "extra: predicted only"};
    sp_buffer_clear(out);
    sp_caption_count(count, out);
    sp_buffer_format(out, " %s%c", words[kind], 0);
}

static void say_kinds(sp_sheet *sheet, const sp_grid *grid, const sp_difference_bins *d)
{
    static const sp_legend_key keys[SP_KINDS] = {SP_KEY_BOTH, SP_KEY_MISSED, SP_KEY_EXTRA};
    char room[256];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    for (int kind = 0; kind < SP_KINDS; kind++) {
        kind_text(kind, d->totals[kind], &text);
        if (!text.failed) sp_legend_entry(sheet, keys[kind], has_shapes(grid), text.data);
    }
}

static double kinds_width(const sp_difference_bins *d)
{
    double width = 0;
    char room[256];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    for (int kind = 0; kind < SP_KINDS; kind++) {
        kind_text(kind, d->totals[kind], &text);
        if (!text.failed) width = fmax(width, sp_legend_entry_width(text.data, text.size - 1));
    }
    return width;
}

static void draw_panel_head(sp_sheet *sheet, const sp_grid *grid, const char *name, uint64_t edges)
{
    char room[256];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    sp_buffer_format(&text, "%s: ", name);
    sp_caption_count(edges, &text);
    sp_buffer_text(&text, edges == 1 ? " edge" : " edges");
    double x = grid->rect.x, y = grid->rect.y - grid->column_labels - 10;
    sp_canvas_text(&sheet->canvas, SP_FONT_TEXT, (sp_point){x, y}, text.data, text.size, sheet->palette.ink,
                   SP_START, false);
}

/* What three panels are drawn from. */
typedef struct panels {
    const sp_slice *about; /* of any of the graphs: labels, part */
    sp_grid grid;
    sp_bins gold, after;
    sp_difference_bins difference;
    double pitch; /* from panel to panel */
} panels;

static sp_status draw_panels(sp_sheet *sheet, panels *p, sp_error *error)
{
    static const char *const names[3] = {"gold", "predicted, against gold", "after normalizing"};
    const sp_difference_bins *d = &p->difference;
    const uint64_t edges[3] = {p->gold.edges, d->totals[SP_BOTH] + d->totals[SP_EXTRA], p->after.edges};
    sp_grid *grid = &p->grid;
    double low, high;
    sp_status status = SP_OK;
    sp_weight_range(&p->gold, &p->after, sheet->scale, &low, &high);
    for (int i = 0; i < 3 && !status; i++) {
        grid->rect.x = sheet->content.x + grid->row_labels + i * p->pitch;
        grid->rect.y = sheet->content.y + HEADING + grid->column_labels;
        draw_panel_head(sheet, grid, names[i], edges[i]);
        sp_grid_draw_base(sheet, grid);
        sp_grid_draw_columns(sheet, grid, p->about);
        if (i == 0) sp_grid_draw_rows(sheet, grid, p->about);
        if (i == 0) sp_grid_draw_axes(sheet, grid);
        status = i == 1 ? draw_difference(sheet, grid, d, error)
                        : draw_cells(sheet, grid, i == 0 ? &p->gold : &p->after, low, high, error);
    }
    sp_legend_heading(sheet, "weight (gold, after)");
    sp_legend_ramp(sheet, low, high);
    say_kinds(sheet, grid, d);
    sp_legend_entry(sheet, SP_KEY_NONE, true, "no edge");
    if (grid->causal) sp_legend_entry(sheet, SP_KEY_MASKED, true, "masked: key after query");
    say_step(sheet, grid, "their largest, or most frequent");
    return status;
}

static void put_share(const sp_difference_bins *d, int other, const char *name, sp_buffer *out)
{
    uint64_t all = d->totals[SP_BOTH] + d->totals[other];
    if (all > 0) sp_buffer_format(out, "; %s %.3f", name, (double)d->totals[SP_BOTH] / (double)all);
}

static void panel_texts(const panels *p, sp_sheet_texts *texts)
{
    const sp_difference_bins *d = &p->difference;
    sp_caption_head(p->about->source, p->about, &texts->title);
    sp_buffer_text(&texts->title, ": gold, predicted, and after normalizing");
    texts->reading = "A mark is an edge: the query of its row reads the key of its column. Left: what full "
                     "attention would read. Middle: what the backend predicted. Right: what was computed.";
    texts->legend_width = kinds_width(d);
    uint64_t predicted = d->totals[SP_BOTH] + d->totals[SP_EXTRA];
    sp_caption_count(d->totals[SP_BOTH], &texts->facts);
    sp_buffer_text(&texts->facts, " of ");
    sp_caption_count(p->gold.edges, &texts->facts);
    sp_buffer_text(&texts->facts, d->totals[SP_BOTH] == 1 ? " gold edges is predicted, by "
                                                          : " gold edges are predicted, by ");
    sp_caption_count(predicted, &texts->facts);
    sp_buffer_text(&texts->facts, predicted == 1 ? " edge" : " edges");
    put_share(d, SP_MISSED, "recall", &texts->facts);
    put_share(d, SP_EXTRA, "precision", &texts->facts);
    sp_caption_part(p->about, &texts->facts);
    sp_buffer_text(&texts->facts, ".");
    sp_caption_provenance(p->about->source, &texts->provenance);
}

static sp_status make_panels(panels *p, const sp_picture_options *options, sp_buffer *out, sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    const sp_grid *grid = &p->grid;
    sp_sheet_texts_init(&texts);
    panel_texts(p, &texts);
    p->pitch = fmax(grid->rect.width, PANEL_WIDTH) + PANEL_GAP;
    double width = grid->row_labels + 3 * p->pitch - PANEL_GAP;
    double height = fmax(HEADING + grid->column_labels + grid->rect.height, sp_legend_height(true, 5, 2));
    sp_status status = sp_sheet_open(&sheet, options, &texts, width, height, error);
    if (!status) status = draw_panels(&sheet, p, error);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}

sp_status sp_picture_panels(const sp_picture_graph *gold, const sp_picture_graph *pred,
                            const sp_picture_graph *after, const sp_picture_options *options, sp_buffer *out,
                            sp_error *error)
{
    panels p = {.about = gold->about};
    sp_grid_fit(p.about, PANEL_SIDE, PANEL_CELL, true, &p.grid);
    sp_status status = sp_bins_fill(gold, p.grid.step, false, &p.gold, error);
    if (!status) status = sp_bins_fill(after, p.grid.step, false, &p.after, error);
    if (!status) status = sp_differences_fill(gold, pred, p.grid.step, &p.difference, error);
    if (!status) status = make_panels(&p, options, out, error);
    sp_bins_close(&p.gold);
    sp_bins_close(&p.after);
    sp_differences_close(&p.difference);
    return status;
}
