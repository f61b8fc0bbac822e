/* SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) and Box-Muller.
 */
#include "tests/support/random.h"

#include <math.h>

uint64_t test_random_u64(test_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t test_random_below(test_random *random, uint64_t n)
{
    return test_random_u64(random) % n; /* the bias of at most n / 2^64 does not matter to a test */
}

double test_random_unit(test_random *random)
{
    return (double)(test_random_u64(random) >> 11) * 0x1p-53;
}

double test_random_gauss(test_random *random)
{
    double radius = sqrt(-2.0 * log(1.0 - test_random_unit(random)));
    return radius * cos(6.283185307179586 * test_random_unit(random));
}

void test_random_fill(test_random *random, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = scale * (float)test_random_gauss(random);
}

void test_random_eighths(test_random *random, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)((int)test_random_below(random, 33) - 16) / 8;
}
