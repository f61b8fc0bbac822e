/* Keys of sets with BMI2, which comes with AVX2. A word holds few keys, and how many is random: eight are
 * written of each, whether they are there or not, so that no branch has to be guessed. Bits of one set at the
 * places of another are what PEXT gives. Tests: tests/kernels/test_sets.c */
#include <immintrin.h>

#include "kernels/cpu/predict.h"

#define AT_ONCE 8 /* keys written of a word */

uint32_t sp_avx2_count_bits(const uint64_t *words, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) count += (uint64_t)_mm_popcnt_u64(words[i]);
    return (uint32_t)count;
}

void sp_avx2_list_set(const uint64_t *words, uint32_t tiles, uint32_t n, uint32_t *keys)
{
    uint32_t at = 0;
    for (uint32_t t = 0; t < tiles; t++) {
        uint64_t word = words[t];
        uint32_t count = (uint32_t)_mm_popcnt_u64(word), first = t * SP_TILE;
        if (count <= AT_ONCE && at + AT_ONCE <= n) {
#pragma GCC unroll 8
            for (uint32_t i = 0; i < AT_ONCE; i++, word = _blsr_u64(word))
                keys[at + i] = first + (uint32_t)_tzcnt_u64(word);
        } else {
            for (uint32_t i = 0; i < count; i++, word = _blsr_u64(word))
                keys[at + i] = first + (uint32_t)_tzcnt_u64(word);
        }
        at += count;
    }
}

void sp_avx2_share_set(const uint64_t *words, const uint64_t *other, uint32_t tiles, uint64_t *shared)
{
    uint64_t open = 0; /* bits of the word that is being filled */
    uint32_t used = 0;
    for (uint32_t t = 0; t < tiles; t++) {
        uint64_t bits = _pext_u64(other[t], words[t]);
        uint32_t count = (uint32_t)_mm_popcnt_u64(words[t]);
        open |= bits << used;
        used += count;
        if (used < 64) continue;
        *shared++ = open;
        used -= 64;
        open = used ? bits >> (count - used) : 0;
    }
    if (used) *shared = open;
}
