/* sp_apply on the cases of tests/golden/attend, whose answers come from an independent float64 reference:
 * edges equal, `out` within 2e-5 of its largest value, weights within 2e-5, metrics equal with the slack that
 * float32 is allowed (2 a head for gold edges). An argument names another folder of cases. */
#include "tests/support/test.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/apply.h"
#include "kernels/json.h"
#include "models/weights.h"

static const char *folder = SPARSED_ROOT "/tests/golden/attend";
static sp_device *device;

/* An expected or computed answer; text or buffer hold its bytes. */
typedef struct answer {
    char *text;
    sp_buffer buffer;
    sp_weights *weights;
} answer;

static const sp_tensor *tensor_of(const answer *a, const char *name)
{
    const sp_tensor *tensor = sp_weights_find(a->weights, name);
    if (!tensor) fail_msg("tensor %s is missing", name);
    return tensor;
}

/* --- metrics --- */
static const char *const counts[] = {"edges_gold", "edges_pred", "edges_both", "pairs_valid",
                                     "rows_valid", "rows_exact", "rows_empty"};
static const int slack[] = {2, 0, 2, 0, 0, 2, 0};
static const char *const ratios[] = {"recall", "precision", "sparsity", "sparsity_gold"};

typedef struct head_metrics {
    int64_t counts[COUNT_OF(counts)];
    double ratios[COUNT_OF(ratios)]; /* NaN: null */
    size_t n_members;
} head_metrics;

static void read_member(sp_json *json, head_metrics *out)
{
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        if (!sp_json_is(json, counts[i])) continue;
        assert_int_equal(sp_json_next(json), SP_JSON_NUMBER);
        assert_true(sp_json_int64(json, &out->counts[i]));
        return;
    }
    for (size_t i = 0; i < COUNT_OF(ratios); i++) {
        if (!sp_json_is(json, ratios[i])) continue;
        out->ratios[i] = sp_json_next(json) == SP_JSON_NULL ? NAN : sp_json_double(json);
        return;
    }
    fail_msg("unknown metric %.*s", (int)json->raw_size, json->raw);
}

static size_t read_metrics(const char *text, head_metrics *out, size_t capacity)
{
    sp_json json;
    sp_error error;
    size_t n = 0;
    assert_ok(sp_json_validate(text, strlen(text), &error), error);
    sp_json_init(&json, text, strlen(text));
    assert_int_equal(sp_json_next(&json), SP_JSON_ARRAY);
    while (sp_json_next(&json) == SP_JSON_OBJECT) {
        assert_true(n < capacity);
        out[n] = (head_metrics){0};
        while (sp_json_next(&json) == SP_JSON_KEY) {
            read_member(&json, &out[n]);
            out[n].n_members++;
        }
        n++;
    }
    return n;
}

static void check_ratio(double ratio, double a, double b)
{
    if (b == 0)
        assert_true(isnan(ratio));
    else
        assert_true(fabs(ratio - a / b) < 1e-12);
}

static void check_metrics(const char *expected_text, const char *text)
{
    static head_metrics expected[64], got[64];
    assert_non_null(text);
    size_t n = read_metrics(expected_text, expected, COUNT_OF(expected));
    assert_int_equal(read_metrics(text, got, COUNT_OF(got)), n);
    for (size_t h = 0; h < n; h++) {
        const int64_t *c = got[h].counts;
        assert_int_equal(got[h].n_members, COUNT_OF(counts) + COUNT_OF(ratios));
        for (size_t i = 0; i < COUNT_OF(counts); i++) {
            if (llabs(c[i] - expected[h].counts[i]) > slack[i]) {
                fail_msg("head %zu: %s is %lld, not %lld", h, counts[i], (long long)c[i],
                         (long long)expected[h].counts[i]);
            }
        }
        check_ratio(got[h].ratios[0], (double)c[2], (double)c[0]);
        check_ratio(got[h].ratios[1], (double)c[2], (double)c[1]);
        check_ratio(got[h].ratios[2], (double)(c[3] - c[1]), (double)c[3]);
        check_ratio(got[h].ratios[3], (double)(c[3] - c[0]), (double)c[3]);
    }
}

/* --- tensors --- */
static void check_equal(const answer *expected, const answer *got, const char *name)
{
    const sp_tensor *a = tensor_of(expected, name), *b = tensor_of(got, name);
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->rank, b->rank);
    for (uint32_t i = 0; i < a->rank; i++) assert_int_equal(a->shape[i], b->shape[i]);
    if (memcmp(a->data, b->data, a->bytes) != 0) fail_msg("%s differs", name);
}

/* Largest absolute difference over the largest absolute expected value. */
static double difference(const answer *expected, const answer *got, const char *name)
{
    const sp_tensor *a = tensor_of(expected, name), *b = tensor_of(got, name);
    const float *x = a->data, *y = b->data;
    double worst = 0, largest = 1e-30;
    assert_int_equal(a->bytes, b->bytes);
    for (size_t i = 0; i < sp_tensor_count(a); i++) {
        double distance = fabs((double)x[i] - (double)y[i]);
        if (!(distance <= worst)) worst = distance;
        if (fabs((double)x[i]) > largest) largest = fabs((double)x[i]);
    }
    return worst / largest;
}

static bool is_softmax(const answer *got)
{
    const char *report = sp_weights_metadata(got->weights, "report");
    assert_non_null(report);
    return strstr(report, "\"normalizer\":\"softmax\"") != NULL;
}

static answer load(const char *name, const char *suffix)
{
    answer a = {0};
    char path[1024];
    size_t size;
    sp_error error;
    assert_true((size_t)snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix) < sizeof path);
    assert_ok(sp_read_file(path, (size_t)1 << 30, &a.text, &size, &error), error);
    assert_ok(sp_weights_parse(path, a.text, size, &a.weights, &error), error);
    a.buffer.size = size;
    return a;
}

/* NULL where the case has none. */
static sp_fit *load_fit(const char *name)
{
    char path[1024], *text;
    size_t size;
    sp_error error;
    sp_fit *fit;
    assert_true((size_t)snprintf(path, sizeof path, "%s/%s.fit.safetensors", folder, name) < sizeof path);
    if (sp_read_file(path, (size_t)1 << 30, &text, &size, &error) != SP_OK) return NULL;
    assert_ok(sp_fit_read(path, text, size, true, &fit, &error), error);
    sp_free(text);
    return fit;
}

static void run_case(const char *name)
{
    sp_error error;
    answer input = load(name, ".in.safetensors"), expected = load(name, ".out.safetensors"), got = {0};
    const char *metrics = sp_weights_metadata(expected.weights, "metrics");
    const char *attention = sp_weights_metadata(input.weights, "attention");
    sp_fit *fit = load_fit(name);
    const sp_apply_options options = {.metrics = !strstr(attention, "softmax"), .fit = fit};
    sp_buffer_init(&got.buffer, (size_t)1 << 30);
    assert_ok(sp_apply(device, name, input.text, input.buffer.size, &options, &got.buffer, &error), error);
    assert_ok(sp_weights_parse("answer", got.buffer.data, got.buffer.size, &got.weights, &error), error);
    check_equal(&expected, &got, "indptr");
    check_equal(&expected, &got, "edge_base");
    check_equal(&expected, &got, "indices");
    double out_error = difference(&expected, &got, "out"),
           weight_error = difference(&expected, &got, "weights");
    printf("%-28s out %.1e weights %.1e\n", name, out_error, weight_error);
    if (!(out_error <= 2e-5 && weight_error <= 2e-5))
        fail_msg("%s: out %g, weights %g", name, out_error, weight_error);
    if (options.metrics) {
        assert_non_null(metrics);
        check_metrics(metrics, sp_weights_metadata(got.weights, "metrics"));
    } else {
        assert_true(is_softmax(&got));
    }
    sp_weights_close(input.weights);
    sp_weights_close(expected.weights);
    sp_weights_close(got.weights);
    sp_free(input.text);
    sp_free(expected.text);
    sp_buffer_fini(&got.buffer);
    sp_fit_close(fit);
}

/* All but the cases of backends that do not exist here. */
static int is_case(const struct dirent *item)
{
    static const char *const others[] = {"lsh", "bigbird", "pages", "xattention"};
    const char *dash = strchr(item->d_name, '-');
    for (size_t i = 0; dash && i < COUNT_OF(others); i++)
        if (strncmp(dash + 1, others[i], strlen(others[i])) == 0) return 0;
    return dash && strstr(item->d_name, ".in.safetensors");
}

static void test_cases(void **state)
{
    (void)state;
    struct dirent **items = NULL;
    int n = scandir(folder, &items, is_case, alphasort);
    assert_true(n >= 50);
    for (int i = 0; i < n; i++) {
        *strstr(items[i]->d_name, ".in.safetensors") = 0;
        run_case(items[i]->d_name);
        free(items[i]);
    }
    free(items);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};

int main(int argc, char **argv)
{
    sp_error error;
    const sp_device_options options = {.n_threads = 2};
    if (argc > 1) folder = argv[1];
    if (sp_device_open("cpu", &options, &device, &error)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_device_close(device);
    return failed ? 1 : 0;
}
