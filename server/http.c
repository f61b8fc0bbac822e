/* libmicrohttpd: the only file that knows it. It parses requests and writes replies on a few polling threads;
 * we accept, keep the deadlines and notice leaving clients ourselves (connection.c).
 *
 * A request: on_uri makes the exchange, the first on_request call checks the head, further ones bring the
 * body, the last one runs the handler. Whoever must wait suspends its connection; sp_http_wake resumes it and
 * the library calls on_request (before the headers) or read_stream (after) again. A refusal while a body is
 * still to come can't be queued here without the library reading or mixing up that body; so it is sent past
 * the library on the plain socket, which then closes. The library is never stopped while a connection is
 * suspended (it would abort). Escapes in the path are decoded by our own gate, not by the library. Tests:
 * tests/http/ */
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "server/sse.h"
#include "server/state.h"

#define ARENA_BYTES (64 * 1024) /* decoded path and query values */
#define BLOCK_BYTES 16384

static void lock(sp_server *server)
{
    pthread_mutex_lock(&server->lock);
}

static void unlock(sp_server *server)
{
    pthread_mutex_unlock(&server->lock);
}

static sp_conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* --- waiting --- */
void sp_http_wake(sp_exchange *exchange)
{
    if (!exchange->suspended) {
        exchange->woken = true;
        return;
    }
    exchange->suspended = false;
    MHD_resume_connection(exchange->mhd);
}

/* Suspends the connection until the next wake. False when a wake has come meanwhile, or no wait is allowed
 * any more: look again. */
static bool suspend(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    lock(server);
    bool wait = !exchange->woken && !exchange->left && server->phase != SP_STOPPED;
    exchange->woken = false;
    if (wait) {
        sp_connection_observe(exchange);
        exchange->suspended = true;
        MHD_suspend_connection(exchange->mhd);
    }
    unlock(server);
    return wait;
}

/* Forgets wakes that came before this look, and tells whether it is over: the client has left, or the server
 * has stopped, which leaves no connection suspended. */
static bool begin_look(sp_exchange *exchange, bool *ping)
{
    sp_server *server = exchange->server;
    lock(server);
    bool left = exchange->left || server->phase == SP_STOPPED;
    *ping = exchange->ping;
    exchange->woken = exchange->ping = false;
    unlock(server);
    return left;
}

/* --- replies --- */
typedef struct headers {
    struct MHD_Response *response;
    bool lost; /* no memory for one of them */
} headers;

static void add_header(void *context, const char *name, const char *value)
{
    headers *all = context;
    if (MHD_add_response_header(all->response, name, value) != MHD_YES) all->lost = true;
}

static enum MHD_Result queue(sp_exchange *exchange, struct MHD_Response *response, unsigned status)
{
    const sp_reply *reply = &exchange->reply;
    headers all = {.response = response};
    if (!response) return MHD_NO;
    sp_exchange_headers(exchange, add_header, &all);
    lock(exchange->server);
    bool dead = exchange->conn->state == SP_CONN_DEAD;
    bool close = reply->close || exchange->conn->refused || exchange->server->phase != SP_SERVING;
    sp_connection_set(exchange->conn, SP_CONN_REPLY);
    exchange->spoke = sp_now();
    unlock(exchange->server);
    if (close) add_header(&all, "Connection", "close");
    enum MHD_Result result = dead || all.lost ? MHD_NO : MHD_queue_response(exchange->mhd, status, response);
    MHD_destroy_response(response);
    return result;
}

/* The body has served: who has the answer may send as large a one. */
static void drop_body(sp_exchange *exchange)
{
    sp_buffer_fini(&exchange->body);
    lock(exchange->server);
    sp_exchange_unreserve(exchange);
    unlock(exchange->server);
}

/* All that comes of it is made: it goes, before a slow client takes its time. */
static void drop_state(sp_exchange *exchange)
{
    bool counts = exchange->route && (exchange->route->flags & SP_ROUTE_BYTES);
    lock(exchange->server);
    exchange->public_id[0] = 0; /* nothing runs for it any more */
    unlock(exchange->server);
    if (exchange->free_state && !counts) exchange->free_state(exchange->state);
    drop_body(exchange);
    if (counts) return;
    exchange->free_state = NULL;
    exchange->state = NULL;
    exchange->kept = 0;
}

static const char no_memory[] = "{\"error\":{\"message\":\"out of memory; try "
                                "again\",\"type\":\"unavailable_error\",\"param\":null,\"code\":503}}";

/* A body that could not be made becomes a refusal; where that fails too, its buffer says so. */
static void mend_body(sp_exchange *exchange)
{
    const sp_buffer *body = &exchange->reply.body;
    if (body->no_memory)
        sp_exchange_refuse(exchange, 503, NULL, "no memory for the reply; try again");
    else if (body->failed)
        sp_exchange_refuse(exchange, 500, NULL, "the reply is too large");
}

static enum MHD_Result send_reply(sp_exchange *exchange)
{
    sp_buffer *body = &exchange->reply.body;
    drop_state(exchange);
    mend_body(exchange);
    if (!sp_exchange_hold(exchange, 0))
        sp_exchange_refuse(exchange, 503, NULL, "replies take too much memory just now; try again");
    bool none = body->failed; /* no memory even for the refusal */
    const char *text = none ? no_memory : body->data;
    exchange->bytes_out = none ? sizeof no_memory - 1 : body->size;
    return queue(
        exchange,
        MHD_create_response_from_buffer(exchange->bytes_out, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT),
        none ? 503 : exchange->reply.status);
}

/* Large frames give their memory back. */
static void clear_out(sp_exchange *exchange)
{
    sp_buffer *out = &exchange->out;
    if (out->capacity > BLOCK_BYTES) {
        sp_buffer_fini(out);
        sp_buffer_init(out, SP_REPLY_BYTES);
    }
    sp_buffer_clear(out);
    exchange->out_at = 0;
}

/* Gives a stream up. libmicrohttpd 0.9.75 keeps a connection whose content reader fails open until its socket
 * reports something new, which a socket that was reset never does; after a failed write it closes it. So the
 * socket is shut down and some bytes follow, which can't be written. */
static ssize_t give_up(sp_exchange *exchange, char *bytes, size_t capacity)
{
    static const char nothing[] = ":\n\n";
    size_t n = capacity < sizeof nothing - 1 ? capacity : sizeof nothing - 1;
    lock(exchange->server);
    sp_connection_shut(exchange->conn);
    unlock(exchange->server);
    memcpy(bytes, nothing, n);
    return (ssize_t)n;
}

/* Content reader of streams: hands over what is there; suspends when nothing is. */
static ssize_t read_stream(void *context, uint64_t position, char *bytes, size_t capacity)
{
    sp_exchange *exchange = context;
    sp_buffer *out = &exchange->out;
    (void)position;
    for (;;) {
        bool ping;
        if (exchange->out_at < out->size) {
            size_t n = out->size - exchange->out_at;
            if (n > capacity) n = capacity;
            memcpy(bytes, out->data + exchange->out_at, n);
            exchange->out_at += n;
            exchange->bytes_out += n;
            lock(exchange->server);
            exchange->spoke = sp_now();
            unlock(exchange->server);
            return (ssize_t)n;
        }
        if (exchange->ended) return MHD_CONTENT_READER_END_OF_STREAM;
        if (begin_look(exchange, &ping)) return give_up(exchange, bytes, capacity);
        clear_out(exchange);
        sp_pull result = exchange->pull(exchange, out);
        if (out->failed) return give_up(exchange, bytes, capacity);
        exchange->ended = result == SP_PULL_END;
        if (exchange->ended) drop_state(exchange);
        if (!sp_exchange_hold(exchange, exchange->kept)) return give_up(exchange, bytes, capacity);
        if (ping && out->size == 0) sp_sse_ping(out);
        if (out->size == 0 && result == SP_PULL_WAIT && suspend(exchange)) return 0;
    }
}

static enum MHD_Result start_stream(sp_exchange *exchange)
{
    sp_buffer_init(&exchange->out, SP_REPLY_BYTES);
    exchange->reply.status = 200;
    lock(exchange->server);
    sp_connection_observe(exchange);
    unlock(exchange->server);
    return queue(
        exchange,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, exchange, NULL), 200);
}

/* Answers on the plain socket and gives the connection up. */
static enum MHD_Result send_past(sp_exchange *exchange)
{
    sp_buffer bytes;
    sp_buffer_init(&bytes, 65536);
    drop_body(exchange);
    mend_body(exchange);
    sp_buffer_pass(&exchange->reply.body, &bytes);
    sp_exchange_raw(exchange, &bytes);
    lock(exchange->server);
    if (exchange->conn->state != SP_CONN_DEAD && !bytes.failed) {
        sp_connection_answer(exchange->conn, bytes.data, bytes.size);
        exchange->finished = true;
        exchange->bytes_out = exchange->reply.body.size;
    }
    unlock(exchange->server);
    sp_buffer_fini(&bytes);
    return MHD_NO;
}

/* --- a request --- */
static enum MHD_Result take_header(void *context, enum MHD_ValueKind kind, const char *name, size_t name_size,
                                   const char *value, size_t value_size)
{
    (void)kind;
    sp_gate_header(context, name, name_size, value, value_size);
    return MHD_YES;
}

/* False when the watch thread has given the connection up meanwhile. */
static bool enter_state(sp_exchange *exchange, sp_conn_state state)
{
    lock(exchange->server);
    bool alive = exchange->conn->state != SP_CONN_DEAD;
    if (alive) sp_connection_set(exchange->conn, state);
    if (alive && !exchange->active) {
        exchange->active = true;
        exchange->server->n_active++;
    }
    unlock(exchange->server);
    return alive;
}

static enum MHD_Result begin(sp_exchange *exchange, const char *method, const char *version)
{
    exchange->begun = true;
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    MHD_get_connection_values_n(exchange->mhd, MHD_HEADER_KIND, take_header, &exchange->gate);
    if (!enter_state(exchange, SP_CONN_BODY)) return MHD_NO;
    sp_exchange_check(exchange, strcmp(version, "HTTP/1.1") == 0);
    bool refused = exchange->reply.status != 0;
    return refused && (exchange->gate.fault || sp_gate_has_body(&exchange->gate)) ? send_past(exchange)
                                                                                  : MHD_YES;
}

static enum MHD_Result take_body(sp_exchange *exchange, const char *bytes, size_t n)
{
    exchange->taken += n;
    if (exchange->taken > exchange->limit) {
        sp_exchange_refuse(exchange, 413, NULL, "the body is longer than %zu bytes", exchange->limit);
        return send_past(exchange);
    }
    if (exchange->discard) return MHD_YES;
    if (sp_exchange_reserve(exchange, exchange->body.size + n) &&
        sp_buffer_append(&exchange->body, bytes, n)) {
        return MHD_YES;
    }
    sp_exchange_refuse(exchange, 503, NULL, "too many request bodies at once; try again");
    return send_past(exchange);
}

static void run_handler(sp_exchange *exchange)
{
    exchange->handled = true;
    if (exchange->reply.status) return;
    lock(exchange->server);
    bool seated = sp_connection_seat(exchange->server, exchange->conn);
    unlock(exchange->server);
    if (!seated) {
        sp_exchange_refuse(exchange, 503, NULL, "too many connections; try again");
    } else if (!sp_buffer_append(&exchange->body, "", 1)) {
        sp_exchange_refuse(exchange, 503, NULL, "no memory for the request");
    } else {
        exchange->body.size--;
        exchange->route->handle(exchange);
    }
}

/* Drops an answer that only says that its client has left, since the last look. False: it is none. */
static bool drop_farewell(sp_exchange *exchange)
{
    if (exchange->reply.status != 409) return false;
    lock(exchange->server);
    bool left = exchange->left && !exchange->cancelled;
    unlock(exchange->server);
    if (left) exchange->reply.status = 0;
    return left;
}

/* The body is there; called again after every wake. */
static enum MHD_Result proceed(sp_exchange *exchange)
{
    bool ping;
    if (!exchange->handled) {
        if (!enter_state(exchange, SP_CONN_WORK)) return MHD_NO;
        run_handler(exchange);
    }
    for (;;) {
        if (begin_look(exchange, &ping)) return MHD_NO;
        if (exchange->poll && !exchange->pull && !exchange->reply.status) exchange->poll(exchange);
        if (exchange->pull) return start_stream(exchange);
        if (drop_farewell(exchange)) return MHD_NO;
        if (exchange->reply.status) return send_reply(exchange);
        if (suspend(exchange)) return MHD_YES;
    }
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *bytes, size_t *size,
                                  void **slot)
{
    sp_exchange *exchange = *slot;
    (void)context, (void)mhd, (void)url;
    if (!exchange) return MHD_NO;
    if (!exchange->begun) return begin(exchange, method, version);
    if (*size == 0) return proceed(exchange);
    enum MHD_Result result = take_body(exchange, bytes, *size);
    *size = 0;
    return result;
}

/* --- notifications --- */
static void make_ids(sp_exchange *exchange)
{
    unsigned char random[12];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 0, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(exchange->hex + 2 * i, sizeof exchange->hex - 2 * i, "%02x", random[i]);
    }
    snprintf(exchange->id, sizeof exchange->id, "req-%s", exchange->hex);
}

/* A request line has come. What it returns is on_request's *slot. */
static void *on_uri(void *context, const char *uri, struct MHD_Connection *mhd)
{
    sp_conn *conn = conn_of(mhd);
    sp_exchange *exchange = conn ? sp_alloc_zero(1, sizeof *exchange) : NULL;
    if (!exchange) return NULL;
    exchange->server = context;
    exchange->conn = conn;
    exchange->mhd = mhd;
    exchange->started = sp_now();
    exchange->uri = sp_copy_text(uri, strlen(uri));
    sp_gate_init(&exchange->gate);
    sp_arena_init(&exchange->arena, ARENA_BYTES);
    make_ids(exchange);
    if (!exchange->uri) {
        sp_exchange_free(exchange);
        return NULL;
    }
    lock(exchange->server);
    conn->exchange = exchange;
    if (conn->state == SP_CONN_IDLE) sp_connection_set(conn, SP_CONN_HEADERS);
    unlock(exchange->server);
    return exchange;
}

static void on_completed(void *context, struct MHD_Connection *mhd, void **slot,
                         enum MHD_RequestTerminationCode code)
{
    sp_exchange *exchange = *slot;
    sp_server *server = context;
    (void)mhd;
    *slot = NULL;
    if (!exchange) return;
    exchange->finished = exchange->finished || code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    lock(server);
    if (exchange->late) exchange->reply.status = 408;
    unlock(server);
    if (exchange->free_state) exchange->free_state(exchange->state);
    exchange->free_state = NULL; /* nobody can wake it any more but the watch thread */
    lock(server);
    sp_connection_release(exchange);
    unlock(server);
    sp_exchange_log(exchange); /* who reads of its end finds it gone */
    sp_exchange_free(exchange);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    sp_server *server = context;
    lock(server);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        *slot = info && (size_t)info->connect_fd < server->max_fds ? server->conns[info->connect_fd] : NULL;
    } else if (*slot) {
        sp_connection_closed(server, *slot);
        *slot = NULL;
    }
    unlock(server);
}

static size_t leave_escapes(void *context, struct MHD_Connection *mhd, char *text)
{
    (void)context, (void)mhd;
    return strlen(text);
}

/* --- the daemon --- */
bool sp_http_add(sp_server *server, int fd, const void *address, size_t address_size)
{
    return MHD_add_connection(server->daemon, fd, address, (socklen_t)address_size) == MHD_YES;
}

sp_status sp_http_start(sp_server *server, sp_error *error)
{
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET;
    unsigned limit = (unsigned)server->options->max_connections + 3 * SP_SPARE_CONNECTIONS;
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, server, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)SP_HTTP_THREADS,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)(2 << 20), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)SP_HTTP_POOL_BYTES, MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        server, MHD_OPTION_URI_LOG_CALLBACK, on_uri, server, MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes,
        NULL, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    return server->daemon ? SP_OK : sp_fail(error, SP_IO, "libmicrohttpd could not start");
}

void sp_http_stop(sp_server *server)
{
    if (server->daemon) MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
}
