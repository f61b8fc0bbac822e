/* Rotary frequencies against formulas written another way, and the choice by length. Whole models against
 * golden files are in tests/golden/test_models.c. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/rope.h"

#define DIM 8
static const double pi = 3.14159265358979323846;

static sp_rope *open_rope(const char *keys)
{
    char text[1024];
    sp_config *config;
    sp_rope *rope;
    sp_error error = {0};
    int size = snprintf(text, sizeof text, "{\"rope_theta\":10000,%s}", keys);
    assert_ok(sp_config_parse("config.json", text, (size_t)size, &config, &error), error);
    assert_ok(sp_rope_open(config, DIM, &rope, &error), error);
    sp_config_close(config);
    return rope;
}

/* cos and sin of a position and length, pair by pair, against these angles. */
static void check_angles(const sp_rope *rope, uint32_t position, uint32_t length, const double *angles,
                         double scale)
{
    float cosines[2 * DIM / 2], sines[2 * DIM / 2];
    const uint32_t positions[] = {0, position}, lengths[] = {1, length};
    sp_rope_fill(rope, 2, positions, lengths, cosines, sines);
    for (int i = 0; i < DIM / 2; i++) {
        assert_true(fabs((double)cosines[i] - scale) < 1e-6 && sines[i] == 0); /* position 0, length 1 */
        assert_true(fabs((double)cosines[DIM / 2 + i] - scale * cos(angles[i])) < 1e-6);
        assert_true(fabs((double)sines[DIM / 2 + i] - scale * sin(angles[i])) < 1e-6);
    }
}

static void test_plain_and_linear(void **state)
{
    (void)state;
    sp_rope *rope = open_rope("\"max_position_embeddings\":100");
    check_angles(rope, 50, 400, (const double[]){50, 5, 0.5, 0.05}, 1);
    assert_int_equal(rope->context, 100);
    assert_int_equal(sp_rope_variant(rope, 400), 0);
    sp_rope_close(rope);
    rope = open_rope("\"max_position_embeddings\":100,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}");
    check_angles(rope, 50, 400, (const double[]){20, 2, 0.2, 0.02}, 1);
    assert_int_equal(rope->context, 250);
    sp_rope_close(rope);
    assert_int_equal(sp_rope_variant(NULL, 400), 0);
}

/* theta' = theta (2 * 300 / 100 - 1)^(8 / 6) = theta * 5^(4/3); f_i = theta'^(-i/4) */
static void test_dynamic(void **state)
{
    (void)state;
    char note[200];
    sp_rope *rope = open_rope(
        "\"max_position_embeddings\":100,\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2}");
    double angles[4];
    assert_int_equal(rope->context, 200);
    check_angles(rope, 50, 100, (const double[]){50, 5, 0.5, 0.05}, 1);
    for (int i = 0; i < 4; i++) angles[i] = 50 * pow(0.1, i) * exp(-i * log(5) / 3);
    check_angles(rope, 50, 300, angles, 1);
    assert_int_equal(sp_rope_variant(rope, 100), sp_rope_variant(rope, 1));
    assert_int_not_equal(sp_rope_variant(rope, 101), sp_rope_variant(rope, 100));
    assert_int_not_equal(sp_rope_variant(rope, 101), sp_rope_variant(rope, 102));
    sp_rope_note(rope, 300, note, sizeof note);
    assert_non_null(strstr(note, "300 tokens"));
    assert_non_null(strstr(note, "85498.8")); /* 1e4 * 5^(4/3) */
    sp_rope_close(rope);
}

static void test_longrope(void **state)
{
    (void)state;
#define FACTORS "\"short_factor\":[1,1,2,2],\"long_factor\":[2,4,5,10]"
    char note[200];
    sp_rope *rope =
        open_rope("\"max_position_embeddings\":400,\"original_max_position_embeddings\":100,"
                  "\"rope_scaling\":{\"type\":\"su\",\"original_max_position_embeddings\":7," FACTORS "}");
    double scale = sqrt(1 + log(4) / log(100));
    assert_int_equal(rope->context, 400);
    check_angles(rope, 50, 100, (const double[]){50, 5, 0.25, 0.025}, scale);
    check_angles(rope, 50, 101, (const double[]){25, 1.25, 0.1, 0.005}, scale);
    assert_int_equal(sp_rope_variant(rope, 100), 0);
    assert_int_equal(sp_rope_variant(rope, 101), sp_rope_variant(rope, 400));
    sp_rope_note(rope, 101, note, sizeof note);
    assert_non_null(strstr(note, "long, chosen for 101 tokens"));
    sp_rope_note(rope, 100, note, sizeof note);
    assert_non_null(strstr(note, "short, chosen for 100 tokens"));
    sp_rope_close(rope);
    /* equal factors: nothing to choose, nothing to say; attention_factor wins */
    rope = open_rope(
        "\"max_position_embeddings\":400,\"rope_scaling\":{\"type\":\"longrope\",\"attention_factor\":1.5,"
        "\"short_factor\":[1,2,4,8],\"long_factor\":[1,2,4,8]}");
    check_angles(rope, 40, 500, (const double[]){40, 2, 0.1, 0.005}, 1.5);
    assert_int_equal(sp_rope_variant(rope, 500), 0);
    sp_rope_note(rope, 500, note, sizeof note);
    assert_string_equal(note, "");
    sp_rope_close(rope);
}

/* Wavelengths 2 pi 10^i; borders at 800 / 1 and 800 / 4: pairs 0, 1 stay (6.3, 63), pair 2 (628) is between,
 * pair 3 (6283) is divided. */
static void test_llama3(void **state)
{
    (void)state;
    sp_rope *rope =
        open_rope("\"max_position_embeddings\":9000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                  "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":800}");
    double smooth = (800 / (200 * pi) - 1) / 3;
    check_angles(rope, 50, 9000, (const double[]){50, 5, 0.5 * ((1 - smooth) / 8 + smooth), 0.05 / 8}, 1);
    assert_int_equal(rope->context, 9000);
    sp_rope_close(rope);
}

/* Pairs that make b turns over 1000 positions: 4 log10(1000 / (2 pi b)) / 4, so 0.696 for 32 and 2.2 for 1:
 * the ramp runs from 0 to 3. */
static void test_yarn(void **state)
{
    (void)state;
    sp_rope *rope =
        open_rope("\"max_position_embeddings\":4000,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                  "\"original_max_position_embeddings\":1000}");
    double angles[4];
    for (int i = 0; i < 4; i++) angles[i] = 50 * pow(0.1, i) * (1 - i / 3.0 * 0.75);
    check_angles(rope, 50, 4000, angles, 0.1 * log(4) + 1);
    assert_int_equal(rope->context, 4000);
    sp_rope_close(rope);
    rope = open_rope(
        "\"max_position_embeddings\":1000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"mscale\":0.5,"
        "\"mscale_all_dim\":1}");
    assert_true(fabs(rope->scale - (0.05 * log(40) + 1) / (0.1 * log(40) + 1)) < 1e-12);
    assert_int_equal(rope->context, 40000);
    sp_rope_close(rope);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_plain_and_linear), cmocka_unit_test(test_dynamic), cmocka_unit_test(test_longrope),
    cmocka_unit_test(test_llama3),           cmocka_unit_test(test_yarn),
};
TEST_MAIN(tests)
