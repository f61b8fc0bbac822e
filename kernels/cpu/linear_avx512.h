/* What the AVX-512 kernels of linear layers share: the store of a row's sums, and the choice of the constant
 * shape that a block is computed by. Included by linear_avx512.c and linear_avx512bf16.c only. */
#ifndef SPARSED_KERNELS_CPU_LINEAR_AVX512_H
#define SPARSED_KERNELS_CPU_LINEAR_AVX512_H

#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define ROWS 14
#define INLINE static inline __attribute__((always_inline))

/* Writes count <= 32 sums of one row. */
INLINE void store_row(float *y, size_t count, __m512 low, __m512 high)
{
    if (count >= SP_PANEL) {
        _mm512_storeu_ps(y, low);
        _mm512_storeu_ps(y + 16, high);
        return;
    }
    uint32_t mask = (1u << count) - 1u;
    _mm512_mask_storeu_ps(y, (__mmask16)mask, low);
    _mm512_mask_storeu_ps(y + 16, (__mmask16)(mask >> 16), high);
}

/* Fetches what comes next; called once a line. */
INLINE const uint8_t *fetch_ahead(const sp_cpu_block *block, const uint8_t *ahead)
{
    for (size_t i = 0; i < block->ahead_lines; i++) _mm_prefetch(ahead + i * 64, _MM_HINT_T1);
    return ahead + block->ahead_lines * 64;
}

/* Panels in fours, then twos, then ones, for a constant number of rows. */
#define PANELS(product, rows)                                                                                \
    case rows: {                                                                                             \
        size_t panel = 0;                                                                                    \
        if (rows <= 3) {                                                                                     \
            for (; panel + 4 <= block->panels; panel += 4) product(rows, rows <= 3 ? 4 : 1, block, panel);   \
        }                                                                                                    \
        if (rows <= 5) {                                                                                     \
            for (; panel + 2 <= block->panels; panel += 2) product(rows, rows <= 5 ? 2 : 1, block, panel);   \
        }                                                                                                    \
        for (; panel < block->panels; panel++) product(rows, 1, block, panel);                               \
        break;                                                                                               \
    }

#define ANY_ROWS(product)                                                                                    \
    switch (block->rows) {                                                                                   \
        PANELS(product, 1)                                                                                   \
        PANELS(product, 2)                                                                                   \
        PANELS(product, 3)                                                                                   \
        PANELS(product, 4)                                                                                   \
        PANELS(product, 5)                                                                                   \
        PANELS(product, 6)                                                                                   \
        PANELS(product, 7)                                                                                   \
        PANELS(product, 8)                                                                                   \
        PANELS(product, 9)                                                                                   \
        PANELS(product, 10)                                                                                  \
        PANELS(product, 11)                                                                                  \
        PANELS(product, 12)                                                                                  \
        PANELS(product, 13)                                                                                  \
        PANELS(product, 14)                                                                                  \
    }

#endif
