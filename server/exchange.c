/* The exchange without its transport: what is decided from a request head, what handlers call.
 *
 * Order of refusals: gate 400, Host 403, key 401, 404 or 405, 411, 413, 415, then (with the body) 400, then
 * 429 or 503. A refusal is only filled in here; http.c says how it travels. Tests: tests/http/test_gate.py */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/access.h"
#include "server/errors.h"
#include "server/routes.h"
#include "server/state.h"

const char *sp_exchange_id(const sp_exchange *exchange)
{
    return exchange->id;
}

const char *sp_exchange_hex(const sp_exchange *exchange)
{
    return exchange->hex;
}

const char *sp_exchange_rest(const sp_exchange *exchange)
{
    return exchange->rest;
}

uint64_t sp_exchange_owner(const sp_exchange *exchange)
{
    uint64_t owner;
    memcpy(&owner, exchange->owner, sizeof owner);
    return owner;
}

const char *sp_exchange_accept(const sp_exchange *exchange)
{
    return exchange->gate.accept;
}

const char *sp_exchange_none_match(const sp_exchange *exchange)
{
    return exchange->gate.if_none_match;
}

sp_buffer *sp_exchange_body(sp_exchange *exchange)
{
    return &exchange->body;
}

sp_server *sp_exchange_server(const sp_exchange *exchange)
{
    return exchange->server;
}

const sp_options *sp_exchange_options(const sp_exchange *exchange)
{
    return exchange->server->options;
}

sp_engine *sp_exchange_engine(const sp_exchange *exchange)
{
    return atomic_load(&exchange->server->engine);
}

sp_reply *sp_exchange_reply(sp_exchange *exchange)
{
    return &exchange->reply;
}

void *sp_exchange_state(const sp_exchange *exchange)
{
    return exchange->state;
}

void sp_exchange_set_state(sp_exchange *exchange, void *state, void (*free_state)(void *state))
{
    exchange->state = state;
    exchange->free_state = free_state;
}

void sp_exchange_wait(sp_exchange *exchange, sp_poll_fn poll)
{
    exchange->poll = poll;
}

void sp_exchange_stream(sp_exchange *exchange, const char *content_type, sp_pull_fn pull)
{
    exchange->reply.content_type = content_type;
    exchange->pull = pull;
}

void sp_exchange_wake(sp_exchange *exchange)
{
    pthread_mutex_lock(&exchange->server->lock);
    sp_http_wake(exchange);
    pthread_mutex_unlock(&exchange->server->lock);
}

bool sp_exchange_left(const sp_exchange *exchange)
{
    pthread_mutex_lock(&exchange->server->lock);
    bool left = exchange->left;
    pthread_mutex_unlock(&exchange->server->lock);
    return left;
}

sp_flag *sp_exchange_flag(sp_exchange *exchange)
{
    pthread_mutex_lock(&exchange->server->lock);
    if (!exchange->abandoned) exchange->abandoned = sp_flag_new();
    if (exchange->left || exchange->cancelled) sp_flag_raise(exchange->abandoned);
    sp_flag *flag = exchange->abandoned;
    pthread_mutex_unlock(&exchange->server->lock);
    return flag;
}

void sp_exchange_abandon(sp_exchange *exchange)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_flag_raise(exchange->abandoned);
    if (exchange->abandoned && engine) sp_engine_wake(engine);
    sp_http_wake(exchange);
}

static sp_phase phase_of(const sp_exchange *exchange)
{
    pthread_mutex_lock(&exchange->server->lock);
    sp_phase phase = exchange->server->phase;
    pthread_mutex_unlock(&exchange->server->lock);
    return phase;
}

sp_status sp_exchange_admit(const sp_exchange *exchange, sp_error *error)
{
    if (exchange->conn->refused) return sp_fail(error, SP_UNAVAILABLE, "Too many connections; try again");
    if (!sp_exchange_engine(exchange)) return sp_fail(error, SP_UNAVAILABLE, "Loading model");
    bool stopping = (exchange->route->flags & SP_ROUTE_WORK) && phase_of(exchange) >= SP_DRAINING;
    return stopping ? sp_fail(error, SP_UNAVAILABLE, "The server is stopping") : SP_OK;
}

void sp_exchange_track(sp_exchange *exchange, const char *id)
{
    pthread_mutex_lock(&exchange->server->lock);
    snprintf(exchange->public_id, sizeof exchange->public_id, "%s%s", id ? id : "req-",
             id ? "" : exchange->hex);
    exchange->progress = "waiting";
    pthread_mutex_unlock(&exchange->server->lock);
}

void sp_exchange_progress(sp_exchange *exchange, const char *state, uint64_t tokens)
{
    pthread_mutex_lock(&exchange->server->lock);
    exchange->progress = state;
    exchange->tokens = tokens;
    pthread_mutex_unlock(&exchange->server->lock);
}

sp_status sp_exchange_cut(const sp_exchange *exchange, sp_error *error)
{
    pthread_mutex_lock(&exchange->server->lock);
    bool cancelled = exchange->cancelled;
    pthread_mutex_unlock(&exchange->server->lock);
    if (cancelled) return sp_fail(error, SP_CANCELLED, "the request was cancelled");
    if (phase_of(exchange) < SP_CUTTING) return SP_OK;
    return sp_fail(error, SP_UNAVAILABLE, "The server is stopping; the request was cut");
}

/* --- query --- */
/* The next name=value of a query; false at its end. */
static bool next_pair(const char **query, const char **name, size_t *name_size, const char **value,
                      size_t *size)
{
    while (**query == '&') (*query)++;
    if (!**query) return false;
    size_t n = strcspn(*query, "&"), equals = strcspn(*query, "=&");
    *name = *query;
    *name_size = equals;
    *value = *query + equals + (equals < n);
    *size = n - equals - (equals < n);
    *query += n;
    return true;
}

/* A value of the query, decoded into its own place of `values`; NULL: a bad escape or a control byte. */
static const char *decode(sp_exchange *exchange, const char *value, size_t size)
{
    char *decoded = exchange->values + (value - exchange->query); /* as long as the query, with a NUL */
    return sp_gate_decode(value, size, true, decoded, size + 1) ? decoded : NULL;
}

const char *sp_exchange_query(sp_exchange *exchange, const char *name)
{
    const char *query = exchange->query, *key, *value;
    size_t key_size, size;
    while (query && next_pair(&query, &key, &key_size, &value, &size)) {
        if (key_size != strlen(name) || memcmp(key, name, key_size) != 0) continue;
        const char *decoded = decode(exchange, value, size);
        return decoded ? decoded : "";
    }
    return NULL;
}

bool sp_exchange_only(sp_exchange *exchange, const char *const *names)
{
    const char *query = exchange->query, *key, *value;
    size_t key_size, size;
    uint64_t seen = 0; /* bit i: names[i] was given */
    while (query && next_pair(&query, &key, &key_size, &value, &size)) {
        size_t i = 0;
        while (names && names[i] && (strlen(names[i]) != key_size || memcmp(names[i], key, key_size) != 0))
            i++;
        bool known = names && names[i], again = known && i < 64 && seen >> i & 1;
        if (known && i < 64) seen |= (uint64_t)1 << i;
        if (known && !again && decode(exchange, value, size)) continue;
        char name[65];
        snprintf(name, sizeof name, "%.*s", (int)(key_size < 64 ? key_size : 64), key);
        sp_exchange_refuse(exchange, 400, name,
                           !known  ? "unknown query parameter"
                           : again ? "given twice"
                                   : "a bad escape, a control byte or ill-formed UTF-8");
        return false;
    }
    return true;
}

/* Own routes take no query parameter they don't know. */
static bool check_query(sp_exchange *exchange)
{
    if (exchange->route->flags & (SP_ROUTE_OPENAI | SP_ROUTE_QUERY)) return true;
    return sp_exchange_only(exchange, exchange->route->query);
}

/* --- replies --- */
/* In place of what was begun, with its headers. */
static void begin_body(sp_exchange *exchange, unsigned status)
{
    sp_reply *reply = &exchange->reply;
    sp_buffer_fini(&reply->body);
    sp_buffer_init(&reply->body, SP_REPLY_BYTES);
    reply->status = status;
    reply->content_type = "application/json; charset=utf-8";
    reply->location[0] = reply->etag[0] = reply->scale[0] = 0;
}

void sp_exchange_json(sp_exchange *exchange, unsigned status, sp_json_writer *writer)
{
    begin_body(exchange, status);
    sp_json_writer_init(writer, &exchange->reply.body);
}

/* What a status asks for beside the envelope. */
static void set_status_headers(sp_exchange *exchange, unsigned status)
{
    exchange->reply.status = status;
    if (status == 429 || status == 503) {
        exchange->reply.retry_after = (uint32_t)sp_server_retry_seconds(exchange->server);
    }
    if (status == 500 || status == 501) exchange->reply.no_retry = true;
}

void sp_exchange_refuse(sp_exchange *exchange, unsigned status, const char *param, const char *format, ...)
{
    sp_json_writer writer;
    sp_error text;
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    (void)sp_fail_param(&text, SP_INVALID, param ? param : "", "%s", message); /* escapes control bytes */
    sp_exchange_json(exchange, status, &writer);
    sp_error_write(&writer, status, NULL, text.param, text.message);
    set_status_headers(exchange, status);
}

void sp_exchange_fail(sp_exchange *exchange, const sp_error *error)
{
    unsigned status = sp_error_http_status(error->status);
    const char *param = error->status == SP_UNAVAILABLE ? "" : error->param; /* then a limit of ours */
    sp_json_writer writer;
    sp_exchange_json(exchange, status, &writer);
    sp_error_write(&writer, status, NULL, param, error->message);
    set_status_headers(exchange, status);
    if (error->status != SP_UNAVAILABLE || strcmp(error->param, "request_timeout") != 0) return;
    exchange->reply.no_retry = true; /* it would run too long again */
    exchange->reply.retry_after = 0;
}

/* --- the request head --- */
/* Absolute form, http://HOST/path: HOST must be what the Host header says. */
static bool skip_authority(sp_exchange *exchange, const char **uri)
{
    if (strncasecmp(*uri, "http://", 7) != 0) return true;
    size_t n = strcspn(*uri + 7, "/?");
    bool same = n == strlen(exchange->gate.host) && strncasecmp(*uri + 7, exchange->gate.host, n) == 0;
    if (!same) sp_exchange_refuse(exchange, 400, NULL, "the request's address and its Host differ");
    *uri += 7 + n;
    return same;
}

static bool split_uri(sp_exchange *exchange)
{
    const char *uri = exchange->uri;
    if (!skip_authority(exchange, &uri)) return false;
    size_t n = strcspn(uri, "?");
    exchange->query = uri[n] ? uri + n + 1 : NULL;
    if (n > SP_MAX_PATH) {
        sp_exchange_refuse(exchange, 414, NULL, "the path is longer than %d bytes", SP_MAX_PATH);
        return false;
    }
    exchange->path = sp_arena_alloc(&exchange->arena, n + 1, 1);
    if (exchange->query) exchange->values = sp_arena_alloc(&exchange->arena, strlen(exchange->query) + 1, 1);
    if (!exchange->path || (exchange->query && !exchange->values)) {
        sp_exchange_refuse(exchange, 503, NULL, "no memory for the request");
        return false;
    }
    if (sp_gate_decode(uri, n, false, exchange->path, n + 1)) return true;
    sp_exchange_refuse(exchange, 400, NULL,
                       "the path holds a bad escape, a control byte or a \"..\" segment");
    return false;
}

/* Preflights, keys, then what there is: nobody without a key learns which paths exist. */
static bool find_route(sp_exchange *exchange)
{
    if (sp_access_cors(exchange)) return false;
    const sp_route *route = sp_route_find(exchange->method, exchange->path, &exchange->rest,
                                          exchange->reply.allow, sizeof exchange->reply.allow);
    if (!sp_access_key(exchange, route)) return false;
    exchange->route = route;
    if (exchange->route) return true;
    if (exchange->reply.allow[0]) {
        sp_exchange_refuse(exchange, 405, NULL, "%s does not take %s; allowed: %s", exchange->path,
                           exchange->method, exchange->reply.allow);
    } else {
        sp_exchange_refuse(exchange, 404, NULL, "there is no %.200s here", exchange->path);
    }
    return false;
}

static bool check_body_head(sp_exchange *exchange)
{
    const sp_options *options = exchange->server->options;
    const sp_gate *gate = &exchange->gate;
    bool post = strcmp(exchange->route->method, "POST") == 0, bytes = exchange->route->flags & SP_ROUTE_BYTES;
    exchange->limit = (size_t)(bytes ? options->max_tensor_bytes : options->max_body_bytes);
    exchange->discard = !post;
    if (post && !gate->lengths && !gate->codings) {
        sp_exchange_refuse(exchange, 411, NULL, "send Content-Length or Transfer-Encoding: chunked");
    } else if (gate->length > exchange->limit) {
        sp_exchange_refuse(exchange, 413, NULL, "the body is longer than %zu bytes (%s)", exchange->limit,
                           bytes ? "max_tensor_bytes" : "max_body_bytes");
    } else if (post && (gate->types != 1 || gate->encoded ||
                        strcmp(gate->type, bytes ? "application/octet-stream" : "application/json") != 0)) {
        sp_exchange_refuse(exchange, 415, NULL, "the body must be %s, not encoded",
                           bytes ? "application/octet-stream" : "application/json");
    }
    sp_buffer_init(&exchange->body, (gate->length ? gate->length : exchange->limit) + 1);
    return !exchange->reply.status;
}

void sp_exchange_check(sp_exchange *exchange, bool http_1_1)
{
    const char *fault = sp_gate_finish(&exchange->gate, http_1_1);
    if (exchange->gate.request_id[0])
        snprintf(exchange->id, sizeof exchange->id, "%s", exchange->gate.request_id);
    if (fault) {
        sp_exchange_refuse(exchange, 400, NULL, "malformed request: %s", fault);
        exchange->reply.close = true;
    } else if (sp_access_host(exchange) && split_uri(exchange) && find_route(exchange) &&
               check_body_head(exchange)) {
        check_query(exchange);
    }
}

/* What bodies of its route count against. */
static size_t *budget_of(const sp_exchange *exchange)
{
    bool tensor = exchange->route && (exchange->route->flags & SP_ROUTE_BYTES);
    return tensor ? &exchange->server->tensor_bytes : &exchange->server->json_bytes;
}

void sp_exchange_unreserve(sp_exchange *exchange)
{
    *budget_of(exchange) -= exchange->reserved;
    exchange->reserved = 0;
}

bool sp_exchange_reserve(sp_exchange *exchange, size_t bytes)
{
    sp_server *server = exchange->server;
    const sp_options *options = server->options;
    bool tensor = exchange->route->flags & SP_ROUTE_BYTES;
    size_t *used = budget_of(exchange);
    size_t budget = tensor ? (size_t)options->max_tensor_bytes * SP_TENSOR_BODIES
                           : (size_t)options->max_body_bytes * SP_JSON_BODIES;
    size_t counted = bytes > SP_SMALL_BODY ? bytes - SP_SMALL_BODY : 0;
    pthread_mutex_lock(&server->lock);
    bool fits = counted <= exchange->reserved || counted - exchange->reserved <= budget - *used;
    if (fits && counted > exchange->reserved) {
        *used += counted - exchange->reserved;
        exchange->reserved = counted;
    }
    pthread_mutex_unlock(&server->lock);
    return fits;
}

bool sp_exchange_hold(sp_exchange *exchange, size_t bytes)
{
    sp_server *server = exchange->server;
    size_t all = bytes + exchange->out.capacity;
    if (!exchange->route || !(exchange->route->flags & SP_ROUTE_BYTES)) all += exchange->reply.body.capacity;
    size_t counted = all > SP_SMALL_REPLY ? all - SP_SMALL_REPLY : 0, budget = SP_REPLIES * SP_REPLY_BYTES;
    if (all < SP_LARGE_REPLY) budget += sp_server_max_requests(server->options) * SP_REPLY_SHARE;
    pthread_mutex_lock(&server->lock);
    size_t others = server->reply_bytes - exchange->held;
    bool fits = counted <= exchange->held || (others <= budget && counted <= budget - others);
    if (fits) {
        server->reply_bytes = others + counted;
        exchange->held = counted;
        exchange->kept = bytes;
    }
    pthread_mutex_unlock(&server->lock);
    return fits;
}

static void cors_headers(const sp_exchange *exchange,
                         void (*add)(void *context, const char *name, const char *value), void *context)
{
    bool any = exchange->cors == SP_CORS_ANY;
    if (exchange->cors == SP_CORS_NONE) return;
    if (!any) add(context, "Vary", "Origin");
    if (exchange->cors == SP_CORS_OTHER) return;
    add(context, "Access-Control-Allow-Origin", any ? "*" : exchange->gate.origin);
    if (!any) add(context, "Access-Control-Allow-Credentials", "true");
    if (!exchange->preflight) {
        add(context, "Access-Control-Expose-Headers", "x-request-id, retry-after, x-should-retry");
        return;
    }
    add(context, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE");
    if (exchange->gate.wanted[0]) add(context, "Access-Control-Allow-Headers", exchange->gate.wanted);
    add(context, "Access-Control-Max-Age", "600");
}

void sp_exchange_headers(const sp_exchange *exchange,
                         void (*add)(void *context, const char *name, const char *value), void *context)
{
    const sp_reply *reply = &exchange->reply;
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%u", reply->retry_after);
    add(context, "Content-Type", reply->content_type);
    add(context, "x-request-id", exchange->id);
    if (reply->status == 401) add(context, "WWW-Authenticate", "Bearer");
    if (reply->allow[0]) add(context, "Allow", reply->allow);
    if (reply->retry_after) add(context, "Retry-After", seconds);
    if (reply->no_retry) add(context, "x-should-retry", "false");
    if (reply->location[0]) add(context, "Location", reply->location);
    if (reply->etag[0]) add(context, "ETag", reply->etag);
    if (reply->scale[0]) add(context, "X-Scale", reply->scale);
    if (exchange->pull) {
        add(context, "Cache-Control", "no-cache");
        add(context, "X-Accel-Buffering", "no");
    }
    cors_headers(exchange, add, context);
}

static void add_line(void *context, const char *name, const char *value)
{
    sp_buffer_format(context, "%s: %s\r\n", name, value);
}

void sp_exchange_raw(sp_exchange *exchange, sp_buffer *out)
{
    const sp_reply *reply = &exchange->reply;
    sp_buffer_format(out, "HTTP/1.1 %u %s\r\nContent-Length: %zu\r\n", reply->status,
                     sp_http_reason(reply->status), reply->body.size);
    sp_exchange_headers(exchange, add_line, out);
    sp_buffer_text(out, "Connection: close\r\n\r\n");
    if (strcmp(exchange->method, "HEAD") != 0) sp_buffer_append(out, reply->body.data, reply->body.size);
}

void sp_exchange_free(sp_exchange *exchange)
{
    if (exchange->free_state) exchange->free_state(exchange->state);
    sp_flag_release(exchange->abandoned);
    sp_buffer_fini(&exchange->body);
    sp_buffer_fini(&exchange->reply.body);
    sp_buffer_fini(&exchange->out);
    sp_arena_fini(&exchange->arena);
    sp_free(exchange->uri);
    sp_free(exchange);
}
