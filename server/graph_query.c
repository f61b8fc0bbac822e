/* Query parameters of graph routes: ranges, cuts, pages (graph_call.h). Every value is read strictly; what
 * does not fit is refused with the parameter's name. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/graph_call.h"

bool sp_graph_ask_index(sp_exchange *exchange, const char *name, const char *text, uint64_t max,
                        uint32_t *out)
{
    uint64_t value = 0;
    size_t n = strlen(text);
    bool good = n > 0 && n < 11;
    for (size_t i = 0; good && i < n; i++) {
        good = text[i] >= '0' && text[i] <= '9';
        if (good) value = value * 10 + (uint64_t)(text[i] - '0');
    }
    if (good && value <= max) {
        *out = (uint32_t)value;
        return true;
    }
    sp_exchange_refuse(exchange, 400, name, "%s must be an integer from 0 to %llu", name,
                       (unsigned long long)max);
    return false;
}

bool sp_graph_ask_number(sp_exchange *exchange, const char *name, const char *text, double min, double max,
                         double *out)
{
    char *end = NULL;
    bool plain = text[0] && strspn(text, "0123456789+-.eE") == strlen(text);
    double value = plain ? strtod(text, &end) : 0;
    if (plain && !*end && isfinite(value) && value >= min && value <= max) {
        *out = value;
        return true;
    }
    sp_exchange_refuse(exchange, 400, name, "%s must be a number from %g to %g", name, min, max);
    return false;
}

/* --- what graph, which head --- */

bool sp_graph_ask_graph(sp_exchange *exchange, sp_graph_call *call)
{
    const char *text = sp_exchange_query(exchange, "graph");
    call->graph = SP_GRAPH_GOLD;
    if (!text || sp_graph_find(text, &call->graph)) return true;
    sp_exchange_refuse(exchange, 400, "graph", "graph must be gold, pred, both, missed, extra or after");
    return false;
}

static bool is_number(const char *text)
{
    return text[0] && strspn(text, "0123456789") == strlen(text) && strlen(text) < 10;
}

/* Of the model and kept: else 404, like any other thing that is not there. */
static bool ask_kept(sp_exchange *exchange, const char *name, const char *text, const uint32_t *list,
                     uint32_t n, uint32_t all, uint32_t *out)
{
    if (!is_number(text)) {
        sp_exchange_refuse(exchange, 404, name, "%s must be a number below %u", name, all);
        return false;
    }
    *out = (uint32_t)strtoul(text, NULL, 10);
    for (uint32_t i = 0; i < n; i++)
        if (list[i] == *out) return true;
    sp_exchange_refuse(exchange, 404, name, *out < all ? "%s %u was not captured" : "there is no %s %u", name,
                       *out);
    return false;
}

bool sp_graph_ask_layer(sp_exchange *exchange, sp_graph_call *call, const char *text)
{
    const sp_capture_info *info = call->info;
    if (!text) return true;
    call->has_layer = true;
    return ask_kept(exchange, "layer", text, info->layers, info->n_layers, info->model_layers, &call->layer);
}

bool sp_graph_ask_head(sp_exchange *exchange, sp_graph_call *call, const char *text)
{
    const sp_capture_info *info = call->info;
    if (!text) return true;
    call->has_head = true;
    return ask_kept(exchange, "head", text, info->heads, info->n_heads, info->model_heads, &call->head);
}

/* A list of kept numbers between commas; without one all of them. */
static bool ask_list(sp_exchange *exchange, sp_graph_call *call, const char *name, const uint32_t *kept,
                     uint32_t n_kept, uint32_t all, const uint32_t **out, uint32_t *n_out)
{
    const char *text = sp_exchange_query(exchange, name);
    *out = kept;
    *n_out = n_kept;
    if (!text) return true;
    uint32_t *list = sp_arena_alloc(&call->arena, n_kept, sizeof *list), n = 0;
    char number[16];
    bool good = list && text[0];
    while (good && *text) {
        size_t size = strcspn(text, ",");
        good = size > 0 && size < sizeof number && n < n_kept;
        if (!good) break;
        memcpy(number, text, size);
        number[size] = 0;
        if (!ask_kept(exchange, name, number, kept, n_kept, all, &list[n])) return false;
        for (uint32_t i = 0; i < n && good; i++) good = list[i] != list[n];
        n++;
        text += size;
        if (*text == ',' && !text[1]) good = false;
        if (*text == ',') text++;
    }
    *out = list;
    *n_out = n;
    if (good && n > 0) return true;
    sp_exchange_refuse(exchange, 400, name, "%s must be a list of different numbers, such as 0,1,2", name);
    return false;
}

bool sp_graph_ask_lists(sp_exchange *exchange, sp_graph_call *call)
{
    const sp_capture_info *info = call->info;
    return ask_list(exchange, call, "layers", info->layers, info->n_layers, info->model_layers, &call->layers,
                    &call->n_layers) &&
           ask_list(exchange, call, "heads", info->heads, info->n_heads, info->model_heads, &call->heads,
                    &call->n_heads);
}

/* --- which part --- */

static bool ask_range(sp_exchange *exchange, const char *name, uint32_t n, uint32_t *begin, uint32_t *end)
{
    const char *text = sp_exchange_query(exchange, name);
    unsigned long long a = 0, b = 0;
    *begin = 0;
    *end = n;
    if (!text) return true;
    size_t first = strspn(text, "0123456789");
    bool good = first > 0 && first < 10 && text[first] == ':' && is_number(text + first + 1);
    if (good) {
        a = strtoull(text, NULL, 10);
        b = strtoull(text + first + 1, NULL, 10);
        good = a < b && b <= n;
    }
    *begin = (uint32_t)a;
    *end = (uint32_t)b;
    if (good) return true;
    sp_exchange_refuse(exchange, 400, name, "%s must be a:b with 0 <= a < b <= %u", name, n);
    return false;
}

bool sp_graph_ask_filter(sp_exchange *exchange, sp_graph_call *call)
{
    sp_filter *filter = &call->filter;
    const char *top_k = sp_exchange_query(exchange, "top_k"), *mass = sp_exchange_query(exchange, "mass");
    const char *min_weight = sp_exchange_query(exchange, "min_weight");
    *filter = (sp_filter){.has_top_k = top_k, .has_mass = mass, .has_min_weight = min_weight};
    if (!ask_range(exchange, "rows", call->n, &filter->row_begin, &filter->row_end)) return false;
    if (!ask_range(exchange, "cols", call->n, &filter->col_begin, &filter->col_end)) return false;
    if (top_k && !sp_graph_ask_index(exchange, "top_k", top_k, UINT32_MAX, &filter->top_k)) return false;
    if (min_weight && !sp_graph_ask_number(exchange, "min_weight", min_weight, 0, 1, &filter->min_weight))
        return false;
    return !mass || sp_graph_ask_number(exchange, "mass", mass, 0, 1, &filter->mass);
}

/* --- pages --- */

bool sp_graph_ask_format(sp_exchange *exchange, sp_graph_call *call, const char *binary_name)
{
    const char *format = sp_exchange_query(exchange, "format"), *accept = sp_exchange_accept(exchange);
    if (!format) {
        call->binary = strstr(accept, "application/octet-stream") || strstr(accept, "safetensors");
        return true;
    }
    call->binary = strcmp(format, binary_name) == 0;
    if (call->binary || strcmp(format, "json") == 0) return true;
    sp_exchange_refuse(exchange, 400, "format", "format must be json or %s", binary_name);
    return false;
}

/* Everything that a cursor's page depends on but its place. */
static uint64_t hash_question(sp_exchange *exchange, const sp_graph_call *call)
{
    static const char *const names[] = {"graph",      "rows", "cols",   "top_k",
                                        "min_weight", "mass", "layers", "heads"};
    const char *what = call->text ? call->text : "edges";
    uint64_t hash = sp_hash_bytes(call->info->id, strlen(call->info->id)) ^ sp_hash_bytes(what, strlen(what));
    char text[64];
    (void)snprintf(text, sizeof text, "%u/%u", call->layer, call->head);
    hash = hash * 1099511628211u ^ sp_hash_bytes(text, strlen(text));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = sp_exchange_query(exchange, names[i]);
        hash = hash * 1099511628211u ^ (value ? sp_hash_bytes(value, strlen(value)) : i);
    }
    return hash;
}

/* The row where the page begins, and a hash of it and the question, in hex. */
void sp_graph_write_cursor(const sp_graph_call *call, uint32_t row, char cursor[SP_CURSOR_SIZE])
{
    uint64_t hash = (call->hash ^ row) * 1099511628211u;
    (void)snprintf(cursor, SP_CURSOR_SIZE, "%08x%016llx", row, (unsigned long long)(hash ^ hash >> 32));
}

static bool read_cursor(const char *cursor, sp_graph_call *call)
{
    char own[SP_CURSOR_SIZE];
    unsigned first = 0;
    if (sscanf(cursor, "%8x", &first) != 1) return false;
    sp_graph_write_cursor(call, first, own);
    call->first = first;
    return strcmp(cursor, own) == 0 && first >= call->filter.row_begin && first < call->filter.row_end;
}

bool sp_graph_ask_page(sp_exchange *exchange, sp_graph_call *call)
{
    const char *weights = sp_exchange_query(exchange, "weights"),
               *limit = sp_exchange_query(exchange, "limit");
    const char *cursor = sp_exchange_query(exchange, "cursor");
    uint32_t asked = 0;
    if (!sp_graph_ask_format(exchange, call, "safetensors")) return false;
    call->f32 = weights && strcmp(weights, "f32") == 0;
    if (weights && !call->f32 && strcmp(weights, "u16") != 0) {
        sp_exchange_refuse(exchange, 400, "weights", "weights must be u16 or f32");
        return false;
    }
    const sp_options *options = call->options;
    call->limit = (uint64_t)(call->binary ? options->graph_edges : options->graph_json_edges);
    if (limit && !sp_graph_ask_index(exchange, "limit", limit, UINT32_MAX, &asked)) return false;
    if (limit && asked == 0) {
        sp_exchange_refuse(exchange, 400, "limit", "limit must be at least 1");
        return false;
    }
    if (limit && asked < call->limit) call->limit = asked;
    call->first = call->filter.row_begin;
    call->hash = hash_question(exchange, call);
    if (!cursor || read_cursor(cursor, call)) return true;
    sp_exchange_refuse(exchange, 400, "cursor",
                       "cursor must be the next of an answer to the same parameters of the same capture");
    return false;
}
