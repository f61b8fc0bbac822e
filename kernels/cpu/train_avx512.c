/* The loops of fitting with AVX-512: 16 numbers at a time. The body is train_loops.h. Tests:
 * tests/kernels/test_train.c */
#include <immintrin.h>

#define TRAIN_LEVEL sp_cpu_train_avx512
#define LANES 16
#define PRODUCT_VECS 4
typedef __m512 vec;
#define v_zero _mm512_setzero_ps
#define v_set _mm512_set1_ps
#define v_load _mm512_load_ps
#define v_loadu _mm512_loadu_ps
#define v_store _mm512_store_ps
#define v_storeu _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_mul _mm512_mul_ps
#define v_div _mm512_div_ps
#define v_fma _mm512_fmadd_ps
#define v_max _mm512_max_ps
#define v_min _mm512_min_ps
#define v_sum _mm512_reduce_add_ps

static inline vec v_exponent(vec p, vec t)
{
    __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), bits));
}

static inline vec v_from(vec x, vec cut)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, cut, _CMP_GE_OQ), x);
}

static inline unsigned v_above(vec x, vec cut)
{
    return _mm512_cmp_ps_mask(x, cut, _CMP_GT_OQ);
}

#include "kernels/cpu/train_loops.h"
