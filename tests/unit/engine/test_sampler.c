/* The sampler (engine/sampler.h): greedy ties, the cuts against a naive sort in double, frequencies against
 * the distribution, keyed draws, refused logits. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"

enum { VOCAB = 97 };

typedef struct fixture {
    uint8_t allowed[VOCAB];
    sp_vocab_mask mask;
    sp_candidate scratch[VOCAB];
    float logits[VOCAB];
} fixture;

static fixture make(uint64_t seed)
{
    fixture f = {.mask = {.n_vocab = VOCAB, .n_allowed = VOCAB}};
    test_random random = {seed};
    memset(f.allowed, 1, sizeof f.allowed);
    test_random_fill(&random, f.logits, VOCAB, 2);
    return f;
}

static sp_sampled sample(fixture *f, sp_sampling sampling, uint32_t position, uint32_t n_top)
{
    sp_sampled out;
    f->mask.allowed = f->allowed;
    sp_sample(&f->mask, f->logits, &sampling, position, n_top, f->scratch, &out);
    return out;
}

/* log softmax over the whole vocabulary, in long double. */
static double naive_logprob(const float *logits, int32_t token)
{
    long double sum = 0;
    for (int i = 0; i < VOCAB; i++) sum += expl((long double)logits[i]);
    return (double)((long double)logits[token] - logl(sum));
}

static void test_greedy(void **state)
{
    (void)state;
    fixture f = make(1);
    f.logits[40] = f.logits[20] = f.logits[60] = 30;
    sp_sampled out = sample(&f, (sp_sampling){.top_p = 1}, 5, 3);
    assert_true(out.ok);
    assert_int_equal(out.token, 20); /* the lowest of the ties */
    assert_float_equal(out.logprob, naive_logprob(f.logits, 20), 1e-6);
    assert_int_equal(out.n_top, 3);
    assert_int_equal(out.top[0].token, 20);
    assert_int_equal(out.top[1].token, 40);
    assert_int_equal(out.top[2].token, 60);
    assert_true(out.top[0].logprob == out.logprob); /* the identical float in both places */

    f.allowed[20] = 0;
    f.mask.n_allowed--;
    out = sample(&f, (sp_sampling){.top_p = 1}, 5, 0);
    assert_int_equal(out.token, 40);
    assert_float_equal(out.logprob, naive_logprob(f.logits, 40), 1e-6); /* still over the whole vocabulary */
}

static void test_top_logprobs(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        fixture f = make(seed);
        for (int i = 0; i < VOCAB; i++) f.logits[i] = floorf(f.logits[i]); /* many ties */
        sp_sampled out =
            sample(&f, (sp_sampling){.temperature = 1, .top_p = 1, .seed = 3}, 1, SP_MAX_LOGPROBS);
        bool taken[VOCAB] = {false};
        for (uint32_t i = 0; i < SP_MAX_LOGPROBS; i++) {
            int best = -1;
            for (int id = 0; id < VOCAB; id++)
                if (!taken[id] && (best < 0 || f.logits[id] > f.logits[best])) best = id;
            taken[best] = true;
            assert_int_equal(out.top[i].token, best);
            assert_float_equal(out.top[i].logprob, naive_logprob(f.logits, best), 1e-5);
        }
    }
}

/* The kept ids by the definition: sort all, cut to k, cut to the mass, cut by min_p. Returns their
 * probabilities. */
static void naive_kept(const fixture *f, const sp_sampling *s, double *p)
{
    double w[VOCAB], max = -INFINITY;
    int order[VOCAB], n = 0;
    for (int i = 0; i < VOCAB; i++)
        if (f->allowed[i] && f->logits[i] > max) max = f->logits[i];
    for (int i = 0; i < VOCAB; i++) {
        p[i] = 0;
        w[i] = exp((f->logits[i] - max) / s->temperature);
        if (!f->allowed[i]) continue;
        int at = n++;
        for (; at > 0 && w[i] > w[order[at - 1]]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    if (s->top_k > 0 && s->top_k < n) n = (int)s->top_k;
    double total = 0, mass = 0;
    for (int i = 0; i < n; i++) total += w[order[i]];
    int kept = 0;
    while (kept < n && (s->top_p >= 1 || kept == 0 || mass < s->top_p * total)) mass += w[order[kept++]];
    double sum = 0;
    for (int i = 0; i < kept; i++)
        if (w[order[i]] >= s->min_p) sum += p[order[i]] = w[order[i]];
    for (int i = 0; i < VOCAB; i++) p[i] /= sum;
}

static void check_distribution(const sp_sampling *sampling, uint64_t seed)
{
    enum { DRAWS = 20000 };
    fixture f = make(seed);
    f.allowed[3] = f.allowed[50] = 0;
    f.mask.n_allowed -= 2;
    f.logits[3] = 20; /* the best, and no token */
    double p[VOCAB];
    int hits[VOCAB] = {0};
    naive_kept(&f, sampling, p);
    for (uint32_t i = 0; i < DRAWS; i++) hits[sample(&f, *sampling, i, 0).token]++;
    for (int i = 0; i < VOCAB; i++) {
        double deviation = sqrt(DRAWS * p[i] * (1 - p[i]));
        assert_true(p[i] > 0 || hits[i] == 0);
        assert_true(fabs(hits[i] - DRAWS * p[i]) <= 5 * deviation + 1);
    }
}

static void test_distributions(void **state)
{
    (void)state;
    const sp_sampling cases[] = {
        {.temperature = 1, .top_p = 1, .seed = 1},
        {.temperature = 0.5, .top_p = 1, .seed = -9},
        {.temperature = 3, .top_p = 1, .top_k = 10, .seed = 3},
        {.temperature = 1, .top_p = 0.7, .seed = 4},
        {.temperature = 1, .top_p = 0.6, .top_k = 8, .seed = 5},
        {.temperature = 1, .top_p = 1, .min_p = 0.1, .seed = 6},
        {.temperature = 1.3, .top_p = 0.95, .top_k = 40, .min_p = 0.05, .seed = INT64_MIN},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) check_distribution(&cases[i], i + 100);
}

static void test_keyed_draws(void **state)
{
    (void)state;
    fixture f = make(9);
    sp_sampling s = {.temperature = 1, .top_p = 1, .seed = 77};
    int same_position = 0, same_seed = 0;
    for (uint32_t i = 0; i < 200; i++) {
        int32_t token = sample(&f, s, i, 0).token;
        assert_int_equal(token, sample(&f, s, i, 5).token); /* nothing but (seed, position) counts */
        same_position +=
            token == sample(&f, (sp_sampling){.temperature = 1, .top_p = 1, .seed = 78}, i, 0).token;
        same_seed += token == sample(&f, s, i + 1, 0).token;
    }
    assert_true(same_position < 60 && same_seed < 60);
    double mean = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        double u = sp_draw_uniform(5, i);
        assert_true(u >= 0 && u < 1);
        mean += u / 10000;
    }
    assert_true(fabs(mean - 0.5) < 0.015);
}

static void test_extreme_logits(void **state)
{
    (void)state;
    fixture f = make(2);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        float keep = f.logits[96], logprob;
        f.logits[96] = bad[i];
        assert_false(sample(&f, (sp_sampling){.temperature = 1, .top_p = 1}, 0, 2).ok);
        assert_false(sp_logprob(f.logits, VOCAB, 0, &logprob));
        f.logits[96] = keep;
    }
    for (int i = 0; i < VOCAB; i++) f.logits[i] = i % 2 ? 3e38f : -3e38f;
    sp_sampled out = sample(&f, (sp_sampling){.temperature = 1e-300, .top_p = 0.5}, 0, 2);
    assert_true(out.ok && out.token % 2 == 1);
    for (int i = 0; i < VOCAB; i++) f.logits[i] = 1e-42f; /* denormal and equal */
    out = sample(&f, (sp_sampling){.top_p = 1}, 0, 0);
    assert_int_equal(out.token, 0);
    assert_float_equal(out.logprob, -log(VOCAB), 1e-6);
}

static void test_ranges(void **state)
{
    (void)state;
    sp_error error;
    const sp_sampling good = {.temperature = 1, .top_p = 1};
    assert_ok(sp_sampling_check(&good, &error), error);
    struct {
        sp_sampling sampling;
        const char *param;
    } cases[] = {
        {{.temperature = -0.1, .top_p = 1}, "temperature"},
        {{.temperature = NAN, .top_p = 1}, "temperature"},
        {{.temperature = 101, .top_p = 1}, "temperature"},
        {{.temperature = 1, .top_p = 0}, "top_p"},
        {{.temperature = 1, .top_p = 1.01}, "top_p"},
        {{.temperature = 1, .top_p = NAN}, "top_p"},
        {{.temperature = 1, .top_p = 1, .min_p = 2}, "min_p"},
        {{.temperature = 1, .top_p = 1, .top_k = -2}, "top_k"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        assert_int_equal(sp_sampling_check(&cases[i].sampling, &error), SP_INVALID);
        assert_string_equal(error.param, cases[i].param);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_greedy),         cmocka_unit_test(test_top_logprobs),
    cmocka_unit_test(test_distributions),  cmocka_unit_test(test_keyed_draws),
    cmocka_unit_test(test_extreme_logits), cmocka_unit_test(test_ranges),
};
TEST_MAIN(tests)
