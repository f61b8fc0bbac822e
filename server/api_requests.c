/* GET /v1/requests, DELETE /v1/requests/{id}: what is being answered for the same key, and cancelling it.
 *
 * A handler that has handed work to the engine says so (sp_exchange_track) and how far it is
 * (sp_exchange_progress); the list is read off the connections. Cancelling wakes the exchange, whose next
 * look ends it: 409, or in a stream an error frame and [DONE]. What belongs to another key isn't there: 404.
 * Tests: tests/http/test_requests.py */
#include <string.h>

#include "server/routes.h"
#include "server/state.h"

/* With the lock held. */
static bool is_own(const sp_exchange *asking, const sp_exchange *other)
{
    return other && other->public_id[0] && !other->cancelled &&
           memcmp(asking->owner, other->owner, sizeof asking->owner) == 0;
}

static void write_request(const sp_exchange *exchange, double now, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, exchange->public_id);
    sp_json_key(out, "route");
    sp_json_cstring(out, exchange->route->path);
    sp_json_key(out, "state");
    sp_json_cstring(out, exchange->progress);
    sp_json_key(out, "tokens");
    sp_json_uint(out, exchange->tokens);
    sp_json_key(out, "seconds");
    sp_json_number(out, now - exchange->started);
    sp_json_close(out, '}');
}

void sp_api_requests(sp_exchange *exchange)
{
    sp_server *server = sp_exchange_server(exchange);
    double now = sp_now();
    sp_json_writer out;
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "object");
    sp_json_cstring(&out, "list");
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    pthread_mutex_lock(&server->lock);
    for (const sp_conn *conn = server->all; conn; conn = conn->next) {
        if (is_own(exchange, conn->exchange)) write_request(conn->exchange, now, &out);
    }
    pthread_mutex_unlock(&server->lock);
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
        sp_http_wake(other);
    }
    pthread_mutex_unlock(&server->lock);
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
