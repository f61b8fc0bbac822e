/* Names of graphs and the fixed-point form of weights (engine/graph/slice.h). */
#include "tests/support/test.h"

#include <math.h>

#include "engine/graph/slice.h"

static void test_names(void **state)
{
    (void)state;
    static const char *const expected[] = {"gold", "pred", "both", "missed", "extra", "after"};
    for (int i = 0; i < SP_N_GRAPHS; i++) {
        sp_graph graph = SP_N_GRAPHS;
        assert_string_equal(sp_graph_name((sp_graph)i), expected[i]);
        assert_true(sp_graph_find(expected[i], &graph));
        assert_int_equal(graph, i);
    }
    sp_graph graph;
    assert_false(sp_graph_find("Gold", &graph));
    assert_false(sp_graph_find("", &graph));
}

/* Every fixed-point value reads back to itself; no weight above 0 becomes 0; the error stays below one step.
 */
static void test_u16(void **state)
{
    (void)state;
    for (uint32_t u = 0; u <= 65535; u++)
        assert_int_equal(sp_weight_to_u16(sp_weight_from_u16((uint16_t)u)), u);
    assert_int_equal(sp_weight_to_u16(1e-30f), 1);
    assert_int_equal(sp_weight_to_u16(1.0000001f), 65535);
    assert_int_equal(sp_weight_to_u16(0.0f), 0);
    for (double w = 1e-7; w < 1; w *= 1.0173) {
        double back = (double)sp_weight_from_u16(sp_weight_to_u16((float)w));
        assert_true(back > 0);
        assert_true(fabs(back - w) <= 1.0 / 65535 + 1e-9);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_names),
    cmocka_unit_test(test_u16),
};
TEST_MAIN(tests)
