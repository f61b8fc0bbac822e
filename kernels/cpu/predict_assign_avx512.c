/* Nearest centroids with AVX-512, 16 rows to a vector, and the keys that took one of them. Tests:
 * tests/kernels/test_assign.c */
#include "kernels/cpu/predict_avx512.h"

#include <float.h>
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

uint64_t sp_avx512_match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count)
{
    const __m512i wanted = _mm512_set1_epi16((short)id);
    const __mmask32 used = 0x11111111u * ((1u << n_ids) - 1);
    uint64_t word = 0;
#pragma GCC unroll 4
    for (size_t j = 0; j < SP_TILE; j += 16) {
        __mmask32 low = _mm512_mask_cmpeq_epi16_mask(used, _mm512_loadu_si512(ids + 4 * j), wanted);
        __mmask32 high = _mm512_mask_cmpeq_epi16_mask(used, _mm512_loadu_si512(ids + 4 * j + 32), wanted);
        uint64_t in = _mm512_kunpackd(high, low);
        in |= in >> 2;
        in |= in >> 1;
        word |= _pext_u64(in, 0x1111111111111111u) << j;
    }
    word &= exist;
    *count += (uint32_t)__builtin_popcountll(word);
    return word;
}

#define TOGETHER 4 /* centroids whose sums run beside each other */

typedef struct nearest_lanes {
    __m512 distances[SP_MAX_TOP];
    __m512i ids[SP_MAX_TOP];
} nearest_lanes;

/* Puts a centroid into the ascending lists of the lanes where it is nearer than one of them; the others move
 * on. */
INLINE void put_lanes(const uint32_t top, nearest_lanes *of, __m512 distance, __m512i id)
{
    __mmask16 in = 0;
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) {
        in |= _mm512_cmp_ps_mask(distance, of->distances[t], _CMP_LT_OQ);
        __m512 next = of->distances[t];
        __m512i next_id = of->ids[t];
        of->distances[t] = _mm512_mask_blend_ps(in, next, distance);
        of->ids[t] = _mm512_mask_blend_epi32(in, next_id, id);
        distance = _mm512_mask_blend_ps(in, distance, next);
        id = _mm512_mask_blend_epi32(in, id, next_id);
    }
}

INLINE void assign_some(const int count, const uint32_t top, uint32_t first, size_t rank,
                        const float *centroids, const float *turned, nearest_lanes *of)
{
    __m512 sum[TOGETHER];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) sum[i] = _mm512_setzero_ps();
    for (size_t d = 0; d < rank; d++) {
        __m512 x = _mm512_loadu_ps(turned + 16 * d);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
            __m512 t = _mm512_sub_ps(x, _mm512_set1_ps(centroids[(size_t)i * rank + d]));
            sum[i] = _mm512_fmadd_ps(t, t, sum[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) /* what is infinite, or no number, is the farthest, but comes in */
        put_lanes(top, of, _mm512_min_ps(sum[i], _mm512_set1_ps(FLT_MAX)), _mm512_set1_epi32((int)first + i));
}

/* Sixteen rows meet one centroid after the other; their nearest stay in registers. */
INLINE void assign_lanes(const uint32_t top, const sp_assign_args *args, const float *centroids,
                         const float *turned, __m512i ids[SP_MAX_TOP])
{
    nearest_lanes of;
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) {
        of.distances[t] = _mm512_set1_ps(INFINITY);
        of.ids[t] = _mm512_setzero_si512();
    }
    const size_t rank = args->rank;
    uint32_t c = 0;
    for (; c + TOGETHER <= args->n_centroids; c += TOGETHER)
        assign_some(TOGETHER, top, c, rank, centroids + c * rank, turned, &of);
    for (; c < args->n_centroids; c++) assign_some(1, top, c, rank, centroids + c * rank, turned, &of);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) ids[t] = of.ids[t];
}

#define TURNED 128 /* numbers of a row that are turned on the stack */

void sp_avx512_assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows)
{
    const size_t rank = args->rank, stride = (size_t)args->n_maps * rank,
                 id_stride = (size_t)args->n_maps * args->top;
    const float *centroids = args->centroids + map * args->centroid_stride;
    if (rank > TURNED) {
        sp_predict_reference.assign(args, map, first, rows);
        return;
    }
    _Alignas(64) float turned[TURNED * 16] = {0};
    for (size_t r = first; r < first + rows; r += 16) {
        size_t n = first + rows - r < 16 ? first + rows - r : 16;
        const float *x = args->x + r * stride + map * rank;
        for (size_t i = 0; i < n; i++)
            for (size_t d = 0; d < rank; d++) turned[16 * d + i] = x[i * stride + d];
        __m512i ids[SP_MAX_TOP];
        switch (args->top) {
        case 1:
            assign_lanes(1, args, centroids, turned, ids);
            break;
        case 2:
            assign_lanes(2, args, centroids, turned, ids);
            break;
        case 3:
            assign_lanes(3, args, centroids, turned, ids);
            break;
        default:
            assign_lanes(4, args, centroids, turned, ids);
            break;
        }
        uint16_t *to = args->ids + r * id_stride + map * args->top;
        for (uint32_t t = 0; t < args->top; t++) {
            uint16_t lanes[16];
            _mm256_storeu_si256((__m256i *)(void *)lanes, _mm512_cvtepi32_epi16(ids[t]));
            for (size_t i = 0; i < n; i++) to[i * id_stride + t] = lanes[i];
        }
    }
}
