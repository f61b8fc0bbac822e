/* From a row of logits to a token.
 *
 * Logits are adjusted first (adjust.h). w_i = exp((logit_i - max) / temperature) over the ids that are tokens
 * of the tokenizer; then, in this order, top_k (the k best), top_p (the shortest falling prefix whose mass
 * reaches p of what is left), min_p (w_i >= min_p, as the best has w = 1). The draw is u = splitmix(seed,
 * position) in [0, 1) and the first token at which the running sum exceeds u times the total; sums run in one
 * fixed order (rising ids, or falling weights where a cut sorted them), in double. Ties go to the lower id.
 * Nothing depends on the batch, on other rows or on threads. SplitMix64: Steele, Lea, Flood, "Fast splittable
 * pseudorandom number generators", OOPSLA 2014. Owner: one scratch a worker thread. Tests:
 * tests/unit/engine/test_sampler.c, tests/fuzz/fuzz_sampler.c */
#ifndef SPARSED_ENGINE_SAMPLER_H
#define SPARSED_ENGINE_SAMPLER_H

#include "engine/engine.h"

/* Which ids may be sampled: those below n_vocab that are tokens. */
typedef struct sp_vocab_mask {
    uint32_t n_vocab, n_allowed;
    uint8_t *allowed; /* (n_vocab) */
} sp_vocab_mask;
sp_status sp_vocab_mask_open(sp_vocab_mask *mask, const sp_tokenizer *tokenizer, uint32_t n_vocab,
                             sp_error *error) SP_MUST_CHECK;
void sp_vocab_mask_close(sp_vocab_mask *mask);

typedef struct sp_candidate {
    double weight;
    float logit; /* what decides the order: weights of different logits may round to one number */
    int32_t token;
} sp_candidate;

typedef struct sp_sampled {
    bool ok; /* false: a logit is NaN or infinite; nothing else is set */
    int32_t token;
    float logprob;                         /* of token: raw logits, temperature 1, whole vocabulary */
    sp_token_logprob top[SP_MAX_LOGPROBS]; /* falling, ties to the lower id */
    uint32_t n_top;
} sp_sampled;

struct sp_adjust;
/* logits (n_vocab), changed and put back where adjust (may be NULL) says so; scratch (n_vocab). position:
 * that of the token to be drawn. */
void sp_sample_adjusted(const sp_vocab_mask *mask, float *logits, const struct sp_adjust *adjust,
                        const sp_sampling *sampling, uint32_t position, uint32_t n_top, sp_candidate *scratch,
                        sp_sampled *out);
/* The same without adjustments. */
void sp_sample(const sp_vocab_mask *mask, const float *logits, const sp_sampling *sampling, uint32_t position,
               uint32_t n_top, sp_candidate *scratch, sp_sampled *out);
/* log p(token) under softmax of logits (n_vocab); false when a logit is NaN or infinite. */
bool sp_logprob(const float *logits, uint32_t n_vocab, int32_t token, float *logprob) SP_MUST_CHECK;
/* The same, with the best n_top tokens, falling, in top (n_top); token -1 where there are fewer. */
bool sp_logprob_top(const sp_vocab_mask *mask, const float *logits, int32_t token, uint32_t n_top,
                    float *logprob, sp_token_logprob *top) SP_MUST_CHECK;
/* Uniform in [0, 1), 53 bits. */
double sp_draw_uniform(int64_t seed, uint32_t position);
/* SP_INVALID naming the field that is out of range. */
sp_status sp_sampling_check(const sp_sampling *sampling, sp_error *error) SP_MUST_CHECK;

#endif
