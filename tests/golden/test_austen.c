/* The bundled model through the whole engine, against figures of an independent implementation
 * (tests/golden/austen): ids, logprobs, logits, greedy text and gold edges, with float32 and with bf16 pages;
 * the edges of strided attention against their closed form; and the promise that a request gets the same bits
 * alone, in any company and with any number of threads. */
#include "tests/support/test.h"
#include "tests/support/golden_numbers.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { MAX_CASES = 16, MAX_IDS = 1024, LAYERS = 6, HEADS = 4, TOP = 10, GREEDY = 24 };

typedef struct golden {
    char *text;
    size_t n_text, n_ids, n_logprobs, n_top, n_greedy;
    int32_t ids[MAX_IDS];
    double logprobs[MAX_IDS];
    double top[TOP][2]; /* id, logit */
    int32_t greedy[GREEDY];
    double margins[GREEDY];
    double edges[LAYERS * HEADS];
} golden;

static golden goldens[MAX_CASES];
static size_t n_goldens;
static double logit_tolerance, logprob_tolerance;
static sp_arena arena;

/* --- golden.json --- */

static void read_case(sp_json *json, golden *g)
{
    while (sp_json_next(json) == SP_JSON_KEY) {
        const char *names[] = {
            "text",           "ids",       "token_logprobs", "last_logits_top10", "greedy_ids",
            "greedy_margins", "gold_edges"};
        size_t which = 0;
        while (which < COUNT_OF(names) && !sp_json_is(json, names[which])) which++;
        sp_json_type type = sp_json_next(json);
        if (which == 0) g->text = sp_json_text(json, &arena, &g->n_text);
        if (which == 1) g->n_ids = golden_ids(json, g->ids, MAX_IDS);
        if (which == 2) g->n_logprobs = golden_numbers(json, g->logprobs, MAX_IDS);
        if (which == 3) g->n_top = golden_numbers(json, &g->top[0][0], 2 * TOP) / 2;
        if (which == 4) g->n_greedy = golden_ids(json, g->greedy, GREEDY);
        if (which == 5) assert_int_equal(golden_numbers(json, g->margins, GREEDY), GREEDY);
        if (which == 6) assert_int_equal(golden_numbers(json, g->edges, LAYERS * HEADS), LAYERS * HEADS);
        if (which == COUNT_OF(names)) sp_json_skip(json, type);
    }
}

static void read_tolerance(sp_json *json)
{
    while (sp_json_next(json) == SP_JSON_KEY) {
        double *out = sp_json_is(json, "logits")    ? &logit_tolerance
                      : sp_json_is(json, "logprob") ? &logprob_tolerance
                                                    : NULL;
        sp_json_type type = sp_json_next(json);
        if (out) *out = sp_json_double(json);
        sp_json_skip(json, type);
    }
}

static int load(void **state)
{
    (void)state;
    char *text;
    size_t size;
    sp_error error;
    sp_json json;
    sp_arena_init(&arena, 1 << 20);
    if (sp_read_file(SPARSED_ROOT "/tests/golden/austen/golden.json", 1 << 20, &text, &size, &error) !=
            SP_OK ||
        sp_json_validate(text, size, &error) != SP_OK) {
        fprintf(stderr, "%s\n", error.message);
        return -1;
    }
    sp_json_init(&json, text, size);
    sp_json_next(&json);
    while (sp_json_next(&json) == SP_JSON_KEY) {
        bool is_cases = sp_json_is(&json, "cases"), is_tolerance = sp_json_is(&json, "tolerance");
        sp_json_type type = sp_json_next(&json);
        if (is_tolerance)
            read_tolerance(&json);
        else if (!is_cases)
            sp_json_skip(&json, type);
        else
            while (sp_json_next(&json) == SP_JSON_OBJECT) read_case(&json, &goldens[n_goldens++]);
    }
    sp_free(text);
    return n_goldens == 12 ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    sp_arena_fini(&arena);
    return 0;
}

/* --- running requests --- */

static sp_engine *open_engine(sp_dtype kv_type, size_t n_threads)
{
    sp_engine_options options;
    sp_engine *engine = NULL;
    sp_error error;
    sp_engine_options_init(&options);
    options.model_path = SPARSED_ROOT "/models/austen";
    options.kv_type = kv_type;
    options.n_threads = n_threads;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    return engine;
}

static sp_stream *submit(sp_engine *engine, const sp_request *request)
{
    sp_stream *stream = NULL;
    sp_error error;
    assert_ok(sp_engine_submit(engine, request, NULL, NULL, &stream, &error), error);
    return stream;
}

enum { MAX_OUT = 64 };
typedef struct output {
    int32_t tokens[MAX_OUT];
    float logprobs[MAX_OUT];
    size_t n, n_text;
    char text[MAX_OUT * 16];
    sp_event last;
} output;

/* Reads to the end; last's pointers live until the stream is freed. */
static void collect(sp_stream *stream, output *out)
{
    memset(out, 0, sizeof *out);
    for (;;) {
        sp_event event;
        sp_stream_wait(stream, 60, &event);
        assert_true(event.type != SP_EVENT_NONE);
        if (event.type == SP_EVENT_PROGRESS) continue;
        if (event.type == SP_EVENT_ERROR) fail_msg("%s", event.error.message);
        assert_true(out->n_text + event.text_size <= sizeof out->text && out->n < MAX_OUT);
        memcpy(out->text + out->n_text, event.text, event.text_size);
        out->n_text += event.text_size;
        out->last = event;
        if (event.type == SP_EVENT_DONE) return;
        out->tokens[out->n] = event.token;
        out->logprobs[out->n++] = event.logprob;
    }
}

static sp_request with_attention(const char *attention)
{
    sp_request request;
    sp_request_init(&request);
    request.attention = attention;
    request.attention_size = attention ? strlen(attention) : 0;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    return request;
}

/* Stands behind the value of a key of the report's top level. */
static sp_json_type find(sp_json *json, const char *report, size_t size, const char *key)
{
    sp_error error;
    assert_ok(sp_json_validate(report, size, &error), error);
    sp_json_init(json, report, size);
    sp_json_next(json);
    while (sp_json_next(json) == SP_JSON_KEY) {
        bool found = sp_json_is(json, key);
        sp_json_type type = sp_json_next(json);
        if (found) return type;
        sp_json_skip(json, type);
    }
    fail_msg("the report lacks %s", key);
    return SP_JSON_END;
}

/* A number of an object that was just opened. */
static double number_of(sp_json json, const char *key)
{
    while (sp_json_next(&json) == SP_JSON_KEY) {
        bool found = sp_json_is(&json, key);
        sp_json_type type = sp_json_next(&json);
        if (found) return sp_json_double(&json);
        sp_json_skip(&json, type);
    }
    fail_msg("no %s", key);
    return 0;
}

/* --- against the golden figures --- */

/* Ids and offsets: each token's bytes are those of its range, without gaps. */
static void check_encoding(const sp_engine *engine, const golden *g)
{
    const sp_tokenizer *tokenizer = sp_engine_get_info(engine)->tokenizer;
    sp_tokens tokens = {0};
    sp_error error;
    assert_ok(sp_tokenizer_encode(tokenizer, g->text, g->n_text, SP_ENCODE_ADD, &tokens, &error), error);
    assert_int_equal(tokens.count, g->n_ids);
    uint32_t at = 0;
    for (size_t i = 0; i < tokens.count; i++) {
        size_t size;
        const char *bytes = sp_tokenizer_bytes(tokenizer, tokens.data[i].id, &size);
        assert_int_equal(tokens.data[i].id, g->ids[i]);
        assert_int_equal(tokens.data[i].begin, at);
        at = tokens.data[i].end;
        assert_int_equal(at - tokens.data[i].begin, size);
        assert_memory_equal(g->text + tokens.data[i].begin, bytes, size);
    }
    assert_int_equal(at, g->n_text);
    sp_tokens_fini(&tokens);
}

static double worst_logprob(const golden *g, const float *got)
{
    double worst = 0;
    assert_true(isnan(got[0]));
    for (size_t i = 1; i < g->n_ids; i++) {
        double difference = fabs((double)got[i] - g->logprobs[i]);
        assert_true(isfinite(difference));
        if (difference > worst) worst = difference;
    }
    return worst;
}

/* Greedy ids must agree while the margin is clear; after a permitted difference the texts part. */
static void check_greedy(const golden *g, const output *out)
{
    assert_int_equal(out->n, g->n_greedy);
    for (size_t i = 0; i < out->n; i++) {
        if (out->tokens[i] == g->greedy[i]) continue;
        assert_true(g->margins[i] <= 0.1);
        return;
    }
}

/* Gold edges by layer and head, from the report of a prefill alone; the largest relative difference. */
static double worst_edges(sp_engine *engine, const golden *g)
{
    sp_request request = with_attention("{\"backend\":\"dense\",\"measure\":true}");
    output out;
    sp_json json;
    double worst = 0;
    request.ids = g->ids;
    request.n_ids = g->n_ids;
    request.max_tokens = 0;
    sp_stream *stream = submit(engine, &request);
    collect(stream, &out);
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "heads"), SP_JSON_ARRAY);
    for (int i = 0; i < LAYERS * HEADS; i++) {
        assert_int_equal(sp_json_next(&json), SP_JSON_OBJECT);
        assert_true(number_of(json, "layer") == i / HEADS && number_of(json, "head") == i % HEADS);
        assert_true(number_of(json, "pairs_valid") == (double)(g->n_ids * (g->n_ids + 1) / 2));
        assert_true(number_of(json, "edges_both") == number_of(json, "edges_gold")); /* dense holds all */
        double difference = fabs(number_of(json, "edges_gold") - g->edges[i]) / g->edges[i];
        if (difference > worst) worst = difference;
        sp_json_skip(&json, SP_JSON_OBJECT);
    }
    sp_stream_free(stream);
    return worst;
}

static void check_against_golden(sp_dtype kv_type, double max_logprob, double max_logit, double max_edges)
{
    sp_engine *engine = open_engine(kv_type, 2);
    double logprob = 0, logit = 0, edges = 0;
    for (size_t i = 0; i < n_goldens; i++) {
        const golden *g = &goldens[i];
        static output out;
        sp_request request = with_attention(NULL);
        check_encoding(engine, g);
        request.prompt = g->text;
        request.prompt_size = g->n_text;
        request.max_tokens = GREEDY;
        request.prompt_logprobs = request.prompt_logits = true;
        sp_stream *stream = submit(engine, &request);
        collect(stream, &out);
        assert_int_equal(out.last.usage.prompt_tokens, g->n_ids);
        assert_memory_equal(out.last.prompt_ids, g->ids, g->n_ids * sizeof *g->ids);
        logprob = fmax(logprob, worst_logprob(g, out.last.prompt_logprobs));
        for (size_t t = 0; t < g->n_top; t++)
            logit = fmax(logit, fabs((double)out.last.prompt_logits[(int)g->top[t][0]] - g->top[t][1]));
        if (kv_type == SP_F32) check_greedy(g, &out);
        sp_stream_free(stream);
        edges = fmax(edges, worst_edges(engine, g));
    }
    print_message("%s: logprob %.2g, logit %.2g, edges %.2g %%\n", sp_dtype_name(kv_type), logprob, logit,
                  100 * edges);
    assert_true(logprob <= max_logprob && logit <= max_logit && edges <= max_edges);
    sp_engine_close(engine);
}

static void test_f32(void **state)
{
    (void)state;
    assert_true(logit_tolerance > 0 && logprob_tolerance > 0);
    check_against_golden(SP_F32, logprob_tolerance, logit_tolerance, 0.001);
}

static void test_bf16(void **state)
{
    (void)state;
    check_against_golden(SP_BF16, 0.1, 0.3, 0.03);
}

/* --- the report --- */

/* Edges of one head and rows 0 .. n - 1 of strided attention: a local row of at most l keys, and a column
 * every l. */
static uint64_t strided_edges(uint64_t n, uint64_t l)
{
    uint64_t full = n / l, rest = n % l; /* whole blocks of l rows, then a part */
    uint64_t local = n <= l ? n * (n + 1) / 2 : l * (l + 1) / 2 + (n - l) * l;
    return local + l * (full * (full - (full > 0)) / 2) + rest * full;
}

static void test_report(void **state)
{
    (void)state;
    sp_engine *engine = open_engine(SP_BF16, 1);
    const golden *g = &goldens[5];
    assert_true(g->n_ids == 700);
    sp_request request = with_attention("{\"backend\":\"strided\",\"params\":{\"stride\":48}}");
    static output out;
    sp_json json;
    request.ids = g->ids;
    request.n_ids = g->n_ids;
    request.max_tokens = 50;
    sp_stream *stream = submit(engine, &request);
    collect(stream, &out);
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "prefill"), SP_JSON_OBJECT);
    assert_true(number_of(json, "tokens") == 700);
    assert_true(number_of(json, "edges") == (double)(LAYERS * HEADS * strided_edges(700, 48)));
    assert_true(number_of(json, "pairs") == (double)(LAYERS * HEADS * 700 * 701 / 2));
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "decode"), SP_JSON_OBJECT);
    assert_true(number_of(json, "tokens") == 49); /* the last token is not run */
    assert_true(number_of(json, "edges") ==
                (double)(LAYERS * HEADS * (strided_edges(749, 48) - strided_edges(700, 48))));
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "trained"), SP_JSON_FALSE);
    sp_stream_free(stream);

    request = with_attention("\"dense\"");
    request.ids = g->ids;
    request.n_ids = 5;
    stream = submit(engine, &request);
    collect(stream, &out);
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "trained"), SP_JSON_TRUE);
    sp_stream_free(stream);
    request.attention = "{\"normalizer\":\"softmax\"}";
    request.attention_size = strlen(request.attention);
    stream = submit(engine, &request);
    collect(stream, &out);
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "trained"), SP_JSON_FALSE);
    sp_stream_free(stream);
    sp_engine_close(engine);
}

/* Measuring a pattern: what it predicts is its closed form, what it keeps is part of both graphs; a stride
 * beyond the text keeps all. */
static void check_measure(sp_engine *engine, const golden *g, uint64_t stride)
{
    char attention[128];
    snprintf(attention, sizeof attention,
             "{\"backend\":\"strided\",\"params\":{\"stride\":%u},\"measure\":true}", (unsigned)stride);
    sp_request request = with_attention(attention);
    static output out;
    sp_json json;
    request.ids = g->ids;
    request.n_ids = g->n_ids;
    request.max_tokens = 0;
    sp_stream *stream = submit(engine, &request);
    collect(stream, &out);
    assert_int_equal(find(&json, out.last.report, out.last.report_size, "heads"), SP_JSON_ARRAY);
    for (int i = 0; i < LAYERS * HEADS; i++) {
        assert_int_equal(sp_json_next(&json), SP_JSON_OBJECT);
        double gold = number_of(json, "edges_gold"), both = number_of(json, "edges_both");
        double exact = number_of(json, "rows_exact"), mass = number_of(json, "mass");
        assert_true(number_of(json, "edges_pred") == (double)strided_edges(g->n_ids, stride));
        assert_true(number_of(json, "rows_valid") == (double)g->n_ids);
        if (stride >= g->n_ids) {
            assert_true(both == gold && exact == (double)g->n_ids && mass > 1 - 1e-6 && mass < 1 + 1e-6);
        } else {
            assert_true(both > 0 && both < gold && exact > 0 && exact < (double)g->n_ids);
            assert_true(mass > 0.05 && mass < 1);
        }
        sp_json_skip(&json, SP_JSON_OBJECT);
    }
    sp_stream_free(stream);
}

static void test_measure(void **state)
{
    (void)state;
    sp_engine *engine = open_engine(SP_BF16, 1);
    assert_true(goldens[1].n_ids == 200);
    check_measure(engine, &goldens[1], 8);
    check_measure(engine, &goldens[1], 200);
    sp_engine_close(engine);
}

/* --- the same bits --- */

enum { STREAMS = 16 };

static const char *const attentions[] = {
    NULL,
    "\"strided\"",
    "{\"backend\":\"strided\",\"params\":{\"stride\":20},\"heads\":\"interleaved\"}",
    "{\"backend\":\"fixed\",\"params\":{\"stride\":96,\"summary\":8,\"distinct\":4}}",
    "{\"backend\":\"fixed\",\"normalizer\":\"softmax\",\"heads\":\"multihead\"}",
    "{\"backend\":\"window\",\"params\":{\"window\":101,\"global_first\":3},\"normalizer\":\"sparsemax\"}",
    "{\"backend\":\"longformer\",\"normalizer\":{\"alpha\":1.3}}",
    "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}",
};

static sp_request make_request(size_t i, const char *text, size_t size)
{
    sp_request request = with_attention(attentions[i % COUNT_OF(attentions)]);
    static const size_t lengths[] = {1, 17, 700, 250, 2900, 64, 1500, 333};
    size_t begin = i * 5003 % (size - 4000), length = lengths[i * 3 % COUNT_OF(lengths)];
    while ((text[begin] & 0xC0) == 0x80) begin++;
    while ((text[begin + length] & 0xC0) == 0x80) length++;
    request.prompt = text + begin;
    request.prompt_size = length;
    request.max_tokens = (uint32_t)(20 + i * 2);
    request.sampling = (sp_sampling){.temperature = i % 5 == 0 ? 0 : 0.9, .top_p = 1, .seed = (int64_t)i - 3};
    if (i % 3 == 0) request.sampling.top_p = 0.9;
    if (i % 4 == 0) request.sampling.top_k = 50;
    return request;
}

static void assert_same(const output *a, const output *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->tokens, b->tokens, sizeof a->tokens);
    assert_memory_equal(a->logprobs, b->logprobs, sizeof a->logprobs);
    assert_int_equal(a->n_text, b->n_text);
    assert_memory_equal(a->text, b->text, a->n_text);
}

static void run_alone(sp_engine *engine, const sp_request *requests, output *outs)
{
    for (size_t i = 0; i < STREAMS; i++) {
        sp_stream *stream = submit(engine, &requests[i]);
        collect(stream, &outs[i]);
        sp_stream_free(stream);
        assert_int_equal(outs[i].n, requests[i].max_tokens);
    }
}

static void run_together(sp_engine *engine, const sp_request *requests, output *outs)
{
    sp_stream *streams[STREAMS];
    for (size_t i = 0; i < STREAMS; i++) streams[i] = submit(engine, &requests[i]);
    for (size_t i = 0; i < STREAMS; i++) {
        collect(streams[i], &outs[i]);
        sp_stream_free(streams[i]);
    }
}

static void check_same_bits(sp_dtype kv_type)
{
    static output alone[STREAMS], together[STREAMS];
    sp_request requests[STREAMS];
    char *text;
    size_t size;
    sp_error error;
    assert_ok(sp_read_file(SPARSED_ROOT "/models/austen/heldout.txt", 1 << 20, &text, &size, &error), error);
    for (size_t i = 0; i < STREAMS; i++) requests[i] = make_request(i, text, size);
    sp_engine *one = open_engine(kv_type, 1);
    run_alone(one, requests, alone);
    run_together(one, requests, together);
    for (size_t i = 0; i < STREAMS; i++) assert_same(&alone[i], &together[i]);
    sp_engine_close(one);

    sp_engine *two = open_engine(kv_type, 2);
    run_together(two, requests, together);
    for (size_t i = 0; i < STREAMS; i++) assert_same(&alone[i], &together[i]);
    sp_stats stats;
    sp_engine_stats(two, &stats);
    assert_int_equal(stats.running + stats.waiting + stats.kv_pages_used, 0);
    assert_int_equal(stats.finished_length, STREAMS);
    sp_engine_close(two);
    sp_free(text);
}

static void test_same_bits_bf16(void **state)
{
    (void)state;
    check_same_bits(SP_BF16);
}

static void test_same_bits_f32(void **state)
{
    (void)state;
    check_same_bits(SP_F32);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_f32),
    cmocka_unit_test(test_bf16),
    cmocka_unit_test(test_report),
    cmocka_unit_test(test_measure),
    cmocka_unit_test(test_same_bits_bf16),
    cmocka_unit_test(test_same_bits_f32),
};

int main(void)
{
    return cmocka_run_group_tests(tests, load, unload) == 0 ? 0 : 1;
}
