/* The loops of fitting with AVX2 and FMA: 8 numbers at a time. The body is train_loops.h. Tests:
 * tests/kernels/test_train.c */
#include <immintrin.h>

#define TRAIN_LEVEL sp_cpu_train_avx2
#define LANES 8
#define PRODUCT_VECS 2
typedef __m256 vec;
#define v_zero _mm256_setzero_ps
#define v_set _mm256_set1_ps
#define v_load _mm256_load_ps
#define v_loadu _mm256_loadu_ps
#define v_store _mm256_store_ps
#define v_storeu _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_mul _mm256_mul_ps
#define v_div _mm256_div_ps
#define v_fma _mm256_fmadd_ps
#define v_max _mm256_max_ps
#define v_min _mm256_min_ps

static inline vec v_exponent(vec p, vec t)
{
    __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), bits));
}

static inline vec v_from(vec x, vec cut)
{
    return _mm256_and_ps(x, _mm256_cmp_ps(x, cut, _CMP_GE_OQ));
}

static inline float v_sum(vec x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline unsigned v_above(vec x, vec cut)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x, cut, _CMP_GT_OQ));
}

#include "kernels/cpu/train_loops.h"
