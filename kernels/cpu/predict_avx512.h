/* Private to kernels/cpu: pieces of predictors that the AVX-512 levels share (predict_avx512.c,
 * predict_top_avx512.c, predict_assign_avx512.c) and the one
 * that bf16 dot products replace (predict_avx512bf16.c). */
#ifndef SPARSED_KERNELS_CPU_PREDICT_AVX512_H
#define SPARSED_KERNELS_CPU_PREDICT_AVX512_H

#include "kernels/cpu/predict.h"

void sp_avx512_near_bf16(const sp_scan_tile *tile);
void sp_avx512_project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                       const float *weight, const float *bias, float *out, size_t out_stride);
uint64_t sp_avx512_above(const float *near, float floor);
/* Raises the floor of a list that has none, if that is sure to leave `keep` keys; then which keys pass. */
void sp_avx512_pass(const float *near, const uint64_t *allowed, uint32_t tiles, size_t keep,
                    sp_scan_best *best, uint64_t words[SP_SCAN_STEP]);
void sp_avx512_take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key,
                    size_t keep, sp_scan_best *best);
void sp_avx512_shrink(sp_scan_best *best, size_t keep, size_t most);
uint64_t sp_avx512_match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count);
void sp_avx512_assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows);

#endif
