/* POST /v1/completions: one prompt, one choice, plain or streamed.
 *
 * The body is parsed, checked and submitted before any header goes out, so a bad or refused request gets its
 * real status. Then a plain request polls the stream until its end and replies once; a streamed one sends a
 * frame for every piece of text, the last with finish_reason, attention_report and timings, then
 * (include_usage) a frame with usage and no choices, then [DONE]. A failure after the headers is an error
 * frame and [DONE]. Tests: tests/http/test_completions.py */
#include <string.h>
#include <time.h>

#include "server/completions_request.h"
#include "server/errors.h"
#include "server/routes.h"
#include "server/sse.h"
#include "server/state.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */
#define TEXT_BYTES ((size_t)4 << 20)                                         /* of a plain reply */

typedef struct completion {
    sp_stream *stream;
    const char *model;
    char id[32];
    int64_t created;
    bool include_usage, has_first;
    sp_event first; /* a stream's first event, read before its headers; valid until the next read */
    sp_buffer text; /* a plain reply's text so far */
} completion;

static void free_completion(void *state)
{
    completion *c = state;
    sp_stream_free(c->stream);
    sp_buffer_fini(&c->text);
    sp_free(c);
}

/* --- writing --- */
/* Opens the reply or chunk object: its constant members and the choice up to finish_reason. finish NULL:
 * null. */
static void write_head(const completion *c, const char *text, size_t size, const char *finish,
                       sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, c->id);
    sp_json_key(out, "object");
    sp_json_cstring(out, "text_completion");
    sp_json_key(out, "created");
    sp_json_int(out, c->created);
    sp_json_key(out, "model");
    sp_json_cstring(out, c->model);
    sp_json_key(out, "system_fingerprint");
    sp_json_cstring(out, "b" SPARSED_VERSION);
    sp_json_key(out, "choices");
    sp_json_open(out, '[');
    if (text) {
        sp_json_open(out, '{');
        sp_json_key(out, "index");
        sp_json_int(out, 0);
        sp_json_key(out, "text");
        sp_json_string(out, text, size);
        sp_json_key(out, "logprobs");
        sp_json_null(out);
        sp_json_key(out, "finish_reason");
        sp_json_cstring(out, finish);
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
}

static void write_usage(const sp_usage *usage, sp_json_writer *out)
{
    sp_json_key(out, "usage");
    sp_json_open(out, '{');
    sp_json_key(out, "prompt_tokens");
    sp_json_uint(out, usage->prompt_tokens);
    sp_json_key(out, "completion_tokens");
    sp_json_uint(out, usage->completion_tokens);
    sp_json_key(out, "total_tokens");
    sp_json_uint(out, (uint64_t)usage->prompt_tokens + usage->completion_tokens);
    sp_json_key(out, "prompt_tokens_details");
    sp_json_open(out, '{');
    sp_json_key(out, "cached_tokens");
    sp_json_uint(out, usage->cached_tokens);
    sp_json_close(out, '}');
    sp_json_close(out, '}');
}

static void write_report(const sp_event *event, sp_json_writer *out)
{
    const sp_usage *usage = &event->usage;
    bool rate = usage->completion_tokens > 1 && usage->decode_seconds > 0.0;
    sp_json_key(out, "attention_report");
    if (event->report)
        sp_json_raw(out, event->report, event->report_size);
    else
        sp_json_null(out);
    sp_json_key(out, "timings");
    sp_json_open(out, '{');
    sp_json_key(out, "queue_seconds");
    sp_json_number(out, usage->queue_seconds);
    sp_json_key(out, "prefill_seconds");
    sp_json_number(out, usage->prefill_seconds);
    sp_json_key(out, "first_token_seconds");
    sp_json_number(out, usage->first_token_seconds);
    sp_json_key(out, "decode_tokens_per_second");
    if (rate)
        sp_json_number(out, (usage->completion_tokens - 1) / usage->decode_seconds);
    else
        sp_json_null(out);
    sp_json_close(out, '}');
}

static const char *finish_name(sp_finish finish)
{
    return finish == SP_FINISH_STOP ? "stop" : "length";
}

/* --- a plain reply --- */
static void reply_whole(sp_exchange *exchange, const completion *c, const sp_event *event)
{
    sp_json_writer writer;
    if (c->text.failed) {
        sp_exchange_refuse(exchange, 500, NULL, "the text is too long for one reply; use \"stream\": true");
        return;
    }
    sp_exchange_json(exchange, 200, &writer);
    write_head(c, c->text.data ? c->text.data : "", c->text.size, finish_name(event->finish), &writer);
    write_usage(&event->usage, &writer);
    write_report(event, &writer);
    sp_json_close(&writer, '}');
}

static void poll_completion(sp_exchange *exchange)
{
    completion *c = sp_exchange_state(exchange);
    sp_event event;
    sp_error error;
    for (;;) {
        sp_stream_read(c->stream, &event);
        if (event.type == SP_EVENT_NONE) break;
        if (event.type == SP_EVENT_ERROR) {
            sp_exchange_fail(exchange, &event.error);
            return;
        }
        if (event.type == SP_EVENT_PROGRESS) continue;
        sp_buffer_append(&c->text, event.text, event.text_size);
        if (event.type == SP_EVENT_DONE) {
            reply_whole(exchange, c, &event);
            return;
        }
    }
    if (sp_exchange_cut(exchange, &error)) sp_exchange_fail(exchange, &error);
}

/* --- a stream --- */
static void write_error_frames(const sp_error *error, sp_buffer *out)
{
    sp_json_writer writer;
    unsigned status = sp_error_http_status(error->status);
    size_t begin = sp_sse_begin(out, &writer);
    /* SP_UNAVAILABLE names a limit of ours, no member of the request. */
    sp_error_write(&writer, status, NULL, error->status == SP_UNAVAILABLE ? "" : error->param,
                   error->message);
    sp_sse_end(out, begin);
    sp_sse_done(out);
}

static void write_chunk(const completion *c, const sp_event *event, sp_buffer *out)
{
    sp_json_writer writer;
    bool last = event->type == SP_EVENT_DONE;
    size_t begin = sp_sse_begin(out, &writer);
    write_head(c, event->text_size ? event->text : "", event->text_size,
               last ? finish_name(event->finish) : NULL, &writer);
    if (c->include_usage) {
        sp_json_key(&writer, "usage");
        sp_json_null(&writer);
    }
    if (last) write_report(event, &writer);
    sp_json_close(&writer, '}');
    sp_sse_end(out, begin);
}

static void write_end(const completion *c, const sp_event *event, sp_buffer *out)
{
    sp_json_writer writer;
    if (c->include_usage) {
        size_t begin = sp_sse_begin(out, &writer);
        write_head(c, NULL, 0, NULL, &writer);
        write_usage(&event->usage, &writer);
        sp_json_close(&writer, '}');
        sp_sse_end(out, begin);
    }
    sp_sse_done(out);
}

static sp_pull pull_completion(sp_exchange *exchange, sp_buffer *out)
{
    completion *c = sp_exchange_state(exchange);
    sp_event event = c->first;
    sp_error error;
    if (!c->has_first) sp_stream_read(c->stream, &event);
    c->has_first = false;
    if (event.type == SP_EVENT_NONE) {
        if (!sp_exchange_cut(exchange, &error)) return SP_PULL_WAIT;
        event.type = SP_EVENT_ERROR;
        event.error = error;
    }
    if (event.type == SP_EVENT_ERROR) {
        write_error_frames(&event.error, out);
        return SP_PULL_END;
    }
    if (event.type == SP_EVENT_PROGRESS) return SP_PULL_MORE;
    if (event.type == SP_EVENT_DONE || event.text_size) write_chunk(c, &event, out);
    if (event.type != SP_EVENT_DONE) return SP_PULL_MORE;
    write_end(c, &event, out);
    return SP_PULL_END;
}

/* While a stream is queued its headers wait, so that a queue timeout or a drain is still a real 503. */
static void poll_first(sp_exchange *exchange)
{
    completion *c = sp_exchange_state(exchange);
    sp_error error;
    sp_stream_read(c->stream, &c->first);
    if (c->first.type == SP_EVENT_ERROR) {
        sp_exchange_fail(exchange, &c->first.error);
    } else if (c->first.type != SP_EVENT_NONE) {
        c->has_first = true;
        sp_exchange_stream(exchange, "text/event-stream", pull_completion);
    } else if (sp_exchange_cut(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
    }
}

/* --- the request --- */
static void wake(void *context)
{
    sp_exchange_wake(context);
}

static void refuse_submit(sp_exchange *exchange, const sp_request *request, const sp_error *error)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_json_writer writer;
    if (error->status != SP_TOO_LONG) {
        sp_exchange_fail(exchange, error);
        return;
    }
    sp_exchange_json(exchange, 400, &writer);
    sp_error_write_context(&writer, error->param, error->message, sp_engine_count_prompt(engine, request),
                           sp_engine_get_info(engine)->context);
}

static void submit(sp_exchange *exchange, const sp_completion *asked)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    completion *c = sp_alloc_zero(1, sizeof *c);
    sp_error error;
    if (!c) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return;
    }
    c->model = sp_engine_get_info(engine)->model_name;
    c->created = (int64_t)time(NULL);
    c->include_usage = asked->include_usage;
    sp_buffer_init(&c->text, TEXT_BYTES);
    sp_buffer id;
    sp_buffer_init(&id, sizeof c->id - 1);
    if (sp_buffer_format(&id, "cmpl-%s", sp_exchange_hex(exchange))) memcpy(c->id, id.data, id.size);
    sp_buffer_fini(&id);
    if (sp_engine_submit(engine, &asked->request, wake, exchange, &c->stream, &error)) {
        sp_buffer_fini(&c->text);
        sp_free(c);
        refuse_submit(exchange, &asked->request, &error);
        return;
    }
    sp_exchange_set_state(exchange, c, free_completion);
    sp_exchange_wait(exchange, asked->stream ? poll_first : poll_completion);
}

void sp_api_completions(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    sp_completion asked;
    sp_arena arena;
    sp_error error;
    sp_body body;
    sp_arena_init(&arena, PARSE_BYTES(sp_exchange_options(exchange)));
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    bool open = !status;
    sp_engine *engine = sp_exchange_engine(exchange);
    if (!status && engine) status = sp_completion_read(&body, sp_engine_get_info(engine), &asked, &error);
    if (!status) status = sp_exchange_admit(exchange, &error);
    if (status)
        sp_exchange_fail(exchange, &error);
    else
        submit(exchange, &asked);
    if (open) sp_body_close(&body);
    sp_arena_fini(&arena);
    sp_buffer_fini(text); /* its content has been copied */
}
