/* engine/graph/color: tables against published values, lightness in OKLab, contrast (WCAG), distances for
 * four kinds of colour vision (Machado, Oliveira, Fernandes 2009), scales. */
#include <math.h>
#include <stdlib.h>

#include "engine/graph/color.h"
#include "tests/support/test.h"

static void linear_of(sp_rgb color, double out[3])
{
    const uint8_t channels[3] = {color.r, color.g, color.b};
    for (int i = 0; i < 3; i++) {
        double c = channels[i] / 255.0;
        out[i] = c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4);
    }
}

/* Ottosson 2020. */
static void oklab_of(const double rgb[3], double lab[3])
{
    double l = cbrt(0.4122214708 * rgb[0] + 0.5363325363 * rgb[1] + 0.0514459929 * rgb[2]);
    double m = cbrt(0.2119034982 * rgb[0] + 0.6806995451 * rgb[1] + 0.1073969566 * rgb[2]);
    double s = cbrt(0.0883024619 * rgb[0] + 0.2817188376 * rgb[1] + 0.6299787005 * rgb[2]);
    lab[0] = 0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s;
    lab[1] = 1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s;
    lab[2] = 0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s;
}

static double lightness(sp_rgb color)
{
    double rgb[3], lab[3];
    linear_of(color, rgb);
    oklab_of(rgb, lab);
    return lab[0];
}

/* vision: 3 x 3 on linear RGB. */
static double distance(sp_rgb a, sp_rgb b, const double vision[9])
{
    double lab[2][3], sum = 0;
    const sp_rgb colors[2] = {a, b};
    for (int c = 0; c < 2; c++) {
        double rgb[3], seen[3];
        linear_of(colors[c], rgb);
        for (int i = 0; i < 3; i++)
            seen[i] = fmin(
                fmax(vision[3 * i] * rgb[0] + vision[3 * i + 1] * rgb[1] + vision[3 * i + 2] * rgb[2], 0), 1);
        oklab_of(seen, lab[c]);
    }
    for (int i = 0; i < 3; i++) sum += (lab[0][i] - lab[1][i]) * (lab[0][i] - lab[1][i]);
    return sqrt(sum);
}

static const double visions[4][9] = {
    {1, 0, 0, 0, 1, 0, 0, 0, 1},
    {0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998},
    {0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881},
    {1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900}};

/* Entries between the stops, as matplotlib 3.7 has them. */
static void test_published(void **state)
{
    (void)state;
    static const struct {
        sp_color_map map;
        int at;
        uint8_t r, g, b;
    } published[] = {
        {SP_CIVIDIS, 10, 0, 42, 95},      {SP_CIVIDIS, 64, 67, 78, 108},    {SP_CIVIDIS, 110, 109, 111, 114},
        {SP_CIVIDIS, 140, 136, 133, 120}, {SP_CIVIDIS, 190, 186, 172, 109}, {SP_CIVIDIS, 220, 218, 198, 91},
        {SP_VIRIDIS, 10, 71, 16, 99},     {SP_VIRIDIS, 64, 59, 82, 139},    {SP_VIRIDIS, 110, 39, 128, 142},
        {SP_VIRIDIS, 140, 30, 156, 137},  {SP_VIRIDIS, 190, 90, 200, 100},  {SP_VIRIDIS, 220, 162, 218, 55}};
    for (size_t i = 0; i < COUNT_OF(published); i++) {
        sp_rgb table[256];
        sp_color_table(published[i].map, table);
        assert_true(abs(table[published[i].at].r - published[i].r) <= 2);
        assert_true(abs(table[published[i].at].g - published[i].g) <= 2);
        assert_true(abs(table[published[i].at].b - published[i].b) <= 2);
    }
}

static void test_lightness(void **state)
{
    (void)state;
    for (sp_color_map map = 0; map < SP_COLOR_MAPS; map++) {
        sp_rgb table[256];
        sp_color_table(map, table);
        /* Neighbours may round to the same lightness, and each channel by half a step. */
        for (int i = 1; i < 256; i++) assert_true(lightness(table[i]) > lightness(table[i - 1]) - 0.0005);
        for (int i = 3; i < 256; i++) assert_true(lightness(table[i]) > lightness(table[i - 3]));
    }
    sp_rgb table[256];
    sp_color_table(SP_CIVIDIS, table);
    assert_true(fabs(lightness(table[0]) - 0.26) < 0.01 && fabs(lightness(table[255]) - 0.93) < 0.01);
}

/* Every edge stands out, stronger ones more, and no edge is the page. */
static void test_ramps(void **state)
{
    (void)state;
    for (sp_color_map map = 0; map < SP_COLOR_MAPS; map++) {
        for (int dark = 0; dark < 2; dark++) {
            sp_palette palette;
            sp_palette_init(&palette, map, dark);
            assert_memory_equal(&palette.ramp[0], &palette.page, sizeof(sp_rgb));
            for (int i = 1; i <= SP_RAMP_LEVELS; i++)
                assert_true(sp_color_contrast(palette.ramp[i], palette.page) >= 2.99);
            for (int i = 17; i <= SP_RAMP_LEVELS; i++)
                assert_true(sp_color_contrast(palette.ramp[i], palette.page) >
                            sp_color_contrast(palette.ramp[i - 16], palette.page));
            assert_true(sp_color_contrast(palette.ink, palette.page) >= 7);
            assert_true(sp_color_contrast(palette.muted, palette.page) >= 4.5);
        }
    }
}

static void test_differences(void **state)
{
    (void)state;
    for (int dark = 0; dark < 2; dark++) {
        sp_palette p;
        sp_palette_init(&p, SP_CIVIDIS, dark);
        const sp_rgb colors[3] = {p.both, p.missed, p.extra};
        for (int i = 0; i < 3; i++) {
            assert_true(sp_color_contrast(colors[i], p.page) >= 3);
            for (int j = 0; j < i; j++)
                for (int v = 0; v < 4; v++) assert_true(distance(colors[i], colors[j], visions[v]) >= 0.09);
        }
        /* Empty, masked and missed differ. */
        assert_true(distance(p.mask_line, p.page, visions[0]) >= 0.09);
        assert_true(distance(p.missed, p.mask_line, visions[0]) >= 0.09);
    }
}

static void test_contrast(void **state)
{
    (void)state;
    assert_true(fabs(sp_color_contrast((sp_rgb){0, 0, 0}, (sp_rgb){255, 255, 255}) - 21) < 1e-9);
    assert_true(fabs(sp_color_contrast((sp_rgb){0x76, 0x76, 0x76}, (sp_rgb){255, 255, 255}) - 4.54) < 0.01);
}

static void test_scales(void **state)
{
    (void)state;
    assert_int_equal(sp_color_level(SP_SCALE_LINEAR, 0, 0, 1), 1);
    assert_int_equal(sp_color_level(SP_SCALE_LINEAR, 1, 0, 1), 255);
    assert_int_equal(sp_color_level(SP_SCALE_LINEAR, 0.5, 0, 1), 128);
    assert_int_equal(sp_color_level(SP_SCALE_SQRT, 0.25, 0, 1), 128);
    assert_int_equal(sp_color_level(SP_SCALE_LOG, 0.01, 0.0001, 1), 128);
    assert_int_equal(sp_color_level(SP_SCALE_LOG, 0, 0.0001, 1), 1);
    assert_int_equal(sp_color_level(SP_SCALE_LOG, 1, 1, 1), 255);
    assert_int_equal(sp_color_level(SP_SCALE_SQRT, NAN, 0, 1), 1);
    assert_int_equal(sp_color_level(SP_SCALE_SQRT, 7, 0, 1), 255);
    for (sp_color_scale scale = 0; scale < SP_COLOR_SCALES; scale++) {
        for (int level = 1; level <= 255; level++) {
            double weight = sp_color_weight(scale, (level - 1) / 254.0, 0.001, 0.7);
            assert_int_equal(sp_color_level(scale, weight, 0.001, 0.7), level);
        }
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_published),   cmocka_unit_test(test_lightness), cmocka_unit_test(test_ramps),
    cmocka_unit_test(test_differences), cmocka_unit_test(test_contrast),  cmocka_unit_test(test_scales),
};
TEST_MAIN(tests)
