/* Slots of the AVX2 level that live in attend_parts_avx2.c: packing, and entmax's own steps. Contracts:
 * sp_attend_slots in attend.h. widen turns bf16 into float32. */
#ifndef SPARSED_KERNELS_CPU_ATTEND_AVX2_PARTS_H
#define SPARSED_KERNELS_CPU_ATTEND_AVX2_PARTS_H

#include "kernels/cpu/attend.h"

void sp_avx2_pack_q(size_t head_dim, float scale, const float *q, void *out);
void sp_avx2_pack_k_f32(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
void sp_avx2_pack_k_widen(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
void sp_avx2_pack_v_f32(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);
void sp_avx2_pack_v_widen(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);
void sp_avx2_collect(sp_attend_row *row);
double sp_avx2_threshold(float alpha, float *candidates, size_t n);
uint64_t sp_avx2_weigh(float alpha, const float *scores, float top, double tau, float *weights);
void sp_avx2_accumulate_f32(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                            float *out);
void sp_avx2_accumulate_bf16(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                             float *out);

#endif
