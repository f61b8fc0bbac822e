/* A request for text from its prompts to its choices (generation.h): prompts are checked, choices submitted
 * one after another, what their events change is noted. How they are answered is in generation_reply.c.
 * Tests: tests/http/test_completions.py, tests/http/test_completions_full.py, tests/http/test_chat.py */
#include "server/generation.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/errors.h"
#include "server/metrics.h"

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

sp_status sp_generation_launch(sp_exchange *exchange, sp_generation *g, sp_error *error)
{
    while (g->n_started < g->n_choices && g->choices[g->n_started - 1].moved) {
        sp_status status = submit_next(exchange, g, error);
        if (status) return status;
    }
    return SP_OK;
}

void sp_generation_note_event(sp_generation *g, sp_choice *c, const sp_event *event)
{
    c->moved = true;
    if (event->type == SP_EVENT_TOKEN) c->n_written++;
    if (event->type == SP_EVENT_TOKEN) g->n_written++;
    if (event->type != SP_EVENT_DONE) return;
    c->done = true;
    c->last = *event;
    g->n_done++;
}

void sp_generation_note_progress(sp_exchange *exchange, const sp_generation *g)
{
    sp_exchange_progress(exchange,
                         g->n_written          ? "decode"
                         : g->choices[0].moved ? "prefill"
                                               : "waiting",
                         g->n_written);
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
    sp_generation_reply(exchange, g);
}
