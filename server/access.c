/* Host, keys and CORS (access.h). */
#include "server/access.h"

#include <string.h>

#include "server/routes.h"
#include "server/state.h"

bool sp_access_host(sp_exchange *exchange)
{
    const sp_options *options = exchange->server->options;
    if (options->api_key_file && !options->allowed_host) return true;
    if (sp_gate_host_allowed(exchange->gate.host, options->allowed_host, options->host)) return true;
    sp_exchange_refuse(exchange, 403, NULL, "this Host is not served; see --allowed-host");
    return false;
}

/* --- CORS --- */
bool sp_access_is_origin(const char *text, size_t size)
{
    const char *separator = memchr(text, ':', size);
    if (size == 1 && text[0] == '*') return true;
    if (!separator || separator == text || size - (size_t)(separator - text) < 4) return false;
    if (memcmp(separator, "://", 3) != 0) return false;
    const char *host = separator + 3;
    for (const char *c = host; c < text + size; c++) {
        if (*c <= ' ' || *c > '~' || strchr("/?#\\@\"", *c)) return false;
    }
    return true;
}

/* The entry of the list that names the origin; NULL: none. */
static const char *find_origin(const char *list, const char *origin)
{
    size_t n = strlen(origin);
    while (n && *list) {
        list += strspn(list, ", ");
        size_t size = strcspn(list, ", ");
        if ((size == 1 && *list == '*') || (size == n && memcmp(list, origin, n) == 0)) return list;
        list += size;
    }
    return NULL;
}

bool sp_access_cors(sp_exchange *exchange)
{
    const char *list = exchange->server->options->cors_origin;
    if (!list) return false;
    const char *found = find_origin(list, exchange->gate.origin);
    exchange->cors = !found ? SP_CORS_OTHER : *found == '*' ? SP_CORS_ANY : SP_CORS_LISTED;
    if (strcmp(exchange->method, "OPTIONS") != 0) return false;
    exchange->preflight = exchange->discard = true;
    exchange->limit = (size_t)exchange->server->options->max_body_bytes;
    exchange->reply.status = 200;
    exchange->reply.content_type = "text/plain; charset=utf-8";
    return true;
}

/* --- keys --- */
static bool find_key(sp_exchange *exchange, sp_gate_key *key)
{
    sp_server *server = exchange->server;
    if (key->size == 0) return false;
    pthread_mutex_lock(&server->keys_lock);
    bool found = sp_keys_find(server->keys, key->text, key->size, exchange->owner);
    pthread_mutex_unlock(&server->keys_lock);
    return found;
}

bool sp_access_key(sp_exchange *exchange, const sp_route *route)
{
    const sp_options *options = exchange->server->options;
    sp_gate *gate = &exchange->gate;
    if (!options->api_key_file) return true;
    bool known = find_key(exchange, &gate->bearer) || find_key(exchange, &gate->api_key);
    explicit_bzero(&gate->bearer, sizeof gate->bearer);
    explicit_bzero(&gate->api_key, sizeof gate->api_key);
    if (known) return true;
    memset(exchange->owner, 0, sizeof exchange->owner);
    if (route && (route->flags & SP_ROUTE_PUBLIC)) return true;
    if (route && (route->flags & SP_ROUTE_METRICS) && options->public_metrics) return true;
    exchange->reply.allow[0] = 0;
    sp_exchange_refuse(exchange, 401, NULL,
                       gate->authorizations || gate->api_keys
                           ? "this API key is not valid here"
                           : "an API key is needed: Authorization: Bearer KEY");
    return false;
}
