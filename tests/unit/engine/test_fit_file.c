/* The fit file: what is written is read back with the same bytes, hand-made files are read as their layout
 * says, and every fault is refused with what is wrong. Files are made here by sp_safetensors_write, apart
 * from sp_fit_write. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/sparsefinder/fit.h"
#include "models/weights.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* A file being made: 2 layers alike, 4 heads, d 3. Tensors 0 to 17 are layer 1's self and layer 0's cross. */
typedef struct maker {
    sp_tensor_entry tensors[48];
    sp_metadata_entry metadata[16];
    size_t n_tensors, n_metadata;
    float values[4096];
    char names[18][64];
} maker;

static void put(maker *m, const char *name, uint32_t rank, size_t a, size_t b, size_t c, size_t d)
{
    m->tensors[m->n_tensors++] = (sp_tensor_entry){name,
                                                   {.dtype = SP_F32,
                                                    .rank = rank,
                                                    .shape = {a, b, c, d},
                                                    .data = m->values,
                                                    .bytes = a * b * c * d * 4}};
}

static void say(maker *m, const char *key, const char *value)
{
    for (size_t i = 0; i < m->n_metadata; i++)
        if (strcmp(m->metadata[i].key, key) == 0) {
            m->metadata[i].value = value;
            m->metadata[i].size = strlen(value);
            return;
        }
    m->metadata[m->n_metadata++] = (sp_metadata_entry){key, value, strlen(value)};
}

static void make(maker *m)
{
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < sizeof m->values / sizeof *m->values; i++) m->values[i] = (float)i * 0.25f;
    say(m, "format", "sparsed.sparsefinder.v1");
    say(m, "model", DIGEST);
    say(m, "layers", "2");
    say(m, "heads", "4");
    say(m, "d", "3");
    say(m, "r", "2");
    say(m, "alpha", "1.5");
    say(m, "seed", "-7");
    say(m, "rope", "post");
    say(m, "length", "1024");
    put(m, "layers.1.self.q_proj.weight", 3, 4, 3, 2, 1);
    put(m, "layers.1.self.q_proj.bias", 2, 4, 2, 1, 1);
    put(m, "layers.1.self.centroids.16", 4, 4, 1, 16, 2);
    put(m, "layers.1.self.centroids.8", 4, 4, 3, 8, 2);
    put(m, "layers.1.self.centroids", 4, 4, 2, 12, 2);
    put(m, "layers.1.self.bins", 3, 4, 2, 5, 1);
    put(m, "layers.1.self.thresholds.80", 1, 4, 1, 1, 1);
    put(m, "layers.1.self.thresholds", 1, 4, 1, 1, 1);
    put(m, "layers.1.self.dot.q_proj.weight", 3, 4, 3, 5, 1);
    put(m, "layers.1.self.dot.q_proj.bias", 2, 4, 5, 1, 1);
    put(m, "layers.1.self.dot.k_proj.weight", 3, 2, 3, 5, 1);
    put(m, "layers.1.self.dot.k_proj.bias", 2, 2, 5, 1, 1);
    put(m, "layers.1.self.cluster7.q_proj.weight", 3, 4, 3, 6, 1);
    put(m, "layers.1.self.cluster7.q_proj.bias", 2, 4, 6, 1, 1);
    put(m, "layers.1.self.cluster7.centroids", 4, 4, 1, 7, 6);
    put(m, "layers.0.cross.block16.q_proj.weight", 3, 4, 3, 2, 1);
    put(m, "layers.0.cross.block16.q_proj.bias", 2, 4, 2, 1, 1);
    put(m, "layers.0.cross.block16.centroids", 4, 4, 1, 6, 32);
    for (size_t i = 0; i < 18; i++) { /* the same of the other layer */
        m->tensors[m->n_tensors] = m->tensors[i];
        m->tensors[m->n_tensors++].name = m->names[i];
        snprintf(m->names[i], sizeof m->names[i], "%s", m->tensors[i].name);
        m->names[i][7] ^= 1;
    }
}

static sp_status read_made(const maker *m, bool one_layer, sp_fit **out, sp_error *error)
{
    sp_buffer bytes;
    sp_buffer_init(&bytes, (size_t)1 << 20);
    assert_int_equal(
        sp_safetensors_write(m->tensors, m->n_tensors, m->metadata, m->n_metadata, &bytes, error), SP_OK);
    sp_status status = sp_fit_read("made", bytes.data, bytes.size, one_layer, out, error);
    sp_buffer_fini(&bytes);
    return status;
}

static maker shared_maker;

static void test_reads_every_part(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    sp_fit *fit;
    sp_error error = {0};
    make(m);
    assert_int_equal(read_made(m, false, &fit, &error), SP_OK);
    assert_string_equal(fit->model, DIGEST);
    assert_int_equal(fit->n_layers, 2);
    assert_int_equal(fit->n_heads, 4);
    assert_int_equal(fit->head_dim, 3);
    assert_int_equal(fit->length, 1024);
    assert_int_equal(fit->seed, -7);
    assert_true(fit->alpha == 1.5 && !fit->rope_pre);
    assert_non_null(sp_fit_find(fit, 0, SP_ATTEND_SELF, SP_FIT_DEFAULT, 0));
    assert_null(sp_fit_find(fit, 2, SP_ATTEND_SELF, SP_FIT_DEFAULT, 0));
    assert_non_null(sp_fit_find(fit, 0, SP_ATTEND_CROSS, SP_FIT_BLOCK, 16));
    assert_null(sp_fit_find(fit, 0, SP_ATTEND_CROSS, SP_FIT_BLOCK, 32));
    const sp_fit_set *set = sp_fit_find(fit, 1, SP_ATTEND_ENCODER, SP_FIT_DEFAULT, 0);
    assert_non_null(set);
    assert_true(set->shared && set->n_k_maps == 4);
    assert_memory_equal(set->k_weight, set->q_weight, 24 * sizeof(float));
    assert_int_equal(set->n_centroids, 3);
    assert_int_equal(set->centroids[0].size, 12); /* without a size in its name: first */
    assert_int_equal(set->centroids[1].size, 8);
    assert_int_equal(set->centroids[2].size, 16);
    assert_int_equal(sp_fit_table_find(set->centroids, 3, 8)->runs, 3);
    assert_int_equal(sp_fit_table_find(set->centroids, 3, 0)->size, 12);
    assert_null(sp_fit_table_find(set->centroids, 3, 9));
    assert_int_equal(set->bins[0].size, 6);
    assert_int_equal(set->thresholds[0].size, 0);
    assert_int_equal(set->thresholds[1].size, 80);
    set = sp_fit_find(fit, 1, SP_ATTEND_SELF, SP_FIT_DOT, 0);
    assert_true(!set->shared && set->n_k_maps == 2 && set->rank == 5);
    assert_true(set->k_weight[29] == 29 * 0.25f);
    assert_int_equal(sp_fit_find(fit, 1, SP_ATTEND_SELF, SP_FIT_CLUSTER, 7)->centroids[0].size, 7);
    sp_fit_close(fit);
}

static void test_infinite_thresholds(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    sp_fit *fit;
    sp_error error = {0};
    static float values[4] = {INFINITY, -INFINITY, 0, 1};
    make(m);
    m->tensors[7].tensor.data = values;
    assert_int_equal(read_made(m, false, &fit, &error), SP_OK);
    assert_true(isinf(sp_fit_find(fit, 1, SP_ATTEND_SELF, SP_FIT_DEFAULT, 0)->thresholds[0].values[0]));
    sp_fit_close(fit);
    values[0] = NAN;
    assert_int_equal(read_made(m, false, &fit, &error), SP_DATA);
    assert_non_null(strstr(error.message, "thresholds"));
    values[0] = INFINITY;
    static float borders[40] = {INFINITY};
    make(m);
    m->tensors[5].tensor.data = borders;
    assert_int_equal(read_made(m, false, &fit, &error), SP_DATA);
    assert_string_equal(error.param, "layers.1.self.bins");
}

/* One fault each; part: what the message must hold. */
static void expect_refused(maker *m, const char *part)
{
    sp_fit *fit = NULL;
    sp_error error = {0};
    sp_status status = read_made(m, false, &fit, &error);
    if (status != SP_DATA || !strstr(error.message, part)) print_error("%s: %s\n", part, error.message);
    assert_int_equal(status, SP_DATA);
    assert_non_null(strstr(error.message, part));
    assert_null(fit);
}

static void test_metadata_is_checked(void **state)
{
    (void)state;
    static const char *const faults[][3] = {
        {"format", "sparsed.sparsefinder.v2", "sparsed.sparsefinder.v2"},
        {"layers", "0", "layers"},
        {"layers", "1", "beyond the number of layers"},
        {"layers", "02", "layers"},
        {"layers", "99999999999", "layers"},
        {"heads", "5", "[4, 3, 2], not [5, 3, 2]"},
        {"heads", "-1", "heads"},
        {"d", "8", "not [4, 8, "},
        {"alpha", "1", "alpha"},
        {"alpha", "nan", "alpha"},
        {"alpha", "2.5", "alpha"},
        {"gold_mass", "1.5", "gold_mass"},
        {"seed", "1e3", "seed"},
        {"rope", "both", "rope"},
        {"model", "abc", "model"},
        {"corpus", DIGEST "0", "corpus"},
        {"length", "0", "length"},
        {"r", "0", "r is '0'"},
        {"r", "1025", "r is '1025'"},
        {"gold_mass", "0.95", "gold_mass"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        make(&shared_maker);
        say(&shared_maker, faults[i][0], faults[i][1]);
        expect_refused(&shared_maker, faults[i][2]);
    }
}

static void test_tensors_are_checked(void **state)
{
    (void)state;
    static const char *const names[] = {
        "layers.1.self.extra",
        "layers.1.self.centroids.0",
        "layers.1.self.thresholds.101",
        "layers.1.self.q_proj.bias.2",
        "layers.9.self.q_proj.weight",
        "layers.1.encoder.q_proj.weight",
        "layers.01.self.q_proj.weight",
        "layers.1.self.block0.q_proj.weight",
        "model.norm.weight",
        "layers.1.self.block5.thresholds",
        "layers.1.self.dot.k_proj.weight.1",
    };
    maker *m = &shared_maker;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        make(m);
        put(m, names[i], 1, 4, 1, 1, 1);
        expect_refused(m, names[i]);
    }
    for (size_t i = 0; i < 18; i++) { /* a shape one larger, each tensor in turn */
        make(m);
        sp_tensor *t = &m->tensors[i].tensor;
        size_t *side = i == 5 ? &t->shape[0] : &t->shape[t->rank - 1];
        t->bytes = t->bytes / *side * (*side + 1);
        *side += 1;
        expect_refused(m, "layers.");
    }
    make(m);
    m->tensors[0].tensor.dtype = SP_U32;
    expect_refused(m, "F32");
    make(m);
    m->tensors[1] = m->tensors[7]; /* takes q_proj.bias away */
    m->tensors[1].name = "layers.1.self.thresholds.90";
    expect_refused(m, "q_proj.bias is missing");
    make(m);
    m->tensors[11].name = "layers.1.self.dot.bins.6";
    m->tensors[11].tensor = m->tensors[5].tensor;
    expect_refused(m, "layers.1.self.dot.");
}

/* A tensor that one layer has alone: the other lacks it, and is named. */
static void test_layers_are_alike(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    static const struct {
        size_t first, n; /* tensors taken away, of the other layer's */
        const char *missing;
    } faults[] = {{2, 1, "layers.0.self.centroids has none of size 16, layer 1 has it"},
                  {5, 1, "layers.0.self.bins has none of size 6"},
                  {6, 1, "layers.0.self.thresholds has none of size 80"},
                  {8, 4, "layers.0.self.dot.q_proj.weight is missing, layer 1 has it"},
                  {12, 3, "layers.0.self.cluster7.q_proj.weight is missing"},
                  {15, 3, "layers.1.cross.block16.q_proj.weight is missing, layer 0 has it"},
                  {0, 18, NULL}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        sp_fit *fit;
        sp_error error = {0};
        make(m);
        assert_int_equal(read_made(m, false, &fit, &error), SP_OK);
        assert_int_equal(sp_fit_check_layers(fit, &error), SP_OK);
        sp_fit_close(fit);
        size_t first = 18 + faults[i].first, n = faults[i].n;
        m->n_tensors -= n;
        memmove(m->tensors + first, m->tensors + first + n, (m->n_tensors - first) * sizeof *m->tensors);
        assert_int_equal(read_made(m, false, &fit, &error), SP_OK); /* one layer serves `attend` */
        assert_int_equal(sp_fit_check_layers(fit, &error), SP_DATA);
        if (faults[i].missing && !strstr(error.message, faults[i].missing)) fail_msg("%s", error.message);
        sp_fit_close(fit);
    }
    make(m);
    m->n_tensors = 0;
    sp_fit *none;
    sp_error error = {0};
    assert_int_equal(read_made(m, false, &none, &error), SP_OK);
    assert_int_equal(sp_fit_check_layers(none, &error), SP_DATA);
    assert_non_null(strstr(error.message, "layers.0.self.q_proj.weight is missing"));
    sp_fit_close(none);
    make(m);
    m->metadata[6] = m->metadata[--m->n_metadata]; /* alpha goes */
    expect_refused(m, "alpha is missing");
}

static void test_one_layer_in_a_body(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    sp_fit *fit;
    sp_error error = {0};
    make(m);
    m->n_metadata = 0;
    put(m, "q", 3, 4, 5, 3, 1);
    put(m, "k", 3, 2, 5, 3, 1);
    assert_int_equal(read_made(m, true, &fit, &error), SP_OK);
    assert_int_equal(fit->n_layers, 2);
    assert_int_equal(fit->n_heads, 4);
    sp_fit_close(fit);
    say(m, "format", "other");
    assert_int_equal(read_made(m, true, &fit, &error), SP_DATA);
    make(m);
    m->n_tensors = 0;
    put(m, "q", 3, 4, 5, 3, 1);
    assert_int_equal(read_made(m, true, &fit, &error), SP_DATA);
}

static void test_check_names_both_values(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    sp_fit *fit;
    sp_error error = {0};
    make(m);
    assert_int_equal(read_made(m, false, &fit, &error), SP_OK);
    assert_int_equal(sp_fit_check(fit, DIGEST, 2, 4, 2, 3, &error), SP_OK);
    assert_int_equal(sp_fit_check(fit, "", 2, 4, 2, 3, &error), SP_OK);
    assert_int_equal(sp_fit_check(fit, DIGEST, 6, 4, 2, 3, &error), SP_DATA);
    assert_true(strstr(error.message, "2 layers") && strstr(error.message, "6"));
    assert_int_equal(sp_fit_check(fit, DIGEST, 2, 8, 2, 3, &error), SP_DATA);
    assert_true(strstr(error.message, "4 query heads") && strstr(error.message, "8"));
    assert_int_equal(sp_fit_check(fit, DIGEST, 2, 4, 2, 64, &error), SP_DATA);
    assert_true(strstr(error.message, "64"));
    char other[65] = DIGEST;
    other[0] = 'f';
    assert_int_equal(sp_fit_check(fit, other, 2, 4, 2, 3, &error), SP_DATA);
    assert_true(strstr(error.message, DIGEST) && strstr(error.message, other));
    /* The dot set has two maps of keys: no number of KV heads but 2 can read it. */
    assert_int_equal(sp_fit_check(fit, DIGEST, 2, 4, 4, 3, &error), SP_DATA);
    assert_true(strstr(error.message, "2 maps of keys in layer 0") && strstr(error.message, "(4)"));
    assert_int_equal(sp_fit_check(fit, "", 2, 4, 1, 3, &error), SP_DATA);
    fit->model[0] = 0;
    assert_int_equal(sp_fit_check(fit, DIGEST, 2, 4, 2, 3, &error), SP_DATA);
    sp_fit_close(fit);
}

static void test_written_is_read_back(void **state)
{
    (void)state;
    maker *m = &shared_maker;
    sp_fit *fit, *again, *none;
    sp_error error = {0};
    char paths[2][64], *bytes[2];
    size_t sizes[2];
    make(m);
    say(m, "corpus", DIGEST);
    say(m, "rope", "pre");
    say(m, "alpha", "1.3333");
    assert_int_equal(read_made(m, false, &fit, &error), SP_OK);
    for (size_t i = 0; i < 2; i++) {
        snprintf(paths[i], sizeof paths[i], "/tmp/sparsed-fit-%ld-%zu", (long)getpid(), i);
        assert_int_equal(sp_fit_write(i ? again : fit, paths[i], &error), SP_OK);
        assert_int_equal(sp_read_file(paths[i], 1 << 20, &bytes[i], &sizes[i], &error), SP_OK);
        if (i == 0) assert_int_equal(sp_fit_open(paths[0], &again, &error), SP_OK);
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(bytes[0], bytes[1], sizes[0]);
    assert_true(again->alpha == 1.3333 && again->rope_pre && again->seed == -7);
    assert_string_equal(again->corpus, DIGEST);
    const sp_fit_set *a = sp_fit_find(fit, 1, SP_ATTEND_SELF, SP_FIT_DEFAULT, 0);
    const sp_fit_set *b = sp_fit_find(again, 1, SP_ATTEND_SELF, SP_FIT_DEFAULT, 0);
    assert_int_equal(b->n_centroids, 3);
    assert_true(b->shared);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(a->centroids[i].size, b->centroids[i].size);
        assert_int_equal(a->centroids[i].runs, b->centroids[i].runs);
    }
    assert_memory_equal(a->q_weight, b->q_weight, 24 * sizeof(float));
    sp_error absent;
    assert_int_equal(sp_fit_write(fit, "/tmp/no such folder/fit", &absent), SP_NOT_FOUND);
    assert_int_equal(sp_fit_open("/tmp/no such folder/fit", &none, &absent), SP_NOT_FOUND);
    for (size_t i = 0; i < 2; i++) {
        unlink(paths[i]);
        sp_free(bytes[i]);
    }
    sp_fit_close(fit);
    sp_fit_close(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_every_part),     cmocka_unit_test(test_infinite_thresholds),
        cmocka_unit_test(test_metadata_is_checked),  cmocka_unit_test(test_tensors_are_checked),
        cmocka_unit_test(test_one_layer_in_a_body),  cmocka_unit_test(test_check_names_both_values),
        cmocka_unit_test(test_written_is_read_back), cmocka_unit_test(test_layers_are_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
