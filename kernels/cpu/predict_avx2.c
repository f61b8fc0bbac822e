/* Pieces of predictors with AVX2: 2 rows by 32 keys in 8 registers, candidates by the bits of comparisons.
 * The order of operations is that of predict_reference.c. Tests: tests/kernels/test_predict.c */
#include <assert.h>
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/predict.h"

#define INLINE static inline __attribute__((always_inline))

/* --- projections --- */

/* 8 columns of some rows; what is behind the last column is computed in a copy. */
INLINE void project_columns(const int rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                            const float *weight, const float *bias, float *out, size_t out_stride)
{
    __m256 sum[4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sum[r] = _mm256_loadu_ps(bias);
    for (size_t d = 0; d < dim; d++) {
        __m256 w = _mm256_loadu_ps(weight + d * rank);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            sum[r] = _mm256_fmadd_ps(_mm256_set1_ps(x[(size_t)r * x_stride + d]), w, sum[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) _mm256_storeu_ps(out + (size_t)r * out_stride, sum[r]);
}

static void project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                    const float *weight, const float *bias, float *out, size_t out_stride)
{
    size_t whole = rank / 8 * 8, r = 0;
    for (; r + 4 <= rows; r += 4)
        for (size_t j = 0; j < whole; j += 8)
            project_columns(4, dim, rank, x + r * x_stride, x_stride, weight + j, bias + j,
                            out + r * out_stride + j, out_stride);
    for (; r < rows; r++)
        for (size_t j = 0; j < whole; j += 8)
            project_columns(1, dim, rank, x + r * x_stride, x_stride, weight + j, bias + j,
                            out + r * out_stride + j, out_stride);
    for (r = 0; r < rows; r++) {
        for (size_t j = whole; j < rank; j++) {
            float sum = bias[j];
            for (size_t d = 0; d < dim; d++) sum = fmaf(x[r * x_stride + d], weight[d * rank + j], sum);
            out[r * out_stride + j] = sum;
        }
    }
}

/* --- scores: rows by 32 keys, four vectors a row --- */

#define ROWS 2

INLINE void load_keys(const bool half, const void *k, size_t d, __m256 to[4])
{
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (!half) {
            to[j] = _mm256_loadu_ps((const float *)k + d * SP_TILE + 8 * j);
            continue;
        }
        __m256i pair = _mm256_loadu_si256(
            (const __m256i *)(const void *)((const uint32_t *)k + d / 2 * SP_TILE + 8 * j));
        pair =
            d % 2 ? _mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(pair, 16);
        to[j] = _mm256_castsi256_ps(pair);
    }
}

INLINE void add_dot(const int rows, const float *q, size_t stride, size_t d, const __m256 k[4],
                    __m256 sum[ROWS][4])
{
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++) {
        __m256 a = _mm256_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm256_fmadd_ps(a, k[j], sum[i][j]);
    }
}

INLINE void add_square(const int rows, const float *q, size_t stride, size_t d, const __m256 k[4],
                       __m256 sum[ROWS][4])
{
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++) {
        __m256 a = _mm256_set1_ps(q[(size_t)i * stride + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256 t = _mm256_sub_ps(a, k[j]);
            sum[i][j] = _mm256_fmadd_ps(t, t, sum[i][j]);
        }
    }
}

INLINE __m256 negated(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

INLINE __m256 finished(const sp_metric metric, __m256 sum, __m256 square, float length)
{
    if (metric == SP_METRIC_L2) return negated(sum);
    if (metric == SP_METRIC_EUCLIDEAN) return negated(_mm256_sqrt_ps(sum));
    if (metric == SP_METRIC_DOT) return sum;
    __m256 lengths = _mm256_mul_ps(_mm256_set1_ps(length), _mm256_sqrt_ps(square));
    __m256 some = _mm256_cmp_ps(lengths, _mm256_setzero_ps(), _CMP_GT_OQ);
    __m256 near = _mm256_sub_ps(_mm256_div_ps(sum, lengths), _mm256_set1_ps(1.0f));
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), near, some);
}

/* Keys first .. first + 31 of the tile. */
INLINE void near_rows(const bool half, const sp_metric metric, const int rows, const sp_scan_tile *tile,
                      size_t row, size_t first)
{
    const float *q = tile->q + row * tile->stride;
    const void *keys = (const uint32_t *)tile->k + first;
    __m256 sum[ROWS][4], square[4], k[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) square[j] = _mm256_setzero_ps();
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = _mm256_setzero_ps();
    if (half && metric == SP_METRIC_DOT) {
        for (size_t d = 0; d < tile->stride; d += 2) {
            load_keys(true, keys, d + 1, k);
            add_dot(rows, q, tile->stride, d + 1, k, sum);
            load_keys(true, keys, d, k);
            add_dot(rows, q, tile->stride, d, k, sum);
        }
    } else {
        for (size_t d = 0; d < tile->rank; d++) {
            load_keys(half, keys, d, k);
            if (metric == SP_METRIC_DOT || metric == SP_METRIC_COSINE)
                add_dot(rows, q, tile->stride, d, k, sum);
            else
                add_square(rows, q, tile->stride, d, k, sum);
#pragma GCC unroll 4
            for (int j = 0; j < 4 && metric == SP_METRIC_COSINE; j++)
                square[j] = _mm256_fmadd_ps(k[j], k[j], square[j]);
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++) {
        float length = metric == SP_METRIC_COSINE ? tile->lengths[row + (size_t)i] : 0;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            _mm256_storeu_ps(tile->near + (row + (size_t)i) * tile->near_stride + first + 8 * (size_t)j,
                             finished(metric, sum[i][j], square[j], length));
    }
}

INLINE void near_tile(const bool half, const sp_metric metric, const sp_scan_tile *tile)
{
    for (size_t first = 0; first < SP_TILE; first += 32) {
        size_t row = 0;
        for (; row + ROWS <= tile->rows; row += ROWS) near_rows(half, metric, ROWS, tile, row, first);
        for (; row < tile->rows; row++) near_rows(half, metric, 1, tile, row, first);
    }
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

static void near_bf16(const sp_scan_tile *tile)
{
    near_any(true, tile);
}

/* --- candidates --- */

static uint64_t above(const float *near, float floor)
{
    const __m256 limit = _mm256_set1_ps(floor);
    uint64_t word = 0;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256 in = _mm256_cmp_ps(_mm256_loadu_ps(near + 8 * j), limit, _CMP_GT_OQ);
        word |= (uint64_t)(uint32_t)_mm256_movemask_ps(in) << 8 * j;
    }
    return word;
}

static void take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key, size_t keep,
                 sp_scan_best *best)
{
    size_t n = best->n;
    (void)keep;
    for (uint32_t t = 0; t < tiles; t++) {
        uint64_t word = allowed[t] & above(near + t * SP_TILE, best->floor);
        for (; word; word &= word - 1, n++) {
            uint32_t j = t * SP_TILE + (uint32_t)__builtin_ctzll(word);
            best->near[n] = near[j];
            best->keys[n] = first_key + j;
        }
    }
    best->n = n;
}

static size_t count_from(const float *x, size_t n, float floor)
{
    const __m256 limit = _mm256_set1_ps(floor);
    size_t count = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 in = _mm256_cmp_ps(_mm256_loadu_ps(x + i), limit, _CMP_GE_OQ);
        count += (size_t)__builtin_popcount((uint32_t)_mm256_movemask_ps(in));
    }
    for (; i < n; i++) count += x[i] >= floor;
    return count;
}

static void shrink(sp_scan_best *best, size_t keep, size_t most)
{
    assert(best->n >= keep && keep > 0);
    size_t reach = best->n, n = 0;
    uint32_t value = 0;
    for (uint32_t bit = 0x80000000u; bit && reach > most; bit >>= 1) {
        /* what orders before every number counts them all */
        uint32_t next = value | bit;
        size_t count =
            next <= SP_ORDERED_LEAST ? best->n : count_from(best->near, best->n, sp_unordered(next));
        if (count < keep) continue;
        value = next;
        reach = count;
    }
    if (reach == best->n && reach <= most) return;
    float floor = sp_unordered(value), least = INFINITY;
    bool exact = reach <= most;
    size_t ties = 0;
    for (size_t i = 0; i < best->n && !exact; i++) ties += best->near[i] == floor;
    ties -= exact ? 0 : reach - keep;
    for (size_t i = 0; i < best->n; i++) {
        float x = best->near[i];
        bool in = x > floor || (x == floor && (exact || ties > 0));
        if (x == floor && in && !exact) ties--;
        best->near[n] = x;
        best->keys[n] = best->keys[i];
        if (in && x < least) least = x;
        n += in;
    }
    best->n = n;
    best->floor = least;
}

static uint64_t match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count)
{
    const __m256i wanted = _mm256_set1_epi16((short)id);
    const uint32_t used = 0x01010101u * ((1u << 2 * n_ids) - 1); /* two bits an id, four ids a key */
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j += 4) {
        __m256i four = _mm256_loadu_si256((const __m256i *)(const void *)(ids + 4 * j));
        uint32_t in = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi16(four, wanted)) & used;
        in |= in >> 4;
        in |= in >> 2;
        word |= (uint64_t)_pext_u32(in, 0x01010101u) << j;
    }
    word &= exist;
    *count += (uint32_t)__builtin_popcountll(word);
    return word;
}

/* --- nearest centroids: 8 to a vector --- */

#define CENTROID_STEPS 64 /* numbers of 8 centroids that are turned at once */

static void turn(const float *centroids, size_t rank, uint32_t count, size_t begin, size_t end, float *turned)
{
    memset(turned, 0, (end - begin) * 8 * sizeof *turned);
    for (uint32_t i = 0; i < count; i++)
        for (size_t d = begin; d < end; d++) turned[(d - begin) * 8 + i] = centroids[i * rank + d];
}

#define ASSIGN_ROWS 64

static void assign_block(const sp_assign_args *args, uint32_t map, size_t first, size_t rows)
{
    const size_t rank = args->rank, stride = (size_t)args->n_maps * rank;
    const float *x = args->x + (first * args->n_maps + map) * rank;
    uint16_t *ids = args->ids + (first * args->n_maps + map) * args->top;
    _Alignas(32) float turned[CENTROID_STEPS * 8], sums[ASSIGN_ROWS * 8], distances[ASSIGN_ROWS][SP_MAX_TOP];
    uint32_t n[ASSIGN_ROWS] = {0};
    for (uint32_t c = 0; c < args->n_centroids; c += 8) {
        uint32_t count = args->n_centroids - c < 8 ? args->n_centroids - c : 8;
        memset(sums, 0, rows * 8 * sizeof *sums);
        for (size_t begin = 0; begin < rank; begin += CENTROID_STEPS) {
            size_t end = rank - begin < CENTROID_STEPS ? rank : begin + CENTROID_STEPS;
            turn(args->centroids + map * args->centroid_stride + (size_t)c * rank, rank, count, begin, end,
                 turned);
            for (size_t r = 0; r < rows; r++) {
                __m256 sum = _mm256_load_ps(sums + 8 * r);
                for (size_t d = begin; d < end; d++) {
                    __m256 t = _mm256_sub_ps(_mm256_set1_ps(x[r * stride + d]),
                                             _mm256_load_ps(turned + (d - begin) * 8));
                    sum = _mm256_fmadd_ps(t, t, sum);
                }
                _mm256_store_ps(sums + 8 * r, sum);
            }
        }
        for (size_t r = 0; r < rows; r++)
            for (uint32_t i = 0; i < count; i++)
                sp_assign_put(distances[r], ids + r * args->n_maps * args->top, &n[r], args->top,
                              sums[8 * r + i], (uint16_t)(c + i));
    }
}

static void assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows)
{
    for (size_t r = 0; r < rows; r += ASSIGN_ROWS)
        assign_block(args, map, first + r, rows - r < ASSIGN_ROWS ? rows - r : ASSIGN_ROWS);
}

const sp_predict_slots sp_predict_avx2 = {.project = project,
                                          .near_f32 = near_f32,
                                          .near_bf16 = near_bf16,
                                          .above = above,
                                          .take = take,
                                          .shrink = shrink,
                                          .match = match,
                                          .count_bits = sp_avx2_count_bits,
                                          .list_set = sp_avx2_list_set,
                                          .share_set = sp_avx2_share_set,
                                          .assign = assign};
