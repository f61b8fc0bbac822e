/* POST /v1/chat/completions: a chat continued (generation.h), written in the shape of OpenAI's chat
 * completions. A stream's first piece of a choice brings the role, the last an empty delta with
 * finish_reason. Tests: tests/http/test_chat.py */
#include <string.h>

#include "server/chat_request.h"
#include "server/generation.h"
#include "server/routes.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */

static void write_logprobs(const sp_generation *g, const sp_choice *c, bool whole, sp_json_writer *out)
{
    sp_json_key(out, "logprobs");
    if (g->asked.logprobs && (whole || sp_token_rows_count(&c->rows) > 0))
        sp_logprobs_write_chat(g->tokenizer, &c->rows, out);
    else
        sp_json_null(out);
}

static void write_ids(const sp_generation *g, const sp_choice *c, bool prompt, sp_json_writer *out)
{
    if (!g->asked.return_token_ids) return;
    if (prompt) {
        sp_json_key(out, "prompt_token_ids");
        sp_ids_write(c->prompt->ids, c->prompt->n_ids, out);
    }
    sp_json_key(out, "token_ids");
    sp_ids_write((const int32_t *)(const void *)c->rows.tokens.data, sp_token_rows_count(&c->rows), out);
}

static void write_whole(const sp_generation *g, sp_choice *c, sp_json_writer *out)
{
    sp_json_key(out, "message");
    sp_json_open(out, '{');
    sp_json_key(out, "role");
    sp_json_cstring(out, "assistant");
    sp_json_key(out, "content");
    sp_json_string(out, c->text.size ? c->text.data : "", c->text.size);
    sp_json_key(out, "refusal");
    sp_json_null(out);
    sp_json_close(out, '}');
    write_logprobs(g, c, true, out);
    sp_json_key(out, "finish_reason");
    sp_json_cstring(out, sp_finish_name(c->last.finish));
    write_ids(g, c, true, out);
}

/* text NULL: the opening piece. */
static void write_piece(const sp_generation *g, sp_choice *c, const char *text, size_t size, bool last,
                        sp_json_writer *out)
{
    sp_json_key(out, "delta");
    sp_json_open(out, '{');
    if (!text) {
        sp_json_key(out, "role");
        sp_json_cstring(out, "assistant");
    }
    if (!text || size > 0 || !last) {
        sp_json_key(out, "content");
        sp_json_string(out, text ? text : "", size);
    }
    sp_json_close(out, '}');
    write_logprobs(g, c, false, out);
    sp_json_key(out, "finish_reason");
    sp_json_cstring(out, last ? sp_finish_name(c->last.finish) : NULL);
    write_ids(g, c, !text, out);
}

static const sp_format format = {.id_prefix = "chatcmpl-",
                                 .object = "chat.completion",
                                 .chunk_object = "chat.completion.chunk",
                                 .choice = write_whole,
                                 .piece = write_piece,
                                 .opens = true};

void sp_api_chat(sp_exchange *exchange)
{
    sp_buffer *text = sp_exchange_body(exchange);
    const sp_options *options = sp_exchange_options(exchange);
    sp_asked asked;
    sp_arena arena;
    sp_error error;
    sp_body body;
    sp_arena_init(&arena, PARSE_BYTES(options));
    sp_status status = sp_body_open(&body, text->data, text->size, &arena, &error);
    bool open = !status;
    sp_engine *engine = sp_exchange_engine(exchange);
    if (!status && engine) status = sp_chat_read(&body, sp_engine_get_info(engine), options, &asked, &error);
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
