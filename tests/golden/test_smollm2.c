/* SmolLM2-135M-Instruct as deploy/fetch-model.sh puts it into the cache, Q4_1, through the engine: the
 * figures of a float64 forward pass over the dequantized weights (tests/golden/smollm2). As served, with
 * weights quantized and activations rounded to int8: ids of ten prompts, greedy text while the reference's
 * margin exceeds 0.3, mean KL(reference, ours) below 0.01, perplexity within 1 %. With --kv f32, which is
 * float32 throughout: logits, logprobs, greedy text.
 *
 * Skipped with a notice where the model can't be fetched. */
#include "tests/support/test.h"
#include "tests/support/fetch.h"
#include "tests/support/golden_numbers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define GOLDEN SPARSED_ROOT "/tests/golden/smollm2/"

enum { CASES = 10, MAX_IDS = 1500, GREEDY = 32, TOP = 20, WINDOW = 1024, SKIPPED = 77 };

typedef struct golden {
    char *text;
    size_t n_text, n_ids, n_logprobs, n_greedy, n_margins, n_top;
    double ids[MAX_IDS], logprobs[MAX_IDS], greedy[GREEDY], margins[GREEDY], top[2 * TOP];
} golden;

static golden goldens[CASES];
static size_t n_goldens;
static double perplexity;
static sp_arena arena;
static char model_path[4096];
static sp_engine *engine;

/* --- golden.json --- */

static void read_case(sp_json *json, golden *g)
{
    static const char *const names[] = {
        "text", "ids", "token_logprobs", "greedy_ids", "greedy_margins", "last_logits_top20"};
    while (sp_json_next(json) == SP_JSON_KEY) {
        size_t which = 0;
        while (which < COUNT_OF(names) && !sp_json_is(json, names[which])) which++;
        sp_json_type type = sp_json_next(json);
        if (which == 0) g->text = sp_json_text(json, &arena, &g->n_text);
        if (which == 1) g->n_ids = golden_numbers(json, g->ids, MAX_IDS);
        if (which == 2) g->n_logprobs = golden_numbers(json, g->logprobs, MAX_IDS);
        if (which == 3) g->n_greedy = golden_numbers(json, g->greedy, GREEDY);
        if (which == 4) g->n_margins = golden_numbers(json, g->margins, GREEDY);
        if (which == 5) g->n_top = golden_numbers(json, g->top, 2 * TOP) / 2;
        if (which == COUNT_OF(names)) sp_json_skip(json, type);
    }
}

static void read_perplexity(sp_json *json)
{
    while (sp_json_next(json) == SP_JSON_KEY) {
        bool wanted = sp_json_is(json, "perplexity");
        sp_json_type type = sp_json_next(json);
        if (wanted) perplexity = sp_json_double(json);
        sp_json_skip(json, type);
    }
}

static int load(void **state)
{
    (void)state;
    char *text;
    size_t size;
    sp_error error = {0};
    sp_json json;
    sp_arena_init(&arena, 1 << 20);
    if (sp_read_file(GOLDEN "golden.json", 1 << 20, &text, &size, &error) != SP_OK) return -1;
    if (sp_json_validate(text, size, &error) != SP_OK) return -1;
    sp_json_init(&json, text, size);
    sp_json_next(&json);
    while (sp_json_next(&json) == SP_JSON_KEY) {
        bool cases = sp_json_is(&json, "cases"), is_perplexity = sp_json_is(&json, "perplexity");
        sp_json_type type = sp_json_next(&json);
        if (is_perplexity)
            read_perplexity(&json);
        else if (!cases)
            sp_json_skip(&json, type);
        while (cases && n_goldens < CASES && sp_json_next(&json) == SP_JSON_OBJECT)
            read_case(&json, &goldens[n_goldens++]);
        if (cases) break;
    }
    sp_free(text);
    return n_goldens == CASES && perplexity > 40 ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    sp_arena_fini(&arena);
    return 0;
}

/* --- requests --- */

static void open_engine(sp_dtype kv)
{
    sp_engine_options options;
    sp_error error = {0};
    sp_engine_options_init(&options);
    options.model_path = model_path;
    options.kv_type = kv;
    options.context = 2048;
    options.kv_bytes = (size_t)256 << 20;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
}

static void ignore(void *context)
{
    (void)context;
}

/* Submits ids and reads to the last event, which it gives; tokens (max_tokens). */
static sp_stream *run(const double *ids, size_t n_ids, uint32_t max_tokens, sp_event *event, int32_t *tokens)
{
    static int32_t given[MAX_IDS];
    sp_request request;
    sp_stream *stream;
    sp_error error = {0};
    for (size_t i = 0; i < n_ids; i++) given[i] = (int32_t)ids[i];
    sp_request_init(&request);
    request.ids = given;
    request.n_ids = n_ids;
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.prompt_logits = request.prompt_logprobs = max_tokens == 0;
    assert_ok(sp_engine_submit(engine, &request, ignore, NULL, &stream, &error), error);
    for (*event = (sp_event){0}; event->type != SP_EVENT_DONE;) {
        sp_stream_wait(stream, 300, event);
        if (event->type == SP_EVENT_ERROR) fail_msg("%s", event->error.message);
        assert_true(event->type != SP_EVENT_NONE);
        if (event->type == SP_EVENT_TOKEN) *tokens++ = event->token;
    }
    return stream;
}

/* Equal until the first difference, which must be where the margin is small. */
static void check_greedy(const golden *g, double margin)
{
    int32_t tokens[GREEDY];
    sp_event event;
    sp_stream_free(run(g->ids, g->n_ids, GREEDY, &event, tokens));
    assert_int_equal(g->n_greedy, GREEDY);
    assert_int_equal(g->n_margins, GREEDY);
    for (size_t i = 0; i < GREEDY && tokens[i] == (int32_t)g->greedy[i]; i++)
        if (i + 1 == GREEDY) return;
    for (size_t i = 0; i < GREEDY; i++) {
        if (tokens[i] == (int32_t)g->greedy[i]) continue;
        if (g->margins[i] > margin)
            fail_msg("length %zu: token %zu is %d, not %.0f, margin %.3f", g->n_ids, i, (int)tokens[i],
                     g->greedy[i], g->margins[i]);
        return;
    }
}

static double log_sum(const float *logits, size_t n)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, (double)logits[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[i] - most);
    return most + log(sum);
}

/* --- as served --- */

static void check_ids(const golden *g)
{
    sp_error error = {0};
    sp_tokens tokens = {0};
    assert_ok(sp_tokenizer_encode(sp_engine_get_info(engine)->tokenizer, g->text, g->n_text,
                                  SP_ENCODE_SPECIAL, &tokens, &error),
              error);
    assert_int_equal(tokens.count, g->n_ids);
    for (size_t i = 0; i < g->n_ids; i++) assert_int_equal(tokens.data[i].id, g->ids[i]);
    sp_tokens_fini(&tokens);
}

static double divergence(const double *ids, size_t n, const uint16_t *reference, size_t vocab)
{
    sp_event event;
    sp_stream *stream = run(ids, n, 0, &event, NULL);
    double ours = log_sum(event.prompt_logits, vocab), sum = 0;
    float *row = sp_alloc(vocab, sizeof *row);
    sp_convert_to_f32(SP_F16, reference, row, vocab);
    double theirs = log_sum(row, vocab);
    for (size_t i = 0; i < vocab; i++) {
        double p = (double)row[i] - theirs, q = (double)event.prompt_logits[i] - ours;
        sum += exp(p) * (p - q);
    }
    sp_free(row);
    sp_stream_free(stream);
    return sum;
}

static double mean_divergence(void)
{
    static double ids[MAX_IDS];
    sp_weights *weights;
    sp_error error = {0};
    assert_ok(sp_weights_open(GOLDEN "kl.safetensors", NULL, &weights, &error), error);
    const sp_tensor *all = sp_weights_find(weights, "ids"),
                    *positions = sp_weights_find(weights, "positions");
    const sp_tensor *rows = sp_weights_find(weights, "log_softmax");
    size_t n = positions->shape[0], vocab = rows->shape[1];
    assert_true(all->dtype == SP_I32 && positions->dtype == SP_I32 && rows->dtype == SP_F16);
    assert_int_equal(vocab, sp_engine_get_info(engine)->hparams.vocab);
    double sum = 0;
    for (size_t i = 0; i < all->shape[0]; i++) ids[i] = ((const int32_t *)all->data)[i];
    for (size_t i = 0; i < n; i++)
        sum += divergence(ids, (size_t)((const int32_t *)positions->data)[i] + 1,
                          (const uint16_t *)rows->data + i * vocab, vocab);
    sp_weights_close(weights);
    return sum / (double)n;
}

/* Windows of 1024 inputs, each of which predicts its next 1024 tokens. */
static double measure_perplexity(void)
{
    static double ids[WINDOW + 1];
    sp_error error = {0};
    sp_tokens tokens = {0};
    char *text;
    size_t size, scored = 0;
    double nll = 0;
    assert_ok(sp_read_file(GOLDEN "text.txt", 1 << 20, &text, &size, &error), error);
    assert_ok(sp_tokenizer_encode(sp_engine_get_info(engine)->tokenizer, text, size, 0, &tokens, &error),
              error);
    assert_int_equal(tokens.count, 4000);
    for (size_t begin = 0; begin + 1 < tokens.count; begin += WINDOW) {
        size_t n = tokens.count - begin < WINDOW + 1 ? tokens.count - begin : WINDOW + 1;
        sp_event event;
        for (size_t i = 0; i < n; i++) ids[i] = tokens.data[begin + i].id;
        sp_stream *stream = run(ids, n, 0, &event, NULL);
        for (size_t i = 1; i < n; i++) nll -= (double)event.prompt_logprobs[i];
        scored += n - 1;
        sp_stream_free(stream);
    }
    assert_int_equal(scored, 3999);
    sp_tokens_fini(&tokens);
    sp_free(text);
    return exp(nll / (double)scored);
}

static void test_as_served(void **state)
{
    (void)state;
    open_engine(SP_BF16);
    for (size_t i = 0; i < n_goldens; i++) check_ids(&goldens[i]);
    for (size_t i = 0; i < n_goldens; i++) check_greedy(&goldens[i], 0.3);
    double mean = mean_divergence(), ours = measure_perplexity();
    print_message("mean KL %.5f; perplexity %.3f, reference %.3f\n", mean, ours, perplexity);
    assert_true(mean < 0.01 && mean > 1e-5);
    assert_true(fabs(ours / perplexity - 1) < 0.01);
    sp_engine_close(engine);
}

/* --- float32 throughout --- */

static void test_float32(void **state)
{
    (void)state;
    double worst = 0;
    open_engine(SP_F32);
    for (size_t i = 0; i < n_goldens; i++) {
        const golden *g = &goldens[i];
        sp_event event;
        sp_stream *stream = run(g->ids, g->n_ids, 0, &event, NULL);
        assert_true(g->n_top == TOP && g->n_logprobs == g->n_ids);
        for (size_t k = 0; k < TOP; k++)
            worst = fmax(worst, fabs((double)event.prompt_logits[(size_t)g->top[2 * k]] - g->top[2 * k + 1]));
        for (size_t t = 1; t < g->n_ids; t++)
            worst = fmax(worst, fabs((double)event.prompt_logprobs[t] - g->logprobs[t]));
        sp_stream_free(stream);
        if (g->n_ids < 100) check_greedy(g, 0.01);
    }
    print_message("float32: logits and logprobs differ by at most %.1e\n", worst);
    assert_true(worst < 2e-3);
    sp_engine_close(engine);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_served),
                                              cmocka_unit_test(test_float32)};
    sp_log_set_level(SP_LOG_ERROR);
    if (!test_fetch_model("smollm2", model_path, sizeof model_path)) {
        printf("skipped: deploy/fetch-model.sh can't get smollm2\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, load, unload) == 0 ? 0 : 1;
}
