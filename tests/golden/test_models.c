/* Llama against golden files: logits after the last token, log-probabilities of every token and greedy
 * continuations that Hugging Face transformers gives with float64 norms, angles and softmax
 * (tests/golden/models/NAME/golden.json).
 *
 * The attention here is a plain double loop over every earlier key with float32 keys and values, so this
 * tests models/ apart from engine/. Every case runs in one batch and in chunks of 7 rows.
 *
 * argv: another model folder to test instead (to try models that are not kept here). */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"
#include "models/model.h"

#define MAX_LENGTH 320
#define MAX_VOCAB 512
#define TOLERANCE 1e-4

typedef struct golden {
    int64_t ids[MAX_LENGTH], greedy[64];
    double logprobs[MAX_LENGTH], logits[MAX_VOCAB], margins[64];
    size_t n_ids, n_greedy, n_logprobs, n_logits, n_margins;
} golden;

/* Keys and values of one sequence. */
typedef struct cache {
    const sp_hparams *h;
    float *k, *v; /* (n_layers, MAX_LENGTH, n_kv_heads, head_dim) */
} cache;

static sp_device *device;

static sp_status attend(void *context, const sp_attend_call *call, sp_error *error)
{
    (void)error;
    cache *c = context;
    size_t d = c->h->head_dim, row_size = c->h->n_kv_heads * d, share = c->h->n_heads / c->h->n_kv_heads;
    float *k = c->k + call->layer * MAX_LENGTH * row_size, *v = c->v + call->layer * MAX_LENGTH * row_size;
    for (size_t row = 0; row < call->batch->n_rows; row++) {
        size_t position = call->batch->positions[row];
        memcpy(k + position * row_size, call->k + row * row_size, row_size * sizeof *k);
        memcpy(v + position * row_size, call->v + row * row_size, row_size * sizeof *v);
        for (size_t head = 0; head < c->h->n_heads; head++) {
            float weights[MAX_LENGTH];
            const float *q = call->q + (row * c->h->n_heads + head) * d;
            for (size_t j = 0; j <= position; j++) {
                double sum = 0;
                for (size_t i = 0; i < d; i++) sum += (double)q[i] * k[j * row_size + head / share * d + i];
                weights[j] = (float)(sum * call->scale);
            }
            sp_normalize_row(c->h->normalizer, weights, position + 1);
            for (size_t i = 0; i < d; i++) {
                double sum = 0;
                for (size_t j = 0; j <= position; j++)
                    sum += (double)weights[j] * v[j * row_size + head / share * d + i];
                call->out[(row * c->h->n_heads + head) * d + i] = (float)sum;
            }
        }
    }
    return SP_OK;
}

/* Runs ids[begin, end); logits (end - begin, vocab). */
static void run(sp_model *model, cache *c, const int64_t *ids, size_t begin, size_t end, float *logits)
{
    int32_t tokens[MAX_LENGTH];
    uint32_t positions[MAX_LENGTH], slots[MAX_LENGTH] = {0};
    uint8_t wants[MAX_LENGTH];
    size_t bytes, n = end - begin;
    sp_error error = {0};
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)ids[begin + i];
        positions[i] = (uint32_t)(begin + i);
        wants[i] = 1;
    }
    sp_batch batch = {
        .n_rows = n, .tokens = tokens, .positions = positions, .slots = slots, .wants_logits = wants};
    assert_true(sp_model_scratch_bytes(model, n, n, &bytes));
    void *scratch = sp_alloc(bytes, 1);
    memset(scratch, 0xff, bytes); /* NaN: nothing may be read before it is written */
    assert_ok(sp_model_forward(model, &batch, attend, c, scratch, logits, &error), error);
    sp_free(scratch);
}

static double log_probability(const float *logits, size_t vocab, int64_t id)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    for (size_t i = 0; i < vocab; i++) sum += exp(logits[i] - most);
    return logits[id] - most - log(sum);
}

static int64_t best(const float *logits, size_t vocab)
{
    size_t found = 0;
    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[found]) found = i;
    return (int64_t)found;
}

static void check_case(sp_model *model, const golden *g, size_t chunk)
{
    const sp_hparams *h = &model->hparams;
    size_t cells = (size_t)h->n_layers * MAX_LENGTH * h->n_kv_heads * h->head_dim;
    cache c = {h, sp_alloc(cells, sizeof(float)), sp_alloc(cells, sizeof(float))};
    float *logits = sp_alloc(MAX_LENGTH * h->vocab, sizeof *logits);
    for (size_t i = 0; i < g->n_ids; i += chunk)
        run(model, &c, g->ids, i, i + chunk < g->n_ids ? i + chunk : g->n_ids, logits + i * h->vocab);
    const float *last = logits + (g->n_ids - 1) * h->vocab;
    assert_int_equal(g->n_logits, h->vocab);
    for (size_t i = 0; i < h->vocab; i++)
        if (!(fabs(last[i] - g->logits[i]) <= TOLERANCE))
            fail_msg("length %zu: logit %zu is %.6f, not %.6f", g->n_ids, i, last[i], g->logits[i]);
    for (size_t t = 1; t < g->n_ids; t++) {
        double p = log_probability(logits + (t - 1) * h->vocab, h->vocab, g->ids[t]);
        if (!(fabs(p - g->logprobs[t - 1]) <= TOLERANCE))
            fail_msg("length %zu: log p of token %zu is %.6f, not %.6f", g->n_ids, t, p, g->logprobs[t - 1]);
    }
    int64_t ids[MAX_LENGTH];
    memcpy(ids, g->ids, sizeof ids);
    for (size_t i = 0; i < g->n_greedy && g->margins[i] > 1e-3; i++) {
        assert_int_equal(best(last, h->vocab), g->greedy[i]);
        size_t n = g->n_ids + i;
        ids[n] = g->greedy[i];
        run(model, &c, ids, n, n + 1, logits);
        last = logits;
    }
    sp_free(logits);
    sp_free(c.k);
    sp_free(c.v);
}

/* An array of numbers; nulls are left out. */
static size_t read_numbers(sp_json *reader, int64_t *integers, double *numbers, size_t max)
{
    size_t n = 0;
    assert_int_equal(sp_json_next(reader), SP_JSON_ARRAY);
    for (sp_json_type type; (type = sp_json_next(reader)) != SP_JSON_ARRAY_END;) {
        if (type == SP_JSON_NULL) continue;
        assert_int_equal(type, SP_JSON_NUMBER);
        assert_true(n < max);
        if (integers)
            assert_true(sp_json_int64(reader, &integers[n]));
        else
            numbers[n] = sp_json_double(reader);
        n++;
    }
    return n;
}

static void read_case(sp_json *reader, golden *g)
{
    while (sp_json_next(reader) == SP_JSON_KEY) {
        if (sp_json_is(reader, "ids"))
            g->n_ids = read_numbers(reader, g->ids, NULL, MAX_LENGTH - 20);
        else if (sp_json_is(reader, "greedy_ids"))
            g->n_greedy = read_numbers(reader, g->greedy, NULL, 64);
        else if (sp_json_is(reader, "greedy_margins"))
            g->n_margins = read_numbers(reader, NULL, g->margins, 64);
        else if (sp_json_is(reader, "token_logprobs"))
            g->n_logprobs = read_numbers(reader, NULL, g->logprobs, MAX_LENGTH);
        else if (sp_json_is(reader, "last_logits"))
            g->n_logits = read_numbers(reader, NULL, g->logits, MAX_VOCAB);
        else
            sp_json_skip(reader, sp_json_next(reader));
    }
    assert_int_equal(g->n_logprobs + 1, g->n_ids);
    assert_int_equal(g->n_greedy, g->n_margins);
}

static size_t check_cases(sp_model *model, const char *text, size_t size)
{
    static golden g;
    sp_error error = {0};
    sp_json reader;
    size_t n = 0;
    assert_ok(sp_json_validate(text, size, &error), error);
    sp_json_init(&reader, text, size);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        bool cases = sp_json_is(&reader, "cases");
        sp_json_type type = sp_json_next(&reader);
        if (!cases) sp_json_skip(&reader, type);
        while (cases && sp_json_next(&reader) == SP_JSON_OBJECT) {
            memset(&g, 0, sizeof g);
            read_case(&reader, &g);
            check_case(model, &g, g.n_ids);
            check_case(model, &g, 7);
            n++;
        }
    }
    return n;
}

static void check_model(const char *folder)
{
    sp_error error = {0};
    sp_model *model;
    sp_model_options options = {.exact = true};
    char path[4096], *text;
    size_t size;
    assert_ok(sp_model_open(folder, device, &options, &model, &error), error);
    snprintf(path, sizeof path, "%s/golden.json", folder);
    assert_ok(sp_read_file(path, (size_t)1 << 24, &text, &size, &error), error);
    assert_true(check_cases(model, text, size) >= 5);
    sp_free(text);
    sp_model_close(model);
}

#define GOLDEN SPARSED_ROOT "/tests/golden/models/tiny-llama-"
static void test_entmax15(void **state)
{
    (void)state;
    check_model(GOLDEN "entmax15");
}

static void test_tied(void **state)
{
    (void)state;
    check_model(GOLDEN "tied");
}

static void test_bf16(void **state)
{
    (void)state;
    check_model(GOLDEN "bf16");
}

static void test_sharded(void **state)
{
    (void)state;
    check_model(GOLDEN "sharded");
}

static const char *other;
static void test_other(void **state)
{
    (void)state;
    check_model(other);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_entmax15), cmocka_unit_test(test_tied),
                                       cmocka_unit_test(test_bf16), cmocka_unit_test(test_sharded)};
    const struct CMUnitTest others[] = {cmocka_unit_test(test_other)};
    sp_error error = {0};
    sp_device_options options = {.n_threads = 1};
    if (sp_device_open("cpu", &options, &device, &error) != SP_OK) return 1;
    other = argc > 1 ? argv[1] : NULL;
    int failed =
        other ? cmocka_run_group_tests(others, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed == 0 ? 0 : 1;
}
