/* A graph query's memory, its captures and heads, and its answer (graph_call.h); its way through the threads
 * is in graph_pool.c.
 *
 * Owner: a call owns its arena, its answer and one hold of each capture; a part is its run's. Tests:
 * tests/http/test_captures.py, test_graph.py */
#include "server/graph_wish.h"
#include "server/state.h"

#define CALL_BYTES ((size_t)8 << 20)
#define QUERY_WAIT 10.0
#define EDGE_BYTES 16                   /* of an answer, an edge */
#define LIGHT_PAIRS ((uint64_t)2 << 20) /* on the thread that serves connections */

sp_graph_call *sp_graph_call_new(sp_exchange *exchange)
{
    sp_graph_call *call = sp_alloc_zero(1, sizeof *call);
    if (!call) {
        sp_error error;
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return NULL;
    }
    sp_arena_init(&call->arena, CALL_BYTES);
    call->engine = sp_exchange_engine(exchange);
    call->options = sp_exchange_options(exchange);
    call->wait = QUERY_WAIT;
    return call;
}

void sp_graph_call_let_go(sp_graph_call *call)
{
    if (call->capture) sp_capture_release(call->capture);
    if (call->other) sp_capture_release(call->other);
    call->capture = call->other = NULL;
}

void sp_graph_call_free(sp_graph_call *call)
{
    if (!call) return;
    if (call->release) call->release(call);
    sp_graph_call_let_go(call);
    sp_buffer_fini(&call->reply.body);
    sp_arena_fini(&call->arena);
    sp_free(call);
}

bool sp_graph_call_hold(sp_exchange *exchange, sp_graph_call *call, const char *id, sp_capture **out)
{
    bool gone;
    sp_error error;
    sp_captures *store = sp_engine_captures(call->engine);
    if (sp_captures_hold(store, id, sp_exchange_owner(exchange), false, out, &gone, &error) == SP_OK)
        return true;
    sp_exchange_refuse(exchange, gone ? 410 : 404, error.param, "%s", error.message);
    return false;
}

sp_status sp_graph_head(sp_graph_call *call, sp_capture *capture, uint32_t layer, uint32_t head,
                        const sp_head **out, sp_error *error)
{
    double progress = 0;
    sp_status status =
        sp_capture_head(capture, layer, head, call->blocking ? &call->runner : NULL, out, &progress, error);
    if (status == SP_OK && !*out) {
        call->pending = true;
        call->progress = progress;
    }
    return status;
}

sp_status sp_graph_part(sp_graph_call *call, sp_capture *capture, uint32_t layer, uint32_t head,
                        const sp_head *made, sp_graph graph, bool weighs, sp_head_part **part,
                        sp_error *error)
{
    *part = NULL;
    bool needs = weighs && !sp_head_holds(made, graph);
    if (needs && !call->blocking) {
        call->pending = true;
        return SP_OK;
    }
    return needs ? sp_head_part_open(capture, layer, head, made, &call->reader, part, error) : SP_OK;
}

sp_status sp_graph_part_end(sp_head_part *part, sp_status status, sp_error *error)
{
    sp_error own;
    sp_status read = sp_head_part_close(part, &own);
    if (read != SP_OK) *error = own;
    return read != SP_OK ? read : status;
}

static void begin_reply(sp_graph_call *call, unsigned status, const char *content_type)
{
    size_t most = (size_t)call->options->graph_edges * EDGE_BYTES + SP_REPLY_BYTES;
    sp_buffer_fini(&call->reply.body);
    sp_buffer_init(&call->reply.body, most);
    call->reply.status = status;
    call->reply.content_type = content_type;
}

void sp_graph_json(sp_graph_call *call, unsigned status, sp_json_writer *writer)
{
    begin_reply(call, status, "application/json; charset=utf-8");
    sp_json_writer_init(writer, &call->reply.body);
}

void sp_graph_json_of_head(sp_graph_call *call, sp_json_writer *writer)
{
    sp_graph_json(call, 200, writer);
    sp_json_open(writer, '{');
    sp_json_key(writer, "graph");
    sp_json_cstring(writer, sp_graph_name(call->graph));
    sp_json_key(writer, "layer");
    sp_json_uint(writer, call->layer);
    sp_json_key(writer, "head");
    sp_json_uint(writer, call->head);
}

void sp_graph_binary(sp_graph_call *call, const char *content_type)
{
    begin_reply(call, 200, content_type);
}

void sp_graph_write_pending(sp_graph_call *call)
{
    sp_json_writer out;
    sp_graph_json(call, 202, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "state");
    sp_json_cstring(&out, "running");
    sp_json_key(&out, "progress");
    sp_json_number(&out, call->progress);
    sp_json_close(&out, '}');
    call->reply.retry_after = 1;
}

bool sp_graph_later(sp_graph_call *call, const sp_head *head, sp_graph graph)
{
    bool of_gold = graph == SP_GRAPH_GOLD || graph == SP_GRAPH_BOTH || graph == SP_GRAPH_MISSED;
    bool later = !call->blocking && head->full && !of_gold && head->record.pairs_valid > LIGHT_PAIRS;
    if (later) call->pending = true;
    return later;
}

size_t sp_graph_memory_bytes(const sp_options *options, const sp_engine_info *info)
{
    size_t threads = (size_t)options->graph_jobs + SP_HTTP_THREADS;
    /* a slice while it grows, narrow copies of its arrays, and the text; aggregates count as captures */
    size_t sparse = (size_t)options->graph_edges * (24 + 4 + EDGE_BYTES) + SP_REPLY_BYTES;
    size_t dense = sp_graph_dense_bytes(options) + (size_t)options->graph_dense_values * 8; /* text, edges */
    size_t answer_bytes = (sparse > dense ? sparse : dense) + CALL_BYTES;
    return (size_t)options->capture_bytes + threads * answer_bytes +
           (size_t)options->graph_jobs * sp_head_builder_bytes(info->context, info->n_threads);
}
