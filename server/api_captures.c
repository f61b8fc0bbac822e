/* POST /v1/attention/captures, and of one capture: its state, DELETE, tokens.
 *
 * A capture of at most WAITED_TOKENS positions is waited for; a longer one is answered at once and runs by
 * itself. Bodies are read in capture_request.c. Tests: tests/http/test_captures.py */
#include <stdio.h>
#include <string.h>

#include "engine/graph/clusters.h"
#include "server/api_graph.h"
#include "server/capture_request.h"
#include "server/errors.h"
#include "server/routes.h"
#include "server/state.h"

#define WAITED_TOKENS 2048u
#define MAX_CACHED 4096

/* --- a capture as JSON --- */

static void write_list(sp_json_writer *out, const char *key, const uint32_t *list, uint32_t n)
{
    sp_json_key(out, key);
    sp_json_open(out, '[');
    for (uint32_t i = 0; i < n; i++) sp_json_uint(out, list[i]);
    sp_json_close(out, ']');
}

static void write_text(sp_json_writer *out, const char *key, const char *text)
{
    sp_json_key(out, key);
    sp_json_cstring(out, text);
}

static void write_json(sp_json_writer *out, const char *key, const char *json)
{
    sp_json_key(out, key);
    if (json[0])
        sp_json_raw(out, json, strlen(json));
    else
        sp_json_null(out);
}

static void write_provenance(sp_json_writer *out, const sp_graph_source *source)
{
    sp_json_key(out, "provenance");
    sp_json_open(out, '{');
    write_text(out, "model", source->model);
    write_text(out, "arch", source->arch);
    write_text(out, "model_hash", source->hash[0] ? source->hash : NULL);
    write_text(out, "backend", source->backend);
    write_json(out, "params", source->params);
    write_text(out, "decode_backend", source->decode_backend[0] ? source->decode_backend : NULL);
    write_json(out, "decode_params", source->decode_params);
    sp_json_key(out, "selection_sees_later_tokens");
    sp_json_bool(out, source->sees_later);
    write_json(out, "normalizer", source->normalizer);
    write_text(out, "heads", source->heads);
    write_json(out, "gold", source->gold);
    write_text(out, "dtype", source->dtype);
    write_text(out, "software", source->software);
    sp_json_key(out, "created");
    sp_json_int(out, source->created);
    sp_json_close(out, '}');
}

static void write_cached(sp_json_writer *out, sp_capture *capture)
{
    sp_head_status *heads = sp_alloc(MAX_CACHED, sizeof *heads);
    size_t n = heads ? sp_capture_list_heads(capture, heads, MAX_CACHED) : 0;
    if (!heads) sp_buffer_break(out->out);
    sp_json_key(out, "cached_heads");
    sp_json_open(out, '[');
    for (size_t i = 0; i < n; i++) {
        sp_json_open(out, '{');
        sp_json_key(out, "layer");
        sp_json_uint(out, heads[i].layer);
        sp_json_key(out, "head");
        sp_json_uint(out, heads[i].head);
        sp_json_key(out, "bytes");
        sp_json_uint(out, heads[i].bytes);
        sp_json_key(out, "seconds");
        sp_json_number(out, heads[i].seconds);
        sp_json_key(out, "progress");
        sp_json_number(out, heads[i].progress);
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
    sp_free(heads);
}

static void write_labels(sp_json_writer *out, const sp_capture_info *info)
{
    sp_json_key(out, "labels");
    sp_json_open(out, '[');
    for (size_t i = 0; i < info->n_labels; i++) sp_json_cstring(out, info->labels[i].name);
    sp_json_close(out, ']');
}

static void write_capture(sp_json_writer *out, sp_capture *capture)
{
    static const char *const states[] = {"running", "ready", "failed"};
    const sp_capture_info *info = sp_capture_get_info(capture);
    sp_capture_status now;
    sp_capture_get_status(capture, &now);
    sp_json_open(out, '{');
    write_text(out, "id", info->id);
    write_text(out, "object", "attention.capture");
    write_text(out, "state", states[now.state]);
    sp_json_key(out, "progress");
    sp_json_number(out, now.state == SP_CAPTURE_READY ? 1 : (double)now.n_tokens / now.n_planned);
    sp_json_key(out, "error");
    sp_json_cstring(out, now.state == SP_CAPTURE_FAILED ? now.error.message : NULL);
    sp_json_key(out, "n_query");
    sp_json_uint(out, now.n_tokens);
    sp_json_key(out, "n_key");
    sp_json_uint(out, now.n_tokens);
    write_text(out, "block", info->source->block);
    sp_json_key(out, "causal");
    sp_json_bool(out, info->causal);
    write_list(out, "layers", info->layers, info->n_layers);
    write_list(out, "heads", info->heads, info->n_heads);
    sp_json_key(out, "kv_heads");
    sp_json_uint(out, info->kv_heads);
    sp_json_key(out, "bytes");
    sp_json_uint(out, now.bytes);
    sp_json_key(out, "expires");
    sp_json_int(out, now.expires);
    write_labels(out, info);
    write_provenance(out, info->source);
    write_cached(out, capture);
    sp_json_close(out, '}');
}

/* False: there was no memory for it, so that the client will not learn the id. */
static bool reply_created(sp_exchange *exchange, sp_capture *capture)
{
    sp_json_writer out;
    sp_reply *reply = sp_exchange_reply(exchange);
    sp_exchange_json(exchange, 201, &out);
    write_capture(&out, capture);
    (void)snprintf(reply->location, sizeof reply->location, "/v1/attention/captures/%s",
                   sp_capture_get_info(capture)->id);
    return !reply->body.failed;
}

/* --- POST --- */

typedef struct waiting {
    sp_stream *stream;
    sp_captures *store;
    uint64_t owner;
    bool told; /* the client was given the capture's id */
} waiting;

static void wake(void *context)
{
    sp_exchange_wake(context);
}

static void free_waiting(void *state)
{
    waiting *w = state;
    if (!w->told) sp_captures_drop(w->store, sp_stream_attention_id(w->stream), w->owner);
    sp_stream_free(w->stream);
    sp_free(w);
}

static sp_status hold(sp_exchange *exchange, const sp_stream *stream, sp_capture **out, sp_error *error)
{
    bool gone;
    return sp_captures_hold(sp_engine_captures(sp_exchange_engine(exchange)), sp_stream_attention_id(stream),
                            sp_exchange_owner(exchange), true, out, &gone, error);
}

static void finish_waiting(sp_exchange *exchange, waiting *w)
{
    sp_capture *capture;
    sp_error error;
    if (hold(exchange, w->stream, &capture, &error) != SP_OK) {
        sp_exchange_refuse(exchange, 503, NULL, "the capture was evicted at once: others need capture_bytes");
        return;
    }
    w->told = reply_created(exchange, capture);
    sp_capture_release(capture);
}

static void poll_capture(sp_exchange *exchange)
{
    waiting *w = sp_exchange_state(exchange);
    sp_event event = {.type = SP_EVENT_PROGRESS};
    sp_error error;
    while (event.type == SP_EVENT_PROGRESS || event.type == SP_EVENT_TOKEN) {
        sp_stream_read(w->stream, &event);
        if (event.type == SP_EVENT_PROGRESS) sp_exchange_progress(exchange, "prefill", event.done);
    }
    if (event.type == SP_EVENT_DONE)
        finish_waiting(exchange, w);
    else if (event.type == SP_EVENT_ERROR)
        sp_exchange_fail(exchange, &event.error);
    else if (sp_exchange_cut(exchange, &error))
        sp_exchange_fail(exchange, &error);
}

static void fail_request(sp_exchange *exchange, const sp_request *request, sp_error *error)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_json_writer out;
    if (strcmp(error->param, "prompt") == 0) memcpy(error->param, "input", sizeof "input");
    if (error->status != SP_TOO_LONG) {
        sp_exchange_fail(exchange, error);
        return;
    }
    sp_exchange_json(exchange, 400, &out);
    sp_error_write_context(&out, error->param, error->message, sp_engine_count_prompt(engine, request),
                           sp_engine_get_info(engine)->context);
}

/* Runs by itself; the capture keeps its stream. */
static void start_alone(sp_exchange *exchange, const sp_request *request)
{
    sp_stream *stream;
    sp_capture *capture;
    sp_error error;
    if (sp_engine_submit(sp_exchange_engine(exchange), request, NULL, NULL, &stream, &error) != SP_OK) {
        fail_request(exchange, request, &error);
    } else if (hold(exchange, stream, &capture, &error) != SP_OK) {
        sp_stream_free(stream);
        sp_exchange_fail(exchange, &error);
    } else {
        sp_capture_keep_stream(capture, stream);
        if (!reply_created(exchange, capture)) sp_capture_delete(capture);
        sp_capture_release(capture);
    }
}

static void start_waited(sp_exchange *exchange, const sp_request *request)
{
    sp_error error;
    waiting *w = sp_alloc_zero(1, sizeof *w);
    sp_request waited = *request;
    waited.abandoned = sp_exchange_flag(exchange);
    if (!w) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
    } else if (sp_engine_submit(sp_exchange_engine(exchange), &waited, wake, exchange, &w->stream, &error)) {
        fail_request(exchange, request, &error);
        sp_free(w);
    } else {
        w->store = sp_engine_captures(sp_exchange_engine(exchange));
        w->owner = sp_exchange_owner(exchange);
        sp_exchange_set_state(exchange, w, free_waiting);
        sp_exchange_track(exchange, sp_stream_attention_id(w->stream));
        sp_exchange_wait(exchange, poll_capture);
    }
}

void sp_api_capture_new(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_capture_request asked = {0};
    sp_arena arena;
    sp_error error = {0};
    sp_body body;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    sp_arena_init(&arena, (size_t)sp_exchange_options(exchange)->max_body_bytes * 6 + 65536);
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    bool open = status == SP_OK;
    if (!status && engine)
        status = sp_capture_request_read(&body, sp_engine_get_info(engine), &asked, &error);
    if (!status) status = sp_exchange_admit(exchange, &error);
    if (!status) status = sp_engine_check(engine, &asked.request, &ids, &n_ids, &error);
    if (status) {
        if (engine)
            fail_request(exchange, &asked.request, &error);
        else
            sp_exchange_fail(exchange, &error);
    } else {
        asked.request.prompt = NULL;
        asked.request.ids = ids;
        asked.request.n_ids = n_ids;
        asked.spec.owner = sp_exchange_owner(exchange);
        asked.spec.alone = n_ids > WAITED_TOKENS;
        asked.request.capture = &asked.spec;
        if (asked.spec.alone)
            start_alone(exchange, &asked.request);
        else
            start_waited(exchange, &asked.request);
    }
    sp_free(ids);
    if (open) sp_body_close(&body);
    sp_arena_fini(&arena);
    sp_buffer_fini(text);
}

/* --- state, DELETE --- */

static bool find(sp_exchange *exchange, const char *id, bool use, sp_capture **out)
{
    bool gone = false;
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return false;
    }
    sp_captures *store = sp_engine_captures(sp_exchange_engine(exchange));
    if (sp_captures_hold(store, id, sp_exchange_owner(exchange), use, out, &gone, &error) == SP_OK)
        return true;
    sp_exchange_refuse(exchange, gone ? 410 : 404, error.param, "%s", error.message);
    return false;
}

void sp_graph_state(sp_exchange *exchange, const char *id)
{
    static const char *const known[] = {NULL};
    sp_capture *capture;
    sp_json_writer out;
    if (!sp_exchange_only(exchange, known) || !find(exchange, id, false, &capture)) return;
    sp_exchange_json(exchange, 200, &out);
    write_capture(&out, capture);
    sp_capture_release(capture);
}

void sp_api_capture_delete(sp_exchange *exchange)
{
    static const char *const known[] = {NULL};
    const char *id = sp_exchange_rest(exchange);
    sp_capture *capture;
    bool gone = false;
    sp_error error;
    if (!sp_exchange_only(exchange, known)) return;
    if (strchr(id, '/')) {
        sp_exchange_refuse(exchange, 404, NULL, "DELETE is for a whole capture");
        return;
    }
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_captures *store = sp_engine_captures(sp_exchange_engine(exchange));
    if (sp_captures_hold(store, id, sp_exchange_owner(exchange), false, &capture, &gone, &error)) {
        sp_exchange_refuse(exchange, gone ? 410 : 404, error.param, "%s", error.message);
        return;
    }
    sp_capture_delete(capture);
    sp_capture_release(capture);
    sp_json_writer out;
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    write_text(&out, "id", id);
    write_text(&out, "object", "attention.capture");
    sp_json_key(&out, "deleted");
    sp_json_bool(&out, true);
    sp_json_close(&out, '}');
}

/* --- tokens --- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Whether text holds q; letters of ASCII in either case. */
static bool holds(const sp_graph_token *token, const char *q)
{
    size_t n = strlen(q);
    for (size_t at = 0; at + n <= token->n_text; at++) {
        size_t i = 0;
        while (i < n && lower(token->text[at + i]) == lower(q[i])) i++;
        if (i == n) return true;
    }
    return false;
}

static void write_token(sp_json_writer *out, const sp_capture_info *info, const sp_graph_token *token,
                        uint32_t index, const sp_token_clusters *clusters)
{
    sp_json_open(out, '{');
    sp_json_key(out, "index");
    sp_json_uint(out, index);
    sp_json_key(out, "id");
    sp_json_int(out, token->id);
    sp_json_key(out, "text");
    sp_json_string(out, token->text, token->n_text);
    sp_json_key(out, "bytes");
    sp_graph_write_base64(out, token->bytes, token->n_bytes);
    sp_json_key(out, "special");
    sp_json_bool(out, token->special);
    sp_json_key(out, "labels");
    sp_json_open(out, '{');
    for (size_t i = 0; i < info->n_labels; i++)
        if (index < info->labels[i].n) write_text(out, info->labels[i].name, info->labels[i].labels[index]);
    sp_json_close(out, '}');
    if (clusters->q) {
        sp_json_key(out, "clusters");
        sp_json_open(out, '{');
        sp_json_key(out, "q");
        sp_json_uint(out, sp_token_cluster(clusters, false, index));
        sp_json_key(out, "k");
        sp_json_uint(out, sp_token_cluster(clusters, true, index));
        sp_json_close(out, '}');
    }
    sp_json_close(out, '}');
}

sp_status sp_graph_run_tokens(sp_graph_call *call, sp_error *error)
{
    const sp_graph_token *tokens;
    sp_token_clusters clusters = {0};
    sp_json_writer out;
    sp_status status = sp_capture_tokens(call->capture, &tokens, error);
    if (status == SP_OK && call->has_head)
        status =
            sp_token_clusters_make(call->capture, call->layer, call->head, &call->runner, &clusters, error);
    if (status != SP_OK) return status;
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    write_text(&out, "object", "list");
    sp_json_key(&out, "n");
    sp_json_uint(&out, call->n);
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    for (uint32_t i = call->from; i < call->to; i++)
        if (!call->text || holds(&tokens[i], call->text))
            write_token(&out, call->info, &tokens[i], i, &clusters);
    sp_json_close(&out, ']');
    sp_json_close(&out, '}');
    sp_token_clusters_fini(&clusters);
    return SP_OK;
}
