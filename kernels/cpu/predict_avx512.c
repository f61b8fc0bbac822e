/* Pieces of predictors with AVX-512: scores of rows by 64 keys in registers, candidate lists by compression,
 * the keep-th best by bisection over the bits of floats, centroids 16 to a vector. The order of operations is
 * that of predict_reference.c. Tests: tests/kernels/test_predict.c */
#include "kernels/cpu/predict_avx512.h"

#include <assert.h>
#include <float.h>
#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* --- projections --- */

#define PROJECT_ROWS 8

INLINE void project_block(const int rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                          const float *weight, const float *bias, float *out, size_t out_stride)
{
    for (size_t j = 0; j < rank; j += 16) {
        __mmask16 in = (__mmask16)(rank - j < 16 ? (1u << (rank - j)) - 1 : UINT16_MAX);
        __m512 sum[PROJECT_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sum[r] = _mm512_maskz_loadu_ps(in, bias + j);
        for (size_t d = 0; d < dim; d++) {
            __m512 w = _mm512_maskz_loadu_ps(in, weight + d * rank + j);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(x[(size_t)r * x_stride + d]), w, sum[r]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) _mm512_mask_storeu_ps(out + (size_t)r * out_stride + j, in, sum[r]);
    }
}

void sp_avx512_project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                       const float *weight, const float *bias, float *out, size_t out_stride)
{
    size_t r = 0;
    for (; r + PROJECT_ROWS <= rows; r += PROJECT_ROWS)
        project_block(PROJECT_ROWS, dim, rank, x + r * x_stride, x_stride, weight, bias, out + r * out_stride,
                      out_stride);
    for (; r < rows; r++)
        project_block(1, dim, rank, x + r * x_stride, x_stride, weight, bias, out + r * out_stride,
                      out_stride);
}

/* --- scores: rows by 64 keys, four vectors a row --- */

#define ROWS 4

/* Number d of the 64 keys. */
INLINE void load_keys(const bool half, const void *k, size_t d, __m512 to[4])
{
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (!half) {
            to[j] = _mm512_loadu_ps((const float *)k + d * SP_TILE + 16 * j);
            continue;
        }
        __m512i pair = _mm512_loadu_si512((const uint32_t *)k + d / 2 * SP_TILE + 16 * j);
        pair =
            d % 2 ? _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pair, 16);
        to[j] = _mm512_castsi512_ps(pair);
    }
}

INLINE void add_dot(const int rows, const float *q, size_t stride, size_t d, const __m512 k[4],
                    __m512 sum[ROWS][4])
{
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        __m512 a = _mm512_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_fmadd_ps(a, k[j], sum[i][j]);
    }
}

INLINE void add_square(const int rows, const float *q, size_t stride, size_t d, const __m512 k[4],
                       __m512 sum[ROWS][4])
{
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        __m512 a = _mm512_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 t = _mm512_sub_ps(a, k[j]);
            sum[i][j] = _mm512_fmadd_ps(t, t, sum[i][j]);
        }
    }
}

INLINE __m512 negated(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

INLINE void near_rows(const bool half, const sp_metric metric, const int rows, const sp_scan_tile *tile,
                      size_t row)
{
    const float *q = tile->q + row * tile->stride;
    __m512 sum[ROWS][4], square[4], k[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) square[j] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    if (half && metric == SP_METRIC_DOT) {
        for (size_t d = 0; d < tile->stride; d += 2) {
            load_keys(true, tile->k, d + 1, k);
            add_dot(rows, q, tile->stride, d + 1, k, sum);
            load_keys(true, tile->k, d, k);
            add_dot(rows, q, tile->stride, d, k, sum);
        }
    } else {
        for (size_t d = 0; d < tile->rank; d++) {
            load_keys(half, tile->k, d, k);
            if (metric == SP_METRIC_DOT || metric == SP_METRIC_COSINE)
                add_dot(rows, q, tile->stride, d, k, sum);
            else
                add_square(rows, q, tile->stride, d, k, sum);
#pragma GCC unroll 4
            for (int j = 0; j < 4 && metric == SP_METRIC_COSINE; j++)
                square[j] = _mm512_fmadd_ps(k[j], k[j], square[j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        float *to = tile->near + (row + (size_t)i) * tile->near_stride;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 near = sum[i][j];
            if (metric == SP_METRIC_L2) near = negated(near);
            if (metric == SP_METRIC_EUCLIDEAN) near = negated(_mm512_sqrt_ps(near));
            if (metric == SP_METRIC_COSINE) {
                __m512 lengths =
                    _mm512_mul_ps(_mm512_set1_ps(tile->lengths[row + (size_t)i]), _mm512_sqrt_ps(square[j]));
                __mmask16 some = _mm512_cmp_ps_mask(lengths, _mm512_setzero_ps(), _CMP_GT_OQ);
                near = _mm512_sub_ps(_mm512_div_ps(near, lengths), _mm512_set1_ps(1.0f));
                near = _mm512_mask_blend_ps(some, _mm512_set1_ps(-INFINITY), near);
            }
            _mm512_storeu_ps(to + 16 * j, near);
        }
    }
}

INLINE void near_tile(const bool half, const sp_metric metric, const sp_scan_tile *tile)
{
    size_t row = 0;
    for (; row + ROWS <= tile->rows; row += ROWS) near_rows(half, metric, ROWS, tile, row);
    for (; row < tile->rows; row++) near_rows(half, metric, 1, tile, row);
}

INLINE void near_any(const bool half, const sp_scan_tile *tile)
{
    switch (tile->metric) {
    case SP_METRIC_DOT:
        near_tile(half, SP_METRIC_DOT, tile);
        break;
    case SP_METRIC_COSINE:
        near_tile(half, SP_METRIC_COSINE, tile);
        break;
    case SP_METRIC_L2:
        near_tile(half, SP_METRIC_L2, tile);
        break;
    case SP_METRIC_EUCLIDEAN:
        near_tile(half, SP_METRIC_EUCLIDEAN, tile);
        break;
    }
}

static void near_f32(const sp_scan_tile *tile)
{
    near_any(false, tile);
}

void sp_avx512_near_bf16(const sp_scan_tile *tile)
{
    near_any(true, tile);
}

/* --- candidates --- */

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

static void take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key, size_t keep,
                 sp_scan_best *best)
{
    uint64_t words[SP_SCAN_STEP];
    sp_avx512_pass(near, allowed, tiles, keep, best, words);
    gather(near, words, tiles, first_key, best);
}

uint64_t sp_avx512_match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count)
{
    const __m512i wanted = _mm512_set1_epi16((short)id);
    const __mmask32 used = 0x11111111u * ((1u << n_ids) - 1);
    uint64_t word = 0;
#pragma GCC unroll 4
    for (size_t j = 0; j < SP_TILE; j += 16) {
        __mmask32 low = _mm512_mask_cmpeq_epi16_mask(used, _mm512_loadu_si512(ids + 4 * j), wanted);
        __mmask32 high = _mm512_mask_cmpeq_epi16_mask(used, _mm512_loadu_si512(ids + 4 * j + 32), wanted);
        uint64_t in = _mm512_kunpackd(high, low);
        in |= in >> 2;
        in |= in >> 1;
        word |= _pext_u64(in, 0x1111111111111111u) << j;
    }
    word &= exist;
    *count += (uint32_t)__builtin_popcountll(word);
    return word;
}

/* --- nearest centroids: 16 rows to a vector --- */

#define TOGETHER 4 /* centroids whose sums run beside each other */

typedef struct nearest_lanes {
    __m512 distances[SP_MAX_TOP];
    __m512i ids[SP_MAX_TOP];
} nearest_lanes;

/* Puts a centroid into the ascending lists of the lanes where it is nearer than one of them; the others move
 * on. */
INLINE void put_lanes(const uint32_t top, nearest_lanes *of, __m512 distance, __m512i id)
{
    __mmask16 in = 0;
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) {
        in |= _mm512_cmp_ps_mask(distance, of->distances[t], _CMP_LT_OQ);
        __m512 next = of->distances[t];
        __m512i next_id = of->ids[t];
        of->distances[t] = _mm512_mask_blend_ps(in, next, distance);
        of->ids[t] = _mm512_mask_blend_epi32(in, next_id, id);
        distance = _mm512_mask_blend_ps(in, distance, next);
        id = _mm512_mask_blend_epi32(in, id, next_id);
    }
}

INLINE void assign_some(const int count, const uint32_t top, uint32_t first, size_t rank,
                        const float *centroids, const float *turned, nearest_lanes *of)
{
    __m512 sum[TOGETHER];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) sum[i] = _mm512_setzero_ps();
    for (size_t d = 0; d < rank; d++) {
        __m512 x = _mm512_loadu_ps(turned + 16 * d);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
            __m512 t = _mm512_sub_ps(x, _mm512_set1_ps(centroids[(size_t)i * rank + d]));
            sum[i] = _mm512_fmadd_ps(t, t, sum[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) /* what is infinite, or no number, is the farthest, but comes in */
        put_lanes(top, of, _mm512_min_ps(sum[i], _mm512_set1_ps(FLT_MAX)), _mm512_set1_epi32((int)first + i));
}

/* Sixteen rows meet one centroid after the other; their nearest stay in registers. */
INLINE void assign_lanes(const uint32_t top, const sp_assign_args *args, const float *centroids,
                         const float *turned, __m512i ids[SP_MAX_TOP])
{
    nearest_lanes of;
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) {
        of.distances[t] = _mm512_set1_ps(INFINITY);
        of.ids[t] = _mm512_setzero_si512();
    }
    const size_t rank = args->rank;
    uint32_t c = 0;
    for (; c + TOGETHER <= args->n_centroids; c += TOGETHER)
        assign_some(TOGETHER, top, c, rank, centroids + c * rank, turned, &of);
    for (; c < args->n_centroids; c++) assign_some(1, top, c, rank, centroids + c * rank, turned, &of);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < top; t++) ids[t] = of.ids[t];
}

#define TURNED 128 /* numbers of a row that are turned on the stack */

void sp_avx512_assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows)
{
    const size_t rank = args->rank, stride = (size_t)args->n_maps * rank,
                 id_stride = (size_t)args->n_maps * args->top;
    const float *centroids = args->centroids + map * args->centroid_stride;
    if (rank > TURNED) {
        sp_predict_reference.assign(args, map, first, rows);
        return;
    }
    _Alignas(64) float turned[TURNED * 16] = {0};
    for (size_t r = first; r < first + rows; r += 16) {
        size_t n = first + rows - r < 16 ? first + rows - r : 16;
        const float *x = args->x + r * stride + map * rank;
        for (size_t i = 0; i < n; i++)
            for (size_t d = 0; d < rank; d++) turned[16 * d + i] = x[i * stride + d];
        __m512i ids[SP_MAX_TOP];
        switch (args->top) {
        case 1:
            assign_lanes(1, args, centroids, turned, ids);
            break;
        case 2:
            assign_lanes(2, args, centroids, turned, ids);
            break;
        case 3:
            assign_lanes(3, args, centroids, turned, ids);
            break;
        default:
            assign_lanes(4, args, centroids, turned, ids);
            break;
        }
        uint16_t *to = args->ids + r * id_stride + map * args->top;
        for (uint32_t t = 0; t < args->top; t++) {
            uint16_t lanes[16];
            _mm256_storeu_si256((__m256i *)(void *)lanes, _mm512_cvtepi32_epi16(ids[t]));
            for (size_t i = 0; i < n; i++) to[i * id_stride + t] = lanes[i];
        }
    }
}

const sp_predict_slots sp_predict_avx512 = {.project = sp_avx512_project,
                                            .near_f32 = near_f32,
                                            .near_bf16 = sp_avx512_near_bf16,
                                            .above = sp_avx512_above,
                                            .take = take,
                                            .shrink = sp_avx512_shrink,
                                            .match = sp_avx512_match,
                                            .count_bits = sp_avx2_count_bits,
                                            .list_set = sp_avx2_list_set,
                                            .share_set = sp_avx2_share_set,
                                            .assign = sp_avx512_assign};
