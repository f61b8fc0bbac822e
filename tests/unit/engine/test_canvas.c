/* engine/graph/canvas: pixels that a person would count, and that SVG says the same. */
#include <math.h>
#include <string.h>

#include "engine/graph/canvas.h"
#include "tests/support/test.h"

static const sp_rgb white = {255, 255, 255}, red = {255, 0, 0};

static void open_canvas(sp_canvas *canvas, sp_canvas_kind kind, double width, double height)
{
    sp_error error = {0};
    assert_ok(sp_canvas_init(canvas, kind, width, height, white, &error), error);
}

static const uint8_t *pixel(const sp_canvas *canvas, uint32_t x, uint32_t y)
{
    return canvas->pixels + ((size_t)y * canvas->pixel_width + x) * 3;
}

/* Number of pixels that are not the page. */
static size_t inked(const sp_canvas *canvas)
{
    size_t n = 0;
    for (size_t i = 0; i < (size_t)canvas->pixel_width * canvas->pixel_height; i++)
        n += memcmp(canvas->pixels + 3 * i, &white, 3) != 0;
    return n;
}

static void test_rects(void **state)
{
    (void)state;
    sp_canvas canvas;
    open_canvas(&canvas, SP_CANVAS_PNG, 20, 10);
    assert_int_equal(canvas.pixel_width, 40);
    sp_canvas_rects(&canvas, &(sp_rect){2, 3, 4, 5}, 1, red);
    assert_int_equal(inked(&canvas), 8 * 10);
    assert_memory_equal(pixel(&canvas, 4, 6), &red, 3);
    assert_memory_equal(pixel(&canvas, 11, 15), &red, 3);
    assert_memory_equal(pixel(&canvas, 12, 15), &white, 3);
    /* Thinner than a pixel, and partly outside. */
    sp_canvas_rects(&canvas, &(sp_rect){10, 0, 0.1, 0.1}, 1, red);
    sp_canvas_rects(&canvas, &(sp_rect){19, -3, 9, 4}, 1, red);
    assert_int_equal(inked(&canvas), 80 + 1 + 4);
    sp_canvas_fini(&canvas);
}

/* A line covers its length times its width, whatever its direction. */
static void test_lines(void **state)
{
    (void)state;
    static const sp_point ends[] = {{90, 50}, {50, 90}, {85, 70}, {20, 75}, {52, 10}};
    for (size_t e = 0; e < COUNT_OF(ends); e++) {
        sp_canvas canvas;
        double area = 0, dx = ends[e].x - 50, dy = ends[e].y - 50;
        open_canvas(&canvas, SP_CANVAS_PNG, 100, 100);
        sp_canvas_line(&canvas, (sp_point){50, 50}, ends[e], 3, red, 1);
        for (uint32_t y = 0; y < 200; y++)
            for (uint32_t x = 0; x < 200; x++) area += (255 - pixel(&canvas, x, y)[1]) / 255.0;
        double length = 2 * sqrt(dx * dx + dy * dy), expected = length * 6 + 3.14159 * 9;
        assert_true(fabs(area - expected) < 0.03 * expected);
        sp_canvas_fini(&canvas);
    }
}

static void test_marks(void **state)
{
    (void)state;
    sp_canvas canvas;
    open_canvas(&canvas, SP_CANVAS_PNG, 20, 20);
    sp_canvas_marks(&canvas, SP_MARK_RING, &(sp_point){10, 10}, 1, 6, 2, red);
    assert_memory_equal(pixel(&canvas, 20, 20), &white, 3); /* the ring is open */
    assert_memory_equal(pixel(&canvas, 32, 20), &red, 3);
    assert_memory_equal(pixel(&canvas, 20, 8), &red, 3);
    sp_canvas_fini(&canvas);
    open_canvas(&canvas, SP_CANVAS_PNG, 20, 20);
    sp_canvas_marks(&canvas, SP_MARK_CROSS, &(sp_point){10, 10}, 1, 5, 2, red);
    assert_memory_equal(pixel(&canvas, 20, 20), &red, 3);
    assert_memory_equal(pixel(&canvas, 12, 28), &red, 3);
    assert_memory_equal(pixel(&canvas, 20, 10), &white, 3);
    sp_canvas_fini(&canvas);
}

/* Cells smaller than a pixel still show. */
static void test_cells(void **state)
{
    (void)state;
    sp_canvas canvas;
    uint8_t levels[400] = {0};
    sp_rgb ramp[256];
    for (int i = 0; i < 256; i++) ramp[i] = red;
    open_canvas(&canvas, SP_CANVAS_PNG, 20, 20);
    levels[37] = 9;
    sp_canvas_cells(&canvas, (sp_rect){2, 2, 10, 1}, levels, 1, 400, ramp);
    assert_int_equal(inked(&canvas), 2); /* one pixel wide, two high */
    sp_canvas_fini(&canvas);
}

static void test_svg(void **state)
{
    (void)state;
    sp_canvas canvas;
    sp_buffer out;
    sp_error error = {0};
    uint8_t levels[6] = {0, 3, 3, 3, 0, 3};
    sp_rgb ramp[256] = {[3] = {1, 2, 3}};
    sp_buffer_init(&out, 1 << 16);
    open_canvas(&canvas, SP_CANVAS_SVG, 30, 20);
    sp_canvas_cells(&canvas, (sp_rect){1, 2, 6, 4}, levels, 2, 3, ramp);
    sp_canvas_text(&canvas, SP_FONT_TEXT, (sp_point){5, 9}, "<b>", 3, red, SP_START, false);
    sp_canvas_text(&canvas, SP_FONT_TEXT, (sp_point){5, 9}, "x", 1, red, SP_START, true);
    assert_ok(sp_canvas_finish(&canvas, "a < b", "\"", &out, &error), error);
    sp_buffer_append(&out, "", 1);
    assert_non_null(strstr(out.data, "<title>a &lt; b</title>\n<desc>&quot;</desc>"));
    assert_non_null(strstr(out.data, "d=\"M3 2h4v2h-4zM1 4h2v2h-2zM5 4h2v2h-2z\" fill=\"#010203\""));
    assert_non_null(strstr(out.data, ">&lt;b&gt;</text>"));
    assert_non_null(strstr(
        out.data,
        "<text transform=\"translate( 5, 9)rotate(-90)\" fill=\"#ff0000\" textLength=\"6.51\">x</text>"));
    assert_null(strstr(out.data, "style="));
    sp_canvas_fini(&canvas);
    sp_buffer_fini(&out);
}

static void test_too_large(void **state)
{
    (void)state;
    sp_canvas canvas;
    sp_error error = {0};
    assert_int_equal(sp_canvas_init(&canvas, SP_CANVAS_SVG, 5000, 5000, white, &error), SP_TOO_LARGE);
    assert_int_equal(sp_canvas_init(&canvas, SP_CANVAS_PNG, NAN, 5, white, &error), SP_TOO_LARGE);
    open_canvas(&canvas, SP_CANVAS_PNG, 3000, 3000); /* single size */
    assert_int_equal(canvas.pixel_width, 3000);
    sp_canvas_fini(&canvas);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rects), cmocka_unit_test(test_lines), cmocka_unit_test(test_marks),
    cmocka_unit_test(test_cells), cmocka_unit_test(test_svg),   cmocka_unit_test(test_too_large),
};
TEST_MAIN(tests)
