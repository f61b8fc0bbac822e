/* See graph_wish.h. */
#include "server/graph_wish.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const view_names[] = {"matrix", "panels", "lines", "overview"};
static const char *const theme_names[] = {"light", "dark"};

/* --- reading --- */

/* Index of a word among n names; fallback where it was not given. */
static sp_status read_word(const char *param, const char *word, const char *const *names, int n, int fallback,
                           int *out, sp_error *error)
{
    char list[128];
    size_t used = 0;
    *out = fallback;
    if (!word) return SP_OK;
    for (int i = 0; i < n; i++) {
        if (strcmp(word, names[i]) == 0) {
            *out = i;
            return SP_OK;
        }
        int more = snprintf(list + used, sizeof list - used, "%s%s",
                            i == 0      ? ""
                            : i + 1 < n ? ", "
                                        : " or ",
                            names[i]);
        if (more > 0) used += (size_t)more;
        if (used >= sizeof list) used = sizeof list - 1;
    }
    return sp_fail_param(error, SP_INVALID, param, "%s must be %s", param, list);
}

static sp_status read_format(const char *word, sp_graph_wish *out, sp_error *error)
{
    out->json = strcmp(word, "json") == 0;
    if (out->json || sp_export_find(word, &out->format)) return SP_OK;
    return sp_fail_param(error, SP_INVALID, "format",
                         "format must be json, csv, npz, safetensors, graphml, dot, svg, png, html, bertviz, "
                         "circuitsvis or exbert");
}

static bool is_picture(const sp_graph_wish *wish)
{
    return !wish->json && (wish->format == SP_EXPORT_SVG || wish->format == SP_EXPORT_PNG);
}

/* Views belong to pictures, heads to everything but overviews and dense formats. */
static sp_status check_wish(const sp_graph_words *words, bool one_head, const sp_graph_wish *wish,
                            sp_error *error)
{
    bool several =
        is_picture(wish) ? wish->view == SP_VIEW_OVERVIEW : !wish->json && sp_export_is_dense(wish->format);
    if (words->view && !is_picture(wish))
        return sp_fail_param(error, SP_INVALID, "view", "view is for svg and png; format is %s",
                             words->format);
    if (!several && !one_head)
        return sp_fail_param(error, SP_INVALID, "head", "%s shows one head: give layer and head",
                             is_picture(wish) ? view_names[wish->view] : words->format);
    return SP_OK;
}

sp_status sp_graph_wish_read(const sp_graph_words *words, bool one_head, sp_graph_wish *out, sp_error *error)
{
    int view, scale, colors, dark;
    *out = (sp_graph_wish){.picture = sp_picture_defaults(SP_CANVAS_SVG)};
    sp_status status = read_format(words->format, out, error);
    if (!status)
        status = read_word("view", words->view, view_names, 4, one_head ? SP_VIEW_MATRIX : SP_VIEW_OVERVIEW,
                           &view, error);
    if (!status)
        status = read_word("scale", words->scale, sp_color_scale_names, SP_COLOR_SCALES,
                           (int)out->picture.scale, &scale, error);
    if (!status)
        status = read_word("colors", words->colors, sp_color_map_names, SP_COLOR_MAPS,
                           (int)out->picture.colors, &colors, error);
    if (!status) status = read_word("theme", words->theme, theme_names, 2, 0, &dark, error);
    if (status) return status;
    out->view = (sp_graph_view)view;
    out->picture = (sp_picture_options){.kind = out->format == SP_EXPORT_PNG ? SP_CANVAS_PNG : SP_CANVAS_SVG,
                                        .colors = (sp_color_map)colors,
                                        .scale = (sp_color_scale)scale,
                                        .dark = dark == 1};
    return check_wish(words, one_head, out, error);
}

/* --- slices --- */

void sp_graph_describe(const sp_graph_call *call, uint32_t layer, uint32_t head, sp_graph graph,
                       const sp_head *made, sp_slice *slice)
{
    const sp_capture_info *info = call->info;
    slice->graph = graph;
    slice->name = sp_graph_name(graph);
    slice->layer = layer;
    slice->head = head;
    slice->kv_head = head / (info->model_heads / info->kv_heads);
    slice->causal = info->causal;
    slice->metrics = &made->record;
    slice->source = info->source;
}

static sp_status refuse_edges(uint64_t edges, uint64_t limit, sp_error *error)
{
    return sp_fail_param(error, SP_TOO_LARGE, "rows",
                         "%" PRIu64 " edges, a file holds at most %" PRIu64
                         " (graph_edges): give rows, top_k or mass, or read pages of .../edges",
                         edges, limit);
}

/* Refuses what can be counted before any row is read. */
static sp_status check_count(const sp_graph_call *call, const sp_rows *rows, sp_error *error)
{
    const sp_filter *f = &call->filter;
    uint64_t edges = 0, limit = (uint64_t)call->options->graph_edges;
    if (f->has_top_k || f->has_min_weight || f->has_mass) return SP_OK;
    for (uint32_t i = f->row_begin; i < f->row_end; i++) {
        uint32_t n = rows->count(rows->context, i, f->col_begin, f->col_end);
        if (n == SP_NOT_COUNTED) return SP_OK;
        edges += n;
    }
    return edges > limit ? refuse_edges(edges, limit, error) : SP_OK;
}

/* A file holds all edges or none. */
static sp_status fill_slice(sp_graph_call *call, uint32_t layer, uint32_t head, sp_graph graph,
                            const sp_head *made, sp_slice *out, sp_error *error)
{
    sp_head_view view = {.head = made, .graph = graph};
    uint64_t limit = (uint64_t)call->options->graph_edges;
    const sp_rows counted = sp_head_rows(&view);
    sp_status status = check_count(call, &counted, error);
    if (!status)
        status = sp_graph_part(call, call->capture, layer, head, made, graph, true, &view.part, error);
    if (status) return status;
    const sp_rows rows = sp_head_rows(&view);
    status = sp_slice_fill(&rows, &call->filter, call->filter.row_begin, limit, sp_graph_stopped, call, out,
                           error);
    status = sp_graph_part_end(view.part, status, error);
    if (!status && (out->truncated || sp_slice_edges(out) > limit))
        status = refuse_edges(out->edges_total, limit, error);
    if (!status) {
        sp_graph_describe(call, layer, head, graph, made, out);
        status = sp_capture_tokens(call->capture, &out->tokens, error);
    }
    return status;
}

/* --- one head --- */

/* The part that the filter shows, without edges. */
static sp_status describe_part(const sp_graph_call *call, const sp_head *made, sp_graph graph, sp_slice *out,
                               sp_error *error)
{
    const sp_filter *f = &call->filter;
    *out = (sp_slice){.n_query = call->n,
                      .n_key = call->n,
                      .row_begin = f->row_begin,
                      .row_end = f->row_end,
                      .col_begin = f->col_begin,
                      .col_end = f->col_end};
    sp_graph_describe(call, call->layer, call->head, graph, made, out);
    return sp_capture_tokens(call->capture, &out->tokens, error);
}

static sp_status draw(sp_graph_call *call, const sp_picture_graph drawn[3], const sp_graph_wish *wish,
                      sp_error *error)
{
    sp_buffer *out = &call->reply.body;
    if (wish->view == SP_VIEW_PANELS)
        return sp_picture_panels(&drawn[0], &drawn[1], &drawn[2], &wish->picture, out, error);
    if (wish->view == SP_VIEW_LINES) return sp_picture_lines(&drawn[0], &wish->picture, out, error);
    return sp_picture_matrix(&drawn[0], &wish->picture, out, error);
}

/* Pictures read the head row by row: they take the memory of their cells, whatever edges there are. */
static sp_status write_picture(sp_graph_call *call, const sp_head *made, const sp_graph_wish *wish,
                               sp_error *error)
{
    bool panels = wish->view == SP_VIEW_PANELS;
    const sp_graph graphs[3] = {panels ? SP_GRAPH_GOLD : call->graph, SP_GRAPH_PRED, SP_GRAPH_AFTER};
    sp_head_view views[3];
    sp_rows rows[3];
    sp_slice parts[3];
    sp_picture_graph drawn[3];
    sp_head_part *part;
    sp_status status = sp_graph_part(call, call->capture, call->layer, call->head, made,
                                     panels ? SP_GRAPH_AFTER : call->graph, true, &part, error);
    if (status) return status;
    for (int i = 0; i < (panels ? 3 : 1) && !status; i++) {
        views[i] = (sp_head_view){
            .head = made, .graph = graphs[i], .part = sp_head_holds(made, graphs[i]) ? NULL : part};
        rows[i] = sp_head_rows(&views[i]);
        drawn[i] = (sp_picture_graph){.about = &parts[i],
                                      .rows = &rows[i],
                                      .filter = &call->filter,
                                      .stop = sp_graph_stopped,
                                      .context = call};
        status = describe_part(call, made, graphs[i], &parts[i], error);
    }
    if (!status) status = draw(call, drawn, wish, error);
    return sp_graph_part_end(part, status, error);
}

static sp_status write_file(sp_graph_call *call, const sp_head *made, const sp_graph_wish *wish,
                            sp_error *error)
{
    sp_slice slice = {0};
    sp_status status = fill_slice(call, call->layer, call->head, call->graph, made, &slice, error);
    if (!status) status = sp_export_slice(wish->format, &slice, &wish->picture, &call->reply.body, error);
    sp_slice_fini(&slice);
    return status;
}

static sp_status run_head(sp_graph_call *call, const sp_graph_wish *wish, sp_error *error)
{
    const sp_head *made;
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &made, error);
    if (status || !made) return status;
    sp_graph_binary(call, sp_export_type(wish->format));
    status = is_picture(wish) ? write_picture(call, made, wish, error) : write_file(call, made, wish, error);
    sp_capture_release_head(call->capture, call->layer, call->head);
    return status;
}

/* --- many heads, dense --- */

size_t sp_graph_dense_bytes(const sp_options *options)
{
    return (size_t)options->graph_dense_values * 14 + SP_REPLY_BYTES;
}

static sp_status fill_slices(sp_graph_call *call, sp_slice *slices, sp_error *error)
{
    sp_status status = SP_OK;
    for (uint32_t i = 0; i < call->n_layers * call->n_heads && !status && !call->pending; i++) {
        uint32_t layer = call->layers[i / call->n_heads], head = call->heads[i % call->n_heads];
        const sp_head *made;
        status = sp_graph_head(call, call->capture, layer, head, &made, error);
        if (status || !made) break;
        status = fill_slice(call, layer, head, call->graph, made, &slices[i], error);
        slices[i].metrics = NULL;
        sp_capture_release_head(call->capture, layer, head);
        call->progress = (double)(i + 1) / (call->n_layers * call->n_heads);
    }
    return status;
}

static sp_status run_dense(sp_graph_call *call, const sp_graph_wish *wish, sp_error *error)
{
    const sp_filter *f = &call->filter;
    size_t n = (size_t)call->n_layers * call->n_heads;
    sp_status status = sp_export_dense_check(
        wish->format, call->n_layers, call->n_heads, (uint32_t[]){f->row_begin, f->row_end},
        (uint32_t[]){f->col_begin, f->col_end}, (uint64_t)call->options->graph_dense_values, error);
    if (status) return status;
    sp_slice *slices = sp_alloc_zero(n, sizeof *slices);
    if (!slices) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu heads", n);
    status = fill_slices(call, slices, error);
    if (!status && !call->pending) {
        sp_graph_binary(call, sp_export_type(wish->format));
        call->reply.body.max_bytes = sp_graph_dense_bytes(call->options);
        status =
            sp_export_dense(wish->format, slices, call->n_layers, call->n_heads, &call->reply.body, error);
    }
    for (size_t i = 0; i < n; i++) sp_slice_fini(&slices[i]);
    sp_free(slices);
    return status;
}

/* --- all heads at a glance --- */

sp_status sp_graph_thumbnail(sp_graph_call *call, uint32_t layer, uint32_t head, const uint8_t **cells,
                             sp_error *error)
{
    const sp_head *made;
    uint8_t fresh[SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE];
    *cells = sp_capture_thumbnail(call->capture, layer, head, call->graph);
    if (*cells || call->pending) return SP_OK;
    if (!call->blocking) { /* every edge is read: on a graph thread */
        call->pending = true;
        return SP_OK;
    }
    sp_status status = sp_graph_head(call, call->capture, layer, head, &made, error);
    if (status != SP_OK || !made) return status;
    sp_head_view view = {.head = made, .graph = call->graph};
    status = sp_graph_part(call, call->capture, layer, head, made, call->graph,
                           sp_tile_weighs(made, call->graph, SP_TILE_COUNT), &view.part, error);
    if (status == SP_OK && !call->pending) {
        status = sp_thumbnail_make(&view, fresh, error);
        status = sp_graph_part_end(view.part, status, error);
    }
    sp_capture_release_head(call->capture, layer, head);
    if (status == SP_OK && !call->pending)
        status = sp_capture_keep_thumbnail(call->capture, layer, head, call->graph, fresh, error);
    *cells = sp_capture_thumbnail(call->capture, layer, head, call->graph);
    return status;
}

typedef struct glance {
    uint8_t *cells;          /* (n, 64, 64) */
    uint8_t *done;           /* (n) */
    sp_head_record *records; /* (n) */
    size_t n;
} glance;

static sp_status fill_glance(sp_graph_call *call, glance *g, sp_error *error)
{
    const size_t one = (size_t)SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE;
    sp_status status = SP_OK;
    for (size_t i = 0; i < g->n && !status && !call->pending; i++) {
        uint32_t layer = call->layers[i / call->n_heads], head = call->heads[i % call->n_heads];
        const uint8_t *made = NULL;
        status = sp_graph_thumbnail(call, layer, head, &made, error);
        if (!status && made) memcpy(g->cells + i * one, made, one);
        g->done[i] = made && sp_capture_record(call->capture, layer, head, &g->records[i]);
        call->progress = (double)(i + 1) / (double)g->n;
    }
    return status;
}

static sp_status draw_glance(sp_graph_call *call, const glance *g, const sp_graph_wish *wish, sp_error *error)
{
    const sp_overview overview = {.graph = call->graph,
                                  .n_layers = call->n_layers,
                                  .n_heads = call->n_heads,
                                  .layers = call->layers,
                                  .heads = call->heads,
                                  .n_query = call->n,
                                  .n_key = call->n,
                                  .causal = call->info->causal,
                                  .cells = g->cells,
                                  .done = g->done,
                                  .records = g->records,
                                  .source = call->info->source};
    sp_graph_binary(call, sp_export_type(wish->format));
    return sp_picture_overview(&overview, &wish->picture, &call->reply.body, error);
}

static sp_status run_glance(sp_graph_call *call, const sp_graph_wish *wish, sp_error *error)
{
    glance g = {.n = (size_t)call->n_layers * call->n_heads};
    g.cells = sp_alloc_zero(g.n, (size_t)SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE);
    g.done = sp_alloc_zero(g.n, 1);
    g.records = sp_alloc_zero(g.n, sizeof *g.records);
    sp_status status = SP_OK;
    if (!g.cells || !g.done || !g.records) status = sp_fail(error, SP_NO_MEMORY, "no memory for an overview");
    if (!status) status = fill_glance(call, &g, error);
    if (!status && !call->pending) status = draw_glance(call, &g, wish, error);
    sp_free(g.cells);
    sp_free(g.done);
    sp_free(g.records);
    return status;
}

sp_status sp_graph_run_export(sp_graph_call *call, sp_error *error)
{
    const sp_graph_wish *wish = call->more;
    call->pending = false;
    if (is_picture(wish) && wish->view == SP_VIEW_OVERVIEW) return run_glance(call, wish, error);
    if (sp_export_is_dense(wish->format)) return run_dense(call, wish, error);
    return run_head(call, wish, error);
}
