/* GET /v1/requests, DELETE /v1/requests/{id}: what is being answered for the same key, and cancelling it.
 *
 * A handler that has handed work to the engine says so (sp_exchange_track) and how far it is
 * (sp_exchange_progress); the list is read off the connections. Cancelling ends what runs in the engine and
 * wakes the exchange, whose next look answers: 409, or in a stream an error frame and [DONE]. Captures of
 * long inputs and sweeps run without a connection: they are listed by their own tables. What belongs to
 * another key isn't there: 404. Tests: tests/http/test_requests.py */
#include <string.h>

#include "engine/graph/capture.h"
#include "server/graph_sweep.h"
#include "server/routes.h"
#include "server/state.h"

#define MAX_ALONE 1024 /* captures that run without a connection: more do not fit any budget */

/* With the lock held. */
static bool is_own(const sp_exchange *asking, const sp_exchange *other)
{
    return other && other->public_id[0] && !other->cancelled &&
           memcmp(asking->owner, other->owner, sizeof asking->owner) == 0;
}

typedef struct running {
    const char *id, *route, *state;
    uint64_t tokens;
    double started;
} running;

static void write_running(sp_json_writer *out, const running *request)
{
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, request->id);
    sp_json_key(out, "route");
    sp_json_cstring(out, request->route);
    sp_json_key(out, "state");
    sp_json_cstring(out, request->state);
    sp_json_key(out, "tokens");
    sp_json_uint(out, request->tokens);
    sp_json_key(out, "seconds");
    sp_json_number(out, sp_now() - request->started);
    sp_json_close(out, '}');
}

/* What runs for this key without a connection. */
static void write_alone(sp_exchange *exchange, sp_json_writer *out)
{
    sp_server *server = sp_exchange_server(exchange);
    sp_engine *engine = sp_exchange_engine(exchange);
    uint64_t owner = sp_exchange_owner(exchange);
    sp_graph_sweep_running sweeps[SP_MAX_SWEEPS];
    sp_capture_running *captures = sp_alloc(MAX_ALONE, sizeof *captures);
    if (!captures) sp_buffer_break(out->out); /* a list that lacks some is none */
    size_t n =
        engine && captures ? sp_captures_running(sp_engine_captures(engine), owner, captures, MAX_ALONE) : 0;
    for (size_t i = 0; i < n; i++)
        write_running(out, &(running){.id = captures[i].id,
                                      .route = "/v1/attention/captures",
                                      .state = captures[i].n_tokens ? "prefill" : "waiting",
                                      .tokens = captures[i].n_tokens,
                                      .started = captures[i].started});
    sp_free(captures);
    n = sp_graph_sweeps_running(sp_graph_pool_sweeps(server->graphs), owner, sweeps, SP_MAX_SWEEPS);
    for (size_t i = 0; i < n; i++)
        write_running(out, &(running){.id = sweeps[i].id,
                                      .route = "/v1/attention/captures/{id}/sweep",
                                      .state = "running",
                                      .started = sweeps[i].started});
}

/* Ends a capture or a sweep that runs by itself. */
static bool cancel_alone(sp_exchange *exchange, const char *id)
{
    sp_server *server = sp_exchange_server(exchange);
    sp_engine *engine = sp_exchange_engine(exchange);
    uint64_t owner = sp_exchange_owner(exchange);
    sp_capture *capture;
    sp_capture_status now;
    sp_error error;
    bool gone, runs = false;
    if (sp_graph_sweeps_cancel(sp_graph_pool_sweeps(server->graphs), owner, id)) return true;
    if (!engine || sp_captures_hold(sp_engine_captures(engine), id, owner, false, &capture, &gone, &error))
        return false;
    sp_capture_get_status(capture, &now);
    runs = now.alone && now.state == SP_CAPTURE_RUNNING;
    if (runs) sp_capture_delete(capture);
    sp_capture_release(capture);
    return runs;
}

void sp_api_requests(sp_exchange *exchange)
{
    sp_server *server = sp_exchange_server(exchange);
    sp_json_writer out;
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "object");
    sp_json_cstring(&out, "list");
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    pthread_mutex_lock(&server->lock);
    for (const sp_conn *conn = server->all; conn; conn = conn->next) {
        const sp_exchange *other = conn->exchange;
        if (is_own(exchange, other))
            write_running(&out, &(running){.id = other->public_id,
                                           .route = other->route->path,
                                           .state = other->progress,
                                           .tokens = other->tokens,
                                           .started = other->started});
    }
    pthread_mutex_unlock(&server->lock);
    write_alone(exchange, &out);
    sp_json_close(&out, ']');
    sp_json_close(&out, '}');
}

void sp_api_cancel(sp_exchange *exchange)
{
    sp_server *server = sp_exchange_server(exchange);
    const char *id = sp_exchange_rest(exchange);
    bool found = false;
    pthread_mutex_lock(&server->lock);
    for (const sp_conn *conn = server->all; conn && !found; conn = conn->next) {
        sp_exchange *other = conn->exchange;
        if (!is_own(exchange, other) || strcmp(other->public_id, id) != 0) continue;
        found = other->cancelled = true;
        sp_exchange_abandon(other);
    }
    pthread_mutex_unlock(&server->lock);
    if (!found) found = cancel_alone(exchange, id);
    if (!found) {
        sp_exchange_refuse(exchange, 404, "id", "there is no running request %.64s", id);
        return;
    }
    sp_json_writer out;
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "id");
    sp_json_cstring(&out, id);
    sp_json_key(&out, "object");
    sp_json_cstring(&out, "request");
    sp_json_key(&out, "cancelled");
    sp_json_bool(&out, true);
    sp_json_close(&out, '}');
}
