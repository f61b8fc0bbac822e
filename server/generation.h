/* Answers to one request for text: one or several choices, in one reply or as a stream. Completions and chat
 * differ only in how a choice is written (sp_format).
 *
 * All prompts are encoded and checked before anything goes out. Choice i of prompt p has index p * n + i and
 * the seed seed + i, so it is what a request for it alone gives. Each choice is an engine request of its own;
 * the next one is submitted when the one before has left the queue, so that a request has at most one in it
 * (engine.h, follows) and they run side by side. Owner: the exchange; freeing it cancels what runs. Tests:
 * tests/http/test_completions.py, test_completions_full.py, test_chat.py */
#ifndef SPARSED_SERVER_GENERATION_H
#define SPARSED_SERVER_GENERATION_H

#include "engine/graph/capture.h"
#include "server/asked.h"
#include "server/exchange.h"
#include "server/logprobs.h"

typedef struct sp_choice {
    uint32_t index;
    const sp_prompt *prompt;            /* with ids */
    sp_stream *stream;                  /* NULL: not submitted yet */
    char attention_id[SP_ATTENTION_ID]; /* of its capture; empty: none */
    bool told;                          /* the reply has that id */
    bool moved;                         /* an event has come: it has left the queue */
    bool began;                         /* its first chunk is written */
    bool done;
    sp_event last;       /* DONE; its memory is the stream's, once kept the choice's and the prompt's */
    uint32_t n_written;  /* tokens so far */
    sp_buffer text;      /* of a plain reply, so far */
    sp_token_rows rows;  /* of a plain reply, where logprobs or ids are wanted; else of the event at hand */
    sp_text_place place; /* where the next token's text begins */
    sp_buffer report;    /* of a plain reply, once done */
    size_t held;         /* bytes counted for it */
} sp_choice;

/* What was scored of a prompt: (n_ids) and (n_ids, logprobs), NULL where it was not asked for. */
typedef struct sp_scored {
    float *logprobs;
    sp_token_logprob *top;
} sp_scored;

typedef struct sp_generation sp_generation;

/* How a route writes. All write members of an open object. */
typedef struct sp_format {
    const char *id_prefix, *object, *chunk_object;
    /* A finished choice: all members but index, logprobs' key included. */
    void (*choice)(const sp_generation *generation, sp_choice *choice, sp_json_writer *out);
    /* A piece of a stream's choice: the same members; text (size) is new, rows are the tokens it came with.
     * last: the event was DONE. */
    void (*piece)(const sp_generation *generation, sp_choice *choice, const char *text, size_t size,
                  bool last, sp_json_writer *out);
    bool opens; /* a piece without text or tokens comes first for every choice */
} sp_format;

struct sp_generation {
    const sp_format *format;
    sp_asked asked;        /* in arena */
    sp_arena arena;        /* the body's */
    int32_t **owned;       /* (n_prompts) ids */
    sp_buffer *texts;      /* (n_prompts) under echo: the prompt's text */
    sp_scored *scored;     /* (n_prompts) of a plain reply */
    size_t held, reserved; /* bytes it keeps, and has reserved */
    const char *model;
    const sp_tokenizer *tokenizer;
    sp_captures *captures;
    char id[40];
    int64_t created;
    double begun;
    sp_choice *choices; /* (n_choices) */
    size_t n_choices, n_started, n_done, turn;
    uint64_t n_written; /* tokens of all choices so far */
    uint32_t place;     /* of poll_first: the choice whose first event was read */
    bool has_first;
    sp_event first;
};

/* Takes over *asked and *arena, whatever comes of it, and answers the exchange: with an error now, or later.
 */
void sp_generation_start(sp_exchange *exchange, const sp_format *format, const sp_asked *asked,
                         sp_arena *arena);

/* Submits the next choice once the one before has left the queue. */
sp_status sp_generation_launch(sp_exchange *exchange, sp_generation *g, sp_error *error) SP_MUST_CHECK;
/* What an event changes, whichever the reply's shape. */
void sp_generation_note_event(sp_generation *g, sp_choice *choice, const sp_event *event);
/* Tells the list of requests where this one is. */
void sp_generation_note_progress(sp_exchange *exchange, const sp_generation *g);

/* --- generation_keep.c --- */
/* The choice is done and its reply is a plain one: its stream is freed, what the reply needs of it is kept.
 * SP_NO_MEMORY. */
sp_status sp_generation_keep(sp_generation *g, sp_choice *choice, sp_error *error) SP_MUST_CHECK;
/* Counts again what is kept for the choice. SP_UNAVAILABLE when replies hold too much. */
sp_status sp_generation_count(sp_exchange *exchange, sp_generation *g, sp_choice *choice,
                              sp_error *error) SP_MUST_CHECK;

/* Captures whose ids no reply has leave the table: nobody can ask for them, or delete them. */
void sp_generation_drop_captures(sp_generation *g);

/* --- generation_reply.c --- */
/* Answers the exchange, whose state g is, as choices go on: in one reply or as a stream. */
void sp_generation_reply(sp_exchange *exchange, const sp_generation *g);
/* "stop" or "length". */
const char *sp_finish_name(sp_finish finish);
/* usage, as a member. */
void sp_usage_write(const sp_usage *usage, sp_json_writer *out);

#endif
