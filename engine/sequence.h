/* A sequence: one request from the moment it is accepted to its last event.
 *
 * Everything a sequence needs while it decodes is allocated when it is opened, in the submitting thread, so
 * that admission and decoding cannot run out of memory. After the hand-over it belongs to the scheduler: to
 * the queue (under its mutex), then to the engine thread. Pages belong to the pool and are only named here.
 * Tests: tests/unit/engine/test_scheduler.c, tests/golden/test_austen.c */
#ifndef SPARSED_ENGINE_SEQUENCE_H
#define SPARSED_ENGINE_SEQUENCE_H

#include "engine/adjust.h"
#include "engine/attention/auto.h"
#include "engine/attention/clusters.h"
#include "engine/sampler.h"
#include "engine/stops.h"
#include "engine/stream.h"
#include "kernels/sha256.h"

/* What the engine means to every sequence; constant after open. */
typedef struct sp_sequence_host {
    const sp_model *model;
    uint32_t context;
    size_t max_piece;            /* bytes of text one token may release */
    const char *attention;       /* JSON: the default of requests without one; NULL: dense */
    const sp_attention *pattern; /* what the model was trained with; NULL: dense */
    sp_attention_host attention_host;
    const sp_sweep *const *sweeps; /* (n_sweeps) by sp_request.adapter; entries may be NULL */
    size_t n_sweeps;
    const sp_fit *const *fits; /* (n_fits) by sp_request.adapter; entries may be NULL */
    size_t n_fits;
    uint32_t max_whole;           /* longest prompt that may be run layer by layer; 0: none */
    bool override_normalizer;     /* attention_host's holds for adapters too */
    bool share_prefixes;          /* between owners too */
    bool coarse_times;            /* attention's are told as sp_seconds_coarsen has them */
    const char *note;             /* for every report; or NULL */
    struct sp_captures *captures; /* where captures go; NULL: none are taken */
    void (*wake)(void *context);
    void *wake_context;
} sp_sequence_host;

typedef struct sp_sequence {
    struct sp_sequence *next; /* in the queue */
    const sp_sequence_host *host;
    sp_stream *stream;

    int32_t *tokens; /* (n_prompt + max_tokens): prompt, then what was generated */
    uint32_t n_prompt, n_tokens, max_tokens;
    uint32_t adapter;  /* as in sp_request; part of what its keys and values depend on */
    uint32_t position; /* tokens whose keys and values are in the pages */
    uint32_t *pages;   /* (n_pages) page table; filled at admission */
    uint32_t n_pages;
    bool shares, takes; /* pages.h: full pages may be published; pages of others taken */
    uint8_t prefix_key[SP_SHA256_BYTES];
    uint32_t n_published; /* of the table: its first pages are in the index */

    sp_sampling sampling;
    sp_adjust adjust; /* entries NULL: nothing to adjust */
    uint32_t n_top, min_tokens;
    int32_t stop_ids[SP_MAX_STOP_IDS];
    size_t n_stop_ids;
    bool ignore_eos, follows;
    sp_decoder decoder;
    sp_stops stops;

    sp_attention attention, decoding; /* of the prompt, of generated tokens */
    bool whole; /* the prompt is run layer by layer: position says how far in this pass */
    uint32_t whole_layer;
    bool whole_attends; /* in the second pass of the layer */
    bool trained;
    sp_attention_phase prefill, decode, spare;
    uint64_t rows_empty, spare_rows;
    struct sp_capture *capture; /* held; NULL: none */
    bool completing;            /* captured and over but for the last token, which is run once more */
    sp_finish finish;           /* while completing */
    sp_clusters clusters;       /* counts, where measured */
    sp_head_measure *measures;  /* (n_layers, n_heads) or NULL */
    bool scores_prompt;
    float *prompt_logprobs;       /* (n_prompt) where the prompt is scored; the stream's once it is read */
    sp_token_logprob *prompt_top; /* (n_prompt, n_top) the same */
    sp_pooling pooling;
    double *pooled;       /* (hidden) sum over the prompt's tokens, or the last one's; NULL: not pooled */
    float *embedding;     /* (hidden) or NULL */
    float *prompt_logits; /* (vocab) or NULL */
    sp_buffer report;     /* JSON, once the end has come */
    sp_attention_report *figures; /* what it says */

    double submitted, admitted, first_token, last_token; /* clock of the scheduler */
    double spent;                                        /* of its request_timeout before it was submitted */
    sp_usage usage;
} sp_sequence;

/* --- sequence_open.c --- */
/* Ids of the request's prompt (sp_free): encoded text, or the ids given. SP_INVALID names "prompt". */
sp_status sp_sequence_encode(const sp_sequence_host *host, const sp_request *request, int32_t **ids,
                             size_t *n_ids, sp_error *error) SP_MUST_CHECK;
/* Validates the request; *ids (sp_free), *n_ids: its prompt. SP_TOO_LONG sets *n_ids only. */
sp_status sp_sequence_check(const sp_sequence_host *host, const sp_request *request, int32_t **ids,
                            size_t *n_ids, sp_error *error) SP_MUST_CHECK;
/* Validates the request and makes its sequence and stream. host outlives it. SP_INVALID (param names the
 * field), SP_TOO_LONG, SP_NO_MEMORY. */
sp_status sp_sequence_open(const sp_sequence_host *host, const sp_request *request,
                           void (*notify)(void *context), void *notify_context, sp_sequence **out,
                           sp_error *error) SP_MUST_CHECK;

/* --- sequence.c --- */
/* Bytes that one request may take at most, its stream and its report included. */
size_t sp_sequence_max_bytes(const sp_sequence_host *host);
/* Drops the hold on its capture, before its end is told: who sees the end may evict the capture. */
void sp_sequence_leave_capture(sp_sequence *sequence);
/* Frees a sequence whose stream was finished (or never handed out: then both references are dropped). */
void sp_sequence_close(sp_sequence *sequence);

static inline bool sp_sequence_prefills(const sp_sequence *s)
{
    return s->position < s->n_prompt;
}

/* Tokens it is planned for. Rotary factors that depend on the length are chosen by it at admission, for good;
 * keys of another sp_rope_variant can't be reused. */
static inline uint32_t sp_sequence_length(const sp_sequence *s)
{
    return s->n_prompt + s->max_tokens;
}

/* Adds the states of the prompt's tokens at position .. position + rows. states: (rows, hidden). */
void sp_sequence_pool(sp_sequence *sequence, const float *states, uint32_t rows);
/* The whole prompt has been read: hands what was scored to the stream. */
void sp_sequence_end_prompt(sp_sequence *sequence);
/* Takes the sampled token: appends it, releases text to the stream. *finished is set when it was the last
 * one. */
sp_status sp_sequence_accept(sp_sequence *sequence, const sp_sampled *sampled, bool *finished,
                             sp_finish *finish, sp_error *error) SP_MUST_CHECK;
/* Writes attention_report. SP_NO_MEMORY. */
sp_status sp_sequence_report(sp_sequence *sequence, sp_error *error) SP_MUST_CHECK;
/* Ends the stream with DONE: what text is left, usage, the report written before. The
 * sequence's arrays go with it. */
void sp_sequence_finish(sp_sequence *sequence, sp_finish finish);
/* Ends the stream with ERROR. */
void sp_sequence_fail(sp_sequence *sequence, const sp_error *error);

#endif
