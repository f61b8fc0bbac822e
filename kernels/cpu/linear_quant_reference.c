/* Linear layers of block types in plain C: the order of operations that every level keeps (quant.h). Tests:
 * tests/kernels/test_linear_quant.c */
#include "kernels/cpu/cpu.h"

#include <math.h>

#define LEAST 0x1p-100f /* blocks that are smaller throughout count as zero: 127 / max stays finite */

static void quant_row(const sp_quant_form *form, size_t rows, size_t n_in, const float *x, sp_quant_lines to)
{
    size_t halves = SP_QUANT_BLOCK / form->group;
    for (size_t b = 0; b < n_in / SP_QUANT_BLOCK; b++, x += SP_QUANT_BLOCK) {
        uint32_t most = 0; /* as integers absolute values order alike, NaN on top */
        for (size_t i = 0; i < SP_QUANT_BLOCK; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, sizeof bits);
            bits &= 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        float top;
        memcpy(&top, &most, sizeof top);
        bool zero = top < LEAST;
        float inverse = zero ? 0 : 127.0f / top;
        int32_t sums[2] = {0};
        for (size_t i = 0; i < SP_QUANT_BLOCK; i++) {
            float scaled = x[i] * inverse;
            int32_t q = scaled == scaled ? (int32_t)rintf(scaled) : 0;
            to.q[b * rows * SP_QUANT_BLOCK + i] = (int8_t)q;
            sums[i / form->group] += q;
        }
        to.scales[b * rows] = zero ? 0 : top * (1.0f / 127.0f);
        for (size_t h = 0; h < halves && !form->mins; h++)
            to.starts[(b * halves + h) * rows] = -form->offset * sums[h];
        if (form->mins) to.sums[b * rows] = (float)sums[0];
    }
}

/* Vector j of the 32 k at step. */
static void expand_vector(size_t bits, const uint8_t *step, size_t j, uint8_t *out)
{
    for (size_t i = 0; i < 64; i++) {
        int u = step[j / 2 * 64 + i] >> 4 * (j % 2) & 15;
        if (bits == 5) u |= (step[512 + j / 8 * 64 + i] >> j % 8 & 1) << 4;
        if (bits == 6) u |= (step[512 + j / 4 * 64 + i] >> 2 * (j % 4) & 3) << 4;
        out[i] = (uint8_t)u;
    }
}

static void expand_scales(const sp_quant_form *form, const uint8_t *block, float *scales, float *mins)
{
    const uint8_t *halves = block + sp_quant_scales_at(form), *small = block + sp_quant_small_at(form);
    size_t groups = form->block / form->group;
    for (size_t o = 0; o < SP_PANEL; o++) {
        uint16_t scale, min = 0;
        memcpy(&scale, halves + 2 * o, sizeof scale);
        if (form->mins) memcpy(&min, halves + 64 + 2 * o, sizeof min);
        float d = sp_f16_to_f32(scale), m = sp_f16_to_f32(min);
        for (size_t g = 0; g < groups; g++)
            scales[g * SP_PANEL + o] = form->small ? d * (float)(int8_t)small[g * SP_PANEL + o] : d;
        for (size_t g = 0; g < form->block / 32 && form->mins; g++)
            mins[g * SP_PANEL + o] = form->small ? m * (float)small[(groups + g) * SP_PANEL + o] : m;
    }
}

static void quant_expand(const sp_quant_form *form, const uint8_t *panel, size_t steps, sp_quant_weights *out)
{
    size_t each = form->block / SP_QUANT_BLOCK;
    out->from = form->bits < 8 ? out->numbers : panel;
    out->step = form->bits < 8 ? SP_QUANT_STEP : form->bytes;
    for (size_t s = 0; s < steps; s++) {
        const uint8_t *block = panel + s / each * form->bytes;
        const uint8_t *step = block + s % each * sp_quant_step_bytes(form);
        if (s % each == 0)
            expand_scales(form, block, out->scales + s * 32 / form->group * SP_PANEL,
                          out->mins + s * SP_PANEL);
        for (size_t j = 0; j < 16 && form->bits < 8; j++)
            expand_vector(form->bits, step, j, out->numbers + s * SP_QUANT_STEP + j * 64);
    }
}

/* One row, one output: steps of 32 k onto sum. */
static float product_one(const sp_quant_product *p, size_t row, size_t o, float sum)
{
    size_t group = p->form->group, halves = SP_QUANT_BLOCK / group;
    for (size_t g = 0; g < p->steps * halves; g++) {
        size_t s = g / halves;
        const int8_t *q = p->x.q + (s * p->rows + row) * SP_QUANT_BLOCK;
        const uint8_t *numbers = p->w->from + s * p->w->step + o * 4;
        int32_t exact = p->form->mins ? 0 : p->x.starts[g * p->rows + row];
        for (size_t k = g % halves * group; k < g % halves * group + group; k++)
            exact += q[k] * numbers[k / 4 * 128 + k % 4];
        float t = (float)exact * p->w->scales[g * SP_PANEL + o];
        if (p->form->mins) t = fmaf(-p->w->mins[s * SP_PANEL + o], p->x.sums[s * p->rows + row], t);
        sum = fmaf(t, p->x.scales[s * p->rows + row], sum);
    }
    return sum;
}

static void quant_product(const sp_quant_product *p)
{
    for (size_t row = 0; row < p->rows; row++) {
        float *y = p->y + row * p->stride;
        for (size_t o = 0; o < p->width; o++) y[o] = product_one(p, row, o, p->first ? 0 : y[o]);
    }
}

void sp_cpu_quant_reference(sp_cpu_slots *slots)
{
    slots->quant_rows = 4;
    slots->quant_row = quant_row;
    slots->quant_expand = quant_expand;
    slots->quant_product = quant_product;
}
