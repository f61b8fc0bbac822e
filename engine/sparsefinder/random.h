/* Numbers that look random and repeat: splitmix64 (Steele et al. 2014). */
#ifndef SPARSED_ENGINE_SPARSEFINDER_RANDOM_H
#define SPARSED_ENGINE_SPARSEFINDER_RANDOM_H

#include <stdint.h>

typedef struct sp_random {
    uint64_t state;
} sp_random;

static inline uint64_t sp_random_next(sp_random *random)
{
    uint64_t x = random->state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* A stream of its own for every seed, layer, head and purpose. */
static inline sp_random sp_random_open(int64_t seed, uint32_t layer, uint32_t head, uint32_t purpose)
{
    sp_random random = {(uint64_t)seed};
    random.state = sp_random_next(&random) + layer;
    random.state = sp_random_next(&random) + head;
    random.state = sp_random_next(&random) + purpose;
    return random;
}

/* Below n >= 1. */
static inline uint32_t sp_random_below(sp_random *random, uint32_t n)
{
    return (uint32_t)(((sp_random_next(random) >> 32) * n) >> 32);
}

/* In [0, 1). */
static inline double sp_random_share(sp_random *random)
{
    return (double)(sp_random_next(random) >> 11) * 0x1p-53;
}

#endif
