/* POST /v1/completions: prompts continued (generation.h), written in the shape of OpenAI's text completions:
 * a choice has text, logprobs as parallel arrays, finish_reason; under echo text and rows begin with the
 * prompt's. Tests: tests/http/test_completions.py, test_completions_full.py */
#include <string.h>

#include "server/completions_request.h"
#include "server/generation.h"
#include "server/routes.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */

static void write_logprobs(const sp_generation *g, sp_choice *c, bool with_prompt, sp_json_writer *out)
{
    sp_prompt_rows prompt = {.ids = c->prompt->ids,
                             .n = c->prompt->n_ids,
                             .logprobs = c->last.prompt_logprobs,
                             .top = c->last.prompt_top};
    bool rows = sp_token_rows_count(&c->rows) > 0;
    sp_json_key(out, "logprobs");
    if (!g->asked.logprobs || (!with_prompt && !rows && c->began)) {
        sp_json_null(out);
        return;
    }
    with_prompt = with_prompt && prompt.logprobs;
    sp_text_place_init(&prompt.place, g->tokenizer, c->prompt->text != NULL);
    sp_logprobs_write_legacy(g->tokenizer, with_prompt ? &prompt : NULL, &c->rows, &c->place, out);
}

static void write_choice(const sp_generation *g, sp_choice *c, const char *text, size_t size, bool whole,
                         bool done, sp_json_writer *out)
{
    const sp_buffer *before = &g->texts[c->prompt - g->asked.prompts];
    bool echo = g->asked.echo && (whole || !c->began);
    sp_buffer joined;
    sp_buffer_init(&joined, SIZE_MAX / 2);
    if (echo) sp_buffer_append(&joined, before->data, before->size);
    sp_buffer_append(&joined, text, size);
    sp_json_key(out, "text");
    sp_json_string(out, joined.size ? joined.data : "", joined.size);
    sp_buffer_pass(&joined, out->out);
    sp_buffer_fini(&joined);
    write_logprobs(g, c, echo, out);
    sp_json_key(out, "finish_reason");
    sp_json_cstring(out, done ? sp_finish_name(c->last.finish) : NULL);
    if (!g->asked.return_token_ids) return;
    if (whole || !c->began) {
        sp_json_key(out, "prompt_token_ids");
        sp_ids_write(c->prompt->ids, c->prompt->n_ids, out);
    }
    sp_json_key(out, "token_ids");
    sp_ids_write((const int32_t *)(const void *)c->rows.tokens.data, sp_token_rows_count(&c->rows), out);
}

static void write_whole(const sp_generation *g, sp_choice *c, sp_json_writer *out)
{
    write_choice(g, c, c->text.data, c->text.size, true, true, out);
}

static void write_piece(const sp_generation *g, sp_choice *c, const char *text, size_t size, bool last,
                        sp_json_writer *out)
{
    write_choice(g, c, text, size, false, last, out);
}

static const sp_format format = {.id_prefix = "cmpl-",
                                 .object = "text_completion",
                                 .chunk_object = "text_completion",
                                 .choice = write_whole,
                                 .piece = write_piece};

void sp_api_completions(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    sp_asked asked;
    sp_arena arena;
    sp_error error;
    sp_body body;
    sp_arena_init(&arena, PARSE_BYTES(sp_exchange_options(exchange)));
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    bool open = !status;
    sp_engine *engine = sp_exchange_engine(exchange);
    if (!status && engine) status = sp_completion_read(&body, sp_engine_get_info(engine), &asked, &error);
    if (!status) status = sp_exchange_admit(exchange, &error);
    if (open) sp_body_close(&body);
    sp_buffer_fini(text); /* what is needed is in the arena */
    if (status) {
        sp_exchange_fail(exchange, &error);
        sp_arena_fini(&arena);
    } else {
        sp_generation_start(exchange, &format, &asked, &arena);
    }
}
