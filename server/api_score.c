/* POST /v1/score: how probable the model finds given texts or token ids, token by token.
 *
 * The body names inputs (a string, strings, ids or lists of ids), which engine/evaluate/score.c scores one
 * after another; the connection waits suspended and the reply comes at once at the end. A route of our own:
 * unknown members are refused by name. Tests: tests/http/test_score.py */
#include <string.h>

#include "engine/evaluate/score.h"
#include "server/errors.h"
#include "server/json_body.h"
#include "server/routes.h"
#include "server/state.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */
#define MAX_INPUTS 128
#define REPLY_BYTES_A_TOKEN 96 /* more than nearly every token's part of the reply */

typedef struct score_request {
    sp_score_input *inputs; /* (n_inputs) in the body's arena */
    size_t n_inputs;
    sp_score_options options;
} score_request;

/* --- the body --- */
static sp_status bad_input(sp_error *error)
{
    return sp_fail_param(error, SP_INVALID, "input",
                         "input must be a string, an array of strings, an array of token ids or an array of "
                         "arrays of token ids");
}

static sp_status no_memory(sp_error *error)
{
    return sp_fail_param(error, SP_NO_MEMORY, "input", "input does not fit the memory of a request");
}

static sp_status read_ids(const sp_body *body, sp_item *list, uint32_t vocab, sp_score_input *out,
                          sp_error *error)
{
    size_t n = sp_item_count(list), i = 0;
    if (n == 0) return sp_fail_param(error, SP_INVALID, "input", "an input has no tokens");
    int32_t *ids = sp_arena_alloc(body->arena, n, sizeof *ids); /* (n) */
    if (!ids) return no_memory(error);
    for (sp_item *item = sp_item_first(list); item; item = sp_item_next(item), i++) {
        double value;
        if (!sp_item_is_integer(item, 0.0, (double)vocab - 1.0, &value))
            return sp_fail_param(error, SP_INVALID, "input",
                                 "token %zu of an input must be an id from 0 to %u", i, (unsigned)vocab - 1);
        ids[i] = (int32_t)value;
    }
    *out = (sp_score_input){.ids = ids, .n_ids = n};
    return SP_OK;
}

static sp_status read_one(const sp_body *body, sp_item *item, uint32_t vocab, sp_score_input *out,
                          sp_error *error)
{
    if (sp_item_is_array(item)) return read_ids(body, item, vocab, out, error);
    if (!sp_item_is_text(item)) return bad_input(error);
    *out = (sp_score_input){0};
    out->text = sp_item_text(body, item, &out->text_size);
    return out->text ? SP_OK : no_memory(error);
}

static sp_status read_inputs(const sp_body *body, uint32_t vocab, score_request *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, "input");
    if (!item) return sp_fail_param(error, SP_INVALID, "input", "input is missing");
    bool list = sp_item_is_array(item);
    sp_item *first = list ? sp_item_first(item) : NULL;
    if (list && !first) return sp_fail_param(error, SP_INVALID, "input", "input is empty");
    bool several = list && !sp_item_is_number(first);
    size_t n = several ? sp_item_count(item) : 1, i = 0;
    if (n > MAX_INPUTS)
        return sp_fail_param(error, SP_INVALID, "input", "input takes at most %d texts", MAX_INPUTS);
    out->inputs = sp_arena_alloc(body->arena, n, sizeof *out->inputs);
    if (!out->inputs) return no_memory(error);
    out->n_inputs = n;
    if (!several) return read_one(body, item, vocab, &out->inputs[0], error);
    for (sp_item *one = first; one; one = sp_item_next(one), i++) {
        if (sp_item_is_array(one) != sp_item_is_array(first)) return bad_input(error);
        sp_status status = read_one(body, one, vocab, &out->inputs[i], error);
        if (status) return status;
    }
    return SP_OK;
}

static sp_status check_names(const sp_body *body, sp_error *error)
{
    static const char *const known[] = {"model", "input", "min_context", "attention"};
    for (sp_item *item = sp_item_first(body->root); item; item = sp_item_next(item)) {
        const char *name = sp_item_name(item);
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], name) != 0) i++;
        if (i == sizeof known / sizeof *known)
            return sp_fail_param(error, SP_INVALID, name, "unknown member \"%.80s\"", name);
    }
    return SP_OK;
}

static sp_status read_request(const sp_body *body, const sp_engine_info *info, score_request *out,
                              sp_error *error)
{
    const char *model = NULL;
    size_t size = 0;
    int64_t min_context = 0;
    sp_status status = check_names(body, error);
    if (!status) status = sp_body_text(body, "model", &model, &size, error);
    if (!status && model) status = sp_engine_find_model(info, model, size, &out->options.adapter, error);
    if (!status) status = sp_body_int(body, "min_context", 0, info->context, &min_context, error);
    if (!status) status = read_inputs(body, info->hparams.vocab, out, error);
    if (status) return status;
    out->options.min_context = (uint32_t)min_context;
    out->options.max_tokens = SP_REPLY_BYTES / REPLY_BYTES_A_TOKEN;
    if (!sp_body_raw(body, "attention", &out->options.attention, &out->options.attention_size))
        out->options.attention = NULL;
    return SP_OK;
}

/* --- waiting --- */
static void wake(void *context)
{
    sp_exchange_wake(context);
}

static void free_scorer(void *state)
{
    sp_scorer_close(state);
}

static void poll_score(sp_exchange *exchange)
{
    sp_scorer *scorer = sp_exchange_state(exchange);
    sp_error error = {0};
    bool done = false;
    uint32_t read = sp_scorer_usage(scorer).prompt_tokens;
    sp_exchange_progress(exchange, read ? "prefill" : "waiting", read);
    if (sp_scorer_step(scorer, &done, &error)) {
        sp_exchange_fail(exchange, &error);
    } else if (done) {
        sp_json_writer writer;
        sp_exchange_json(exchange, 200, &writer);
        sp_scorer_write(scorer, &writer);
    } else if (sp_exchange_cut(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
    }
}

/* Bytes that scoring may keep: no text has more tokens than bytes, but for the few that are added. */
static size_t scored_bytes(const score_request *asked)
{
    size_t tokens = 0;
    for (size_t i = 0; i < asked->n_inputs; i++)
        tokens += asked->inputs[i].text_size + asked->inputs[i].n_ids + 8;
    return tokens * (sizeof(sp_token) + sizeof(int32_t) + sizeof(float));
}

static void submit(sp_exchange *exchange, score_request *asked)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_scorer *scorer = NULL;
    sp_error error = {0};
    size_t n_tokens = 0;
    asked->options.notify = wake;
    asked->options.notify_context = exchange;
    asked->options.abandoned = sp_exchange_flag(exchange);
    if (!sp_exchange_hold(exchange, scored_bytes(asked))) {
        sp_exchange_refuse(exchange, 503, NULL, "replies take too much memory just now; try again");
        return;
    }
    sp_status status =
        sp_scorer_open(engine, asked->inputs, asked->n_inputs, &asked->options, &n_tokens, &scorer, &error);
    if (status == SP_TOO_LONG) {
        sp_json_writer writer;
        sp_exchange_json(exchange, 400, &writer);
        sp_error_write_context(&writer, error.param, error.message, n_tokens,
                               sp_engine_get_info(engine)->context);
    } else if (status) {
        sp_exchange_fail(exchange, &error);
    } else {
        sp_exchange_set_state(exchange, scorer, free_scorer);
        sp_exchange_track(exchange, NULL);
        sp_exchange_wait(exchange, poll_score);
    }
}

void sp_api_score(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    score_request asked = {0};
    sp_arena arena;
    sp_error error;
    sp_body body;
    sp_arena_init(&arena, PARSE_BYTES(sp_exchange_options(exchange)));
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    bool open = !status;
    sp_engine *engine = sp_exchange_engine(exchange);
    if (!status && engine) status = read_request(&body, sp_engine_get_info(engine), &asked, &error);
    if (!status) status = sp_exchange_admit(exchange, &error);
    if (status)
        sp_exchange_fail(exchange, &error);
    else
        submit(exchange, &asked);
    if (open) sp_body_close(&body);
    sp_arena_fini(&arena);
    sp_buffer_fini(text); /* its content has been copied */
}
