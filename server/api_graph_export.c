/* GET /v1/attention/captures/{id}/export: a graph as a file.
 *
 * json and safetensors are the edges route under another name, pages included. A file in any other format
 * holds all edges that the filters keep, or is refused. It is made on a graph thread: drawing takes longer
 * than an HTTP thread may. Tests: tests/http/test_graph_export.py */
#include <string.h>

#include "server/api_graph.h"
#include "server/graph_wish.h"

/* By the Accept header; JSON where it names nothing we write. */
static const char *accepted_format(sp_exchange *exchange)
{
    static const char *const types[][2] = {{"text/html", "html"}, /* browsers name it first */
                                           {"text/csv", "csv"},
                                           {"image/svg+xml", "svg"},
                                           {"image/png", "png"},
                                           {"application/octet-stream", "safetensors"}};
    const char *accept = sp_exchange_accept(exchange);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strstr(accept, types[i][0])) return types[i][1];
    return "json";
}

static bool refuse(sp_exchange *exchange, const sp_error *error)
{
    sp_exchange_fail(exchange, error);
    return false;
}

/* layer and head name one head; layer alone all heads of it; without them layers and heads. */
static bool ask_heads(sp_exchange *exchange, sp_graph_call *call)
{
    const char *layer = sp_exchange_query(exchange, "layer"), *head = sp_exchange_query(exchange, "head");
    const char *lists[] = {sp_exchange_query(exchange, "layers"), sp_exchange_query(exchange, "heads")};
    if (head && !layer) {
        sp_exchange_refuse(exchange, 400, "layer", "head needs layer");
        return false;
    }
    if ((layer && lists[0]) || (head && lists[1])) {
        sp_exchange_refuse(exchange, 400, layer && lists[0] ? "layers" : "heads",
                           "give layer and head, or layers and heads, not both");
        return false;
    }
    if (!sp_graph_ask_layer(exchange, call, layer) || !sp_graph_ask_head(exchange, call, head) ||
        !sp_graph_ask_lists(exchange, call))
        return false;
    if (layer) {
        call->layers = &call->layer;
        call->n_layers = 1;
    }
    if (head) {
        call->heads = &call->head;
        call->n_heads = 1;
    }
    return true;
}

/* What can be refused before anything is computed. */
static bool check_size(sp_exchange *exchange, const sp_graph_call *call, const sp_graph_wish *wish)
{
    const sp_filter *f = &call->filter;
    sp_error error;
    if (wish->json || !sp_export_is_dense(wish->format)) return true;
    return !sp_export_dense_check(
               wish->format, call->n_layers, call->n_heads, (uint32_t[]){f->row_begin, f->row_end},
               (uint32_t[]){f->col_begin, f->col_end}, (uint64_t)call->options->graph_dense_values, &error) ||
           refuse(exchange, &error);
}

/* Parameters that mean nothing to a format are refused, not passed over. */
static bool check_meaning(sp_exchange *exchange, const sp_graph_wish *wish, const char *format)
{
    static const char *const of_pages[] = {"cursor", "limit", "weights", NULL};
    static const char *const of_pictures[] = {"scale", "colors", NULL};
    static const char *const of_views[] = {"theme", NULL};
    static const char *const of_slices[] = {"rows", "cols", "top_k", "min_weight", "mass", NULL};
    static const char *const of_one_graph[] = {"graph", NULL};
    static const char *const why[] = {
        "%s means nothing to this format (%s)", "%s means nothing to this format (%s)",
        "%s means nothing to this format (%s)", "an overview takes no %s: it shows whole heads",
        "panels take no %s: they show gold, pred and after"};
    bool picture = !wish->json && (wish->format == SP_EXPORT_SVG || wish->format == SP_EXPORT_PNG);
    const struct {
        const char *const *names;
        bool good;
    } groups[] = {{of_pages, wish->json || wish->format == SP_EXPORT_SAFETENSORS},
                  {of_pictures, picture || (!wish->json && wish->format == SP_EXPORT_HTML)},
                  {of_views, picture},
                  {of_slices, !picture || wish->view != SP_VIEW_OVERVIEW},
                  {of_one_graph, !picture || wish->view != SP_VIEW_PANELS}};
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        for (const char *const *name = groups[g].names; *name && !groups[g].good; name++) {
            if (!sp_exchange_query(exchange, *name)) continue;
            sp_exchange_refuse(exchange, 400, *name, why[g], *name, format);
            return false;
        }
    }
    return true;
}

bool sp_graph_export(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {
        "format", "layer", "head",   "layers", "heads",  "graph", "rows",    "cols",       "top_k", "mass",
        "view",   "scale", "colors", "theme",  "cursor", "limit", "weights", "min_weight", NULL};
    const sp_graph_words words = {.format = sp_exchange_query(exchange, "format"),
                                  .view = sp_exchange_query(exchange, "view"),
                                  .scale = sp_exchange_query(exchange, "scale"),
                                  .colors = sp_exchange_query(exchange, "colors"),
                                  .theme = sp_exchange_query(exchange, "theme")};
    sp_graph_words chosen = words;
    if (!chosen.format) chosen.format = accepted_format(exchange);
    sp_graph_wish *wish = sp_arena_alloc(&call->arena, 1, sizeof *wish);
    sp_error error = {.status = SP_NO_MEMORY, .message = "no memory for the request"};
    if (!wish) return refuse(exchange, &error);
    if (!sp_exchange_only(exchange, known) || !ask_heads(exchange, call) ||
        !sp_graph_ask_graph(exchange, call) || !sp_graph_ask_filter(exchange, call))
        return false;
    if (sp_graph_wish_read(&chosen, call->has_layer && call->has_head, wish, &error))
        return refuse(exchange, &error);
    if (!check_meaning(exchange, wish, chosen.format)) return false;
    if (wish->json || wish->format == SP_EXPORT_SAFETENSORS) {
        call->run = sp_graph_run_edges;
        return sp_graph_ask_page(exchange, call);
    }
    call->run = sp_graph_run_export;
    call->more = wish;
    call->heavy = true;
    return check_size(exchange, call, wish);
}
