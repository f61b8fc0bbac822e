/* Graphs over several heads of one capture: aggregate and labels.
 *
 * Heads are read one after another, made where they are not in memory; when time is up the answer is 202 with
 * how many are done, and the next request finds those cached. Tests: tests/http/test_graph_many.py */
#include <stdlib.h>
#include <string.h>

#include "engine/graph/aggregate.h"
#include "server/api_graph.h"
#include "server/routes.h"

/* --- reading heads --- */

typedef sp_status (*read_head_fn)(sp_graph_call *call, const sp_rows *rows, uint32_t layer, uint32_t head,
                                  void *context, sp_error *error);

/* Calls read for the graph of one head; pending heads leave call->pending. */
static sp_status with_head(sp_graph_call *call, uint32_t layer, uint32_t head, read_head_fn read,
                           void *context, sp_error *error)
{
    const sp_head *made;
    sp_status status = sp_graph_head(call, call->capture, layer, head, &made, error);
    if (status != SP_OK || !made) return status;
    sp_head_view view = {.head = made, .graph = call->graph};
    status = sp_graph_part(call, call->capture, layer, head, made, call->graph, true, &view.part, error);
    const sp_rows rows = sp_head_rows(&view);
    if (status == SP_OK && !call->pending) {
        status = read(call, &rows, layer, head, context, error);
        status = sp_graph_part_end(view.part, status, error);
    }
    sp_capture_release_head(call->capture, layer, head);
    return status;
}

/* All chosen heads of one layer, until one is pending. */
static sp_status with_layer(sp_graph_call *call, uint32_t layer, read_head_fn read, void *context,
                            sp_error *error)
{
    sp_status status = SP_OK;
    for (uint32_t h = 0; h < call->n_heads && status == SP_OK && !call->pending; h++)
        status = with_head(call, layer, call->heads[h], read, context, error);
    return status;
}

/* --- aggregate --- */

typedef struct mixing {
    sp_mix *mix;
    double factor;
    bool largest;
} mixing;

static sp_status add_head(sp_graph_call *call, const sp_rows *rows, uint32_t layer, uint32_t head,
                          void *context, sp_error *error)
{
    const mixing *m = context;
    (void)layer, (void)head;
    return sp_mix_add(m->mix, rows, m->factor, m->largest, sp_graph_stopped, call, error);
}

static uint64_t most_edges(const sp_graph_call *call)
{
    return 2 * (uint64_t)call->options->graph_edges;
}

/* Only the rows that the answer shows. */
static void limit_rows(const sp_graph_call *call, sp_mix *mix)
{
    mix->row_begin = call->filter.row_begin;
    mix->row_end = call->filter.row_end;
}

/* Sum or maximum of all chosen heads. */
static sp_status mix_all(sp_graph_call *call, bool largest, bool all_rows, sp_mix *out, sp_error *error)
{
    mixing m = {.mix = out, .factor = 1, .largest = largest};
    if (!largest) m.factor = 1 / ((double)call->n_layers * call->n_heads);
    sp_status status = sp_mix_open(out, call->n, call->n, most_edges(call), error);
    if (!all_rows) limit_rows(call, out);
    for (uint32_t l = 0; l < call->n_layers && status == SP_OK && !call->pending; l++)
        status = with_layer(call, call->layers[l], add_head, &m, error);
    return status;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* (A + I) / 2 of one layer, A the mean of its chosen heads. */
static sp_status mix_layer(sp_graph_call *call, uint32_t layer, sp_mix *out, sp_error *error)
{
    sp_mix identity;
    mixing m = {.mix = out, .factor = 0.5 / call->n_heads};
    sp_status status = sp_mix_open(out, call->n, call->n, most_edges(call), error);
    if (status == SP_OK) status = sp_mix_open(&identity, call->n, call->n, most_edges(call), error);
    if (status != SP_OK) return status;
    status = sp_mix_identity(&identity, error);
    const sp_rows rows = sp_mix_rows(&identity);
    if (status == SP_OK) status = sp_mix_add(out, &rows, 0.5, false, NULL, NULL, error);
    sp_mix_close(&identity);
    return status == SP_OK ? with_layer(call, layer, add_head, &m, error) : status;
}

/* Rows are judged against the whole state, which is 1: what heads or cuts drop is left out. */
static void fill_masses(sp_mix *mix)
{
    for (uint32_t i = 0; i < mix->n_query; i++) mix->rows[i].mass = 1;
}

static sp_status roll(sp_graph_call *call, sp_mix *out, sp_error *error)
{
    uint32_t *layers = sp_arena_alloc(&call->arena, call->n_layers, sizeof *layers);
    uint32_t top_k = call->filter.has_top_k ? call->filter.top_k : 0;
    if (!layers) return sp_fail(error, SP_NO_MEMORY, "no memory for the request");
    memcpy(layers, call->layers, call->n_layers * sizeof *layers);
    qsort(layers, call->n_layers, sizeof *layers, by_number);
    sp_status status = sp_mix_open(out, call->n, call->n, most_edges(call), error);
    if (status == SP_OK) status = sp_mix_identity(out, error);
    for (uint32_t l = 0; l < call->n_layers && status == SP_OK && !call->pending; l++) {
        sp_mix layer = {0}, product = {0};
        status = mix_layer(call, layers[l], &layer, error);
        if (status == SP_OK) status = sp_mix_open(&product, call->n, call->n, most_edges(call), error);
        if (status == SP_OK && !call->pending)
            status = sp_mix_multiply(&layer, out, top_k, &product, sp_graph_stopped, call, error);
        sp_mix_close(&layer);
        sp_mix_close(out);
        *out = product;
    }
    if (status == SP_OK && out->rows) fill_masses(out);
    return status;
}

static sp_status reach(sp_graph_call *call, sp_mix *out, sp_error *error)
{
    sp_mix mean = {0};
    sp_status status = mix_all(call, false, true, &mean, error);
    if (status == SP_OK) status = sp_mix_open(out, call->n, call->n, most_edges(call), error);
    limit_rows(call, out);
    if (status == SP_OK && !call->pending)
        status = sp_mix_multiply(&mean, &mean, 0, out, sp_graph_stopped, call, error);
    sp_mix_close(&mean);
    return status;
}

/* Edges that these rows of a mix may have. */
static uint64_t most_in(const sp_graph_call *call, uint32_t begin, uint32_t end)
{
    uint64_t rows = end - begin, pairs = rows * call->n, most = most_edges(call);
    if (call->info->causal) pairs = rows * ((uint64_t)begin + end + 1) / 2;
    return pairs < most ? pairs : most;
}

/* Most bytes that an aggregate works on: the graphs that it holds at once. */
static size_t price(const sp_graph_call *call)
{
    const sp_filter *f = &call->filter;
    uint64_t n = call->n, edges = most_in(call, 0, call->n), cut = edges;
    if (f->has_top_k && n * f->top_k < edges) cut = n * f->top_k;
    size_t whole = sp_mix_bytes(call->n, edges), work = sp_mix_work_bytes(call->n);
    size_t shown = sp_mix_bytes(call->n, most_in(call, f->row_begin, f->row_end));
    if (strcmp(call->text, "rollout") == 0)
        return work + whole + 2 * sp_mix_bytes(call->n, cut) + sp_mix_bytes(call->n, n);
    return work + shown + (strcmp(call->text, "reach2") == 0 ? whole : 0);
}

static sp_status refuse_price(const sp_graph_call *call, size_t bytes, sp_error *error)
{
    bool uncut = strcmp(call->text, "rollout") == 0 && !call->filter.has_top_k;
    return sp_fail_param(
        error, SP_TOO_LARGE, uncut ? "top_k" : "capture_bytes",
        "%s over %u positions may take %zu bytes, which do not fit capture_bytes (%zu) beside "
        "what is in use; %s",
        call->text, call->n, bytes, (size_t)call->options->capture_bytes,
        uncut ? "set top_k" : "capture fewer tokens, or raise --capture-bytes");
}

static sp_status make_aggregate(sp_graph_call *call, sp_error *error)
{
    sp_mix mix = {0};
    sp_slice slice = {.name = call->text, .graph = call->graph, .layer = SP_NO_HEAD, .head = SP_NO_HEAD};
    sp_status status = SP_OK;
    if (strcmp(call->text, "rollout") == 0)
        status = roll(call, &mix, error);
    else if (strcmp(call->text, "reach2") == 0)
        status = reach(call, &mix, error);
    else
        status = mix_all(call, strcmp(call->text, "mean") != 0, false, &mix, error);
    if (status == SP_OK && !call->pending) {
        const sp_rows rows = sp_mix_rows(&mix);
        slice.kv_head = SP_NO_HEAD;
        slice.causal = call->info->causal;
        slice.source = call->info->source;
        status = sp_slice_fill(&rows, &call->filter, call->first, call->limit, sp_graph_stopped, call, &slice,
                               error);
        if (status == SP_OK) status = sp_graph_reply_slice(call, &slice, error);
        sp_slice_fini(&slice);
    }
    sp_mix_close(&mix);
    return status;
}

/* Its working memory is counted with the captures' before anything is computed. */
static sp_status run_aggregate(sp_graph_call *call, sp_error *error)
{
    size_t bytes = price(call);
    call->pending = false;
    if (!sp_capture_take_bytes(call->capture, bytes)) return refuse_price(call, bytes, error);
    sp_status status = make_aggregate(call, error);
    sp_capture_give_bytes(call->capture, bytes);
    return status;
}

bool sp_graph_aggregate(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"op",   "graph",      "layers", "heads",  "rows",    "cols",  "top_k",
                                        "mass", "min_weight", "cursor", "format", "weights", "limit", NULL};
    static const char *const ops[] = {"mean", "max", "union", "rollout", "reach2", NULL};
    const char *op = sp_exchange_query(exchange, "op");
    call->run = run_aggregate;
    call->heavy = true;
    call->layer = call->head = 0;
    if (!sp_exchange_only(exchange, known)) return false;
    for (size_t i = 0; op && ops[i]; i++)
        if (strcmp(op, ops[i]) == 0) call->text = ops[i];
    if (!call->text) {
        sp_exchange_refuse(exchange, 400, "op", "op must be mean, max, union, rollout or reach2");
        return false;
    }
    if (!sp_graph_ask_graph(exchange, call) || !sp_graph_ask_lists(exchange, call) ||
        !sp_graph_ask_filter(exchange, call) || !sp_graph_ask_page(exchange, call))
        return false;
    if (strcmp(call->text, "rollout") != 0 || !call->filter.has_top_k || call->filter.top_k > 0) return true;
    sp_exchange_refuse(exchange, 400, "top_k", "rollout needs a top_k of at least 1");
    return false;
}

/* --- labels --- */

/* What labels was asked, in the call's arena. */
typedef struct label_question {
    sp_graph_labels_numbered by;
    sp_json_writer *out;
} label_question;

static sp_status write_labels(sp_graph_call *call, const sp_rows *rows, uint32_t layer, uint32_t head,
                              void *context, sp_error *error)
{
    label_question *question = context;
    sp_json_writer *out = question->out;
    uint32_t n = question->by.n_names;
    uint64_t *counts = sp_alloc_zero((size_t)n * n, sizeof *counts);
    double *mass = sp_alloc_zero((size_t)n * n, sizeof *mass);
    (void)call;
    sp_status status = counts && mass ? sp_rows_label(rows, question->by.numbers, n, counts, mass, error)
                                      : sp_fail(error, SP_NO_MEMORY, "no memory for %u labels", n);
    if (status == SP_OK) {
        sp_json_open(out, '{');
        sp_json_key(out, "layer");
        sp_json_uint(out, layer);
        sp_json_key(out, "head");
        sp_json_uint(out, head);
        for (int part = 0; part < 2; part++) {
            sp_json_key(out, part ? "mass" : "counts");
            sp_json_open(out, '[');
            for (uint32_t i = 0; i < n; i++) {
                sp_json_open(out, '[');
                for (uint32_t j = 0; j < n; j++) {
                    if (part)
                        sp_json_number(out, mass[(size_t)i * n + j]);
                    else
                        sp_json_uint(out, counts[(size_t)i * n + j]);
                }
                sp_json_close(out, ']');
            }
            sp_json_close(out, ']');
        }
        sp_json_close(out, '}');
    }
    sp_free(counts);
    sp_free(mass);
    return status;
}

static sp_status run_labels(sp_graph_call *call, sp_error *error)
{
    label_question *question = call->more;
    sp_json_writer out;
    sp_status status = SP_OK;
    call->pending = false;
    sp_graph_json(call, 200, &out);
    question->out = &out;
    sp_json_open(&out, '{');
    sp_json_key(&out, "graph");
    sp_json_cstring(&out, sp_graph_name(call->graph));
    sp_json_key(&out, "set");
    sp_json_cstring(&out, call->set);
    sp_json_key(&out, "labels");
    sp_json_open(&out, '[');
    for (uint32_t i = 0; i < question->by.n_names; i++) sp_json_cstring(&out, question->by.names[i]);
    sp_json_close(&out, ']');
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    for (uint32_t l = 0; l < call->n_layers && status == SP_OK && !call->pending; l++)
        status = with_layer(call, call->layers[l], write_labels, question, error);
    sp_json_close(&out, ']');
    sp_json_close(&out, '}');
    return status;
}

bool sp_graph_number_labels(const sp_label_set *set, sp_graph_call *call, sp_graph_labels_numbered *out)
{
    out->names = sp_arena_alloc(&call->arena, set->n, sizeof *out->names);
    out->numbers = sp_arena_alloc(&call->arena, set->n, sizeof *out->numbers);
    uint64_t most = (uint64_t)call->options->graph_dense_values;
    if (!out->names || !out->numbers) return false;
    for (uint32_t t = 0; t < set->n; t++) {
        uint32_t i = 0;
        while (i < out->n_names && strcmp(out->names[i], set->labels[t]) != 0) i++;
        if (i == out->n_names) out->names[out->n_names++] = set->labels[t];
        if ((uint64_t)out->n_names * out->n_names > most) return false;
        out->numbers[t] = i;
    }
    return true;
}

static bool ask_set(sp_exchange *exchange, sp_graph_call *call, label_question *question)
{
    const sp_capture_info *info = call->info;
    const char *name = sp_exchange_query(exchange, "set");
    const sp_label_set *set = name ? NULL : info->n_labels ? &info->labels[0] : NULL;
    for (size_t i = 0; name && i < info->n_labels; i++)
        if (strcmp(info->labels[i].name, name) == 0) set = &info->labels[i];
    if (!set) {
        sp_exchange_refuse(exchange, 404, name ? "set" : "labels",
                           name ? "the capture has no labels of this name" : "the capture has no labels");
        return false;
    }
    call->set = set->name;
    uint64_t heads = (uint64_t)call->n_layers * call->n_heads,
             most = (uint64_t)call->options->graph_dense_values;
    if (sp_graph_number_labels(set, call, &question->by) &&
        (uint64_t)question->by.n_names * question->by.n_names * heads <= most)
        return true;
    sp_exchange_refuse(exchange, 413, "labels",
                       "%u different labels over %llu heads are more than graph_dense_values (%llu) numbers; "
                       "choose fewer layers and heads",
                       question->by.n_names, (unsigned long long)heads, (unsigned long long)most);
    return false;
}

bool sp_graph_labels(sp_exchange *exchange, sp_graph_call *call)
{
    static const char *const known[] = {"by", "graph", "set", "layers", "heads", "layer", "head", NULL};
    const char *by = sp_exchange_query(exchange, "by");
    const char *layer = sp_exchange_query(exchange, "layer"), *head = sp_exchange_query(exchange, "head");
    label_question *question = sp_arena_alloc(&call->arena, 1, sizeof *question);
    sp_error error;
    call->run = run_labels;
    call->more = question;
    call->heavy = true;
    if (!question) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return false;
    }
    if (!sp_exchange_only(exchange, known)) return false;
    if (by && strcmp(by, "head") != 0) {
        bool cluster = strcmp(by, "cluster") == 0;
        sp_exchange_refuse(exchange, cluster ? 404 : 400, "by",
                           cluster ? "labels by cluster are in heads/{layer}/{head}/clusters"
                                   : "by must be head");
        return false;
    }
    if (!sp_graph_ask_graph(exchange, call) || !sp_graph_ask_lists(exchange, call) ||
        !sp_graph_ask_layer(exchange, call, layer) || !sp_graph_ask_head(exchange, call, head))
        return false;
    if (layer) call->layers = &call->layer, call->n_layers = 1;
    if (head) call->heads = &call->head, call->n_heads = 1;
    return ask_set(exchange, call, question);
}
