/* See canvas.h. Here: what both kinds share, and SVG. Attributes only, no style, so that a page with a strict
 * content security policy can hold the picture. */
#include "engine/graph/canvas.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/encode.h"
#include "engine/graph/png.h"
#include "engine/graph/raster.h"

#define MAX_PIXELS 16e6
#define MAX_SIDE 30000.0
#define SVG_BYTES ((size_t)256 << 20)
/* Runs of equal cells that SVG gets as shapes; more become an embedded image. */
#define MAX_RUNS 12000

sp_status sp_canvas_init(sp_canvas *canvas, sp_canvas_kind kind, double width, double height, sp_rgb page,
                         sp_error *error)
{
    *canvas = (sp_canvas){.kind = kind, .width = ceil(width), .height = ceil(height), .page = page};
    if (!(width >= 1 && height >= 1 && width <= MAX_SIDE && height <= MAX_SIDE &&
          width * height <= MAX_PIXELS))
        return sp_fail(error, SP_TOO_LARGE,
                       "the picture would be %.0f by %.0f: ask for fewer layers, heads or rows", width,
                       height);
    sp_buffer_init(&canvas->body, SVG_BYTES);
    if (kind == SP_CANVAS_SVG) {
        sp_canvas_rects(canvas, &(sp_rect){0, 0, canvas->width, canvas->height}, 1, page);
        return SP_OK;
    }
    canvas->scale = canvas->width * canvas->height * 4 <= MAX_PIXELS ? 2 : 1;
    canvas->pixel_width = (uint32_t)canvas->width * canvas->scale;
    canvas->pixel_height = (uint32_t)canvas->height * canvas->scale;
    canvas->pixels = sp_alloc((size_t)canvas->pixel_width * canvas->pixel_height, 3);
    if (!canvas->pixels) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    sp_raster_clear(canvas);
    return SP_OK;
}

void sp_canvas_fini(sp_canvas *canvas)
{
    sp_free(canvas->pixels);
    sp_buffer_fini(&canvas->body);
    *canvas = (sp_canvas){0};
}

/* --- SVG --- */

/* A coordinate with at most two decimals, no zeros behind, and a blank before it unless it begins the list.
 */
static void put_number(sp_canvas *c, double value)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%.2f", value);
    while (text[n - 1] == '0') n--;
    if (text[n - 1] == '.') n--;
    if (n == 2 && text[0] == '-' && text[1] == '0') memcpy(text, "0", (size_t)(n = 1));
    char last = c->body.size ? c->body.data[c->body.size - 1] : ' ';
    if (last != '"' && (last < 'A' || last > 'z') && text[0] != '-') sp_buffer_append(&c->body, " ", 1);
    sp_buffer_append(&c->body, text, (size_t)n);
}

static void put_command(sp_canvas *c, char command, const double *values, size_t n)
{
    sp_buffer_append(&c->body, &command, 1);
    for (size_t i = 0; i < n; i++) put_number(c, values[i]);
}

static void put_attribute(sp_canvas *c, const char *name, double value)
{
    sp_buffer_format(&c->body, " %s=\"", name);
    put_number(c, value);
    sp_buffer_text(&c->body, "\"");
}

static void put_color(sp_canvas *c, const char *name, sp_rgb color)
{
    sp_buffer_format(&c->body, " %s=\"#%02x%02x%02x\"", name, color.r, color.g, color.b);
}

static void put_rect(sp_canvas *c, sp_rect r)
{
    put_command(c, 'M', (double[]){r.x, r.y}, 2);
    put_command(c, 'h', &r.width, 1);
    put_command(c, 'v', &r.height, 1);
    put_command(c, 'h', &(double){-r.width}, 1);
    sp_buffer_text(&c->body, "z");
}

static void put_rects(sp_canvas *c, const sp_rect *rects, size_t n)
{
    sp_buffer_text(&c->body, "<path d=\"");
    for (size_t i = 0; i < n; i++) put_rect(c, rects[i]);
    sp_buffer_text(&c->body, "\"");
}

void sp_canvas_rects(sp_canvas *canvas, const sp_rect *rects, size_t n, sp_rgb color)
{
    if (n == 0) return;
    if (canvas->kind == SP_CANVAS_PNG) {
        for (size_t i = 0; i < n; i++) sp_raster_rect(canvas, rects[i], color);
        return;
    }
    put_rects(canvas, rects, n);
    put_color(canvas, "fill", color);
    sp_buffer_text(&canvas->body, " shape-rendering=\"crispEdges\"/>\n");
}

void sp_canvas_frame(sp_canvas *canvas, sp_rect r, sp_rgb color)
{
    const sp_rect sides[4] = {{r.x - 1, r.y - 1, r.width + 2, 1},
                              {r.x - 1, r.y + r.height, r.width + 2, 1},
                              {r.x - 1, r.y, 1, r.height},
                              {r.x + r.width, r.y, 1, r.height}};
    sp_canvas_rects(canvas, sides, 4, color);
}

void sp_canvas_hatch(sp_canvas *canvas, const sp_rect *rects, size_t n, sp_rgb fill, sp_rgb line)
{
    if (n == 0) return;
    if (canvas->kind == SP_CANVAS_PNG) {
        for (size_t i = 0; i < n; i++) sp_raster_hatch(canvas, rects[i], fill, line);
        return;
    }
    uint32_t id = ++canvas->n_patterns;
    sp_buffer_format(&canvas->body,
                     "<pattern id=\"hatch%u\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">"
                     "<path d=\"M0 0h6v6h-6z\"",
                     id);
    put_color(canvas, "fill", fill);
    sp_buffer_text(&canvas->body, "/><path d=\"M0 6l6-6M-1 1l2-2M5 7l2-2\" stroke-width=\"0.7\"");
    put_color(canvas, "stroke", line);
    sp_buffer_text(&canvas->body, "/></pattern>\n");
    put_rects(canvas, rects, n);
    sp_buffer_format(&canvas->body, " fill=\"url(#hatch%u)\"/>\n", id);
}

/* Length of the run of equal levels from column j on. */
static uint32_t run_length(const uint8_t *row, uint32_t j, uint32_t columns)
{
    uint32_t k = j + 1;
    while (k < columns && row[k] == row[j]) k++;
    return k - j;
}

static size_t count_runs(const uint8_t *levels, uint32_t rows, uint32_t columns, bool used[256])
{
    size_t runs = 0;
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *row = levels + (size_t)i * columns;
        for (uint32_t j = 0; j < columns; j += run_length(row, j, columns)) {
            used[row[j]] = true;
            runs += row[j] > 0;
        }
    }
    return runs;
}

/* One path a colour: cells of equal level that lie side by side are one rectangle. */
static void put_level(sp_canvas *c, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                      uint8_t level, sp_rgb color)
{
    double width = rect.width / columns, height = rect.height / rows;
    sp_buffer_text(&c->body, "<path d=\"");
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *row = levels + (size_t)i * columns;
        for (uint32_t j = 0, n; j < columns; j += n) {
            n = run_length(row, j, columns);
            if (row[j] == level)
                put_rect(c, (sp_rect){rect.x + j * width, rect.y + i * height, n * width, height});
        }
    }
    sp_buffer_text(&c->body, "\"");
    put_color(c, "fill", color);
    sp_buffer_text(&c->body, " shape-rendering=\"crispEdges\"/>\n");
}

static void put_image(sp_canvas *c, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                      const sp_rgb ramp[256])
{
    sp_buffer png;
    sp_buffer_init(&png, SVG_BYTES);
    if (sp_png_write_indexed(levels, columns, rows, ramp, &png, NULL)) c->failed = true;
    sp_buffer_text(&c->body, "<image");
    put_attribute(c, "x", rect.x);
    put_attribute(c, "y", rect.y);
    put_attribute(c, "width", rect.width);
    put_attribute(c, "height", rect.height);
    sp_buffer_text(&c->body, " preserveAspectRatio=\"none\" image-rendering=\"pixelated\" "
                             "href=\"data:image/png;base64,");
    sp_encode_base64(png.data, png.size, &c->body);
    sp_buffer_text(&c->body, "\"/>\n");
    sp_buffer_fini(&png);
}

void sp_canvas_cells(sp_canvas *canvas, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                     const sp_rgb ramp[256])
{
    bool used[256] = {false};
    if (canvas->kind == SP_CANVAS_PNG) {
        sp_raster_cells(canvas, rect, levels, rows, columns, ramp);
        return;
    }
    size_t runs = count_runs(levels, rows, columns, used);
    if (runs > MAX_RUNS) {
        put_image(canvas, rect, levels, rows, columns, ramp);
        return;
    }
    for (int level = 1; level < 256; level++)
        if (used[level]) put_level(canvas, rect, levels, rows, columns, (uint8_t)level, ramp[level]);
}

void sp_canvas_line(sp_canvas *canvas, sp_point a, sp_point b, double width, sp_rgb color, double opacity)
{
    if (canvas->kind == SP_CANVAS_PNG) {
        sp_raster_line(canvas, a, b, width, color, opacity);
        return;
    }
    sp_buffer_text(&canvas->body, "<path d=\"");
    put_command(canvas, 'M', (double[]){a.x, a.y}, 2);
    put_command(canvas, 'L', (double[]){b.x, b.y}, 2);
    sp_buffer_text(&canvas->body, "\"");
    put_color(canvas, "stroke", color);
    put_attribute(canvas, "stroke-width", width);
    if (opacity < 1) put_attribute(canvas, "stroke-opacity", opacity);
    sp_buffer_text(&canvas->body, "/>\n");
}

static void put_mark(sp_canvas *c, sp_mark mark, sp_point p, double r)
{
    put_command(c, 'M', (double[]){p.x - r, mark == SP_MARK_RING ? p.y : p.y - r}, 2);
    if (mark == SP_MARK_RING) {
        put_command(c, 'a', (double[]){r, r, 0, 1, 0, 2 * r, 0}, 7);
        put_command(c, 'a', (double[]){r, r, 0, 1, 0, -2 * r, 0}, 7);
    } else {
        put_command(c, 'l', (double[]){2 * r, 2 * r}, 2);
        put_command(c, 'm', (double[]){0, -2 * r}, 2);
        put_command(c, 'l', (double[]){-2 * r, 2 * r}, 2);
    }
}

static void draw_mark(sp_canvas *c, sp_mark mark, sp_point p, double r, double width, sp_rgb color)
{
    if (mark == SP_MARK_RING) {
        sp_raster_ring(c, p, r, width, color);
        return;
    }
    sp_raster_line(c, (sp_point){p.x - r, p.y - r}, (sp_point){p.x + r, p.y + r}, width, color, 1);
    sp_raster_line(c, (sp_point){p.x + r, p.y - r}, (sp_point){p.x - r, p.y + r}, width, color, 1);
}

void sp_canvas_marks(sp_canvas *canvas, sp_mark mark, const sp_point *points, size_t n, double radius,
                     double width, sp_rgb color)
{
    if (n == 0) return;
    if (canvas->kind == SP_CANVAS_PNG) {
        for (size_t i = 0; i < n; i++) draw_mark(canvas, mark, points[i], radius, width, color);
        return;
    }
    sp_buffer_text(&canvas->body, "<path d=\"");
    for (size_t i = 0; i < n; i++) put_mark(canvas, mark, points[i], radius);
    sp_buffer_text(&canvas->body, "\" fill=\"none\" stroke-linecap=\"round\"");
    put_color(canvas, "stroke", color);
    put_attribute(canvas, "stroke-width", width);
    sp_buffer_text(&canvas->body, "/>\n");
}

/* --- text --- */

static void put_text(sp_canvas *c, sp_font font, sp_point at, const char *text, size_t n, double width,
                     sp_rgb color, bool upward)
{
    sp_buffer_text(&c->body, "<text");
    if (upward) {
        sp_buffer_text(&c->body, " transform=\"translate(");
        put_number(c, at.x);
        sp_buffer_text(&c->body, ",");
        put_number(c, at.y);
        sp_buffer_text(&c->body, ")rotate(-90)\"");
    } else {
        put_attribute(c, "x", at.x);
        put_attribute(c, "y", at.y);
    }
    if (font == SP_FONT_TITLE) sp_buffer_text(&c->body, " font-size=\"15\" font-weight=\"bold\"");
    put_color(c, "fill", color);
    put_attribute(c, "textLength", width);
    sp_buffer_text(&c->body, ">");
    sp_text_xml(text, n, &c->body);
    sp_buffer_text(&c->body, "</text>\n");
}

void sp_canvas_text(sp_canvas *canvas, sp_font font, sp_point at, const char *text, size_t n, sp_rgb color,
                    sp_anchor anchor, bool upward)
{
    double width = sp_text_width(font, text, n);
    double back = anchor == SP_START ? 0 : anchor == SP_MIDDLE ? width / 2 : width;
    if (n == 0) return;
    if (upward)
        at.y += back;
    else
        at.x -= back;
    if (canvas->kind == SP_CANVAS_PNG)
        sp_raster_text(canvas, font, at, text, n, color, upward);
    else
        put_text(canvas, font, at, text, n, width, color, upward);
}

/* --- the file --- */

static void write_svg(const sp_canvas *c, const char *title, const char *description, sp_buffer *out)
{
    sp_buffer_format(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
        "viewBox=\"0 0 %.0f %.0f\" role=\"img\" font-family=\"DejaVu Sans, Verdana, sans-serif\" "
        "font-size=\"11\" xml:space=\"preserve\">\n<title>",
        c->width, c->height, c->width, c->height);
    sp_text_xml(title, strlen(title), out);
    sp_buffer_text(out, "</title>\n<desc>");
    sp_text_xml(description, strlen(description), out);
    sp_buffer_text(out, "</desc>\n");
    sp_buffer_append(out, c->body.data, c->body.size);
    sp_buffer_text(out, "</svg>\n");
}

sp_status sp_canvas_finish(sp_canvas *canvas, const char *title, const char *description, sp_buffer *out,
                           sp_error *error)
{
    if (canvas->failed || canvas->body.failed) return sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    if (canvas->kind == SP_CANVAS_PNG) {
        const sp_png_text texts[] = {
            {"Title", title}, {"Description", description}, {"Software", "sparsed " SPARSED_VERSION}};
        return sp_png_write_rgb(canvas->pixels, canvas->pixel_width, canvas->pixel_height, texts, 3, out,
                                error);
    }
    write_svg(canvas, title, description, out);
    return out->failed ? sp_fail(error, SP_NO_MEMORY, "no memory for a picture") : SP_OK;
}
