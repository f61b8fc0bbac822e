/* `sparsed graph`: the attention graph of a text as a file, as GET /v1/attention/captures/{id}/export makes
 * it, on an engine of its own. One call (graph_call.h) is filled by hand instead of by a request; the file is
 * written whole or not at all. Ctrl-C stops. Tests: tests/http/test_graph_command.py */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/api_graph.h"
#include "server/command.h"
#include "server/graph_wish.h"

#define TEXT_MAX_BYTES ((size_t)64 << 20)
/* Nobody else needs the memory either: what a file may hold is bounded by what a slice can index. */
#define MAX_EDGES 100000000
#define MAX_VALUES 1000000000
#define CAPTURE_SHARE 4 /* captures and heads may take so many times what the largest capture takes */
#define CAPTURE_BYTES ((size_t)4 << 30)

static atomic_bool interrupted; /* by a signal, which may come to any thread */

static void on_interrupt(int number)
{
    (void)number;
    interrupted = true;
}

static bool stop(void *context)
{
    (void)context;
    return interrupted;
}

/* --- the capture --- */

static sp_status wait_for(sp_stream *stream, sp_error *error)
{
    sp_progress progress;
    sp_event event = {.type = SP_EVENT_NONE};
    sp_progress_init(&progress, "reading");
    while (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR) {
        sp_stream_wait(stream, 0.1, &event);
        if (event.type == SP_EVENT_PROGRESS && event.total > 0)
            sp_progress_show(&progress, (double)event.done / event.total);
        if (interrupted) sp_stream_cancel(stream);
    }
    sp_progress_clear(&progress);
    if (event.type == SP_EVENT_DONE) return SP_OK;
    *error = event.error;
    return error->status;
}

/* Runs the text once and holds its capture. */
static sp_status capture_text(sp_engine *engine, const sp_options *options, const sp_buffer *text,
                              sp_stream **stream, sp_capture **out, sp_error *error)
{
    const sp_capture_spec spec = {.n_layers = 0};
    sp_request request;
    bool gone;
    sp_request_init(&request);
    request.prompt = text->size ? text->data : "";
    request.prompt_size = text->size;
    request.max_tokens = 0;
    request.adapter = (uint32_t)options->adapters.n;
    request.capture = &spec;
    sp_status status = sp_engine_submit(engine, &request, NULL, NULL, stream, error);
    if (!status) status = wait_for(*stream, error);
    if (!status)
        status = sp_captures_hold(sp_engine_captures(engine), sp_stream_attention_id(*stream), 0, true, out,
                                  &gone, error);
    return status;
}

/* --- the call --- */

static sp_status check_kept(const char *param, int64_t asked, uint32_t n, sp_error *error)
{
    if (asked < (int64_t)n) return SP_OK;
    return sp_fail_param(error, SP_INVALID, param, "there is no %s %lld: the model has 0 to %u", param,
                         (long long)asked, n - 1);
}

/* What of the model is asked: one head, the heads of a layer, or all. */
static sp_status choose_heads(const sp_options *options, sp_graph_call *call, sp_error *error)
{
    const sp_capture_info *info = call->info;
    sp_status status = check_kept("layer", options->layer, info->model_layers, error);
    if (!status) status = check_kept("head", options->head, info->model_heads, error);
    if (status) return status;
    call->layers = info->layers;
    call->n_layers = info->n_layers;
    call->heads = info->heads;
    call->n_heads = info->n_heads;
    if (options->layer >= 0) {
        call->layer = (uint32_t)options->layer;
        call->layers = &call->layer;
        call->n_layers = 1;
    }
    if (options->head >= 0) {
        call->head = (uint32_t)options->head;
        call->heads = &call->head;
        call->n_heads = 1;
    }
    return SP_OK;
}

static sp_status run_call(sp_graph_call *call, const sp_graph_wish *wish, sp_error *error)
{
    sp_status status = wish->json || wish->format == SP_EXPORT_SAFETENSORS ? sp_graph_run_edges(call, error)
                                                                           : sp_graph_run_export(call, error);
    if (!status && call->pending) status = sp_fail(error, SP_CANCELLED, "stopped");
    return status;
}

static sp_status make_file(sp_engine *engine, const sp_options *options, sp_graph_wish *wish,
                           sp_capture *capture, sp_buffer *out, sp_error *error)
{
    sp_capture_status now;
    sp_capture_get_status(capture, &now);
    sp_graph_call call = {.engine = engine,
                          .options = options,
                          .capture = capture,
                          .info = sp_capture_get_info(capture),
                          .n = now.n_tokens,
                          .more = wish,
                          .binary = !wish->json,
                          .blocking = true,
                          .limit = MAX_EDGES,
                          .filter = {.row_end = now.n_tokens, .col_end = now.n_tokens}};
    sp_engine_graph_runner(engine, stop, NULL, &call.runner);
    call.reader = call.runner;
    sp_status status = SP_OK;
    if (options->graph && !sp_graph_find(options->graph, &call.graph))
        status = sp_fail_param(error, SP_INVALID, "graph",
                               "graph must be gold, pred, both, missed, extra or after");
    if (!status) status = choose_heads(options, &call, error);
    if (!status) status = run_call(&call, wish, error);
    *out = call.reply.body;
    return status;
}

/* --- the command --- */

static sp_status draw_text(sp_engine *engine, const sp_options *options, sp_graph_wish *wish,
                           const sp_buffer *text, sp_error *error)
{
    sp_stream *stream = NULL;
    sp_capture *capture = NULL;
    sp_buffer out = {0};
    sp_status status = capture_text(engine, options, text, &stream, &capture, error);
    if (!status) status = make_file(engine, options, wish, capture, &out, error);
    if (!status) status = sp_write_result(options->out, &out, error);
    sp_buffer_fini(&out);
    if (capture) sp_capture_release(capture);
    if (stream) sp_stream_free(stream);
    return status;
}

static sp_status read_wish(const sp_options *options, sp_graph_wish *wish, sp_error *error)
{
    const sp_graph_words words = {.format = options->format,
                                  .view = options->view,
                                  .scale = options->scale,
                                  .colors = options->colors,
                                  .theme = options->theme};
    if (options->head >= 0 && options->layer < 0)
        return sp_fail_param(error, SP_INVALID, "layer", "--head needs --layer");
    return sp_graph_wish_read(&words, options->layer >= 0 && options->head >= 0, wish, error);
}

/* Bytes that are no text don't belong on a terminal. */
static sp_status check_out(const sp_options *options, const sp_graph_wish *wish, sp_error *error)
{
    bool text = wish->json || (wish->format != SP_EXPORT_PNG && wish->format != SP_EXPORT_NPZ &&
                               wish->format != SP_EXPORT_SAFETENSORS);
    if (text || strcmp(options->out, "-") != 0 || !isatty(STDOUT_FILENO)) return SP_OK;
    return sp_fail_param(error, SP_USAGE, "out",
                         "--out -: standard output is a terminal; send it to a file or a program");
}

static sp_status open_engine(const sp_options *options, sp_engine **out, sp_error *error)
{
    sp_engine_options engine_options;
    sp_status status = sp_alone_options(options, &engine_options, error);
    if (status) return status;
    engine_options.fingerprint = true;
    engine_options.capture_max_bytes = CAPTURE_BYTES;
    engine_options.capture_bytes = CAPTURE_SHARE * CAPTURE_BYTES;
    engine_options.capture_expiry = SP_FOREVER;
    return sp_alone_open(&engine_options, out, error);
}

int sp_command_graph(const sp_options *options)
{
    sp_error error = {0};
    sp_engine *engine = NULL;
    sp_graph_wish wish;
    sp_buffer text;
    sp_options own = *options; /* strings stay the caller's */
    own.graph_edges = own.graph_json_edges = MAX_EDGES;
    own.graph_dense_values = MAX_VALUES;
    sp_buffer_init(&text, TEXT_MAX_BYTES);
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    sp_status status = read_wish(&own, &wish, &error);
    if (!status) status = check_out(&own, &wish, &error);
    if (!status) status = sp_check_result(own.out, &error);
    if (!status) status = sp_read_text(own.text, &text, &error);
    if (!status && text.size == 0)
        status = sp_fail_param(&error, SP_DATA, "text", "--text: %s is empty, there is no graph of nothing",
                               own.text);
    if (!status) status = open_engine(&own, &engine, &error);
    if (!status) status = draw_text(engine, &own, &wish, &text, &error);
    sp_engine_close(engine);
    sp_buffer_fini(&text);
    return status ? sp_command_fail(&error) : SP_EXIT_OK;
}
