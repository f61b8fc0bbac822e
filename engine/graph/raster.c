/* See raster.h. */
#include "engine/graph/raster.h"

#include <math.h>
#include <string.h>

static void blend(sp_canvas *c, int x, int y, sp_rgb color, double cover)
{
    if (x < 0 || y < 0 || x >= (int)c->pixel_width || y >= (int)c->pixel_height || cover <= 0) return;
    uint8_t *pixel = c->pixels + ((size_t)y * c->pixel_width + (size_t)x) * 3;
    const uint8_t to[3] = {color.r, color.g, color.b};
    if (cover > 1) cover = 1;
    for (int k = 0; k < 3; k++) pixel[k] = (uint8_t)lround(pixel[k] + (to[k] - pixel[k]) * cover);
}

typedef struct box {
    int x0, y0, x1, y1; /* half-open, inside the picture */
} box;

static int clip(double value, uint32_t limit)
{
    return value < 0 ? 0 : value > limit ? (int)limit : (int)value;
}

static box box_of(const sp_canvas *c, sp_rect r)
{
    double s = c->scale, x0 = round(r.x * s), y0 = round(r.y * s), x1 = round((r.x + r.width) * s),
           y1 = round((r.y + r.height) * s);
    if (r.width > 0 && x1 <= x0) x1 = x0 + 1;
    if (r.height > 0 && y1 <= y0) y1 = y0 + 1;
    return (box){clip(x0, c->pixel_width), clip(y0, c->pixel_height), clip(x1, c->pixel_width),
                 clip(y1, c->pixel_height)};
}

static void put(sp_canvas *c, int x, int y, sp_rgb color)
{
    memcpy(c->pixels + ((size_t)y * c->pixel_width + (size_t)x) * 3, (uint8_t[3]){color.r, color.g, color.b},
           3);
}

static void fill(sp_canvas *c, box b, sp_rgb color)
{
    for (int y = b.y0; y < b.y1; y++)
        for (int x = b.x0; x < b.x1; x++) put(c, x, y, color);
}

void sp_raster_clear(sp_canvas *canvas)
{
    fill(canvas, (box){0, 0, (int)canvas->pixel_width, (int)canvas->pixel_height}, canvas->page);
}

void sp_raster_rect(sp_canvas *canvas, sp_rect rect, sp_rgb color)
{
    fill(canvas, box_of(canvas, rect), color);
}

/* Lines at 45 degrees, one unit wide, six units apart along x, as in the SVG pattern. */
void sp_raster_hatch(sp_canvas *canvas, sp_rect rect, sp_rgb fill_color, sp_rgb line)
{
    box b = box_of(canvas, rect);
    int step = 6 * (int)canvas->scale, width = (int)canvas->scale;
    for (int y = b.y0; y < b.y1; y++)
        for (int x = b.x0; x < b.x1; x++) put(canvas, x, y, (x + y) % step < width ? line : fill_color);
}

void sp_raster_cells(sp_canvas *canvas, sp_rect rect, const uint8_t *levels, uint32_t rows, uint32_t columns,
                     const sp_rgb ramp[256])
{
    double width = rect.width / columns, height = rect.height / rows;
    for (uint32_t i = 0; i < rows; i++) {
        for (uint32_t j = 0; j < columns; j++) {
            uint8_t level = levels[(size_t)i * columns + j];
            sp_rect cell = {rect.x + j * width, rect.y + i * height, width, height};
            if (level > 0) fill(canvas, box_of(canvas, cell), ramp[level]);
        }
    }
}

void sp_raster_line(sp_canvas *canvas, sp_point a, sp_point b, double width, sp_rgb color, double opacity)
{
    double s = canvas->scale, x0 = a.x * s, y0 = a.y * s, x1 = b.x * s, y1 = b.y * s, r = width * s / 2;
    double dx = x1 - x0, dy = y1 - y0, length = sqrt(dx * dx + dy * dy);
    if (!(length > 0)) return;
    double reach = r + 1, low = fmin(y0, y1) - reach, high = fmax(y0, y1) + reach;
    for (int y = clip(low, canvas->pixel_height); y < clip(high + 1, canvas->pixel_height); y++) {
        /* Only where the row comes near the line. */
        double from = fmin(x0, x1) - reach, to = fmax(x0, x1) + reach;
        if (fabs(dy) > 1e-9) {
            double middle = x0 + (y + 0.5 - y0) * dx / dy, spread = reach * length / fabs(dy) + 1;
            from = fmax(from, middle - spread);
            to = fmin(to, middle + spread);
        }
        for (int x = clip(from, canvas->pixel_width); x < clip(to + 1, canvas->pixel_width); x++) {
            double px = x + 0.5 - x0, py = y + 0.5 - y0;
            double along = fmin(fmax((px * dx + py * dy) / (length * length), 0), 1);
            double ex = px - along * dx, ey = py - along * dy;
            double cover = fmin(r + 0.5 - sqrt(ex * ex + ey * ey), fmin(2 * r, 1));
            blend(canvas, x, y, color, cover * opacity);
        }
    }
}

void sp_raster_ring(sp_canvas *canvas, sp_point center, double radius, double width, sp_rgb color)
{
    double s = canvas->scale, cx = center.x * s, cy = center.y * s, r = radius * s, half = width * s / 2;
    double reach = r + half + 1;
    for (int y = clip(cy - reach, canvas->pixel_height); y < clip(cy + reach + 1, canvas->pixel_height);
         y++) {
        for (int x = clip(cx - reach, canvas->pixel_width); x < clip(cx + reach + 1, canvas->pixel_width);
             x++) {
            double dx = x + 0.5 - cx, dy = y + 0.5 - cy;
            blend(canvas, x, y, color, half + 0.5 - fabs(sqrt(dx * dx + dy * dy) - r));
        }
    }
}

/* --- text --- */

typedef struct pen {
    sp_canvas *canvas;
    double x, y; /* of the pen in pixels */
    bool upward;
    sp_rgb color;
} pen;

/* Colours the pixel at (along, up) from the pen: along the text, and above its baseline. */
static void ink(const pen *p, double along, double up, double cover)
{
    double x = p->upward ? p->x - up : p->x + along, y = p->upward ? p->y - along : p->y - up;
    blend(p->canvas, (int)floor(x), (int)floor(y), p->color, cover);
}

/* Mean coverage of the scale x scale glyph pixels that fall on one pixel (a glyph is drawn for scale 2). */
static void draw_glyph(const pen *p, sp_font font, const sp_glyph *glyph)
{
    double shrink = p->canvas->scale / 2.0, share = shrink * shrink / 15;
    for (uint32_t y = 0; y < glyph->height; y++) {
        for (uint32_t x = 0; x < glyph->width; x++) {
            uint8_t cover = sp_font_coverage(font, glyph, x, y);
            if (cover == 0) continue;
            ink(p, (glyph->left + (double)x + 0.5) * shrink, (glyph->top - (double)y - 0.5) * shrink,
                cover * share);
        }
    }
}

/* Digits 0-9 and A-F, 3 x 5, rows from the top, bit 2 left. */
static const uint8_t digits[16][5] = {{7, 5, 5, 5, 7}, {2, 6, 2, 2, 7}, {7, 1, 7, 4, 7}, {7, 1, 7, 1, 7},
                                      {5, 5, 7, 1, 1}, {7, 4, 7, 1, 7}, {7, 4, 7, 5, 7}, {7, 1, 1, 1, 1},
                                      {7, 5, 7, 5, 7}, {7, 5, 7, 1, 7}, {7, 5, 7, 5, 5}, {6, 5, 6, 5, 6},
                                      {7, 4, 4, 4, 7}, {6, 5, 5, 5, 6}, {7, 4, 7, 4, 7}, {7, 4, 7, 4, 4}};

static void draw_digit(const pen *p, uint32_t digit, double left, double top, double unit)
{
    for (uint32_t y = 0; y < 5; y++)
        for (uint32_t x = 0; x < 3; x++)
            if (digits[digit][y] >> (2 - x) & 1)
                for (double sy = 0.5; sy < unit; sy++)
                    for (double sx = 0.5; sx < unit; sx++)
                        ink(p, left + x * unit + sx, top - y * unit - sy, 1);
}

/* A character the font lacks: its number in hexadecimal, two rows in a box. */
static void draw_number(const pen *p, sp_font font, uint32_t code)
{
    double em = sp_font_sizes[font] * p->canvas->scale, unit = fmax(1, floor(em / 11));
    uint32_t columns = code > 0xffff ? 3 : 2;
    for (double t = 0.5; t < em; t++) {
        ink(p, 1.5, t - 0.15 * em, 0.6);
        ink(p, SP_FONT_BOX * em - 1.5, t - 0.15 * em, 0.6);
        ink(p, 1 + t * (SP_FONT_BOX - 2 / em), -0.15 * em + 0.5, 0.6);
        ink(p, 1 + t * (SP_FONT_BOX - 2 / em), 0.85 * em - 0.5, 0.6);
    }
    double left = (SP_FONT_BOX * em - (4 * columns - 1) * unit) / 2, top = 0.35 * em + 5.5 * unit;
    for (uint32_t i = 0; i < 2 * columns; i++)
        draw_digit(p, code >> 4 * (2 * columns - 1 - i) & 15, left + i % columns * 4 * unit,
                   top - i / columns * 6 * unit, unit);
}

void sp_raster_text(sp_canvas *canvas, sp_font font, sp_point origin, const char *text, size_t n,
                    sp_rgb color, bool upward)
{
    double s = canvas->scale;
    pen p = {canvas, round(origin.x * s), round(origin.y * s), upward, color};
    double at = upward ? origin.y * s : origin.x * s;
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t code = sp_text_next(text + i, n - i, &used);
        const sp_glyph *glyph = sp_font_glyph(font, code);
        if (glyph)
            draw_glyph(&p, font, glyph);
        else
            draw_number(&p, font, code);
        double advance = glyph ? glyph->advance / 128.0 * s : SP_FONT_BOX * sp_font_sizes[font] * s;
        at += upward ? -advance : advance;
        *(upward ? &p.y : &p.x) = round(at);
    }
}
