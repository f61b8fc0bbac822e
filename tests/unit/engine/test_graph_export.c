/* engine/graph/export: names, limits, csv and dot to the byte, safetensors read back by models/safetensors.
 * What other programs read is in tests/golden/test_graph.py. */
#include <math.h>
#include <string.h>

#include "engine/graph/export.h"
#include "models/weights.h"
#include "tests/support/graph_scene.h"
#include "tests/support/test.h"

static uint32_t indptr[] = {0, 1, 1, 3};
static uint32_t indices[] = {1, 1, 3};
static float weights[] = {1.0f, 0.1f, 1e-7f};
static float left_out[] = {0, 1, 0.9f};
static const sp_graph_token tokens[] = {{0, false, "a", "a", 1, 1},
                                        {1, false, "\"\\\n\xff", "", 4, 0},
                                        {2, false, " b", " b", 2, 2},
                                        {3, false, "<c>", "<c>", 3, 3},
                                        {4, false, "d", "d", 1, 1}};
static const sp_graph_source source = {.capture = "attn-1",
                                       .model = "m",
                                       .arch = "llama",
                                       .hash = "",
                                       .backend = "window",
                                       .params = "{}",
                                       .decode_backend = "",
                                       .decode_params = "",
                                       .normalizer = "\"softmax\"",
                                       .gold = "{}",
                                       .heads = "merged",
                                       .dtype = "f32",
                                       .software = "sparsed",
                                       .block = "self"};

/* Rows 2:5 and columns 1:4 of a graph of 6 positions. */
static sp_slice small_slice(void)
{
    return (sp_slice){.graph = SP_GRAPH_PRED,
                      .name = "pred",
                      .layer = 1,
                      .head = 2,
                      .kv_head = 0,
                      .n_query = 6,
                      .n_key = 6,
                      .row_begin = 2,
                      .row_end = 5,
                      .col_begin = 1,
                      .col_end = 4,
                      .indptr = indptr,
                      .indices = indices,
                      .weights = weights,
                      .left_out = left_out,
                      .edges_total = 3,
                      .source = &source,
                      .tokens = tokens};
}

static void open_text(sp_buffer *out)
{
    sp_buffer_init(out, 1 << 22);
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < SP_N_EXPORTS; i++) {
        sp_export format;
        assert_true(sp_export_find(sp_export_name((sp_export)i), &format) && format == (sp_export)i);
        assert_non_null(strchr(sp_export_type(format), '/'));
    }
    sp_export format;
    assert_false(sp_export_find("pdf", &format));
    assert_true(sp_export_is_dense(SP_EXPORT_EXBERT) && !sp_export_is_dense(SP_EXPORT_PNG));
}

static void test_csv(void **state)
{
    (void)state;
    sp_slice slice = small_slice();
    sp_error error = {0};
    sp_buffer out;
    open_text(&out);
    assert_ok(sp_export_slice(SP_EXPORT_CSV, &slice, NULL, &out, &error), error);
    sp_buffer_append(&out, "", 1);
    assert_string_equal(out.data, "query,key,weight\n2,1,1\n4,1,0.1\n4,3,1e-07\n");
    sp_buffer_fini(&out);
}

static void test_dot(void **state)
{
    (void)state;
    sp_slice slice = small_slice();
    sp_error error = {0};
    sp_buffer out;
    open_text(&out);
    assert_ok(sp_export_slice(SP_EXPORT_DOT, &slice, NULL, &out, &error), error);
    sp_buffer_append(&out, "", 1);
    assert_non_null(strstr(out.data, "  n1 [token=\"\\\"\\\\\\n\xef\xbf\xbd\", label=\"1\\n"));
    assert_non_null(strstr(out.data, "  n4 -> n3 [weight=\"1e-07\"];\n}\n"));
    assert_null(strstr(out.data, "  n0 ["));
    sp_buffer_fini(&out);
}

static void check_safetensors(bool f32)
{
    sp_slice slice = small_slice();
    sp_error error = {0};
    sp_buffer out;
    sp_weights *file;
    open_text(&out);
    assert_ok(sp_export_safetensors(&slice, f32, "cursor", &out, &error), error);
    assert_ok(sp_weights_parse("slice", out.data, out.size, &file, &error), error);
    const sp_tensor *rows = sp_weights_find(file, "indptr"), *keys = sp_weights_find(file, "indices"),
                    *values = sp_weights_find(file, "weights"), *rest = sp_weights_find(file, "left_out");
    assert_true(rows && rows->dtype == SP_U32 && rows->shape[0] == 4);
    assert_memory_equal(rows->data, indptr, sizeof indptr);
    assert_true(keys && keys->dtype == SP_U16 && keys->shape[0] == 3);
    for (int e = 0; e < 3; e++) assert_int_equal(((const uint16_t *)keys->data)[e], indices[e]);
    assert_true(values && values->dtype == (f32 ? SP_F32 : SP_U16));
    for (int e = 0; e < 3; e++) {
        if (f32) {
            assert_true(((const float *)values->data)[e] == weights[e]);
            continue;
        }
        double read = sp_weight_from_u16(((const uint16_t *)values->data)[e]);
        assert_true(read > 0 && fabs(read - (double)weights[e]) <= 1.0 / 65535);
    }
    assert_memory_equal(rest->data, left_out, sizeof left_out);
    assert_string_equal(sp_weights_metadata(file, "rows"), "2:5");
    assert_string_equal(sp_weights_metadata(file, "graph"), "pred");
    assert_string_equal(sp_weights_metadata(file, "next"), "cursor");
    assert_string_equal(sp_weights_metadata(file, "n"), "6");
    sp_weights_close(file);
    sp_buffer_fini(&out);
}

static void test_safetensors(void **state)
{
    (void)state;
    check_safetensors(false);
    check_safetensors(true);
}

static void test_wide_indices(void **state)
{
    (void)state;
    sp_slice slice = small_slice();
    sp_error error = {0};
    sp_buffer out;
    sp_weights *file;
    slice.n_key = 65537;
    open_text(&out);
    assert_ok(sp_export_safetensors(&slice, false, NULL, &out, &error), error);
    assert_ok(sp_weights_parse("slice", out.data, out.size, &file, &error), error);
    assert_int_equal(sp_weights_find(file, "indices")->dtype, SP_U32);
    assert_null(sp_weights_metadata(file, "next"));
    sp_weights_close(file);
    sp_buffer_fini(&out);
}

static void test_dense_limits(void **state)
{
    (void)state;
    sp_error error = {0};
    const uint32_t all[2] = {0, 100}, some[2] = {0, 10};
    assert_ok(sp_export_dense_check(SP_EXPORT_BERTVIZ, 2, 3, all, some, 6000, &error), error);
    assert_int_equal(sp_export_dense_check(SP_EXPORT_BERTVIZ, 2, 3, all, some, 5999, &error), SP_TOO_LARGE);
    assert_non_null(strstr(error.message, "/edges"));
    assert_int_equal(sp_export_dense_check(SP_EXPORT_CIRCUITSVIS, 1, 1, all, some, 9999, &error), SP_INVALID);
    assert_string_equal(error.param, "cols");
    assert_int_equal(sp_export_dense_check(SP_EXPORT_EXBERT, 2, 1, all, all, 99999, &error), SP_INVALID);
    assert_string_equal(error.param, "layers");
    const uint32_t most[2] = {0, UINT32_MAX};
    assert_int_equal(
        sp_export_dense_check(SP_EXPORT_BERTVIZ, UINT32_MAX, UINT32_MAX, most, most, UINT64_MAX, &error),
        SP_TOO_LARGE);
}

static void test_dense(void **state)
{
    (void)state;
    sp_slice slice = small_slice();
    sp_error error = {0};
    sp_buffer out;
    open_text(&out);
    assert_ok(sp_export_dense(SP_EXPORT_BERTVIZ, &slice, 1, 1, &out, &error), error);
    sp_buffer_append(&out, "", 1);
    assert_string_equal(
        out.data, "{\"attention\":[{\"name\":null,\"attn\":[[[[1,0,0],[0,0,0],[0.1,0,1e-07]]]],"
                  "\"left_text\":[\" b\",\"<c>\",\"d\"],\"right_text\":[\"\\\"\\\\\\n\xef\xbf\xbd\",\" b\","
                  "\"<c>\"]}],\"default_filter\":\"0\",\"root_div_id\":\"bertviz\",\"layer\":null,"
                  "\"heads\":null,\"include_layers\":[1]}\n");
    sp_buffer_fini(&out);
}

/* A buffer without room fails every format with a status, never with half a file. */
static void test_no_room(void **state)
{
    (void)state;
    sp_graph_scene scene;
    sp_slice slice;
    sp_graph_scene_init(&scene, 12, 12, true);
    sp_graph_scene_whole(&scene, SP_GRAPH_GOLD, true, &slice);
    for (int i = 0; i < SP_N_EXPORTS; i++) {
        for (size_t room = 1; room < 2000; room += 211) {
            sp_buffer out;
            sp_error error = {0};
            sp_buffer_init(&out, room);
            sp_status status = sp_export_is_dense((sp_export)i)
                                   ? sp_export_dense((sp_export)i, &slice, 1, 1, &out, &error)
                                   : sp_export_slice((sp_export)i, &slice, NULL, &out, &error);
            assert_true(status == SP_TOO_LARGE || status == SP_NO_MEMORY || (!status && !out.failed));
            sp_buffer_fini(&out);
        }
    }
    sp_slice_fini(&slice);
    sp_graph_scene_fini(&scene);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_names),        cmocka_unit_test(test_csv),
    cmocka_unit_test(test_dot),          cmocka_unit_test(test_safetensors),
    cmocka_unit_test(test_wide_indices), cmocka_unit_test(test_dense_limits),
    cmocka_unit_test(test_dense),        cmocka_unit_test(test_no_room),
};
TEST_MAIN(tests)
