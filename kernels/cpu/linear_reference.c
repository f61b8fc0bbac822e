/* Linear layers in plain C: the order of operations that every level keeps. An output has one accumulator,
 * which takes fma(x[k], w[k], sum) for k ascending, from +0; bf16 panels add a step of zero behind an odd
 * n_in. Tests: tests/kernels/test_linear.c */
#include "kernels/cpu/cpu.h"

#include <math.h>

static float activation(const sp_cpu_block *block, size_t row, size_t k)
{
    const float *lines = block->lines;
    return lines[(k / SP_LINE * block->rows + row) * SP_LINE + k % SP_LINE];
}

static void block_f32(const sp_cpu_block *block)
{
    for (size_t row = 0; row < block->rows; row++) {
        for (size_t first = 0; first < block->width; first += SP_PANEL) {
            const float *panel = (const float *)block->weights + first * block->steps;
            float sums[SP_PANEL] = {0};
            for (size_t k = 0; k < block->steps; k++) {
                float x = activation(block, row, k);
                for (size_t o = 0; o < SP_PANEL; o++) sums[o] = fmaf(x, panel[k * SP_PANEL + o], sums[o]);
            }
            size_t width = block->width - first < SP_PANEL ? block->width - first : SP_PANEL;
            memcpy(block->y + row * block->stride + first, sums, width * sizeof *sums);
        }
    }
}

static void block_bf16(const sp_cpu_block *block)
{
    for (size_t row = 0; row < block->rows; row++) {
        for (size_t first = 0; first < block->width; first += SP_PANEL) {
            const uint16_t *panel = (const uint16_t *)block->weights + first * block->steps * 2;
            float sums[SP_PANEL] = {0};
            for (size_t k = 0; k < 2 * block->steps; k++) {
                float x = activation(block, row, k);
                for (size_t o = 0; o < SP_PANEL; o++) {
                    float w = sp_bf16_to_f32(panel[(k / 2 * SP_PANEL + o) * 2 + k % 2]);
                    sums[o] = fmaf(x, w, sums[o]);
                }
            }
            size_t width = block->width - first < SP_PANEL ? block->width - first : SP_PANEL;
            memcpy(block->y + row * block->stride + first, sums, width * sizeof *sums);
        }
    }
}

void sp_cpu_linear_reference(sp_cpu_slots *slots)
{
    slots->row_block = 4;
    slots->ahead_rows = SIZE_MAX;
    slots->block_f32 = block_f32;
    slots->block_bf16 = block_bf16;
}
