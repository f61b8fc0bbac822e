/* Private to kernels/cpu: pieces of predictors that the AVX-512 levels share (predict_avx512.c,
 * predict_top_avx512.c, predict_assign_avx512.c) and the one
 * that bf16 dot products replace (predict_avx512bf16.c). */
#ifndef SPARSED_KERNELS_CPU_PREDICT_AVX512_H
#define SPARSED_KERNELS_CPU_PREDICT_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/predict.h"

/* Appends the keys of a tile whose bits are set. Mostly that is none to three: three are always written, what
 * is none is overwritten. near: the tile's scores, and a number behind them that may be read. */
static inline __attribute__((always_inline)) void sp_avx512_append(const float *near, uint64_t word,
                                                                   uint32_t first_key, sp_scan_best *best)
{
    const uint32_t count = (uint32_t)_mm_popcnt_u64(word);
    float *const to = best->near + best->n;
    uint32_t *const keys = best->keys + best->n;
#pragma GCC unroll 3
    for (uint32_t j = 0; j < 3; j++, word = _blsr_u64(word)) {
        uint32_t at = (uint32_t)_tzcnt_u64(word);
        to[j] = near[at]; /* 64 where there is no key */
        keys[j] = first_key + at;
    }
    for (uint32_t j = 3; j < count; j++, word = _blsr_u64(word)) {
        uint32_t at = (uint32_t)_tzcnt_u64(word);
        to[j] = near[at];
        keys[j] = first_key + at;
    }
    best->n += count;
}

void sp_avx512_near_bf16(const sp_scan_tile *tile);
void sp_avx512_project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                       const float *weight, const float *bias, float *out, size_t out_stride);
uint64_t sp_avx512_above(const float *near, float floor);
void sp_avx512_guess(const sp_scan_run *run, size_t keep, float *floors);
void sp_avx512_gather(const float *near, const uint64_t *words, uint32_t tiles, uint32_t first_key,
                      sp_scan_best *best);
void sp_avx512_take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key,
                    size_t keep, sp_scan_best *best);
void sp_avx512_settle(sp_scan_best *best, size_t rows, size_t keep);
void sp_avx512_shrink(sp_scan_best *best, size_t keep, size_t most);
uint64_t sp_avx512_match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count);
void sp_avx512_assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows);

#endif
