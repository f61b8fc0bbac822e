/* Seeded pseudo-random numbers for tests: the same seed gives the same sequence everywhere. */
#ifndef SPARSED_TESTS_SUPPORT_RANDOM_H
#define SPARSED_TESTS_SUPPORT_RANDOM_H

#include <stddef.h>
#include <stdint.h>

typedef struct test_random {
    uint64_t state; /* any seed will do */
} test_random;

uint64_t test_random_u64(test_random *random);
uint64_t test_random_below(test_random *random, uint64_t n);                 /* 0..n-1; n > 0 */
double test_random_unit(test_random *random);                                /* uniform in [0, 1) */
double test_random_gauss(test_random *random);                               /* mean 0, variance 1 */
void test_random_fill(test_random *random, float *x, size_t n, float scale); /* x[n] = scale * gauss */

/* x[n]: multiples of 1/8 from -2 to 2, which bf16 holds: sums of products are exact and ties common. */
void test_random_eighths(test_random *random, float *x, size_t n);

#endif
