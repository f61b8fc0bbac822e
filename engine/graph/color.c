/* See color.h. The tables are interpolated between stops taken from the published ones: cividis (Nunez,
 * Anderton, Renslow 2018, PLoS ONE 13(7): e0199239) and viridis (van der Walt, Smith 2015, CC0), so close
 * that no channel is off by more than 2 of 255. */
#include "engine/graph/color.h"

#include <assert.h>
#include <math.h>

const char *const sp_color_map_names[SP_COLOR_MAPS] = {"cividis", "viridis", "grey"};
const char *const sp_color_scale_names[SP_COLOR_SCALES] = {"linear", "sqrt", "log"};

typedef struct stop {
    int at; /* index in the table */
    uint32_t rgb;
} stop;

static const stop cividis[] = {{0, 0x00224e},   {17, 0x002e6c},  {22, 0x003171},  {28, 0x123570},
                               {35, 0x203a6f},  {53, 0x38476c},  {92, 0x5e626e},  {125, 0x7a7a78},
                               {152, 0x938e78}, {181, 0xb0a571}, {203, 0xc7b767}, {234, 0xe9d34e},
                               {246, 0xf7de3e}, {251, 0xfde334}, {255, 0xfee838}};
static const stop viridis[] = {
    {0, 0x440154},   {13, 0x481467},  {30, 0x472a7a},  {42, 0x443983},  {58, 0x3e4c8a},  {81, 0x32648e},
    {125, 0x218e8d}, {141, 0x1e9d89}, {153, 0x22a884}, {162, 0x2ab07f}, {174, 0x3bbb75}, {193, 0x60ca60},
    {215, 0x95d840}, {233, 0xc5e021}, {240, 0xd8e219}, {246, 0xe7e419}, {255, 0xfde725}};
static const stop grey[] = {{0, 0x000000}, {255, 0xffffff}};

static sp_rgb rgb_of(uint32_t value)
{
    return (sp_rgb){(uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
}

static uint8_t mix(uint8_t from, uint8_t to, double t)
{
    return (uint8_t)lround(from + (to - from) * t);
}

static sp_rgb mix_rgb(sp_rgb from, sp_rgb to, double t)
{
    return (sp_rgb){mix(from.r, to.r, t), mix(from.g, to.g, t), mix(from.b, to.b, t)};
}

void sp_color_table(sp_color_map map, sp_rgb out[256])
{
    const stop *stops = map == SP_CIVIDIS ? cividis : map == SP_VIRIDIS ? viridis : grey;
    assert(map < SP_COLOR_MAPS);
    for (int i = 0; i < 256; i++) {
        while (stops[1].at < i) stops++;
        double t = (double)(i - stops[0].at) / (stops[1].at - stops[0].at);
        out[i] = mix_rgb(rgb_of(stops[0].rgb), rgb_of(stops[1].rgb), t);
    }
}

static double linear_light(uint8_t value)
{
    double c = value / 255.0;
    return c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4);
}

static double luminance(sp_rgb c)
{
    return 0.2126 * linear_light(c.r) + 0.7152 * linear_light(c.g) + 0.0722 * linear_light(c.b);
}

double sp_color_contrast(sp_rgb a, sp_rgb b)
{
    double x = luminance(a) + 0.05, y = luminance(b) + 0.05;
    return x > y ? x / y : y / x;
}

/* Least contrast of an edge against the page. */
#define MIN_CONTRAST 3.0

static void fill_ramp(sp_palette *palette, sp_color_map map)
{
    sp_rgb table[256];
    sp_color_table(map, table);
    int weakest = palette->dark ? 0 : 255, strongest = 255 - weakest, step = palette->dark ? 1 : -1;
    while (sp_color_contrast(table[weakest], palette->page) < MIN_CONTRAST) weakest += step;
    palette->ramp[0] = palette->page;
    for (int i = 1; i <= SP_RAMP_LEVELS; i++) {
        double at = weakest + (double)(strongest - weakest) * (i - 1) / (SP_RAMP_LEVELS - 1);
        int below = (int)floor(at), above = below < 255 ? below + 1 : 255;
        palette->ramp[i] = mix_rgb(table[below], table[above], at - below);
    }
}

void sp_palette_init(sp_palette *palette, sp_color_map map, bool dark)
{
    *palette = (sp_palette){.dark = dark,
                            .page = rgb_of(dark ? 0x111111 : 0xffffff),
                            .ink = rgb_of(dark ? 0xf0f0f0 : 0x1a1a1a),
                            .muted = rgb_of(dark ? 0xb0b0b0 : 0x5a5a5a),
                            .faint = rgb_of(dark ? 0x4a4a4a : 0xc9c9c9),
                            .mask = rgb_of(dark ? 0x1c1c1c : 0xf4f4f4),
                            .mask_line = rgb_of(dark ? 0x3a3a3a : 0xd9d9d9),
                            .both = rgb_of(0x767676),
                            .missed = rgb_of(0xd55e00),
                            .extra = rgb_of(0x0072b2)};
    fill_ramp(palette, map);
}

/* NaN counts as 0. */
static double clamp(double value, double low, double high)
{
    return !(value > low) ? low : value > high ? high : value;
}

static double fraction_of(sp_color_scale scale, double weight, double low, double high)
{
    weight = clamp(weight, low, high);
    if (high <= low) return high > 0 ? 1 : 0;
    switch (scale) {
    case SP_SCALE_SQRT:
        return sqrt((weight - low) / (high - low));
    case SP_SCALE_LOG:
        return log(weight / low) / log(high / low);
    default:
        return (weight - low) / (high - low);
    }
}

uint8_t sp_color_level(sp_color_scale scale, double weight, double low, double high)
{
    assert(scale != SP_SCALE_LOG || (low > 0 && low <= high));
    return (uint8_t)(1 + lround(fraction_of(scale, weight, low, high) * (SP_RAMP_LEVELS - 1)));
}

double sp_color_weight(sp_color_scale scale, double fraction, double low, double high)
{
    switch (scale) {
    case SP_SCALE_SQRT:
        return low + (high - low) * fraction * fraction;
    case SP_SCALE_LOG:
        return low * pow(high / low, fraction);
    default:
        return low + (high - low) * fraction;
    }
}
