/* See sweep.h: the curves as one SVG of two panels, sparsity against recall and sparsity against perplexity.
 *
 * Perplexity is drawn as its increase over dense attention in per cent on a logarithmic axis; what is below
 * its lower end lies on it, so do decreases. Every curve has a colour and a shape of its own, every point a
 * title with its figures; hollow points are selections that see later tokens; rings mark the front. Colours
 * follow the reader's dark or light preference by a style sheet inside of the SVG. Tests:
 * tests/unit/engine/test_sweep.c */
#include "engine/evaluate/sweep_page.h"

#include <math.h>
#include <string.h>

#include "engine/evaluate/sweep_grid.h"

#define WIDTH 1120
#define HEIGHT 470
#define PANEL_TOP 46.0
#define PANEL_HEIGHT 350.0
#define PANEL_WIDTH 400.0
#define LEFT_A 62.0
#define LEFT_B 540.0
#define LEGEND_X 968.0
#define N_COLOURS 8
#define N_SHAPES 4
#define LOWEST 0.1 /* per cent: the lower end of the perplexity axis */

static const char style[] =
    "<style>"
    ".sweep{--ink:#1c1e21;--soft:#5f6670;--grid:#e3e6ea;--paper:#fff;--c0:#0068b4;--c1:#d1480a;--c2:#00805f;"
    "--c3:#b0438b;--c4:#a87300;--c5:#2a93c7;--c6:#6b53b8;--c7:#6d6d6d}"
    "@media (prefers-color-scheme:dark){.sweep{--ink:#e8eaed;--soft:#a3abb5;--grid:#343a41;--paper:#16181b;"
    "--c0:#5aaeff;--c1:#ff8a50;--c2:#3ecfa3;--c3:#f08ccb;--c4:#f0b83c;--c5:#7fd3f7;--c6:#b3a0ff;--c7:#b5b5b5}"
    "}"
    ".sweep .paper{fill:var(--paper)}.sweep text{fill:var(--ink);font:12px system-ui,sans-serif}"
    ".sweep .soft{fill:var(--soft)}.sweep .head{font-weight:600;font-size:14px}"
    ".sweep .grid{stroke:var(--grid);stroke-width:1}.sweep .curve{fill:none;stroke-width:1.6;opacity:.85}"
    ".sweep .ring{fill:none;stroke:var(--ink);stroke-width:1.1}"
    "</style>";

/* --- places --- */

typedef struct panel {
    double left, lowest_sparsity;
    bool perplexity;
    double highest; /* per cent, of the perplexity axis */
} panel;

static double x_of(const panel *p, const sp_sweep_point *point)
{
    return p->left + PANEL_WIDTH * (1 - point->density - p->lowest_sparsity) / (1 - p->lowest_sparsity);
}

static double increase(const sp_sweep_point *point)
{
    return 100 * (point->perplexity / point->perplexity_dense - 1);
}

static double y_of_increase(const panel *p, double per_cent)
{
    double share = per_cent > LOWEST ? log(per_cent / LOWEST) / log(p->highest / LOWEST) : 0;
    return PANEL_TOP + PANEL_HEIGHT * (1 - share);
}

static double y_of(const panel *p, const sp_sweep_point *point)
{
    return p->perplexity ? y_of_increase(p, increase(point)) : PANEL_TOP + PANEL_HEIGHT * (1 - point->recall);
}

static bool is_drawn(const panel *p, const sp_sweep_point *point, uint32_t length)
{
    return point->length == length && (p->perplexity || !isnan(point->recall)) &&
           1 - point->density >= p->lowest_sparsity - 1e-9;
}

/* --- axes --- */

static void write_x_axis(const panel *p, sp_buffer *out)
{
    double bottom = PANEL_TOP + PANEL_HEIGHT;
    for (int tenth = (int)(p->lowest_sparsity * 10 + 0.5); tenth <= 10; tenth++) {
        double x = p->left + PANEL_WIDTH * (tenth / 10.0 - p->lowest_sparsity) / (1 - p->lowest_sparsity);
        sp_buffer_format(out, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", x, PANEL_TOP, bottom);
        sp_buffer_format(out,
                         "<text class=\"soft\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d.%d</text>", x,
                         bottom + 18, tenth / 10, tenth % 10);
    }
    sp_buffer_format(out, "<text class=\"soft\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">sparsity</text>",
                     p->left + PANEL_WIDTH / 2, bottom + 38);
}

static void write_y_line(const panel *p, double y, const char *label, sp_buffer *out)
{
    sp_buffer_format(out, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", p->left, y, p->left + PANEL_WIDTH);
    sp_buffer_format(out, "<text class=\"soft\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>",
                     p->left - 8, y + 4, label);
}

static void write_y_axis(const panel *p, sp_buffer *out)
{
    static const struct {
        double value;
        const char *label;
    } decades[] = {{0.1, "&#8804; 0.1 %"}, {0.3, "0.3 %"}, {1, "1 %"},     {3, "3 %"},      {10, "10 %"},
                   {30, "30 %"},           {100, "100 %"}, {300, "300 %"}, {1000, "1000 %"}};
    static const char *const fifths[] = {"0", "0.2", "0.4", "0.6", "0.8", "1"};
    for (size_t i = 0; p->perplexity && i < sizeof decades / sizeof *decades; i++)
        if (decades[i].value <= p->highest * 1.001)
            write_y_line(p, y_of_increase(p, decades[i].value), decades[i].label, out);
    for (int i = 0; !p->perplexity && i <= 5; i++)
        write_y_line(p, PANEL_TOP + PANEL_HEIGHT * (1 - i / 5.0), fifths[i], out);
    sp_buffer_format(out, "<text class=\"head\" x=\"%.1f\" y=\"%.1f\">%s</text>", p->left, PANEL_TOP - 18,
                     p->perplexity ? "Perplexity: increase over dense" : "Recall of the gold graph");
}

/* --- curves --- */

void sp_sweep_write_text(sp_buffer *out, const char *text)
{
    for (; *text; text++) {
        const char *entity = *text == '<' ? "&lt;" : *text == '&' ? "&amp;" : *text == '"' ? "&quot;" : NULL;
        if (entity)
            sp_buffer_text(out, entity);
        else
            sp_buffer_append(out, text, 1);
    }
}

/* A shape of radius 4 around a place. */
static void write_shape(size_t curve, double x, double y, sp_buffer *out)
{
    switch (curve / N_COLOURS % N_SHAPES) {
    case 0:
        sp_buffer_format(out, "M%.1f %.1fm-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z", x, y);
        return;
    case 1:
        sp_buffer_format(out, "M%.1f %.1fm-3.4-3.4h6.8v6.8h-6.8z", x, y);
        return;
    case 2:
        sp_buffer_format(out, "M%.1f %.1fm0-4.4l4.2 7.6h-8.4z", x, y);
        return;
    default:
        sp_buffer_format(out, "M%.1f %.1fm0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z", x, y);
    }
}

static void write_title(const sp_sweep_point *point, sp_buffer *out)
{
    sp_buffer_text(out, "<title>");
    sp_sweep_write_text(out, point->grid);
    if (!isnan(point->value)) sp_buffer_format(out, " %.6g", point->value);
    sp_buffer_format(out, ": sparsity %.3f", 1 - point->density);
    if (!isnan(point->recall)) sp_buffer_format(out, ", recall %.3f, mass %.3f", point->recall, point->mass);
    sp_buffer_format(out, ", perplexity %.2f (%+.2f %%)</title>", point->perplexity, increase(point));
}

static void write_marker(const panel *p, size_t curve, const sp_sweep_point *point, sp_buffer *out)
{
    double x = x_of(p, point), y = y_of(p, point);
    size_t colour = curve % N_COLOURS;
    sp_buffer_text(out, "<path d=\"");
    write_shape(curve, x, y, out);
    if (point->sees_later)
        sp_buffer_format(out, "\" fill=\"var(--paper)\" stroke=\"var(--c%zu)\" stroke-width=\"1.5\">",
                         colour);
    else
        sp_buffer_format(out, "\" fill=\"var(--c%zu)\">", colour);
    write_title(point, out);
    sp_buffer_text(out, "</path>");
    if (p->perplexity ? point->perplexity_front : point->recall_front)
        sp_buffer_format(out, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"6.2\"/>", x, y);
}

/* The drawn point of a curve that follows `after` along its values; NULL: none. */
static const sp_sweep_point *next_point(const sp_sweep *sweep, const panel *p, uint32_t length,
                                        const char *grid, const sp_sweep_point *after)
{
    const sp_sweep_point *best = NULL;
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *point = &sweep->points[i];
        if (strcmp(point->grid, grid) != 0 || !is_drawn(p, point, length)) continue;
        bool behind =
            !after || point->value > after->value || (!(point->value < after->value) && point > after);
        if (behind && (!best || point->value < best->value)) best = point;
    }
    return best;
}

static void write_curve(const sp_sweep *sweep, const panel *p, uint32_t length, size_t curve,
                        const char *grid, sp_buffer *out)
{
    const sp_sweep_point *point = next_point(sweep, p, length, grid, NULL);
    if (!point) return;
    sp_buffer_format(out, "<path class=\"curve\" stroke=\"var(--c%zu)\" d=\"", curve % N_COLOURS);
    for (const char *verb = "M"; point; verb = "L") {
        sp_buffer_format(out, "%s%.1f %.1f", verb, x_of(p, point), y_of(p, point));
        point = next_point(sweep, p, length, grid, point);
    }
    sp_buffer_text(out, "\"/>");
    while ((point = next_point(sweep, p, length, grid, point))) write_marker(p, curve, point, out);
}

/* --- the whole --- */

/* The distinct curves of a length, in the order of their first points; their number. */
static size_t list_curves(const sp_sweep *sweep, uint32_t length, const char **grids, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < sweep->n_points && n < max; i++) {
        size_t k = 0;
        if (sweep->points[i].length != length) continue;
        while (k < n && strcmp(grids[k], sweep->points[i].grid) != 0) k++;
        if (k == n) grids[n++] = sweep->points[i].grid;
    }
    return n;
}

/* Axes that hold the points: sparsity from a tenth below the least (dense aside), per cent up to a decade. */
static void fit_panels(const sp_sweep *sweep, uint32_t length, panel *recall, panel *perplexity)
{
    double least = 1, most = 10;
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *point = &sweep->points[i];
        if (point->length != length) continue;
        if (point->density < 1 - 1e-9 && 1 - point->density < least) least = 1 - point->density;
        if (increase(point) > most) most = increase(point);
    }
    double lowest = floor(least * 10) / 10;
    if (!(lowest >= 0 && lowest <= 0.8)) lowest = lowest > 0.8 ? 0.8 : 0;
    double highest = most <= 10 ? 10 : most <= 100 ? 100 : 1000;
    *recall = (panel){.left = LEFT_A, .lowest_sparsity = lowest};
    *perplexity = (panel){.left = LEFT_B, .lowest_sparsity = lowest, .perplexity = true, .highest = highest};
}

static void write_legend(const char *const *grids, size_t n, sp_buffer *out)
{
    for (size_t i = 0; i < n; i++) {
        double y = PANEL_TOP + 4 + 17.0 * (double)i;
        sp_buffer_text(out, "<path d=\"");
        write_shape(i, LEGEND_X, y, out);
        sp_buffer_format(out, "\" fill=\"var(--c%zu)\"/><text x=\"%.1f\" y=\"%.1f\">", i % N_COLOURS,
                         LEGEND_X + 12, y + 4);
        sp_sweep_write_text(out, grids[i]);
        sp_buffer_text(out, "</text>");
    }
}

void sp_sweep_write_charts(const sp_sweep *sweep, uint32_t length, sp_buffer *out)
{
    const char *grids[SP_SWEEP_MAX_CURVES];
    size_t n = list_curves(sweep, length, grids, SP_SWEEP_MAX_CURVES);
    panel panels[2];
    fit_panels(sweep, length, &panels[0], &panels[1]);
    sp_buffer_format(
        out,
        "<svg class=\"sweep\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
        "role=\"img\" aria-labelledby=\"t%u d%u\"><title id=\"t%u\">Sparsity against recall and "
        "perplexity at %u tokens</title><desc id=\"d%u\">Two panels. Left: the share of gold edges "
        "that each attention keeps. Right: how much its perplexity exceeds that of dense "
        "attention. Rings mark the best of all at their sparsity; hollow points see later tokens. "
        "All figures are in the table of the page and in sweep.json.</desc>",
        WIDTH, HEIGHT, length, length, length, length, length);
    sp_buffer_text(out, style);
    sp_buffer_format(out, "<rect class=\"paper\" width=\"%d\" height=\"%d\"/>", WIDTH, HEIGHT);
    for (int i = 0; i < 2; i++) {
        sp_buffer_text(out, "\n<g>");
        write_x_axis(&panels[i], out);
        write_y_axis(&panels[i], out);
        for (size_t k = 0; k < n; k++) write_curve(sweep, &panels[i], length, k, grids[k], out);
        sp_buffer_text(out, "</g>");
    }
    write_legend(grids, n, out);
    sp_buffer_format(out, "<text class=\"soft\" x=\"%.1f\" y=\"%d\">", LEFT_A, HEIGHT - 10);
    sp_sweep_write_text(out, sweep->model_name);
    sp_buffer_format(out, ", windows of %u tokens; rings: nothing is sparser and better</text></svg>\n",
                     length);
}

uint32_t sp_sweep_longest(const sp_sweep *sweep)
{
    uint32_t length = 0;
    for (size_t i = 0; i < sweep->n_points; i++)
        if (sweep->points[i].length > length) length = sweep->points[i].length;
    return length;
}

void sp_sweep_write_svg(const sp_sweep *sweep, sp_buffer *out)
{
    sp_sweep_write_charts(sweep, sp_sweep_longest(sweep), out);
}
