/* Slices, lines and tiles (engine/graph/query.h, tiles.h) of a head made of random edges, against plain loops
 * over an n x n matrix. */
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/tiles.h"
#include "tests/support/random.h"

enum { N = 300, ROWS = 8, BLOCKS = (N + ROWS - 1) / ROWS };

static float gold[N][N], pred[N][N]; /* weights; -1: no edge */
static sp_head head;

static void pack_csr(sp_csr *csr, float matrix[N][N])
{
    csr->indptr = sp_alloc_zero(N + 1, sizeof *csr->indptr);
    csr->indices = sp_alloc_zero(BLOCKS, sizeof *csr->indices);
    csr->weights = sp_alloc_zero(BLOCKS, sizeof *csr->weights);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        csr->indices[b] = sp_alloc(ROWS * N, sizeof(uint32_t));
        csr->weights[b] = sp_alloc(ROWS * N, sizeof(float));
        uint32_t at = 0;
        for (uint32_t i = b * ROWS; i < (b + 1) * ROWS && i < N; i++) {
            for (uint32_t j = 0; j < N; j++) {
                if (matrix[i][j] < 0) continue;
                csr->indices[b][at] = j;
                csr->weights[b][at++] = matrix[i][j];
            }
            csr->indptr[i + 1] = csr->indptr[b * ROWS] + at;
        }
    }
}

static int open_head(void **state)
{
    (void)state;
    test_random random = {42};
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            bool near = j <= i && test_random_below(&random, 12) == 0;
            /* few different weights, so that ties happen; row 7 is empty */
            gold[i][j] = near && i != 7 ? (float)(1 + test_random_below(&random, 6)) / 8 : -1;
            pred[i][j] =
                j <= i && test_random_below(&random, 9) == 0 ? (float)test_random_below(&random, 3) / 4 : -1;
        }
    }
    head = (sp_head){.n_query = N,
                     .n_key = N,
                     .n_valid_key = N,
                     .n_valid_query = N,
                     .causal = true,
                     .block_rows = ROWS,
                     .n_blocks = BLOCKS,
                     .done = true};
    pack_csr(&head.gold, gold);
    pack_csr(&head.pred, pred);
    return 0;
}

static int close_head(void **state)
{
    (void)state;
    sp_head *copy = sp_alloc(1, sizeof *copy);
    *copy = head;
    sp_head_close(copy);
    return 0;
}

/* The weight of an edge of a graph, or -1. */
static float edge(sp_graph graph, uint32_t i, uint32_t j)
{
    float g = gold[i][j], p = pred[i][j];
    switch (graph) {
    case SP_GRAPH_GOLD:
        return g;
    case SP_GRAPH_PRED:
        return p;
    case SP_GRAPH_BOTH:
        return p >= 0 ? g : -1;
    case SP_GRAPH_MISSED:
        return p >= 0 ? -1 : g;
    case SP_GRAPH_EXTRA:
        return g >= 0 ? -1 : p;
    default:
        return p > 0 ? p : -1;
    }
}

/* How many edges of the row come before this one by falling weight, ties to the lower key, and their sum. */
static uint32_t rank_of(sp_graph graph, uint32_t i, uint32_t j, double *before)
{
    uint32_t rank = 0;
    *before = 0;
    for (uint32_t k = 0; k < N; k++) {
        float other = edge(graph, i, k), own = edge(graph, i, j);
        if (other < 0 || k == j || other < own || (other == own && k > j)) continue;
        rank++;
        *before += (double)other;
    }
    return rank;
}

static bool kept(const sp_filter *f, sp_graph graph, uint32_t i, uint32_t j)
{
    double before;
    float own = edge(graph, i, j);
    if (own < 0 || j < f->col_begin || j >= f->col_end) return false;
    uint32_t rank = rank_of(graph, i, j, &before);
    return (!f->has_top_k || rank < f->top_k) && (!f->has_mass || before < f->mass) &&
           (!f->has_min_weight || (double)own >= f->min_weight);
}

static void check_slice(const sp_filter *f, sp_graph graph, uint64_t limit)
{
    const sp_head_view view = {.head = &head, .graph = graph};
    const sp_rows rows = sp_head_rows(&view);
    sp_error error;
    uint64_t total = 0, seen = 0;
    for (uint32_t i = f->row_begin; i < f->row_end; i++)
        for (uint32_t j = 0; j < N; j++) total += kept(f, graph, i, j);
    for (uint32_t first = f->row_begin; first < f->row_end;) {
        sp_slice slice = {0};
        assert_ok(sp_slice_fill(&rows, f, first, limit, NULL, NULL, &slice, &error), error);
        assert_int_equal(slice.edges_total, total);
        assert_int_equal(slice.row_begin, first);
        assert_true(slice.row_end > first && slice.truncated == (slice.row_end < f->row_end));
        assert_true(sp_slice_edges(&slice) <= limit || slice.row_end == first + 1);
        for (uint32_t i = first; i < slice.row_end; i++) {
            uint32_t at = slice.indptr[i - first];
            double mass = 0, full = 0;
            for (uint32_t j = 0; j < N; j++) {
                bool of_gold = graph == SP_GRAPH_GOLD || graph == SP_GRAPH_BOTH || graph == SP_GRAPH_MISSED;
                float whole = of_gold ? gold[i][j] : pred[i][j];
                full += whole > 0 ? (double)whole : 0;
                if (!kept(f, graph, i, j)) continue;
                assert_true(slice.indices[at] == j && slice.weights[at] == edge(graph, i, j));
                mass += (double)slice.weights[at++];
            }
            assert_int_equal(at, slice.indptr[i - first + 1]);
            assert_true(fabs((double)slice.left_out[i - first] - (full - mass)) < 1e-5);
        }
        seen += sp_slice_edges(&slice);
        first = slice.row_end;
        sp_slice_fini(&slice);
    }
    assert_int_equal(seen, total);
}

static void test_slices(void **state)
{
    (void)state;
    const sp_filter all = {.row_end = N, .col_end = N};
    for (int g = 0; g < SP_N_GRAPHS; g++) check_slice(&all, (sp_graph)g, UINT32_MAX);
    check_slice(&all, SP_GRAPH_GOLD, 1);
    check_slice(&all, SP_GRAPH_MISSED, 100);
    const sp_filter part = {.row_begin = 13, .row_end = 222, .col_begin = 9, .col_end = 180};
    check_slice(&part, SP_GRAPH_EXTRA, 57);
    sp_filter cut = part;
    cut.has_top_k = true, cut.top_k = 5;
    check_slice(&cut, SP_GRAPH_GOLD, 1000);
    cut.has_mass = true, cut.mass = 1.6;
    check_slice(&cut, SP_GRAPH_PRED, 1000);
    cut.has_min_weight = true, cut.min_weight = 0.5;
    check_slice(&cut, SP_GRAPH_BOTH, 1000);
    cut.top_k = 0;
    check_slice(&cut, SP_GRAPH_GOLD, 1000);
}

static bool always(void *context)
{
    (void)context;
    return true;
}

static void test_stop(void **state)
{
    (void)state;
    const sp_filter all = {.row_end = N, .col_end = N};
    const sp_head_view view = {.head = &head};
    const sp_rows rows = sp_head_rows(&view);
    sp_slice slice = {0};
    sp_error error;
    assert_int_equal(sp_slice_fill(&rows, &all, 0, 10, always, NULL, &slice, &error), SP_CANCELLED);
    assert_null(slice.indptr);
}

static void test_lines(void **state)
{
    (void)state;
    const sp_filter all = {.row_end = N, .col_end = N};
    const sp_head_view view = {.head = &head, .graph = SP_GRAPH_MISSED};
    const sp_rows rows = sp_head_rows(&view);
    sp_error error;
    for (uint32_t at = 0; at < N; at += 7) {
        sp_line row, col;
        uint32_t n_row = 0, n_col = 0;
        assert_ok(sp_line_row(&rows, at, &all, &row, &error), error);
        assert_ok(sp_line_col(&rows, at, &all, &col, &error), error);
        for (uint32_t i = 0; i < N; i++) {
            n_row += edge(SP_GRAPH_MISSED, at, i) >= 0;
            n_col += edge(SP_GRAPH_MISSED, i, at) >= 0;
        }
        assert_true(row.n == n_row && col.n == n_col);
        for (uint32_t e = 0; e < row.n; e++) {
            assert_true(row.weights[e] == edge(SP_GRAPH_MISSED, at, row.positions[e]));
            if (e > 0)
                assert_true(row.weights[e - 1] > row.weights[e] || (row.weights[e - 1] == row.weights[e] &&
                                                                    row.positions[e - 1] < row.positions[e]));
        }
        for (uint32_t e = 0; e < col.n; e++)
            assert_true(col.weights[e] == edge(SP_GRAPH_MISSED, col.positions[e], at));
        sp_line_fini(&row);
        sp_line_fini(&col);
    }
}

static uint32_t u32_at(const uint8_t *bytes, size_t i)
{
    return (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 | (uint32_t)bytes[4 * i + 2] << 16 |
           (uint32_t)bytes[4 * i + 3] << 24;
}

static void test_tiles(void **state)
{
    (void)state;
    sp_error error;
    uint8_t *tile = malloc(sp_tile_bytes(SP_TILE_DIFF));
    bool empty;
    const sp_head_view of_pred = {.head = &head, .graph = SP_GRAPH_PRED}, of_gold = {.head = &head};
    assert_int_equal(sp_tile_levels(N, N), 1);
    assert_int_equal(sp_tile_levels(256, 10), 0);
    assert_int_equal(sp_tile_levels(32768, 32768), 7);
    assert_true(sp_tile_exists(N, N, 0, 1, 1) && !sp_tile_exists(N, N, 0, 2, 0) &&
                !sp_tile_exists(N, N, 2, 0, 0));
    for (uint32_t z = 0; z <= 1; z++) {
        uint64_t total = 0, all = 0;
        for (uint32_t ty = 0; ty < 2u >> z; ty++) {
            for (uint32_t tx = 0; tx < 2u >> z; tx++) {
                assert_ok(sp_tile_make(&of_pred, SP_TILE_COUNT, z, ty, tx, tile, &empty, &error), error);
                for (size_t b = 0; b < 65536; b++) total += u32_at(tile, b);
                assert_true(empty == (ty == 0 && tx == 1)); /* the future */
            }
        }
        for (uint32_t i = 0; i < N; i++)
            for (uint32_t j = 0; j < N; j++) all += pred[i][j] >= 0;
        assert_int_equal(total, all);
    }
    assert_ok(sp_tile_make(&of_gold, SP_TILE_DIFF, 1, 0, 0, tile, &empty, &error), error);
    for (uint32_t y = 0; y < 150; y++) {
        for (uint32_t x = 0; x < 150; x++) {
            static const sp_graph planes[] = {SP_GRAPH_BOTH, SP_GRAPH_MISSED, SP_GRAPH_EXTRA};
            for (size_t p = 0; p < 3; p++) {
                uint32_t wanted = 0;
                for (uint32_t d = 0; d < 4; d++) wanted += edge(planes[p], 2 * y + d / 2, 2 * x + d % 2) >= 0;
                assert_int_equal(u32_at(tile + p * 262144, y * 256 + x), wanted);
            }
        }
    }
    free(tile);
}

static void test_thumbnail(void **state)
{
    (void)state;
    sp_error error;
    uint8_t cells[SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE];
    const sp_head_view of_gold = {.head = &head, .graph = SP_GRAPH_GOLD};
    assert_ok(sp_thumbnail_make(&of_gold, cells, &error), error);
    for (uint32_t y = 0; y < 64; y++) {
        for (uint32_t x = 0; x < 64; x++) {
            uint32_t edges = 0, pairs = 0;
            for (uint32_t i = 0; i < N; i++) {
                for (uint32_t j = 0; j <= i; j++) {
                    if (64 * i / N != y || 64 * j / N != x) continue;
                    pairs++;
                    edges += gold[i][j] >= 0;
                }
            }
            double wanted = edges ? 1 + 254 * fmax(0, 1 + log10((double)edges / pairs) / 6) : 0;
            assert_true(fabs(cells[y * 64 + x] - wanted) <= 0.51);
        }
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_slices), cmocka_unit_test(test_stop),      cmocka_unit_test(test_lines),
    cmocka_unit_test(test_tiles),  cmocka_unit_test(test_thumbnail),
};

int main(void)
{
    return cmocka_run_group_tests(tests, open_head, close_head) == 0 ? 0 : 1;
}
