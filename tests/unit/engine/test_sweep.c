/* Sweeps: fronts by hand, sweep.json there and back and its refusals, selections of grids, the page. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/evaluate/sweep.h"
#include "engine/evaluate/sweep_grid.h"

static sp_sweep_point point(const char *grid, double value, double sparsity, double recall, double perplexity)
{
    return (sp_sweep_point){.attention = "{\"backend\":\"dense\"}",
                            .grid = grid,
                            .value = value,
                            .device = "cpu",
                            .length = 512,
                            .windows = 2,
                            .density = 1 - sparsity,
                            .recall = recall,
                            .mass = recall,
                            .perplexity = perplexity,
                            .perplexity_dense = 10,
                            .prefill_seconds = 0.5,
                            .prefill_seconds_dense = 1,
                            .decode_seconds = 0.25,
                            .decode_seconds_dense = 0.125};
}

/* Recall: a, b, d and the first of the equals d and e; c has less recall than b though it is less sparse.
 * Perplexity: h sees later tokens, and b's is worse than d's though b is less sparse. */
static void fill(sp_sweep *sweep)
{
    sp_error error = {0};
    const sp_sweep_point points[] = {
        point("a", NAN, 0, 1, 10),    point("b", 1, 0.5, 0.9, 13), point("c", 2, 0.4, 0.8, 10.5),
        point("d", 3, 0.8, 0.7, 12),  point("e", 4, 0.8, 0.7, 12), point("f", 5, 0.9, 0.2, 40),
        point("g", 6, 0.85, NAN, 30),
    };
    sp_sweep_init(sweep);
    for (size_t i = 0; i < COUNT_OF(points); i++) assert_ok(sp_sweep_add(sweep, &points[i], &error), error);
    sp_sweep_point later = point("h", 7, 0.95, 0.1, 5), longer = point("i", 8, 0.1, 0.5, 11);
    later.sees_later = true;
    later.decode_seconds = (double)NAN;
    longer.length = 1024;
    assert_ok(sp_sweep_add(sweep, &later, &error), error);
    assert_ok(sp_sweep_add(sweep, &longer, &error), error);
    (void)snprintf(sweep->model, sizeof sweep->model, "%s", "abc");
    (void)snprintf(sweep->model_name, sizeof sweep->model_name, "%s", "a <b> & \"c\"");
    (void)snprintf(sweep->text_sha256, sizeof sweep->text_sha256, "%s", "def");
    sp_sweep_fronts(sweep);
}

static void test_fronts(void **state)
{
    (void)state;
    static const bool recall[] = {1, 1, 0, 1, 0, 1, 0, 1, 1}, perplexity[] = {1, 0, 1, 1, 0, 1, 1, 0, 1};
    sp_sweep sweep;
    fill(&sweep);
    for (size_t i = 0; i < sweep.n_points; i++) {
        assert_int_equal(sweep.points[i].recall_front, recall[i]);
        assert_int_equal(sweep.points[i].perplexity_front, perplexity[i]);
    }
    for (size_t i = 0; i < sweep.n_points; i++) /* monotone: sparser is worse */
        for (size_t k = 0; k < sweep.n_points; k++) {
            const sp_sweep_point *a = &sweep.points[i], *b = &sweep.points[k];
            if (a->length != b->length || a->density <= b->density) continue;
            if (a->recall_front && b->recall_front) assert_true(a->recall > b->recall);
            if (a->perplexity_front && b->perplexity_front) assert_true(a->perplexity < b->perplexity);
        }
    sp_sweep_fini(&sweep);
}

static void assert_same(double a, double b)
{
    assert_true(a == b || (isnan(a) && isnan(b)));
}

static void test_json(void **state)
{
    (void)state;
    sp_sweep sweep, again;
    sp_buffer text, second;
    sp_error error = {0};
    fill(&sweep);
    sp_buffer_init(&text, 1 << 20);
    sp_buffer_init(&second, 1 << 20);
    sp_sweep_write_json(&sweep, &text);
    sp_sweep_init(&again);
    assert_ok(sp_sweep_parse("s.json", text.data, text.size, &again, &error), error);
    assert_int_equal(again.n_points, sweep.n_points);
    assert_string_equal(again.model, "abc");
    assert_string_equal(again.model_name, sweep.model_name);
    for (size_t i = 0; i < sweep.n_points; i++) {
        const sp_sweep_point *a = &sweep.points[i], *b = &again.points[i];
        assert_string_equal(a->attention, b->attention);
        assert_string_equal(a->grid, b->grid);
        assert_same(a->value, b->value);
        assert_same(a->density, b->density);
        assert_same(a->recall, b->recall);
        assert_same(a->decode_seconds, b->decode_seconds);
        assert_int_equal(a->sees_later, b->sees_later);
        assert_int_equal(a->perplexity_front, b->perplexity_front);
    }
    assert_ptr_equal(sp_sweep_find(&again, "{\"backend\":\"dense\"}", "cpu", 1024, 2), &again.points[8]);
    assert_null(sp_sweep_find(&again, "{\"backend\":\"dense\"}", "cpu", 1024, 3));
    assert_null(sp_sweep_find(&again, "{\"backend\":\"dense\"}", "cuda", 1024, 2));
    sp_sweep_write_json(&again, &second);
    assert_int_equal(second.size, text.size);
    assert_memory_equal(second.data, text.data, text.size);
    sp_buffer_fini(&text);
    sp_buffer_fini(&second);
    sp_sweep_fini(&sweep);
    sp_sweep_fini(&again);
}

static void test_refused(void **state)
{
    (void)state;
#define HEAD "{\"format\":\"sparsed.sweep.v1\",\"model\":\"a\",\"text_sha256\":\"b\",\"points\":"
#define REST                                                                                                 \
    "\"device\":\"cpu\",\"length\":64,\"density\":0.5,\"perplexity\":2,\"perplexity_dense\":1,"              \
    "\"prefill_seconds\":1,\"prefill_seconds_dense\":1}]}"
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"[]", "one JSON object"},
        {"{", "s.json"},
        {"{}", "format is \"\""},
        {"{\"format\":\"sparsed.sweep.v2\"}", "format is \"sparsed.sweep.v2\""},
        {"{\"format\":7}", "format must be a string"},
        {HEAD "{}}", "points must be an array"},
        {HEAD "[7]}", "point 0 is no object"},
        {HEAD "[{" REST, "attention must be there"},
        {HEAD "[{\"attention\":7," REST, "attention must be an attention object"},
        {HEAD "[{\"attention\":\"dense\",\"recall\":1.5," REST, "recall must be a number from 0 to 1"},
        {HEAD "[{\"attention\":\"dense\",\"windows\":1.5," REST, "windows must be a number"},
        {HEAD "[{\"attention\":\"dense\",\"grid\":1," REST, "grid must be a string"},
        {HEAD "[{\"attention\":\"dense\",\"selection_sees_later_tokens\":1," REST, "must be true or false"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_sweep sweep;
        sp_error error = {0};
        sp_sweep_init(&sweep);
        assert_int_equal(sp_sweep_parse("s.json", cases[i].text, strlen(cases[i].text), &sweep, &error),
                         SP_DATA);
        if (!strstr(error.message, cases[i].words)) fail_msg("%s: %s", cases[i].text, error.message);
        sp_sweep_fini(&sweep);
    }
    static const char good[] = HEAD "[{\"attention\":{\"backend\" : \"dense\"},\"later\":{\"x\":[1]}," REST;
    sp_sweep sweep;
    sp_error error = {0};
    sp_sweep_init(&sweep);
    assert_ok(sp_sweep_parse("s.json", good, sizeof good - 1, &sweep, &error), error);
    assert_string_equal(sweep.points[0].attention, "{\"backend\" : \"dense\"}");
    assert_true(isnan(sweep.points[0].recall) && isnan(sweep.points[0].decode_seconds));
    sp_sweep_fini(&sweep);
}

static size_t selected(const char *backends, const char *grids, const char *last)
{
    sp_grid_item *items = NULL;
    sp_error error = {0};
    size_t n = 0;
    assert_ok(sp_grid_select(backends, grids, &items, &n, &error), error);
    assert_string_equal(items[0].attention, "{\"backend\":\"dense\"}");
    if (last) assert_string_equal(items[n - 1].attention, last);
    sp_free(items);
    return n;
}

static void test_grids(void **state)
{
    (void)state;
    assert_int_equal(selected("dense", NULL, NULL), 1);
    assert_int_equal(selected("strided", NULL, "{\"backend\":\"strided\",\"params\":{\"stride\":256}}"), 10);
    assert_int_equal(selected(NULL, "window=1,3,65",
                              "{\"backend\":\"window\",\"params\":{\"window\":65,\"global_first\":1}}"),
                     4);
    assert_int_equal(selected("fixed,window", "strided;window=5;fixed=8,9",
                              "{\"backend\":\"fixed\",\"params\":{\"stride\":9,\"summary\":2}}"),
                     4);
    assert_true(selected(NULL, NULL, NULL) > 40);
    static const char *const bad[][2] = {
        {"windw", NULL},     {NULL, "windw"},        {NULL, "window=1,x"},  {"", NULL},
        {NULL, "window=-1"}, {NULL, "window=1e999"}, {"window", "dot-keep"}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        sp_grid_item *items = NULL;
        size_t n;
        sp_error error = {0};
        assert_int_equal(sp_grid_select(bad[i][0], bad[i][1], &items, &n, &error), SP_USAGE);
        assert_string_equal(error.param, bad[i][0] ? "backends" : "grid");
    }
}

static bool has(const sp_buffer *text, const char *words)
{
    return memmem(text->data, text->size, words, strlen(words)) != NULL;
}

/* Nothing from elsewhere, no scripts, names escaped, one row a point and one marker a drawn point. */
static void test_page(void **state)
{
    (void)state;
    sp_sweep sweep;
    sp_buffer page, csv;
    fill(&sweep);
    sp_buffer_init(&page, 1 << 20);
    sp_buffer_init(&csv, 1 << 20);
    sp_sweep_write_html(&sweep, &page);
    assert_false(page.failed);
    static const char *const foreign[] = {"<script", "src=", "@import", "url(", "<link", "<b>", "nan", "inf"};
    for (size_t i = 0; i < COUNT_OF(foreign); i++)
        if (has(&page, foreign[i])) fail_msg("the page has %s", foreign[i]);
    assert_true(has(&page, "a &lt;b&gt; &amp; &quot;c&quot;") || has(&page, "a &lt;b> &amp; &quot;c&quot;"));
    assert_true(has(&page, "Windows of 512 tokens") && has(&page, "Windows of 1024 tokens"));
    assert_true(has(&page, "sparsity 0.800, recall 0.700, mass 0.700, perplexity 12.00 (+20.00 %)"));
    assert_true(has(&page, "prefers-color-scheme:dark") && has(&page, "aria-labelledby"));
    size_t rows = 0;
    for (const char *at = page.data;
         (at = memmem(at, page.size - (size_t)(at - page.data), "scope=\"row\"", 11)); at++)
        rows++;
    assert_int_equal(rows, sweep.n_points);
    sp_sweep_write_csv(&sweep, &csv);
    assert_true(has(&csv, "\"d\",3,\"{\"\"backend\"\":\"\"dense\"\"}\",\"cpu\",512,2,0.8"));
    size_t lines = 0;
    for (size_t i = 0; i < csv.size; i++) lines += csv.data[i] == '\n';
    assert_int_equal(lines, sweep.n_points + 1);
    sp_buffer_fini(&page);
    sp_buffer_fini(&csv);
    sp_sweep_fini(&sweep);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_fronts), cmocka_unit_test(test_json), cmocka_unit_test(test_refused),
    cmocka_unit_test(test_grids),  cmocka_unit_test(test_page),
};
TEST_MAIN(tests)
