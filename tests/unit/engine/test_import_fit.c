/* Saves of the published code into fits. The fixtures of tests/golden/import were spelled opcode by opcode by
 * tests/support/make_import_corpus.py; the values expected here are computed by its formula,
 * value i of a tensor that begins at b = ((b + 7 i) mod 129) / 64 - 1. */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "engine/sparsefinder/import_fit.h"

enum { HEADS = 2, DIM = 4, RANK = 2, LAYERS = 2, CLUSTERS = 3, BLOCK = 2 };

#define FIXTURES SPARSED_ROOT "/tests/golden/import/"
#define CORPUS SPARSED_ROOT "/tests/fuzz/corpus/fuzz_import/"

static const sp_import_options any = {.alpha = 1.5};

static void assert_values(const float *values, size_t n, unsigned begin)
{
    for (unsigned i = 0; i < n; i++)
        assert_float_equal(values[i], (double)((begin + 7 * i) % 129) / 64 - 1, 0);
}

static sp_status import(const char *projections, const char *centroids, const sp_import_options *options,
                        sp_fit **fit, sp_error *error)
{
    sp_torch_file files[2] = {{0}};
    sp_status status = sp_torch_open(projections, &files[0], error);
    if (!status && centroids) status = sp_torch_open(centroids, &files[1], error);
    if (!status) status = sp_fit_import(&files[0], centroids ? &files[1] : NULL, options, fit, error);
    sp_torch_close(&files[0]);
    sp_torch_close(&files[1]);
    return status;
}

static void test_projections(void **state)
{
    (void)state;
    sp_fit *fit = NULL;
    sp_error error = {0};
    assert_ok(import(FIXTURES "projections.pt", NULL, &any, &fit, &error), error);
    assert_int_equal(fit->n_layers, LAYERS);
    assert_int_equal(fit->n_heads, HEADS);
    assert_int_equal(fit->head_dim, DIM);
    assert_float_equal(fit->alpha, 1.5, 0);
    assert_string_equal(fit->model, "");
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        assert_int_equal(fit->layers[2 * layer].n_sets, 1);
        assert_int_equal(fit->layers[2 * layer + 1].n_sets, 0);
        const sp_fit_set *set = &fit->layers[2 * layer].sets[0];
        assert_int_equal(set->type, SP_FIT_DEFAULT);
        assert_int_equal(set->rank, RANK);
        assert_int_equal(set->n_k_maps, HEADS);
        assert_false(set->shared);
        assert_int_equal(set->n_centroids, 0);
        assert_values(set->q_weight, HEADS * DIM * RANK, 10 * layer);
        assert_values(set->q_bias, HEADS * RANK, 10 * layer + 3);
        assert_values(set->k_weight, HEADS * DIM * RANK, 10 * layer + 5);
        assert_values(set->k_bias, HEADS * RANK, 10 * layer + 8);
    }
    sp_fit_close(fit);
}

static void test_shared_and_types(void **state)
{
    (void)state;
    static const char *const names[] = {FIXTURES "shared.pt", FIXTURES "half.pt"};
    for (size_t i = 0; i < COUNT_OF(names); i++) { /* equal values, in float32, or in float16 and float64 */
        sp_fit *fit = NULL;
        sp_error error = {0};
        assert_ok(import(names[i], NULL, &any, &fit, &error), error);
        assert_true(fit->layers[0].sets[0].shared);
        assert_values(fit->layers[2].sets[0].k_weight, HEADS * DIM * RANK, 1);
        sp_fit_close(fit);
    }
}

static void test_centroids(void **state)
{
    (void)state;
    sp_fit *fit = NULL;
    sp_error error = {0};
    assert_ok(import(FIXTURES "projections.pt", FIXTURES "centroids.pickle", &any, &fit, &error), error);
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        const sp_fit_set *set = &fit->layers[2 * layer].sets[0];
        assert_int_equal(fit->layers[2 * layer].n_sets, 1);
        assert_int_equal(set->n_centroids, 1);
        assert_int_equal(set->centroids[0].size, CLUSTERS);
        assert_int_equal(set->centroids[0].runs, 1);
        assert_values(set->centroids[0].values, HEADS * CLUSTERS * RANK, 40 + layer);
    }
    sp_fit_close(fit);
}

static void test_blocks(void **state)
{
    (void)state;
    sp_fit *fit = NULL;
    sp_error error = {0};
    assert_ok(import(FIXTURES "projections.pt", FIXTURES "blocks.pt", &any, &fit, &error), error);
    const sp_fit_layer *layer = &fit->layers[2];
    assert_int_equal(layer->n_sets, 2);
    assert_int_equal(layer->sets[0].n_centroids, 0);
    const sp_fit_set *set = &layer->sets[1];
    assert_int_equal(set->type, SP_FIT_BLOCK);
    assert_int_equal(set->size, BLOCK);
    assert_int_equal(set->rank, RANK);
    assert_values(set->k_weight, HEADS * DIM * RANK, 15);
    assert_values(set->centroids[0].values, HEADS * CLUSTERS * BLOCK * RANK, 41);
    sp_fit_close(fit);
}

static void refused(const char *projections, const char *centroids, const sp_import_options *options,
                    sp_status wanted, const char *words)
{
    sp_fit *fit = NULL;
    sp_error error = {0};
    sp_status status = import(projections, centroids, options, &fit, &error);
    if (status != wanted || !strstr(error.message, words))
        fail_msg("%s: %s: %s", projections, sp_status_name(status), error.message);
}

static void test_refusals(void **state)
{
    (void)state;
    refused(FIXTURES "mlp.pt", NULL, &any, SP_UNSUPPORTED, "layer 0, q is an MLP");
    refused(FIXTURES "absent.pt", NULL, &any, SP_NOT_FOUND, "absent.pt");
    refused(FIXTURES "centroids.pickle", NULL, &any, SP_DATA, "layer 0 has no dictionary \"q\"");
    refused(FIXTURES "projections.pt", FIXTURES "projections.pt", &any, SP_DATA,
            "layer 0 is no tensor of 4 dimensions");
    refused(FIXTURES "projections.pt", CORPUS "itself", &any, SP_DATA, "no list of 2 layers");
    refused(FIXTURES "projections.pt", NULL, &(sp_import_options){.alpha = 1.5, .layers = 12}, SP_DATA,
            "are of 2 layers, expected are 12");
    refused(FIXTURES "projections.pt", NULL, &(sp_import_options){.alpha = 1.5, .heads = 8}, SP_DATA,
            "are of 2 heads, expected are 8");
    refused(FIXTURES "projections.pt", NULL, &(sp_import_options){.alpha = 1.5, .head_dim = 64}, SP_DATA,
            "are of 4 numbers a head, expected are 64");
}

/* Each refusal by the words that name it. */
static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
    } cases[] = {
        {"os-system", "the name os.system is not accepted"},
        {"posix-system", "posix.system"},
        {"builtins-eval", "builtins.eval"},
        {"torch-load", "torch.serialization.load"},
        {"numpy", "numpy.core.multiarray._reconstruct"},
        {"dict-of-call", "OrderedDict with arguments"},
        {"storage-called", "a call of a storage class"},
        {"build-on-list", "attributes of something that is no dictionary"},
        {"instance", "opcode 0x69"},
        {"object", "os.system"},
        {"newobj", "opcode 0x81"},
        {"extension", "opcode 0x82"},
        {"text-integer", "opcode 0x49"},
        {"protocol-9", "a protocol other than 2 to 5"},
        {"empty-stack", "ends with other than one value"},
        {"two-values", "ends with other than one value"},
        {"open-mark", "ends with other than one value"},
        {"no-mark", "no mark was set"},
        {"marks", "more marks at once"},
        {"deep", "more values at once"},
        {"no-memo", "never remembered"},
        {"memo-beyond", "more remembered values"},
        {"odd-pairs", "no dictionary"},
        {"append-to-dict", "no list"},
        {"long-text", "cut short"},
        {"not-utf8", "not UTF-8"},
        {"long-integer", "more than 64 bits"},
        {"outside", "outside of its storage"},
        {"negative-offset", "outside of its storage"},
        {"huge-stride", "outside of its storage"},
        {"rank-5", "more than 4 dimensions"},
        {"nan", "element 0 of layer 0, q, w is not finite"},
        {"compressed", "is compressed"},
        {"encrypted", "is encrypted"},
        {"local-name", "another name in its own header"},
        {"directory-beyond", "contradicts itself"},
        {"cut-half", "no zip archive"},
        {"cut-end", "no zip archive"},
        {"no-directory", "contradicts itself"},
        {"checksum", "the checksum of data.pkl"},
        {"legacy", "no zip archive"},
        {"empty", "no zip archive"},
        {"plain-pickle", "no zip archive"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s%s", CORPUS, cases[i].name);
        refused(path, NULL, &any, SP_DATA, cases[i].words);
    }
}

/* Every file of the corpus, cut at every length: refused, never more. */
static void test_truncated(void **state)
{
    (void)state;
    char *bytes;
    size_t size;
    sp_error error = {0};
    assert_ok(sp_read_file(FIXTURES "projections.pt", 1 << 20, &bytes, &size, &error), error);
    for (size_t n = 0; n < size; n++) {
        sp_torch_file file;
        char *cut = sp_alloc(n > 0 ? n : 1, 1);
        memcpy(cut, bytes, n);
        assert_int_equal(sp_torch_parse("cut.pt", cut, n, &file, &error), SP_DATA);
        sp_torch_close(&file);
        sp_free(cut);
    }
    sp_free(bytes);
}

static void test_other_forms(void **state)
{
    (void)state;
    sp_torch_file file;
    sp_error error = {0};
    assert_ok(sp_torch_open(CORPUS "protocol-4", &file, &error), error);
    assert_float_equal(sp_value_find(file.root, "a")->number, 1.5, 0);
    assert_int_equal(sp_value_find(file.root, "b")->type, SP_VALUE_NONE);
    assert_null(sp_value_find(file.root, "c"));
    sp_torch_close(&file);
    assert_ok(sp_torch_open(CORPUS "parameter", &file, &error), error);
    assert_int_equal(file.root->type, SP_VALUE_TENSOR);
    sp_torch_close(&file);
    assert_ok(sp_torch_open(CORPUS "comment", &file, &error), error);
    assert_int_equal(file.root->n, LAYERS);
    sp_torch_close(&file);
    float out[2];
    assert_ok(sp_torch_open(CORPUS "bool", &file, &error), error);
    assert_int_equal(sp_torch_floats(&file, file.root->tensor, "it", out, &error), SP_DATA);
    assert_non_null(strstr(error.message, "it has type BOOL"));
    sp_torch_close(&file);
    assert_ok(sp_torch_open(CORPUS "storage-lies", &file, &error), error);
    assert_int_equal(sp_torch_floats(&file, file.root->tensor, "it", out, &error), SP_DATA);
    assert_non_null(strstr(error.message, "the storage data/0 has 8 bytes"));
    sp_torch_close(&file);
    assert_ok(sp_torch_open(CORPUS "repeats", &file, &error), error);
    size_t n;
    assert_false(sp_torch_count(file.root->tensor, &n)); /* 2^90 */
    sp_torch_close(&file);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_projections), cmocka_unit_test(test_shared_and_types),
    cmocka_unit_test(test_centroids),   cmocka_unit_test(test_blocks),
    cmocka_unit_test(test_refusals),    cmocka_unit_test(test_hostile),
    cmocka_unit_test(test_truncated),   cmocka_unit_test(test_other_forms),
};
TEST_MAIN(tests)
