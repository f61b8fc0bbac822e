/* Linear layers with AVX-512: up to 14 rows times one panel, 28 accumulators of 16 outputs in registers. A
 * step loads the panel's 32 weights once and broadcasts one activation a row. bf16 weights become float32 by
 * a shift (even k) and a mask (odd k), exactly. The order of operations is that of linear_reference.c, so the
 * bits are too. Few rows leave most accumulators free: then two or four panels are read side by side, so that
 * enough independent sums hide the latency of fma. Tests: tests/kernels/test_linear.c */
#include "kernels/cpu/linear_avx512.h"

/* rows and panels are constants where this is inlined; rows * panels <= 14. */
INLINE void product_f32(size_t rows, size_t panels, const sp_cpu_block *block, size_t panel)
{
    __m512 low[ROWS], high[ROWS];
    size_t panel_floats = block->steps * SP_PANEL;
    const float *weights = (const float *)block->weights + panel * panel_floats;
    const float *line = block->lines;
#pragma GCC unroll 14
    for (size_t i = 0; i < rows * panels; i++) low[i] = high[i] = _mm512_setzero_ps();
    const uint8_t *ahead = block->ahead;
    for (size_t left = block->steps; left > 0; line += rows * SP_LINE) {
        ahead = fetch_ahead(block, ahead);
        size_t n = left < SP_LINE ? left : SP_LINE;
        left -= n;
        for (const float *x = line; x < line + n; x++, weights += SP_PANEL) {
#pragma GCC unroll 4
            for (size_t p = 0; p < panels; p++) {
                __m512 w0 = _mm512_load_ps(weights + p * panel_floats);
                __m512 w1 = _mm512_load_ps(weights + p * panel_floats + 16);
#pragma GCC unroll 14
                for (size_t r = 0; r < rows; r++) {
                    __m512 a = _mm512_set1_ps(x[r * SP_LINE]);
                    low[p * rows + r] = _mm512_fmadd_ps(a, w0, low[p * rows + r]);
                    high[p * rows + r] = _mm512_fmadd_ps(a, w1, high[p * rows + r]);
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

INLINE void product_bf16(size_t rows, size_t panels, const sp_cpu_block *block, size_t panel)
{
    __m512 low[ROWS], high[ROWS];
    const __mmask32 odd = 0xaaaaaaaau;
    size_t panel_words = block->steps * SP_PANEL;
    const uint32_t *weights = (const uint32_t *)block->weights + panel * panel_words;
    const float *line = block->lines;
#pragma GCC unroll 14
    for (size_t i = 0; i < rows * panels; i++) low[i] = high[i] = _mm512_setzero_ps();
    const uint8_t *ahead = block->ahead;
    for (size_t left = block->steps; left > 0; line += rows * SP_LINE) {
        ahead = fetch_ahead(block, ahead);
        size_t n = left < SP_LINE / 2 ? left : SP_LINE / 2;
        left -= n;
        for (const float *x = line; x < line + 2 * n; x += 2, weights += SP_PANEL) {
#pragma GCC unroll 4
            for (size_t p = 0; p < panels; p++) {
                const uint32_t *pairs = weights + p * panel_words;
                __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(pairs), 16));
                __m512 w1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(pairs + 16), 16));
#pragma GCC unroll 14
                for (size_t r = 0; r < rows; r++) {
                    __m512 a = _mm512_set1_ps(x[r * SP_LINE]);
                    low[p * rows + r] = _mm512_fmadd_ps(a, w0, low[p * rows + r]);
                    high[p * rows + r] = _mm512_fmadd_ps(a, w1, high[p * rows + r]);
                }
                w0 = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(odd, pairs));
                w1 = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(odd, pairs + 16));
#pragma GCC unroll 14
                for (size_t r = 0; r < rows; r++) {
                    __m512 a = _mm512_set1_ps(x[r * SP_LINE + 1]);
                    low[p * rows + r] = _mm512_fmadd_ps(a, w0, low[p * rows + r]);
                    high[p * rows + r] = _mm512_fmadd_ps(a, w1, high[p * rows + r]);
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

static void block_f32(const sp_cpu_block *block)
{
    ANY_ROWS(product_f32)
}

static void block_bf16(const sp_cpu_block *block)
{
    ANY_ROWS(product_bf16)
}

void sp_cpu_linear_avx512(sp_cpu_slots *slots)
{
    slots->row_block = ROWS;
    slots->ahead_rows = 9;
    slots->block_f32 = block_f32;
    slots->block_bf16 = block_bf16;
}
