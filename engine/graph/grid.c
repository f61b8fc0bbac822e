/* The matrix part of sheet.h: cells, bins, mask and labels. */
#include "engine/graph/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOKEN_WIDTH 92.0 /* a longer token is cut */
#define LABEL_PITCH 12.0
#define LABEL_GAP 7.0
#define CORNER_HEIGHT 40.0 /* of the two axis words */
#define CORNER_WIDTH 58.0

uint32_t sp_label_stride(double pitch)
{
    uint32_t stride = 1;
    for (int i = 0; stride * pitch < LABEL_PITCH && stride < 1000000000; i++)
        stride = i % 3 == 1 ? stride / 2 * 5 : stride * 2;
    return stride;
}

void sp_label_text(const sp_slice *slice, uint32_t position, uint32_t stride, sp_buffer *out)
{
    const sp_graph_token *token = slice->tokens ? &slice->tokens[position] : NULL;
    sp_buffer_clear(out);
    if (stride > 1 || !token) sp_buffer_format(out, token ? "%u " : "%u", position);
    if (token) sp_text_token(token->bytes, token->n_bytes, SP_FONT_TEXT, TOKEN_WIDTH, out);
}

double sp_labels_width(const sp_slice *slice, uint32_t begin, uint32_t end, uint32_t stride)
{
    double width = 0;
    char room[SP_LABEL_BYTES];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    for (uint64_t i = (begin + stride - 1) / stride * (uint64_t)stride; i < end; i += stride) {
        sp_label_text(slice, (uint32_t)i, stride, &text);
        width = fmax(width, sp_text_width(SP_FONT_TEXT, text.data, text.size));
    }
    return width;
}

static double pitch_of(const sp_grid *grid)
{
    return grid->cell / grid->step;
}

void sp_grid_fit(const sp_slice *slice, double max_side, double max_cell, bool row_labels, sp_grid *grid)
{
    uint32_t n = sp_slice_rows(slice), m = slice->col_end - slice->col_begin, most = n > m ? n : m;
    *grid = (sp_grid){.row_begin = slice->row_begin,
                      .row_end = slice->row_end,
                      .col_begin = slice->col_begin,
                      .col_end = slice->col_end,
                      .causal = slice->causal};
    grid->step = sp_divide_up(most, (uint32_t)max_side);
    grid->rows = sp_divide_up(n, grid->step);
    grid->columns = sp_divide_up(m, grid->step);
    uint32_t cells = grid->rows > grid->columns ? grid->rows : grid->columns;
    grid->cell = fmin(floor(2 * max_side / cells) / 2, max_cell);
    grid->rect.width = grid->columns * grid->cell;
    grid->rect.height = grid->rows * grid->cell;
    uint32_t stride = sp_label_stride(pitch_of(grid));
    double rows = row_labels ? sp_labels_width(slice, grid->row_begin, grid->row_end, stride) : 0;
    grid->row_labels = row_labels ? fmax(rows, CORNER_WIDTH) + LABEL_GAP : 0;
    grid->column_labels =
        fmax(sp_labels_width(slice, grid->col_begin, grid->col_end, stride) + LABEL_GAP, CORNER_HEIGHT);
}

/* First column of cells that is masked in a row of cells: all its keys lie behind the row's last query. */
static uint32_t first_masked(const sp_grid *grid, uint32_t row)
{
    if (!grid->causal) return grid->columns;
    uint64_t end = grid->row_begin + (uint64_t)(row + 1) * grid->step; /* behind the last query */
    if (end > grid->row_end) end = grid->row_end;
    if (end <= grid->col_begin) return 0;
    uint64_t column = (end - grid->col_begin + grid->step - 1) / grid->step;
    return column < grid->columns ? (uint32_t)column : grid->columns;
}

static void draw_mask(sp_sheet *sheet, const sp_grid *grid)
{
    sp_rect *rects = sp_alloc(grid->rows, sizeof *rects);
    size_t n = 0;
    if (!rects) {
        sheet->canvas.failed = true;
        return;
    }
    for (uint32_t i = 0; i < grid->rows; i++) {
        uint32_t j = first_masked(grid, i);
        if (j < grid->columns)
            rects[n++] = (sp_rect){grid->rect.x + j * grid->cell, grid->rect.y + i * grid->cell,
                                   (grid->columns - j) * grid->cell, grid->cell};
    }
    sp_canvas_hatch(&sheet->canvas, rects, n, sheet->palette.mask, sheet->palette.mask_line);
    sp_free(rects);
}

/* Thin lines between cells that are large enough to be told apart. */
static void draw_lines(sp_sheet *sheet, const sp_grid *grid)
{
    sp_rgb color = sheet->palette.mask;
    sp_rect r = grid->rect;
    if (grid->cell < 7) return;
    for (uint32_t i = 1; i < grid->rows; i++)
        sp_canvas_rects(&sheet->canvas, &(sp_rect){r.x, r.y + i * grid->cell - 0.5, r.width, 1}, 1, color);
    for (uint32_t j = 1; j < grid->columns; j++)
        sp_canvas_rects(&sheet->canvas, &(sp_rect){r.x + j * grid->cell - 0.5, r.y, 1, r.height}, 1, color);
}

void sp_grid_draw_base(sp_sheet *sheet, const sp_grid *grid)
{
    draw_lines(sheet, grid);
    if (grid->causal) draw_mask(sheet, grid);
    sp_canvas_frame(&sheet->canvas, grid->rect, sheet->palette.faint);
}

static void draw_labels(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice, bool columns)
{
    uint32_t begin = columns ? grid->col_begin : grid->row_begin,
             end = columns ? grid->col_end : grid->row_end;
    uint32_t stride = sp_label_stride(pitch_of(grid));
    char room[SP_LABEL_BYTES];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    for (uint64_t i = (begin + stride - 1) / stride * (uint64_t)stride; i < end; i += stride) {
        double at = ((double)(i - begin) + 0.5) * pitch_of(grid);
        sp_point row = {grid->rect.x - LABEL_GAP, grid->rect.y + at + 4};
        sp_point column = {grid->rect.x + at + 4, grid->rect.y - LABEL_GAP};
        sp_label_text(slice, (uint32_t)i, stride, &text);
        sp_canvas_text(&sheet->canvas, SP_FONT_TEXT, columns ? column : row, text.data, text.size,
                       sheet->palette.ink, columns ? SP_START : SP_END, columns);
        if (stride == 1) continue;
        sp_rect mark = columns ? (sp_rect){grid->rect.x + at - 0.5, grid->rect.y - 5, 1, 4}
                               : (sp_rect){grid->rect.x - 5, grid->rect.y + at - 0.5, 4, 1};
        sp_canvas_rects(&sheet->canvas, &mark, 1, sheet->palette.muted);
    }
}

void sp_grid_draw_rows(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice)
{
    draw_labels(sheet, grid, slice, false);
}

void sp_grid_draw_columns(sp_sheet *sheet, const sp_grid *grid, const sp_slice *slice)
{
    draw_labels(sheet, grid, slice, true);
}

void sp_grid_draw_axes(sp_sheet *sheet, const sp_grid *grid)
{
    double x = grid->rect.x - 9, y = grid->rect.y;
    sp_sheet_say(sheet, x, y - 25, "key \xe2\x86\x92", sheet->palette.muted, SP_END);
    sp_sheet_say(sheet, x, y - 9, "query \xe2\x86\x93", sheet->palette.muted, SP_END);
}

void sp_bins_levels(const sp_bins *bins, sp_color_scale scale, double low, double high, uint8_t *levels)
{
    for (size_t i = 0; i < (size_t)bins->rows * bins->columns; i++)
        levels[i] = bins->top[i] < 0 ? 0 : sp_color_level(scale, (double)bins->top[i], low, high);
}

void sp_weight_range(const sp_bins *a, const sp_bins *b, sp_color_scale scale, double *low, double *high)
{
    double most = b ? fmax(a->most, b->most) : a->most, least = b ? fmin(a->least, b->least) : a->least;
    *high = most > 0 ? most : 1;
    *low = scale != SP_SCALE_LOG ? 0 : most > 0 ? fmax(least, most * 1e-6) : 1e-6;
}
