/* See sheet.h. Here: the page and its legend. */
#include "engine/graph/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ENTRY_TEXT 24.0 /* from the legend's edge to the text of an entry */
#define MARGIN 22.0
#define TITLE_HEIGHT 20.0
#define MIN_WIDTH 480.0
#define TEXT_BYTES ((size_t)1 << 16)
#define RAMP_HEIGHT 150.0
#define RAMP_WIDTH 16.0

sp_picture_options sp_picture_defaults(sp_canvas_kind kind)
{
    return (sp_picture_options){.kind = kind, .colors = SP_CIVIDIS, .scale = SP_SCALE_SQRT};
}

void sp_sheet_texts_init(sp_sheet_texts *texts)
{
    *texts = (sp_sheet_texts){.reading = ""};
    sp_buffer_init(&texts->title, TEXT_BYTES);
    sp_buffer_init(&texts->facts, TEXT_BYTES);
    sp_buffer_init(&texts->provenance, TEXT_BYTES);
}

void sp_sheet_texts_fini(sp_sheet_texts *texts)
{
    sp_buffer_fini(&texts->title);
    sp_buffer_fini(&texts->facts);
    sp_buffer_fini(&texts->provenance);
}

/* Bytes of the first line of text when lines are at most width wide: up to a blank where there is one. */
static size_t line_bytes(sp_font font, const char *text, size_t n, double width)
{
    size_t blank = 0, used;
    double x = 0;
    for (size_t i = 0; i < n; i += used) {
        sp_text_next(text + i, n - i, &used);
        if (text[i] == ' ') blank = i;
        x += sp_text_width(font, text + i, used);
        if (x > width && i > 0) return blank > 0 ? blank : i;
    }
    return n;
}

/* Draws (or, without a sheet, only counts) the lines of a paragraph below y; returns the y behind it. */
static double paragraph(sp_sheet *sheet, sp_font font, const char *text, size_t n, double width, double y,
                        sp_rgb color)
{
    double height = font == SP_FONT_TITLE ? TITLE_HEIGHT : SP_LINE_HEIGHT;
    while (n > 0) {
        size_t line = line_bytes(font, text, n, width);
        y += height;
        if (sheet)
            sp_canvas_text(&sheet->canvas, font, (sp_point){MARGIN, y - 4}, text, line, color, SP_START,
                           false);
        while (line < n && text[line] == ' ') line++;
        text += line;
        n -= line;
    }
    return y;
}

static double draw_head(sp_sheet *sheet, const sp_sheet_texts *texts, const sp_palette *p, double width)
{
    if (texts->bare) return MARGIN;
    double y =
        paragraph(sheet, SP_FONT_TITLE, texts->title.data, texts->title.size, width, MARGIN - 6, p->ink);
    y = paragraph(sheet, SP_FONT_TEXT, texts->reading, strlen(texts->reading), width, y + 3, p->muted);
    return paragraph(sheet, SP_FONT_TEXT, texts->facts.data, texts->facts.size, width, y, p->muted) + 16;
}

static double draw_foot(sp_sheet *sheet, const sp_sheet_texts *texts, const sp_palette *p, double width,
                        double y)
{
    if (texts->bare) return y;
    return paragraph(sheet, SP_FONT_TEXT, texts->provenance.data, texts->provenance.size, width, y, p->muted);
}

static void describe(sp_sheet *sheet, const sp_sheet_texts *texts)
{
    sp_buffer_init(&sheet->title, TEXT_BYTES);
    sp_buffer_init(&sheet->description, 3 * TEXT_BYTES);
    sp_buffer_append(&sheet->title, texts->title.data, texts->title.size);
    sp_buffer_append(&sheet->title, "", 1);
    sp_buffer_text(&sheet->description, texts->reading);
    sp_buffer_text(&sheet->description, " ");
    sp_buffer_append(&sheet->description, texts->facts.data, texts->facts.size);
    sp_buffer_text(&sheet->description, " ");
    sp_buffer_append(&sheet->description, texts->provenance.data, texts->provenance.size);
    sp_buffer_append(&sheet->description, "", 1);
    sp_buffer_pass(&texts->title, &sheet->title);
    sp_buffer_pass(&texts->facts, &sheet->description);
    sp_buffer_pass(&texts->provenance, &sheet->description);
}

sp_status sp_sheet_open(sp_sheet *sheet, const sp_picture_options *options, const sp_sheet_texts *texts,
                        double content_width, double content_height, sp_error *error)
{
    *sheet = (sp_sheet){.scale = options->scale};
    sp_palette_init(&sheet->palette, options->colors, options->dark);
    const sp_palette *p = &sheet->palette;
    double legend = fmax(SP_LEGEND_WIDTH, texts->legend_width);
    double inner = fmax(content_width + SP_LEGEND_GAP + legend, MIN_WIDTH);
    double top = draw_head(NULL, texts, p, inner), bottom = top + content_height + 14;
    double height = draw_foot(NULL, texts, p, inner, bottom) + MARGIN - 4;
    sp_status status =
        sp_canvas_init(&sheet->canvas, options->kind, inner + 2 * MARGIN, height, p->page, error);
    if (status) return status;
    describe(sheet, texts);
    draw_head(sheet, texts, p, inner);
    draw_foot(sheet, texts, p, inner, bottom);
    sheet->content = (sp_point){MARGIN, top};
    sheet->legend = (sp_point){MARGIN + content_width + SP_LEGEND_GAP, top};
    return SP_OK;
}

sp_status sp_sheet_finish(sp_sheet *sheet, sp_buffer *out, sp_error *error)
{
    if (sheet->title.failed || sheet->description.failed)
        return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    return sp_canvas_finish(&sheet->canvas, sheet->title.data, sheet->description.data, out, error);
}

void sp_sheet_fini(sp_sheet *sheet)
{
    sp_canvas_fini(&sheet->canvas);
    sp_buffer_fini(&sheet->title);
    sp_buffer_fini(&sheet->description);
}

void sp_sheet_say(sp_sheet *sheet, double x, double y, const char *text, sp_rgb color, sp_anchor anchor)
{
    sp_canvas_text(&sheet->canvas, SP_FONT_TEXT, (sp_point){x, y}, text, strlen(text), color, anchor, false);
}

/* --- legend --- */

double sp_legend_height(bool ramp, uint32_t entries, uint32_t notes)
{
    return 20 + (ramp ? RAMP_HEIGHT + 46 : 0) + entries * 20.0 + notes * SP_LINE_HEIGHT;
}

void sp_legend_heading(sp_sheet *sheet, const char *text)
{
    sp_sheet_say(sheet, sheet->legend.x, sheet->legend.y + 8, text, sheet->palette.ink, SP_START);
    sheet->legend.y += 18;
}

void sp_legend_note(sp_sheet *sheet, const char *text)
{
    sp_sheet_say(sheet, sheet->legend.x, sheet->legend.y + 11, text, sheet->palette.muted, SP_START);
    sheet->legend.y += SP_LINE_HEIGHT;
}

/* "0.0012": two digits that count. */
static void weight_text(double value, char text[32])
{
    if (value > 0 && value < 1e-4)
        snprintf(text, 32, "%.0e", value);
    else
        snprintf(text, 32, "%.2g", value);
}

static const char *const scale_words[SP_COLOR_SCALES] = {"linear scale", "square-root scale",
                                                         "logarithmic scale"};

void sp_legend_ramp(sp_sheet *sheet, double low, double high)
{
    uint8_t levels[SP_RAMP_LEVELS]; /* from the strongest down */
    double x = sheet->legend.x, y = sheet->legend.y + 4;
    sp_rect rect = {x + 1, y, RAMP_WIDTH, RAMP_HEIGHT};
    for (int i = 0; i < SP_RAMP_LEVELS; i++) levels[i] = (uint8_t)(SP_RAMP_LEVELS - i);
    sp_canvas_cells(&sheet->canvas, rect, levels, SP_RAMP_LEVELS, 1, sheet->palette.ramp);
    sp_canvas_frame(&sheet->canvas, rect, sheet->palette.faint);
    for (int i = 0; i <= 4; i++) {
        char text[32];
        double at = y + RAMP_HEIGHT * (1 - i / 4.0);
        weight_text(sp_color_weight(sheet->scale, i / 4.0, low, high), text);
        sp_canvas_rects(&sheet->canvas, &(sp_rect){x + RAMP_WIDTH + 2, at - 0.5, 4, 1}, 1,
                        sheet->palette.muted);
        sp_sheet_say(sheet, x + RAMP_WIDTH + 10, at + 4, text, sheet->palette.ink, SP_START);
    }
    sheet->legend.y = y + RAMP_HEIGHT + 8;
    sp_legend_note(sheet, scale_words[sheet->scale]);
    sheet->legend.y += 9;
}

double sp_legend_entry_width(const char *text, size_t size)
{
    return ENTRY_TEXT + sp_text_width(SP_FONT_TEXT, text, size);
}

void sp_legend_entry(sp_sheet *sheet, sp_legend_key key, bool shapes, const char *text)
{
    const sp_palette *p = &sheet->palette;
    sp_canvas *c = &sheet->canvas;
    sp_rect box = {sheet->legend.x + 2, sheet->legend.y + 2, 14, 14};
    sp_point middle = {box.x + 7, box.y + 7};
    if (key == SP_KEY_MASKED) sp_canvas_hatch(c, &box, 1, p->mask, p->mask_line);
    if (key == SP_KEY_PENDING) sp_canvas_rects(c, &box, 1, p->faint);
    bool difference = key == SP_KEY_BOTH || key == SP_KEY_MISSED || key == SP_KEY_EXTRA;
    sp_rgb color = key == SP_KEY_BOTH ? p->both : key == SP_KEY_MISSED ? p->missed : p->extra;
    if (key == SP_KEY_EDGE) color = p->ramp[SP_RAMP_LEVELS];
    if (key == SP_KEY_EDGE || key == SP_KEY_BOTH || (difference && !shapes))
        sp_canvas_rects(c, &(sp_rect){box.x + 2, box.y + 2, 10, 10}, 1, color);
    else if (key == SP_KEY_MISSED)
        sp_canvas_marks(c, SP_MARK_RING, &middle, 1, 4.5, 2, color);
    else if (key == SP_KEY_EXTRA)
        sp_canvas_marks(c, SP_MARK_CROSS, &middle, 1, 4, 1.8, color);
    if (key == SP_KEY_NONE || key == SP_KEY_MASKED) sp_canvas_frame(c, box, p->faint);
    sp_sheet_say(sheet, sheet->legend.x + ENTRY_TEXT, box.y + 11, text, p->ink, SP_START);
    sheet->legend.y += 20;
}
