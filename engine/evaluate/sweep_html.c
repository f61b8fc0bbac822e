/* See sweep.h: one page with the curves of every length and a table of all points. No scripts, nothing from
 * elsewhere. Tests: tests/unit/engine/test_sweep.c, tests/http/test_sweep.py */
#include <math.h>
#include <string.h>

#include "engine/evaluate/sweep_grid.h"
#include "engine/evaluate/sweep_page.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
    "content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<style>\n"
    ":root{--ink:#1c1e21;--soft:#5f6670;--line:#e3e6ea;--paper:#fff;--head:#f6f7f9;--best:#eaf4ec}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3abb5;--line:#343a41;--paper:#16181b;"
    "--head:#1f2327;--best:#1d2b22}}\n"
    "body{margin:0 auto;max-width:1180px;padding:24px;background:var(--paper);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}"
    "p{margin:4px 0 12px;color:var(--soft);max-width:80ch}svg{width:100%;height:auto}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;"
    "font-size:13px}caption{text-align:left;color:var(--soft);padding:6px 0}"
    "th,td{padding:4px 8px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}"
    "thead th{background:var(--head);position:sticky;top:0}th:first-child,td:last-child,th:last-child{"
    "text-align:left}tr.best{background:var(--best)}code{font:12px ui-monospace,monospace;color:var(--soft)}"
    "dt{font-weight:600;float:left;clear:left;min-width:10em}dd{margin:0 0 2px 10em;color:var(--soft)}\n"
    "</style>";

/* A cell with a number, or a dash where there is none. */
static void write_cell(sp_buffer *out, const char *format_of_number, double value)
{
    sp_buffer_text(out, "<td>");
    if (isnan(value))
        sp_buffer_text(out, "&#8211;");
    else if (strcmp(format_of_number, "ratio") == 0)
        sp_buffer_format(out, "%.2f", value);
    else if (strcmp(format_of_number, "change") == 0)
        sp_buffer_format(out, "%+.2f %%", value);
    else
        sp_buffer_format(out, "%.3f", value);
    sp_buffer_text(out, "</td>");
}

static void write_row(const sp_sweep_point *p, sp_buffer *out)
{
    sp_buffer_format(out, "<tr%s><th scope=\"row\">",
                     p->recall_front || p->perplexity_front ? " class=\"best\"" : "");
    sp_sweep_write_text(out, p->grid);
    if (!isnan(p->value)) sp_buffer_format(out, " %.6g", p->value);
    sp_buffer_text(out, "</th>");
    write_cell(out, "share", 1 - p->density);
    write_cell(out, "share", p->recall);
    write_cell(out, "share", p->mass);
    write_cell(out, "ratio", p->perplexity);
    write_cell(out, "change", 100 * (p->perplexity / p->perplexity_dense - 1));
    write_cell(out, "ratio", p->prefill_seconds / p->prefill_seconds_dense);
    write_cell(out, "ratio", p->decode_seconds / p->decode_seconds_dense);
    sp_buffer_format(out, "<td>%s%s%s</td><td><code>", p->recall_front ? "recall " : "",
                     p->perplexity_front ? "perplexity " : "", p->sees_later ? "sees later tokens" : "");
    sp_sweep_write_text(out, p->attention);
    sp_buffer_text(out, "</code></td></tr>\n");
}

static void write_table(const sp_sweep *sweep, uint32_t length, sp_buffer *out)
{
    sp_buffer_text(out,
                   "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"All points\"><table>"
                   "<caption>Every point. Time: seconds over those of dense attention, measured in turns. "
                   "Front: nothing is at least as sparse and better.</caption><thead><tr>");
    static const char *const names[] = {"curve",      "sparsity", "recall",  "mass",  "perplexity",
                                        "over dense", "reading",  "writing", "front", "attention"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        sp_buffer_format(out, "<th scope=\"col\">%s</th>", names[i]);
    sp_buffer_text(out, "</tr></thead><tbody>\n");
    for (size_t i = 0; i < sweep->n_points; i++)
        if (sweep->points[i].length == length) write_row(&sweep->points[i], out);
    sp_buffer_text(out, "</tbody></table></div>\n");
}

/* What the names of curves mean, of those that are there. */
static void write_meanings(const sp_sweep *sweep, sp_buffer *out)
{
    sp_buffer_text(out, "<h2>Curves</h2><dl>");
    for (size_t i = 0; i < sp_grid_count; i++) {
        size_t k = 0;
        while (k < sweep->n_points && strcmp(sweep->points[k].grid, sp_grids[i].name) != 0) k++;
        if (k == sweep->n_points) continue;
        sp_buffer_format(out, "<dt>%s</dt><dd>", sp_grids[i].name);
        sp_sweep_write_text(out, sp_grids[i].meaning);
        sp_buffer_text(out, "</dd>");
    }
    sp_buffer_text(out, "</dl>");
}

/* The longest length below `below`. */
static uint32_t next_length(const sp_sweep *sweep, uint32_t below)
{
    uint32_t length = 0;
    for (size_t i = 0; i < sweep->n_points; i++)
        if (sweep->points[i].length < below && sweep->points[i].length > length)
            length = sweep->points[i].length;
    return length;
}

void sp_sweep_write_html(const sp_sweep *sweep, sp_buffer *out)
{
    sp_buffer_text(out, head);
    sp_buffer_text(out, "<title>Sparsity, recall and perplexity of ");
    sp_sweep_write_text(out, sweep->model_name);
    sp_buffer_text(out, "</title></head><body><main><h1>What each attention keeps of ");
    sp_sweep_write_text(out, sweep->model_name);
    sp_buffer_text(
        out, "</h1><p>Sparsity is the share of allowed pairs that are left out. Recall is the share of the "
             "gold graph (the weights of dense attention that are not zero) that is kept, mass the share of "
             "the dense probability, both as means over heads. Perplexity is measured inside of the "
             "pattern.</p>");
    for (uint32_t length = next_length(sweep, UINT32_MAX); length > 0; length = next_length(sweep, length)) {
        sp_buffer_format(out, "<h2>Windows of %u tokens</h2>\n<figure style=\"margin:0\">", length);
        sp_sweep_write_charts(sweep, length, out);
        sp_buffer_text(out, "</figure>");
        write_table(sweep, length, out);
    }
    write_meanings(sweep, out);
    sp_buffer_text(out, "<p>Text: SHA-256 <code>");
    sp_sweep_write_text(out, sweep->text_sha256);
    sp_buffer_text(out, "</code></p></main></body></html>\n");
}
