/* GET /v1/attention/captures/{id}/...: which route it is, what it takes, and those of one head: edges, rows,
 * cols, tiles. Tests: tests/http/test_graph.py */
#include "server/api_graph.h"

#include <stdio.h>
#include <string.h>

#include "server/graph_wish.h"
#include "server/routes.h"

#define MAX_PARTS 8
#define LIGHT_EDGES 4096 /* in JSON on the HTTP thread: about 5 ms of digits */

/* --- slices --- */

sp_status sp_graph_run_edges(sp_graph_call *call, sp_error *error)
{
    const sp_head *head;
    sp_slice slice = {0};
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &head, error);
    if (status != SP_OK || !head) return status;
    sp_head_view view = {.head = head, .graph = call->graph};
    status = sp_graph_part(call, call->capture, call->layer, call->head, head, call->graph, true, &view.part,
                           error);
    const sp_rows rows = sp_head_rows(&view);
    if (status == SP_OK && !call->pending) {
        status = sp_slice_fill(&rows, &call->filter, call->first, call->limit, sp_graph_stopped, call, &slice,
                               error);
        status = sp_graph_part_end(view.part, status, error);
        if (!call->blocking && !call->binary && sp_slice_edges(&slice) > LIGHT_EDGES) call->pending = true;
    }
    if (status == SP_OK && !call->pending) {
        sp_graph_describe(call, call->layer, call->head, call->graph, head, &slice);
        status = sp_graph_reply_slice(call, &slice, error);
    }
    sp_slice_fini(&slice);
    sp_capture_release_head(call->capture, call->layer, call->head);
    return status;
}

/* --- one row, one column --- */

static void write_line(sp_graph_call *call, const sp_line *line)
{
    sp_json_writer out;
    sp_graph_json_of_head(call, &out);
    sp_json_key(&out, call->column ? "col" : "row");
    sp_json_uint(&out, call->line);
    sp_json_key(&out, call->column ? "queries" : "keys");
    sp_json_open(&out, '[');
    for (uint32_t i = 0; i < line->n; i++) sp_json_uint(&out, line->positions[i]);
    sp_json_close(&out, ']');
    sp_json_key(&out, "weights");
    sp_graph_write_floats(&out, line->weights, line->n);
    sp_json_key(&out, "left_out");
    sp_json_float(&out, (float)line->left_out);
    sp_json_close(&out, '}');
}

static sp_status run_line(sp_graph_call *call, sp_error *error)
{
    const sp_head *head;
    sp_line line = {0};
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &head, error);
    if (status != SP_OK || !head) return status;
    sp_head_view view = {.head = head, .graph = call->graph};
    status = sp_graph_part(call, call->capture, call->layer, call->head, head, call->graph, true, &view.part,
                           error);
    const sp_rows rows = sp_head_rows(&view);
    if (status == SP_OK && !call->pending) {
        status = call->column ? sp_line_col(&rows, call->line, &call->filter, &line, error)
                              : sp_line_row(&rows, call->line, &call->filter, &line, error);
        status = sp_graph_part_end(view.part, status, error);
        if (status == SP_OK) write_line(call, &line);
    }
    sp_line_fini(&line);
    sp_capture_release_head(call->capture, call->layer, call->head);
    return status;
}

/* --- tiles --- */

static sp_status run_tile(sp_graph_call *call, sp_error *error)
{
    const sp_head *head;
    bool empty = true;
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &head, error);
    if (status != SP_OK || !head) return status;
    bool weighs = sp_tile_weighs(head, call->graph, call->stat);
    if (weighs && sp_graph_later(call, head, call->graph)) {
        sp_capture_release_head(call->capture, call->layer, call->head);
        return SP_OK;
    }
    size_t size = sp_tile_bytes(call->stat);
    uint8_t *tile = sp_alloc(size, 1);
    sp_head_view view = {.head = head, .graph = call->graph};
    status = tile ? sp_graph_part(call, call->capture, call->layer, call->head, head, call->graph, weighs,
                                  &view.part, error)
                  : sp_fail(error, SP_NO_MEMORY, "no memory for a tile");
    if (status == SP_OK && !call->pending) {
        status = sp_tile_make(&view, call->stat, call->z, call->ty, call->tx, tile, &empty, error);
        status = sp_graph_part_end(view.part, status, error);
    }
    if (status == SP_OK && !call->pending) {
        sp_graph_binary(call, "application/octet-stream");
        (void)snprintf(call->reply.etag, sizeof call->reply.etag, "\"%016llx\"",
                       (unsigned long long)sp_hash_bytes(tile, size));
        bool same = call->text && strstr(call->text, call->reply.etag);
        call->reply.status = same ? 304 : empty ? 204 : 200;
        if (call->reply.status == 200) sp_buffer_append(&call->reply.body, tile, size);
    }
    sp_free(tile);
    sp_capture_release_head(call->capture, call->layer, call->head);
    return status;
}

/* --- what the path asks for --- */

typedef struct parts {
    const char *at[MAX_PARTS];
    size_t n;
} parts;

/* Cuts a path, which is written over. */
static bool split(char *copy, parts *out)
{
    out->n = 0;
    while (*copy && out->n < MAX_PARTS) {
        size_t size = strcspn(copy, "/");
        bool more = copy[size] == '/';
        copy[size] = 0;
        out->at[out->n++] = copy;
        copy += size + more;
        if (more && !*copy) return false; /* a slash at the end names nothing */
    }
    return !*copy && out->n > 0;
}

static bool ask_edges(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"graph",  "rows",   "cols",    "top_k", "min_weight", "mass",
                                        "cursor", "format", "weights", "limit", NULL};
    call->run = sp_graph_run_edges;
    return sp_exchange_only(exchange, known) && sp_graph_ask_graph(exchange, call) &&
           sp_graph_ask_filter(exchange, call) && sp_graph_ask_page(exchange, call);
}

static bool ask_line(sp_exchange *exchange, sp_graph_call *call, const char *name, const char *number)
{
    static const char *const known[] = {"graph", "top_k", "min_weight", "mass", NULL};
    bool plain = strspn(number, "0123456789") == strlen(number) && strlen(number) < 10;
    call->run = run_line;
    call->column = name[0] == 'c';
    if (!sp_exchange_only(exchange, known) || !sp_graph_ask_graph(exchange, call) ||
        !sp_graph_ask_filter(exchange, call))
        return false;
    if (plain && sscanf(number, "%u", &call->line) == 1 && call->line < call->n) return true;
    sp_exchange_refuse(exchange, 404, call->column ? "col" : "row",
                       "there is no %s %.12s: positions are 0 to %u", call->column ? "column" : "row", number,
                       call->n - 1);
    return false;
}

static bool ask_stat(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const names[] = {"count", "mass", "max", "diff"};
    const char *stat = sp_exchange_query(exchange, "stat");
    call->stat = SP_TILE_COUNT;
    if (!stat) return true;
    for (int i = 0; i < 4; i++) {
        if (strcmp(stat, names[i]) != 0) continue;
        call->stat = (sp_tile_stat)i;
        return true;
    }
    sp_exchange_refuse(exchange, 400, "stat", "stat must be count, mass, max or diff");
    return false;
}

static bool ask_tile(sp_exchange *exchange, sp_graph_call *call, const char *const *at)
{
    static const char *const known[] = {"graph", "stat", NULL};
    static const char *const names[] = {"z", "ty", "tx"};
    uint32_t *const places[] = {&call->z, &call->ty, &call->tx};
    const char *match = sp_exchange_none_match(exchange);
    call->run = run_tile;
    call->text = match[0] ? sp_arena_copy(&call->arena, match, strlen(match)) : NULL;
    if (!sp_exchange_only(exchange, known) || !sp_graph_ask_graph(exchange, call) ||
        !ask_stat(exchange, call))
        return false;
    for (int i = 0; i < 3; i++) {
        bool plain = at[i][0] && strspn(at[i], "0123456789") == strlen(at[i]) && strlen(at[i]) < 10;
        if (plain && sscanf(at[i], "%u", places[i]) == 1) continue;
        sp_exchange_refuse(exchange, 404, names[i], "%s must be a number", names[i]);
        return false;
    }
    if (sp_tile_exists(call->n, call->n, call->z, call->ty, call->tx)) return true;
    sp_exchange_refuse(exchange, 404, call->z > sp_tile_levels(call->n, call->n) ? "z" : "ty",
                       "there is no tile %u/%u/%u: levels are 0 to %u, a tile covers 256 << z positions",
                       call->z, call->ty, call->tx, sp_tile_levels(call->n, call->n));
    return false;
}

/* heads/{layer}/{head}/... ; at points behind "heads". False: refused. */
static bool ask_of_head(sp_exchange *exchange, sp_graph_call *call, const parts *path)
{
    const char *const *at = path->at + 2;
    size_t n = path->n - 2;
    const char *what = n > 2 ? at[2] : "";
    bool edges = n == 3 && strcmp(what, "edges") == 0;
    bool line = n == 4 && (strcmp(what, "rows") == 0 || strcmp(what, "cols") == 0);
    bool clusters = (n == 3 || n == 4) && strcmp(what, "clusters") == 0;
    bool tile = n == 6 && strcmp(what, "tiles") == 0;
    if (!edges && !line && !tile && !clusters) {
        sp_exchange_refuse(exchange, 404, NULL, "there is no such route below a capture's heads");
        return false;
    }
    if (!sp_graph_ask_layer(exchange, call, at[0]) || !sp_graph_ask_head(exchange, call, at[1])) return false;
    if (edges) return ask_edges(exchange, call);
    if (clusters) return sp_graph_clusters(exchange, call, n == 4 ? at[3] : NULL);
    return line ? ask_line(exchange, call, what, at[3]) : ask_tile(exchange, call, at + 3);
}

static bool ask_tokens(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"from", "to", "q", "layer", "head", NULL};
    const char *layer = sp_exchange_query(exchange, "layer"), *head = sp_exchange_query(exchange, "head");
    const char *from = sp_exchange_query(exchange, "from"), *to = sp_exchange_query(exchange, "to");
    const char *q = sp_exchange_query(exchange, "q");
    call->run = sp_graph_run_tokens;
    call->from = 0;
    call->to = call->n;
    call->text = q ? sp_arena_copy(&call->arena, q, strlen(q)) : NULL;
    if (!sp_exchange_only(exchange, known)) return false;
    if (from && !sp_graph_ask_index(exchange, "from", from, call->n, &call->from)) return false;
    if (to && !sp_graph_ask_index(exchange, "to", to, call->n, &call->to)) return false;
    if (!layer != !head) {
        sp_exchange_refuse(exchange, 400, layer ? "head" : "layer",
                           "clusters are of one layer and head: give both");
        return false;
    }
    if (!sp_graph_ask_layer(exchange, call, layer) || !sp_graph_ask_head(exchange, call, head)) return false;
    call->heavy = call->has_head; /* clusters are computed */
    if (call->from < call->to) return true;
    sp_exchange_refuse(exchange, 400, from ? "from" : "to", "from must be less than to");
    return false;
}

/* --- a capture that is not ready --- */

/* False: answered. */
static bool is_ready(sp_exchange *exchange, sp_graph_call *call)
{
    sp_capture_status now;
    sp_capture_get_status(call->capture, &now);
    call->n = now.n_tokens;
    if (now.state == SP_CAPTURE_READY) return true;
    if (now.state == SP_CAPTURE_FAILED) {
        sp_exchange_refuse(exchange, 409, "id", "the capture failed: %s", now.error.message);
        return false;
    }
    call->progress = (double)now.n_tokens / now.n_planned;
    sp_graph_write_pending(call);
    *sp_exchange_reply(exchange) = call->reply;
    sp_buffer_init(&call->reply.body, 0);
    return false;
}

/* False: answered or refused. */
static bool ask(sp_exchange *exchange, sp_graph_call *call, const parts *path)
{
    const char *what = path->at[1];
    if (strcmp(what, "heads") == 0 && path->n > 2) {
        if (!is_ready(exchange, call)) return false;
        return ask_of_head(exchange, call, path);
    }
    if (path->n == 2 && strcmp(what, "tokens") == 0) {
        sp_capture_status now;
        sp_capture_get_status(call->capture, &now);
        call->n = now.n_tokens;
        return (now.state == SP_CAPTURE_READY || is_ready(exchange, call)) && ask_tokens(exchange, call);
    }
    if (path->n == 3 && strcmp(what, "sweeps") == 0) return sp_graph_sweep(exchange, call, path->at[2]);
    if (path->n != 2) {
        sp_exchange_refuse(exchange, 404, NULL, "there is no such route below a capture");
        return false;
    }
    return is_ready(exchange, call) && sp_graph_many(exchange, call, what);
}

void sp_api_capture_get(sp_exchange *exchange)
{
    sp_error error;
    parts path;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_graph_call *call = sp_graph_call_new(exchange);
    if (!call) return;
    const char *rest = sp_exchange_rest(exchange);
    char *copy = sp_arena_copy(&call->arena, rest, strlen(rest));
    if (!copy) {
        sp_exchange_refuse(exchange, 503, NULL, "no memory for the request");
    } else if (!split(copy, &path)) {
        sp_exchange_refuse(exchange, 404, NULL, "there is no such route below captures");
    } else if (path.n == 1) {
        sp_graph_state(exchange, path.at[0]);
    } else if (sp_graph_call_hold(exchange, call, path.at[0], &call->capture)) {
        call->info = sp_capture_get_info(call->capture);
        if (ask(exchange, call, &path)) {
            sp_graph_start(exchange, call);
            return;
        }
    }
    sp_graph_call_free(call);
}
