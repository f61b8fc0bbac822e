/* What a fit means to the parameters of sparsefinder and routing: defaults, what is absent refused with the
 * sizes present, parameters of other groupings refused, notes. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "tests/support/random_fit.h"
#include "engine/attention/attention.h"

static const sp_fit *the_fit; /* dot, cluster9, block 7 and 16; centroids 7 and 5, bins 6, thresholds, .90 */

static sp_status resolve(const char *json, const sp_fit *fit, sp_attend_kind kind, sp_attention *out,
                         sp_error *error)
{
    const sp_attention_host host = {.n_heads = 4, .model_normalizer = {.alpha = 1.5f}};
    *error = (sp_error){0};
    sp_status status = sp_attention_parse(json, strlen(json), &host, out, error);
    return status ? status : sp_attention_resolve(out, fit, 0, 1, kind, error);
}

/* The parameters as the report writes them hold every text. */
static void holds(const char *json, const sp_fit *fit, sp_attend_kind kind, const char *const *texts)
{
    sp_attention attention;
    sp_error error;
    sp_buffer out;
    sp_json_writer writer;
    assert_ok(resolve(json, fit, kind, &attention, &error), error);
    const sp_attention_report report = {.attention = attention, .device = "cpu"};
    sp_buffer_init(&out, 1 << 16);
    sp_json_writer_init(&writer, &out);
    sp_attention_report_write(&report, &writer);
    sp_buffer_append(&out, "", 1);
    for (; *texts; texts++)
        if (!strstr(out.data, *texts)) fail_msg("%s: no %s in %s", json, *texts, out.data);
    sp_buffer_fini(&out);
}
#define HOLDS(json, fit, kind, ...) holds(json, fit, kind, (const char *const[]){__VA_ARGS__, NULL})

static void refused(const char *json, const char *param, const char *word)
{
    sp_attention attention;
    sp_error error;
    sp_status status = resolve(json, the_fit, SP_ATTEND_SELF, &attention, &error);
    if (status != SP_INVALID || strcmp(error.param, param) != 0 || !strstr(error.message, word))
        fail_msg("%s: %s, param '%s', message '%s'", json, sp_status_name(status), error.param,
                 error.message);
}

#define FINDER(text) "{\"backend\":\"sparsefinder\",\"params\":{" text "}}"

static void test_defaults(void **state)
{
    (void)state;
    HOLDS("\"sparsefinder\"", the_fit, SP_ATTEND_SELF, "\"grouping\":\"distance\"", "\"metric\":\"dot\"",
          "\"threshold\":null", "\"keep\":null", "\"window\":33", "\"global_first\":1", "\"global_last\":0",
          "\"buckets\":null");
    HOLDS("\"sparsefinder\"", the_fit, SP_ATTEND_CROSS, "\"window\":0");
    HOLDS(FINDER("\"grouping\":\"bucket\""), the_fit, SP_ATTEND_SELF, "\"bins\":\"frozen\"", "\"buckets\":6",
          "\"temperature\":null");
    HOLDS(FINDER("\"grouping\":\"bucket\",\"bins\":\"fixed\""), the_fit, SP_ATTEND_SELF, "\"temperature\":1");
    HOLDS(FINDER("\"grouping\":\"cluster\""), the_fit, SP_ATTEND_SELF, "\"clusters\":7", "\"top\":2",
          "\"runs\":1");
    HOLDS(FINDER("\"grouping\":\"block\",\"block\":16"), the_fit, SP_ATTEND_SELF, "\"select\":\"token\"",
          "\"keep\":16", "\"window\":3", "\"clusters\":6");
    HOLDS("\"routing\"", the_fit, SP_ATTEND_SELF, "\"clusters\":7", "\"window\":3", "\"global_first\":1");
    HOLDS(FINDER("\"threshold\":-2.5"), the_fit, SP_ATTEND_SELF, "\"threshold\":-2.5");
}

/* Without a dot set the default is cluster, and l2 with the default maps. */
static void test_without_dot(void **state)
{
    (void)state;
    sp_fit fit = *the_fit;
    sp_fit_layer layers[2] = {{.sets = the_fit->layers[0].sets, .n_sets = 1}};
    fit.layers = layers;
    HOLDS("\"sparsefinder\"", &fit, SP_ATTEND_SELF, "\"grouping\":\"cluster\"", "\"clusters\":7");
    HOLDS(FINDER("\"grouping\":\"distance\""), &fit, SP_ATTEND_SELF, "\"metric\":\"l2\"");
    HOLDS(FINDER("\"grouping\":\"distance\",\"metric\":\"dot\",\"keep\":3"), &fit, SP_ATTEND_SELF,
          "\"metric\":\"dot\"");
}

static void test_absent(void **state)
{
    (void)state;
    refused(FINDER("\"recall\":0.85"), "attention.params.recall", "90");
    refused(FINDER("\"grouping\":\"cluster\",\"clusters\":32"), "attention.params.clusters", "7, 5, 9");
    refused(FINDER("\"grouping\":\"cluster\",\"runs\":3"), "attention.params.runs", "2 k-means runs");
    refused(FINDER("\"grouping\":\"bucket\",\"buckets\":16"), "attention.params.buckets", "it has 6");
    refused(FINDER("\"grouping\":\"block\""), "attention.params.block", "7, 16");
    refused(FINDER("\"grouping\":\"block\",\"block\":7,\"clusters\":8"), "attention.params.clusters", "6");
    refused("{\"backend\":\"routing\",\"params\":{\"clusters\":8}}", "attention.params.clusters", "7, 5");
    sp_attention attention;
    sp_error error;
    assert_int_equal(resolve("\"sparsefinder\"", NULL, SP_ATTEND_SELF, &attention, &error), SP_INVALID);
    assert_non_null(strstr(error.message, "--fit"));
    assert_int_equal(resolve("\"routing\"", NULL, SP_ATTEND_SELF, &attention, &error), SP_INVALID);
    assert_int_equal(resolve("\"dense\"", NULL, SP_ATTEND_SELF, &attention, &error), SP_OK);
}

static void test_refused_values(void **state)
{
    (void)state;
    refused(FINDER("\"threshold\":1,\"keep\":2"), "attention.params.keep", "at most one");
    refused(FINDER("\"threshold\":1,\"recall\":0.9"), "attention.params.recall", "at most one");
    refused(FINDER("\"keep\":0"), "attention.params.keep", "from 1 to 1048576");
    refused(FINDER("\"recall\":0.7"), "attention.params.recall", "from 0.8 to 0.99");
    refused(FINDER("\"metric\":\"l1\""), "attention.params.metric", "l2, euclidean, cosine or dot");
    refused(FINDER("\"metric\":2"), "attention.params.metric", "l2");
    refused(FINDER("\"threshold\":\"1\""), "attention.params.threshold", "a number");
    refused(FINDER("\"top\":5"), "attention.params.top", "from 1 to 4");
    refused(FINDER("\"window\":4"), "attention.params.window", "odd");
    refused(FINDER("\"clusters\":7"), "attention.params.clusters", "grouping distance");
    refused(FINDER("\"grouping\":\"cluster\",\"keep\":7"), "attention.params.keep", "grouping cluster");
    refused(FINDER("\"radius\":7"), "attention.params.radius", "unknown");
}

static void test_notes(void **state)
{
    (void)state;
    HOLDS("{\"backend\":\"sparsefinder\",\"normalizer\":\"sparsemax\"}", the_fit, SP_ATTEND_SELF,
          "\"notes\":[\"the fit was made for alpha 1.5\"]");
    HOLDS("\"sparsefinder\"", the_fit, SP_ATTEND_SELF, "\"notes\":[]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_without_dot),
                                       cmocka_unit_test(test_absent), cmocka_unit_test(test_refused_values),
                                       cmocka_unit_test(test_notes)};
    sp_fit *fit = test_fit_new(4, 2, 8, false, 5);
    the_fit = fit;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_fit_close(fit);
    return failed ? 1 : 0;
}
