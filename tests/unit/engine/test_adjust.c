/* Biases, penalties and min_tokens (engine/adjust.h): against a naive formula over the whole vocabulary, put
 * back to the bit; and through a tiny engine what each does to a text. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

#include "engine/adjust.h"
#include "engine/sampler.h"

enum { VOCAB = 50, PROMPT = 20, WRITTEN = 30 };

/* The formula of the header, token by token, from the texts themselves. */
static double naive(double l, int32_t token, const int32_t *prompt, const int32_t *written,
                    const sp_request *request, int32_t end)
{
    const sp_sampling *s = &request->sampling;
    int count = 0, seen = 0;
    for (int i = 0; i < PROMPT; i++) seen += prompt[i] == token;
    for (int i = 0; i < WRITTEN; i++) count += written[i] == token;
    if (seen + count > 0) l = l > 0 ? l / s->repetition_penalty : l * s->repetition_penalty;
    l -= s->frequency_penalty * count + (count > 0 ? s->presence_penalty : 0);
    for (size_t i = 0; i < request->n_biases; i++)
        if (request->biases[i].token == token) l += (double)request->biases[i].value;
    return token == end && request->min_tokens > WRITTEN ? -INFINITY : l;
}

static void test_formula(void **state)
{
    (void)state;
    static const sp_token_bias biases[] = {{3, 2.5f}, {40, -100}, {7, 100}};
    test_random random = {7};
    for (int round = 0; round < 20; round++) {
        float logits[VOCAB], before[VOCAB];
        int32_t prompt[PROMPT], written[WRITTEN], end = 11;
        test_random_fill(&random, logits, VOCAB, 3);
        for (int i = 0; i < PROMPT; i++) prompt[i] = (round * 7 + i * 3) % VOCAB;
        for (int i = 0; i < WRITTEN; i++) written[i] = (round * 5 + i * i) % VOCAB;
        sp_request request;
        sp_request_init(&request);
        request.sampling.presence_penalty = round % 3 - 1.0;
        request.sampling.frequency_penalty = 0.25 * (round % 5);
        request.sampling.repetition_penalty = round % 2 ? 1.5 : 0.5;
        request.biases = biases;
        request.n_biases = 3;
        request.max_tokens = WRITTEN + 2;
        request.min_tokens = round % 4 ? WRITTEN : WRITTEN + 1;
        sp_adjust adjust;
        sp_error error;
        assert_true(sp_adjust_wanted(&request));
        assert_ok(sp_adjust_open(&adjust, &request, prompt, PROMPT, &end, 1, VOCAB, &error), error);
        for (int i = 0; i < WRITTEN; i++) sp_adjust_note(&adjust, written[i]);
        memcpy(before, logits, sizeof logits);
        sp_adjust_apply(&adjust, logits);
        for (int t = 0; t < VOCAB; t++) {
            double wanted = naive((double)before[t], t, prompt, written, &request, end);
            assert_true(isinf(wanted) ? logits[t] == -INFINITY : fabs((double)logits[t] - wanted) < 1e-4);
        }
        sp_adjust_undo(&adjust, logits);
        assert_memory_equal(before, logits, sizeof logits);
        sp_adjust_close(&adjust);
    }
}

static void test_wanted_and_refused(void **state)
{
    (void)state;
    sp_request request;
    sp_adjust adjust;
    sp_error error;
    sp_request_init(&request);
    assert_false(sp_adjust_wanted(&request));
    request.sampling.repetition_penalty = 1;
    assert_false(sp_adjust_wanted(&request));
    const sp_token_bias wrong[] = {{VOCAB, 1}};
    request.biases = wrong;
    request.n_biases = 1;
    assert_true(sp_adjust_wanted(&request));
    assert_int_equal(sp_adjust_open(&adjust, &request, NULL, 0, NULL, 0, VOCAB, &error), SP_INVALID);
    assert_string_equal(error.param, "logit_bias");
    request.n_biases = SP_MAX_BIASES + 1;
    assert_int_equal(sp_adjust_open(&adjust, &request, NULL, 0, NULL, 0, VOCAB, &error), SP_INVALID);
}

/* What a sampled token reports are the raw logits' figures. */
static void test_sampling_reports_raw(void **state)
{
    (void)state;
    uint8_t allowed[VOCAB];
    float logits[VOCAB], before[VOCAB];
    sp_candidate scratch[VOCAB];
    sp_vocab_mask mask = {.n_vocab = VOCAB, .n_allowed = VOCAB, .allowed = allowed};
    test_random random = {9};
    memset(allowed, 1, sizeof allowed);
    test_random_fill(&random, logits, VOCAB, 2);
    memcpy(before, logits, sizeof logits);
    const sp_token_bias bias[] = {{17, 100}};
    sp_request request;
    sp_adjust adjust;
    sp_error error;
    sp_sampled plain, biased;
    sp_request_init(&request);
    request.biases = bias;
    request.n_biases = 1;
    for (int t = 0; t < 2; t++) {
        request.sampling.temperature = t;
        assert_ok(sp_adjust_open(&adjust, &request, NULL, 0, NULL, 0, VOCAB, &error), error);
        sp_sample(&mask, logits, &request.sampling, 3, 5, scratch, &plain);
        sp_sample_adjusted(&mask, logits, &adjust, &request.sampling, 3, 5, scratch, &biased);
        assert_memory_equal(before, logits, sizeof logits);
        assert_int_equal(biased.token, 17);
        float logprob;
        sp_token_logprob top[5];
        assert_true(sp_logprob_top(&mask, logits, 17, 5, &logprob, top));
        assert_true(biased.logprob == logprob);
        assert_memory_equal(biased.top, top, sizeof top);
        assert_memory_equal(plain.top, top, sizeof top);
        assert_true(plain.top[0].logprob >= plain.logprob);
        sp_adjust_close(&adjust);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_formula),
                                          cmocka_unit_test(test_wanted_and_refused),
                                          cmocka_unit_test(test_sampling_reports_raw)};
TEST_MAIN(tests)
