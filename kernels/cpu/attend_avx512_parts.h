/* Slots of the AVX-512 levels that live in files of their own and are shared by the float32 and bf16 tables.
 * Contracts: sp_attend_slots in attend.h. */
#ifndef SPARSED_KERNELS_CPU_ATTEND_AVX512_PARTS_H
#define SPARSED_KERNELS_CPU_ATTEND_AVX512_PARTS_H

#include "kernels/cpu/attend.h"

/* --- attend_avx512.c --- */
void sp_avx512_merge(size_t rows, size_t value_dim, const sp_attend_state *into, const sp_attend_state *from);

/* --- attend_pack_avx512.c: widen turns bf16 into float32, pairs keeps bf16 for dot products --- */
void sp_avx512_pack_k_f32(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
void sp_avx512_pack_k_widen(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
void sp_avx512_pack_k_pairs(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out);
void sp_avx512_pack_v_f32(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);
void sp_avx512_pack_v_widen(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);
void sp_avx512_pack_v_pairs(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out);

/* --- attend_entmax_avx512.c --- */
void sp_avx512_collect(sp_attend_row *row);
double sp_avx512_threshold(float alpha, float *candidates, size_t n);
uint64_t sp_avx512_weigh(float alpha, const float *scores, float top, double tau, float *weights);
void sp_avx512_accumulate_f32(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                              float *out);
void sp_avx512_accumulate_bf16(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                               float *out);

#endif
