/* The two shapes of an answer to a request for text (generation.h). A plain reply polls all streams until
 * every choice is done; a stream sends a frame for every piece of text as it comes, choices interleaved, then
 * (include_usage) usage without choices, then [DONE]. Its headers wait until the first choice has left the
 * queue, so that a queue timeout or a drain is still a real 503; a failure after them is an error frame and
 * [DONE]. Tests: tests/http/test_completions.py, tests/http/test_completions_full.py, tests/http/test_chat.py
 */
#include "server/generation.h"

#include "server/errors.h"
#include "server/sse.h"

/* --- what all replies have --- */
const char *sp_finish_name(sp_finish finish)
{
    return finish == SP_FINISH_STOP ? "stop" : "length";
}

void sp_usage_write(const sp_usage *usage, sp_json_writer *out)
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

/* Sums over prompts and choices so far; seconds are those of the slowest. */
static sp_usage sum_usage(const sp_generation *g)
{
    sp_usage sum = {0};
    for (size_t p = 0; p < g->asked.n_prompts; p++) sum.prompt_tokens += (uint32_t)g->asked.prompts[p].n_ids;
    for (size_t i = 0; i < g->n_started; i++) {
        const sp_usage *one = &g->choices[i].last.usage;
        sum.completion_tokens += g->choices[i].n_written;
        if (i % g->asked.n == 0) sum.cached_tokens += one->cached_tokens;
        if (one->queue_seconds > sum.queue_seconds) sum.queue_seconds = one->queue_seconds;
        if (one->prefill_seconds > sum.prefill_seconds) sum.prefill_seconds = one->prefill_seconds;
        if (one->first_token_seconds > sum.first_token_seconds)
            sum.first_token_seconds = one->first_token_seconds;
        if (one->decode_seconds > sum.decode_seconds) sum.decode_seconds = one->decode_seconds;
    }
    return sum;
}

static void write_head(const sp_generation *g, const char *object, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, g->id);
    sp_json_key(out, "object");
    sp_json_cstring(out, object);
    sp_json_key(out, "created");
    sp_json_int(out, g->created);
    sp_json_key(out, "model");
    sp_json_cstring(out, g->model);
    sp_json_key(out, "system_fingerprint");
    sp_json_cstring(out, "b" SPARSED_VERSION);
    sp_json_key(out, "choices");
    sp_json_open(out, '[');
}

static void write_report(const sp_event *event, sp_json_writer *out)
{
    sp_json_key(out, "attention_report");
    if (event->report)
        sp_json_raw(out, event->report, event->report_size);
    else
        sp_json_null(out);
}

/* The id of a choice's capture; nothing where none was asked for. */
static void write_attention_id(const sp_choice *c, sp_json_writer *out)
{
    if (!c->attention_id[0]) return;
    sp_json_key(out, "attention_id");
    sp_json_cstring(out, c->attention_id);
}

/* n_first: tokens that came without a step of decoding, one a choice. */
static void write_timings(const sp_usage *usage, size_t n_first, sp_json_writer *out)
{
    bool rate = usage->completion_tokens > n_first && usage->decode_seconds > 0.0;
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
        sp_json_number(out, (double)(usage->completion_tokens - n_first) / usage->decode_seconds);
    else
        sp_json_null(out);
    sp_json_close(out, '}');
}

static bool keeps_rows(const sp_generation *g)
{
    return g->asked.logprobs || g->asked.return_token_ids;
}

/* --- a plain reply --- */
static void reply_whole(sp_exchange *exchange, sp_generation *g)
{
    sp_json_writer writer;
    sp_usage usage = sum_usage(g);
    sp_buffer *body = &sp_exchange_reply(exchange)->body;
    sp_exchange_json(exchange, 200, &writer);
    for (size_t i = 0; i < g->n_choices; i++) {
        sp_buffer_pass(&g->choices[i].text, body);
        sp_token_rows_pass(&g->choices[i].rows, body);
    }
    if (body->no_memory) return; /* it is sent as that */
    if (body->failed) {
        sp_exchange_refuse(exchange, 500, NULL, "the text does not fit into one reply; use \"stream\": true");
        return;
    }
    write_head(g, g->format->object, &writer);
    for (size_t i = 0; i < g->n_choices; i++) {
        sp_json_open(&writer, '{');
        sp_json_key(&writer, "index");
        sp_json_uint(&writer, i);
        g->format->choice(g, &g->choices[i], &writer);
        if (g->n_choices > 1) write_report(&g->choices[i].last, &writer);
        if (g->n_choices > 1) write_attention_id(&g->choices[i], &writer);
        sp_json_close(&writer, '}');
    }
    sp_json_close(&writer, ']');
    sp_usage_write(&usage, &writer);
    write_report(&g->choices[0].last, &writer);
    if (g->n_choices == 1) write_attention_id(&g->choices[0], &writer);
    write_timings(&usage, g->n_choices, &writer);
    sp_json_close(&writer, '}');
    for (size_t i = 0; i < g->n_choices; i++) g->choices[i].told = !body->failed;
}

/* Reads what a choice's stream has. */
static sp_status read_choice(sp_exchange *exchange, sp_generation *g, sp_choice *c, sp_error *error)
{
    sp_event event;
    if (c->done) return SP_OK;
    while (!c->done) {
        sp_stream_read(c->stream, &event);
        if (event.type == SP_EVENT_NONE) break;
        if (event.type == SP_EVENT_ERROR) {
            *error = event.error;
            return event.error.status;
        }
        sp_generation_note_event(g, c, &event);
        if (event.type == SP_EVENT_PROGRESS) continue;
        sp_buffer_append(&c->text, event.text, event.text_size);
        if (event.type == SP_EVENT_TOKEN && keeps_rows(g)) sp_token_rows_add(&c->rows, &event);
    }
    sp_status status = c->done ? sp_generation_keep(g, c, error) : SP_OK;
    return status ? status : sp_generation_count(exchange, g, c, error);
}

static void poll_whole(sp_exchange *exchange)
{
    sp_generation *g = sp_exchange_state(exchange);
    sp_error error = {0};
    sp_status status = SP_OK;
    for (size_t i = 0; i < g->n_started && !status; i++) {
        status = read_choice(exchange, g, &g->choices[i], &error);
        if (!status && i + 1 == g->n_started) status = sp_generation_launch(exchange, g, &error);
    }
    sp_generation_note_progress(exchange, g);
    if (status)
        sp_exchange_fail(exchange, &error);
    else if (g->n_done == g->n_choices)
        reply_whole(exchange, g);
    else if (sp_exchange_cut(exchange, &error))
        sp_exchange_fail(exchange, &error);
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

static void write_frame(sp_generation *g, sp_choice *c, const char *text, size_t size, bool last,
                        sp_buffer *out)
{
    sp_json_writer writer;
    size_t begin = sp_sse_begin(out, &writer);
    write_head(g, g->format->chunk_object, &writer);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "index");
    sp_json_uint(&writer, c->index);
    g->format->piece(g, c, text, size, last, &writer);
    bool tells = last || !c->began;
    if (tells && g->n_choices > 1) write_attention_id(c, &writer);
    sp_json_close(&writer, '}');
    sp_json_close(&writer, ']');
    if (tells && g->n_choices == 1) write_attention_id(c, &writer);
    if (g->asked.continuous_usage) {
        sp_usage usage = sum_usage(g);
        sp_usage_write(&usage, &writer);
    } else if (g->asked.include_usage) {
        sp_json_key(&writer, "usage");
        sp_json_null(&writer);
    }
    if (last) {
        write_report(&c->last, &writer);
        write_timings(&c->last.usage, 1, &writer);
    }
    sp_json_close(&writer, '}');
    sp_sse_end(out, begin);
    c->told = c->told || (tells && !out->failed);
    c->began = true;
}

static void write_event(sp_generation *g, sp_choice *c, const sp_event *event, sp_buffer *out)
{
    bool last = event->type == SP_EVENT_DONE, token = event->type == SP_EVENT_TOKEN;
    sp_token_rows_clear(&c->rows);
    if (g->format->opens && !c->began) write_frame(g, c, NULL, 0, false, out);
    if (event->type == SP_EVENT_PROGRESS) return;
    c->last.prompt_logprobs = event->prompt_logprobs;
    c->last.prompt_top = event->prompt_top;
    if (token && keeps_rows(g)) sp_token_rows_add(&c->rows, event);
    sp_token_rows_pass(&c->rows, out); /* no memory: the stream ends here, and not as if it were whole */
    if (out->failed) return;
    bool first = g->asked.echo && !c->began;
    if (!last && !event->text_size && !keeps_rows(g) && !first) return;
    write_frame(g, c, event->text_size ? event->text : "", event->text_size, last, out);
}

static void write_end(sp_generation *g, sp_buffer *out)
{
    sp_json_writer writer;
    if (g->asked.include_usage) {
        sp_usage usage = sum_usage(g);
        size_t begin = sp_sse_begin(out, &writer);
        write_head(g, g->format->chunk_object, &writer);
        sp_json_close(&writer, ']');
        sp_usage_write(&usage, &writer);
        sp_json_close(&writer, '}');
        sp_sse_end(out, begin);
    }
    sp_sse_done(out);
}

/* The next event of any choice, in turn; NULL: none. */
static sp_choice *next_event(sp_generation *g, sp_event *event)
{
    if (g->has_first) {
        g->has_first = false;
        *event = g->first;
        return &g->choices[0];
    }
    for (size_t i = 0; i < g->n_started; i++) {
        sp_choice *c = &g->choices[g->turn++ % g->n_started];
        if (c->done) continue;
        sp_stream_read(c->stream, event);
        if (event->type != SP_EVENT_NONE) return c;
    }
    return NULL;
}

static sp_pull pull(sp_exchange *exchange, sp_buffer *out)
{
    sp_generation *g = sp_exchange_state(exchange);
    sp_event event;
    sp_error error = {0};
    sp_choice *c = NULL;
    if (!sp_exchange_cut(exchange, &error)) {
        c = next_event(g, &event);
        if (!c) return SP_PULL_WAIT;
    }
    if (!c) {
        write_error_frames(&error, out);
        return SP_PULL_END;
    }
    if (event.type == SP_EVENT_ERROR) {
        write_error_frames(&event.error, out);
        return SP_PULL_END;
    }
    sp_generation_note_event(g, c, &event);
    write_event(g, c, &event, out);
    sp_generation_note_progress(exchange, g);
    if (c->done) { /* all of it is written */
        sp_stream_free(c->stream);
        c->stream = NULL;
    }
    if (sp_generation_launch(exchange, g, &error)) {
        write_error_frames(&error, out);
        return SP_PULL_END;
    }
    if (g->n_done < g->n_choices) return SP_PULL_MORE;
    write_end(g, out);
    return SP_PULL_END;
}

static void poll_first(sp_exchange *exchange)
{
    sp_generation *g = sp_exchange_state(exchange);
    sp_error error;
    sp_stream_read(g->choices[0].stream, &g->first);
    if (g->first.type == SP_EVENT_ERROR) {
        sp_exchange_fail(exchange, &g->first.error);
    } else if (g->first.type != SP_EVENT_NONE) {
        g->has_first = true;
        sp_exchange_stream(exchange, "text/event-stream", pull);
    } else if (sp_exchange_cut(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
    }
}

void sp_generation_reply(sp_exchange *exchange, const sp_generation *g)
{
    sp_exchange_wait(exchange, g->asked.stream ? poll_first : poll_whole);
}
