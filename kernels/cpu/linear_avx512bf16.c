/* Linear layers by bf16 dot products (VDPBF16PS): the shape of linear_avx512.c, but a step is a pair of bf16
 * on both sides. The instruction adds the odd product of a pair, then the even one, rounding to nearest each
 * time and taking denormal numbers as zero (Intel SDM, VDPBF16PS); pairs ascend. Activations are rounded to
 * bf16 (nearest, ties to even) while they are packed. Tests: tests/kernels/test_linear.c */
#include "kernels/cpu/linear_avx512.h"

INLINE __m512bh load_pairs(const uint32_t *pairs)
{
    return (__m512bh)_mm512_load_si512(pairs);
}

/* rows and panels are constants where this is inlined; rows * panels <= 14. */
INLINE void product_dot(size_t rows, size_t panels, const sp_cpu_block *block, size_t panel)
{
    __m512 low[ROWS], high[ROWS];
    size_t panel_words = block->steps * SP_PANEL;
    const uint32_t *weights = (const uint32_t *)block->weights + panel * panel_words;
    const uint32_t *line = block->lines;
#pragma GCC unroll 14
    for (size_t i = 0; i < rows * panels; i++) low[i] = high[i] = _mm512_setzero_ps();
    const uint8_t *ahead = block->ahead;
    for (size_t left = block->steps; left > 0; line += rows * SP_LINE) {
        ahead = fetch_ahead(block, ahead);
        size_t n = left < SP_LINE ? left : SP_LINE;
        left -= n;
        for (const uint32_t *x = line; x < line + n; x++, weights += SP_PANEL) {
#pragma GCC unroll 4
            for (size_t p = 0; p < panels; p++) {
                __m512bh w0 = load_pairs(weights + p * panel_words),
                         w1 = load_pairs(weights + p * panel_words + 16);
#pragma GCC unroll 14
                for (size_t r = 0; r < rows; r++) {
                    __m512bh a = (__m512bh)_mm512_set1_epi32((int)x[r * SP_LINE]);
                    low[p * rows + r] = _mm512_dpbf16_ps(low[p * rows + r], a, w0);
                    high[p * rows + r] = _mm512_dpbf16_ps(high[p * rows + r], a, w1);
                }
            }
        }
    }
#pragma GCC unroll 14
    for (size_t i = 0; i < rows * panels; i++) {
        size_t first = (panel + i / rows) * SP_PANEL;
        store_row(block->y + i % rows * block->stride + first, block->width - first, low[i], high[i]);
    }
}

static void block_dot(const sp_cpu_block *block)
{
    ANY_ROWS(product_dot)
}

static void pack_dot(size_t n, const float *x, void *lines, size_t line_stride)
{
    uint8_t *line = lines;
    for (; n >= 32; n -= 32, x += 32, line += line_stride) {
        __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
        _mm512_store_si512(line, (__m512i)pairs);
    }
    if (n == 0) return;
    uint32_t mask = (1u << n) - 1u;
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x);
    __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16);
    _mm512_store_si512(line, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

void sp_cpu_linear_avx512bf16(sp_cpu_slots *slots)
{
    slots->block_dot = block_dot;
    slots->pack_dot = pack_dot;
}
