/* GET /v1/attention/compare: which edges of one head two captures of the same tokens share.
 *
 * Both heads are read row by row side by side; where a graph has an edge a pair, or weights decide which
 * edges there are and a head does not hold them, that is for a graph thread. Tests:
 * tests/http/test_graph_many.py */
#include <string.h>

#include "engine/graph/aggregate.h"
#include "server/api_graph.h"
#include "server/routes.h"

static void write_difference(sp_graph_call *call, const sp_difference *found)
{
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"edges_a", found->edges_a},
                  {"edges_b", found->edges_b},
                  {"both", found->both},
                  {"only_a", found->edges_a - found->both},
                  {"only_b", found->edges_b - found->both}};
    sp_json_writer out;
    sp_graph_json_of_head(call, &out);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        sp_json_key(&out, counts[i].name);
        sp_json_uint(&out, counts[i].value);
    }
    sp_json_close(&out, '}');
}

/* Which edges there are: weights matter only where they decide that. */
static sp_status compare_heads(sp_graph_call *call, const sp_head *a, const sp_head *b, sp_difference *found,
                               sp_error *error)
{
    sp_head_view views[2] = {{.head = a, .graph = call->graph}, {.head = b, .graph = call->graph}};
    sp_capture *const captures[2] = {call->capture, call->other};
    bool weighs = call->graph == SP_GRAPH_AFTER;
    sp_status status = SP_OK;
    for (int i = 0; i < 2 && status == SP_OK; i++)
        status = sp_graph_part(call, captures[i], call->layer, call->head, views[i].head, call->graph, weighs,
                               &views[i].part, error);
    const sp_rows rows_a = sp_head_rows(&views[0]), rows_b = sp_head_rows(&views[1]);
    if (status == SP_OK && !call->pending) status = sp_rows_compare(&rows_a, &rows_b, found, error);
    for (int i = 0; i < 2; i++) status = sp_graph_part_end(views[i].part, status, error);
    return status;
}

/* Not for the thread that serves connections: the call is pending then. */
static bool is_long(sp_graph_call *call, const sp_head *a, const sp_head *b)
{
    return sp_graph_later(call, a, call->graph) || sp_graph_later(call, b, call->graph);
}

static sp_status run_compare(sp_graph_call *call, sp_error *error)
{
    const sp_head *a = NULL, *b = NULL;
    sp_difference found;
    call->pending = false;
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &a, error);
    if (status == SP_OK && a) status = sp_graph_head(call, call->other, call->layer, call->head, &b, error);
    bool both = status == SP_OK && a && b && !is_long(call, a, b);
    if (both) status = compare_heads(call, a, b, &found, error);
    if (status == SP_OK && both && !call->pending) write_difference(call, &found);
    if (a) sp_capture_release_head(call->capture, call->layer, call->head);
    if (b) sp_capture_release_head(call->other, call->layer, call->head);
    return status;
}

/* One of the two, ready; false: refused. */
static bool hold_ready(sp_exchange *exchange, sp_graph_call *call, const char *name, sp_capture **out,
                       sp_capture_status *now)
{
    const char *id = sp_exchange_query(exchange, name);
    if (!id || !*id) {
        sp_exchange_refuse(exchange, 400, name, "%s must be the id of a capture", name);
        return false;
    }
    if (!sp_graph_call_hold(exchange, call, id, out)) return false;
    sp_capture_get_status(*out, now);
    if (now->state == SP_CAPTURE_READY) return true;
    sp_exchange_refuse(exchange, 409, name,
                       now->state == SP_CAPTURE_FAILED ? "the capture failed: %s"
                                                       : "the capture is not ready yet%s",
                       now->state == SP_CAPTURE_FAILED ? now->error.message : "");
    return false;
}

static bool ask_compare(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"a", "b", "layer", "head", "graph", NULL};
    sp_capture_status a, b;
    const char *layer = sp_exchange_query(exchange, "layer"), *head = sp_exchange_query(exchange, "head");
    if (!sp_exchange_only(exchange, known) || !sp_graph_ask_graph(exchange, call)) return false;
    if (!layer || !head) {
        sp_exchange_refuse(exchange, 400, layer ? "head" : "layer", "compare needs a layer and a head");
        return false;
    }
    if (!hold_ready(exchange, call, "a", &call->capture, &a) ||
        !hold_ready(exchange, call, "b", &call->other, &b))
        return false;
    const sp_capture_info *infos[] = {sp_capture_get_info(call->capture), sp_capture_get_info(call->other)};
    if (a.n_tokens != b.n_tokens ||
        memcmp(infos[0]->tokens, infos[1]->tokens, a.n_tokens * sizeof(int32_t)) != 0) {
        sp_exchange_refuse(exchange, 409, "b",
                           "the captures are of different tokens: edges cannot be compared");
        return false;
    }
    for (int i = 0; i < 2; i++) {
        call->info = infos[i];
        if (!sp_graph_ask_layer(exchange, call, layer) || !sp_graph_ask_head(exchange, call, head))
            return false;
    }
    call->n = a.n_tokens;
    return true;
}

void sp_api_capture_compare(sp_exchange *exchange)
{
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_graph_call *call = sp_graph_call_new(exchange);
    if (!call) return;
    call->run = run_compare;
    if (ask_compare(exchange, call))
        sp_graph_start(exchange, call);
    else
        sp_graph_call_free(call);
}
