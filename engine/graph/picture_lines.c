/* Lines between two columns of tokens, queries left, keys right. See picture.h.
 *
 * Up to SP_PICTURE_LINES edges are strokes, weak ones first, so that strong ones lie on top. Of more, each
 * pair of places one unit high adds the weight between them to every pixel column of the gutter that its line
 * crosses (a digital differential analyser, one sample a column), and the sums are drawn on the ramp: the
 * picture of any number of edges costs what its pixels cost and depends on no order. */
#include "engine/graph/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GUTTER 300.0
#define ROW_HEIGHT 15.0
#define MAX_HEIGHT 1080.0
#define HEADER 22.0     /* the axis words */
#define AXIS_WIDTH 48.0 /* of the axis words, which stand above the labels */
#define GAP 8.0         /* between a token and its lines */

typedef struct columns {
    double query_pitch, key_pitch; /* units between neighbours */
    double left, right;            /* widths of the labels */
    double height;
    sp_point origin; /* of the gutter */
} columns;

static double y_of(double pitch, uint32_t index)
{
    return (index + 0.5) * pitch;
}

static void fit_columns(const sp_slice *slice, columns *c)
{
    uint32_t n = sp_slice_rows(slice), m = slice->col_end - slice->col_begin;
    c->query_pitch = fmin(ROW_HEIGHT, MAX_HEIGHT / n);
    c->key_pitch = fmin(ROW_HEIGHT, MAX_HEIGHT / m);
    c->height = ceil(fmax(n * c->query_pitch, m * c->key_pitch));
    double left = sp_labels_width(slice, slice->row_begin, slice->row_end, sp_label_stride(c->query_pitch));
    double right = sp_labels_width(slice, slice->col_begin, slice->col_end, sp_label_stride(c->key_pitch));
    c->left = fmax(left, AXIS_WIDTH);
    c->right = fmax(right, AXIS_WIDTH);
}

static void draw_labels(sp_sheet *sheet, const sp_slice *slice, const columns *c, bool keys)
{
    uint32_t begin = keys ? slice->col_begin : slice->row_begin, end = keys ? slice->col_end : slice->row_end;
    double pitch = keys ? c->key_pitch : c->query_pitch;
    uint32_t stride = sp_label_stride(pitch);
    double x = c->origin.x + (keys ? GUTTER + GAP : -GAP);
    char room[SP_LABEL_BYTES];
    sp_buffer text;
    sp_buffer_lend(&text, room, sizeof room);
    for (uint64_t i = (begin + stride - 1) / stride * (uint64_t)stride; i < end; i += stride) {
        sp_label_text(slice, (uint32_t)i, stride, &text);
        sp_point at = {x, c->origin.y + y_of(pitch, (uint32_t)i - begin) + 4};
        sp_canvas_text(&sheet->canvas, SP_FONT_TEXT, at, text.data, text.size, sheet->palette.ink,
                       keys ? SP_START : SP_END, false);
    }
    sp_sheet_say(sheet, x, c->origin.y - 9, keys ? "\xe2\x86\x92 key" : "query \xe2\x86\x92",
                 sheet->palette.muted, keys ? SP_START : SP_END);
}

/* --- single edges --- */

typedef struct stroke {
    uint32_t query, key; /* from the first of the part */
    uint8_t level;
} stroke;

/* All edges of a graph of at most SP_PICTURE_LINES. */
static sp_status collect(const sp_picture_graph *graph, sp_color_scale scale, double low, double high,
                         stroke *strokes, uint32_t *n, sp_error *error)
{
    const sp_slice *about = graph->about;
    sp_picture_reader reader;
    sp_status status = sp_picture_reader_open(graph, &reader, error);
    *n = 0;
    for (uint32_t row = about->row_begin; row < about->row_end && status == SP_OK; row++) {
        sp_row edges = {0};
        status = sp_picture_read(&reader, row, &edges, error);
        for (uint32_t i = 0; i < edges.n && *n < SP_PICTURE_LINES && status == SP_OK; i++)
            strokes[(*n)++] = (stroke){row - about->row_begin, edges.keys[i] - about->col_begin,
                                       sp_color_level(scale, (double)edges.weights[i], low, high)};
    }
    sp_picture_reader_close(&reader);
    return status;
}

static sp_status draw_strokes(sp_sheet *sheet, const sp_picture_graph *graph, const columns *c, double low,
                              double high, sp_error *error)
{
    stroke strokes[SP_PICTURE_LINES];
    bool used[SP_RAMP_LEVELS + 1] = {false};
    uint32_t n;
    sp_status status = collect(graph, sheet->scale, low, high, strokes, &n, error);
    if (status) return status;
    for (uint32_t e = 0; e < n; e++) used[strokes[e].level] = true;
    for (int level = 1; level <= SP_RAMP_LEVELS; level++) {
        double width = 1 + 1.6 * (level - 1) / (SP_RAMP_LEVELS - 1.0);
        for (uint32_t e = 0; e < n && used[level]; e++) {
            if (strokes[e].level != level) continue;
            sp_point from = {c->origin.x, c->origin.y + y_of(c->query_pitch, strokes[e].query)};
            sp_point to = {c->origin.x + GUTTER, c->origin.y + y_of(c->key_pitch, strokes[e].key)};
            sp_canvas_line(&sheet->canvas, from, to, width, sheet->palette.ramp[level], 1);
        }
    }
    return SP_OK;
}

/* --- many edges --- */

/* Where a cell of `step` positions lies: the middle of those that are there. */
static double middle_of(uint32_t cell, uint32_t step, uint32_t n, double pitch)
{
    uint32_t first = cell * step, end = n - first < step ? n : first + step;
    return (first + end) * 0.5 * pitch;
}

/* Sums of the weights that pass each pixel: (height, width). */
static void add_up(const sp_slice *about, const sp_bins *bins, const columns *c, uint32_t width,
                   uint32_t height, double per_unit, float *sums)
{
    uint32_t n = sp_slice_rows(about), m = about->col_end - about->col_begin;
    for (uint32_t i = 0; i < bins->rows; i++) {
        double from = middle_of(i, bins->step, n, c->query_pitch) * per_unit;
        for (uint32_t j = 0; j < bins->columns; j++) {
            float mass = bins->mass[(size_t)i * bins->columns + j];
            if (!(mass > 0)) continue;
            double slope = (middle_of(j, bins->step, m, c->key_pitch) * per_unit - from) / width;
            for (uint32_t x = 0; x < width; x++) {
                uint32_t y = (uint32_t)(from + slope * (x + 0.5));
                sums[(size_t)(y < height ? y : height - 1) * width + x] += mass;
            }
        }
    }
}

static sp_status draw_density(sp_sheet *sheet, const sp_slice *about, const sp_bins *bins, const columns *c,
                              double *low, double *high, sp_error *error)
{
    uint32_t width = (uint32_t)GUTTER, height = (uint32_t)c->height;
    size_t n = (size_t)width * height;
    float *sums = sp_alloc_zero(n, sizeof *sums);
    uint8_t *levels = sp_alloc(n, 1);
    sp_status status = SP_OK;
    if (sums && levels) {
        double least = INFINITY, most = 0;
        add_up(about, bins, c, width, height, height / c->height, sums);
        for (size_t i = 0; i < n; i++) {
            most = fmax(most, sums[i]);
            if (sums[i] > 0) least = fmin(least, sums[i]);
        }
        *high = most;
        *low = sheet->scale == SP_SCALE_LOG ? fmax(least, most * 1e-4) : 0;
        for (size_t i = 0; i < n; i++)
            levels[i] = sums[i] > 0 ? sp_color_level(sheet->scale, sums[i], *low, *high) : 0;
        sp_rect rect = {c->origin.x, c->origin.y, GUTTER, c->height};
        sp_canvas_cells(&sheet->canvas, rect, levels, height, width, sheet->palette.ramp);
    } else {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    }
    sp_free(sums);
    sp_free(levels);
    return status;
}

static sp_status draw_lines(sp_sheet *sheet, const sp_picture_graph *graph, const sp_bins *bins, columns *c,
                            sp_error *error)
{
    const sp_slice *about = graph->about;
    bool strokes = bins->edges <= SP_PICTURE_LINES;
    double low, high;
    sp_status status = SP_OK;
    c->origin = (sp_point){sheet->content.x + c->left + GAP, sheet->content.y + HEADER};
    draw_labels(sheet, about, c, false);
    draw_labels(sheet, about, c, true);
    sp_weight_range(bins, NULL, sheet->scale, &low, &high);
    status = strokes ? draw_strokes(sheet, graph, c, low, high, error)
                     : draw_density(sheet, about, bins, c, &low, &high, error);
    sp_legend_heading(sheet, strokes ? "weight of the edge" : "weight passing a point");
    sp_legend_ramp(sheet, low, high);
    sp_legend_note(sheet, strokes ? "no line: no edge" : "background: no edge");
    if (!strokes) sp_legend_note(sheet, "too many edges for single lines");
    return status;
}

/* How to read it. */
static const char *reading_of(const sp_bins *bins, bool dark)
{
    if (bins->edges > SP_PICTURE_LINES)
        return dark
                   ? "Every edge adds its weight along the line from its query on the left to its key on the "
                     "right: brighter is more."
                   : "Every edge adds its weight along the line from its query on the left to its key on the "
                     "right: darker is more.";
    return dark
               ? "A line is an edge: the query on its left reads the key on its right; brighter and wider is "
                 "more."
               : "A line is an edge: the query on its left reads the key on its right; darker and wider is "
                 "more.";
}

static sp_status make_lines(const sp_picture_graph *graph, const sp_bins *bins,
                            const sp_picture_options *options, sp_buffer *out, sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    columns c = {0};
    sp_slice about = *graph->about; /* its arrays stay the caller's */
    about.edges_total = bins->edges;
    fit_columns(&about, &c);
    sp_sheet_texts_init(&texts);
    sp_caption_title(about.source, &about, &texts.title);
    sp_caption_facts(&about, &texts.facts);
    sp_caption_provenance(about.source, &texts.provenance);
    texts.reading = reading_of(bins, options->dark);
    double width = c.left + c.right + 2 * GAP + GUTTER;
    double height = fmax(HEADER + c.height, sp_legend_height(true, 0, 2));
    sp_status status = sp_sheet_open(&sheet, options, &texts, width, height, error);
    if (!status) status = draw_lines(&sheet, graph, bins, &c, error);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}

sp_status sp_picture_lines(const sp_picture_graph *graph, const sp_picture_options *options, sp_buffer *out,
                           sp_error *error)
{
    const sp_slice *about = graph->about;
    uint32_t n = sp_slice_rows(about), m = about->col_end - about->col_begin, most = n > m ? n : m;
    uint32_t step = sp_divide_up(most, (uint32_t)MAX_HEIGHT); /* a unit of height a cell */
    sp_bins bins;
    sp_status status = sp_bins_fill(graph, step, true, &bins, error);
    if (status) return status;
    status = make_lines(graph, &bins, options, out, error);
    sp_bins_close(&bins);
    return status;
}
