/* Colours of graph pictures: ramps for weights, three colours for differences, scales from a weight to a
 * ramp.
 *
 * A table has 256 colours whose OKLab lightness rises all the way: cividis (made for colour-vision
 * deficiency), viridis, grey. A picture uses the part of a table that stands at least 3:1 against its page
 * (WCAG 1.4.11), weakest first: reversed on a light page, so that more weight is always more contrast. "No
 * edge" is the page itself, outside the ramp; masked pairs are hatched. Differences have a shape beside their
 * colour: both filled, missed a ring, extra a cross. Nothing here allocates. Tests:
 * tests/unit/engine/test_color.c */
#ifndef SPARSED_ENGINE_GRAPH_COLOR_H
#define SPARSED_ENGINE_GRAPH_COLOR_H

#include "kernels/base.h"

typedef struct sp_rgb {
    uint8_t r, g, b;
} sp_rgb;

typedef enum sp_color_map { SP_CIVIDIS, SP_VIRIDIS, SP_GREY, SP_COLOR_MAPS } sp_color_map;
typedef enum sp_color_scale { SP_SCALE_LINEAR, SP_SCALE_SQRT, SP_SCALE_LOG, SP_COLOR_SCALES } sp_color_scale;

/* Names as requests spell them: "cividis", "viridis", "grey"; "linear", "sqrt", "log". */
extern const char *const sp_color_map_names[SP_COLOR_MAPS];
extern const char *const sp_color_scale_names[SP_COLOR_SCALES];

/* The whole table, dark to light. */
void sp_color_table(sp_color_map map, sp_rgb out[256]);

#define SP_RAMP_LEVELS 255
typedef struct sp_palette {
    bool dark;
    sp_rgb page, ink, muted, faint;  /* background; text; lesser text; frames and grid lines */
    sp_rgb mask, mask_line;          /* masked pairs: fill and hatching */
    sp_rgb both, missed, extra;      /* differences */
    sp_rgb ramp[SP_RAMP_LEVELS + 1]; /* [0] is the page (no edge), [1] weakest .. [255] strongest */
} sp_palette;
void sp_palette_init(sp_palette *palette, sp_color_map map, bool dark);

/* Level 1..255 of a weight between low and high (0 < low <= high for log). Weights outside are clamped, so
 * an edge is never drawn as none: a weight of 0 gets level 1. */
uint8_t sp_color_level(sp_color_scale scale, double weight, double low, double high);
/* The weight that stands at a fraction 0..1 of the ramp: the inverse, for legends. */
double sp_color_weight(sp_color_scale scale, double fraction, double low, double high);

/* Contrast ratio of two colours, 1..21 (WCAG 2). */
double sp_color_contrast(sp_rgb a, sp_rgb b);

#endif
