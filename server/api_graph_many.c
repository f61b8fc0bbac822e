/* Routes over many heads of a capture: heads (their numbers, searched and sorted) and overview.
 *
 * Heads are made one after another; what is not done when the time is up is answered as pending, and the next
 * request goes on from there. Tests: tests/http/test_graph.py */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_graph.h"
#include "server/graph_wish.h"

#define OVERVIEW_WAIT 5.0
#define MAX_BOUNDS 48

/* --- heads --- */

typedef struct bound {
    const char *name;
    double value;
    bool most;
} bound;

/* What `heads` was asked, in the call's arena. */
typedef struct heads_question {
    const char *sort; /* a record's number, "layer" or "head"; NULL: as they come */
    bound bounds[MAX_BOUNDS];
    size_t n_bounds;
} heads_question;

typedef struct head_entry {
    uint32_t layer, head;
    bool ready;
    double key; /* to sort by; NaN last */
    sp_head_record record;
} head_entry;

static double number_of(const head_entry *entry, const char *name)
{
    double value = (double)NAN;
    if (strcmp(name, "layer") == 0) return entry->layer;
    if (strcmp(name, "head") == 0) return entry->head;
    (void)sp_record_value(&entry->record, name, &value);
    return value;
}

/* Those without a number come last, equal ones in the order of layers and heads. */
static int by_key(const void *left, const void *right)
{
    const head_entry *a = left, *b = right;
    bool x = a->ready && !isnan(a->key), y = b->ready && !isnan(b->key);
    if (x != y) return x ? -1 : 1;
    if (x && a->key != b->key) return a->key < b->key ? -1 : 1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return a->head < b->head ? -1 : a->head > b->head;
}

static bool within(const head_entry *entry, const heads_question *question)
{
    for (size_t i = 0; i < question->n_bounds; i++) {
        const bound *b = &question->bounds[i];
        double value = number_of(entry, b->name);
        if (!(b->most ? value <= b->value : value >= b->value)) return false;
    }
    return true;
}

/* Makes the head if there is time; *known: its record is there. */
static sp_status know_record(sp_graph_call *call, uint32_t layer, uint32_t head, sp_head_record *record,
                             bool *known, sp_error *error)
{
    const sp_head *made;
    *known = sp_capture_record(call->capture, layer, head, record);
    if (*known || call->pending) return SP_OK;
    sp_status status = sp_graph_head(call, call->capture, layer, head, &made, error);
    if (status != SP_OK || !made) return status;
    *record = made->record;
    *known = true;
    sp_capture_release_head(call->capture, layer, head);
    return SP_OK;
}

static void write_entry(sp_graph_call *call, const head_entry *entry, sp_json_writer *out)
{
    const sp_capture_info *info = call->info;
    sp_json_open(out, '{');
    sp_json_key(out, "layer");
    sp_json_uint(out, entry->layer);
    sp_json_key(out, "head");
    sp_json_uint(out, entry->head);
    sp_json_key(out, "kv_head");
    sp_json_uint(out, entry->head / (info->model_heads / info->kv_heads));
    sp_json_key(out, "state");
    sp_json_cstring(out, entry->ready ? "ready" : "pending");
    if (entry->ready) sp_graph_write_record(out, &entry->record);
    sp_json_close(out, '}');
}

static void write_heads(sp_graph_call *call, const head_entry *entries, size_t n, size_t done, size_t total)
{
    sp_json_writer out;
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "object");
    sp_json_cstring(&out, "list");
    sp_json_key(&out, "done");
    sp_json_uint(&out, done);
    sp_json_key(&out, "total");
    sp_json_uint(&out, total);
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    for (size_t i = 0; i < n; i++) write_entry(call, &entries[i], &out);
    sp_json_close(&out, ']');
    sp_json_close(&out, '}');
}

static sp_status run_heads(sp_graph_call *call, sp_error *error)
{
    const heads_question *question = call->more;
    size_t total = (size_t)call->n_layers * call->n_heads, n = 0, done = 0;
    head_entry *entries = sp_alloc_zero(total, sizeof *entries);
    if (!entries) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu heads", total);
    sp_status status = SP_OK;
    call->pending = false;
    for (uint32_t l = 0; l < call->n_layers && status == SP_OK; l++) {
        for (uint32_t h = 0; h < call->n_heads && status == SP_OK; h++) {
            head_entry *entry = &entries[n];
            *entry = (head_entry){.layer = call->layers[l], .head = call->heads[h]};
            status = know_record(call, entry->layer, entry->head, &entry->record, &entry->ready, error);
            done += entry->ready;
            if (entry->ready && !within(entry, question)) continue;
            entry->key = question->sort ? number_of(entry, question->sort) : 0;
            if (call->falling) entry->key = -entry->key;
            n++;
        }
    }
    if (status == SP_OK && call->pending && !call->blocking) {
        sp_free(entries);
        return SP_OK; /* again, on a thread that may compute */
    }
    call->pending = false;
    if (status == SP_OK && question->sort) qsort(entries, n, sizeof *entries, by_key);
    if (status == SP_OK) write_heads(call, entries, n, done, total);
    sp_free(entries);
    return status;
}

/* --- what heads takes --- */

static const char *const patterns[] = {"self", "previous", "sink", "duplicate", "induction", NULL};

static bool ask_sort(sp_exchange *exchange, sp_graph_call *call, heads_question *question)
{
    const char *sort = sp_exchange_query(exchange, "sort"), *pattern = sp_exchange_query(exchange, "pattern");
    double ignored;
    if (pattern) {
        for (size_t i = 0; patterns[i]; i++)
            if (strcmp(pattern, patterns[i]) == 0) question->sort = patterns[i];
        call->falling = true;
        if (!question->sort) {
            sp_exchange_refuse(exchange, 400, "pattern",
                               "pattern must be self, previous, sink, duplicate or induction");
            return false;
        }
    }
    if (!sort) return true;
    call->falling = sort[0] == '-';
    question->sort = sp_arena_copy(&call->arena, sort + (sort[0] == '-'), strlen(sort + (sort[0] == '-')));
    const sp_head_record none = {0};
    if (question->sort && (strcmp(question->sort, "layer") == 0 || strcmp(question->sort, "head") == 0 ||
                           sp_record_value(&none, question->sort, &ignored)))
        return true;
    sp_exchange_refuse(exchange, 400, "sort",
                       "sort must be one of the numbers of a record, such as recall or "
                       "-edges_gold");
    return false;
}

static bool ask_bounds(sp_exchange *exchange, sp_graph_call *call, heads_question *question,
                       const char *const *names)
{
    for (size_t i = 0; names[i] && question->n_bounds < MAX_BOUNDS; i++) {
        bool most = strncmp(names[i], "max_", 4) == 0;
        const char *text = sp_exchange_query(exchange, names[i]);
        bound *b = &question->bounds[question->n_bounds];
        if (!text) continue;
        if (!sp_graph_ask_number(exchange, names[i], text, -1e18, 1e18, &b->value)) return false;
        b->name = names[i] + 4;
        b->most = most;
        question->n_bounds++;
    }
    (void)call;
    return true;
}

/* "min_X" and "max_X" of every number, then what else heads takes. */
static const char **bound_names(sp_arena *arena, size_t *n_bounds)
{
    static const char *const others[] = {"sort", "pattern", "layers", "heads", NULL};
    size_t n = 0;
    while (sp_record_names[n]) n++;
    const char **names = sp_arena_alloc(arena, 2 * n + 5, sizeof *names);
    for (size_t i = 0; names && i < 2 * n; i++) {
        const char *field = sp_record_names[i / 2];
        char *name = sp_arena_alloc(arena, strlen(field) + 5, 1);
        if (!name) return NULL;
        memcpy(name, i % 2 ? "max_" : "min_", 4);
        memcpy(name + 4, field, strlen(field) + 1);
        names[i] = name;
    }
    for (size_t i = 0; names && others[i]; i++) names[2 * n + i] = others[i];
    *n_bounds = 2 * n;
    return names;
}

static bool ask_heads(sp_exchange *exchange, sp_graph_call *call)
{
    size_t n_bounds = 0;
    heads_question *question = sp_arena_alloc(&call->arena, 1, sizeof *question);
    const char **names = bound_names(&call->arena, &n_bounds);
    sp_error error;
    call->run = run_heads;
    call->more = question;
    call->wait = OVERVIEW_WAIT;
    if (!question || !names) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return false;
    }
    if (!sp_exchange_only(exchange, names)) return false;
    const char *first_other = names[n_bounds];
    names[n_bounds] = NULL;
    bool good = ask_bounds(exchange, call, question, names);
    names[n_bounds] = first_other;
    return good && ask_sort(exchange, call, question) && sp_graph_ask_lists(exchange, call);
}

/* --- overview --- */

static void write_overview(sp_graph_call *call, const uint8_t *cells, const uint8_t *done, size_t size)
{
    sp_json_writer out;
    uint32_t n_done = 0;
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "graph");
    sp_json_cstring(&out, sp_graph_name(call->graph));
    sp_json_key(&out, "layer");
    sp_json_uint(&out, call->layer);
    sp_json_key(&out, "heads");
    sp_json_open(&out, '[');
    for (uint32_t h = 0; h < call->info->n_heads; h++) sp_json_uint(&out, call->info->heads[h]);
    sp_json_close(&out, ']');
    sp_json_key(&out, "state");
    sp_json_open(&out, '[');
    for (uint32_t h = 0; h < call->info->n_heads; h++) {
        sp_json_cstring(&out, done[h] ? "ready" : "pending");
        n_done += done[h];
    }
    sp_json_close(&out, ']');
    sp_json_key(&out, "done");
    sp_json_uint(&out, n_done);
    sp_json_key(&out, "total");
    sp_json_uint(&out, call->info->n_heads);
    sp_json_key(&out, "shape");
    sp_json_open(&out, '[');
    sp_json_uint(&out, call->info->n_heads);
    sp_json_uint(&out, SP_OVERVIEW_SIDE);
    sp_json_uint(&out, SP_OVERVIEW_SIDE);
    sp_json_close(&out, ']');
    sp_json_key(&out, "scale");
    sp_json_cstring(&out, SP_OVERVIEW_SCALE);
    sp_json_key(&out, "data");
    sp_graph_write_base64(&out, cells, size);
    sp_json_close(&out, '}');
}

static sp_status run_overview(sp_graph_call *call, sp_error *error)
{
    const size_t one = (size_t)SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE;
    uint32_t n = call->info->n_heads, n_done = 0;
    uint8_t *cells = sp_alloc_zero(n, one), *done = sp_alloc_zero(n, 1);
    sp_status status = cells && done ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for an overview");
    call->pending = false;
    for (uint32_t h = 0; h < n && status == SP_OK; h++) {
        const uint8_t *made = NULL;
        status = sp_graph_thumbnail(call, call->layer, call->info->heads[h], &made, error);
        if (made) memcpy(cells + h * one, made, one);
        done[h] = made != NULL;
        n_done += done[h];
    }
    call->progress = (double)n_done / n;
    bool again = call->pending && (!call->blocking || call->binary);
    if (status == SP_OK && !again) {
        call->pending = false;
        if (call->binary) {
            sp_graph_binary(call, "application/octet-stream");
            sp_buffer_append(&call->reply.body, cells, n * one);
        } else {
            write_overview(call, cells, done, n * one);
        }
        (void)memcpy(call->reply.scale, SP_OVERVIEW_SCALE, sizeof SP_OVERVIEW_SCALE);
    }
    sp_free(cells);
    sp_free(done);
    return status;
}

static bool ask_overview(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"layer", "graph", "format", NULL};
    const char *layer = sp_exchange_query(exchange, "layer"), *format = sp_exchange_query(exchange, "format");
    call->run = run_overview;
    call->wait = OVERVIEW_WAIT;
    call->layer = call->info->layers[0];
    if (!sp_exchange_only(exchange, known) || !sp_graph_ask_graph(exchange, call) ||
        !sp_graph_ask_layer(exchange, call, layer) || !sp_graph_ask_format(exchange, call, "binary"))
        return false;
    if (!format && !strstr(sp_exchange_accept(exchange), "application/json")) call->binary = true;
    return true;
}

bool sp_graph_many(sp_exchange *exchange, sp_graph_call *call, const char *name)
{
    if (strcmp(name, "heads") == 0) return ask_heads(exchange, call);
    if (strcmp(name, "overview") == 0) return ask_overview(exchange, call);
    if (strcmp(name, "aggregate") == 0) return sp_graph_aggregate(exchange, call);
    if (strcmp(name, "labels") == 0) return sp_graph_labels(exchange, call);
    if (strcmp(name, "export") == 0) return sp_graph_export(exchange, call);
    sp_exchange_refuse(exchange, 404, NULL, "there is no such route below a capture");
    return false;
}
