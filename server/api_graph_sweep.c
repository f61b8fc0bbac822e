/* POST {id}/sweep and GET {id}/sweeps/{job}: several attentions over the queries and keys of one capture
 * (graph_sweep.h). Tests: tests/http/test_graph_many.py */
#include <stdio.h>
#include <string.h>

#include "server/api_graph.h"
#include "server/graph_sweep.h"
#include "server/routes.h"
#include "server/state.h"

/* What the job works on, in the call's arena. */
typedef struct sweep_work {
    sp_graph_sweeps *sweeps;
    sp_graph_sweep_job *sweep;
} sweep_work;

/* --- the job --- */

static sp_status run_head(sp_graph_call *call, const sweep_work *work, uint32_t layer, uint32_t head,
                          sp_error *error)
{
    const sp_head *gold;
    const sp_graph_sweep_job *sweep = work->sweep;
    sp_status status = sp_graph_head(call, call->capture, layer, head, &gold, error);
    if (status != SP_OK) return status;
    if (!gold) return sp_fail(error, SP_CANCELLED, "the sweep was stopped");
    for (size_t a = 0; a < sweep->n_attentions && status == SP_OK; a++) {
        sp_graph_sweep_point point = {.attention = (uint32_t)a, .layer = layer, .head = head};
        status = sp_capture_measure(call->capture, layer, head, gold, &sweep->attentions[a], &call->runner,
                                    &point.record, error);
        if (status == SP_OK) sp_graph_sweep_note(work->sweeps, work->sweep, &point);
    }
    sp_capture_release_head(call->capture, layer, head);
    return status;
}

static sp_status run_sweep(sp_graph_call *call, sp_error *error)
{
    sweep_work *work = call->more;
    const sp_graph_sweep_job *sweep = work->sweep;
    sp_status status = SP_OK;
    for (uint32_t l = 0; l < sweep->n_layers && status == SP_OK; l++)
        for (uint32_t h = 0; h < sweep->n_heads && status == SP_OK; h++)
            status = run_head(call, work, sweep->layers[l], sweep->heads[h], error);
    sp_graph_sweep_end(work->sweeps, work->sweep, status, error);
    return status;
}

static bool is_dropped(void *context)
{
    const sweep_work *work = context;
    return sp_graph_sweep_dropped(work->sweeps, work->sweep);
}

/* The call is freed: the job lets the sweep go. */
static void release_sweep(sp_graph_call *call)
{
    const sweep_work *work = call->more;
    sp_graph_sweeps_release(work->sweeps, work->sweep);
}

/* --- POST --- */

static void reply_started(sp_exchange *exchange, const sp_graph_sweep_job *sweep, sp_graph_sweeps *sweeps)
{
    sp_json_writer out;
    sp_reply *reply = sp_exchange_reply(exchange);
    sp_exchange_json(exchange, 202, &out);
    sp_graph_sweep_write(sweeps, sweep, &out);
    (void)snprintf(reply->location, sizeof reply->location, "/v1/attention/captures/%s/sweeps/%s",
                   sweep->capture, sweep->id);
}

/* Takes over the call. */
static sp_status start(sp_exchange *exchange, sp_graph_call *call, sp_graph_sweep_job *sweep, sp_error *error)
{
    sp_server *server = sp_exchange_server(exchange);
    sp_graph_sweeps *sweeps = sp_graph_pool_sweeps(server->graphs);
    sweep_work *work = sp_arena_alloc(&call->arena, 1, sizeof *work);
    sweep->owner = sp_exchange_owner(exchange);
    sp_status status = sp_graph_sweeps_add(sweeps, sweep, error); /* held once, for this function */
    if (status == SP_OK && !work) {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
        sp_graph_sweep_end(sweeps, sweep, status, error);
        sp_graph_sweeps_release(sweeps, sweep);
    }
    if (status != SP_OK) {
        sp_graph_call_free(call);
        return status;
    }
    *work = (sweep_work){.sweeps = sweeps,
                         .sweep = sp_graph_sweeps_find(sweeps, sweep->capture, sweep->id, sweep->owner)};
    call->more = work;
    call->run = run_sweep;
    call->release = release_sweep;
    status = sp_graph_pool_background(server->graphs, call, is_dropped, work, error);
    if (status == SP_OK) {
        reply_started(exchange, sweep, sweeps);
    } else {
        sp_graph_sweep_end(sweeps, sweep, status, error);
        sp_graph_call_free(call);
    }
    sp_graph_sweeps_release(sweeps, sweep);
    return status;
}

/* The capture of the path, ready; false: refused. */
static bool find_ready(sp_exchange *exchange, sp_graph_call *call, const char *rest)
{
    const char *slash = strchr(rest, '/');
    sp_capture_status now;
    if (!slash || strcmp(slash, "/sweep") != 0) {
        sp_exchange_refuse(exchange, 404, NULL, "POST is for a capture's sweep");
        return false;
    }
    char *id = sp_arena_copy(&call->arena, rest, (size_t)(slash - rest));
    if (!id) sp_exchange_refuse(exchange, 503, NULL, "no memory for the request");
    if (!id || !sp_graph_call_hold(exchange, call, id, &call->capture)) return false;
    call->info = sp_capture_get_info(call->capture);
    sp_capture_get_status(call->capture, &now);
    call->n = now.n_tokens;
    if (now.state == SP_CAPTURE_READY) return true;
    sp_exchange_refuse(exchange, 409, "id", "the capture is not ready");
    return false;
}

void sp_api_capture_post(sp_exchange *exchange)
{
    static const char *const known[] = {NULL};
    sp_buffer *text = sp_exchange_body(exchange);
    sp_error error = {0};
    sp_arena arena;
    sp_body body;
    if (!sp_exchange_only(exchange, known)) return;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_graph_call *call = sp_graph_call_new(exchange);
    if (!call) return;
    if (!find_ready(exchange, call, sp_exchange_rest(exchange))) {
        sp_graph_call_free(call);
        return;
    }
    sp_arena_init(&arena, (size_t)sp_exchange_options(exchange)->max_body_bytes * 6 + 65536);
    sp_graph_sweep_job *sweep = NULL;
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    if (status == SP_OK) {
        status = sp_graph_sweep_read(&body, call->info, sp_capture_fit(call->capture), &sweep, &error);
        sp_body_close(&body);
    }
    sp_arena_fini(&arena);
    if (status == SP_OK)
        status = start(exchange, call, sweep, &error);
    else
        sp_graph_call_free(call);
    if (status != SP_OK) sp_exchange_fail(exchange, &error);
}

/* --- GET --- */

static sp_status run_read(sp_graph_call *call, sp_error *error)
{
    const sweep_work *work = call->more;
    sp_json_writer out;
    (void)error;
    sp_graph_json(call, 200, &out);
    sp_graph_sweep_write(work->sweeps, work->sweep, &out);
    return SP_OK;
}

bool sp_graph_sweep(sp_exchange *exchange, sp_graph_call *call, const char *id)
{
    static const char *const known[] = {NULL};
    sp_graph_sweeps *sweeps = sp_graph_pool_sweeps(sp_exchange_server(exchange)->graphs);
    sweep_work *work = sp_arena_alloc(&call->arena, 1, sizeof *work);
    sp_error error;
    if (!work) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return false;
    }
    if (!sp_exchange_only(exchange, known)) return false;
    *work =
        (sweep_work){.sweeps = sweeps,
                     .sweep = sp_graph_sweeps_find(sweeps, call->info->id, id, sp_exchange_owner(exchange))};
    if (!work->sweep) {
        sp_exchange_refuse(exchange, 404, "job", "the capture has no sweep %.40s", id);
        return false;
    }
    call->more = work;
    call->run = run_read;
    call->release = release_sweep;
    return true;
}
