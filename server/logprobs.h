/* Tokens of an answer with their logprobs, and the two shapes they are written in: the parallel arrays of
 * completions and the content list of chat.
 *
 * The chosen token's logprob and its entry among the alternatives are the identical float; nothing below
 * -9999 is written. In completions a token whose bytes are no text of their own is spelled "bytes:\xNN...",
 * as the OpenAI API does, so that the alternatives of a row have distinct keys; of two tokens with the same
 * text the more likely one stands. text_offset counts code points of the choice's text. Tests:
 * tests/http/test_completions_full.py, test_chat.py, tests/unit/server/test_logprobs.c */
#ifndef SPARSED_SERVER_LOGPROBS_H
#define SPARSED_SERVER_LOGPROBS_H

#include "engine/engine.h"
#include "kernels/json.h"

/* Rows in the order of the tokens. */
typedef struct sp_token_rows {
    sp_buffer tokens;   /* int32_t a row */
    sp_buffer logprobs; /* float a row */
    sp_buffer tops;     /* n_top of sp_token_logprob a row; token -1 where there is none */
    uint32_t n_top;
} sp_token_rows;
/* max_bytes: of each of the three. */
void sp_token_rows_init(sp_token_rows *rows, uint32_t n_top, size_t max_bytes);
void sp_token_rows_fini(sp_token_rows *rows);
void sp_token_rows_clear(sp_token_rows *rows);
void sp_token_rows_add(sp_token_rows *rows, const sp_event *event); /* a TOKEN event */
size_t sp_token_rows_count(const sp_token_rows *rows);
void sp_token_rows_pass(const sp_token_rows *rows,
                        sp_buffer *out); /* out is made from them: sp_buffer_pass */

/* Where a token's text begins: code points of the whole characters before it. */
typedef struct sp_text_place {
    sp_decoder decoder;
    uint64_t characters;
} sp_text_place;
void sp_text_place_init(sp_text_place *place, const sp_tokenizer *tokenizer, bool skip_special);
bool sp_text_place_pass(sp_text_place *place, int32_t token); /* false: no memory */
/* Code points of a text. */
uint64_t sp_text_characters(const char *text, size_t size);

/* What is known of a prompt: ids (n), logprobs (n) with NaN first, top (n, rows->n_top) or NULL. */
typedef struct sp_prompt_rows {
    const int32_t *ids;
    size_t n;
    const float *logprobs;
    const sp_token_logprob *top;
    sp_text_place place;
} sp_prompt_rows;
/* One value: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; prompt may be NULL. Moves place
 * past the rows. */
void sp_logprobs_write_legacy(const sp_tokenizer *tokenizer, const sp_prompt_rows *prompt,
                              const sp_token_rows *rows, sp_text_place *place, sp_json_writer *out);
/* One value: {"content": [...], "refusal": null}. */
void sp_logprobs_write_chat(const sp_tokenizer *tokenizer, const sp_token_rows *rows, sp_json_writer *out);
/* One value: the ids as an array. */
void sp_ids_write(const int32_t *ids, size_t n, sp_json_writer *out);

#endif
