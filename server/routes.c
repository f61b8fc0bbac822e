/* The route table and dispatch (routes.h). */
#include "server/routes.h"

#include <string.h>

static const char *const apply_query[] = {"metrics", "model", NULL};

const sp_route sp_routes[] = {
    {"POST", "/v1/completions", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_completions, NULL},
    {"POST", "/completions", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_completions, NULL},
    {"POST", "/v1/chat/completions", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_chat, NULL},
    {"POST", "/chat/completions", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_chat, NULL},
    {"POST", "/v1/embeddings", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_embeddings, NULL},
    {"POST", "/embeddings", SP_ROUTE_OPENAI | SP_ROUTE_WORK, sp_api_embeddings, NULL},
    {"POST", "/tokenize", SP_ROUTE_OPENAI, sp_api_tokenize, NULL},
    {"POST", "/detokenize", SP_ROUTE_OPENAI, sp_api_detokenize, NULL},
    {"GET", "/tokenizer_info", SP_ROUTE_OPENAI, sp_api_tokenizer_info, NULL},
    {"GET", "/v1/models", SP_ROUTE_OPENAI, sp_api_models, NULL},
    {"GET", "/models", SP_ROUTE_OPENAI, sp_api_models, NULL},
    {"GET", "/v1/models/{model}", SP_ROUTE_OPENAI, sp_api_model, NULL},
    {"GET", "/models/{model}", SP_ROUTE_OPENAI, sp_api_model, NULL},
    {"POST", "/v1/score", SP_ROUTE_WORK, sp_api_score, NULL},
    {"GET", "/v1/attention/backends", 0, sp_api_backends, NULL},
    {"POST", "/v1/attention/apply", SP_ROUTE_BYTES | SP_ROUTE_WORK, sp_api_apply, apply_query},
    {"GET", "/v1/attention/schema", 0, sp_api_graph_schema, NULL},
    {"GET", "/v1/attention/compare", SP_ROUTE_QUERY, sp_api_capture_compare, NULL},
    {"POST", "/v1/attention/captures", SP_ROUTE_WORK, sp_api_capture_new, NULL},
    {"POST", "/v1/attention/captures/{id}/sweep", SP_ROUTE_WORK | SP_ROUTE_QUERY, sp_api_capture_post, NULL},
    {"GET", "/v1/attention/captures/{path}", SP_ROUTE_QUERY, sp_api_capture_get, NULL},
    {"DELETE", "/v1/attention/captures/{id}", SP_ROUTE_QUERY, sp_api_capture_delete, NULL},
    {"GET", "/v1/limits", 0, sp_api_limits, NULL},
    {"GET", "/openapi.json", 0, sp_api_openapi, NULL},
    {"GET", "/v1/requests", 0, sp_api_requests, NULL},
    {"DELETE", "/v1/requests/{id}", 0, sp_api_cancel, NULL},
    {"GET", "/health", SP_ROUTE_PUBLIC | SP_ROUTE_OPENAI, sp_api_health, NULL},
    {"GET", "/health/ready", SP_ROUTE_PUBLIC | SP_ROUTE_OPENAI, sp_api_health, NULL},
    {"GET", "/health/live", SP_ROUTE_PUBLIC | SP_ROUTE_OPENAI, sp_api_live, NULL},
    {"GET", "/v2/health/ready", SP_ROUTE_PUBLIC | SP_ROUTE_OPENAI, sp_api_health, NULL},
    {"GET", "/v2/health/live", SP_ROUTE_PUBLIC | SP_ROUTE_OPENAI, sp_api_live, NULL},
    {"GET", "/metrics", SP_ROUTE_OPENAI | SP_ROUTE_METRICS, sp_api_metrics, NULL},
};
const size_t sp_route_count = sizeof sp_routes / sizeof *sp_routes;

static bool path_matches(const char *pattern, const char *path, const char **rest)
{
    const char *open = strchr(pattern, '{');
    if (!open) return strcmp(pattern, path) == 0;
    size_t n = (size_t)(open - pattern);
    if (strncmp(pattern, path, n) != 0 || !path[n]) return false;
    if (strncmp(open, "{id}", 4) == 0) {
        size_t part = strcspn(path + n, "/");
        if (part == 0 || strcmp(path + n + part, open + 4) != 0) return false;
    }
    *rest = path + n;
    return true;
}

const sp_route *sp_route_find(const char *method, const char *path, const char **rest, char *allow,
                              size_t capacity)
{
    sp_buffer names;
    sp_buffer_lend(&names, allow, capacity - 1);
    for (size_t i = 0; i < sp_route_count; i++) {
        const sp_route *route = &sp_routes[i];
        if (!path_matches(route->path, path, rest)) continue;
        bool get = strcmp(route->method, "GET") == 0;
        if (strcmp(method, route->method) == 0 || (get && strcmp(method, "HEAD") == 0)) {
            allow[0] = 0;
            return route;
        }
        sp_buffer_format(&names, "%s%s", names.size ? ", " : "", get ? "GET, HEAD" : route->method);
    }
    allow[names.size] = 0;
    return NULL;
}
