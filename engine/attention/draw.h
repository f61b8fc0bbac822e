/* draw(seed, layer, kv_head, round, index): the one source of random choices in backends. Counter-based (the
 * mixer of SplitMix64, Steele et al. 2014), so that a choice depends on its coordinates alone and sweeps
 * repeat. Private to engine/attention. Tests: tests/attention/test_cases.c */
#ifndef SPARSED_ENGINE_ATTENTION_DRAW_H
#define SPARSED_ENGINE_ATTENTION_DRAW_H

#include <stdint.h>

static inline uint64_t sp_draw(uint64_t seed, uint64_t layer, uint64_t kv_head, uint64_t round,
                               uint64_t index)
{
    const uint64_t values[] = {layer, kv_head, round, index};
    uint64_t x = seed;
    for (int i = 0; i < 4; i++) {
        x += UINT64_C(0x9E3779B97F4A7C15) * (values[i] + 1);
        x ^= x >> 30;
        x *= UINT64_C(0xBF58476D1CE4E5B9);
        x ^= x >> 27;
        x *= UINT64_C(0x94D049BB133111EB);
        x ^= x >> 31;
    }
    return x;
}

#endif
