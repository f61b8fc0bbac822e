/* Pieces of predictors in plain C: the order of operations that every level keeps (predict.h). Tests:
 * tests/kernels/test_predict.c */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/predict.h"

static void project(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                    const float *weight, const float *bias, float *out, size_t out_stride)
{
    for (size_t r = 0; r < rows; r++) {
        float *to = out + r * out_stride;
        memcpy(to, bias, rank * sizeof *to);
        for (size_t d = 0; d < dim; d++)
            for (size_t j = 0; j < rank; j++) to[j] = fmaf(x[r * x_stride + d], weight[d * rank + j], to[j]);
    }
}

/* Number d of key j. */
static float code(const sp_scan_tile *tile, bool half, size_t d, size_t j)
{
    if (!half) return ((const float *)tile->k)[d * SP_TILE + j];
    return sp_bf16_to_f32(((const uint16_t *)tile->k)[(d / 2 * SP_TILE + j) * 2 + d % 2]);
}

static float dot(const sp_scan_tile *tile, bool half, const float *q, size_t j)
{
    float sum = 0;
    for (size_t d = 0; d < tile->stride && half; d += 2) {
        sum = fmaf(q[d + 1], code(tile, half, d + 1, j), sum);
        sum = fmaf(q[d], code(tile, half, d, j), sum);
    }
    for (size_t d = 0; d < tile->rank && !half; d++) sum = fmaf(q[d], code(tile, half, d, j), sum);
    return sum;
}

static float cosine(const sp_scan_tile *tile, bool half, const float *q, float length, size_t j)
{
    float sum = 0, square = 0;
    for (size_t d = 0; d < tile->rank; d++) {
        float k = code(tile, half, d, j);
        sum = fmaf(q[d], k, sum);
        square = fmaf(k, k, square);
    }
    float lengths = length * sqrtf(square);
    return lengths > 0 ? sum / lengths - 1 : -INFINITY;
}

static float minus_square(const sp_scan_tile *tile, bool half, const float *q, size_t j)
{
    float sum = 0;
    for (size_t d = 0; d < tile->rank; d++) {
        float t = q[d] - code(tile, half, d, j);
        sum = fmaf(t, t, sum);
    }
    return -sum;
}

static void near_tile(const sp_scan_tile *tile, bool half)
{
    for (size_t r = 0; r < tile->rows; r++) {
        const float *q = tile->q + r * tile->stride;
        float *near = tile->near + r * tile->near_stride;
        for (size_t j = 0; j < SP_TILE; j++) {
            switch (tile->metric) {
            case SP_METRIC_DOT:
                near[j] = dot(tile, half, q, j);
                break;
            case SP_METRIC_COSINE:
                near[j] = cosine(tile, half, q, tile->lengths[r], j);
                break;
            case SP_METRIC_L2:
                near[j] = minus_square(tile, half, q, j);
                break;
            case SP_METRIC_EUCLIDEAN:
                near[j] = -sqrtf(-minus_square(tile, half, q, j));
                break;
            }
        }
    }
}

static void near_f32(const sp_scan_tile *tile)
{
    near_tile(tile, false);
}

static void near_bf16(const sp_scan_tile *tile)
{
    near_tile(tile, true);
}

static uint64_t above(const float *near, float floor)
{
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j++) word |= (uint64_t)(near[j] > floor) << j;
    return word;
}

static void take(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key, size_t keep,
                 sp_scan_best *best)
{
    (void)keep;
    for (uint32_t j = 0; j < tiles * SP_TILE; j++) {
        if (!(allowed[j / SP_TILE] >> j % SP_TILE & 1) || !(near[j] > best->floor)) continue;
        best->near[best->n] = near[j];
        best->keys[best->n++] = first_key + j;
    }
}

/* -0 as 0. */
static uint32_t ordered(float x)
{
    return sp_ordered(x + 0.0f);
}

/* The keep-th largest, bit by bit from the top: the largest value that keep numbers reach. */
static void shrink(sp_scan_best *best, size_t keep, size_t most)
{
    (void)most;
    assert(best->n >= keep && keep > 0);
    uint32_t value = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        size_t count = 0;
        for (size_t i = 0; i < best->n; i++) count += ordered(best->near[i]) >= (value | bit);
        if (count >= keep) value |= bit;
    }
    size_t larger = 0, n = 0;
    for (size_t i = 0; i < best->n; i++) larger += ordered(best->near[i]) > value;
    size_t ties = keep - larger;
    for (size_t i = 0; i < best->n; i++) {
        uint32_t x = ordered(best->near[i]);
        if (x < value || (x == value && ties == 0)) continue;
        ties -= x == value;
        if (x == value) best->floor = best->near[i];
        best->near[n] = best->near[i];
        best->keys[n++] = best->keys[i];
    }
    best->n = n;
}

static uint64_t match(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count)
{
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j++)
        for (uint32_t i = 0; i < n_ids; i++) word |= (uint64_t)(ids[4 * j + i] == id) << j;
    word &= exist;
    *count += (uint32_t)__builtin_popcountll(word);
    return word;
}

static uint32_t count_bits(const uint64_t *words, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) count += (uint32_t)__builtin_popcountll(words[i]);
    return count;
}

static void list_set(const uint64_t *words, uint32_t tiles, uint32_t n, uint32_t *keys)
{
    uint32_t at = 0;
    for (uint32_t t = 0; t < tiles; t++)
        for (uint64_t word = words[t]; word && at < n; word &= word - 1)
            keys[at++] = t * SP_TILE + (uint32_t)__builtin_ctzll(word);
}

static void share_set(const uint64_t *words, const uint64_t *other, uint32_t tiles, uint64_t *shared)
{
    uint32_t rank = 0;
    for (uint32_t t = 0; t < tiles; t++) {
        for (uint64_t word = words[t]; word; word &= word - 1, rank++) {
            if (rank % 64 == 0) shared[rank / 64] = 0;
            shared[rank / 64] |= (other[t] >> __builtin_ctzll(word) & 1) << rank % 64;
        }
    }
}

static void assign(const sp_assign_args *args, uint32_t map, size_t first, size_t rows)
{
    const float *centroids = args->centroids + map * args->centroid_stride;
    for (size_t r = first; r < first + rows; r++) {
        const float *x = args->x + (r * args->n_maps + map) * args->rank;
        float distances[SP_MAX_TOP];
        uint16_t *ids = args->ids + (r * args->n_maps + map) * args->top;
        uint32_t n = 0;
        for (uint32_t c = 0; c < args->n_centroids; c++) {
            float sum = 0;
            for (size_t d = 0; d < args->rank; d++) {
                float t = x[d] - centroids[(size_t)c * args->rank + d];
                sum = fmaf(t, t, sum);
            }
            sp_assign_put(distances, ids, &n, args->top, sum, (uint16_t)c);
        }
    }
}

const sp_predict_slots sp_predict_reference = {.project = project,
                                               .near_f32 = near_f32,
                                               .near_bf16 = near_bf16,
                                               .above = above,
                                               .take = take,
                                               .shrink = shrink,
                                               .match = match,
                                               .count_bits = count_bits,
                                               .list_set = list_set,
                                               .share_set = share_set,
                                               .assign = assign};
