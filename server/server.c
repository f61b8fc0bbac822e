/* The server's life: open while the model loads, ready, drain, close (server.h).
 *
 * Stopping: the first sp_server_stop makes readiness 503; while something runs and the drain delay lasts, new
 * requests are still served (a load balancer needs the time); then the listener closes, new work gets 503 and
 * what runs or is queued finishes within the drain timeout; what is left is cut: an error frame and [DONE],
 * or 503. A second stop cuts at once. sp_server_run then lets libmicrohttpd go, which must not hold a
 * suspended connection. Tests: tests/http/test_drain.py */
#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "server/graph_call.h"
#include "server/jobs.h"
#include "server/state.h"

#define CUT_SECONDS 2.0 /* for what was cut to be written, since some of it last was */
#define CUT_LOOKS 10    /* and looks: a machine that stands still writes nothing */
#define CUT_MOST 10.0   /* for all of it */
#define EXCHANGE_BYTES 8192
#define CJSON_FACTOR 48 /* parsed tree and copies, a byte of body */
#define REPLY_GROWTH 2  /* a buffer that doubles: the old half, the new whole, and what it is made from */

sp_status sp_server_open(const sp_options *options, sp_server **out, sp_error *error)
{
    sp_server *server = sp_alloc_zero(1, sizeof *server);
    if (!server) return sp_fail(error, SP_NO_MEMORY, "no memory for the server");
    server->options = options;
    server->listener = server->events = server->stop = -1;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    pthread_mutex_init(&server->keys_lock, NULL);
    signal(SIGPIPE, SIG_IGN);
    sp_status status =
        options->api_key_file ? sp_keys_read(options->api_key_file, &server->keys, error) : SP_OK;
    if (!status) status = sp_connection_listen(server, error);
    if (!status) status = sp_jobs_open(server, &server->jobs, error);
    if (!status) status = sp_graph_pool_open(server, &server->graphs, error);
    if (!status) status = sp_http_start(server, error);
    if (!status) status = sp_connection_watch(server, error);
    *out = server;
    if (!status) return SP_OK;
    sp_server_close(server);
    *out = NULL;
    return status;
}

uint16_t sp_server_port(const sp_server *server)
{
    return server->port;
}

void sp_server_ready(sp_server *server, sp_engine *engine)
{
    atomic_store(&server->engine, engine);
}

void sp_server_stop(sp_server *server)
{
    uint64_t one = 1;
    atomic_store(&server->asked_to_stop, true);
    if (write(server->stop, &one, sizeof one) != (ssize_t)sizeof one)
        return; /* the counter is full: it was stopped */
}

void sp_server_reload(sp_server *server)
{
    atomic_store(&server->reload, true);
}

void sp_server_reload_keys(sp_server *server)
{
    sp_error error;
    sp_keys *keys;
    if (!atomic_exchange(&server->reload, false) || !server->options->api_key_file) return;
    if (sp_keys_read(server->options->api_key_file, &keys, &error)) {
        sp_log(SP_LOG_ERROR, "the API keys stay as they are: %s", error.message);
        return;
    }
    pthread_mutex_lock(&server->keys_lock);
    sp_keys *old = server->keys;
    server->keys = keys;
    pthread_mutex_unlock(&server->keys_lock);
    sp_log(SP_LOG_INFO, "%zu API keys read again (there were %zu)", keys->n, old->n);
    sp_keys_free(old);
}

/* --- the drain --- */
static void enter_phase(sp_server *server, sp_phase phase, double now, double seconds)
{
    static const char *const names[] = {"serving", "stopping: still serving", "draining", "cutting",
                                        "stopped"};
    server->phase = phase;
    server->phase_since = now;
    server->phase_until = now + seconds;
    server->n_cut = server->n_active;
    server->cut_looks = 0;
    sp_log(SP_LOG_INFO, "%s (%zu requests, %zu connections)", names[phase], server->n_active,
           server->n_conns);
    for (sp_conn *conn = server->all; phase == SP_CUTTING && conn; conn = conn->next) {
        if (conn->exchange) sp_http_wake(conn->exchange);
    }
    if (phase == SP_STOPPED) pthread_cond_broadcast(&server->changed);
}

static bool may_bring_requests(sp_server *server, double now)
{
    bool may = false;
    for (sp_conn *conn = server->all; conn; conn = conn->next) may = sp_connection_expects(conn, now) || may;
    return may;
}

/* Whether there was time enough for what was cut to be written: as long as it becomes less, there is more. */
static bool is_cut(sp_server *server, double now)
{
    double last = server->phase_since + CUT_MOST, until = now + CUT_SECONDS;
    server->cut_looks++;
    if (server->n_active < server->n_cut) {
        server->n_cut = server->n_active;
        server->cut_looks = 0;
        server->phase_until = until < last ? until : last;
    }
    return now >= server->phase_until && server->cut_looks >= CUT_LOOKS;
}

void sp_server_drain(sp_server *server, double now)
{
    const sp_options *options = server->options;
    bool again = server->stops >= 2;
    if (server->phase == SP_SERVING && server->stops)
        enter_phase(server, SP_DELAYING, now, options->drain_delay);
    if (server->phase == SP_DELAYING && (server->n_active == 0 || again || now >= server->phase_until)) {
        enter_phase(server, SP_DRAINING, now, options->drain_timeout);
        return; /* the listener is emptied before the next look */
    }
    if (server->phase != SP_DRAINING && server->phase != SP_CUTTING) return;
    bool nothing = !may_bring_requests(server, now) && server->n_active == 0;
    if (server->phase == SP_DRAINING && !nothing && (again || now >= server->phase_until))
        enter_phase(server, SP_CUTTING, now, CUT_SECONDS);
    if (nothing || (server->phase == SP_CUTTING && is_cut(server, now)))
        enter_phase(server, SP_STOPPED, now, 0.0);
}

/* Ends every wait, until no request is left or two seconds have passed. */
static void end_waits(sp_server *server)
{
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&server->lock);
        size_t suspended = 0;
        for (sp_conn *conn = server->all; conn; conn = conn->next) {
            sp_exchange *exchange = conn->exchange;
            if (!exchange) continue;
            suspended += exchange->suspended;
            exchange->left = true; /* suspends no more */
            sp_http_wake(exchange);
        }
        bool done = suspended == 0 && server->n_active == 0;
        pthread_mutex_unlock(&server->lock);
        if (done) return;
        usleep(10000);
    }
}

void sp_server_run(sp_server *server)
{
    pthread_mutex_lock(&server->lock);
    while (server->phase != SP_STOPPED) pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    if (server->watching) pthread_join(server->watcher, NULL);
    server->watching = false;
    end_waits(server);
    sp_http_stop(server);
    sp_jobs_close(server->jobs);
    sp_graph_pool_close(server->graphs);
    server->jobs = NULL;
    server->graphs = NULL;
}

void sp_server_close(sp_server *server)
{
    if (!server) return;
    if (server->watching) {
        sp_server_stop(server);
        sp_server_stop(server);
        sp_server_run(server);
    }
    sp_http_stop(server);
    sp_jobs_close(server->jobs);
    sp_graph_pool_close(server->graphs);
    if (server->listener >= 0) close(server->listener);
    if (server->events >= 0) close(server->events);
    if (server->stop >= 0) close(server->stop);
    for (size_t i = 0; i < sizeof server->lingering / sizeof *server->lingering; i++) {
        if (server->conns && server->lingering[i].fd >= 0) close(server->lingering[i].fd);
    }
    while (server->all) sp_connection_drop(server, server->all); /* their sockets failed inside the library */
    sp_free(server->conns);
    sp_free(server->origins);
    sp_keys_free(server->keys);
    pthread_mutex_destroy(&server->keys_lock);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    sp_free(server);
}

double sp_server_retry_seconds(sp_server *server)
{
    sp_engine *engine = atomic_load(&server->engine);
    sp_stats stats;
    if (!engine) return 1.0;
    sp_engine_stats(engine, &stats);
    double seconds = ceil(stats.drain_seconds);
    return seconds >= 1.0 ? (seconds <= 120.0 ? seconds : 120.0) : 1.0;
}

size_t sp_server_max_requests(const sp_options *options)
{
    return 2 * SP_ADMITTED_A_PLACE * (size_t)options->max_sequences + (size_t)options->max_queue;
}

size_t sp_server_memory_bytes(const sp_options *options)
{
    size_t connections = (size_t)options->max_connections + 2 * SP_SPARE_CONNECTIONS;
    size_t body = (size_t)options->max_body_bytes, tensor = (size_t)options->max_tensor_bytes;
    size_t requests = sp_server_max_requests(options);
    size_t total = connections * (SP_HTTP_POOL_BYTES + EXCHANGE_BYTES + SP_SMALL_REPLY);
    total += (size_t)SP_HTTP_THREADS * CJSON_FACTOR * body;               /* parsed at once */
    total += connections * SP_SMALL_BODY + (size_t)SP_JSON_BODIES * body; /* received or being received */
    total +=
        3 * ((size_t)SP_JSON_BODIES * body + requests * SP_SMALL_BODY); /* their prompts, kept to the end */
    /* replies, and what is kept for them; being written or grown on a thread, they are not counted yet */
    total += SP_REPLIES * SP_REPLY_BYTES + requests * SP_REPLY_SHARE;
    total += (size_t)SP_HTTP_THREADS * REPLY_GROWTH * SP_REPLY_BYTES;
    /* apply: bodies, answers, one whose client left, and what the running job computes with */
    total += (2 * (size_t)SP_TENSOR_BODIES + 1 + SP_APPLY_WORK) * tensor + SP_APPLY_PLAN_BYTES;
    return total + ((size_t)SP_HTTP_THREADS + 2) * ((size_t)2 << 20);
}

size_t sp_server_ceiling_bytes(const sp_options *options, const sp_engine_info *info)
{
    return info->weight_bytes + info->kv_bytes + info->scratch_bytes + sp_graph_memory_bytes(options, info) +
           sp_server_memory_bytes(options);
}
