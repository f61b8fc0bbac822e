/* See adjust.h. Tokens are found by open addressing. */
#include "engine/adjust.h"

#include <assert.h>
#include <math.h>

bool sp_adjust_wanted(const sp_request *request)
{
    const sp_sampling *s = &request->sampling;
    bool repeats = s->repetition_penalty != 0 && s->repetition_penalty != 1;
    return repeats || s->presence_penalty != 0 || s->frequency_penalty != 0 || request->n_biases > 0 ||
           request->min_tokens > 0;
}

/* Entries that a text of n tokens may need. */
static size_t entries_of(size_t n_tokens)
{
    return n_tokens + SP_MAX_BIASES + SP_MAX_STOP_IDS + 16;
}

/* The power of two that leaves half of the index free. */
static size_t index_of(size_t capacity)
{
    size_t size = 64;
    while (size < 2 * capacity) size *= 2;
    return size;
}

size_t sp_adjust_bytes(size_t n_tokens)
{
    size_t capacity = entries_of(n_tokens);
    return capacity * sizeof(sp_adjust_entry) + index_of(capacity) * sizeof(uint32_t);
}

/* The token's entry, made if it is new. */
static sp_adjust_entry *find(sp_adjust *adjust, int32_t token)
{
    uint32_t mask = adjust->index_size - 1, at = ((uint32_t)token * 2654435761u >> 7) & mask;
    while (adjust->index[at] && adjust->entries[adjust->index[at] - 1].token != token) at = (at + 1) & mask;
    if (!adjust->index[at]) {
        assert(adjust->n < adjust->capacity);
        adjust->entries[adjust->n] = (sp_adjust_entry){.token = token};
        adjust->index[at] = ++adjust->n;
    }
    return &adjust->entries[adjust->index[at] - 1];
}

static sp_status take_biases(sp_adjust *adjust, const sp_request *request, uint32_t n_vocab, sp_error *error)
{
    for (size_t i = 0; i < request->n_biases; i++) {
        const sp_token_bias *bias = &request->biases[i];
        if (bias->token < 0 || (uint32_t)bias->token >= n_vocab || !(fabsf(bias->value) <= 100))
            return sp_fail_param(error, SP_INVALID, "logit_bias",
                                 "logit_bias must map token ids below %u to numbers from -100 to 100",
                                 (unsigned)n_vocab);
        find(adjust, bias->token)->bias += bias->value;
    }
    return SP_OK;
}

sp_status sp_adjust_open(sp_adjust *adjust, const sp_request *request, const int32_t *ids, size_t n_ids,
                         const int32_t *ends, size_t n_ends, uint32_t n_vocab, sp_error *error)
{
    const sp_sampling *s = &request->sampling;
    *adjust = (sp_adjust){.presence = s->presence_penalty,
                          .frequency = s->frequency_penalty,
                          .repetition = s->repetition_penalty > 0 ? s->repetition_penalty : 1,
                          .min_tokens = request->min_tokens};
    if (request->n_biases > SP_MAX_BIASES)
        return sp_fail_param(error, SP_INVALID, "logit_bias", "logit_bias takes at most %d tokens",
                             SP_MAX_BIASES);
    adjust->capacity = (uint32_t)entries_of(n_ids + request->max_tokens);
    adjust->index_size = (uint32_t)index_of(adjust->capacity);
    adjust->entries = sp_alloc_zero(adjust->capacity, sizeof *adjust->entries);
    adjust->index = sp_alloc_zero(adjust->index_size, sizeof *adjust->index);
    sp_status status = adjust->entries && adjust->index
                           ? take_biases(adjust, request, n_vocab, error)
                           : sp_fail(error, SP_NO_MEMORY, "no memory for the penalties of a request");
    if (status != SP_OK) {
        sp_adjust_close(adjust);
        return status;
    }
    for (size_t i = 0; i < n_ends; i++)
        if (ends[i] >= 0 && (uint32_t)ends[i] < n_vocab) find(adjust, ends[i])->ends = true;
    if (adjust->repetition != 1)
        for (size_t i = 0; i < n_ids; i++) find(adjust, ids[i])->seen = true;
    return SP_OK;
}

void sp_adjust_close(sp_adjust *adjust)
{
    sp_free(adjust->entries);
    sp_free(adjust->index);
    *adjust = (sp_adjust){0};
}

void sp_adjust_note(sp_adjust *adjust, int32_t token)
{
    sp_adjust_entry *entry = find(adjust, token);
    entry->seen = true;
    entry->written++;
    adjust->n_written++;
}

void sp_adjust_apply(const sp_adjust *adjust, float *logits)
{
    bool holds = adjust->n_written < adjust->min_tokens;
    for (uint32_t i = 0; i < adjust->n; i++) {
        sp_adjust_entry *entry = &adjust->entries[i];
        entry->raw = logits[entry->token];
        double l = (double)entry->raw;
        if (entry->seen) l = l > 0 ? l / adjust->repetition : l * adjust->repetition;
        if (entry->written > 0) l -= adjust->frequency * entry->written + adjust->presence;
        l += (double)entry->bias;
        logits[entry->token] = holds && entry->ends ? -INFINITY : (float)l;
    }
}

void sp_adjust_undo(const sp_adjust *adjust, float *logits)
{
    for (uint32_t i = 0; i < adjust->n; i++) logits[adjust->entries[i].token] = adjust->entries[i].raw;
}
