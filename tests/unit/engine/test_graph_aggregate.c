/* Sums, maxima and products of sparse graphs (engine/graph/aggregate.h) against dense matrices in float64. */
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "engine/graph/aggregate.h"
#include "tests/support/random.h"

enum { N = 40 };

/* A dense matrix as rows. */
typedef struct matrix {
    double at[N][N];
} matrix;

static void matrix_row(const void *context, uint32_t row, uint32_t begin, uint32_t end, sp_row_room *room,
                       sp_row *out)
{
    const matrix *m = context;
    uint32_t n = 0;
    for (uint32_t j = begin; j < end; j++) {
        if (m->at[row][j] == 0) continue;
        room->keys[n] = j;
        room->weights[n++] = (float)m->at[row][j];
    }
    *out = (sp_row){.keys = room->keys, .weights = room->weights, .n = n};
}

static double matrix_mass(const void *context, uint32_t row)
{
    const matrix *m = context;
    double sum = 0;
    for (uint32_t j = 0; j < N; j++) sum += m->at[row][j];
    return sum;
}

static sp_rows rows_of(const matrix *m)
{
    return (sp_rows){.row = matrix_row, .mass = matrix_mass, .context = m, .n_query = N, .n_key = N};
}

static void fill(matrix *m, uint64_t seed)
{
    test_random random = {seed};
    memset(m, 0, sizeof *m);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t j = 0; j <= i; j++)
            if (test_random_below(&random, 4) == 0)
                m->at[i][j] = (double)(float)(test_random_unit(&random) / 4 + 0.01);
}

static void same(const sp_mix *mix, const matrix *wanted)
{
    sp_error error;
    sp_row_room room;
    const sp_rows rows = sp_mix_rows(mix);
    assert_ok(sp_row_room_open(&room, N, &error), error);
    uint64_t edges = 0;
    for (uint32_t i = 0; i < N; i++) {
        sp_row row;
        uint32_t at = 0;
        rows.row(rows.context, i, 0, N, &room, &row);
        for (uint32_t j = 0; j < N; j++) {
            if (wanted->at[i][j] == 0) continue;
            assert_true(at < row.n && row.keys[at] == j);
            assert_true(fabs((double)row.weights[at++] - wanted->at[i][j]) < 1e-6);
        }
        assert_int_equal(at, row.n);
        edges += at;
        rows.row(rows.context, i, 5, 9, &room, &row);
        for (uint32_t e = 0; e < row.n; e++) assert_true(row.keys[e] >= 5 && row.keys[e] < 9);
    }
    assert_int_equal(mix->edges, edges);
    sp_row_room_close(&room);
}

static void test_sums(void **state)
{
    (void)state;
    sp_error error;
    matrix a, b, sum, most;
    fill(&a, 1);
    fill(&b, 2);
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            sum.at[i][j] = a.at[i][j] / 2 + b.at[i][j] / 2;
            most.at[i][j] = a.at[i][j] > b.at[i][j] ? a.at[i][j] : b.at[i][j];
        }
    }
    for (int largest = 0; largest < 2; largest++) {
        sp_mix mix;
        const sp_rows rows_a = rows_of(&a), rows_b = rows_of(&b);
        const matrix *wanted = largest ? &most : &sum;
        assert_ok(sp_mix_open(&mix, N, N, N * N, &error), error);
        assert_ok(sp_mix_add(&mix, &rows_a, largest ? 1 : 0.5, largest, NULL, NULL, &error), error);
        assert_ok(sp_mix_add(&mix, &rows_b, largest ? 1 : 0.5, largest, NULL, NULL, &error), error);
        same(&mix, wanted);
        const sp_rows rows = sp_mix_rows(&mix);
        for (uint32_t i = 0; i < N; i++)
            assert_true(fabs(rows.mass(rows.context, i) - matrix_mass(wanted, i)) < 1e-6);
        sp_mix_close(&mix);
    }
}

static void test_products(void **state)
{
    (void)state;
    sp_error error;
    matrix a, b, wanted = {0};
    sp_mix left, right, product;
    fill(&a, 3);
    fill(&b, 4);
    const sp_rows rows_a = rows_of(&a), rows_b = rows_of(&b);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t j = 0; j < N; j++)
            for (uint32_t k = 0; k < N; k++) wanted.at[i][j] += a.at[i][k] * b.at[k][j];
    assert_ok(sp_mix_open(&left, N, N, N * N, &error), error);
    assert_ok(sp_mix_open(&right, N, N, N * N, &error), error);
    assert_ok(sp_mix_open(&product, N, N, N * N, &error), error);
    assert_ok(sp_mix_add(&left, &rows_a, 1, false, NULL, NULL, &error), error);
    assert_ok(sp_mix_add(&right, &rows_b, 1, false, NULL, NULL, &error), error);
    assert_ok(sp_mix_multiply(&left, &right, 0, &product, NULL, NULL, &error), error);
    same(&product, &wanted);
    sp_mix_close(&product);

    assert_ok(sp_mix_open(&product, N, N, N * N, &error), error);
    assert_ok(sp_mix_multiply(&left, &right, 3, &product, NULL, NULL, &error), error);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t n = 0;
        for (uint32_t j = 0; j < N; j++) {
            uint32_t larger = 0;
            for (uint32_t k = 0; k < N; k++) larger += wanted.at[i][k] > wanted.at[i][j];
            if (larger >= 3 || wanted.at[i][j] == 0) wanted.at[i][j] = -wanted.at[i][j];
            n += wanted.at[i][j] > 0;
        }
        for (uint32_t j = 0; j < N; j++)
            if (wanted.at[i][j] < 0) wanted.at[i][j] = -wanted.at[i][j];
        assert_int_equal(product.rows[i].n, n);
        for (uint32_t e = 0; e < n; e++)
            assert_true(fabs((double)product.rows[i].weights[e] - wanted.at[i][product.rows[i].keys[e]]) <
                        1e-6);
        assert_true(fabs(product.rows[i].mass - matrix_mass(&wanted, i)) < 1e-5);
    }
    sp_mix_close(&product);

    assert_ok(sp_mix_open(&product, N, N, 50, &error), error);
    assert_int_equal(sp_mix_multiply(&left, &right, 0, &product, NULL, NULL, &error), SP_TOO_LARGE);
    assert_string_equal(error.param, "top_k");
    sp_mix_close(&product);
    sp_mix_close(&left);
    sp_mix_close(&right);
}

static void test_compare_and_labels(void **state)
{
    (void)state;
    sp_error error;
    matrix a, b;
    sp_difference found;
    uint64_t counts[9] = {0}, wanted_counts[9] = {0}, edges_a = 0, edges_b = 0, both = 0;
    double mass[9] = {0}, wanted_mass[9] = {0};
    uint32_t labels[N];
    fill(&a, 5);
    fill(&b, 6);
    const sp_rows rows_a = rows_of(&a), rows_b = rows_of(&b);
    for (uint32_t i = 0; i < N; i++) labels[i] = i * i % 3;
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            edges_a += a.at[i][j] > 0;
            edges_b += b.at[i][j] > 0;
            both += a.at[i][j] > 0 && b.at[i][j] > 0;
            wanted_counts[3 * labels[i] + labels[j]] += a.at[i][j] > 0;
            wanted_mass[3 * labels[i] + labels[j]] += a.at[i][j];
        }
    }
    assert_ok(sp_rows_compare(&rows_a, &rows_b, &found, &error), error);
    assert_true(found.edges_a == edges_a && found.edges_b == edges_b && found.both == both);
    assert_ok(sp_rows_label(&rows_a, labels, 3, counts, mass, &error), error);
    assert_memory_equal(counts, wanted_counts, sizeof counts);
    for (int i = 0; i < 9; i++) assert_true(fabs(mass[i] - wanted_mass[i]) < 1e-5);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_sums),
    cmocka_unit_test(test_products),
    cmocka_unit_test(test_compare_and_labels),
};
TEST_MAIN(tests)
