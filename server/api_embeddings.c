/* POST /v1/embeddings: texts as vectors.
 *
 * The states after the last norm become one vector a text: their mean over all tokens (pooling "mean", the
 * default) or the last token's ("last"). It is cut to `dimensions` and scaled to length 1 (normalize). Each
 * text is an engine request that writes nothing; the next is submitted when the one before has left the queue
 * (engine.h, follows). base64 is of little-endian float32, which both SDKs ask for. Tests:
 * tests/http/test_embeddings.py */
#include <math.h>
#include <string.h>

#include "server/asked.h"
#include "server/errors.h"
#include "server/exchange.h"
#include "server/routes.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */

typedef struct embedding {
    sp_stream *stream; /* NULL: not submitted yet */
    bool moved, done;
    float *states; /* (hidden) once done */
} embedding;

typedef struct embeddings {
    sp_asked asked; /* in arena */
    sp_arena arena; /* the body's */
    bool base64, normalize;
    uint32_t dimensions;
    const char *model;
    embedding *items; /* (asked.n_prompts) */
    size_t n_started, n_done, hidden;
    double begun;
    uint64_t tokens;
    sp_buffer report; /* the first input's */
} embeddings;

static void free_embeddings(void *state)
{
    embeddings *e = state;
    for (size_t i = 0; e->items && i < e->n_started; i++) {
        sp_stream_free(e->items[i].stream);
        sp_free(e->items[i].states);
    }
    sp_free(e->items);
    sp_buffer_fini(&e->report);
    sp_arena_fini(&e->arena);
    sp_free(e);
}

/* --- the body --- */
/* One of two names; *second says which. */
static sp_status read_choice(const sp_body *body, const char *name, const char *first, const char *other,
                             bool *second, sp_error *error)
{
    const char *text = first;
    size_t size = 0;
    sp_status status = sp_body_text(body, name, &text, &size, error);
    if (status) return status;
    *second = strcmp(text, other) == 0;
    if (*second || strcmp(text, first) == 0) return SP_OK;
    return sp_fail_param(error, SP_INVALID, name, "%s must be \"%s\" or \"%s\"", name, first, other);
}

static sp_status read_body(const sp_body *body, const sp_engine_info *info, embeddings *out, sp_error *error)
{
    static const char *const known[] = {"input",     "encoding_format",    "dimensions", "pooling",
                                        "normalize", "add_special_tokens", "cache_salt", NULL};
    bool last = false, special = true;
    int64_t dimensions = info->hparams.hidden;
    sp_request *request = &out->asked.request;
    const char *attention;
    size_t size;
    sp_request_init(request);
    out->normalize = true;
    sp_status status = sp_asked_adapter(body, info, &request->adapter, error);
    if (!status)
        status = sp_asked_prompts(body, "input", info->hparams.vocab, SP_MAX_PROMPTS, &out->asked, error);
    if (!status) status = read_choice(body, "encoding_format", "float", "base64", &out->base64, error);
    if (!status) status = read_choice(body, "pooling", "mean", "last", &last, error);
    if (!status) status = sp_body_int(body, "dimensions", 1, info->hparams.hidden, &dimensions, error);
    if (!status) status = sp_body_bool(body, "normalize", &out->normalize, error);
    if (!status) status = sp_body_bool(body, "add_special_tokens", &special, error);
    if (!status)
        status = sp_body_text(body, "cache_salt", &request->cache_salt, &request->cache_salt_size, error);
    if (status) return status;
    if (sp_body_raw(body, "attention", &attention, &size)) {
        request->attention = sp_arena_copy(body->arena, attention, size);
        request->attention_size = size;
        if (!request->attention) return sp_fail(error, SP_NO_MEMORY, "no memory for the request");
    }
    request->max_tokens = 0;
    request->share_pages = true;
    request->plain_prompt = !special;
    request->pooling = last ? SP_POOLING_LAST : SP_POOLING_MEAN;
    out->dimensions = (uint32_t)dimensions;
    sp_asked_note_unknown(body, "embeddings", known);
    return SP_OK;
}

/* --- the reply --- */
static void write_base64(const float *values, size_t n, sp_json_writer *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    sp_buffer text;
    sp_buffer_init(&text, SP_REPLY_BYTES);
    uint32_t held = 0, bits = 0;
    for (size_t i = 0; i < 4 * n; i++) {
        uint32_t word;
        memcpy(&word, &values[i / 4], sizeof word);
        held = held << 8 | (word >> 8 * (i % 4) & 0xffu);
        for (bits += 8; bits >= 6; bits -= 6) sp_buffer_append(&text, &digits[held >> (bits - 6) & 63u], 1);
    }
    if (bits > 0) sp_buffer_append(&text, &digits[held << (6 - bits) & 63u], 1);
    while (text.size % 4 && !text.failed) sp_buffer_append(&text, "=", 1);
    sp_buffer_pass(&text, out->out);
    sp_json_string(out, text.data, text.size);
    sp_buffer_fini(&text);
}

static void write_vector(const embeddings *e, const float *states, sp_json_writer *out)
{
    float *values = sp_alloc(e->dimensions, sizeof *values); /* (dimensions) */
    double sum = 0;
    if (!values) {
        sp_buffer_break(out->out);
        return;
    }
    for (uint32_t i = 0; i < e->dimensions; i++) sum += (double)states[i] * (double)states[i];
    double scale = e->normalize && sum > 0 ? 1 / sqrt(sum) : 1;
    for (uint32_t i = 0; i < e->dimensions; i++) values[i] = (float)((double)states[i] * scale);
    sp_json_key(out, "embedding");
    if (e->base64) {
        write_base64(values, e->dimensions, out);
    } else {
        sp_json_open(out, '[');
        for (uint32_t i = 0; i < e->dimensions; i++) sp_json_float(out, values[i]);
        sp_json_close(out, ']');
    }
    sp_free(values);
}

static void reply(sp_exchange *exchange, const embeddings *e)
{
    sp_json_writer out;
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "object");
    sp_json_cstring(&out, "list");
    sp_json_key(&out, "data");
    sp_json_open(&out, '[');
    for (size_t i = 0; i < e->asked.n_prompts; i++) {
        sp_json_open(&out, '{');
        sp_json_key(&out, "object");
        sp_json_cstring(&out, "embedding");
        sp_json_key(&out, "index");
        sp_json_uint(&out, i);
        write_vector(e, e->items[i].states, &out);
        sp_json_close(&out, '}');
    }
    sp_json_close(&out, ']');
    sp_json_key(&out, "model");
    sp_json_cstring(&out, e->model);
    sp_json_key(&out, "usage");
    sp_json_open(&out, '{');
    sp_json_key(&out, "prompt_tokens");
    sp_json_uint(&out, e->tokens);
    sp_json_key(&out, "total_tokens");
    sp_json_uint(&out, e->tokens);
    sp_json_close(&out, '}');
    sp_json_key(&out, "attention_report");
    sp_json_raw(&out, e->report.data, e->report.size);
    sp_json_close(&out, '}');
}

/* --- waiting --- */
static void wake(void *context)
{
    sp_exchange_wake(context);
}

static sp_request request_of(const embeddings *e, size_t i)
{
    sp_request request = e->asked.request;
    request.prompt = e->asked.prompts[i].text;
    request.prompt_size = e->asked.prompts[i].text_size;
    request.ids = e->asked.prompts[i].ids;
    request.n_ids = e->asked.prompts[i].n_ids;
    request.follows = i > 0;
    request.spent = sp_now() - e->begun;
    return request;
}

static sp_status submit_next(sp_exchange *exchange, embeddings *e, sp_error *error)
{
    sp_request request = request_of(e, e->n_started);
    sp_status status = sp_engine_submit(sp_exchange_engine(exchange), &request, wake, exchange,
                                        &e->items[e->n_started].stream, error);
    if (!status) e->n_started++;
    return status;
}

/* Of a stream that has ended the vector stays, and of the first one the report. */
static sp_status keep(embeddings *e, embedding *item, const sp_event *last, sp_error *error)
{
    item->states = sp_alloc(e->hidden, sizeof *item->states);
    if (item->states) memcpy(item->states, last->embedding, e->hidden * sizeof *item->states);
    if (item == e->items) sp_buffer_append(&e->report, last->report, last->report_size);
    e->tokens += last->usage.prompt_tokens;
    item->done = true;
    e->n_done++;
    sp_stream_free(item->stream);
    item->stream = NULL;
    return item->states && !e->report.failed ? SP_OK
                                             : sp_fail(error, SP_NO_MEMORY, "no memory for the reply");
}

static sp_status read_item(embeddings *e, embedding *item, sp_error *error)
{
    sp_event event;
    while (!item->done) {
        sp_stream_read(item->stream, &event);
        if (event.type == SP_EVENT_NONE) return SP_OK;
        if (event.type == SP_EVENT_ERROR) {
            *error = event.error;
            return event.error.status;
        }
        item->moved = true;
        if (event.type != SP_EVENT_DONE) continue;
        sp_status status = keep(e, item, &event, error);
        if (status) return status;
    }
    return SP_OK;
}

static void poll_embeddings(sp_exchange *exchange)
{
    embeddings *e = sp_exchange_state(exchange);
    sp_error error = {0};
    sp_status status = SP_OK;
    for (size_t i = 0; i < e->n_started && !status; i++) {
        status = read_item(e, &e->items[i], &error);
        bool more = e->n_started < e->asked.n_prompts && e->items[e->n_started - 1].moved;
        if (!status && more) status = submit_next(exchange, e, &error);
    }
    sp_exchange_progress(exchange, e->items[0].moved ? "prefill" : "waiting", e->tokens);
    if (status)
        sp_exchange_fail(exchange, &error);
    else if (e->n_done == e->asked.n_prompts)
        reply(exchange, e);
    else if (sp_exchange_cut(exchange, &error))
        sp_exchange_fail(exchange, &error);
}

/* --- starting --- */
/* Every input is checked before the first runs. */
static sp_status check_inputs(sp_exchange *exchange, embeddings *e, size_t *n_ids, sp_error *error)
{
    for (size_t i = 0; i < e->asked.n_prompts; i++) {
        sp_request request = request_of(e, i);
        int32_t *ids;
        sp_status status = sp_engine_check(sp_exchange_engine(exchange), &request, &ids, n_ids, error);
        if (status && strcmp(error->param, "prompt") == 0) memcpy(error->param, "input", sizeof "input");
        if (status) return status;
        sp_free(ids);
    }
    return SP_OK;
}

static void start(sp_exchange *exchange, embeddings *e)
{
    const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
    sp_error error = {0};
    size_t n_ids = 0;
    e->model = info->model_ids[e->asked.request.adapter];
    e->hidden = info->hparams.hidden;
    e->asked.request.abandoned = sp_exchange_flag(exchange);
    sp_buffer_init(&e->report, SP_REPLY_BYTES);
    e->items = sp_alloc_zero(e->asked.n_prompts, sizeof *e->items);
    sp_status status = e->items ? check_inputs(exchange, e, &n_ids, &error)
                                : sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
    if (!status &&
        !sp_exchange_hold(exchange, e->asked.n_prompts * (sizeof *e->items + e->hidden * sizeof(float))))
        status = sp_fail(&error, SP_UNAVAILABLE, "replies take too much memory just now; try again");
    if (!status) status = submit_next(exchange, e, &error);
    if (!status) {
        sp_exchange_set_state(exchange, e, free_embeddings);
        sp_exchange_track(exchange, NULL);
        sp_exchange_wait(exchange, poll_embeddings);
        return;
    }
    if (status == SP_TOO_LONG) {
        sp_json_writer writer;
        sp_exchange_json(exchange, 400, &writer);
        sp_error_write_context(&writer, error.param, error.message, n_ids, info->context);
    } else {
        sp_exchange_fail(exchange, &error);
    }
    free_embeddings(e);
}

void sp_api_embeddings(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_error error = {0};
    sp_body body;
    embeddings *e = sp_alloc_zero(1, sizeof *e);
    if (!e) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return;
    }
    e->begun = sp_now();
    sp_arena_init(&e->arena, PARSE_BYTES(sp_exchange_options(exchange)));
    sp_status status = sp_body_open(&body, text->data, text->size, &e->arena, &error);
    bool open = !status;
    if (!status && engine) status = read_body(&body, sp_engine_get_info(engine), e, &error);
    e->asked.request.owner = sp_exchange_owner(exchange);
    if (!status) status = sp_exchange_admit(exchange, &error);
    if (open) sp_body_close(&body);
    sp_buffer_fini(text); /* what is needed is in the arena */
    if (!status) {
        start(exchange, e);
        return;
    }
    sp_exchange_fail(exchange, &error);
    free_embeddings(e);
}
