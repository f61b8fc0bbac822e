/* The attention value of a request: what is accepted, what it resolves to, and what is refused with which
 * name. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/attention/attention.h"

static const sp_attention_host library = {
    .n_heads = 8, .model_normalizer = {.alpha = 1.5f}, .allow_measure = true};
static const sp_attention_host decoding = {
    .n_heads = 8, .model_normalizer = {.alpha = 1.5f}, .generates = true};

static sp_attention accepted_by(const sp_attention_host *host, const char *json)
{
    sp_attention attention;
    sp_error error;
    assert_ok(sp_attention_parse(json, json ? strlen(json) : 0, host, &attention, &error), error);
    return attention;
}

static sp_attention accepted(const char *json)
{
    return accepted_by(&library, json);
}

/* Refused as SP_INVALID naming param; the message holds `hint`. */
static void refused_by(const sp_attention_host *host, const char *json, const char *param, const char *hint)
{
    sp_attention attention;
    sp_error error = {0};
    sp_status status = sp_attention_parse(json, strlen(json), host, &attention, &error);
    if (status != SP_INVALID || strcmp(error.param, param) != 0 || !strstr(error.message, hint)) {
        fail_msg("%s: %s, param '%s', message '%s'", json, sp_status_name(status), error.param,
                 error.message);
    }
}

static void refused(const char *json, const char *param, const char *hint)
{
    refused_by(&library, json, param, hint);
}

static void test_defaults(void **state)
{
    (void)state;
    static const char *const same[] = {NULL,
                                       "null",
                                       "{}",
                                       "\"dense\"",
                                       " {\"backend\": \"dense\"}",
                                       "{\"backend\":null,\"params\":null,\"normalizer\":null,\"heads\":null,"
                                       "\"device\":null,\"strict\":null,\"measure\":null,\"capture\":null}"};
    for (size_t i = 0; i < COUNT_OF(same); i++) {
        sp_attention attention = accepted(same[i]);
        assert_string_equal(attention.backend->name, "dense");
        assert_string_equal(attention.requested, "dense");
        assert_true(attention.strict && !attention.measure && attention.normalizer_is_model);
        assert_true(attention.normalizer.alpha == 1.5f);
        assert_int_equal(attention.heads, SP_HEADS_MERGED);
    }
    static const struct {
        const char *json, *param;
        double value;
    } values[] = {{"\"strided\"", "stride", 128},        {"\"strided\"", "global_first", 0},
                  {"\"fixed\"", "stride", 128},          {"\"fixed\"", "summary", 32},
                  {"\"fixed\"", "distinct", 1},          {"\"fixed\"", "global_first", 0},
                  {"\"window\"", "window", 257},         {"\"window\"", "global_first", 0},
                  {"\"window\"", "global_last", 0},      {"\"longformer\"", "window", 257},
                  {"\"longformer\"", "global_first", 1}, {"\"longformer\"", "global_random", 0},
                  {"\"longformer\"", "seed", 0}};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        sp_attention attention = accepted(values[i].json);
        assert_true(sp_attention_param(&attention, values[i].param) == values[i].value);
    }
}

static void test_values(void **state)
{
    (void)state;
    sp_attention attention =
        accepted("{\"params\":{\"summary\":16.0,\"stride\":6.4e1,\"distinct\":null},\"heads\":"
                 "\"multihead\",\"normalizer\":{\"alpha\":1.25},\"strict\":false,\"measure\":true,"
                 "\"device\":\"cpu\",\"capture\":false,\"backend\":\"fixed\"}");
    assert_string_equal(attention.backend->name, "fixed");
    assert_true(sp_attention_param(&attention, "stride") == 64);
    assert_true(sp_attention_param(&attention, "summary") == 16);
    assert_true(sp_attention_param(&attention, "distinct") == 1);
    assert_int_equal(attention.heads, SP_HEADS_MULTIHEAD);
    assert_true(attention.normalizer.alpha == 1.25f && !attention.normalizer_is_model);
    assert_true(!attention.strict && attention.measure);

    assert_true(accepted("{\"normalizer\":\"softmax\"}").normalizer.alpha == 1.0f);
    assert_true(accepted("{\"normalizer\":\"entmax15\"}").normalizer.alpha == 1.5f);
    assert_true(accepted("{\"normalizer\":\"sparsemax\"}").normalizer.alpha == 2.0f);
    assert_true(accepted("{\"normalizer\":{\"alpha\":2}}").normalizer.alpha == 2.0f);
    assert_true(accepted("{\"normalizer\":{\"alpha\":1.00000000001}}").normalizer.alpha > 1.0f);
    assert_true(accepted("{\"normalizer\":\"model\"}").normalizer_is_model);
    assert_true(accepted("{\"device\":\"auto\"}").strict);

    attention =
        accepted("{\"backend\":\"longformer\",\"params\":{\"seed\":9223372036854775807,\"window\":0}}");
    assert_true(attention.seed == INT64_MAX);
    assert_true(sp_attention_param(&attention, "window") == 0);
    assert_string_equal(accepted("{\"b\\u0061ckend\":\"stri\\u0064ed\"}").backend->name, "strided");
}

static void test_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *json, *param, *hint;
    } cases[] = {
        {"{\"backend\":\"strided\",\"params\":{\"stride\":0}}", "attention.params.stride", "1 to 1048576"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":1048577}}", "attention.params.stride",
         "1 to 1048576"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":1.5}}", "attention.params.stride", "integer"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":true}}", "attention.params.stride", "integer"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":\"8\"}}", "attention.params.stride", "integer"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":[8]}}", "attention.params.stride", "integer"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":-1}}", "attention.params.stride", "1 to 1048576"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":1e300}}", "attention.params.stride",
         "1 to 1048576"},
        {"{\"backend\":\"strided\",\"params\":{\"global_first\":-1}}", "attention.params.global_first",
         "0 to"},
        {"{\"backend\":\"window\",\"params\":{\"window\":4}}", "attention.params.window", "odd"},
        {"{\"backend\":\"window\",\"params\":{\"window\":1048579}}", "attention.params.window", "1048577"},
        {"{\"backend\":\"longformer\",\"params\":{\"seed\":-1}}", "attention.params.seed",
         "9223372036854775807"},
        {"{\"backend\":\"longformer\",\"params\":{\"seed\":9223372036854775808}}", "attention.params.seed",
         "integer"},
        {"{\"backend\":\"fixed\",\"params\":{\"stride\":8,\"summary\":9}}", "attention.params.summary",
         "stride (8)"},
        {"{\"backend\":\"fixed\",\"params\":{\"stride\":8}}", "attention.params.summary", "stride (8)"},
        {"{\"backend\":\"fixed\",\"params\":{\"distinct\":3}}", "attention.params.distinct", "heads (8)"},
        {"{\"backend\":\"fixed\",\"params\":{\"distinct\":8}}", "attention.params.distinct", "(4)"},
        {"{\"normalizer\":{\"alpha\":1}}", "attention.normalizer.alpha", "above 1"},
        {"{\"normalizer\":{\"alpha\":2.01}}", "attention.normalizer.alpha", "up to 2"},
        {"{\"normalizer\":{\"alpha\":\"2\"}}", "attention.normalizer.alpha", "number"},
        {"{\"normalizer\":{}}", "attention.normalizer.alpha", "number"},
        {"{\"normalizer\":{\"beta\":2}}", "attention.normalizer", "beta"},
        {"{\"normalizer\":\"entmax\"}", "attention.normalizer", "entmax15"},
        {"{\"normalizer\":1.5}", "attention.normalizer", "entmax15"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) refused(cases[i].json, cases[i].param, cases[i].hint);
}

static void test_unknown_and_not_built(void **state)
{
    (void)state;
    static const char *const later[] = {"bigbird", "lsh", "pages", "xattention"};
    for (size_t i = 0; i < COUNT_OF(later); i++) {
        char json[64];
        (void)snprintf(json, sizeof json, "\"%s\"", later[i]);
        refused(json, "attention", later[i]);
        (void)snprintf(json, sizeof json, "{\"backend\":\"%s\",\"strict\":false}", later[i]);
        refused(json, "attention.backend", "not built");
    }
    refused("\"sparse\"", "attention", "dense, strided, fixed, window, longformer");
    refused("{\"backend\":\"Dense\"}", "attention.backend", "unknown");
    refused("{\"backend\":\"\"}", "attention.backend", "unknown");
    refused("{\"backend\":7}", "attention.backend", "string");
    refused("{\"backend\":\"dense\",\"params\":{\"stride\":8}}", "attention.params.stride", "no parameters");
    refused("{\"backend\":\"fixed\",\"params\":{\"sumary\":8}}", "attention.params.sumary",
            "stride, summary");
    refused("{\"params\":[]}", "attention.params", "object");
    refused("{\"params\":1}", "attention.params", "object");
    refused("{\"Backend\":\"dense\"}", "attention.Backend", "unknown key");
    refused("{\"decode\":7}", "attention.decode", "backend");
    refused("{\"decode\":{\"backend\":\"none\"}}", "attention.decode.backend", "unknown");
    refused("{\"decode\":{\"heads\":\"merged\"}}", "attention.decode", "backend and params");
    refused("{\"decode\":{\"backend\":\"window\",\"params\":{\"window\":4}}}",
            "attention.decode.params.window", "odd");
    refused("{\"decode\":{\"params\":{\"stride\":4}}}", "attention.decode.params.stride", "no parameters");
    refused("{\"capture\":true}", "attention.capture", "not available here");
    refused("{\"capture\":{\"layers\":[0]}}", "attention.capture", "not available here");
    refused("{\"capture\":1}", "attention.capture", "true, false");
    refused("{\"device\":\"cuda\"}", "attention.device", "cpu");
    refused("{\"device\":true}", "attention.device", "cpu");
    refused("{\"strict\":0}", "attention.strict", "true or false");
    refused("{\"measure\":\"yes\"}", "attention.measure", "true or false");
    refused("{\"heads\":\"split\"}", "attention.heads", "multihead");
    refused("{\"backend\":\"window\",\"heads\":\"interleaved\"}", "attention.heads", "window");
    refused("{\"backend\":\"dense\",\"backend\":\"dense\"}", "attention", "JSON");
    refused("[\"dense\"]", "attention", "string or an object");
    refused("true", "attention", "string or an object");
    refused("3", "attention", "string or an object");
    refused("dense", "attention", "JSON");
    refused("", "attention", "JSON");
    refused_by(&decoding, "{\"measure\":true}", "attention.measure", "not available");
    assert_true(accepted_by(&decoding, "{\"measure\":false}").strict);
}

/* A long or hostile name ends up short and harmless in the error. */
static void test_hostile_names(void **state)
{
    (void)state;
    char json[4096] = "{\"backend\":\"strided\",\"params\":{\"";
    size_t n = strlen(json);
    memset(json + n, 'x', 3000);
    memcpy(json + n + 3000, "\":1}}", 6);
    sp_attention attention;
    sp_error error;
    assert_int_equal(sp_attention_parse(json, strlen(json), &library, &attention, &error), SP_INVALID);
    assert_true(strncmp(error.param, "attention.params.xxx", 20) == 0 &&
                strlen(error.param) < sizeof error.param);
    refused("{\"backend\":\"a\\nb\"}", "attention.backend", "unknown");
}

static void test_generating(void **state)
{
    (void)state;
    static const char *const streaming[] = {"\"dense\"", "\"strided\"", "\"fixed\"", "\"window\"",
                                            "\"longformer\""};
    for (size_t i = 0; i < COUNT_OF(streaming); i++) (void)accepted_by(&decoding, streaming[i]);
    static const char last[] = "{\"backend\":\"window\",\"params\":{\"global_last\":1}}";
    static const char random[] = "{\"backend\":\"longformer\",\"params\":{\"global_random\":2}}";
    (void)accepted(last);
    (void)accepted(random);
    refused_by(&decoding, last, "attention.params.global_last", "must be 0");
    refused_by(&decoding, random, "attention.params.global_random", "strict");
    sp_attention attention = accepted_by(
        &decoding, "{\"backend\":\"longformer\",\"params\":{\"global_random\":2},\"strict\":false}");
    assert_string_equal(attention.backend->name, "dense");
    assert_string_equal(attention.requested, "longformer");
}

/* --- JSON that goes out --- */
static void check_text(sp_buffer *buffer, const char *expected)
{
    assert_false(buffer->failed);
    sp_buffer_append(buffer, "", 1);
    assert_string_equal(buffer->data, expected);
    sp_buffer_fini(buffer);
}

static void test_report(void **state)
{
    (void)state;
    sp_attention_report report = {
        .attention = accepted("{\"backend\":\"strided\",\"params\":{\"stride\":8}}"),
        .prefill = {.tokens = 10,
                    .edges = 30,
                    .pairs = 120,
                    .tiles = 3,
                    .groups = 2,
                    .predict_seconds = 0.5,
                    .attend_seconds = 0.25},
        .rows_empty = 1,
        .trained = true,
        .batch_invariant = true,
        .device = "cpu",
        .n_layers = 1,
        .n_heads = 1,
    };
    (void)snprintf(report.attention.notes, sizeof report.attention.notes, "one.\ntwo.");
    sp_buffer buffer;
    sp_json_writer writer;
    sp_buffer_init(&buffer, 1 << 16);
    sp_json_writer_init(&writer, &buffer);
    sp_attention_report_write(&report, &writer);
    check_text(
        &buffer,
        "{\"requested\":\"strided\",\"backend\":\"strided\",\"params\":{\"stride\":8,\"global_first\":0},"
        "\"normalizer\":{\"alpha\":1.5},\"heads\":\"merged\",\"device\":\"cpu\","
        "\"prefill\":{\"tokens\":10,\"edges\":30,\"pairs\":120,\"density\":0.25,\"sparsity\":0.75,\"tiles\":"
        "3,"
        "\"groups\":2,\"predict_seconds\":0.5,\"attend_seconds\":0.25},"
        "\"decode\":{\"tokens\":0,\"edges\":0,\"pairs\":0,\"density\":null,\"sparsity\":null,\"tiles\":0,"
        "\"groups\":0,\"predict_seconds\":0,\"attend_seconds\":0},"
        "\"rows_empty\":1,\"trained\":true,\"batch_invariant\":true,\"fallbacks\":[],"
        "\"notes\":[\"one.\",\"two.\"],\"reason\":null}");
}

/* Whole milliseconds, and the right mean: its deviation here is 0.0046 ms. */
static void test_coarse_times(void **state)
{
    (void)state;
    sp_attention_phase phase = {.tokens = 7, .predict_seconds = 0.0003, .attend_seconds = 2.0625};
    double sum = 0.0;
    for (size_t i = 0; i < 10000; i++) {
        double seconds = sp_seconds_coarsen(phase.predict_seconds);
        assert_true(seconds == 0.0 || seconds == 0.001);
        sum += seconds;
    }
    assert_true(fabs(sum / 10000 - 0.0003) < 0.000025);
    assert_true(sp_seconds_coarsen(0.0) == 0.0);
    sp_attention_phase_coarsen(&phase);
    assert_true(phase.predict_seconds == 0.0 || phase.predict_seconds == 0.001);
    assert_true(phase.attend_seconds == 2.062 || phase.attend_seconds == 2.063);
    assert_int_equal(phase.tokens, 7);
}

static void test_report_measures(void **state)
{
    (void)state;
    const sp_head_measure measure = {
        .edges_gold = 4, .edges_pred = 0, .pairs_valid = 8, .rows_valid = 2, .mass = 1.5, .rows = 2};
    sp_attention_report report = {.attention = accepted("{\"normalizer\":\"softmax\"}"),
                                  .device = "cpu",
                                  .measures = &measure,
                                  .n_layers = 1,
                                  .n_heads = 1};
    sp_buffer buffer;
    sp_json_writer writer;
    sp_buffer_init(&buffer, 1 << 16);
    sp_json_writer_init(&writer, &buffer);
    sp_attention_report_write(&report, &writer);
    sp_buffer_append(&buffer, "", 1);
    assert_non_null(strstr(
        buffer.data, "\"normalizer\":\"softmax\",\"heads\":[{\"layer\":0,\"head\":0,\"edges_gold\":4,"
                     "\"edges_pred\":0,\"edges_both\":0,\"pairs_valid\":8,\"rows_valid\":2,"
                     "\"rows_exact\":0,\"rows_empty\":0,\"recall\":0,\"precision\":null,"
                     "\"sparsity\":1,\"sparsity_gold\":0.5,\"exact\":0,\"mass\":0.75,\"gold_mass\":0.95}],"));
    sp_buffer_fini(&buffer);
}

static void test_fallback_is_named(void **state)
{
    (void)state;
    sp_attention_report report = {
        .attention = accepted_by(
            &decoding, "{\"backend\":\"longformer\",\"params\":{\"global_random\":2},\"strict\":false}"),
        .device = "cpu"};
    sp_buffer buffer;
    sp_json_writer writer;
    sp_buffer_init(&buffer, 1 << 16);
    sp_json_writer_init(&writer, &buffer);
    sp_attention_report_write(&report, &writer);
    sp_buffer_append(&buffer, "", 1);
    assert_non_null(
        strstr(buffer.data, "{\"requested\":\"longformer\",\"backend\":\"dense\",\"params\":{},"));
    assert_non_null(strstr(
        buffer.data, "\"fallbacks\":[{\"from\":\"longformer\",\"to\":\"dense\",\"why\":\"decoding\"}]"));
    sp_buffer_fini(&buffer);
}

static void test_backends_list(void **state)
{
    (void)state;
    sp_buffer buffer;
    sp_json_writer writer;
    sp_error error;
    sp_buffer_init(&buffer, 1 << 16);
    sp_json_writer_init(&writer, &buffer);
    sp_backends_write("no fit", &writer);
    assert_ok(sp_json_validate(buffer.data, buffer.size, &error), error);
    sp_buffer_append(&buffer, "", 1);
    assert_true(strncmp(buffer.data, "{\"object\":\"list\",\"data\":[{\"name\":\"dense\",", 38) == 0);
    assert_non_null(strstr(buffer.data, "\"caps\":[\"static\",\"streaming\",\"bidirectional\",\"prefix\"]"));
    assert_non_null(strstr(buffer.data, "{\"name\":\"stride\",\"type\":\"integer\",\"default\":128,\"min\":1,"
                                        "\"max\":1048576,\"values\":null,\"summary\":"));
    assert_non_null(strstr(buffer.data, "\"max\":9223372036854775807"));
    assert_non_null(strstr(buffer.data, "\"available\":true,\"why\":null"));
    assert_non_null(strstr(buffer.data, "\"available\":false,\"why\":\"no fit\""));
    assert_non_null(strstr(buffer.data, "\"values\":[\"l2\",\"euclidean\",\"cosine\",\"dot\"]"));
    sp_buffer_fini(&buffer);
}

/* Which layers and heads a capture keeps. */
static void test_capture(void **state)
{
    (void)state;
    const sp_attention_host host = {.n_heads = 8,
                                    .n_layers = 70,
                                    .model_normalizer = {.alpha = 1.5f},
                                    .generates = true,
                                    .allow_capture = true};
    sp_attention all = accepted_by(&host, "{\"capture\":true}");
    assert_true(all.capture && !all.some_layers && !all.some_heads);
    assert_false(accepted_by(&host, "{\"capture\":false}").capture);
    sp_attention some = accepted_by(&host, "{\"capture\":{\"layers\":[0,69],\"heads\":[3,1,3]}}");
    assert_true(some.capture && some.some_layers && some.some_heads);
    assert_true(some.layers[0] == 1 && some.layers[1] == (uint64_t)1 << 5 && some.heads_kept[0] == 10);
    refused_by(&host, "{\"capture\":{\"layers\":[70]}}", "attention.capture.layers", "0 to 69");
    refused_by(&host, "{\"capture\":{\"layers\":[]}}", "attention.capture.layers", "one or more");
    refused_by(&host, "{\"capture\":{\"heads\":[-1]}}", "attention.capture.heads", "0 to 7");
    refused_by(&host, "{\"capture\":{\"heads\":3}}", "attention.capture.heads", "list");
    refused_by(&host, "{\"capture\":{\"rows\":[1]}}", "attention.capture", "rows");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_capture),
    cmocka_unit_test(test_defaults),
    cmocka_unit_test(test_values),
    cmocka_unit_test(test_ranges),
    cmocka_unit_test(test_unknown_and_not_built),
    cmocka_unit_test(test_hostile_names),
    cmocka_unit_test(test_generating),
    cmocka_unit_test(test_report),
    cmocka_unit_test(test_coarse_times),
    cmocka_unit_test(test_report_measures),
    cmocka_unit_test(test_fallback_is_named),
    cmocka_unit_test(test_backends_list),
};
TEST_MAIN(tests)
