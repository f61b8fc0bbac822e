/* The bundled adapter on its base, SmolLM2-135M-Instruct in Q4_1 as deploy/fetch-model.sh fetches it, against
 * figures of an independent implementation in float32 (tests/golden/smollm2-entmax/golden.json): with float32
 * weights and pages logits, logprobs, greedy ids and gold edges of every head within its tolerances; with the
 * weights as stored, activations in int8 and bf16 pages, greedy ids while the margin is clear and gold edges
 * to 3 % a case; and the same bytes for base and adapter alone and in one batch. Where the base can't be
 * fetched the test is skipped. */
#include "tests/support/test.h"
#include "tests/support/fetch.h"
#include "tests/support/golden_numbers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

enum { CASES = 8, MAX_IDS = 512, LAYERS = 30, HEADS = 9, TOP = 10, GREEDY = 24 };

typedef struct golden {
    size_t n_ids;
    int32_t ids[MAX_IDS], greedy[GREEDY];
    double logprobs[MAX_IDS], top[TOP][2], margins[GREEDY], edges[LAYERS * HEADS];
} golden;

static golden goldens[CASES];
static size_t n_goldens;
static char base_path[4096];

/* --- golden.json --- */

static void read_case(sp_json *json, golden *g)
{
    size_t seen = 0;
    while (sp_json_next(json) == SP_JSON_KEY) {
        static const char *const names[] = {"ids",        "token_logprobs", "last_logits_top10",
                                            "greedy_ids", "greedy_margins", "gold_edges"};
        size_t which = 0;
        while (which < COUNT_OF(names) && !sp_json_is(json, names[which])) which++;
        sp_json_type type = sp_json_next(json);
        seen += which < COUNT_OF(names);
        if (which == 0) g->n_ids = golden_ids(json, g->ids, MAX_IDS);
        if (which == 1) assert_int_equal(golden_numbers(json, g->logprobs, MAX_IDS), g->n_ids);
        if (which == 2) assert_int_equal(golden_numbers(json, &g->top[0][0], 2 * TOP), 2 * TOP);
        if (which == 3) assert_int_equal(golden_ids(json, g->greedy, GREEDY), GREEDY);
        if (which == 4) assert_int_equal(golden_numbers(json, g->margins, GREEDY), GREEDY);
        if (which == 5) assert_int_equal(golden_numbers(json, g->edges, LAYERS * HEADS), LAYERS * HEADS);
        if (which == COUNT_OF(names)) sp_json_skip(json, type);
    }
    assert_int_equal(seen, 6);
}

static void read_goldens(void)
{
    char *text;
    size_t size;
    sp_error error;
    sp_json json;
    assert_ok(
        sp_read_file(SPARSED_ROOT "/tests/golden/smollm2-entmax/golden.json", 1 << 20, &text, &size, &error),
        error);
    assert_ok(sp_json_validate(text, size, &error), error);
    sp_json_init(&json, text, size);
    sp_json_next(&json);
    while (sp_json_next(&json) == SP_JSON_KEY) {
        bool cases = sp_json_is(&json, "cases");
        sp_json_type type = sp_json_next(&json);
        if (!cases)
            sp_json_skip(&json, type);
        else
            while (sp_json_next(&json) == SP_JSON_OBJECT) read_case(&json, &goldens[n_goldens++]);
    }
    sp_free(text);
    assert_int_equal(n_goldens, CASES);
}

/* --- requests --- */

static sp_engine *open_engine(sp_weights_as weights_as, sp_dtype kv_type)
{
    static const sp_adapter_option adapter = {"entmax", SPARSED_ROOT "/models/smollm2-entmax"};
    sp_engine_options options;
    sp_engine *engine = NULL;
    sp_error error;
    sp_engine_options_init(&options);
    options.model_path = base_path;
    options.adapters = &adapter;
    options.n_adapters = 1;
    options.weights_as = weights_as;
    options.kv_type = kv_type;
    options.context = 512;
    options.max_sequences = 2 * CASES;
    options.kv_bytes = (size_t)512 << 20;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    return engine;
}

static sp_stream *submit(sp_engine *engine, const golden *g, uint32_t adapter, bool measures)
{
    static const char attention[] = "{\"backend\":\"dense\",\"measure\":true}";
    sp_request request;
    sp_stream *stream = NULL;
    sp_error error;
    sp_request_init(&request);
    request.ids = g->ids;
    request.n_ids = g->n_ids;
    request.adapter = adapter;
    request.max_tokens = measures ? 0 : GREEDY;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    request.prompt_logprobs = request.prompt_logits = true;
    request.attention = measures ? attention : NULL;
    request.attention_size = measures ? sizeof attention - 1 : 0;
    assert_ok(sp_engine_submit(engine, &request, NULL, NULL, &stream, &error), error);
    return stream;
}

/* Reads to the end; *out's pointers live until the stream is freed. tokens: (GREEDY) or fewer. */
static void finish(sp_stream *stream, int32_t *tokens, sp_event *out)
{
    for (size_t n = 0;;) {
        sp_stream_wait(stream, 300, out);
        assert_true(out->type != SP_EVENT_NONE);
        if (out->type == SP_EVENT_ERROR) fail_msg("%s", out->error.message);
        if (out->type == SP_EVENT_DONE) return;
        if (out->type == SP_EVENT_TOKEN && n < GREEDY) tokens[n++] = out->token;
    }
}

/* edges_gold of all heads, layer by layer. */
static void read_edges(const sp_event *event, double *edges)
{
    sp_json json;
    sp_error error;
    size_t n = 0;
    assert_ok(sp_json_validate(event->report, event->report_size, &error), error);
    sp_json_init(&json, event->report, event->report_size);
    for (sp_json_type type; (type = sp_json_next(&json)) != SP_JSON_END;) {
        if (type != SP_JSON_KEY || !sp_json_is(&json, "edges_gold")) continue;
        assert_int_equal(sp_json_next(&json), SP_JSON_NUMBER);
        if (n < LAYERS * HEADS) edges[n] = sp_json_double(&json);
        n++;
    }
    assert_true(n >= LAYERS * HEADS);
}

typedef struct worst {
    double logit, logprob, head_edges, case_edges; /* edges: shares of what is permitted, of the golden sum */
} worst;

static void check_edges(const golden *g, const double *edges, worst *w)
{
    double sum = 0, golden_sum = 0;
    for (size_t i = 0; i < LAYERS * HEADS; i++) {
        w->head_edges = fmax(w->head_edges, fabs(edges[i] - g->edges[i]) / fmax(2, 0.01 * g->edges[i]));
        sum += edges[i];
        golden_sum += g->edges[i];
    }
    w->case_edges = fmax(w->case_edges, fabs(sum - golden_sum) / golden_sum);
}

static void check_scores(const golden *g, const sp_event *event, worst *w)
{
    for (size_t i = 1; i < g->n_ids; i++)
        w->logprob = fmax(w->logprob, fabs((double)event->prompt_logprobs[i] - g->logprobs[i]));
    for (size_t t = 0; t < TOP; t++)
        w->logit = fmax(w->logit, fabs((double)event->prompt_logits[(size_t)g->top[t][0]] - g->top[t][1]));
}

/* All cases at once. */
static worst run_all(sp_weights_as weights_as, sp_dtype kv_type, double clear_margin)
{
    sp_engine *engine = open_engine(weights_as, kv_type);
    sp_stream *streams[CASES], *measured[CASES];
    sp_event event;
    worst w = {0};
    for (size_t i = 0; i < CASES; i++) {
        streams[i] = submit(engine, &goldens[i], 1, false);
        measured[i] = submit(engine, &goldens[i], 1, true);
    }
    for (size_t i = 0; i < CASES; i++) {
        const golden *g = &goldens[i];
        int32_t tokens[GREEDY] = {0};
        double edges[LAYERS * HEADS];
        finish(streams[i], tokens, &event);
        check_scores(g, &event, &w);
        sp_stream_free(streams[i]);
        for (size_t k = 0; k < GREEDY && g->margins[k] > clear_margin; k++)
            assert_int_equal(tokens[k], g->greedy[k]);
        finish(measured[i], tokens, &event);
        read_edges(&event, edges);
        check_edges(g, edges, &w);
        sp_stream_free(measured[i]);
    }
    sp_engine_close(engine);
    print_message("%s: logit %.3g, logprob %.3g, edges of a case %.2g %%, of a head %.2g of the tolerance\n",
                  kv_type == SP_F32 ? "f32" : "stored", w.logit, w.logprob, 100 * w.case_edges, w.head_edges);
    return w;
}

static void test_f32(void **state)
{
    (void)state;
    worst w = run_all(SP_WEIGHTS_F32, SP_F32, 0.1);
    assert_true(w.logit <= 0.05 && w.logprob <= 0.02 && w.head_edges <= 1);
}

static void test_stored(void **state)
{
    (void)state;
    worst w = run_all(SP_WEIGHTS_STORED, SP_BF16, 0.3);
    assert_true(w.case_edges <= 0.03);
}

typedef struct bytes {
    int32_t tokens[GREEDY];
    float logprobs[MAX_IDS], logit;
} bytes;

static void read_bytes(sp_stream *stream, const golden *g, bytes *out)
{
    sp_event event;
    memset(out, 0, sizeof *out);
    finish(stream, out->tokens, &event);
    memcpy(out->logprobs + 1, event.prompt_logprobs + 1, (g->n_ids - 1) * sizeof *out->logprobs);
    out->logit = event.prompt_logits[g->greedy[0]];
    sp_stream_free(stream);
}

/* Requests of base and adapter in one batch give the bytes of each alone. */
static void test_same_bytes_together(void **state)
{
    (void)state;
    enum { REQUESTS = 6 };
    static bytes alone[REQUESTS], together;
    sp_engine *engine = open_engine(SP_WEIGHTS_STORED, SP_BF16);
    sp_stream *streams[REQUESTS];
    for (size_t i = 0; i < REQUESTS; i++)
        read_bytes(submit(engine, &goldens[i / 2], i % 2, false), &goldens[i / 2], &alone[i]);
    for (size_t i = 0; i < REQUESTS; i++) streams[i] = submit(engine, &goldens[i / 2], i % 2, false);
    for (size_t i = 0; i < REQUESTS; i++) {
        read_bytes(streams[i], &goldens[i / 2], &together);
        assert_memory_equal(&together, &alone[i], sizeof together);
    }
    assert_memory_not_equal(alone[0].logprobs, alone[1].logprobs, sizeof alone[0].logprobs);
    sp_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_stored),
                                       cmocka_unit_test(test_same_bytes_together)};
    if (!test_fetch_model("smollm2", base_path, sizeof base_path)) {
        puts("skipped: deploy/fetch-model.sh smollm2 can't fetch the base here");
        return TEST_SKIP;
    }
    read_goldens();
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
