/* Linear layers with AVX2 and FMA: up to 6 rows times half a panel, 12 accumulators of 8 outputs in
 * registers; up to 3 rows take the whole panel at once. bf16 weights become float32 by a shift (even k) and a
 * mask (odd k), exactly. The order of operations is that of linear_reference.c, so the bits are too. Tests:
 * tests/kernels/test_linear.c */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define ROWS 6
#define VECTORS (SP_PANEL / 8)
#define INLINE static inline __attribute__((always_inline))

static const int masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

/* Writes the wanted ones of 8 sums of one row, from output `first` of the block. */
INLINE void store(const sp_cpu_block *block, size_t row, size_t first, __m256 sums)
{
    float *y = block->y + row * block->stride + first;
    if (first + 8 <= block->width) {
        _mm256_storeu_ps(y, sums);
    } else if (first < block->width) {
        const int *mask = masks + 8 - (block->width - first);
        _mm256_maskstore_ps(y, _mm256_loadu_si256((const __m256i *)mask), sums);
    }
}

/* The part of what comes next that one product fetches: all of it, or a half for half a panel. */
typedef struct fetch {
    const uint8_t *from;
    size_t lines; /* of 64 bytes, every 16 steps */
} fetch;

INLINE fetch fetch_part(size_t vectors, const sp_cpu_block *block, size_t first)
{
    fetch part = {.from = block->ahead, .lines = block->ahead_lines};
    if (vectors == VECTORS) return part;
    part.lines = (part.lines + 1) / 2;
    if (first % SP_PANEL) part.from += (block->steps + SP_LINE - 1) / SP_LINE * part.lines * 64;
    return part;
}

INLINE void fetch_lines(fetch *part)
{
    for (size_t i = 0; i < part->lines; i++) _mm_prefetch(part->from + i * 64, _MM_HINT_T1);
    part->from += part->lines * 64;
}

/* rows and vectors are constants where this is inlined; rows * vectors <= 12. first: output of the block. */
INLINE void product_f32(size_t rows, size_t vectors, const sp_cpu_block *block, size_t first)
{
    __m256 sums[ROWS * 2];
    const float *weights =
        (const float *)block->weights + first / SP_PANEL * SP_PANEL * block->steps + first % SP_PANEL;
    const float *line = block->lines;
#pragma GCC unroll 12
    for (size_t i = 0; i < rows * vectors; i++) sums[i] = _mm256_setzero_ps();
    fetch part = fetch_part(vectors, block, first);
    for (size_t left = block->steps; left > 0; line += rows * SP_LINE) {
        fetch_lines(&part);
        size_t n = left < SP_LINE ? left : SP_LINE;
        left -= n;
        for (const float *x = line; x < line + n; x++, weights += SP_PANEL) {
#pragma GCC unroll 2
            for (size_t v = 0; v < vectors; v += 2) {
                __m256 w0 = _mm256_load_ps(weights + v * 8), w1 = _mm256_load_ps(weights + v * 8 + 8);
#pragma GCC unroll 6
                for (size_t r = 0; r < rows; r++) {
                    __m256 a = _mm256_broadcast_ss(x + r * SP_LINE);
                    sums[r * vectors + v] = _mm256_fmadd_ps(a, w0, sums[r * vectors + v]);
                    sums[r * vectors + v + 1] = _mm256_fmadd_ps(a, w1, sums[r * vectors + v + 1]);
                }
            }
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < rows * vectors; i++) store(block, i / vectors, first + i % vectors * 8, sums[i]);
}

INLINE __m256 even(const uint32_t *pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_load_si256((const __m256i *)pairs), 16));
}

/* Two shifts need no register for a mask; the barrier has the pairs loaded again rather than kept. */
INLINE __m256 odd(const uint32_t *pairs)
{
    __asm__("" : "+r"(pairs));
    __m256i both = _mm256_load_si256((const __m256i *)pairs);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(both, 16), 16));
}

INLINE void product_bf16(size_t rows, size_t vectors, const sp_cpu_block *block, size_t first)
{
    __m256 sums[ROWS * 2];
    const uint32_t *weights =
        (const uint32_t *)block->weights + first / SP_PANEL * SP_PANEL * block->steps + first % SP_PANEL;
    const float *line = block->lines;
#pragma GCC unroll 12
    for (size_t i = 0; i < rows * vectors; i++) sums[i] = _mm256_setzero_ps();
    fetch part = fetch_part(vectors, block, first);
    for (size_t left = block->steps; left > 0; line += rows * SP_LINE) {
        fetch_lines(&part);
        size_t n = left < SP_LINE / 2 ? left : SP_LINE / 2;
        left -= n;
        for (const float *x = line; x < line + 2 * n; x += 2, weights += SP_PANEL) {
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++) {
                size_t v = i / 2 * 2, k = i % 2; /* two vectors of outputs: even k, then odd k */
                __m256 w0 = k ? odd(weights + v * 8) : even(weights + v * 8);
                __m256 w1 = k ? odd(weights + v * 8 + 8) : even(weights + v * 8 + 8);
#pragma GCC unroll 6
                for (size_t r = 0; r < rows; r++) {
                    __m256 a = _mm256_broadcast_ss(x + r * SP_LINE + k);
                    sums[r * vectors + v] = _mm256_fmadd_ps(a, w0, sums[r * vectors + v]);
                    sums[r * vectors + v + 1] = _mm256_fmadd_ps(a, w1, sums[r * vectors + v + 1]);
                }
            }
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < rows * vectors; i++) store(block, i / vectors, first + i % vectors * 8, sums[i]);
}

#define OUTPUTS(product, rows)                                                                               \
    case rows:                                                                                               \
        for (size_t first = 0; first < block->width; first += (rows <= 3 ? VECTORS : 2) * 8) {               \
            product(rows, rows <= 3 ? VECTORS : 2, block, first);                                            \
        }                                                                                                    \
        break;

#define ANY_ROWS(product)                                                                                    \
    switch (block->rows) {                                                                                   \
        OUTPUTS(product, 1)                                                                                  \
        OUTPUTS(product, 2)                                                                                  \
        OUTPUTS(product, 3)                                                                                  \
        OUTPUTS(product, 4)                                                                                  \
        OUTPUTS(product, 5)                                                                                  \
        OUTPUTS(product, 6)                                                                                  \
    }

static void block_f32(const sp_cpu_block *block)
{
    ANY_ROWS(product_f32)
}

static void block_bf16(const sp_cpu_block *block)
{
    ANY_ROWS(product_bf16)
}

void sp_cpu_linear_avx2(sp_cpu_slots *slots)
{
    slots->row_block = ROWS;
    slots->ahead_rows = 4;
    slots->block_f32 = block_f32;
    slots->block_bf16 = block_bf16;
}
