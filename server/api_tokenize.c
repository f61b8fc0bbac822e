/* POST /tokenize, POST /detokenize, GET /tokenizer_info: the tokenizer by itself, in the shapes of the
 * servers that clients know. The name under which the text comes says whose: `content` (llama.cpp; nothing is
 * added unless add_special), `prompt` (vLLM; BOS and the like unless add_special_tokens is false), `inputs`
 * (text-embeddings-inference: objects with offsets in code points). Special tokens written in a text are
 * recognised, as all three do, unless parse_special is false: lm-evaluation-harness asks so for the id of its
 * end of text. Tests: tests/http/test_tokenize.py */
#include <string.h>

#include "server/asked.h"
#include "server/exchange.h"
#include "server/logprobs.h"
#include "server/routes.h"

#define PARSE_BYTES(options) ((size_t)(options)->max_body_bytes * 6 + 65536) /* arena of a body */
#define MAX_TEXTS 128

typedef struct tokenize {
    const sp_engine_info *info;
    unsigned flags;
    bool pieces, strings;
} tokenize;

static void write_piece(const sp_tokenizer *tokenizer, int32_t id, bool bytes_as_array, sp_json_writer *out)
{
    size_t size;
    const char *bytes = sp_tokenizer_bytes(tokenizer, id, &size);
    if (size == 0) bytes = sp_tokenizer_piece(tokenizer, id), size = strlen(bytes);
    if (!bytes_as_array || sp_utf8_valid(bytes, size)) {
        sp_json_string(out, bytes, size);
        return;
    }
    sp_json_open(out, '[');
    for (size_t i = 0; i < size; i++) sp_json_uint(out, (uint8_t)bytes[i]);
    sp_json_close(out, ']');
}

/* --- replies --- */
static void write_union(const tokenize *t, const sp_tokens *tokens, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "count");
    sp_json_uint(out, tokens->count);
    sp_json_key(out, "max_model_len");
    sp_json_uint(out, t->info->context);
    sp_json_key(out, "tokens");
    sp_json_open(out, '[');
    for (size_t i = 0; i < tokens->count; i++) {
        int32_t id = tokens->data[i].id;
        if (!t->pieces) {
            sp_json_int(out, id);
            continue;
        }
        sp_json_open(out, '{');
        sp_json_key(out, "id");
        sp_json_int(out, id);
        sp_json_key(out, "piece");
        write_piece(t->info->tokenizer, id, true, out);
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
    sp_json_key(out, "token_strs");
    if (t->strings) {
        sp_json_open(out, '[');
        for (size_t i = 0; i < tokens->count; i++)
            sp_json_cstring(out, sp_tokenizer_piece(t->info->tokenizer, tokens->data[i].id));
        sp_json_close(out, ']');
    } else {
        sp_json_null(out);
    }
    sp_json_close(out, '}');
}

/* A token of no range of the text (BOS) has null offsets. */
static void write_offsets(const tokenize *t, const sp_prompt *prompt, const sp_tokens *tokens,
                          sp_json_writer *out)
{
    sp_json_open(out, '[');
    uint64_t place = 0;
    size_t byte = 0;
    for (size_t i = 0; i < tokens->count; i++) {
        const sp_token *token = &tokens->data[i];
        bool empty = token->begin == token->end;
        if (token->begin > byte) place += sp_text_characters(prompt->text + byte, token->begin - byte);
        if (token->begin > byte) byte = token->begin;
        sp_json_open(out, '{');
        sp_json_key(out, "id");
        sp_json_int(out, token->id);
        sp_json_key(out, "text");
        write_piece(t->info->tokenizer, token->id, false, out);
        sp_json_key(out, "special");
        sp_json_bool(out, sp_tokenizer_is_special(t->info->tokenizer, token->id));
        sp_json_key(out, "start");
        if (empty)
            sp_json_null(out);
        else
            sp_json_uint(out, place);
        sp_json_key(out, "stop");
        if (empty)
            sp_json_null(out);
        else
            sp_json_uint(out, place + sp_text_characters(prompt->text + byte, token->end - byte));
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
}

/* --- requests --- */
static sp_status encode(const tokenize *t, const char *name, const sp_prompt *prompt, sp_tokens *tokens,
                        sp_error *error)
{
    if (!prompt->text) return sp_fail_param(error, SP_INVALID, name, "%s must be a string", name);
    sp_status status =
        sp_tokenizer_encode(t->info->tokenizer, prompt->text, prompt->text_size, t->flags, tokens, error);
    if (status == SP_INVALID)
        return sp_fail_param(error, SP_INVALID, name, "%s: the tokenizer cannot encode it", name);
    return status;
}

/* Which of the three names the text has; exactly one. */
static sp_status find_text(const sp_body *body, const char **name, sp_error *error)
{
    static const char *const names[] = {"content", "prompt", "inputs"};
    *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!sp_body_find(body, names[i])) continue;
        if (*name)
            return sp_fail_param(error, SP_INVALID, names[i], "%s and %s exclude each other", *name,
                                 names[i]);
        *name = names[i];
    }
    return *name
               ? SP_OK
               : sp_fail_param(error, SP_INVALID, "prompt", "the text is missing: content, prompt or inputs");
}

static sp_status tokenize_body(sp_exchange *exchange, const sp_body *body, const sp_engine_info *info,
                               sp_error *error)
{
    tokenize t = {.info = info};
    sp_asked asked = {0};
    const char *name;
    bool parse = true;
    sp_status status = sp_asked_model(body, info, error);
    if (!status) status = find_text(body, &name, error);
    if (status) return status;
    bool several = strcmp(name, "inputs") == 0, add = strcmp(name, "content") != 0;
    status = sp_asked_prompts(body, name, info->hparams.vocab, several ? MAX_TEXTS : 1, &asked, error);
    if (!status) status = sp_body_bool(body, "add_special", &add, error);
    if (!status) status = sp_body_bool(body, "add_special_tokens", &add, error);
    if (!status) status = sp_body_bool(body, "parse_special", &parse, error);
    if (!status) status = sp_body_bool(body, "with_pieces", &t.pieces, error);
    if (!status) status = sp_body_bool(body, "return_token_strs", &t.strings, error);
    t.flags = (add ? SP_ENCODE_ADD : 0u) | (parse ? SP_ENCODE_SPECIAL : 0u);
    sp_tokens tokens = {0};
    for (size_t i = 0; i < asked.n_prompts && !status; i++)
        status = encode(&t, name, &asked.prompts[i], &tokens, error); /* all, before anything is written */
    if (!status) {
        sp_json_writer out;
        sp_exchange_json(exchange, 200, &out);
        if (!several) {
            write_union(&t, &tokens, &out);
        } else {
            sp_json_open(&out, '[');
            for (size_t i = 0; i < asked.n_prompts && !status; i++) {
                status = encode(&t, name, &asked.prompts[i], &tokens, error);
                write_offsets(&t, &asked.prompts[i], &tokens, &out);
            }
            sp_json_close(&out, ']');
        }
    }
    sp_tokens_fini(&tokens);
    return status;
}

static sp_status detokenize_body(sp_exchange *exchange, const sp_body *body, const sp_engine_info *info,
                                 sp_error *error)
{
    const int32_t *ids = NULL;
    size_t n_ids = 0;
    sp_status status = sp_asked_model(body, info, error);
    if (!status && !sp_body_find(body, "tokens"))
        status = sp_fail_param(error, SP_INVALID, "tokens", "tokens is missing");
    if (!status)
        status = sp_asked_ids(body, "tokens", info->hparams.vocab, SIZE_MAX / 8, &ids, &n_ids, error);
    if (status) return status;
    sp_buffer text;
    sp_decoder decoder;
    sp_json_writer out;
    sp_buffer_init(&text, SP_REPLY_BYTES / 4);
    sp_decoder_init(&decoder, info->tokenizer, false);
    for (size_t i = 0; i < n_ids; i++) sp_decoder_push(&decoder, ids[i], &text);
    sp_decoder_finish(&decoder, &text);
    status = sp_buffer_check(&text, error);
    if (!status && text.failed)
        status = sp_fail_param(error, SP_INVALID, "tokens", "tokens give more text than a reply holds");
    if (!status) {
        sp_exchange_json(exchange, 200, &out);
        sp_json_open(&out, '{');
        sp_json_key(&out, "content");
        sp_json_string(&out, text.size ? text.data : "", text.size);
        sp_json_key(&out, "prompt");
        sp_json_string(&out, text.size ? text.data : "", text.size);
        sp_json_close(&out, '}');
    }
    sp_buffer_fini(&text);
    return status;
}

typedef sp_status (*body_fn)(sp_exchange *exchange, const sp_body *body, const sp_engine_info *info,
                             sp_error *error);

static void answer(sp_exchange *exchange, body_fn handle)
{
    sp_buffer *text = sp_exchange_body(exchange);
    sp_arena arena;
    sp_error error = {0};
    sp_body body;
    sp_arena_init(&arena, PARSE_BYTES(sp_exchange_options(exchange)));
    sp_status status = sp_exchange_admit(exchange, &error);
    bool open = false;
    if (!status) {
        status = sp_body_open(&body, text->data, text->size, &arena, &error);
        open = !status;
    }
    if (!status) status = handle(exchange, &body, sp_engine_get_info(sp_exchange_engine(exchange)), &error);
    if (status) sp_exchange_fail(exchange, &error);
    if (open) sp_body_close(&body);
    sp_arena_fini(&arena);
}

void sp_api_tokenize(sp_exchange *exchange)
{
    answer(exchange, tokenize_body);
}

void sp_api_detokenize(sp_exchange *exchange)
{
    answer(exchange, detokenize_body);
}

/* --- facts --- */
static void write_named(const sp_tokenizer *tokenizer, const char *name, int32_t id, sp_json_writer *out)
{
    sp_json_key(out, name);
    sp_json_cstring(out, id < 0 ? NULL : sp_tokenizer_piece(tokenizer, id));
}

void sp_api_tokenizer_info(sp_exchange *exchange)
{
    sp_json_writer out;
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
    sp_exchange_json(exchange, 200, &out);
    sp_json_open(&out, '{');
    write_named(info->tokenizer, "bos_token", info->hparams.bos, &out);
    write_named(info->tokenizer, "eos_token", info->hparams.n_eos ? info->hparams.eos[0] : -1, &out);
    sp_json_key(&out, "pad_token");
    sp_json_null(&out);
    sp_json_key(&out, "chat_template");
    sp_json_cstring(&out, info->chat_template);
    sp_json_key(&out, "chat_family");
    sp_json_cstring(&out, info->chat->family == SP_CHAT_NONE ? NULL : sp_chat_name(info->chat->family));
    sp_json_key(&out, "add_bos_token");
    sp_json_bool(&out, sp_tokenizer_adds_bos(info->tokenizer));
    sp_json_key(&out, "vocab_size");
    sp_json_int(&out, sp_tokenizer_size(info->tokenizer));
    sp_json_key(&out, "model_max_length");
    sp_json_uint(&out, info->context);
    sp_json_close(&out, '}');
}
