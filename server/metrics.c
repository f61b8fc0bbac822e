/* The metrics page (metrics.h). Values come from sp_engine_stats at the scrape; before a model is loaded
 * there are only HTTP counters. */
#include "server/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/graph_call.h"
#include "server/jobs.h"
#include "server/routes.h"
#include "server/state.h"

static const double duration_bounds[SP_DURATION_BOUNDS] = {.005, .01, .025, .05, .1, .25, .5,  1,
                                                           2.5,  5,   10,   30,  60, 120, 300, 600};

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

/* Labels beside the model's: name="value" pairs with a comma in front. */
static void labelled(page *p, const char *name, const char *labels, double value)
{
    sp_buffer_format(p->out, "sparsed_%s{model_name=\"%s\"%s} %.17g\n", name, p->model, labels, value);
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
    histogram(p, "request_inference_time_seconds", "Time from admission to the end.", &s->inference_time);
    histogram(p, "request_prompt_tokens", "Prompt tokens of a request.", &s->prompt_length);
    histogram(p, "request_generation_tokens", "Tokens that a request was given.", &s->generation_length);
    histogram(p, "request_params_max_tokens", "Tokens that a request asked for.", &s->max_tokens);
    histogram(p, "iteration_tokens", "Rows of a step of the engine.", &s->step_tokens);
    scalar(p, "num_preemptions_total", "counter",
           "Requests put back into the queue: never, memory is reserved at admission.", 0);
    scalar(p, "prefix_cache_queries_total", "counter", "Prompt tokens that could have been reused.",
           (double)s->prefix_queries);
    scalar(p, "prefix_cache_hits_total", "counter", "Prompt tokens that were reused.",
           (double)s->prefix_hits);
}

/* One counter of attention, a line a backend and phase. */
static void attention_counter(page *p, const sp_stats *s, const char *name, const char *help,
                              double (*value)(const sp_attention_phase *phase))
{
    head(p, name, "counter", help);
    for (size_t i = 0; sp_backends[i] && i < SP_STATS_BACKENDS; i++) {
        char labels[128];
        snprintf(labels, sizeof labels, ",backend=\"%s\",phase=\"prefill\"", sp_backends[i]->name);
        labelled(p, name, labels, value(&s->prefill[i]));
        snprintf(labels, sizeof labels, ",backend=\"%s\",phase=\"decode\"", sp_backends[i]->name);
        labelled(p, name, labels, value(&s->decode[i]));
    }
}

static double tokens_of(const sp_attention_phase *phase)
{
    return (double)phase->tokens;
}

static double edges_of(const sp_attention_phase *phase)
{
    return (double)phase->edges;
}

static double pairs_of(const sp_attention_phase *phase)
{
    return (double)phase->pairs;
}

static double predict_of(const sp_attention_phase *phase)
{
    return phase->predict_seconds;
}

static double attend_of(const sp_attention_phase *phase)
{
    return phase->attend_seconds;
}

/* edges over pairs is the density that was run. */
static void attention_part(page *p, const sp_stats *s)
{
    attention_counter(p, s, "attention_tokens_total", "Query tokens, by backend and phase.", tokens_of);
    attention_counter(p, s, "attention_edges_total",
                      "Query-key pairs that were computed, of all layers and heads.", edges_of);
    attention_counter(p, s, "attention_pairs_total", "Query-key pairs that dense attention would compute.",
                      pairs_of);
    attention_counter(p, s, "attention_predict_seconds_total", "Time choosing the pairs.", predict_of);
    attention_counter(p, s, "attention_attend_seconds_total", "Time computing them.", attend_of);
}

static void info_part(page *p, const sp_options *options, const sp_engine_info *info)
{
    char labels[160];
    snprintf(labels, sizeof labels, ",block_size=\"%zu\",num_blocks=\"%zu\",cache_dtype=\"%s\"",
             info->page_tokens, info->kv_pages, sp_dtype_name(info->kv_type));
    head(p, "cache_config_info", "gauge", "The KV cache; always 1.");
    labelled(p, "cache_config_info", labels, 1);
    snprintf(labels, sizeof labels, ",version=\"%s\",device=\"%s\",level=\"%s\"", SPARSED_VERSION,
             info->device, info->level);
    head(p, "build_info", "gauge", "The program; always 1.");
    labelled(p, "build_info", labels, 1);
    scalar(p, "memory_ceiling_bytes", "gauge", "What the process may take at most, as printed at start.",
           (double)sp_server_ceiling_bytes(options, info));
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

/* --- the process, under the names that Prometheus clients use --- */
static void process_line(page *p, const char *name, const char *type, const char *help, double value)
{
    sp_buffer_format(p->out, "# HELP process_%s %s\n# TYPE process_%s %s\nprocess_%s %.17g\n", name, help,
                     name, type, name, value);
}

static double open_files(void)
{
    double n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder)) n++;
    if (folder) closedir(folder);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the folder itself */
}

static void process_part(page *p)
{
    struct rusage used;
    struct rlimit files = {0};
    unsigned long long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm && fscanf(statm, "%*u %llu", &pages) != 1) pages = 0;
    if (statm) fclose(statm);
    getrusage(RUSAGE_SELF, &used);
    getrlimit(RLIMIT_NOFILE, &files);
    double seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                     1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    process_line(p, "resident_memory_bytes", "gauge", "Resident memory.",
                 (double)pages * (double)sysconf(_SC_PAGESIZE));
    process_line(p, "cpu_seconds_total", "counter", "CPU time, user and system.", seconds);
    process_line(p, "open_fds", "gauge", "Open file descriptors.", open_files());
    process_line(p, "max_fds", "gauge", "How many there may be.", (double)files.rlim_cur);
    head(p, "log_lines_lost_total", "counter", "Lines of the log that could not be written.");
    sp_buffer_format(p->out, "sparsed_log_lines_lost_total %llu\n", (unsigned long long)sp_log_lost());
}

/* --- HTTP --- */
static void duration_part(page *p, const sp_server *server)
{
    head(p, "http_request_duration_seconds", "histogram",
         "HTTP requests from the request line to the last byte, by route.");
    for (size_t i = 0; i <= SP_MAX_ROUTES; i++) {
        const sp_durations *d = &server->durations[i];
        const char *handler = i < sp_route_count ? sp_routes[i].path : "none";
        const char *method = i < sp_route_count ? sp_routes[i].method : "any";
        uint64_t below = 0;
        char labels[160];
        if (!d->total) continue;
        snprintf(labels, sizeof labels, "handler=\"%s\",method=\"%s\"", handler, method);
        for (size_t b = 0; b <= SP_DURATION_BOUNDS; b++) {
            char bound[16] = "+Inf";
            if (b < SP_DURATION_BOUNDS) snprintf(bound, sizeof bound, "%g", duration_bounds[b]);
            below += d->counts[b];
            sp_buffer_format(p->out, "sparsed_http_request_duration_seconds_bucket{%s,le=\"%s\"} %llu\n",
                             labels, bound, (unsigned long long)below);
        }
        sp_buffer_format(p->out,
                         "sparsed_http_request_duration_seconds_sum{%s} %.9g\n"
                         "sparsed_http_request_duration_seconds_count{%s} %llu\n",
                         labels, d->sum, labels, (unsigned long long)d->total);
    }
}

/* request_params_n: known before a request is split into choices. */
static void choices_part(page *p, const sp_server *server)
{
    static const double bounds[SP_N_BOUNDS] = {1, 2, 5, 10, 20};
    sp_histogram h = {.bounds = bounds, .n = SP_N_BOUNDS, .sum = (double)server->params_n_sum};
    memcpy(h.counts, server->params_n, sizeof server->params_n);
    histogram(p, "request_params_n", "Choices that a request asked for.", &h);
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
    duration_part(p, server);
    size_t connections = server->n_conns;
    pthread_mutex_unlock(&server->lock);
    head(p, "http_connections", "gauge", "Open connections.");
    sp_buffer_format(p->out, "sparsed_http_connections %zu\n", connections);
}

void sp_metrics_count_choices(sp_server *server, uint32_t n)
{
    static const uint32_t bounds[SP_N_BOUNDS] = {1, 2, 5, 10, 20};
    size_t bucket = 0;
    while (bucket < SP_N_BOUNDS && n > bounds[bucket]) bucket++;
    pthread_mutex_lock(&server->lock);
    server->params_n[bucket]++;
    server->params_n_sum += n;
    pthread_mutex_unlock(&server->lock);
}

void sp_metrics_count_reply(sp_server *server, size_t route, unsigned status_class, double seconds)
{
    sp_durations *d = &server->durations[route];
    size_t bucket = 0;
    while (bucket < SP_DURATION_BOUNDS && seconds > duration_bounds[bucket]) bucket++;
    pthread_mutex_lock(&server->lock);
    server->http_requests[route][status_class]++;
    d->counts[bucket]++;
    d->total++;
    d->sum += seconds;
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
        attention_part(&p, &stats);
        info_part(&p, server->options, info);
        pthread_mutex_lock(&server->lock);
        choices_part(&p, server);
        pthread_mutex_unlock(&server->lock);
        scalar(&p, "graph_jobs_running", "gauge", "Graph queries that compute now.",
               (double)sp_graph_pool_running(server->graphs));
        sp_buffer_pass(&label, out);
        sp_buffer_fini(&label);
    }
    http_part(&p, server);
    process_part(&p);
}
