/* All heads at a glance: a thumbnail of 64 x 64 cells a head, layers below each other. See picture.h. */
#include "engine/graph/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SIDE 64.0
#define GAP 10.0
#define CAPTION 16.0 /* the number below a thumbnail */
#define HEADER 20.0  /* the heads' numbers */
#define LEFT 62.0    /* the layers' numbers */

/* The largest range of densities that cells of this size can have: a cell holds at most so many pairs. */
static double least_density(const sp_overview *o)
{
    double rows = ceil((double)o->n_query / SP_OVERVIEW_SIDE),
           columns = ceil((double)o->n_key / SP_OVERVIEW_SIDE);
    return fmax(1 / (rows * columns), 1e-6);
}

/* The density that a cell's value 1..255 stands for (slice.h). */
static double density_of(uint8_t value)
{
    return pow(10, 6 * ((value - 1) / 254.0 - 1));
}

/* Rows or columns of a thumbnail: one a position where there are fewer than 64, for then cells between them
 * stand for no pair and would look empty. */
static uint32_t side_of(uint32_t n)
{
    return n < SP_OVERVIEW_SIDE ? n : SP_OVERVIEW_SIDE;
}

static uint32_t cell_of(uint32_t index, uint32_t n)
{
    return n < SP_OVERVIEW_SIDE ? index * SP_OVERVIEW_SIDE / n : index;
}

static void draw_mask(sp_sheet *sheet, const sp_overview *o, sp_rect r)
{
    uint32_t rows = side_of(o->n_query), columns = side_of(o->n_key);
    sp_rect rects[SP_OVERVIEW_SIDE];
    size_t n = 0;
    for (uint32_t i = 0; i < rows; i++) {
        /* The last query of the row of cells, and the first cell whose keys all lie behind it. */
        uint64_t last = ((uint64_t)(i + 1) * o->n_query + rows - 1) / rows - 1;
        uint64_t j = ((last + 1) * columns + o->n_key - 1) / o->n_key;
        if (j >= columns) continue;
        rects[n++] = (sp_rect){r.x + (double)j * r.width / columns, r.y + i * r.height / rows,
                               (double)(columns - j) * r.width / columns, r.height / rows};
    }
    sp_canvas_hatch(&sheet->canvas, rects, n, sheet->palette.mask, sheet->palette.mask_line);
}

static void draw_head(sp_sheet *sheet, const sp_overview *o, size_t index, sp_rect r)
{
    uint32_t rows = side_of(o->n_query), columns = side_of(o->n_key);
    const uint8_t *cells = o->cells + index * SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE;
    uint8_t levels[SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE];
    double least = least_density(o);
    for (uint32_t i = 0; i < rows; i++) {
        for (uint32_t j = 0; j < columns; j++) {
            uint8_t value = cells[cell_of(i, o->n_query) * SP_OVERVIEW_SIDE + cell_of(j, o->n_key)];
            levels[i * columns + j] = value ? sp_color_level(SP_SCALE_LOG, density_of(value), least, 1) : 0;
        }
    }
    if (o->causal) draw_mask(sheet, o, r);
    sp_canvas_cells(&sheet->canvas, r, levels, rows, columns, sheet->palette.ramp);
    sp_canvas_frame(&sheet->canvas, r, sheet->palette.faint);
}

/* The number below a thumbnail: density of gold, for other graphs recall. */
static bool caption_of(const sp_overview *o, size_t index, char text[32])
{
    if (!o->records || !o->done[index]) return false;
    const sp_head_record *record = &o->records[index];
    double density = 100 * (1 - record->sparsity_gold);
    if (o->graph != SP_GRAPH_GOLD && isfinite(record->recall))
        snprintf(text, 32, "%.3f", record->recall);
    else if (o->graph == SP_GRAPH_GOLD && isfinite(density))
        snprintf(text, 32, density < 10 ? "%.1f %%" : "%.0f %%", density);
    else
        return false;
    return true;
}

static double row_pitch(const sp_overview *o)
{
    return SIDE + GAP + (o->records ? CAPTION : 0);
}

static void draw_layer(sp_sheet *sheet, const sp_overview *o, uint32_t l)
{
    double x0 = sheet->content.x + LEFT, y = sheet->content.y + HEADER + l * row_pitch(o);
    char text[32];
    snprintf(text, sizeof text, "layer %u", o->layers[l]);
    sp_sheet_say(sheet, x0 - 10, y + SIDE / 2 + 4, text, sheet->palette.ink, SP_END);
    for (uint32_t h = 0; h < o->n_heads; h++) {
        size_t index = (size_t)l * o->n_heads + h;
        sp_rect r = {x0 + h * (SIDE + GAP), y, SIDE, SIDE};
        if (o->done[index]) {
            draw_head(sheet, o, index, r);
        } else {
            sp_canvas_rects(&sheet->canvas, &r, 1, sheet->palette.faint);
            sp_sheet_say(sheet, r.x + SIDE / 2, y + SIDE / 2 + 4, "pending", sheet->palette.ink, SP_MIDDLE);
        }
        if (caption_of(o, index, text))
            sp_sheet_say(sheet, r.x + SIDE / 2, y + SIDE + 13, text, sheet->palette.muted, SP_MIDDLE);
    }
}

static void draw_overview(sp_sheet *sheet, const sp_overview *o)
{
    bool pending = false;
    char text[64];
    for (uint32_t h = 0; h < o->n_heads; h++) {
        snprintf(text, sizeof text, "head %u", o->heads[h]);
        sp_sheet_say(sheet, sheet->content.x + LEFT + h * (SIDE + GAP) + SIDE / 2, sheet->content.y + 11,
                     text, sheet->palette.ink, SP_MIDDLE);
    }
    for (uint32_t l = 0; l < o->n_layers; l++) draw_layer(sheet, o, l);
    for (size_t i = 0; i < (size_t)o->n_layers * o->n_heads; i++) pending |= !o->done[i];
    double least = least_density(o);
    sheet->scale = SP_SCALE_LOG;
    if (least < 1) sp_legend_heading(sheet, "edges / pairs of a cell");
    if (least < 1)
        sp_legend_ramp(sheet, least, 1);
    else
        sp_legend_entry(sheet, SP_KEY_EDGE, true, "edge");
    sp_legend_entry(sheet, SP_KEY_NONE, true, "no edge");
    if (o->causal) sp_legend_entry(sheet, SP_KEY_MASKED, true, "masked: key after query");
    if (pending) sp_legend_entry(sheet, SP_KEY_PENDING, true, "not computed yet");
    sp_legend_note(sheet, "query \xe2\x86\x93   key \xe2\x86\x92");
    if (o->records)
        sp_legend_note(sheet,
                       o->graph == SP_GRAPH_GOLD ? "number: edges of all pairs" : "number: recall of gold");
}

sp_status sp_picture_overview(const sp_overview *overview, const sp_picture_options *options, sp_buffer *out,
                              sp_error *error)
{
    sp_sheet_texts texts;
    sp_sheet sheet;
    sp_sheet_texts_init(&texts);
    sp_slice like = {.graph = overview->graph,
                     .name = sp_graph_name(overview->graph),
                     .layer = SP_NO_HEAD,
                     .head = SP_NO_HEAD};
    uint32_t n_heads = overview->n_layers * overview->n_heads;
    sp_caption_head(overview->source, &like, &texts.title);
    sp_buffer_format(&texts.title, ", %u %s: %s", n_heads, n_heads == 1 ? "head" : "heads",
                     sp_caption_graph(overview->graph));
    texts.reading =
        "Each square is one head over the whole text: rows are queries from top to bottom, columns are "
        "keys from left to right; a coloured point says that there are edges.";
    sp_buffer_format(&texts.facts, "%u %s of %u %s, ", overview->n_layers,
                     overview->n_layers == 1 ? "layer" : "layers", overview->n_heads,
                     overview->n_heads == 1 ? "head" : "heads");
    sp_caption_count(overview->n_query, &texts.facts);
    sp_buffer_text(&texts.facts, overview->n_query == 1 ? " query, " : " queries, ");
    sp_caption_count(overview->n_key, &texts.facts);
    sp_buffer_text(&texts.facts, overview->n_key == 1 ? " key." : " keys.");
    sp_caption_provenance(overview->source, &texts.provenance);
    double width = LEFT + overview->n_heads * (SIDE + GAP) - GAP;
    double height = fmax(HEADER + overview->n_layers * row_pitch(overview), sp_legend_height(true, 3, 2));
    sp_status status = sp_sheet_open(&sheet, options, &texts, width, height, error);
    if (!status) draw_overview(&sheet, overview);
    if (!status) status = sp_sheet_finish(&sheet, out, error);
    sp_sheet_fini(&sheet);
    sp_sheet_texts_fini(&texts);
    return status;
}
