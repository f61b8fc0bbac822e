/* engine/evaluate/score: the arithmetic on a distribution known by heart, and windows on the bundled model
 * against one request a window. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "engine/evaluate/score.h"

enum { WINDOW = 48 };

/* attention.md, case 20: a uniform model over 256 symbols of one byte has 8 bits a byte. */
static void test_uniform(void **state)
{
    (void)state;
    sp_score_sum sum = {0};
    for (int i = 0; i < 1000; i++) sp_score_add(&sum, -log(256), 1);
    assert_int_equal(sum.n_scored, 1000);
    assert_int_equal(sum.bytes, 1000);
    assert_true(fabs(sp_score_bits_per_byte(&sum) - 8.0) < 1e-12);
    assert_true(fabs(sp_score_perplexity(&sum) - 256.0) < 1e-9);
    for (int i = 0; i < 1000; i++) sp_score_add(&sum, -log(256), 3); /* the same tokens with longer texts */
    assert_true(fabs(sp_score_bits_per_byte(&sum) - 4.0) < 1e-12);
    assert_true(fabs(sp_score_perplexity(&sum) - 256.0) < 1e-9);
    sum = (sp_score_sum){0};
    assert_true(isnan(sp_score_perplexity(&sum)) && isnan(sp_score_bits_per_byte(&sum)));
}

static const char text[] =
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
    "want "
    "of a wife. However little known the feelings or views of such a man may be on his first entering a "
    "neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is "
    "considered "
    "as the rightful property of some one or other of their daughters. My dear Mr. Bennet, said his lady to "
    "him "
    "one day, have you heard that Netherfield Park is let at last? Mr. Bennet replied that he had not.";

static sp_engine *open_engine(void)
{
    sp_engine *engine = NULL;
    sp_error error;
    sp_engine_options options;
    sp_engine_options_init(&options);
    options.model_path = SPARSED_ROOT "/models/austen";
    options.n_threads = 1;
    options.max_sequences = 1;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    return engine;
}

static sp_score_sum score(sp_engine *engine, const sp_score_input *inputs, size_t n,
                          const sp_score_options *options, sp_usage *usage)
{
    sp_scorer *scorer = NULL;
    sp_error error;
    bool done = false;
    assert_ok(sp_scorer_open(engine, inputs, n, options, NULL, &scorer, &error), error);
    while (!done) assert_ok(sp_scorer_wait(scorer, 1, &done, &error), error);
    assert_true(sp_scorer_fraction(scorer) == 1.0);
    sp_score_sum sum = sp_scorer_sum(scorer);
    *usage = sp_scorer_usage(scorer);
    sp_scorer_close(scorer);
    return sum;
}

/* nll of tokens 1 .. n - 1 of ids by one plain request. */
static double plain_nll(sp_engine *engine, const int32_t *ids, size_t n)
{
    sp_request request;
    sp_error error;
    sp_stream *stream = NULL;
    sp_event event;
    double nll = 0;
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = n;
    request.max_tokens = 0;
    request.prompt_logprobs = true;
    assert_ok(sp_engine_submit(engine, &request, NULL, NULL, &stream, &error), error);
    do sp_stream_wait(stream, 1, &event);
    while (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR);
    assert_int_equal(event.type, SP_EVENT_DONE);
    for (size_t t = 1; t < n; t++) nll -= (double)event.prompt_logprobs[t];
    sp_stream_free(stream);
    return nll;
}

static void test_windows(void **state)
{
    (void)state;
    sp_engine *engine = open_engine();
    sp_tokens tokens = {0};
    sp_error error;
    sp_usage usage;
    int32_t ids[256];
    assert_ok(sp_tokenizer_encode(sp_engine_get_info(engine)->tokenizer, text, sizeof text - 1, SP_ENCODE_ADD,
                                  &tokens, &error),
              error);
    size_t n = tokens.count;
    assert_true(n > 2 * WINDOW && n < COUNT_OF(ids));
    for (size_t i = 0; i < n; i++) ids[i] = tokens.data[i].id;
    const size_t lengths[] = {1, 2, WINDOW, WINDOW + 1, WINDOW + 2, 2 * WINDOW + 1, n};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        const sp_score_input input = {.ids = ids, .n_ids = lengths[i]};
        sp_score_sum sum = score(engine, &input, 1, &(sp_score_options){.window = WINDOW}, &usage);
        double expected = 0;
        for (size_t begin = 0; begin + 1 < lengths[i]; begin += WINDOW) {
            size_t left = lengths[i] - begin;
            expected += plain_nll(engine, ids + begin, left < WINDOW + 1 ? left : WINDOW + 1);
        }
        assert_int_equal(sum.n_scored, lengths[i] - 1);
        assert_int_equal(sum.bytes, tokens.data[lengths[i] - 1].end - tokens.data[0].end);
        assert_true(fabs(sum.nll - expected) < 1e-9 * (1 + expected));
    }
    sp_tokens_fini(&tokens);
    sp_engine_close(engine);
}

/* Several inputs, and tokens without enough context. */
static void test_inputs(void **state)
{
    (void)state;
    sp_engine *engine = open_engine();
    sp_usage usage;
    const sp_score_input inputs[] = {{.text = text, .text_size = 107},
                                     {.text = text, .text_size = sizeof text - 1}};
    sp_score_sum one = score(engine, &inputs[0], 1, &(sp_score_options){0}, &usage);
    uint32_t first = usage.prompt_tokens;
    sp_score_sum two = score(engine, &inputs[1], 1, &(sp_score_options){0}, &usage);
    uint32_t second = usage.prompt_tokens;
    sp_score_sum both = score(engine, inputs, 2, &(sp_score_options){0}, &usage);
    assert_int_equal(usage.prompt_tokens, first + second);
    assert_int_equal(both.n_scored, first + second - 2);
    assert_int_equal(both.bytes, one.bytes + two.bytes);
    assert_true(fabs(both.nll - one.nll - two.nll) < 1e-9);
    sp_score_sum late = score(engine, inputs, 2, &(sp_score_options){.min_context = first}, &usage);
    assert_int_equal(late.n_scored, second - first); /* of the second input alone */
    assert_true(late.nll < two.nll && late.nll > 0);
    late = score(engine, &inputs[1], 1, &(sp_score_options){.window = WINDOW, .min_context = WINDOW}, &usage);
    assert_int_equal(late.n_scored, (second - 1) / WINDOW); /* the last of every whole window */
    sp_engine_close(engine);
}

static void expect_refused(sp_engine *engine, const sp_score_input *input, const sp_score_options *options,
                           sp_status status, const char *param)
{
    sp_scorer *scorer = NULL;
    sp_error error = {0};
    size_t n_tokens = 0;
    assert_int_equal(sp_scorer_open(engine, input, 1, options, &n_tokens, &scorer, &error), status);
    assert_string_equal(error.param, param);
    assert_null(scorer);
    assert_int_equal(n_tokens, status == SP_TOO_LONG ? input->n_ids : 0);
}

static void test_refused(void **state)
{
    (void)state;
    static int32_t ids[3000];
    sp_engine *engine = open_engine();
    sp_score_options options = {0};
    sp_score_input input = {.ids = ids, .n_ids = 0};
    expect_refused(engine, &input, &options, SP_INVALID, "input");
    input.n_ids = 2049;
    expect_refused(engine, &input, &options, SP_TOO_LONG, "input");
    options.max_tokens = 100;
    input.n_ids = 101;
    expect_refused(engine, &input, &options, SP_INVALID, "input");
    ids[7] = 4096;
    input.n_ids = 50;
    expect_refused(engine, &input, &options, SP_INVALID, "input");
    ids[7] = 0;
    options.attention = "\"strided!\"";
    options.attention_size = 8;
    expect_refused(engine, &input, &options, SP_INVALID, "attention");
    options.attention = NULL;
    options.window = 2049;
    expect_refused(engine, &input, &options, SP_USAGE, "length");
    sp_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_uniform), cmocka_unit_test(test_windows),
                                       cmocka_unit_test(test_inputs), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
