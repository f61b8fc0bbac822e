/* A block of rows against one tile, for either element type: scores, softmax step and values. The file that
 * includes this says what a lane is (`lane`, NUMBERS_A_LANE: one float32 or two bf16) and has its own
 * dot_rows, value_rows and put_weights. Included by attend_avx512.c and attend_avx512bf16.c only, once. */
#ifndef SPARSED_KERNELS_CPU_ATTEND_AVX512_BLOCKS_H
#define SPARSED_KERNELS_CPU_ATTEND_AVX512_BLOCKS_H

#include "kernels/cpu/attend_avx512.h"

#ifdef NUMBERS_A_LANE

/* Scores of the keys in range, for rows rows. */
INLINE void score_rows(const int rows, const sp_attend_tile *tile, size_t row, key_range keys, float *scores)
{
    __m512 s[BLOCK][4];
    size_t steps = tile->head_dim / NUMBERS_A_LANE;
    const lane *q = (const lane *)tile->q + row * steps, *k = (const lane *)tile->k + 16 * keys.begin;
    switch (keys.end - keys.begin) {
    case 1:
        dot_rows(rows, 1, q, steps, k, s);
        put_scores(rows, 1, s, scores + 16 * keys.begin);
        break;
    case 2:
        dot_rows(rows, 2, q, steps, k, s);
        put_scores(rows, 2, s, scores + 16 * keys.begin);
        break;
    case 3:
        dot_rows(rows, 3, q, steps, k, s);
        put_scores(rows, 3, s, scores + 16 * keys.begin);
        break;
    default:
        dot_rows(rows, 4, q, steps, k, s);
        put_scores(rows, 4, s, scores);
        break;
    }
}

INLINE void softmax_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    const uint64_t *words = tile->words ? tile->words + row : NULL;
    key_range keys = wanted_keys(words, rows);
    if (keys.begin == keys.end) return;
    __m512 s[BLOCK][4];
    _Alignas(64) float scores[BLOCK * SP_TILE], factor[16];
    _Alignas(64) lane p[BLOCK * SP_TILE / NUMBERS_A_LANE];
    score_rows(rows, tile, row, keys, scores);
    softmax_rows(rows, scores, words, tile->state.max + row, tile->state.sum + row, factor, s);
    put_weights(rows, s, p);
    size_t stride = tile->value_dim, at = 0;
    float *out = tile->state.out + row * stride;
    const lane *v = tile->v;
    for (; at + 64 <= stride; at += 64)
        value_rows(rows, 4, p, factor, keys, v + at, tile->v_stride, out + at, stride);
    switch ((stride - at) / 16) {
    case 1:
        value_rows(rows, 1, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    case 2:
        value_rows(rows, 2, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    case 3:
        value_rows(rows, 3, p, factor, keys, v + at, tile->v_stride, out + at, stride);
        break;
    default:
        break;
    }
}

SP_EACH_BLOCK(softmax, softmax_block)

INLINE void score_block(const int rows, const sp_attend_tile *tile, size_t row)
{
    const uint64_t *words = tile->words ? tile->words + row : NULL;
    key_range keys = wanted_keys(words, rows);
    if (keys.begin == keys.end) {
        for (int i = 0; i < rows; i++) *tile->tops[row + (size_t)i] = -INFINITY;
        return;
    }
    _Alignas(64) float all[BLOCK * SP_TILE];
    score_rows(rows, tile, row, keys, all);
    store_scores(rows, all, words, tile->scores + row, tile->tops + row);
}

SP_EACH_BLOCK(scores, score_block)

#endif
#endif
