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
    const __m512i one = _mm512_set1_epi32(1);
    __m512i lane = _mm512_set_epi32(0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    __m512i larger = _mm512_setzero_si512();
#pragma GCC unroll 15
    for (int i = 1; i < 16; i++) { /* each meets the 15 others */
        __mmask16 in = _mm512_cmp_ps_mask(_mm512_permutexvar_ps(lane, v), v, _CMP_GT_OQ);
        larger = _mm512_mask_add_epi32(larger, in, larger, one);
        lane = _mm512_add_epi32(lane, one);
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

/* Keeps what reaches the floor, as `reach` numbers do; where that is more than most, all above it and the
 * first of those at it: `keep` together. */
static void keep_from(sp_scan_best *best, size_t keep, size_t most, float floor, size_t reach)
{
    const __m512 limit = _mm512_set1_ps(floor);
    __m512 least = _mm512_set1_ps(INFINITY);
    size_t spare = reach > most ? reach - keep : 0; /* of those at the floor itself, the last so many go */
    size_t ties = 0, n = 0;
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

void sp_avx512_shrink(sp_scan_best *best, size_t keep, size_t most)
{
    assert(best->n >= keep && keep > 0);
    size_t reach;
    float floor = find_floor(best->near, best->n, keep, most, &reach);
    keep_from(best, keep, most, floor, reach);
}

/* --- searches of several rows beside each other: none waits for the others' counts --- */

typedef struct searches {
    const float *x[8];
    size_t n[8];
    __m256 from, to;             /* wanted numbers reach from, fewer reach to */
    __m256 reach_from, reach_to; /* how many do */
} searches;

/* About the logarithm of positive numbers, but for factor and summand. */
INLINE __m256 logarithm(__m256 x)
{
    return _mm256_cvtepi32_ps(_mm256_castps_si256(x));
}

/* Numbers between from and to that about `aim` reach, as if the counts' logarithms lay on a straight line. */
INLINE __m256 straight(const searches *s, float aim)
{
    __m256 top = logarithm(s->reach_from), end = logarithm(_mm256_max_ps(s->reach_to, _mm256_set1_ps(.5f)));
    __m256 part = _mm256_div_ps(_mm256_sub_ps(top, logarithm(_mm256_set1_ps(aim))), _mm256_sub_ps(top, end));
    part = _mm256_min_ps(_mm256_max_ps(part, _mm256_set1_ps(.05f)), _mm256_set1_ps(.95f));
    return _mm256_fmadd_ps(_mm256_sub_ps(s->to, s->from), part, s->from);
}

/* Makes the intervals narrower by one count a row. */
INLINE void narrow(searches *s, size_t rows, float wanted)
{
    const __m256 guess = straight(s, wanted);
    float guesses[8], counts[8] = {0};
    _mm256_storeu_ps(guesses, guess);
    for (size_t i = 0; i < rows; i++) counts[i] = (float)count_from(s->x[i], s->n[i], guesses[i]);
    __m256 count = _mm256_loadu_ps(counts);
    __mmask8 enough = _mm256_cmp_ps_mask(count, _mm256_set1_ps(wanted), _CMP_GE_OQ);
    s->from = _mm256_mask_mov_ps(s->from, enough, guess);
    s->reach_from = _mm256_mask_mov_ps(s->reach_from, enough, count);
    s->to = _mm256_mask_mov_ps(guess, enough, s->to);
    s->reach_to = _mm256_mask_mov_ps(count, enough, s->reach_to);
}

#define SETTLE_ROUNDS 4 /* mostly 16 numbers or fewer are left then */

void sp_avx512_settle(sp_scan_best *best, size_t rows, size_t keep)
{
    searches s = {.n = {0}};
    float from[8] = {0}, to[8] = {0}, reach_from[8], reach_to[8] = {0};
    for (size_t i = 0; i < 8; i++) reach_from[i] = 1;
    for (size_t i = 0; i < rows; i++) {
        __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
        s.x[i] = best[i].near;
        if (best[i].n <= keep) continue;
        s.n[i] = (best[i].n + SP_TILE - 1) / SP_TILE * SP_TILE;
        for (size_t j = 0; j < best[i].n; j += 16) {
            __m512 x = _mm512_loadu_ps(best[i].near + j);
            low = _mm512_mask_min_ps(low, first_lanes(best[i].n - j), low, x);
            high = _mm512_mask_max_ps(high, first_lanes(best[i].n - j), high, x);
        }
        for (size_t j = best[i].n; j < s.n[i]; j += 16) /* there is room for a tile */
            _mm512_mask_storeu_ps(best[i].near + j, first_lanes(s.n[i] - j), _mm512_set1_ps(-INFINITY));
        from[i] = _mm512_reduce_min_ps(low); /* the floor may have been raised since by another part */
        to[i] = _mm512_reduce_max_ps(high);
        reach_from[i] = (float)best[i].n;
    }
    s.from = _mm256_loadu_ps(from);
    s.to = _mm256_loadu_ps(to);
    s.reach_from = _mm256_loadu_ps(reach_from);
    s.reach_to = _mm256_loadu_ps(reach_to);
    for (int i = 0; i < SETTLE_ROUNDS; i++) narrow(&s, rows, (float)keep);
    _mm256_storeu_ps(from, s.from);
    _mm256_storeu_ps(to, s.to);
    _mm256_storeu_ps(reach_from, s.reach_from);
    _mm256_storeu_ps(reach_to, s.reach_to);
    for (size_t i = 0; i < rows; i++) {
        size_t reach;
        float floor;
        if (best[i].n <= keep) continue;
        if (reach_to[i] > 0 && reach_from[i] - reach_to[i] <= 16 && from[i] > -INFINITY) {
            floor = pick(best[i].near, best[i].n, from[i], to[i], keep - (size_t)reach_to[i], &reach);
            reach += (size_t)reach_to[i];
        } else {
            floor = find_floor(best[i].near, best[i].n, keep, keep, &reach);
        }
        keep_from(&best[i], keep, keep, floor, reach);
    }
}

/* Raises the tops of the lanes to the allowed keys of a tile. */
INLINE __m512 raise_tops(__m512 top, const float *near, uint64_t allowed)
{
    __m512 x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        x[j] = _mm512_loadu_ps(near + 16 * j);
        if (allowed != UINT64_MAX)
            x[j] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)(allowed >> 16 * j), x[j]);
    }
    /* in this order what is not a number is passed over */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) top = _mm512_max_ps(x[j], top);
    return top;
}

/* The keep-th largest of the maxima of disjoint sets of keys is a floor that keep keys reach. A set is the
 * keys of one lane in `group` tiles. */
static float sure_floor(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t group,
                        size_t keep)
{
    _Alignas(64) float tops[SP_SCAN_STEP * 16];
    size_t reach, n = 0;
    for (uint32_t t = 0; t < tiles; t += group, n += 16) {
        __m512 top = _mm512_set1_ps(-INFINITY);
        for (uint32_t i = t; i < t + group && i < tiles; i++)
            top = raise_tops(top, near + i * SP_TILE, allowed[i]);
        _mm512_store_ps(tops + n, top);
    }
    float floor = find_floor(tops, n, keep, keep + keep / 8, &reach);
    return floor > -FLT_MAX && reach >= keep ? nextafterf(floor, -INFINITY) : -INFINITY;
}

#define GUESS_ROUNDS 3
#define GUESS_MORE 1.5f /* deviations */
#define GUESS_TOPS 256  /* sets of a row at most */

/* As many of the sample exceed the guess as are expected, and GUESS_MORE deviations more, were keys drawn at
 * random. They are counted by the maxima of sets of 4 or 8, a lane's keys in one tile or two. */
void sp_avx512_guess(const sp_scan_run *run, size_t keep, float *floors)
{
    _Alignas(64) float tops[SP_SCAN_ROWS][GUESS_TOPS];
    const uint32_t tiles = run->end - run->first, sampled = (tiles + run->every - 1) / run->every;
    const uint32_t apart = run->every * (sampled < 16 ? 1 : 2);
    const float share = (float)keep * (float)sampled / (float)tiles;
    const float wanted = floorf(share + GUESS_MORE * sqrtf(share)) + 1;
    size_t n = 16 * (size_t)((tiles + apart - 1) / apart), rows = run->tile.rows;
    assert(n <= GUESS_TOPS);
    searches s = {.n = {0}};
    float from[8] = {0}, to[8] = {0};
    for (size_t i = 0; i < rows; i++) {
        const float *near = run->near + i * run->tile.near_stride;
        float *put = tops[i];
        __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
        for (uint32_t t = run->first; t < run->end; t += apart, put += 16) {
            __m512 top = raise_tops(_mm512_set1_ps(-INFINITY), near + t * SP_TILE, UINT64_MAX);
            if (apart > run->every && t + run->every < run->end)
                top = raise_tops(top, near + (t + run->every) * SP_TILE, UINT64_MAX);
            low = _mm512_min_ps(low, top);
            high = _mm512_max_ps(high, top);
            _mm512_store_ps(put, top);
        }
        s.x[i] = tops[i];
        s.n[i] = n;
        from[i] = _mm512_reduce_min_ps(low);
        to[i] = _mm512_reduce_max_ps(high);
    }
    s.from = _mm256_loadu_ps(from);
    s.to = _mm256_loadu_ps(to);
    s.reach_from = _mm256_set1_ps((float)n);
    s.reach_to = _mm256_setzero_ps();
    for (int i = 0; i < GUESS_ROUNDS; i++) narrow(&s, rows, wanted);
    _mm256_storeu_ps(from, straight(&s, wanted));
    for (size_t i = 0; i < rows; i++) {
        if (floors[i] > -INFINITY) continue;
        floors[i] = wanted > (float)n / 2 ? INFINITY : from[i];
    }
}

void sp_avx512_gather(const float *near, const uint64_t *words, uint32_t tiles, uint32_t first_key,
                      sp_scan_best *best)
{
    for (uint32_t t = 0; t < tiles; t++)
        sp_avx512_append(near + t * SP_TILE, words[t], first_key + t * SP_TILE, best);
}

void sp_avx512_take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key,
                    size_t keep, sp_scan_best *best)
{
    uint64_t words[SP_SCAN_STEP];
    if (best->floor == -INFINITY && 2 * keep <= (size_t)tiles * 16) {
        size_t group = (size_t)tiles * 16 / (4 * keep);
        best->floor = sure_floor(near, allowed, tiles, group ? (uint32_t)group : 1, keep);
    }
    const __m512 limit = _mm512_set1_ps(best->floor);
    for (uint32_t t = 0; t < tiles; t++) words[t] = allowed[t] & above(near + t * SP_TILE, limit);
    sp_avx512_gather(near, words, tiles, first_key, best);
}
