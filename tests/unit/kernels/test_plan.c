/* sp_plan: tiles, groups, intervals and invariants, against bit matrices filled by plain loops. */
#include "tests/support/test.h"

#include <string.h>

#include "kernels/plan.h"
#include "tests/support/plan_group.h"
#include "tests/support/random.h"

enum { MAX_N = 400 };

/* An edge set as a matrix: rows of the chunk by keys. */
static uint8_t matrix[MAX_N][MAX_N];
static uint32_t row_keys[MAX_N];

/* The plan's rows of one head equal the matrix; counts equal. */
static void check_matrix(const sp_plan *plan, uint32_t head)
{
    const sp_plan_shape *shape = &plan->shape;
    sp_error error;
    assert_ok(sp_plan_validate(plan, &error), error);
    uint64_t edges = 0;
    for (uint32_t r = 0; r < shape->rows; r++) {
        size_t n = sp_plan_row(plan, head, shape->position + r, row_keys), at = 0;
        for (uint32_t key = 0; key < shape->n_keys; key++) {
            bool has = at < n && row_keys[at] == key;
            if (has != matrix[r][key]) fail_msg("row %u key %u: plan says %d", shape->position + r, key, has);
            at += has;
        }
        assert_int_equal(at, n);
        edges += n;
    }
    assert_int_equal(sp_plan_count_head(plan, head), edges);
}

static sp_plan_counts counted(const sp_plan *plan)
{
    sp_plan_counts counts;
    sp_plan_count(plan, &counts);
    return counts;
}

static sp_plan begun(sp_plan_shape shape)
{
    sp_plan plan;
    sp_error error;
    sp_plan_init(&plan, 1 << 24);
    assert_ok(sp_plan_begin(&plan, &shape, &error), error);
    return plan;
}

/* --- intervals --- */
typedef struct rule {
    uint64_t seed;
    uint32_t n_keys, n_intervals;
    const uint64_t *columns; /* a word a key tile, or NULL */
    uint32_t n_key_tiles;
} rule;

static uint32_t random_row(const void *context, uint32_t query, sp_interval *out)
{
    const rule *rules = context;
    test_random random = {rules->seed + query};
    uint32_t at = 0, n = 0;
    for (uint32_t i = 0; i < rules->n_intervals; i++) {
        uint32_t begin = at + (uint32_t)test_random_below(&random, 90);
        uint32_t end = begin + (uint32_t)test_random_below(&random, 200);
        if (end > begin) out[n++] = (sp_interval){begin, end};
        at = end;
    }
    return n;
}

static uint64_t random_columns(const void *context, uint32_t *key_tile)
{
    const rule *rules = context;
    while (*key_tile < rules->n_key_tiles && rules->columns[*key_tile] == 0) ++*key_tile;
    return *key_tile < rules->n_key_tiles ? rules->columns[*key_tile] : 0;
}

static void fill_matrix(const sp_plan_shape *shape, const rule *rules)
{
    memset(matrix, 0, sizeof matrix);
    for (uint32_t r = 0; r < shape->rows; r++) {
        sp_interval pieces[SP_MAX_INTERVALS];
        uint32_t n = random_row(rules, shape->position + r, pieces);
        for (uint32_t key = 0; key < shape->n_keys; key++) {
            if (shape->causal && key > shape->position + r) continue;
            for (uint32_t i = 0; i < n; i++) matrix[r][key] |= key >= pieces[i].begin && key < pieces[i].end;
            if (rules->columns)
                matrix[r][key] = matrix[r][key] || (rules->columns[key / 64] >> (key % 64) & 1);
        }
    }
}

static void test_intervals(void **state)
{
    (void)state;
    test_random random = {11};
    sp_error error;
    for (int round = 0; round < 300; round++) {
        sp_plan_shape shape = {.n_heads = 2, .n_lists = 1, .causal = round % 2 == 0};
        shape.position = (uint32_t)test_random_below(&random, 200);
        shape.rows = 1 + (uint32_t)test_random_below(&random, 199);
        shape.n_keys =
            round % 5 == 0 ? shape.position + shape.rows : (uint32_t)test_random_below(&random, MAX_N);
        uint64_t columns[MAX_N / 64 + 1];
        for (size_t i = 0; i < COUNT_OF(columns); i++) {
            columns[i] = round % 3 == 1 && test_random_below(&random, 2) ? test_random_u64(&random) : 0;
        }
        rule rules = {.seed = (uint64_t)round * 1000,
                      .n_intervals = round % 4,
                      .columns = round % 3 ? columns : NULL,
                      .n_key_tiles = COUNT_OF(columns)};
        fill_matrix(&shape, &rules);
        sp_plan plan = begun(shape);
        assert_ok(
            sp_plan_add_rows(&plan, 0, random_row, rules.columns ? random_columns : NULL, &rules, &error),
            error);
        assert_ok(sp_plan_end(&plan, &error), error);
        check_matrix(&plan, 1);
        sp_plan_fini(&plan);
    }
}

static uint32_t everything(const void *context, uint32_t query, sp_interval *out)
{
    (void)context, (void)query;
    out[0] = (sp_interval){0, UINT32_MAX};
    return 1;
}

/* The cheapest kinds: dense causal is full tiles and one causal tile on the diagonal. */
static void test_tile_kinds(void **state)
{
    (void)state;
    sp_error error;
    sp_plan plan =
        begun((sp_plan_shape){.n_heads = 1, .n_lists = 1, .rows = 150, .n_keys = 150, .causal = true});
    assert_ok(sp_plan_add_intervals(&plan, 0, everything, NULL, &error), error);
    assert_ok(sp_plan_end(&plan, &error), error);
    const uint32_t kinds[] = {SP_TILE_CAUSAL, SP_TILE_FULL, SP_TILE_CAUSAL,
                              SP_TILE_FULL,   SP_TILE_FULL, SP_TILE_CAUSAL};
    assert_int_equal(plan.n_tiles, COUNT_OF(kinds));
    for (size_t i = 0; i < COUNT_OF(kinds); i++) assert_int_equal(plan.tiles[i].kind, kinds[i]);
    assert_int_equal(plan.n_words, 0);
    sp_plan_counts counts = counted(&plan);
    assert_int_equal(counts.edges, 150 * 151 / 2);
    assert_int_equal(counts.pairs, 150 * 151 / 2);
    assert_int_equal(counts.rows_empty, 0);
    sp_plan_fini(&plan);
}

/* --- tiles and groups by hand --- */
static const uint32_t group_queries[] = {3, 70, 71};
static const uint32_t group_keys[] = {0, 2, 65, 66, 90};
static const uint32_t group_ranges[] = {0, 1, 1, 2, 0, 2, 2, 5, 1, 1, 3, 4};

static plan_group by_hand(void)
{
    return (plan_group){.n_queries = 3,
                        .n_keys = 5,
                        .n_ranges = 2,
                        .queries = group_queries,
                        .keys = group_keys,
                        .ranges = group_ranges};
}

static void test_groups(void **state)
{
    (void)state;
    sp_error error;
    sp_plan plan = begun((sp_plan_shape){.n_heads = 2, .n_lists = 2, .rows = 100, .n_keys = 100});
    uint64_t column = 1u << 1, masked[64] = {0};
    masked[6] = (uint64_t)1 << 3;
    assert_ok(sp_plan_add_tile(&plan, 1, 0, 0, SP_TILE_COLUMNS, &column, &error), error);
    assert_ok(sp_plan_add_tile(&plan, 1, 1, 1, SP_TILE_MASKED, masked, &error), error);
    plan_group group = by_hand();
    group.list = 1;
    assert_ok(plan_add_group(&plan, &group, &error), error);
    /* a second round: the mask drops what round 0 holds (rank 0 of row 70) and keeps rank 1 */
    const uint32_t queries[] = {70}, keys[] = {0, 99}, ranges[] = {0, 2};
    const uint64_t mask = 2;
    plan_group later = {.list = 1,
                        .round = 1,
                        .n_queries = 1,
                        .n_keys = 2,
                        .n_ranges = 1,
                        .queries = queries,
                        .keys = keys,
                        .ranges = ranges,
                        .masks = &mask};
    assert_ok(plan_add_group(&plan, &later, &error), error);
    assert_ok(sp_plan_end(&plan, &error), error);

    memset(matrix, 0, sizeof matrix);
    check_matrix(&plan, 0);
    for (uint32_t r = 0; r < 64; r++) matrix[r][1] = 1;
    matrix[70][67] = matrix[3][0] = matrix[3][2] = 1;
    matrix[70][0] = matrix[70][2] = matrix[70][65] = matrix[70][66] = matrix[70][90] = matrix[70][99] = 1;
    matrix[71][66] = 1;
    check_matrix(&plan, 1);
    sp_plan_counts counts = counted(&plan);
    assert_int_equal(counts.edges, 64 + 10);
    assert_int_equal(counts.pairs, 2 * 100 * 100);
    assert_int_equal(counts.rows_empty, 100 + (100 - 66));
    assert_int_equal(counts.tiles, 2);
    assert_int_equal(counts.groups, 2);
    sp_plan_fini(&plan);
}

static void test_print(void **state)
{
    (void)state;
    sp_error error;
    sp_plan plan = begun((sp_plan_shape){.n_heads = 1, .n_lists = 1, .rows = 100, .n_keys = 100});
    assert_ok(sp_plan_add_tile(&plan, 0, 0, 1, SP_TILE_FULL, NULL, &error), error);
    plan_group group = by_hand();
    assert_ok(plan_add_group(&plan, &group, &error), error);
    assert_ok(sp_plan_end(&plan, &error), error);
    sp_buffer text;
    sp_buffer_init(&text, 4096);
    sp_plan_print(&plan, &text);
    sp_buffer_append(&text, "", 1);
    assert_string_equal(text.data, "plan: 1 heads, 1 lists, rows 100 from 0, 100 keys\n"
                                   "list 0, query tile 0: 1 full\n"
                                   "group list 0 round 0: 5 keys 0 2 65 66 90\n"
                                   "  query 3: [0, 1) [1, 2)\n"
                                   "  query 70: [0, 2) [2, 5)\n"
                                   "  query 71: [1, 1) [3, 4)\n");
    sp_buffer_fini(&text);
    sp_plan_fini(&plan);
}

static void test_pairs(void **state)
{
    (void)state;
    for (uint32_t position = 0; position < 9; position++) {
        for (uint32_t n_keys = 0; n_keys < 12; n_keys++) {
            sp_error error;
            sp_plan plan = begun((sp_plan_shape){.n_heads = 3,
                                                 .n_lists = 3,
                                                 .position = position,
                                                 .rows = 5,
                                                 .n_keys = n_keys,
                                                 .causal = true});
            assert_ok(sp_plan_end(&plan, &error), error);
            uint64_t pairs = 0;
            for (uint32_t i = position; i < position + 5; i++) {
                for (uint32_t j = 0; j < n_keys; j++) pairs += j <= i;
            }
            assert_int_equal(counted(&plan).pairs, 3 * pairs);
            assert_int_equal(counted(&plan).rows_empty, 15);
            sp_plan_fini(&plan);
        }
    }
}

/* --- refusals --- */
static void test_builder_refuses(void **state)
{
    (void)state;
    sp_error error;
    const sp_plan_shape bad[] = {{.n_heads = 0, .n_lists = 1},
                                 {.n_heads = 2, .n_lists = 3},
                                 {.n_heads = 2, .n_lists = 0},
                                 {.n_heads = 1, .n_lists = 1, .position = UINT32_MAX, .rows = 2},
                                 {.n_heads = 1, .n_lists = 1, .rows = 1, .n_keys = UINT32_MAX}};
    sp_plan plan;
    sp_plan_init(&plan, 0);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(sp_plan_begin(&plan, &bad[i], &error), SP_INVALID);
    }
    sp_plan_fini(&plan);

    plan = begun((sp_plan_shape){.n_heads = 2, .n_lists = 2, .position = 64, .rows = 100, .n_keys = 200});
    uint64_t words[64] = {1};
    assert_ok(sp_plan_add_tile(&plan, 0, 1, 1, SP_TILE_FULL, NULL, &error), error);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 1, 1, SP_TILE_FULL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 0, 2, SP_TILE_FULL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 3, 2, SP_TILE_FULL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 2, 1, 2, SP_TILE_FULL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 1, 4, SP_TILE_FULL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 1, 2, SP_TILE_CAUSAL, NULL, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 1, 2, SP_TILE_FULL, words, &error), SP_INVALID);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 1, 2, SP_TILE_MASKED, NULL, &error), SP_INVALID);
    assert_ok(sp_plan_add_tile(&plan, 1, 1, 0, SP_TILE_MASKED, words, &error), error);
    assert_int_equal(sp_plan_add_tile(&plan, 0, 2, 0, SP_TILE_FULL, NULL, &error), SP_INVALID);
    plan_group group = by_hand();
    group.list = 2;
    assert_int_equal(plan_add_group(&plan, &group, &error), SP_INVALID);
    group.list = 0, group.n_ranges = 3;
    assert_int_equal(plan_add_group(&plan, &group, &error), SP_INVALID);
    sp_plan_fini(&plan);
}

static void test_memory_is_bounded(void **state)
{
    (void)state;
    sp_error error;
    sp_plan plan;
    sp_plan_init(&plan, 2000);
    sp_plan_shape shape = {.n_heads = 1, .n_lists = 1, .rows = 64, .n_keys = 100000};
    assert_ok(sp_plan_begin(&plan, &shape, &error), error);
    assert_int_equal(sp_plan_add_intervals(&plan, 0, everything, NULL, &error), SP_TOO_LARGE);
    assert_true(plan.bytes <= 2000);
    assert_true(plan.n_tiles > 100); /* the budget is used before it is refused */
    shape.n_heads = 1000;
    assert_int_equal(sp_plan_begin(&plan, &shape, &error), SP_TOO_LARGE);
    sp_plan_fini(&plan);
}

/* Each broken invariant by itself, on a plan that is otherwise valid. */
typedef enum breakage {
    FUTURE_TILE,
    FUTURE_GROUP,
    TWICE_TILE_GROUP,
    TWO_GROUPS_A_ROUND,
    TWICE_ROUNDS,
    UNSORTED_KEYS,
    UNSORTED_QUERIES,
    RANGE_BACK,
    RANGE_BEYOND,
    KEY_BEYOND,
    QUERY_OUTSIDE,
    HEAD_LIST,
    TABLE_FALLS,
    TILE_ORDER,
    TILE_KIND,
    WORD_OUTSIDE,
    MASKS_OUTSIDE,
    NUMBERS_OUTSIDE,
    GROUP_ORDER,
    BREAKAGES
} breakage;

static void break_plan(sp_plan *plan, breakage what)
{
    sp_group *first = &plan->groups[0], *last = &plan->groups[1];
    uint32_t *numbers = plan->numbers;
    switch (what) {
    case FUTURE_TILE:
        plan->tiles[1].kind = SP_TILE_FULL;
        break;
    case FUTURE_GROUP:
        numbers[first->queries] = 64;
        break;
    case TWICE_TILE_GROUP:
        numbers[first->ranges] = 0;
        break;
    case TWO_GROUPS_A_ROUND:
        last->round = 0;
        break;
    case TWICE_ROUNDS:
        last->masks = SP_NO_MASKS;
        break;
    case UNSORTED_KEYS:
        numbers[first->keys] = 80;
        break;
    case UNSORTED_QUERIES:
        numbers[first->queries] = 95;
        break;
    case RANGE_BACK:
        numbers[first->ranges + 1] = 0;
        break;
    case RANGE_BEYOND:
        numbers[first->ranges + 1] = 9;
        break;
    case KEY_BEYOND:
        numbers[first->keys + 3] = 100;
        break;
    case QUERY_OUTSIDE:
        numbers[first->queries + 1] = 100;
        break;
    case HEAD_LIST:
        plan->head_list[1] = 2;
        break;
    case TABLE_FALLS:
        plan->tile_begin[1] = 9;
        break;
    case TILE_ORDER:
        plan->tiles[1].key_tile = 0;
        break;
    case TILE_KIND:
        plan->tiles[0].kind = 4;
        break;
    case WORD_OUTSIDE:
        plan->tiles[0].word = 2;
        break;
    case MASKS_OUTSIDE:
        last->masks = 3;
        break;
    case NUMBERS_OUTSIDE:
        last->keys = (uint32_t)plan->n_numbers - 1;
        break;
    case GROUP_ORDER:
        first->round = 2;
        break;
    case BREAKAGES:
        break;
    }
}

static void test_validate_refuses(void **state)
{
    (void)state;
    for (int what = 0; what <= BREAKAGES; what++) {
        sp_error error;
        sp_plan plan = begun((sp_plan_shape){
            .n_heads = 2, .n_lists = 2, .position = 64, .rows = 36, .n_keys = 100, .causal = true});
        uint64_t column = 1;
        assert_ok(sp_plan_add_tile(&plan, 0, 1, 0, SP_TILE_COLUMNS, &column, &error), error);
        assert_ok(sp_plan_add_tile(&plan, 0, 1, 1, SP_TILE_CAUSAL, NULL, &error), error);
        const uint32_t queries[] = {70, 90}, keys[] = {0, 5, 40, 50}, ranges[] = {1, 3, 1, 4};
        const uint32_t queries_2[] = {90}, keys_2[] = {5, 60}, ranges_2[] = {0, 2};
        const uint64_t masks_2[] = {2};
        const plan_group groups[] = {
            {.n_queries = 2, .n_keys = 4, .n_ranges = 1, .queries = queries, .keys = keys, .ranges = ranges},
            {.round = 1,
             .n_queries = 1,
             .n_keys = 2,
             .n_ranges = 1,
             .queries = queries_2,
             .keys = keys_2,
             .ranges = ranges_2,
             .masks = masks_2}};
        for (size_t i = 0; i < 2; i++) assert_ok(plan_add_group(&plan, &groups[i], &error), error);
        assert_ok(sp_plan_end(&plan, &error), error);
        assert_ok(sp_plan_validate(&plan, &error), error);
        if (what == FUTURE_GROUP) { /* query 64 with key 70: swap in a key behind it */
            plan.numbers[plan.groups[0].keys + 3] = 99;
            plan.numbers[plan.groups[0].ranges + 1] = 4;
        }
        break_plan(&plan, (breakage)what);
        sp_status status = sp_plan_validate(&plan, &error);
        if (what == BREAKAGES)
            assert_int_equal(status, SP_OK);
        else if (status != SP_INTERNAL)
            fail_msg("breakage %d was accepted", what);
        sp_plan_fini(&plan);
    }
}

static uint32_t near_row(const void *context, uint32_t query, sp_interval *out)
{
    (void)context;
    out[0] = (sp_interval){query / 3, query + 1};
    return 1;
}

/* A list that repeats another has its edges, and so has a group that shares another's keys. */
static void test_shared(void **state)
{
    (void)state;
    sp_plan plan;
    sp_error error;
    sp_plan_init(&plan, 0);
    sp_plan_shape shape = {3, 3, 100, 90, 300, true};
    assert_ok(sp_plan_begin(&plan, &shape, &error), error);
    assert_int_equal(sp_plan_repeat_list(&plan, 0, 0, &error), SP_INVALID);
    assert_ok(sp_plan_add_intervals(&plan, 0, near_row, NULL, &error), error);
    assert_ok(sp_plan_repeat_list(&plan, 0, 1, &error), error);
    assert_int_equal(sp_plan_repeat_list(&plan, 0, 1, &error), SP_INVALID);
    assert_ok(sp_plan_repeat_list(&plan, 1, 2, &error), error);
    const uint32_t queries[] = {110, 120}, keys[] = {2, 5, 9, 11}, ranges[] = {0, 4, 1, 3}, later[] = {130},
                   few[] = {0, 2};
    plan_group group = {.list = 1,
                        .n_queries = 2,
                        .n_keys = 4,
                        .n_ranges = 1,
                        .queries = queries,
                        .keys = keys,
                        .ranges = ranges};
    assert_ok(plan_add_group(&plan, &group, &error), error);
    plan_group shares = {.list = 1,
                         .round = 1,
                         .n_queries = 1,
                         .n_keys = 3,
                         .n_ranges = 1,
                         .queries = later,
                         .ranges = few,
                         .holder = 1};
    plan_group wrong = shares;
    wrong.list = 2;
    assert_int_equal(plan_add_group(&plan, &wrong, &error), SP_INVALID);
    wrong = shares, wrong.n_keys = 5;
    assert_int_equal(plan_add_group(&plan, &wrong, &error), SP_INVALID);
    wrong = shares, wrong.holder = 2;
    assert_int_equal(plan_add_group(&plan, &wrong, &error), SP_INVALID);
    assert_ok(plan_add_group(&plan, &shares, &error), error);
    assert_ok(sp_plan_end(&plan, &error), error);
    assert_ok(sp_plan_validate(&plan, &error), error);
    uint32_t got[300];
    for (uint32_t head = 0; head < 3; head++) {
        for (uint32_t row = 100; row < 190; row++) {
            uint32_t listed = head != 1 ? 0 : row == 110 ? 4 : row == 120 ? 2 : row == 130 ? 2 : 0;
            assert_int_equal(sp_plan_row(&plan, head, row, got), row + 1 - row / 3 + listed);
        }
    }
    sp_plan_row(&plan, 1, 130, got);
    assert_int_equal(got[0], 2);
    assert_int_equal(got[1], 5);
    plan.groups[1].holder = 2;
    assert_int_equal(sp_plan_validate(&plan, &error), SP_INTERNAL);
    sp_plan_fini(&plan);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_intervals),
    cmocka_unit_test(test_tile_kinds),
    cmocka_unit_test(test_groups),
    cmocka_unit_test(test_print),
    cmocka_unit_test(test_pairs),
    cmocka_unit_test(test_builder_refuses),
    cmocka_unit_test(test_memory_is_bounded),
    cmocka_unit_test(test_validate_refuses),
    cmocka_unit_test(test_shared),
};
TEST_MAIN(tests)
