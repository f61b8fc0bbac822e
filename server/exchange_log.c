/* The end of an exchange: its line in the log, text or JSON, and its place in the metrics. Prompts, answers,
 * queries and keys are never written; the log escapes control bytes and ill-formed UTF-8 itself. Tests:
 * tests/http/test_log.py */
#include <math.h>
#include <string.h>

#include "server/metrics.h"
#include "server/routes.h"
#include "server/state.h"

#define LOGGED_PATH 256

/* The path as it was sent, its beginning, without the query, which may hold what people take for secret.
 * Blanks, which the library lets through, would look like the end of the field. */
static void logged_path(const sp_exchange *exchange, char *out)
{
    size_t size = strcspn(exchange->uri, "?"), used = 0;
    for (size_t i = 0; i < size && i < LOGGED_PATH; i++) {
        if (exchange->uri[i] != ' ') {
            out[used++] = exchange->uri[i];
            continue;
        }
        memcpy(out + used, "%20", 3);
        used += 3;
    }
    out[used] = 0;
}

static void log_members(const sp_exchange *exchange)
{
    sp_json_writer writer;
    sp_buffer line;
    char path[3 * LOGGED_PATH + 1];
    logged_path(exchange, path);
    sp_buffer_init(&line, 8192);
    sp_json_writer_init(&writer, &line);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "message");
    sp_json_cstring(&writer, "http");
    sp_json_key(&writer, "id");
    sp_json_cstring(&writer, exchange->id);
    sp_json_key(&writer, "client");
    sp_json_cstring(&writer, exchange->conn->client);
    sp_json_key(&writer, "method");
    sp_json_cstring(&writer, exchange->method);
    sp_json_key(&writer, "path");
    sp_json_cstring(&writer, path);
    sp_json_key(&writer, "status");
    sp_json_uint(&writer, exchange->reply.status);
    sp_json_key(&writer, "aborted");
    sp_json_bool(&writer, !exchange->finished);
    sp_json_key(&writer, "bytes");
    sp_json_uint(&writer, exchange->bytes_out);
    sp_json_key(&writer, "seconds");
    sp_json_number(&writer, round((sp_now() - exchange->started) * 1e6) * 1e-6);
    /* without the braces: the log puts time and level before */
    if (!line.failed) sp_log_members(SP_LOG_INFO, line.data + 1, line.size - 1);
    sp_buffer_fini(&line);
}

void sp_exchange_log(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    unsigned status = exchange->reply.status, class = status / 100;
    size_t route = exchange->route ? (size_t)(exchange->route - sp_routes) : SP_MAX_ROUTES;
    if (!exchange->finished && !status) class = 0;
    sp_metrics_count_reply(server, route, class < SP_STATUS_CLASSES ? class : 0,
                           sp_now() - exchange->started);
    if (sp_log_is_json()) {
        log_members(exchange);
        return;
    }
    char path[3 * LOGGED_PATH + 1];
    logged_path(exchange, path);
    sp_log(SP_LOG_INFO, "http id=%s client=%s method=%s path=%s status=%u%s bytes=%llu seconds=%.3f",
           exchange->id, exchange->conn->client, exchange->method, path, status,
           exchange->finished ? "" : " aborted", (unsigned long long)exchange->bytes_out,
           sp_now() - exchange->started);
}
