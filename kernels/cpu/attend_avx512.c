/* Attention microkernels for AVX-512 in float32: 6 rows by 64 keys in 24 registers, then softmax in
 * registers, then 6 rows by 64 value columns in 24 registers. Entmax's own steps are in
 * attend_entmax_avx512.c, packing in attend_pack_avx512.c. Tests: tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx512.h"
#include "kernels/cpu/attend_avx512_parts.h"

/* s = q . k of rows rows, d ascending. */
INLINE void dot_rows(const int rows, const int vectors, const float *q, size_t head_dim, const float *k,
                     __m512 s[BLOCK][4])
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) s[i][j] = _mm512_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m512 b[4];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) b[j] = _mm512_loadu_ps(k + d * SP_TILE + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512 a = _mm512_set1_ps(q[(size_t)i * head_dim + d]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) s[i][j] = _mm512_fmadd_ps(a, b[j], s[i][j]);
        }
    }
}

/* out = out * factor + p . v for 16 * vectors columns, keys ascending. */
INLINE void value_rows(const int rows, const int vectors, const float *p, const float *factor, key_range keys,
                       const float *v, size_t v_stride, float *out, size_t stride)
{
    __m512 o[BLOCK][4];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            o[i][j] =
                _mm512_mul_ps(_mm512_loadu_ps(out + (size_t)i * stride + 16 * j), _mm512_set1_ps(factor[i]));
    for (size_t key = 16 * (size_t)keys.begin; key < 16 * (size_t)keys.end; key++) {
        __m512 b[4];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) b[j] = _mm512_loadu_ps(v + key * v_stride + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512 a = _mm512_set1_ps(p[(size_t)i * SP_TILE + key]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) o[i][j] = _mm512_fmadd_ps(a, b[j], o[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) _mm512_storeu_ps(out + (size_t)i * stride + 16 * j, o[i][j]);
}

INLINE void put_weights(const int rows, __m512 s[BLOCK][4], float *p)
{
    put_scores(rows, 4, s, p);
}

typedef float lane;
#define NUMBERS_A_LANE 1
#include "kernels/cpu/attend_avx512_blocks.h"

void sp_avx512_merge(size_t rows, size_t value_dim, const sp_attend_state *into, const sp_attend_state *from)
{
    for (size_t row = 0; row < rows; row++) {
        float a = into->max[row], b = from->max[row], max = b > a ? b : a;
        __m512 both = exp2_lanes(_mm512_setr4_ps(a - max, b - max, 0, 0)); /* lane 0 keeps, lane 1 takes */
        __m512 keep = _mm512_permutexvar_ps(_mm512_setzero_si512(), both);
        __m512 take = _mm512_permutexvar_ps(_mm512_set1_epi32(1), both);
        into->max[row] = max;
        into->sum[row] =
            fmaf(from->sum[row], _mm512_cvtss_f32(take), into->sum[row] * _mm512_cvtss_f32(keep));
        float *out = into->out + row * value_dim;
        const float *other = from->out + row * value_dim;
        for (size_t d = 0; d < value_dim; d += 16) {
            __mmask16 in = (__mmask16)(value_dim - d < 16 ? (1u << (value_dim - d)) - 1 : UINT16_MAX);
            __m512 kept = _mm512_mul_ps(_mm512_maskz_loadu_ps(in, out + d), keep);
            __m512 added = _mm512_maskz_loadu_ps(in, other + d);
            _mm512_mask_storeu_ps(out + d, in, _mm512_fmadd_ps(added, take, kept));
        }
    }
}

static void pack_q(size_t head_dim, float scale, const float *q, void *out)
{
    float *packed = out;
    for (size_t d = 0; d < head_dim; d++) packed[d] = q[d] * scale;
    if (head_dim % 2) packed[head_dim] = 0;
}

const sp_attend_slots sp_attend_avx512_f32 = {.pack_q = pack_q,
                                              .pack_k = sp_avx512_pack_k_f32,
                                              .pack_v = sp_avx512_pack_v_f32,
                                              .softmax = softmax,
                                              .merge = sp_avx512_merge,
                                              .scores = scores,
                                              .collect = sp_avx512_collect,
                                              .threshold = sp_avx512_threshold,
                                              .weigh = sp_avx512_weigh,
                                              .accumulate = sp_avx512_accumulate_f32};
const sp_attend_slots sp_attend_avx512_bf16 = {.pack_q = pack_q,
                                               .pack_k = sp_avx512_pack_k_widen,
                                               .pack_v = sp_avx512_pack_v_widen,
                                               .softmax = softmax,
                                               .merge = sp_avx512_merge,
                                               .scores = scores,
                                               .collect = sp_avx512_collect,
                                               .threshold = sp_avx512_threshold,
                                               .weigh = sp_avx512_weigh,
                                               .accumulate = sp_avx512_accumulate_bf16};
