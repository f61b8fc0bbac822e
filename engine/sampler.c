/* See sampler.h. Cuts pop the best candidates from a heap, so that their cost follows what they keep. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/adjust.h"
#include "kernels/logits.h"

sp_status sp_vocab_mask_open(sp_vocab_mask *mask, const sp_tokenizer *tokenizer, uint32_t n_vocab,
                             sp_error *error)
{
    *mask = (sp_vocab_mask){.n_vocab = n_vocab, .allowed = sp_alloc_zero(n_vocab, 1)};
    if (!mask->allowed) return sp_fail(error, SP_NO_MEMORY, "no memory for a vocabulary of %u", n_vocab);
    int32_t size = sp_tokenizer_size(tokenizer);
    for (uint32_t id = 0; id < n_vocab && (int64_t)id < size; id++) {
        size_t n_bytes;
        sp_tokenizer_bytes(tokenizer, (int32_t)id, &n_bytes);
        if (n_bytes == 0 && !sp_tokenizer_is_special(tokenizer, (int32_t)id)) continue;
        mask->allowed[id] = 1;
        mask->n_allowed++;
    }
    if (mask->n_allowed > 0) return SP_OK;
    sp_vocab_mask_close(mask);
    return sp_fail(error, SP_DATA, "tokenizer.json: no token has an id below vocab_size %u", n_vocab);
}

void sp_vocab_mask_close(sp_vocab_mask *mask)
{
    sp_free(mask->allowed);
    *mask = (sp_vocab_mask){0};
}

sp_status sp_sampling_check(const sp_sampling *sampling, sp_error *error)
{
    if (!(sampling->temperature >= 0 && sampling->temperature <= 100))
        return sp_fail_param(error, SP_INVALID, "temperature", "temperature must be from 0 to 100");
    if (!(sampling->top_p > 0 && sampling->top_p <= 1))
        return sp_fail_param(error, SP_INVALID, "top_p", "top_p must be above 0 and at most 1");
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return sp_fail_param(error, SP_INVALID, "min_p", "min_p must be from 0 to 1");
    if (sampling->top_k < -1)
        return sp_fail_param(error, SP_INVALID, "top_k", "top_k must be at least -1 (-1 and 0: off)");
    if (!(fabs(sampling->presence_penalty) <= 2))
        return sp_fail_param(error, SP_INVALID, "presence_penalty", "presence_penalty must be from -2 to 2");
    if (!(fabs(sampling->frequency_penalty) <= 2))
        return sp_fail_param(error, SP_INVALID, "frequency_penalty",
                             "frequency_penalty must be from -2 to 2");
    if (!(sampling->repetition_penalty >= 0 && sampling->repetition_penalty <= 100))
        return sp_fail_param(error, SP_INVALID, "repetition_penalty",
                             "repetition_penalty must be above 0 and at most 100 (1: off)");
    return SP_OK;
}

static uint64_t splitmix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

double sp_draw_uniform(int64_t seed, uint32_t position)
{
    return (double)(splitmix(splitmix((uint64_t)seed) ^ position) >> 11) * 0x1p-53;
}

/* log sum exp of n finite logits with maximum max. */
static double log_sum_exp(const float *logits, uint32_t n, float max)
{
    return (double)max + log(sp_logits_sum_exp(n, logits, max));
}

bool sp_logprob(const float *logits, uint32_t n_vocab, int32_t token, float *logprob)
{
    float max;
    if (!sp_logits_max(n_vocab, logits, &max)) return false;
    *logprob = (float)((double)logits[token] - log_sum_exp(logits, n_vocab, max));
    return true;
}

/* Heap order: the larger logit first, then the lower id. Total, so that pops have one order. */
static bool before(const sp_candidate *a, const sp_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static void sift_down(sp_candidate *heap, size_t n, size_t at)
{
    for (;;) {
        size_t best = at, left = 2 * at + 1;
        for (size_t child = left; child < n && child < left + 2; child++)
            if (before(&heap[child], &heap[best])) best = child;
        if (best == at) return;
        sp_candidate swap = heap[at];
        heap[at] = heap[best];
        heap[best] = swap;
        at = best;
    }
}

/* Orders the best of n candidates to the end of the array, best last, as many as top_k and top_p keep;
 * returns their number. */
static size_t cut(sp_candidate *all, size_t n, const sp_sampling *sampling)
{
    size_t limit = sampling->top_k > 0 && (uint64_t)sampling->top_k < n ? (size_t)sampling->top_k : n;
    double total = 0, mass = 0;
    if (limit == n)
        for (size_t i = 0; i < n; i++) total += all[i].weight;
    for (size_t i = n / 2; i-- > 0;) sift_down(all, n, i);

    size_t left = n, kept = 0;
    bool by_mass = sampling->top_p < 1;
    while (kept < limit && !(limit == n && by_mass && mass >= sampling->top_p * total)) {
        sp_candidate best = all[0];
        all[0] = all[--left];
        sift_down(all, left, 0);
        all[left] = best;
        mass += best.weight;
        kept++;
    }
    if (limit == n || !by_mass) return kept;
    /* top_k came first: top_p is a share of what that kept */
    total = mass;
    mass = 0;
    size_t inner = 0;
    while (inner < kept && !(inner > 0 && mass >= sampling->top_p * total))
        mass += all[n - 1 - inner++].weight;
    return inner;
}

/* The first of the candidates, first to last by step, at which the running sum of weights >= floor exceeds u
 * of it all. */
static int32_t draw(const sp_candidate *first, size_t n, ptrdiff_t step, double floor, double u)
{
    double total = 0, sum = 0;
    int32_t last = first->token;
    const sp_candidate *c = first;
    for (size_t i = 0; i < n; i++, c += step)
        if (c->weight >= floor) total += c->weight;
    c = first;
    for (size_t i = 0; i < n; i++, c += step) {
        if (c->weight < floor || c->weight == 0) continue;
        sum += c->weight;
        last = c->token;
        if (sum > u * total) break;
    }
    return last;
}

/* Inserts into a list of the best n, of which *count are there, kept falling; ids arrive rising, so equal
 * values stay in order. */
static void keep_top(sp_token_logprob *top, uint32_t *count, uint32_t n, int32_t token, float value)
{
    if (n == 0 || (*count == n && !(value > top[n - 1].logprob))) return;
    uint32_t at = *count < n ? (*count)++ : n - 1;
    for (; at > 0 && value > top[at - 1].logprob; at--) top[at] = top[at - 1];
    top[at] = (sp_token_logprob){.token = token, .logprob = value};
}

/* The best n allowed tokens with their logprobs; returns how many there are. */
static uint32_t list_top(const sp_vocab_mask *mask, const float *logits, double norm, uint32_t n,
                         sp_token_logprob *top)
{
    uint32_t count = 0;
    for (uint32_t id = 0; n > 0 && id < mask->n_vocab; id++)
        if (mask->allowed[id]) keep_top(top, &count, n, (int32_t)id, logits[id]);
    for (uint32_t i = 0; i < count; i++) top[i].logprob = (float)((double)top[i].logprob - norm);
    return count;
}

bool sp_logprob_top(const sp_vocab_mask *mask, const float *logits, int32_t token, uint32_t n_top,
                    float *logprob, sp_token_logprob *top)
{
    float max;
    if (!sp_logits_max(mask->n_vocab, logits, &max)) return false;
    double norm = log_sum_exp(logits, mask->n_vocab, max);
    *logprob = (float)((double)logits[token] - norm);
    for (uint32_t i = list_top(mask, logits, norm, n_top, top); i < n_top; i++)
        top[i] = (sp_token_logprob){.token = -1};
    return true;
}

/* The token for weights over the allowed ids; max is the largest allowed logit. */
static int32_t choose(const sp_vocab_mask *mask, const float *logits, float max, const sp_sampling *sampling,
                      uint32_t position, sp_candidate *scratch)
{
    size_t n = 0;
    for (uint32_t id = 0; id < mask->n_vocab; id++) {
        if (!mask->allowed[id]) continue;
        double z = ((double)logits[id] - (double)max) / sampling->temperature;
        scratch[n++] = (sp_candidate){.weight = exp(z), .logit = logits[id], .token = (int32_t)id};
    }
    double u = sp_draw_uniform(sampling->seed, position);
    bool cuts = sampling->top_p < 1 || (sampling->top_k > 0 && (uint64_t)sampling->top_k < n);
    if (!cuts) return draw(scratch, n, 1, sampling->min_p, u);
    size_t kept = cut(scratch, n, sampling);
    return draw(scratch + n - 1, kept, -1, sampling->min_p, u);
}

/* The token that the settings choose from the logits as they stand. */
static int32_t pick(const sp_vocab_mask *mask, const float *logits, const sp_sampling *sampling,
                    uint32_t position, sp_candidate *scratch)
{
    int32_t best = (int32_t)sp_logits_best(mask->n_vocab, logits, mask->allowed);
    if (sampling->temperature == 0 || isinf(logits[best])) return best;
    return choose(mask, logits, logits[best], sampling, position, scratch);
}

static bool begin_sample(const sp_vocab_mask *mask, const float *logits, uint32_t n_top, double *norm,
                         sp_sampled *out)
{
    float max;
    assert(n_top <= SP_MAX_LOGPROBS && mask->n_allowed > 0);
    *out = (sp_sampled){.ok = false, .token = -1};
    if (!sp_logits_max(mask->n_vocab, logits, &max)) return false;
    out->ok = true;
    *norm = log_sum_exp(logits, mask->n_vocab, max);
    out->n_top = list_top(mask, logits, *norm, n_top, out->top);
    return true;
}

void sp_sample(const sp_vocab_mask *mask, const float *logits, const sp_sampling *sampling, uint32_t position,
               uint32_t n_top, sp_candidate *scratch, sp_sampled *out)
{
    double norm;
    if (!begin_sample(mask, logits, n_top, &norm, out)) return;
    out->token = pick(mask, logits, sampling, position, scratch);
    out->logprob = (float)((double)logits[out->token] - norm);
}

void sp_sample_adjusted(const sp_vocab_mask *mask, float *logits, const sp_adjust *adjust,
                        const sp_sampling *sampling, uint32_t position, uint32_t n_top, sp_candidate *scratch,
                        sp_sampled *out)
{
    double norm;
    if (!begin_sample(mask, logits, n_top, &norm, out)) return;
    if (adjust) sp_adjust_apply(adjust, logits);
    out->token = pick(mask, logits, sampling, position, scratch);
    if (adjust) sp_adjust_undo(adjust, logits);
    out->logprob = (float)((double)logits[out->token] - norm);
}
