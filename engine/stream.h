/* The engine's side of a stream: a bounded queue of events between the engine thread and one reader.
 *
 * Tokens wait in a ring of events, their text in a ring of bytes; progress is one coalesced number; the last
 * event (DONE or ERROR) has a place of its own, so it always fits. When the rings are nearly full the stream
 * has no room: the scheduler leaves the sequence out of the batch until the reader has emptied half (then
 * wake() is called). Owner: counted, one reference for the reader, one for the engine; the last one frees.
 * Locks: the stream's mutex may be held while wake() takes the scheduler's; with the scheduler's held only
 * sp_stream_is_cancelled may be called. Tests: tests/unit/engine/test_stream.c */
#ifndef SPARSED_ENGINE_STREAM_H
#define SPARSED_ENGINE_STREAM_H

#include "engine/engine.h"
#include "engine/flag.h"

#define SP_STREAM_EVENTS 512

typedef struct sp_stream_options {
    size_t max_piece;              /* bytes of text one event may carry */
    uint32_t n_top;                /* logprobs beside each token */
    uint32_t n_events;             /* 0: SP_STREAM_EVENTS */
    void (*notify)(void *context); /* the reader's; may be NULL */
    void *notify_context;
    void (*wake)(void *context); /* the engine's: something was cancelled or drained; may be NULL */
    void *wake_context;
    const char *attention_id; /* copied; NULL: none */
    sp_flag *abandoned;       /* held; once raised the stream counts as cancelled; NULL: none */
} sp_stream_options;

/* With two references. NULL when out of memory. */
sp_stream *sp_stream_open(const sp_stream_options *options);

/* Bytes that a stream of these options takes. */
size_t sp_stream_bytes(const sp_stream_options *options);

/* --- the engine's calls --- */
/* Takes no lock. */
bool sp_stream_is_cancelled(const sp_stream *stream);
/* False: pause; wake() follows when there is room again. */
bool sp_stream_has_room(sp_stream *stream);
void sp_stream_push_progress(sp_stream *stream, uint32_t done, uint32_t total);
/* There must be room (an invariant, asserted). top (n_top of the options, or fewer). */
void sp_stream_push_token(sp_stream *stream, int32_t token, float logprob, const sp_token_logprob *top,
                          size_t n_top, const char *text, size_t text_size);
/* Hands over what is known of the prompt, (n_prompt) and (n_prompt, n_top) or NULL, before the first token;
 * every event from now on carries it. */
void sp_stream_give_prompt(sp_stream *stream, float *logprobs, sp_token_logprob *top);
/* The last event, SP_EVENT_DONE or SP_EVENT_ERROR. text (at most max_piece bytes) is copied; the stream takes
 * over what report, prompt_logits, prompt_ids and embedding point to (sp_free). Drops the engine's
 * reference. */
void sp_stream_finish(sp_stream *stream, const sp_event *last);

#endif
