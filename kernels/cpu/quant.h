/* Private to kernels/cpu: linear layers whose weights are of a block type, with activations rounded to int8.
 *
 * With activations x = s q (one scale s a block of 32, q in -127..127, s = max |x| / 127) and weights
 * w = a u - m, a and m constant over a block,
 *   sum over a block of x w = s (a sum(q u) - m sum(q)).
 * sum(q u) is exact in 32-bit integers, u taken from 0 up: types with signed numbers store u + offset, and
 * their integer sum starts at -offset sum(q). Per output and row, blocks ascending: t = float(sum) * a;  t =
 * fma(-m, sum(q), t) where the type has minimums;  y = fma(t, s, y) for each group of one scale (32 numbers,
 * 16 for Q6_K). So every level gives the same bits.
 *
 * A panel holds 32 outputs, block after block. A block of a panel is
 *   numbers: for each 32 k, 16 vectors of 64 bytes; vector j is k4 = j / 2 (four k), outputs 16 (j % 2) +
 * 0..15, byte 4 o + k % 4. 8 bits: as they are. Else 8 vectors first, i with the low 4 bits of vectors 2 i
 * (low half) and 2 i + 1 (high half); then fifth bits, 2 vectors, bit j % 8 of vector j / 8; or two more
 * bits, 4 vectors, bits 2 (j % 4) of vector j / 4 scales: float16[32], minimums: float16[32] where there are
 * any small scales, of types of 256: int8[256 / group][32], small minimums int8[8][32] where there are any.
 * Source of the formats: kernels/blocks.c. Tests: tests/kernels/test_linear_quant.c */
#ifndef SPARSED_KERNELS_CPU_QUANT_H
#define SPARSED_KERNELS_CPU_QUANT_H

#include <stdalign.h>

#include "kernels/tensor.h"

#define SP_QUANT_BLOCK 32   /* k of one activation scale */
#define SP_QUANT_CHUNK 1024 /* most k that are expanded at once */
#define SP_QUANT_OUTPUTS 32 /* of a panel */
#define SP_QUANT_STEP 1024  /* bytes of 32 k, one byte a number */

typedef struct sp_quant_form {
    size_t bits;  /* 4, 5, 6, 8 */
    size_t block; /* k of a block: 32 or 256 */
    size_t group; /* k of a scale: 32 or 16 */
    bool mins;
    bool small;     /* small scales inside a block */
    int32_t offset; /* 0 with mins */
    size_t bytes;   /* of a panel's block, a multiple of 64 */
} sp_quant_form;

/* Where the parts of a panel's block lie. */
static inline size_t sp_quant_step_bytes(const sp_quant_form *form) /* numbers of 32 k */
{
    return form->bits * SP_QUANT_STEP / 8;
}
static inline size_t sp_quant_scales_at(const sp_quant_form *form)
{
    return sp_quant_step_bytes(form) * (form->block / SP_QUANT_BLOCK);
}
static inline size_t sp_quant_small_at(const sp_quant_form *form)
{
    return sp_quant_scales_at(form) + (form->mins ? 128 : 64);
}

/* One row of activations inside the lines of its row block: piece b of a part is rows pieces after piece
 * b - 1, so that a product reads all its rows as one ascending stream. */
typedef struct sp_quant_lines {
    int8_t *q;       /* (n_in / 32, rows, 32) */
    float *scales;   /* (n_in / 32, rows) */
    int32_t *starts; /* (n_in / group, rows): -offset sum(q); types without mins */
    float *sums;     /* (n_in / 32, rows): sum(q); types with mins */
} sp_quant_lines;

/* At most 512 k of one panel, a byte a number. */
typedef struct sp_quant_weights {
    alignas(64) uint8_t numbers[SP_QUANT_CHUNK * SP_QUANT_OUTPUTS];
    alignas(64) float scales[SP_QUANT_CHUNK / 16 * SP_QUANT_OUTPUTS]; /* (k / group, 32) */
    alignas(64) float mins[SP_QUANT_CHUNK / 32 * SP_QUANT_OUTPUTS];   /* (k / 32, 32) */
    const uint8_t *from; /* the numbers, as vectors of the layout above: numbers, or the panel itself */
    size_t step;         /* bytes between those of 32 k and the next */
} sp_quant_weights;

/* Rows of one row block times the expanded part of a panel. */
typedef struct sp_quant_product {
    const sp_quant_form *form;
    size_t rows;   /* 1..quant_rows of the level */
    size_t steps;  /* of 32 k */
    size_t width;  /* outputs wanted, 1..32 */
    size_t stride; /* floats between rows of y */
    bool first;    /* sums start from 0, else from y */
    sp_quant_lines x;
    const sp_quant_weights *w;
    float *y;
    const uint8_t *ahead; /* bytes wanted next, ahead_lines of 64 are fetched every step */
    size_t ahead_lines;
} sp_quant_product;

/* Few rows times a panel as it is packed, all k. */
typedef struct sp_quant_few {
    const sp_quant_form *form;
    size_t rows;   /* 1..quant_rows of the level */
    size_t blocks; /* of the panel */
    size_t width;  /* outputs wanted, 1..32 */
    size_t stride; /* floats between rows of y */
    sp_quant_lines x;
    const uint8_t *from; /* the panel */
    float *y;
    const uint8_t *ahead; /* bytes wanted next, ahead_lines of 64 are fetched every 32 k */
    size_t ahead_lines;
} sp_quant_few;

const sp_quant_form *sp_quant_form_of(sp_dtype dtype);

#endif
