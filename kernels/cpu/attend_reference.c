/* Attention microkernels in plain C, float32 throughout: the form that every CPU can run and that the faster
 * levels are read against. One row at a time; the inner loops run across the 64 keys of a tile (scores) and
 * across value columns (outputs), as in every level. bf16 pages are widened, which is exact. Tests:
 * tests/kernels/test_attend.c */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend.h"

/* --- packing --- */

static void pack_q(size_t head_dim, float scale, const float *q, void *out)
{
    float *packed = out;
    for (size_t d = 0; d < head_dim; d++) packed[d] = q[d] * scale;
    if (head_dim % 2) packed[head_dim] = 0;
}

static void pack_k_f32(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    (void)ahead;
    float *packed = out;
    for (size_t j = 0; j < SP_TILE; j++) {
        const float *row = rows[j];
        for (size_t d = 0; d < head_dim; d++) packed[d * SP_TILE + j] = row ? row[d] : 0;
        if (head_dim % 2) packed[head_dim * SP_TILE + j] = 0;
    }
}

static void pack_k_bf16(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    (void)ahead;
    float *packed = out;
    for (size_t j = 0; j < SP_TILE; j++) {
        const uint16_t *row = rows[j];
        for (size_t d = 0; d < head_dim; d++) packed[d * SP_TILE + j] = row ? sp_bf16_to_f32(row[d]) : 0;
        if (head_dim % 2) packed[head_dim * SP_TILE + j] = 0;
    }
}

static void pack_v_f32(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    (void)ahead;
    size_t width = (value_dim + 15) / 16 * 16;
    float *packed = out;
    memset(packed, 0, SP_TILE * width * sizeof *packed);
    for (size_t j = 0; j < SP_TILE; j++)
        if (rows[j]) memcpy(packed + j * width, rows[j], value_dim * sizeof *packed);
}

static void pack_v_bf16(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    (void)ahead;
    size_t width = (value_dim + 15) / 16 * 16;
    float *packed = out;
    memset(packed, 0, SP_TILE * width * sizeof *packed);
    for (size_t j = 0; j < SP_TILE; j++) {
        const uint16_t *row = rows[j];
        for (size_t d = 0; row && d < value_dim; d++) packed[j * width + d] = sp_bf16_to_f32(row[d]);
    }
}

/* --- scores --- */

/* Scores of one row; returns the largest, -INFINITY without an edge. */
static float row_scores(const sp_attend_tile *tile, size_t row, float *scores)
{
    const float *q = (const float *)tile->q + row * tile->head_dim, *k = tile->k;
    for (size_t j = 0; j < SP_TILE; j++) scores[j] = 0;
    for (size_t d = 0; d < tile->head_dim; d++)
        for (size_t j = 0; j < SP_TILE; j++) scores[j] += q[d] * k[d * SP_TILE + j];
    float top = -INFINITY;
    for (size_t j = 0; j < SP_TILE; j++) {
        if (tile->words && !(tile->words[row] >> j & 1)) scores[j] = -INFINITY;
        if (scores[j] > top) top = scores[j];
    }
    return top;
}

static void scores(const sp_attend_tile *tile)
{
    for (size_t row = 0; row < tile->rows; row++) *tile->tops[row] = row_scores(tile, row, tile->scores[row]);
}

/* --- softmax --- */

static void softmax(const sp_attend_tile *tile)
{
    const float *v = tile->v;
    for (size_t row = 0; row < tile->rows; row++) {
        if (tile->words && !tile->words[row]) continue;
        float p[SP_TILE], sum = 0;
        float top = row_scores(tile, row, p), before = tile->state.max[row];
        float max = top > before ? top : before, factor = exp2f(before - max);
        for (size_t j = 0; j < SP_TILE; j++) {
            p[j] = exp2f(p[j] - max);
            sum += p[j];
        }
        tile->state.max[row] = max;
        tile->state.sum[row] = tile->state.sum[row] * factor + sum;
        float *out = tile->state.out + row * tile->value_dim;
        for (size_t d = 0; d < tile->value_dim; d++) out[d] *= factor;
        for (size_t j = 0; j < SP_TILE; j++)
            for (size_t d = 0; d < tile->value_dim; d++) out[d] += p[j] * v[j * tile->v_stride + d];
    }
}

static void merge(size_t rows, size_t value_dim, const sp_attend_state *into, const sp_attend_state *from)
{
    for (size_t row = 0; row < rows; row++) {
        float a = into->max[row], b = from->max[row], max = b > a ? b : a;
        float keep = exp2f(a - max), take = exp2f(b - max);
        into->max[row] = max;
        into->sum[row] = into->sum[row] * keep + from->sum[row] * take;
        float *out = into->out + row * value_dim;
        const float *other = from->out + row * value_dim;
        for (size_t d = 0; d < value_dim; d++) out[d] = out[d] * keep + other[d] * take;
    }
}

/* --- entmax --- */

static void collect(sp_attend_row *row)
{
    row->top = -INFINITY;
    row->n_hits = 0;
    row->n = 0;
    for (uint32_t t = 0; t < row->tiles; t++)
        if (row->tops[t] > row->top) row->top = row->tops[t];
    for (uint32_t t = 0; t < row->tiles; t++) {
        if (!(row->tops[t] - row->top > -1)) continue; /* -INFINITY less itself is NaN */
        row->hits[row->n_hits++] = t;
        for (size_t j = 0; j < SP_TILE; j++) {
            float z = row->scores[(size_t)t * SP_TILE + j] - row->top;
            if (z > -1) row->candidates[row->n++] = z;
        }
    }
}

static double threshold(float alpha, float *candidates, size_t n)
{
    double tau = sp_entmax_threshold(alpha, candidates, n);
    return alpha == 1.5f || alpha == 2 ? (double)(float)tau : tau;
}

uint64_t sp_attend_weigh_power(float alpha, const float *scores, float top, double tau, float *weights)
{
    double exponent = 1 / ((double)alpha - 1);
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j++) {
        double x = (double)scores[j] - (double)top - tau;
        float p = x > 0 ? (float)pow(x, exponent) : 0;
        if (!(p > 0)) continue;
        word |= (uint64_t)1 << j;
        *weights++ = p;
    }
    return word;
}

static uint64_t weigh(float alpha, const float *row, float top, double tau, float *weights)
{
    if (alpha != 1.5f && alpha != 2) return sp_attend_weigh_power(alpha, row, top, tau, weights);
    uint64_t word = 0;
    for (size_t j = 0; j < SP_TILE; j++) {
        float x = row[j] - top - (float)tau;
        if (!(x > 0)) continue;
        float p = alpha == 2 ? x : x * x;
        if (!(p > 0)) continue;
        word |= (uint64_t)1 << j;
        *weights++ = p;
    }
    return word;
}

#define COLUMNS 32 /* of a partial sum */

static void accumulate_f32(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                           float *out)
{
    for (size_t at = 0; at < value_dim; at += COLUMNS) {
        size_t width = value_dim - at < COLUMNS ? value_dim - at : COLUMNS;
        float sum[COLUMNS] = {0};
        for (size_t i = 0; i < n; i++) {
            const float *row = (const float *)rows[i] + at;
            for (size_t d = 0; d < width; d++) sum[d] += weights[i] * row[d];
        }
        for (size_t d = 0; d < width; d++) out[at + d] += sum[d];
    }
}

static void accumulate_bf16(size_t n, const float *weights, const void *const *rows, size_t value_dim,
                            float *out)
{
    for (size_t at = 0; at < value_dim; at += COLUMNS) {
        size_t width = value_dim - at < COLUMNS ? value_dim - at : COLUMNS;
        float sum[COLUMNS] = {0};
        for (size_t i = 0; i < n; i++) {
            const uint16_t *row = (const uint16_t *)rows[i] + at;
            for (size_t d = 0; d < width; d++) sum[d] += weights[i] * sp_bf16_to_f32(row[d]);
        }
        for (size_t d = 0; d < width; d++) out[at + d] += sum[d];
    }
}

const sp_attend_slots sp_attend_reference_f32 = {.pack_q = pack_q,
                                                 .pack_k = pack_k_f32,
                                                 .pack_v = pack_v_f32,
                                                 .softmax = softmax,
                                                 .merge = merge,
                                                 .scores = scores,
                                                 .collect = collect,
                                                 .threshold = threshold,
                                                 .weigh = weigh,
                                                 .accumulate = accumulate_f32};
const sp_attend_slots sp_attend_reference_bf16 = {.pack_q = pack_q,
                                                  .pack_k = pack_k_bf16,
                                                  .pack_v = pack_v_bf16,
                                                  .softmax = softmax,
                                                  .merge = merge,
                                                  .scores = scores,
                                                  .collect = collect,
                                                  .threshold = threshold,
                                                  .weigh = weigh,
                                                  .accumulate = accumulate_bf16};
