/* engine/graph/picture: sizes and odd graphs, and that no edge is lost: a single edge of weight 0, of a
 * million pairs, among 32 thousand positions. Layout, text and colours of whole pictures are in
 * tests/golden/test_graph.py. */
#include <string.h>

#include "engine/graph/sheet.h"
#include "tests/support/graph_scene.h"
#include "tests/support/test.h"

static sp_status draw_graph(int view, const sp_picture_graph *graph, const sp_picture_options *options,
                            sp_buffer *out, sp_error *error)
{
    return view == 0   ? sp_picture_matrix(graph, options, out, error)
           : view == 1 ? sp_picture_panels(graph, graph, graph, options, out, error)
                       : sp_picture_lines(graph, options, out, error);
}

static sp_status draw(int view, const sp_slice *slice, const sp_picture_options *options, sp_buffer *out,
                      sp_error *error)
{
    const sp_picture_graph graph = {.about = slice};
    return draw_graph(view, &graph, options, out, error);
}

static void draw_all(const sp_slice *slice)
{
    for (int view = 0; view < 3; view++) {
        for (int kind = 0; kind < 2; kind++) {
            for (sp_color_scale scale = 0; scale < SP_COLOR_SCALES; scale++) {
                sp_picture_options options = sp_picture_defaults((sp_canvas_kind)kind);
                sp_error error = {0};
                sp_buffer out;
                options.scale = scale;
                sp_buffer_init(&out, 1 << 26);
                assert_ok(draw(view, slice, &options, &out, &error), error);
                assert_memory_equal(out.data, kind == SP_CANVAS_PNG ? "\x89PNG" : "<svg", 4);
                sp_buffer_fini(&out);
            }
        }
    }
}

static void test_shapes(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {1, 40}, {40, 1}, {3, 700}, {17, 17}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        sp_graph_scene scene;
        sp_slice slice;
        sp_graph_scene_init(&scene, shapes[i][0], shapes[i][1], false);
        sp_graph_scene_whole(&scene, SP_GRAPH_PRED, false, &slice);
        draw_all(&slice);
        sp_slice_fini(&slice);
        sp_graph_scene_fini(&scene);
    }
}

/* A graph of n positions with the given edges (row, key), all of one weight. */
static sp_slice graph_of(const sp_graph_scene *scene, uint32_t n, const uint32_t (*edges)[2],
                         uint32_t n_edges, float weight)
{
    sp_slice slice = {.graph = SP_GRAPH_PRED,
                      .name = "pred",
                      .n_query = n,
                      .n_key = n,
                      .causal = true,
                      .row_end = n,
                      .col_end = n,
                      .source = &scene->source,
                      .tokens = scene->tokens};
    slice.indptr = sp_alloc_zero(n + 1, sizeof *slice.indptr);
    slice.indices = sp_alloc(n_edges + 1, sizeof *slice.indices);
    slice.weights = sp_alloc(n_edges + 1, sizeof *slice.weights);
    assert_true(slice.indptr && slice.indices && slice.weights);
    for (uint32_t e = 0; e < n_edges; e++) {
        slice.indices[e] = edges[e][1];
        slice.weights[e] = weight;
        for (uint32_t i = edges[e][0] + 1; i <= n; i++) slice.indptr[i]++;
    }
    return slice;
}

static void test_no_edges(void **state)
{
    (void)state;
    sp_graph_scene scene;
    sp_graph_scene_init(&scene, 20, 20, false);
    sp_slice slice = graph_of(&scene, 20, NULL, 0, 0);
    draw_all(&slice);
    sp_slice_fini(&slice);
    sp_graph_scene_fini(&scene);
}

/* Every edge has its level in its cell and no other cell has any, at any number of positions. */
static void test_levels(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {20, 719, 721, 32768};
    static const float weights[] = {0, 1e-30f, 0.5f};
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        uint32_t n = sizes[s];
        const uint32_t edges[][2] = {{3, 2}, {n / 2, 7}, {n - 1, 0}, {n - 1, n - 1}};
        sp_graph_scene scene;
        sp_graph_scene_init(&scene, n, n, false);
        for (size_t w = 0; w < COUNT_OF(weights); w++) {
            sp_slice slice = graph_of(&scene, n, edges, 4, weights[w]);
            const sp_picture_graph graph = {.about = &slice};
            sp_bins bins;
            sp_error error;
            sp_grid grid;
            double low, high;
            sp_grid_fit(&slice, 720, 20, true, &grid);
            assert_in_range(grid.columns, 1, 720);
            assert_true(grid.rect.width <= 720 && grid.cell >= 1);
            uint8_t *levels = sp_alloc((size_t)grid.rows * grid.columns, 1);
            assert_non_null(levels);
            assert_ok(sp_bins_fill(&graph, grid.step, false, &bins, &error), error);
            assert_true(bins.edges == 4 && bins.rows == grid.rows && bins.columns == grid.columns);
            sp_weight_range(&bins, NULL, SP_SCALE_LOG, &low, &high);
            sp_bins_levels(&bins, SP_SCALE_LOG, low, high, levels);
            sp_bins_close(&bins);
            size_t found = 0;
            for (size_t i = 0; i < (size_t)grid.rows * grid.columns; i++) found += levels[i] > 0;
            assert_int_equal(found, 4);
            for (int e = 0; e < 4; e++)
                assert_true(
                    levels[(size_t)(edges[e][0] / grid.step) * grid.columns + edges[e][1] / grid.step] > 0);
            sp_free(levels);
            if (n == 721 && w == 0) draw_all(&slice);
            sp_slice_fini(&slice);
        }
        sp_graph_scene_fini(&scene);
    }
}

/* Rows of a scene, as a head gives them. */
static void scene_row(const void *context, uint32_t row, uint32_t begin, uint32_t end, sp_row_room *room,
                      sp_row *out)
{
    const sp_slice *slice = context;
    *out = (sp_row){.keys = room->keys, .weights = room->weights};
    for (uint32_t e = slice->indptr[row]; e < slice->indptr[row + 1]; e++) {
        if (slice->indices[e] < begin || slice->indices[e] >= end) continue;
        room->keys[out->n] = slice->indices[e];
        room->weights[out->n++] = slice->weights[e];
    }
}

static double scene_mass(const void *context, uint32_t row)
{
    (void)context, (void)row;
    return 1;
}

static bool stop_now(void *context)
{
    (void)context;
    return true;
}

/* A graph that no slice holds gives the picture that its slice gives, all of it and a filtered part. */
static void test_rows(void **state)
{
    (void)state;
    for (int part = 0; part < 3; part++) {
        uint32_t n = part == 2 ? 1500 : 90;
        sp_graph_scene scene;
        sp_slice whole;
        sp_graph_scene_init(&scene, n, n, false);
        sp_graph_scene_whole(&scene, SP_GRAPH_PRED, true, &whole);
        const sp_rows rows = {.row = scene_row, .context = &whole, .n_query = n, .n_key = n};
        sp_filter filter = {.row_end = n, .col_end = n};
        if (part == 1)
            filter = (sp_filter){
                .row_begin = 20, .row_end = 80, .col_begin = 5, .col_end = 60, .has_top_k = true, .top_k = 3};
        sp_slice held = whole, about = whole;
        sp_error error = {0};
        if (part == 1) {
            held.indptr = NULL, held.indices = NULL, held.weights = held.left_out = NULL;
            sp_rows counted = rows;
            counted.mass = scene_mass;
            assert_ok(sp_slice_fill(&counted, &filter, 20, UINT64_MAX, NULL, NULL, &held, &error), error);
        }
        about.row_begin = filter.row_begin, about.row_end = filter.row_end;
        about.col_begin = filter.col_begin, about.col_end = filter.col_end;
        about.indptr = NULL, about.indices = NULL, about.weights = NULL;
        sp_picture_graph graph = {.about = &about, .rows = &rows, .filter = &filter};
        for (int view = 0; view < 3; view++) {
            sp_picture_options options = sp_picture_defaults(SP_CANVAS_SVG);
            sp_buffer ours, theirs;
            sp_buffer_init(&ours, 1 << 26);
            sp_buffer_init(&theirs, 1 << 26);
            graph.stop = NULL;
            assert_ok(draw_graph(view, &graph, &options, &ours, &error), error);
            assert_ok(draw(view, &held, &options, &theirs, &error), error);
            assert_true(ours.size == theirs.size && memcmp(ours.data, theirs.data, ours.size) == 0);
            graph.stop = stop_now;
            assert_int_equal(draw_graph(view, &graph, &options, &ours, &error), SP_CANCELLED);
            sp_buffer_fini(&ours);
            sp_buffer_fini(&theirs);
        }
        if (part == 1) sp_slice_fini(&held);
        sp_slice_fini(&whole);
        sp_graph_scene_fini(&scene);
    }
}

static void test_strides(void **state)
{
    (void)state;
    static const uint32_t expected[] = {1, 2, 5, 10, 20, 50, 100, 200, 500};
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        assert_int_equal(sp_label_stride(12.0 / expected[i]), expected[i]);
        if (i > 0) assert_int_equal(sp_label_stride(12.0 / (expected[i] - 0.5)), expected[i]);
    }
}

static void test_captions(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        const char *text;
    } counts[] = {{0, "0"}, {999, "999"}, {1000, "1,000"}, {1234567, "1,234,567"}};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        sp_buffer out;
        sp_buffer_init(&out, 64);
        sp_caption_count(counts[i].value, &out);
        sp_buffer_append(&out, "", 1);
        assert_string_equal(out.data, counts[i].text);
        sp_buffer_fini(&out);
    }
}

/* Parameters without a value are not named; text is made harmless. */
static void test_provenance(void **state)
{
    (void)state;
    const sp_graph_source source = {.capture = "attn-1",
                                    .model = "a\xff"
                                             "b",
                                    .arch = "llama",
                                    .hash = "0123456789abcdef0123",
                                    .backend = "sparsefinder",
                                    .params = "{\"grouping\":\"bucket\",\"keep\":null,\"window\":33}",
                                    .decode_backend = "",
                                    .decode_params = "",
                                    .normalizer = "{\"alpha\":1.5}",
                                    .gold = "",
                                    .heads = "merged",
                                    .dtype = "f32",
                                    .software = "sparsed 0.1.0",
                                    .block = "self",
                                    .created = 1795381821};
    sp_buffer out;
    sp_buffer_init(&out, 1024);
    sp_caption_provenance(&source, &out);
    sp_buffer_append(&out, "", 1);
    assert_string_equal(
        out.data, "sparsed 0.1.0 \xc2\xb7 model a\xef\xbf\xbd"
                  "b (llama) \xc2\xb7 weights 0123456789ab \xc2\xb7 attention sparsefinder \xc2\xb7 "
                  "grouping bucket, window 33 \xc2\xb7 normalizer {\"alpha\":1.5} \xc2\xb7 heads merged "
                  "\xc2\xb7 type f32 \xc2\xb7 capture attn-1 \xc2\xb7 2026-11-22 21:10 UTC");
    sp_buffer_fini(&out);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_shapes),     cmocka_unit_test(test_no_edges), cmocka_unit_test(test_levels),
    cmocka_unit_test(test_rows),       cmocka_unit_test(test_strides),  cmocka_unit_test(test_captions),
    cmocka_unit_test(test_provenance),
};
TEST_MAIN(tests)
