/* sp_apply beyond the golden cases: refusals and the names they give, padding, cross-attention, types, the
 * report. Inputs are written with sp_safetensors_write; expected outputs come from the oracle of
 * tests/support. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/attention/apply.h"
#include "models/weights.h"
#include "tests/support/oracle.h"
#include "tests/support/random.h"

static sp_device *device;

typedef struct layer {
    size_t q[4], k[4], v[4]; /* rank, then shape */
    sp_dtype dtype;
    const char *meta[8][2];
} layer;

static float q_data[4096], k_data[4096], v_data[4096];
static uint16_t halves[3][4096];

static void fill_data(void)
{
    test_random random = {3};
    test_random_fill(&random, q_data, COUNT_OF(q_data), 1.0f);
    test_random_fill(&random, k_data, COUNT_OF(k_data), 1.0f);
    test_random_fill(&random, v_data, COUNT_OF(v_data), 1.0f);
    float *const all[] = {q_data, k_data, v_data};
    for (size_t t = 0; t < 3; t++) {
        for (size_t i = 0; i < COUNT_OF(q_data); i++) {
            halves[t][i] = sp_bf16_from_f32(all[t][i]);
            all[t][i] = sp_bf16_to_f32(halves[t][i]); /* the same values in both types */
        }
    }
}

static sp_tensor_entry tensor(const char *name, const size_t *shape, sp_dtype dtype, const void *data)
{
    sp_tensor t = {.dtype = dtype, .rank = (uint32_t)shape[0], .data = data};
    for (size_t i = 0; i < shape[0]; i++) t.shape[i] = shape[1 + i];
    t.bytes = sp_tensor_count(&t) * sp_dtype_size(dtype);
    return (sp_tensor_entry){name, t};
}

static sp_status apply(const layer *input, sp_apply_options options, sp_buffer *out, sp_error *error)
{
    bool half = input->dtype == SP_BF16;
    const sp_tensor_entry tensors[] = {
        tensor("q", input->q, input->dtype, half ? (const void *)halves[0] : q_data),
        tensor("k", input->k, input->dtype, half ? (const void *)halves[1] : k_data),
        tensor("v", input->v, input->dtype, half ? (const void *)halves[2] : v_data)};
    sp_metadata_entry meta[8];
    size_t n = 0;
    for (; n < 8 && input->meta[n][0]; n++) {
        meta[n] = (sp_metadata_entry){input->meta[n][0], input->meta[n][1], strlen(input->meta[n][1])};
    }
    sp_buffer bytes;
    sp_buffer_init(&bytes, 1 << 22);
    sp_buffer_init(out, (size_t)1 << 26);
    assert_int_equal(sp_safetensors_write(tensors, 3, meta, n, &bytes, error), SP_OK);
    sp_status status = sp_apply(device, "case", bytes.data, bytes.size, &options, out, error);
    sp_buffer_fini(&bytes);
    return status;
}

static layer basic(void)
{
    return (layer){.q = {3, 2, 10, 8}, .k = {3, 1, 10, 8}, .v = {3, 1, 10, 6}, .dtype = SP_F32};
}

static void refused(const layer *input, sp_apply_options options, sp_status status, const char *param)
{
    sp_buffer out;
    sp_error error = {0};
    sp_status got = apply(input, options, &out, &error);
    if (got != status || strcmp(error.param, param) != 0) {
        fail_msg("%s, param '%s' (%s), not %s '%s'", sp_status_name(got), error.param, error.message,
                 sp_status_name(status), param);
    }
    sp_buffer_fini(&out);
}

static void refused_meta(const char *key, const char *value, const char *param)
{
    layer input = basic();
    input.meta[0][0] = key, input.meta[0][1] = value;
    refused(&input, (sp_apply_options){0}, SP_INVALID, param);
}

static void test_refusals(void **state)
{
    (void)state;
    refused_meta("causal", "True", "causal");
    refused_meta("causal", "", "causal");
    refused_meta("kind", "selfish", "kind");
    refused_meta("edges", "coo", "edges");
    refused_meta("layer", "-1", "layer");
    refused_meta("layer", "65536", "layer");
    refused_meta("offset", "1.0", "offset");
    refused_meta("offset", "99999999999999999999", "offset");
    refused_meta("valid", "11", "valid");
    refused_meta("valid_q", "11", "valid_q");
    refused_meta("valid_q", " 3", "valid_q");
    refused_meta("scale", "nan", "scale");
    refused_meta("scale", "1e39", "scale");
    refused_meta("scale", "", "scale");
    refused_meta("attention", "dense", "attention");
    refused_meta("attention", "\"lsh\"", "attention");
    refused_meta("attention", "{\"backend\":\"strided\",\"params\":{\"stride\":0}}",
                 "attention.params.stride");
    refused_meta("attention", "{\"backend\":\"fixed\",\"params\":{\"distinct\":3}}",
                 "attention.params.distinct");

    layer input = basic();
    input.meta[0][0] = "attention", input.meta[0][1] = "\"window\"";
    input.meta[1][0] = "kind", input.meta[1][1] = "cross";
    refused(&input, (sp_apply_options){0}, SP_INVALID, "attention.params.window");
    input.meta[0][1] = "\"strided\"";
    refused(&input, (sp_apply_options){0}, SP_INVALID, "attention.backend");
    input.meta[0][1] = "{\"backend\":\"window\",\"params\":{\"window\":0,\"global_last\":1}}";
    refused(&input, (sp_apply_options){0}, SP_INVALID, "attention.params.global_last");

    input = basic();
    refused(&input, (sp_apply_options){.metrics = true}, SP_DATA, "metrics");
    refused(&input, (sp_apply_options){.max_bytes = 100}, SP_TOO_LARGE, "");
    input.meta[0][0] = "causal", input.meta[0][1] = "true";
    input.q[2] = 11;
    refused(&input, (sp_apply_options){0}, SP_INVALID, "offset");
}

static void test_bad_tensors(void **state)
{
    (void)state;
    layer input = basic();
    input.q[0] = 2;
    refused(&input, (sp_apply_options){0}, SP_DATA, "q");
    input = basic(), input.k[3] = 7;
    refused(&input, (sp_apply_options){0}, SP_DATA, "k");
    input = basic(), input.q[1] = 3, input.k[1] = input.v[1] = 2;
    refused(&input, (sp_apply_options){0}, SP_DATA, "k");
    input = basic(), input.v[2] = 9;
    refused(&input, (sp_apply_options){0}, SP_DATA, "v");
    input = basic(), input.v[1] = 2;
    refused(&input, (sp_apply_options){0}, SP_DATA, "v");
    input = basic(), input.q[2] = 0;
    refused(&input, (sp_apply_options){0}, SP_DATA, "q");
    input = basic(), input.q[3] = input.k[3] = 257, input.q[2] = input.k[2] = input.v[2] = 2;
    refused(&input, (sp_apply_options){0}, SP_DATA, "q");
    input = basic(), input.dtype = SP_I32;
    refused(&input, (sp_apply_options){0}, SP_DATA, "q");
    q_data[5] = NAN;
    input = basic();
    refused(&input, (sp_apply_options){0}, SP_DATA, "q");
    fill_data();

    sp_buffer out;
    sp_error error;
    sp_buffer_init(&out, 1 << 20);
    const sp_apply_options none = {0};
    assert_int_equal(sp_apply(device, "case", "junk", 4, &none, &out, &error), SP_DATA);
    assert_int_equal(sp_apply(device, "case", "\2\0\0\0\0\0\0\0{}", 10, &none, &out, &error), SP_DATA);
    assert_string_equal(error.param, "q");
    sp_buffer_fini(&out);
}

/* Over 2^28 edges the list is refused at once; without it only the output is made. Few enough bytes, many
 * pairs. */
static void test_edge_limit(void **state)
{
    (void)state;
    static float zeros[1 << 15];
    const size_t shape[] = {3, 1, 1 << 15, 1};
    const sp_tensor_entry tensors[] = {tensor("q", shape, SP_F32, zeros), tensor("k", shape, SP_F32, zeros),
                                       tensor("v", shape, SP_F32, zeros)};
    sp_buffer bytes, out;
    sp_error error = {0};
    sp_buffer_init(&bytes, 1 << 20);
    sp_buffer_init(&out, 1 << 20);
    assert_ok(sp_safetensors_write(tensors, 3, NULL, 0, &bytes, &error), error);
    const sp_apply_options options = {0};
    double best = 1e9;
    for (int i = 0; i < 5 && best >= 2; i++) { /* a processor taken from this machine counts as used */
        clock_t start = clock();
        assert_int_equal(sp_apply(device, "case", bytes.data, bytes.size, &options, &out, &error),
                         SP_TOO_LARGE);
        assert_string_equal(error.param, "edges");
        best = fmin(best, (double)(clock() - start) / CLOCKS_PER_SEC);
    }
    assert_true(best < 2);
    sp_buffer_fini(&bytes);
    sp_buffer_fini(&out);
}

static bool stop_soon(void *context)
{
    return --*(int *)context < 0;
}

/* A job ends between two steps once nobody wants it. */
static void test_stop(void **state)
{
    (void)state;
    int steps = 2; /* counting and preparing */
    layer input = basic();
    sp_buffer out;
    sp_error error;
    const sp_apply_options options = {.stop = stop_soon, .stop_context = &steps};
    assert_int_equal(apply(&input, options, &out, &error), SP_CANCELLED);
    assert_int_equal(out.size, 0);
    sp_buffer_fini(&out);
    steps = 100;
    assert_ok(apply(&input, options, &out, &error), error);
    assert_true(steps > 90 && out.size > 0);
    sp_buffer_fini(&out);
}

static int steps_of(const char *attention)
{
    int steps = 1000;
    layer input = {.q = {3, 1, 1024, 4}, .k = {3, 1, 1024, 4}, .v = {3, 1, 1024, 4}, .dtype = SP_F32};
    sp_buffer out;
    sp_error error;
    input.meta[0][0] = "attention", input.meta[0][1] = attention;
    input.meta[1][0] = "edges", input.meta[1][1] = "none";
    assert_ok(apply(&input, (sp_apply_options){.stop = stop_soon, .stop_context = &steps}, &out, &error),
              error);
    sp_buffer_fini(&out);
    return 1000 - steps;
}

/* Solving for an alpha near 1 takes hundreds of times longer a key: fewer rows a step, or streams stand
 * still. */
static void test_costly_rows_make_short_steps(void **state)
{
    (void)state;
    int quick = steps_of("{\"normalizer\":\"entmax15\"}"),
        slow = steps_of("{\"normalizer\":{\"alpha\":1.05}}");
    assert_true(slow >= quick + 2);
}

/* --- outputs against the oracle --- */
typedef struct expectation {
    uint32_t position, valid, valid_q;
    bool causal;
    double scale, alpha;
    bool dense; /* else window 0 with global_first 2 */
} expectation;

static sp_weights *answer(const layer *input, sp_apply_options options, sp_buffer *out)
{
    sp_error error;
    sp_weights *weights;
    assert_ok(apply(input, options, out, &error), error);
    assert_ok(sp_weights_parse("answer", out->data, out->size, &weights, &error), error);
    return weights;
}

/* Steps that should take less do less, and give the same bits. */
static void test_steps_follow_time(void **state)
{
    (void)state;
    layer input = {.q = {3, 1, 1024, 4}, .k = {3, 1, 1024, 4}, .v = {3, 1, 1024, 4}, .dtype = SP_F32};
    input.meta[0][0] = "attention", input.meta[0][1] = "{\"normalizer\":{\"alpha\":1.05}}";
    input.meta[1][0] = "edges", input.meta[1][1] = "none";
    sp_buffer buffers[3];
    sp_weights *answers[3];
    int steps[3];
    const double seconds[3] = {0, 1e9, 1e-5};
    for (int i = 0; i < 3; i++) {
        steps[i] = 10000;
        sp_apply_options options = {.stop = stop_soon, .stop_context = &steps[i], .step_seconds = seconds[i]};
        answers[i] = answer(&input, options, &buffers[i]);
        steps[i] = 10000 - steps[i];
        assert_memory_equal(sp_weights_find(answers[i], "out")->data,
                            sp_weights_find(answers[0], "out")->data, 1024 * 4 * sizeof(float));
    }
    assert_true(steps[2] >= 20 * steps[0] && steps[1] <= 2 * steps[0]);
    for (int i = 0; i < 3; i++) {
        sp_weights_close(answers[i]);
        sp_buffer_fini(&buffers[i]);
    }
}

static void check_output(const layer *input, const expectation *want, sp_apply_options options)
{
    sp_buffer buffer;
    sp_weights *got = answer(input, options, &buffer);
    size_t heads = input->q[1], n = input->q[2], d = input->q[3], kv = input->k[1], m = input->k[2],
           dv = input->v[3];
    const float *out = sp_weights_find(got, "out")->data;
    const uint32_t *indptr = sp_weights_find(got, "indptr")->data,
                   *base = sp_weights_find(got, "edge_base")->data;
    const uint32_t *indices = sp_weights_find(got, "indices")->data;
    const float *weights = sp_weights_find(got, "weights")->data;
    for (size_t h = 0; h < heads; h++) {
        size_t kv_head = h / (heads / kv);
        for (size_t i = 0; i < n; i++) {
            uint8_t mask[256] = {0};
            size_t edges = 0, from = base[h] + indptr[h * (n + 1) + i];
            double expected[64], sum = 0;
            for (size_t j = 0; j < want->valid && i < want->valid_q; j++) {
                bool allowed = !want->causal || j <= want->position + i;
                mask[j] = allowed && (want->dense || j < 2 || want->position + i < 2);
                if (mask[j])
                    assert_int_equal(indices[from + edges], j), sum += (double)weights[from + edges++];
            }
            assert_int_equal(indptr[h * (n + 1) + i + 1] - indptr[h * (n + 1) + i], edges);
            assert_true(edges == 0 || fabs(sum - 1) < 1e-6);
            const oracle_head head = {.q = q_data + (h * n + i) * d,
                                      .k = k_data + kv_head * m * d,
                                      .v = v_data + kv_head * m * dv,
                                      .d = d,
                                      .dv = dv,
                                      .k_stride = d,
                                      .v_stride = dv,
                                      .n = m,
                                      .scale = want->scale,
                                      .alpha = want->alpha};
            oracle_attend(&head, mask, expected);
            for (size_t c = 0; c < dv; c++) {
                assert_true(fabs(expected[c] - (double)out[(h * n + i) * dv + c]) < 2e-5);
            }
        }
    }
    sp_weights_close(got);
    sp_buffer_fini(&buffer);
}

static void test_outputs(void **state)
{
    (void)state;
    static const char two[] =
        "{\"backend\":\"window\",\"params\":{\"window\":0,\"global_first\":2},\"normalizer\":"
        "\"entmax15\"}";
    double root = 1 / sqrt(8.0);
    layer input = basic();
    check_output(&input, &(expectation){0, 10, 10, false, root, 1, true}, (sp_apply_options){0});
    input.dtype = SP_BF16;
    check_output(&input, &(expectation){0, 10, 10, false, root, 1, true}, (sp_apply_options){0});
    input.dtype = SP_F32;
    /* padding: two keys and, in a self-attention, the queries at their positions */
    input.meta[0][0] = "valid", input.meta[0][1] = "8";
    check_output(&input, &(expectation){0, 8, 8, false, root, 1, true}, (sp_apply_options){0});
    input.meta[1][0] = "valid_q", input.meta[1][1] = "9";
    check_output(&input, &(expectation){0, 8, 9, false, root, 1, true}, (sp_apply_options){0});
    input.meta[0][1] = "0", input.meta[1][1] = "10";
    check_output(&input, &(expectation){0, 0, 10, false, root, 1, true}, (sp_apply_options){0});
    input.meta[1][1] = "0";
    check_output(&input, &(expectation){0, 0, 0, false, root, 1, true}, (sp_apply_options){0});

    /* causal with more keys than queries: the queries are the last positions */
    input = (layer){.q = {3, 2, 5, 8}, .k = {3, 2, 70, 8}, .v = {3, 2, 70, 3}};
    input.meta[0][0] = "causal", input.meta[0][1] = "true";
    check_output(&input, &(expectation){65, 70, 5, true, root, 1, true}, (sp_apply_options){0});
    input.meta[1][0] = "offset", input.meta[1][1] = "3";
    input.meta[2][0] = "scale", input.meta[2][1] = "-0.5";
    check_output(&input, &(expectation){3, 70, 5, true, -0.5, 1, true}, (sp_apply_options){0});
    input.meta[3][0] = "attention", input.meta[3][1] = two;
    check_output(&input, &(expectation){3, 70, 5, true, -0.5, 1.5, false},
                 (sp_apply_options){.metrics = true});

    /* cross: every query is valid whatever the keys */
    input = (layer){.q = {3, 2, 20, 8}, .k = {3, 1, 4, 8}, .v = {3, 1, 4, 8}};
    input.meta[0][0] = "kind", input.meta[0][1] = "cross";
    input.meta[1][0] = "attention", input.meta[1][1] = two;
    check_output(&input, &(expectation){0, 4, 20, false, root, 1.5, false},
                 (sp_apply_options){.metrics = true});
}

static void test_without_edges(void **state)
{
    (void)state;
    layer input = basic();
    sp_buffer buffer;
    input.meta[0][0] = "edges", input.meta[0][1] = "none";
    input.meta[1][0] = "attention";
    input.meta[1][1] =
        "{\"backend\":\"strided\",\"params\":{\"stride\":3},\"normalizer\":\"sparsemax\",\"measure\":true}";
    sp_weights *got = answer(&input, (sp_apply_options){.metrics = true}, &buffer);
    assert_int_equal(sp_weights_count(got), 1);
    const char *report = sp_weights_metadata(got, "report"), *metrics = sp_weights_metadata(got, "metrics");
    /* n 10, l 3, both ways: local 10 + 2 (9 + 8) = 44, columns off it 2 (7 + 4 + 1) = 24; two heads */
    assert_non_null(
        strstr(report, "\"prefill\":{\"tokens\":10,\"edges\":136,\"pairs\":200,\"density\":0.68,"));
    assert_non_null(strstr(report, "\"heads\":[{\"layer\":0,\"head\":0,\"edges_gold\":"));
    assert_non_null(strstr(metrics, "\"edges_pred\":68,"));
    assert_non_null(strstr(metrics, "\"pairs_valid\":100,\"rows_valid\":10,"));
    sp_weights_close(got);
    sp_buffer_fini(&buffer);
}

/* More rows than one chunk, at an offset that is no multiple of 64: equal to rows asked for alone. */
static void test_chunks(void **state)
{
    (void)state;
    enum { N = 2100 };
    layer input = {.q = {3, 1, N, 1}, .k = {3, 1, N + 37, 1}, .v = {3, 1, N + 37, 1}};
    input.meta[0][0] = "causal", input.meta[0][1] = "true";
    input.meta[1][0] = "attention";
    input.meta[1][1] = "{\"backend\":\"strided\",\"params\":{\"stride\":40},\"normalizer\":\"entmax15\"}";
    sp_buffer buffer;
    sp_weights *got = answer(&input, (sp_apply_options){0}, &buffer);
    const uint32_t *indptr = sp_weights_find(got, "indptr")->data,
                   *indices = sp_weights_find(got, "indices")->data;
    const float *out = sp_weights_find(got, "out")->data;
    for (size_t i = 0; i < N; i++) {
        static uint8_t mask[N + 37];
        double expected[1];
        size_t at = indptr[i], query = i + 37;
        for (size_t j = 0; j < N + 37; j++) {
            mask[j] = j <= query && (query - j < 40 || (query - j) % 40 == 0);
            if (mask[j]) assert_int_equal(indices[at++], j);
        }
        assert_int_equal(at, indptr[i + 1]);
        const oracle_head head = {.q = q_data + i,
                                  .k = k_data,
                                  .v = v_data,
                                  .d = 1,
                                  .dv = 1,
                                  .k_stride = 1,
                                  .v_stride = 1,
                                  .n = N + 37,
                                  .scale = 1,
                                  .alpha = 1.5};
        if (i % 50) continue;
        oracle_attend(&head, mask, expected);
        assert_true(fabs(expected[0] - (double)out[i]) < 2e-5);
    }
    sp_weights_close(got);
    sp_buffer_fini(&buffer);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_refusals),
    cmocka_unit_test(test_bad_tensors),
    cmocka_unit_test(test_edge_limit),
    cmocka_unit_test(test_stop),
    cmocka_unit_test(test_costly_rows_make_short_steps),
    cmocka_unit_test(test_steps_follow_time),
    cmocka_unit_test(test_outputs),
    cmocka_unit_test(test_without_edges),
    cmocka_unit_test(test_chunks),
};

int main(void)
{
    sp_error error;
    const sp_device_options options = {.n_threads = 2};
    fill_data();
    if (sp_device_open("cpu", &options, &device, &error)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed ? 1 : 0;
}
