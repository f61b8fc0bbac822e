/* Scoring: how probable a model finds given texts, token by token.
 *
 * nll = -sum of log p(token | those before it) over the scored tokens; perplexity = exp(nll / n_scored);
 * bits per byte = nll / (ln 2 * bytes of the scored tokens). The first token of an input has no prediction
 * and is not scored, nor is a token with fewer than min_context predecessors. With a window T an input is
 * read in windows of T tokens, step T, each predicting its next T tokens, so that every token but the first
 * is scored once, with 0 to T - 1 tokens of context before the one that predicts it.
 *
 * A scorer sends one engine request after another (prompt_logprobs, max_tokens 0) and is driven by whoever
 * owns it: step() never blocks and fits a server's poll, wait() fits a command. The engine outlives it.
 * Tests: tests/unit/engine/test_score.c, tests/golden/test_score.py, tests/http/test_score.py */
#ifndef SPARSED_ENGINE_EVALUATE_SCORE_H
#define SPARSED_ENGINE_EVALUATE_SCORE_H

#include "engine/engine.h"
#include "kernels/json.h"

typedef struct sp_score_sum {
    uint64_t n_scored, bytes;
    double nll; /* natural logarithms */
} sp_score_sum;
void sp_score_add(sp_score_sum *sum, double logprob, size_t bytes);
/* NaN when nothing was scored. */
double sp_score_perplexity(const sp_score_sum *sum);
double sp_score_bits_per_byte(const sp_score_sum *sum);

typedef struct sp_score_input {
    const char *text; /* or NULL when ids are given */
    size_t text_size;
    const int32_t *ids; /* (n_ids) */
    size_t n_ids;
} sp_score_input;

typedef struct sp_score_options {
    uint32_t min_context;  /* predecessors a token needs to be counted */
    uint32_t window;       /* T; 0: every input is one window */
    size_t max_tokens;     /* of all inputs together; 0: any number */
    uint32_t adapter;      /* as in sp_request */
    const char *attention; /* JSON; NULL: the engine's default */
    size_t attention_size;
    void (*notify)(void *context); /* called from the engine thread when step() may get on; or NULL */
    void *notify_context;
    struct sp_flag *abandoned; /* as in sp_request; outlives the scorer */
} sp_score_options;

typedef struct sp_scorer sp_scorer;

/* Tokenizes all inputs (at least one), checks them and submits the first window; inputs are copied.
 * SP_INVALID naming "input" or the field of attention, SP_TOO_LONG with *n_tokens (may be NULL) of the input
 * that exceeds the context, SP_BUSY. */
sp_status sp_scorer_open(sp_engine *engine, const sp_score_input *inputs, size_t n_inputs,
                         const sp_score_options *options, size_t *n_tokens, sp_scorer **out,
                         sp_error *error) SP_MUST_CHECK;
/* Reads what the engine has ready and submits what comes next. *done: everything is scored. After an error
 * only close() may follow. */
sp_status sp_scorer_step(sp_scorer *scorer, bool *done, sp_error *error) SP_MUST_CHECK;
/* The same, but waits up to seconds for something to happen. */
sp_status sp_scorer_wait(sp_scorer *scorer, double seconds, bool *done, sp_error *error) SP_MUST_CHECK;
/* Cancels what runs. */
void sp_scorer_close(sp_scorer *scorer);

double sp_scorer_fraction(const sp_scorer *scorer); /* 0..1: tokens read of all */
/* Figures of all inputs so far. */
sp_score_sum sp_scorer_sum(const sp_scorer *scorer);
sp_usage sp_scorer_usage(const sp_scorer *scorer); /* summed: tokens and prefill_seconds */
/* The same as numbers; NULL before the first window is done. */
const sp_attention_report *sp_scorer_report(const sp_scorer *scorer);
/* The attention of all windows so far as one attention_report; nothing before the first is done. */
void sp_scorer_write_report(const sp_scorer *scorer, sp_json_writer *out);
/* The whole reply of POST /v1/score: one object. */
void sp_scorer_write(const sp_scorer *scorer, sp_json_writer *out);

#endif
