/* See generation.h. A plain reply polls all streams until every choice is done; a stream sends a frame for
 * every piece of text as it comes, choices interleaved, then (include_usage) usage without choices, then
 * [DONE]. Its headers wait until the first choice has left the queue, so that a queue timeout or a drain is
 * still a real 503; a failure after them is an error frame and [DONE]. */
#include "server/generation.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/errors.h"
#include "server/metrics.h"
#include "server/sse.h"

#define TEXT_BYTES ((size_t)4 << 20) /* of a plain reply's choice */

static void free_generation(void *state)
{
    sp_generation *g = state;
    sp_generation_drop_captures(g);
    for (size_t i = 0; g->choices && i < g->n_choices; i++) {
        sp_stream_free(g->choices[i].stream);
        sp_buffer_fini(&g->choices[i].text);
        sp_token_rows_fini(&g->choices[i].rows);
        sp_buffer_fini(&g->choices[i].report);
    }
    for (size_t i = 0; i < g->asked.n_prompts; i++) {
        if (g->owned) sp_free(g->owned[i]);
        if (g->texts) sp_buffer_fini(&g->texts[i]);
        if (g->scored) sp_free(g->scored[i].logprobs);
        if (g->scored) sp_free(g->scored[i].top);
    }
    sp_free(g->scored);
    sp_free(g->choices);
    sp_free(g->owned);
    sp_free(g->texts);
    sp_arena_fini(&g->arena);
    sp_free(g);
}

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

/* --- submitting --- */
static void wake(void *context)
{
    sp_exchange_wake(context);
}

static sp_status submit_next(sp_exchange *exchange, sp_generation *g, sp_error *error)
{
    sp_choice *c = &g->choices[g->n_started];
    sp_request request = g->asked.request;
    request.prompt = NULL;
    request.ids = c->prompt->ids;
    request.n_ids = c->prompt->n_ids;
    request.follows = g->n_started > 0;
    request.spent = sp_now() - g->begun;
    request.sampling.seed = (int64_t)((uint64_t)request.sampling.seed + g->n_started % g->asked.n);
    sp_status status =
        sp_engine_submit(sp_exchange_engine(exchange), &request, wake, exchange, &c->stream, error);
    if (status) return status;
    const char *id = sp_stream_attention_id(c->stream);
    if (id) memcpy(c->attention_id, id, strlen(id) + 1);
    g->n_started++;
    return SP_OK;
}

/* Submits the next choice once the one before has left the queue. */
static sp_status launch(sp_exchange *exchange, sp_generation *g, sp_error *error)
{
    while (g->n_started < g->n_choices && g->choices[g->n_started - 1].moved) {
        sp_status status = submit_next(exchange, g, error);
        if (status) return status;
    }
    return SP_OK;
}

/* What an event changes, whichever the reply's shape. */
static void note_event(sp_generation *g, sp_choice *c, const sp_event *event)
{
    c->moved = true;
    if (event->type == SP_EVENT_TOKEN) c->n_written++;
    if (event->type == SP_EVENT_TOKEN) g->n_written++;
    if (event->type != SP_EVENT_DONE) return;
    c->done = true;
    c->last = *event;
    g->n_done++;
}

static void note_progress(sp_exchange *exchange, const sp_generation *g)
{
    sp_exchange_progress(exchange,
                         g->n_written          ? "decode"
                         : g->choices[0].moved ? "prefill"
                                               : "waiting",
                         g->n_written);
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
        note_event(g, c, &event);
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
        if (!status && i + 1 == g->n_started) status = launch(exchange, g, &error);
    }
    note_progress(exchange, g);
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
    note_event(g, c, &event);
    write_event(g, c, &event, out);
    note_progress(exchange, g);
    if (c->done) { /* all of it is written */
        sp_stream_free(c->stream);
        c->stream = NULL;
    }
    if (launch(exchange, g, &error)) {
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

/* --- starting --- */
/* The text that echo gives back: as it came, or what the ids spell. */
static sp_status keep_text(sp_generation *g, size_t p, sp_error *error)
{
    const sp_prompt *prompt = &g->asked.prompts[p];
    sp_buffer *text = &g->texts[p];
    sp_decoder decoder;
    sp_decoder_init(&decoder, g->tokenizer, false);
    if (prompt->text) sp_buffer_append(text, prompt->text, prompt->text_size);
    for (size_t i = 0; !prompt->text && i < prompt->n_ids; i++)
        sp_decoder_push(&decoder, prompt->ids[i], text);
    if (!prompt->text) sp_decoder_finish(&decoder, text);
    if (sp_buffer_check(text, error)) return error->status;
    return text->failed ? sp_fail_param(error, SP_INVALID, "echo", "echo: the prompt is too long") : SP_OK;
}

/* Encodes and checks every prompt. */
static sp_status check_prompts(sp_exchange *exchange, sp_generation *g, size_t *n_ids, sp_error *error)
{
    const sp_engine *engine = sp_exchange_engine(exchange);
    for (size_t p = 0; p < g->asked.n_prompts; p++) {
        sp_prompt *prompt = &g->asked.prompts[p];
        sp_request request = g->asked.request;
        request.prompt = prompt->text;
        request.prompt_size = prompt->text_size;
        request.ids = prompt->ids;
        request.n_ids = prompt->n_ids;
        sp_status status = sp_engine_check(engine, &request, &g->owned[p], n_ids, error);
        if (status) return status;
        prompt->ids = g->owned[p];
        prompt->n_ids = *n_ids;
        sp_buffer_init(&g->texts[p], TEXT_BYTES);
        if (g->asked.echo) status = keep_text(g, p, error);
        if (status) return status;
    }
    return SP_OK;
}

static void open_choices(sp_generation *g)
{
    for (size_t i = 0; i < g->n_choices; i++) {
        sp_choice *c = &g->choices[i];
        size_t p = i / g->asked.n;
        c->index = (uint32_t)i;
        c->prompt = &g->asked.prompts[p];
        sp_buffer_init(&c->text, TEXT_BYTES);
        sp_token_rows_init(&c->rows, g->asked.request.logprobs, TEXT_BYTES);
        sp_text_place_init(&c->place, g->tokenizer, true);
        sp_buffer_init(&c->report, TEXT_BYTES);
        c->place.characters = sp_text_characters(g->texts[p].data, g->texts[p].size);
    }
}

static void refuse(sp_exchange *exchange, sp_generation *g, size_t n_ids, sp_error *error)
{
    sp_json_writer writer;
    if (error->status == SP_TOO_LONG) {
        sp_exchange_json(exchange, 400, &writer);
        sp_error_write_context(&writer, error->param, error->message, n_ids,
                               sp_engine_get_info(sp_exchange_engine(exchange))->context);
    } else {
        sp_exchange_fail(exchange, error);
    }
    free_generation(g);
}

static sp_status open_generation(sp_exchange *exchange, sp_generation *g, sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
    g->model = info->model_ids[g->asked.request.adapter];
    g->tokenizer = info->tokenizer;
    g->captures = sp_engine_captures(sp_exchange_engine(exchange));
    g->created = (int64_t)time(NULL);
    g->begun = sp_now();
    g->asked.request.may_capture = true;
    g->asked.request.owner = sp_exchange_owner(exchange);
    g->asked.request.abandoned = sp_exchange_flag(exchange);
    g->asked.request.share_pages = true;
    g->n_choices = g->asked.n_prompts * g->asked.n;
    snprintf(g->id, sizeof g->id, "%s%s", g->format->id_prefix, sp_exchange_hex(exchange));
    g->owned = sp_alloc_zero(g->asked.n_prompts, sizeof *g->owned);
    g->texts = sp_alloc_zero(g->asked.n_prompts, sizeof *g->texts);
    g->scored = sp_alloc_zero(g->asked.n_prompts, sizeof *g->scored);
    g->choices = sp_alloc_zero(g->n_choices, sizeof *g->choices);
    return g->owned && g->texts && g->scored && g->choices
               ? SP_OK
               : sp_fail(error, SP_NO_MEMORY, "no memory for the request");
}

void sp_generation_start(sp_exchange *exchange, const sp_format *format, const sp_asked *asked,
                         sp_arena *arena)
{
    sp_error error = {0};
    size_t n_ids = 0;
    sp_generation *g = sp_alloc_zero(1, sizeof *g);
    if (!g) {
        sp_arena_fini(arena);
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return;
    }
    g->format = format;
    g->asked = *asked;
    g->arena = *arena;
    *arena = (sp_arena){0};
    sp_status status = open_generation(exchange, g, &error);
    if (!status) status = check_prompts(exchange, g, &n_ids, &error);
    if (!status) {
        open_choices(g);
        for (size_t i = 0; i < g->n_choices && !status; i++)
            status = sp_generation_count(exchange, g, &g->choices[i], &error);
    }
    if (!status) {
        status = submit_next(exchange, g, &error);
    }
    if (status) {
        refuse(exchange, g, n_ids, &error);
        return;
    }
    sp_exchange_set_state(exchange, g, free_generation);
    sp_exchange_track(exchange, g->id);
    sp_metrics_count_choices(sp_exchange_server(exchange), g->asked.n);
    sp_exchange_wait(exchange, asked->stream ? poll_first : poll_whole);
}
