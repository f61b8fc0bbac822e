/* Every architecture against golden files: logits after the last token, log-probabilities of every token,
 * hidden states and greedy continuations that Hugging Face transformers gives with float64 norms, angles and
 * softmax (tests/golden/models/NAME/golden.json).
 *
 * The attention here is a plain double loop over every earlier key with float32 keys and values, so this
 * tests models/ apart from engine/. Every case runs in one batch and in chunks of 7 rows. GGUF files hold
 * the values of the folders that they lie in.
 *
 * argv: another model folder to test instead (to try models that are not kept here). */
#include "tests/support/test.h"
#include "tests/support/golden_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/model.h"

#define TOLERANCE 1e-4

/* Keys and values of one sequence. */
typedef struct cache {
    const sp_hparams *h;
    float *k, *v; /* (n_layers, GOLDEN_LENGTH, n_kv_heads, head_dim) */
} cache;

static sp_device *device;

static sp_status attend(void *context, const sp_attend_call *call, sp_error *error)
{
    (void)error;
    cache *c = context;
    size_t d = c->h->head_dim, row_size = c->h->n_kv_heads * d, share = c->h->n_heads / c->h->n_kv_heads;
    float *k = c->k + call->layer * GOLDEN_LENGTH * row_size,
          *v = c->v + call->layer * GOLDEN_LENGTH * row_size;
    for (size_t row = 0; row < call->batch->n_rows; row++) {
        size_t position = call->batch->positions[row];
        memcpy(k + position * row_size, call->k + row * row_size, row_size * sizeof *k);
        memcpy(v + position * row_size, call->v + row * row_size, row_size * sizeof *v);
        for (size_t head = 0; head < c->h->n_heads; head++) {
            float weights[GOLDEN_LENGTH];
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

/* Runs ids[begin, end) of a sequence planned for length tokens; logits (end - begin, vocab), hidden states
 * too. */
static void run(sp_model *model, cache *c, const int64_t *ids, size_t begin, size_t end, size_t length,
                float *logits, float *hidden)
{
    int32_t tokens[GOLDEN_LENGTH];
    uint32_t positions[GOLDEN_LENGTH], slots[GOLDEN_LENGTH] = {0}, lengths[GOLDEN_LENGTH];
    uint8_t wants[GOLDEN_LENGTH];
    size_t bytes, n = end - begin;
    sp_error error = {0};
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)ids[begin + i];
        positions[i] = (uint32_t)(begin + i);
        lengths[i] = (uint32_t)length;
        wants[i] = 1;
    }
    sp_batch batch = {.n_rows = n,
                      .tokens = tokens,
                      .positions = positions,
                      .slots = slots,
                      .wants_logits = wants,
                      .lengths = lengths,
                      .hidden = hidden};
    assert_true(sp_model_scratch_bytes(model, n, n, &bytes));
    void *scratch = sp_alloc(bytes, 1);
    memset(scratch, 0xff, bytes); /* NaN: nothing may be read before it is written */
    assert_ok(sp_model_forward(model, &batch, attend, c, scratch, logits, &error), error);
    sp_free(scratch);
}

static void check_close(const char *what, size_t length, size_t index, double value, double expected)
{
    if (!(fabs(value - expected) <= TOLERANCE))
        fail_msg("length %zu: %s %zu is %.6f, not %.6f", length, what, index, value, expected);
}

static void check_hidden(const golden_case *g, size_t width, const float *hidden)
{
    if (g->n_last == 0) return; /* quantized models have none */
    assert_int_equal(g->n_last, width);
    assert_int_equal(g->n_mean, width);
    for (size_t i = 0; i < width; i++) {
        double sum = 0;
        for (size_t t = 0; t < g->n_ids; t++) sum += (double)hidden[t * width + i];
        check_close("hidden_mean", g->n_ids, i, sum / (double)g->n_ids, g->hidden_mean[i]);
        check_close("hidden_last", g->n_ids, i, (double)hidden[(g->n_ids - 1) * width + i],
                    g->hidden_last[i]);
    }
}

/* Where angles depend on the length, the reference ran everything again for every token. Stops where the
 * reference's margin is too small for this arithmetic. */
static void check_greedy(sp_model *model, cache *c, const golden_case *g, double margin, float *logits)
{
    const sp_hparams *h = &model->hparams;
    bool again = model->rope && model->rope->kind != SP_ROPE_FIXED;
    const float *last = logits + (g->n_ids - 1) * h->vocab;
    int64_t ids[GOLDEN_LENGTH];
    memcpy(ids, g->ids, sizeof ids);
    for (size_t i = 0; i < g->n_greedy && g->margins[i] > margin; i++) {
        assert_int_equal(golden_best(last, h->vocab), g->greedy[i]);
        size_t n = g->n_ids + i, begin = again ? 0 : n;
        ids[n] = g->greedy[i];
        if (n + 1 > h->context) return;
        run(model, c, ids, begin, n + 1, n + 1, logits, NULL);
        last = logits + (n - begin) * h->vocab;
    }
}

typedef struct outcome {
    cache cache;
    float *logits, *hidden; /* (GOLDEN_LENGTH, vocab), (GOLDEN_LENGTH, hidden) */
} outcome;

static outcome run_case(sp_model *model, const golden_case *g, size_t chunk)
{
    const sp_hparams *h = &model->hparams;
    size_t cells = (size_t)h->n_layers * GOLDEN_LENGTH * h->n_kv_heads * h->head_dim;
    outcome o = {.cache = {h, sp_alloc(cells, sizeof(float)), sp_alloc(cells, sizeof(float))},
                 .logits = sp_alloc(GOLDEN_LENGTH * (size_t)h->vocab, sizeof(float)),
                 .hidden = sp_alloc(GOLDEN_LENGTH * (size_t)h->hidden, sizeof(float))};
    assert_int_equal(g->n_logits, h->vocab);
    for (size_t i = 0; i < g->n_ids; i += chunk)
        run(model, &o.cache, g->ids, i, i + chunk < g->n_ids ? i + chunk : g->n_ids, g->n_ids,
            o.logits + i * h->vocab, o.hidden + i * h->hidden);
    return o;
}

static void free_outcome(outcome *o)
{
    sp_free(o->logits);
    sp_free(o->hidden);
    sp_free(o->cache.k);
    sp_free(o->cache.v);
}

static void check_case(sp_model *model, const golden_case *g, size_t chunk)
{
    size_t vocab = model->hparams.vocab;
    outcome o = run_case(model, g, chunk);
    for (size_t i = 0; i < vocab; i++)
        check_close("logit", g->n_ids, i, (double)o.logits[(g->n_ids - 1) * vocab + i], g->logits[i]);
    for (size_t t = 1; t < g->n_ids; t++)
        check_close("log p of token", g->n_ids, t,
                    golden_logprob(o.logits + (t - 1) * vocab, vocab, g->ids[t]), g->logprobs[t - 1]);
    check_hidden(g, model->hparams.hidden, o.hidden);
    check_greedy(model, &o.cache, g, 1e-3, o.logits);
    free_outcome(&o);
}

static void check_both(void *context, const golden_case *g)
{
    check_case(context, g, g->n_ids);
    check_case(context, g, 7);
}

static sp_model *open_model(const char *path, bool exact)
{
    sp_error error = {0};
    sp_model *model;
    sp_model_options options = {.exact = exact};
    assert_ok(sp_model_open(path, device, &options, &model, &error), error);
    return model;
}

static void check_model(const char *path, const char *golden)
{
    sp_model *model = open_model(path, true);
    assert_true(golden_read(golden, NULL, check_both, model) >= 5);
    sp_model_close(model);
}

#define MODELS SPARSED_ROOT "/tests/golden/models/"

/* *state: the path below MODELS of a folder or file. */
static void test_one(void **state)
{
    char path[512], golden[512];
    const char *name = *state;
    snprintf(path, sizeof path, MODELS "%s", name);
    snprintf(golden, sizeof golden, MODELS "%.*s/golden.json", (int)strcspn(name, "/"), name);
    check_model(path, golden);
}

static void test_other(void **state)
{
    char golden[4096];
    snprintf(golden, sizeof golden, "%s/golden.json", (const char *)*state);
    check_model(*state, golden);
}

/* --- quantized files: activations rounded to int8 in blocks of 32, and float32 ones --- */

typedef struct rounded {
    sp_model *model;
    double divergence; /* sum over rows of KL(reference, ours) */
    size_t rows;
} rounded;

static void check_rounded(void *context, const golden_case *g)
{
    rounded *r = context;
    size_t vocab = r->model->hparams.vocab;
    outcome o = run_case(r->model, g, g->n_ids);
    for (size_t i = 0; i < g->n_rows; i++)
        for (size_t id = 0; id < vocab; id++) {
            double p = g->log_softmax[i * vocab + id];
            r->divergence +=
                exp(p) * (p - golden_logprob(o.logits + (size_t)g->rows[i] * vocab, vocab, (int64_t)id));
        }
    r->rows += g->n_rows;
    check_greedy(r->model, &o.cache, g, 0.3, o.logits);
    free_outcome(&o);
}

/* *state: the name of a file. */
static void test_quantized(void **state)
{
    static const char *const golden = MODELS "tiny-gguf-quants/golden.json";
    char path[512];
    snprintf(path, sizeof path, MODELS "tiny-gguf-quants/%s.gguf", (const char *)*state);
    sp_model *model = open_model(path, true);
    assert_int_equal(golden_read(golden, *state, check_both, model), 4);
    sp_model_close(model);
    rounded r = {.model = open_model(path, false)};
    assert_int_equal(golden_read(golden, *state, check_rounded, &r), 4);
    print_message("%s: mean KL %.5f over %zu rows\n", (const char *)*state, r.divergence / (double)r.rows,
                  r.rows);
    assert_int_equal(r.rows, 8);
    assert_true(r.divergence / (double)r.rows < 0.01);
    assert_true(r.divergence / (double)r.rows > 1e-5); /* the rounding is there */
    sp_model_close(r.model);
}

/* Folders that must be refused, before a tensor is missed, with the name of the key. */
static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"tiny-refuse-moe", "mixtral"},
        {"tiny-refuse-moe", "num_local_experts"},
        {"tiny-refuse-window", "sliding_window"},
        {"tiny-refuse-partial-rotary", "partial_rotary_factor"},
        {"tiny-refuse-rope", "spiral"},
        {"tiny-refuse-gguf/type-q2_k.gguf", "'blk.0.attn_q.weight' has type Q2_K"},
        {"tiny-refuse-gguf/type-iq4_xs.gguf", "'blk.0.attn_q.weight' has type IQ4_XS"},
        {"tiny-refuse-gguf/split.gguf", "split.count"},
        {"tiny-refuse-gguf/moe.gguf", "llama.expert_count"},
        {"tiny-refuse-gguf/arch-gemma3.gguf", "general.architecture"},
        {"tiny-refuse-gguf/window.gguf", "llama.attention.sliding_window"},
        {"tiny-refuse-gguf/normalizer.gguf", "llama.attention.normalizer"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        sp_model *model;
        sp_error error = {0};
        snprintf(path, sizeof path, MODELS "%s", cases[i][0]);
        assert_int_equal(sp_model_open(path, device, NULL, &model, &error), SP_DATA);
        if (!strstr(error.message, cases[i][1])) fail_msg("%s: %s", cases[i][0], error.message);
    }
}

/* clang-format off */
static const char *const models[] = {
    "tiny-llama", "tiny-llama-tied", "tiny-llama-linear", "tiny-llama-dynamic", "tiny-llama-yarn",
    "tiny-llama-llama3", "tiny-llama-newstyle", "tiny-llama-sharded", "tiny-llama-bf16", "tiny-llama-f16",
    "tiny-llama-entmax15", "tiny-llama-alpha133", "tiny-llama-sparsemax", "tiny-qwen2", "tiny-qwen3",
    "tiny-mistral", "tiny-phi3", "tiny-phi3-longrope", "tiny-gpt2", "tiny-gpt2-hub",
    "tiny-llama/model.gguf", "tiny-llama-linear/model.gguf", "tiny-llama-yarn/model.gguf",
    "tiny-llama-llama3/model.gguf", "tiny-llama-bf16/model.gguf", "tiny-llama-f16/model.gguf",
    "tiny-llama-entmax15/model.gguf", "tiny-qwen2/model.gguf", "tiny-qwen3/model.gguf",
    "tiny-phi3/model.gguf", "tiny-gpt2/model.gguf"};
/* clang-format on */

static const char *const quantized[] = {"q8_0", "q4_0", "q4_1", "q5_0",  "q5_1",
                                        "q4_k", "q5_k", "q6_k", "q4_k_m"};

enum { N_QUANTIZED = sizeof quantized / sizeof *quantized, N_MODELS = sizeof models / sizeof *models };

int main(int argc, char **argv)
{
    struct CMUnitTest tests[N_MODELS + N_QUANTIZED + 1];
    sp_error error = {0};
    sp_device_options options = {.n_threads = 1};
    if (sp_device_open("cpu", &options, &device, &error) != SP_OK) return 1;
    for (size_t i = 0; i < N_MODELS; i++)
        tests[i] = (struct CMUnitTest){models[i], test_one, NULL, NULL, (void *)(uintptr_t)models[i]};
    for (size_t i = 0; i < N_QUANTIZED; i++)
        tests[N_MODELS + i] =
            (struct CMUnitTest){quantized[i], test_quantized, NULL, NULL, (void *)(uintptr_t)quantized[i]};
    tests[N_MODELS + N_QUANTIZED] = (struct CMUnitTest)cmocka_unit_test(test_refused);
    const struct CMUnitTest others[] = {cmocka_unit_test_prestate(test_other, argc > 1 ? argv[1] : NULL)};
    int failed =
        argc > 1 ? cmocka_run_group_tests(others, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed == 0 ? 0 : 1;
}
