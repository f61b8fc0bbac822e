/* The metrics page (metrics.h). Values come from sp_engine_stats at the scrape; before a model is loaded
 * there are only HTTP counters. */
#include "server/metrics.h"

#include <string.h>

#include "server/graph_call.h"
#include "server/jobs.h"
#include "server/routes.h"
#include "server/state.h"

typedef struct page {
    sp_buffer *out;
    const char *model; /* escaped label value */
} page;

static void head(page *p, const char *name, const char *type, const char *help)
{
    sp_buffer_format(p->out, "# HELP sparsed_%s %s\n# TYPE sparsed_%s %s\n", name, help, name, type);
}

static void scalar(page *p, const char *name, const char *type, const char *help, double value)
{
    head(p, name, type, help);
    sp_buffer_format(p->out, "sparsed_%s{model_name=\"%s\"} %.17g\n", name, p->model, value);
}

static void histogram(page *p, const char *name, const char *help, const sp_histogram *h)
{
    uint64_t below = 0;
    head(p, name, "histogram", help);
    for (size_t i = 0; i < h->n; i++) {
        below += h->counts[i];
        sp_buffer_format(p->out, "sparsed_%s_bucket{model_name=\"%s\",le=\"%g\"} %llu\n", name, p->model,
                         h->bounds[i], (unsigned long long)below);
    }
    below += h->counts[h->n];
    sp_buffer_format(p->out, "sparsed_%s_bucket{model_name=\"%s\",le=\"+Inf\"} %llu\n", name, p->model,
                     (unsigned long long)below);
    sp_buffer_format(p->out,
                     "sparsed_%s_sum{model_name=\"%s\"} %.9g\nsparsed_%s_count{model_name=\"%s\"} %llu\n",
                     name, p->model, h->sum, name, p->model, (unsigned long long)below);
}

static void finished(page *p, const char *reason, uint64_t count)
{
    sp_buffer_format(p->out, "sparsed_request_success_total{model_name=\"%s\",finished_reason=\"%s\"} %llu\n",
                     p->model, reason, (unsigned long long)count);
}

static void engine_part(page *p, const sp_engine_info *info, const sp_stats *s)
{
    scalar(p, "num_requests_running", "gauge", "Requests being prefilled or decoded.", s->running);
    scalar(p, "num_requests_waiting", "gauge", "Requests in the queue.", s->waiting);
    scalar(p, "kv_pages_used", "gauge", "KV pages owned by running requests.", s->kv_pages_used);
    scalar(p, "kv_pages_cached", "gauge", "KV pages kept for reuse.", s->kv_pages_cached);
    scalar(p, "kv_cache_usage_perc", "gauge", "Share of the KV pages in use, 0 to 1.",
           info->kv_pages ? (double)s->kv_pages_used / (double)info->kv_pages : 0.0);
    scalar(p, "prompt_tokens_total", "counter", "Prompt tokens processed.", (double)s->prompt_tokens);
    scalar(p, "generation_tokens_total", "counter", "Tokens generated.", (double)s->generation_tokens);
    head(p, "request_success_total", "counter", "Requests ended, by reason.");
    finished(p, "stop", s->finished_stop);
    finished(p, "length", s->finished_length);
    finished(p, "error", s->finished_error);
    finished(p, "abort", s->finished_cancelled);
    histogram(p, "time_to_first_token_seconds", "Arrival to first token.", &s->time_to_first_token);
    histogram(p, "inter_token_latency_seconds", "Time between tokens.", &s->inter_token);
    histogram(p, "e2e_request_latency_seconds", "Arrival to end.", &s->e2e);
    histogram(p, "request_queue_time_seconds", "Time in the queue.", &s->queue_time);
    histogram(p, "request_prefill_time_seconds", "Time in prefill.", &s->prefill_time);
    histogram(p, "request_decode_time_seconds", "Time in decode.", &s->decode_time);
}

/* Backslash, quote and line end, as the format asks of label values. */
static void escape_label(const char *text, sp_buffer *out)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') sp_buffer_text(out, "\\");
        sp_buffer_append(out, *text == '\n' ? "\\n" : text, *text == '\n' ? 2 : 1);
    }
    sp_buffer_append(out, "", 1);
}

static void http_part(page *p, sp_server *server)
{
    static const char *const classes[SP_STATUS_CLASSES] = {"aborted", "1xx", "2xx", "3xx", "4xx", "5xx"};
    head(p, "http_requests_total", "counter", "HTTP requests, by route and status class.");
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i <= SP_MAX_ROUTES; i++) {
        bool known = i < sp_route_count;
        if (!known && i < SP_MAX_ROUTES) continue;
        for (size_t c = 0; c < SP_STATUS_CLASSES; c++) {
            if (!server->http_requests[i][c]) continue;
            sp_buffer_format(p->out,
                             "sparsed_http_requests_total{handler=\"%s\",method=\"%s\",status=\"%s\"} %llu\n",
                             known ? sp_routes[i].path : "none", known ? sp_routes[i].method : "any",
                             classes[c], (unsigned long long)server->http_requests[i][c]);
        }
    }
    pthread_mutex_unlock(&server->lock);
}

void sp_metrics_write(sp_server *server, sp_buffer *out)
{
    sp_engine *engine = atomic_load(&server->engine);
    page p = {.out = out, .model = ""};
    if (engine) {
        const sp_engine_info *info = sp_engine_get_info(engine);
        sp_buffer label;
        sp_stats stats;
        size_t running, waiting;
        sp_engine_stats(engine, &stats);
        sp_jobs_count(server->jobs, &running, &waiting);
        stats.running += (uint32_t)running;
        stats.waiting += (uint32_t)waiting;
        sp_buffer_init(&label, 4096);
        escape_label(info->model_name, &label);
        p.model = label.failed ? "" : label.data;
        engine_part(&p, info, &stats);
        scalar(&p, "graph_jobs_running", "gauge", "Graph queries that compute now.",
               (double)sp_graph_pool_running(server->graphs));
        sp_buffer_fini(&label);
    }
    http_part(&p, server);
}
