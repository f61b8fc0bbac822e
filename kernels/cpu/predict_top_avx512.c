/* Candidates of the nearest keys with AVX-512: lists by compression, the keep-th best by straight lines
 * through counts and, once few are left, by comparing each with all. Tests: tests/kernels/test_predict.c */
#include "kernels/cpu/predict_avx512.h"

#include <assert.h>
#include <float.h>
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t compare(const int how, const float *near, __m512 limit)
{
    __mmask16 in[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) in[j] = _mm512_cmp_ps_mask(_mm512_loadu_ps(near + 16 * j), limit, how);
    return _mm512_kunpackd(_mm512_kunpackw(in[3], in[2]), _mm512_kunpackw(in[1], in[0]));
}

INLINE uint64_t above(const float *near, __m512 limit)
{
    return compare(_CMP_GT_OQ, near, limit);
}

INLINE uint64_t reached(const float *near, __m512 limit)
{
    return compare(_CMP_GE_OQ, near, limit);
}

uint64_t sp_avx512_above(const float *near, float floor)
{
    return above(near, _mm512_set1_ps(floor));
}

INLINE __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : UINT16_MAX);
}

static size_t count_from(const float *x, size_t n, float floor)
{
    const __m512 limit = _mm512_set1_ps(floor);
    size_t count = 0, i = 0;
    for (; i + SP_TILE <= n; i += SP_TILE) count += (size_t)__builtin_popcountll(reached(x + i, limit));
    for (; i < n; i += 16)
        count += (size_t)_mm_popcnt_u32(
            _mm512_mask_cmp_ps_mask(first_lanes(n - i), _mm512_loadu_ps(x + i), limit, _CMP_GE_OQ));
    return count;
}

#define GUESSES 8

/* The keep-th largest of x, bit by bit from the first in which the least and the largest differ; or a number
 * on the way there that at most `most` reach. */
static float bisect(const float *x, size_t n, size_t keep, size_t most, float least, float largest,
                    size_t *reach)
{
    if (least == 0) least = -0.0f; /* a zero may stand for either zero: begin below, end above */
    uint32_t value = sp_ordered(least), last = sp_ordered(largest + 0.0f);
    int bits = value == last ? 0 : 32 - __builtin_clz(value ^ last);
    value &= ~(bits == 32 ? UINT32_MAX : ((uint32_t)1 << bits) - 1);
    *reach = n;
    for (uint32_t bit = bits ? (uint32_t)1 << (bits - 1) : 0; bit; bit >>= 1) {
        size_t count = count_from(x, n, sp_unordered(value | bit));
        if (count < keep) continue;
        value |= bit;
        *reach = count;
        if (count <= most) break;
    }
    return sp_unordered(value);
}

/* The wanted-th largest of those x, at most 16, that are from `from` on and below `below`; *reach gets how
 * many of them reach it. */
static float pick(const float *x, size_t n, float from, float below, size_t wanted, size_t *reach)
{
    _Alignas(64) float few[32] = {0};
    const __m512 low = _mm512_set1_ps(from), high = _mm512_set1_ps(below), none = _mm512_set1_ps(-INFINITY);
    size_t found = 0;
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        __mmask16 in = _mm512_mask_cmp_ps_mask(first_lanes(n - i), v, low, _CMP_GE_OQ);
        in = _mm512_mask_cmp_ps_mask(in, v, high, _CMP_LT_OQ);
        _mm512_storeu_ps(few + found, _mm512_maskz_compress_ps(in, v));
        found += (size_t)_mm_popcnt_u32(in);
    }
    __m512 v = _mm512_mask_mov_ps(none, first_lanes(found), _mm512_load_ps(few));
    __m512i turned = _mm512_castps_si512(v), larger = _mm512_setzero_si512();
    for (int i = 1; i < 16; i++) { /* each meets the 15 others */
        turned = _mm512_alignr_epi32(turned, turned, 1);
        larger = _mm512_mask_add_epi32(larger, _mm512_cmp_ps_mask(_mm512_castsi512_ps(turned), v, _CMP_GT_OQ),
                                       larger, _mm512_set1_epi32(1));
    }
    __mmask16 in = _mm512_cmplt_epu32_mask(larger, _mm512_set1_epi32((int)wanted));
    float least = _mm512_mask_reduce_min_ps(in, v);
    *reach = (size_t)_mm_popcnt_u32(_mm512_cmp_ps_mask(v, _mm512_set1_ps(least), _CMP_GE_OQ));
    return least;
}

/* A number that keep of x reach, and at most `most` of them where ties allow: guessed by straight lines
 * through the counts met so far until few numbers are left, else by bisection. n >= keep. */
static float find_floor(const float *x, size_t n, size_t keep, size_t most, size_t *reach)
{
    __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        low = _mm512_mask_min_ps(low, first_lanes(n - i), low, v);
        high = _mm512_mask_max_ps(high, first_lanes(n - i), high, v);
    }
    const float least = _mm512_reduce_min_ps(low), largest = _mm512_reduce_max_ps(high);
    float from = least, to = largest, above_from = (float)n, above_to = 0, wanted = (float)(keep + most) / 2;
    for (int i = 0; i < GUESSES; i++) {
        float part = (above_from - wanted) / (above_from - above_to);
        part = part < .1f ? .1f : part > .9f ? .9f : part;
        float guess = from + (to - from) * part;
        if (!(guess > from && guess < to)) break; /* as near as floats are, or infinite */
        size_t count = count_from(x, n, guess);
        if (count >= keep && count <= most) {
            *reach = count;
            return guess;
        }
        if (count < keep)
            to = guess, above_to = (float)count;
        else
            from = guess, above_from = (float)count;
        if (above_to > 0 && above_from - above_to <= 16) {
            float floor = pick(x, n, from, to, keep - (size_t)above_to, reach);
            *reach += (size_t)above_to;
            return floor;
        }
    }
    return bisect(x, n, keep, most, least, largest, reach);
}

void sp_avx512_shrink(sp_scan_best *best, size_t keep, size_t most)
{
    assert(best->n >= keep && keep > 0);
    size_t reach, n = 0;
    float floor = find_floor(best->near, best->n, keep, most, &reach);
    const __m512 limit = _mm512_set1_ps(floor);
    __m512 least = _mm512_set1_ps(INFINITY);
    size_t spare = reach > most ? reach - keep : 0; /* of those at the floor itself, the last so many go */
    size_t ties = 0;
    if (spare) {
        for (size_t i = 0; i < best->n; i += 16)
            ties += (size_t)_mm_popcnt_u32(_mm512_mask_cmp_ps_mask(
                first_lanes(best->n - i), _mm512_loadu_ps(best->near + i), limit, _CMP_EQ_OQ));
        ties -= spare;
    }
    for (size_t i = 0; i < best->n; i += 16) {
        __m512 x = _mm512_loadu_ps(best->near + i);
        __m512i keys = _mm512_loadu_si512(best->keys + i);
        __mmask16 in = _mm512_mask_cmp_ps_mask(first_lanes(best->n - i), x, limit, _CMP_GE_OQ);
        if (spare) {
            uint32_t equal = _mm512_mask_cmp_ps_mask(in, x, limit, _CMP_EQ_OQ), taken = 0;
            for (; equal && ties; equal &= equal - 1, ties--) taken |= equal & -equal;
            in = (__mmask16)(_mm512_mask_cmp_ps_mask(in, x, limit, _CMP_GT_OQ) | taken);
        }
        least = _mm512_mask_min_ps(least, in, least, x);
        _mm512_storeu_ps(best->near + n, _mm512_maskz_compress_ps(in, x)); /* never beyond i + 15 */
        _mm512_storeu_si512(best->keys + n, _mm512_maskz_compress_epi32(in, keys));
        n += (size_t)_mm_popcnt_u32(in);
    }
    best->n = n;
    best->floor = _mm512_reduce_min_ps(least);
}

/* The keep-th largest of the maxima of disjoint sets of keys is a floor that keep keys reach. A set is the
 * keys of one lane in `group` tiles. */
static float sure_floor(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t group,
                        size_t keep)
{
    _Alignas(64) float tops[SP_SCAN_STEP * 16];
    const __m512 none = _mm512_set1_ps(-INFINITY);
    size_t reach, n = 0;
    for (uint32_t t = 0; t < tiles; t += group, n += 16) {
        __m512 top = none;
        for (uint32_t i = t; i < t + group && i < tiles; i++) {
            const bool whole = allowed[i] == UINT64_MAX;
            __m512 x[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                x[j] = _mm512_loadu_ps(near + i * SP_TILE + 16 * j);
                if (!whole) x[j] = _mm512_mask_mov_ps(none, (__mmask16)(allowed[i] >> 16 * j), x[j]);
            }
            /* in this order what is not a number is passed over */
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) top = _mm512_max_ps(x[j], top);
        }
        _mm512_store_ps(tops + n, top);
    }
    float floor = find_floor(tops, n, keep, keep + keep / 8, &reach);
    return floor > -FLT_MAX && reach >= keep ? nextafterf(floor, -INFINITY) : -INFINITY;
}

/* Appends the keys that words (tiles) mark. */
static void gather(const float *near, const uint64_t *words, uint32_t tiles, uint32_t first_key,
                   sp_scan_best *best)
{
    uint32_t at[SP_SCAN_STEP + 1], used = 0;
    for (uint32_t t = 0; t < tiles; t++) { /* tiles with a hit, without a branch */
        at[used] = t;
        used += words[t] != 0;
    }
    const uint64_t last = (uint64_t)1 << 63;
    float *to = best->near + best->n;
    uint32_t *keys = best->keys + best->n;
    for (uint32_t i = 0; i < used;
         i++) { /* mostly one hit or two: both are written, what is none is overwritten */
        uint64_t word = words[at[i]], rest = word & (word - 1);
        uint32_t hits = (uint32_t)__builtin_popcountll(word), first = at[i] * SP_TILE;
        uint32_t one = first + (uint32_t)__builtin_ctzll(word),
                 two = first + (uint32_t)__builtin_ctzll(rest | last);
        to[0] = near[one];
        to[1] = near[two];
        keys[0] = first_key + one;
        keys[1] = first_key + two;
        for (uint32_t j = 2; j < hits; j++) {
            rest &= rest - 1;
            uint32_t next = first + (uint32_t)__builtin_ctzll(rest | last);
            to[j] = near[next];
            keys[j] = first_key + next;
        }
        to += hits;
        keys += hits;
    }
    best->n = (size_t)(to - best->near);
}

void sp_avx512_pass(const float *near, const uint64_t *allowed, uint32_t tiles, size_t keep,
                    sp_scan_best *best, uint64_t words[SP_SCAN_STEP])
{
    if (best->floor == -INFINITY && 2 * keep <= (size_t)tiles * 16) {
        size_t group = (size_t)tiles * 16 / (4 * keep);
        best->floor = sure_floor(near, allowed, tiles, group ? (uint32_t)group : 1, keep);
    }
    const __m512 limit = _mm512_set1_ps(best->floor);
    for (uint32_t t = 0; t < tiles; t++) words[t] = allowed[t] & above(near + t * SP_TILE, limit);
}

void sp_avx512_take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key,
                    size_t keep, sp_scan_best *best)
{
    uint64_t words[SP_SCAN_STEP];
    sp_avx512_pass(near, allowed, tiles, keep, best, words);
    gather(near, words, tiles, first_key, best);
}
