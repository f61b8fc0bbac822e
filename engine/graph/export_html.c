/* One offline page of one slice: the picture, what a person needs to read it, a table of its edges, and all
 * data as JSON for the script that filters the table. See export.h.
 *
 * Nothing is fetched: style and script stand in the page, allowed by their SHA-256 in a content security
 * policy that allows nothing else; pictures inside the picture are data: URLs. Data is JSON in a script
 * element of type application/json, every "<" in it written as \u003c, so that no token can end it. Without
 * script the page still has the picture and the strongest edges. The style and the script are page.css and
 * page.js beside this file, embedded at build. */
#include "engine/graph/export.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/encode.h"
#include "engine/graph/page_parts.h"
#include "engine/graph/sheet.h"
#include "kernels/json.h"
#include "kernels/sha256.h"

#define PLAIN_ROWS 100u /* of the table without script */

static void put_escaped(const sp_buffer *text, sp_buffer *out)
{
    sp_text_xml(text->data, text->size, out);
}

static void put_hash(const char *text, sp_buffer *out)
{
    uint8_t digest[SP_SHA256_BYTES];
    sp_sha256(text, strlen(text), digest);
    sp_buffer_text(out, "'sha256-");
    sp_encode_base64(digest, sizeof digest, out);
    sp_buffer_text(out, "'");
}

static void put_head(const sp_buffer *title, sp_buffer *out)
{
    sp_buffer_text(out,
                   "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                   "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src ");
    put_hash(page_css, out);
    sp_buffer_text(out, "; script-src ");
    put_hash(page_js, out);
    sp_buffer_text(out, "; img-src data:; base-uri 'none'; form-action 'none'\">\n"
                        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    put_escaped(title, out);
    sp_buffer_text(out, "</title>\n<style>");
    sp_buffer_text(out, page_css);
    sp_buffer_text(out, "</style>\n</head>\n");
}

static void put_pair(const char *key, uint32_t a, uint32_t b, sp_json_writer *json)
{
    sp_json_key(json, key);
    sp_json_open(json, '[');
    sp_json_uint(json, a);
    sp_json_uint(json, b);
    sp_json_close(json, ']');
}

static void put_numbers(const char *key, const uint32_t *values, size_t n, sp_json_writer *json)
{
    sp_json_key(json, key);
    sp_json_open(json, '[');
    for (size_t i = 0; i < n; i++) sp_json_uint(json, values[i]);
    sp_json_close(json, ']');
}

static void put_area(const sp_picture_area *area, sp_json_writer *json)
{
    const struct {
        const char *key;
        double value;
    } members[] = {{"x", area->rect.x},           {"y", area->rect.y},  {"width", area->rect.width},
                   {"height", area->rect.height}, {"cell", area->cell}, {"step", area->step}};
    sp_json_key(json, "area");
    sp_json_open(json, '{');
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        sp_json_key(json, members[i].key);
        sp_json_number(json, members[i].value);
    }
    sp_json_close(json, '}');
}

/* Tokens of all positions, since positions are absolute; those outside of the slice are empty. */
static void put_tokens(const sp_slice *slice, sp_json_writer *json)
{
    uint32_t end = slice->row_end > slice->col_end ? slice->row_end : slice->col_end;
    sp_json_key(json, "tokens");
    sp_json_open(json, '[');
    for (uint32_t i = 0; i < end; i++) {
        bool held =
            (i >= slice->row_begin && i < slice->row_end) || (i >= slice->col_begin && i < slice->col_end);
        sp_json_string(json, slice->tokens[i].bytes, held ? slice->tokens[i].n_bytes : 0);
    }
    sp_json_close(json, ']');
}

static void put_data(const sp_slice *slice, const sp_picture_area *area, sp_buffer *out)
{
    sp_buffer plain;
    sp_json_writer json;
    sp_buffer_init(&plain, out->max_bytes);
    sp_json_writer_init(&json, &plain);
    sp_json_open(&json, '{');
    put_pair("rows", slice->row_begin, slice->row_end, &json);
    put_pair("cols", slice->col_begin, slice->col_end, &json);
    sp_json_key(&json, "causal");
    sp_json_bool(&json, slice->causal);
    put_area(area, &json);
    put_tokens(slice, &json);
    put_numbers("indptr", slice->indptr, sp_slice_rows(slice) + 1, &json);
    put_numbers("indices", slice->indices, sp_slice_edges(slice), &json);
    sp_json_key(&json, "weights");
    sp_json_open(&json, '[');
    for (uint32_t e = 0; e < sp_slice_edges(slice); e++) sp_json_float(&json, slice->weights[e]);
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    size_t begin = 0;
    for (size_t i = 0; i < plain.size; i++) {
        if (plain.data[i] != '<') continue;
        sp_buffer_append(out, plain.data + begin, i - begin);
        sp_buffer_text(out, "\\u003c");
        begin = i + 1;
    }
    sp_buffer_append(out, plain.data + begin, plain.size - begin);
    sp_buffer_pass(&plain, out);
    sp_buffer_fini(&plain);
}

/* --- the table without script --- */

typedef struct ranked {
    float weight;
    uint32_t query, key;
} ranked;

static int by_weight(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    if (x->query != y->query) return x->query < y->query ? -1 : 1;
    return x->key < y->key ? -1 : x->key > y->key;
}

static void put_cell(const sp_slice *slice, uint32_t position, sp_buffer *out)
{
    sp_buffer_format(out, "<td>%u</td><td>", position);
    sp_text_xml(slice->tokens[position].bytes, slice->tokens[position].n_bytes, out);
    sp_buffer_text(out, "</td>");
}

static void put_rows(const sp_slice *slice, const ranked *edges, uint32_t n, sp_buffer *out)
{
    for (uint32_t i = 0; i < n; i++) {
        sp_json_writer number;
        sp_buffer_text(out, "<tr>");
        put_cell(slice, edges[i].query, out);
        put_cell(slice, edges[i].key, out);
        sp_buffer_text(out, "<td>");
        sp_json_writer_init(&number, out);
        sp_json_float(&number, edges[i].weight);
        sp_buffer_text(out, "</td><td></td></tr>\n");
    }
}

static sp_status put_table(const sp_slice *slice, sp_buffer *out, sp_error *error)
{
    uint32_t n = sp_slice_edges(slice);
    ranked *edges = sp_alloc((size_t)n + 1, sizeof *edges);
    if (!edges) return sp_fail(error, SP_NO_MEMORY, "no memory for %u edges", n);
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++)
        for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++)
            edges[e] = (ranked){slice->weights[e], slice->row_begin + i, slice->indices[e]};
    qsort(edges, n, sizeof *edges, by_weight);
    sp_buffer_text(out,
                   "<table>\n<thead><tr><th colspan=\"2\"><button value=\"query\">query</button></th>"
                   "<th colspan=\"2\"><button value=\"key\">key</button></th>"
                   "<th colspan=\"2\"><button value=\"weight\">weight</button></th></tr></thead>\n<tbody>\n");
    put_rows(slice, edges, n < PLAIN_ROWS ? n : PLAIN_ROWS, out);
    sp_buffer_text(out, "</tbody>\n</table>\n");
    if (n > PLAIN_ROWS)
        sp_buffer_format(out, "<noscript><p>The %u strongest of %u edges.</p></noscript>\n", PLAIN_ROWS, n);
    sp_free(edges);
    return SP_OK;
}

static void put_facts(const sp_slice *slice, sp_buffer *out)
{
    sp_buffer facts;
    sp_buffer_init(&facts, (size_t)1 << 16);
    sp_caption_facts(slice, &facts);
    sp_buffer_text(out,
                   "<p>A coloured cell is an edge: the query of its row reads the key of its column, with "
                   "this weight.</p>\n<p>");
    put_escaped(&facts, out);
    sp_buffer_text(out, "</p>\n");
    sp_buffer_pass(&facts, out);
    sp_buffer_fini(&facts);
}

static void put_foot(const sp_slice *slice, sp_buffer *out)
{
    sp_buffer line;
    sp_buffer_init(&line, (size_t)1 << 16);
    sp_caption_provenance(slice->source, &line);
    sp_buffer_text(out, "<footer><p>");
    put_escaped(&line, out);
    sp_buffer_text(out, "</p></footer>\n");
    sp_buffer_pass(&line, out);
    sp_buffer_fini(&line);
}

sp_status sp_export_html(const sp_slice *slice, const sp_picture_options *picture, sp_buffer *out,
                         sp_error *error)
{
    sp_picture_options options = picture ? *picture : sp_picture_defaults(SP_CANVAS_SVG);
    sp_picture_area area;
    sp_buffer title;
    options.kind = SP_CANVAS_SVG;
    options.dark = false;
    sp_buffer_init(&title, (size_t)1 << 16);
    sp_caption_title(slice->source, slice, &title);
    put_head(&title, out);
    sp_buffer_text(out, "<body>\n<h1>");
    put_escaped(&title, out);
    sp_buffer_text(out, "</h1>\n");
    sp_buffer_pass(&title, out);
    sp_buffer_fini(&title);
    put_facts(slice, out);
    sp_buffer_text(out, "<figure tabindex=\"0\" aria-label=\"matrix of edges\">\n");
    sp_status status = sp_picture_matrix_bare(slice, &options, &area, out, error);
    sp_buffer_text(
        out, "</figure>\n<p id=\"says\" role=\"status\"></p>\n<h2>Edges</h2>\n<p id=\"controls\" hidden>"
             "<label>query or key contains <input id=\"word\" type=\"search\"></label>"
             "<label>weight at least <input id=\"least\" type=\"number\" min=\"0\" max=\"1\" "
             "step=\"any\" value=\"0\"></label>"
             "<button id=\"before\">earlier</button> <button id=\"after\">later</button> "
             "<span id=\"count\" class=\"muted\"></span></p>\n");
    if (!status) status = put_table(slice, out, error);
    put_foot(slice, out);
    sp_buffer_text(out, "<script type=\"application/json\" id=\"graph\">");
    if (!status) put_data(slice, &area, out);
    sp_buffer_text(out, "</script>\n<script>");
    sp_buffer_text(out, page_js);
    sp_buffer_text(out, "</script>\n</body>\n</html>\n");
    return status ? status : sp_export_check(out, error);
}
