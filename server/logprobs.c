/* See logprobs.h. */
#include "server/logprobs.h"

#include <math.h>
#include <string.h>

#define FLOOR (-9999.0f)

/* --- rows --- */
void sp_token_rows_init(sp_token_rows *rows, uint32_t n_top, size_t max_bytes)
{
    rows->n_top = n_top;
    sp_buffer_init(&rows->tokens, max_bytes);
    sp_buffer_init(&rows->logprobs, max_bytes);
    sp_buffer_init(&rows->tops, max_bytes);
}

void sp_token_rows_fini(sp_token_rows *rows)
{
    sp_buffer_fini(&rows->tokens);
    sp_buffer_fini(&rows->logprobs);
    sp_buffer_fini(&rows->tops);
}

void sp_token_rows_clear(sp_token_rows *rows)
{
    sp_buffer_clear(&rows->tokens);
    sp_buffer_clear(&rows->logprobs);
    sp_buffer_clear(&rows->tops);
}

void sp_token_rows_add(sp_token_rows *rows, const sp_event *event)
{
    static const sp_token_logprob none = {.token = -1};
    sp_buffer_append(&rows->tokens, &event->token, sizeof event->token);
    sp_buffer_append(&rows->logprobs, &event->logprob, sizeof event->logprob);
    for (uint32_t i = 0; i < rows->n_top; i++)
        sp_buffer_append(&rows->tops, i < event->n_top ? &event->top[i] : &none, sizeof none);
}

size_t sp_token_rows_count(const sp_token_rows *rows)
{
    return rows->tokens.size / sizeof(int32_t);
}

void sp_token_rows_pass(const sp_token_rows *rows, sp_buffer *out)
{
    sp_buffer_pass(&rows->tokens, out);
    sp_buffer_pass(&rows->logprobs, out);
    sp_buffer_pass(&rows->tops, out);
}

/* One row, wherever it is kept. */
typedef struct row {
    int32_t token;
    float logprob; /* NaN: unknown */
    const sp_token_logprob *top;
    uint32_t n_top;
} row;

static row written_row(const sp_token_rows *rows, size_t i)
{
    return (row){
        .token = ((const int32_t *)(const void *)rows->tokens.data)[i],
        .logprob = ((const float *)(const void *)rows->logprobs.data)[i],
        .top = rows->n_top ? (const sp_token_logprob *)(const void *)rows->tops.data + i * rows->n_top : NULL,
        .n_top = rows->n_top};
}

static row prompt_row(const sp_prompt_rows *prompt, uint32_t n_top, size_t i)
{
    return (row){.token = prompt->ids[i],
                 .logprob = prompt->logprobs[i],
                 .top = prompt->top ? prompt->top + i * n_top : NULL,
                 .n_top = prompt->top ? n_top : 0};
}

/* --- places --- */
uint64_t sp_text_characters(const char *text, size_t size)
{
    uint64_t n = 0;
    for (size_t i = 0; i < size; i++) n += ((uint8_t)text[i] & 0xc0u) != 0x80u;
    return n;
}

void sp_text_place_init(sp_text_place *place, const sp_tokenizer *tokenizer, bool skip_special)
{
    place->characters = 0;
    sp_decoder_init(&place->decoder, tokenizer, skip_special);
}

bool sp_text_place_pass(sp_text_place *place, int32_t token)
{
    sp_buffer text;
    sp_buffer_init(&text, (size_t)1 << 16);
    sp_decoder_push(&place->decoder, token, &text);
    bool good = !text.failed;
    place->characters += sp_text_characters(text.data, text.size);
    sp_buffer_fini(&text);
    return good;
}

/* --- completions --- */
static float bounded(float logprob)
{
    return logprob > FLOOR ? logprob : FLOOR;
}

/* The spelling of a token as a string: its text, or its bytes. */
static void spell(const sp_tokenizer *tokenizer, int32_t token, sp_buffer *out)
{
    size_t size;
    const char *bytes = sp_tokenizer_bytes(tokenizer, token, &size);
    if (size == 0) bytes = sp_tokenizer_piece(tokenizer, token), size = strlen(bytes);
    sp_buffer_clear(out);
    if (sp_utf8_valid(bytes, size)) {
        sp_buffer_append(out, bytes, size);
        return;
    }
    sp_buffer_text(out, "bytes:");
    for (size_t i = 0; i < size; i++) sp_buffer_format(out, "\\x%02x", (unsigned)(uint8_t)bytes[i]);
}

static void write_token(const sp_tokenizer *tokenizer, int32_t token, sp_json_writer *out)
{
    sp_buffer text;
    sp_buffer_init(&text, 4096);
    spell(tokenizer, token, &text);
    sp_buffer_pass(&text, out->out);
    sp_json_string(out, text.data, text.size);
    sp_buffer_fini(&text);
}

/* The alternatives and the chosen token, best first, each text once. */
static void write_map(const sp_tokenizer *tokenizer, const row *r, sp_json_writer *out)
{
    sp_buffer texts[SP_MAX_LOGPROBS + 1];
    uint32_t n = 0;
    bool chosen = false;
    sp_json_open(out, '{');
    for (uint32_t i = 0; i <= r->n_top; i++) {
        bool extra = i == r->n_top;
        sp_token_logprob one = extra ? (sp_token_logprob){r->token, r->logprob} : r->top[i];
        if (one.token < 0 || (extra && chosen)) continue;
        chosen = chosen || one.token == r->token;
        sp_buffer_init(&texts[n], 4096);
        spell(tokenizer, one.token, &texts[n]);
        sp_buffer_append(&texts[n], "", 1);
        bool again = texts[n].failed;
        sp_buffer_pass(&texts[n], out->out);
        for (uint32_t j = 0; j < n && !again; j++)
            again =
                texts[j].size == texts[n].size && memcmp(texts[j].data, texts[n].data, texts[n].size) == 0;
        if (again) {
            sp_buffer_fini(&texts[n]);
            continue;
        }
        sp_json_key(out, texts[n++].data);
        sp_json_float(out, bounded(one.logprob));
    }
    sp_json_close(out, '}');
    while (n > 0) sp_buffer_fini(&texts[--n]);
}

typedef struct table {
    const sp_tokenizer *tokenizer;
    const sp_prompt_rows *prompt; /* or NULL */
    const sp_token_rows *rows;
    size_t n_prompt, n;
} table;

static row table_row(const table *t, size_t i)
{
    return i < t->n_prompt ? prompt_row(t->prompt, t->rows->n_top, i) : written_row(t->rows, i - t->n_prompt);
}

static void write_offsets(const table *t, sp_text_place *place, sp_json_writer *out)
{
    sp_text_place before = t->prompt ? t->prompt->place : *place;
    sp_json_open(out, '[');
    for (size_t i = 0; i < t->n; i++) {
        sp_text_place *at = i < t->n_prompt ? &before : place;
        sp_json_uint(out, at->characters);
        if (!sp_text_place_pass(at, table_row(t, i).token)) sp_buffer_break(out->out);
    }
    sp_json_close(out, ']');
}

void sp_logprobs_write_legacy(const sp_tokenizer *tokenizer, const sp_prompt_rows *prompt,
                              const sp_token_rows *rows, sp_text_place *place, sp_json_writer *out)
{
    table t = {.tokenizer = tokenizer, .prompt = prompt, .rows = rows, .n_prompt = prompt ? prompt->n : 0};
    t.n = t.n_prompt + sp_token_rows_count(rows);
    sp_json_open(out, '{');
    sp_json_key(out, "tokens");
    sp_json_open(out, '[');
    for (size_t i = 0; i < t.n; i++) write_token(tokenizer, table_row(&t, i).token, out);
    sp_json_close(out, ']');
    sp_json_key(out, "token_logprobs");
    sp_json_open(out, '[');
    for (size_t i = 0; i < t.n; i++) {
        row r = table_row(&t, i);
        if (isnan(r.logprob))
            sp_json_null(out);
        else
            sp_json_float(out, bounded(r.logprob));
    }
    sp_json_close(out, ']');
    sp_json_key(out, "top_logprobs");
    sp_json_open(out, '[');
    for (size_t i = 0; i < t.n; i++) {
        row r = table_row(&t, i);
        if (isnan(r.logprob))
            sp_json_null(out);
        else
            write_map(tokenizer, &r, out);
    }
    sp_json_close(out, ']');
    sp_json_key(out, "text_offset");
    write_offsets(&t, place, out);
    sp_json_close(out, '}');
}

/* --- chat --- */
/* Members token, logprob and bytes of an open object. */
static void write_entry(const sp_tokenizer *tokenizer, int32_t token, float logprob, sp_json_writer *out)
{
    size_t size;
    const char *bytes = sp_tokenizer_bytes(tokenizer, token, &size);
    if (size == 0) bytes = sp_tokenizer_piece(tokenizer, token), size = strlen(bytes);
    sp_json_key(out, "token");
    sp_json_string(out, bytes, size);
    sp_json_key(out, "logprob");
    sp_json_float(out, bounded(logprob));
    sp_json_key(out, "bytes");
    sp_json_open(out, '[');
    for (size_t i = 0; i < size; i++) sp_json_uint(out, (uint8_t)bytes[i]);
    sp_json_close(out, ']');
}

void sp_logprobs_write_chat(const sp_tokenizer *tokenizer, const sp_token_rows *rows, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "content");
    sp_json_open(out, '[');
    for (size_t i = 0; i < sp_token_rows_count(rows); i++) {
        row r = written_row(rows, i);
        sp_json_open(out, '{');
        write_entry(tokenizer, r.token, r.logprob, out);
        sp_json_key(out, "top_logprobs");
        sp_json_open(out, '[');
        for (uint32_t j = 0; j < r.n_top && r.top[j].token >= 0; j++) {
            sp_json_open(out, '{');
            write_entry(tokenizer, r.top[j].token, r.top[j].logprob, out);
            sp_json_close(out, '}');
        }
        sp_json_close(out, ']');
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
    sp_json_key(out, "refusal");
    sp_json_null(out);
    sp_json_close(out, '}');
}

void sp_ids_write(const int32_t *ids, size_t n, sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (size_t i = 0; i < n; i++) sp_json_int(out, ids[i]);
    sp_json_close(out, ']');
}
