/* Fuzz target: the sampler on any logits and any settings in range.
 *
 * Whatever the bytes, a finite row gives an allowed token with a logprob that is a number <= 0, the same when
 * asked again, and the best token at temperature 0; a row with NaN or infinity is refused. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 24, MAX_VOCAB = 4096 };

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_sampler: %s\n", what);
    abort();
}

static sp_sampling read_sampling(const uint8_t *head)
{
    static const double temperatures[] = {0, 1e-300, 1e-3, 0.7, 1, 2, 100, 1};
    static const double shares[] = {1, 1e-9, 0.1, 0.5, 0.9, 0.999, 1, 1};
    sp_sampling sampling = {.temperature = temperatures[head[0] % 8],
                            .top_p = shares[head[1] % 8],
                            .min_p = head[2] / 255.0,
                            .top_k = (int64_t)head[3] - 1};
    memcpy(&sampling.seed, head + 8, sizeof sampling.seed);
    return sampling;
}

static void check(const sp_vocab_mask *mask, const float *logits, const sp_sampling *sampling,
                  uint32_t position, sp_candidate *scratch)
{
    bool finite = true;
    int32_t best = -1;
    for (uint32_t i = 0; i < mask->n_vocab; i++) {
        finite = finite && isfinite(logits[i]);
        if (mask->allowed[i] && (best < 0 || logits[i] > logits[best])) best = (int32_t)i;
    }
    sp_sampled first, again;
    sp_sample(mask, logits, sampling, position, SP_MAX_LOGPROBS, scratch, &first);
    require(first.ok == finite, "refusal does not follow the logits");
    if (!finite) return;
    require(first.token >= 0 && (uint32_t)first.token < mask->n_vocab, "token out of range");
    require(mask->allowed[first.token], "token that is none");
    require(first.logprob <= 1e-6f, "logprob above zero");
    require(sampling->temperature > 0 || first.token == best, "greedy is not the best");
    require(sampling->top_k != 1 || first.token == best, "top_k 1 is not the best");
    sp_sample(mask, logits, sampling, position, 0, scratch, &again);
    require(again.token == first.token && again.logprob == first.logprob, "not repeatable");
    for (uint32_t i = 1; i < first.n_top; i++)
        require(first.top[i].logprob <= first.top[i - 1].logprob, "top logprobs do not fall");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float logits[MAX_VOCAB];
    static sp_candidate scratch[MAX_VOCAB];
    static uint8_t allowed[MAX_VOCAB];
    if (size < HEAD + sizeof(float)) return 0;
    size_t n = (size - HEAD) / sizeof(float);
    if (n > MAX_VOCAB) n = MAX_VOCAB;
    memcpy(logits, data + HEAD, n * sizeof *logits);
    sp_vocab_mask mask = {.n_vocab = (uint32_t)n, .n_allowed = 1, .allowed = allowed};
    for (size_t i = 0; i < n; i++) allowed[i] = (uint8_t)(data[4] == 0 || (i * 131u + data[4]) % 3 != 0);
    allowed[data[5] % n] = 1;
    uint32_t position;
    memcpy(&position, data + 16, sizeof position);
    sp_sampling sampling = read_sampling(data);
    require(sp_sampling_check(&sampling, NULL) == SP_OK, "settings out of range");
    check(&mask, logits, &sampling, position, scratch);
    return 0;
}
