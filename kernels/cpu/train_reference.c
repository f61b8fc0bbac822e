/* The loops of fitting in plain C: one number at a time. The body is train_loops.h. Tests:
 * tests/kernels/test_train.c */
#include <stdint.h>
#include <string.h>

#define TRAIN_LEVEL sp_cpu_train_reference
#define LANES 1
#define PRODUCT_VECS 4
typedef float vec;

static inline vec v_zero(void)
{
    return 0;
}

static inline vec v_set(float x)
{
    return x;
}

static inline vec v_load(const float *x)
{
    return *x;
}
#define v_loadu v_load

static inline void v_store(float *to, vec x)
{
    *to = x;
}
#define v_storeu v_store

static inline vec v_add(vec a, vec b)
{
    return a + b;
}

static inline vec v_mul(vec a, vec b)
{
    return a * b;
}

static inline vec v_div(vec a, vec b)
{
    return a / b;
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

static inline vec v_max(vec a, vec b)
{
    return a > b ? a : b;
}

static inline vec v_min(vec a, vec b)
{
    return a < b ? a : b;
}

static inline vec v_sum(vec x)
{
    return x;
}

static inline vec v_exponent(vec p, vec t)
{
    uint32_t bits, turns;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&turns, &t, sizeof turns);
    bits += turns << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline vec v_from(vec x, vec cut)
{
    return x >= cut ? x : 0;
}

#include "kernels/cpu/train_loops.h"
