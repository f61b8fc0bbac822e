/* The body of train_reference.c, train_avx2.c and train_avx512.c: the loops of kernels/train.h over vectors
 * of LANES numbers, a divisor of 16. Below are the vectors of the reference level, of one number; a faster
 * level defines its own, and TRAIN_LEVEL, the table's name, before it includes this. v_load and v_store want
 * aligned addresses; v_fma(a, b, c) = a b + c; v_exponent(p, t) adds the low bits of t to p's exponent;
 * v_from(x, cut) is x where x >= cut, else 0; v_above(x, cut) has a bit for each lane with x > cut; v_sum
 * adds all lanes.
 *
 * A block is 4 rows by a few vectors: weights stay in registers while d or r runs. Tests:
 * tests/kernels/test_train.c */
#ifndef SPARSED_KERNELS_CPU_TRAIN_LOOPS_H
#define SPARSED_KERNELS_CPU_TRAIN_LOOPS_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"
#include "kernels/train.h"

#include <math.h>

#ifndef TRAIN_LEVEL
#define TRAIN_LEVEL sp_cpu_train_reference
#define LANES 1
#define PRODUCT_VECS 4
typedef float vec;

static inline vec v_zero(void)
{
    return 0;
}

static inline vec v_set(float x)
{
    return x;
}

static inline vec v_load(const float *x)
{
    return *x;
}
#define v_loadu v_load

static inline void v_store(float *to, vec x)
{
    *to = x;
}
#define v_storeu v_store

static inline vec v_add(vec a, vec b)
{
    return a + b;
}

static inline vec v_mul(vec a, vec b)
{
    return a * b;
}

static inline vec v_div(vec a, vec b)
{
    return a / b;
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

static inline vec v_max(vec a, vec b)
{
    return a > b ? a : b;
}

static inline vec v_min(vec a, vec b)
{
    return a < b ? a : b;
}

static inline vec v_sum(vec x)
{
    return x;
}

static inline vec v_exponent(vec p, vec t)
{
    uint32_t bits, turns;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&turns, &t, sizeof turns);
    bits += turns << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline vec v_from(vec x, vec cut)
{
    return x >= cut ? x : 0;
}

static inline unsigned v_above(vec x, vec cut)
{
    return x > cut;
}
#endif

#define ROWS 4
#define PAIR_VECS 2
#define PAIR_LANES (PAIR_VECS * LANES)

static inline vec exp_lanes(vec x)
{
    x = v_min(v_max(x, v_set(SP_EXP_LOWEST)), v_set(SP_EXP_HIGHEST));
    vec turns = v_fma(x, v_set(SP_LOG2_E), v_set(SP_ROUND_MAGIC));
    vec whole = v_add(turns, v_set(-SP_ROUND_MAGIC));
    vec r = v_fma(whole, v_set(-SP_LN2_HIGH), x);
    r = v_fma(whole, v_set(-SP_LN2_LOW), r);
    vec p = v_set(SP_EXP_C4);
    p = v_fma(p, r, v_set(SP_EXP_C3));
    p = v_fma(p, r, v_set(SP_EXP_C2));
    p = v_fma(p, r, v_set(SP_EXP_C1));
    p = v_fma(p, r, v_set(SP_EXP_C0));
    p = v_fma(v_mul(r, r), p, r);
    return v_exponent(v_add(p, v_set(1.0f)), turns);
}

/* --- product --- */

static inline void product_block(const sp_train_product *p, size_t a, size_t t, size_t n_vecs)
{
    vec sums[ROWS][PRODUCT_VECS];
    const float *x[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        x[i] = p->x + (a + i < p->n_a ? a + i : p->n_a - 1) * p->x_stride;
        for (size_t v = 0; v < PRODUCT_VECS; v++) sums[i][v] = v_zero();
    }
    for (size_t d = 0; d < p->n_d; d++) {
        const float *y = p->y + d * p->y_stride + t;
        for (size_t v = 0; v < n_vecs; v++) {
            vec keys = v_load(y + v * LANES);
            for (size_t i = 0; i < ROWS; i++) sums[i][v] = v_fma(v_set(x[i][d]), keys, sums[i][v]);
        }
    }
    for (size_t i = 0; i < ROWS && a + i < p->n_a; i++)
        for (size_t v = 0; v < n_vecs; v++)
            v_store(p->out + (a + i) * p->out_stride + t + v * LANES, sums[i][v]);
}

static void product(const sp_train_product *p)
{
    size_t end = (p->n_t + LANES - 1) / LANES * LANES, width = PRODUCT_VECS * LANES;
    for (size_t t = 0; t < end; t += width) {
        for (size_t a = 0; a < p->n_a; a += ROWS) {
            size_t last = a + ROWS <= p->n_a ? a + ROWS - 1 : p->n_a - 1;
            if (p->lengths && p->lengths[last] <= t) continue;
            if (end - t >= width)
                product_block(p, a, t, PRODUCT_VECS);
            else
                product_block(p, a, t, (end - t) / LANES);
        }
    }
}

/* --- dots --- */

static inline void dots_block(size_t n_a, size_t n_b, size_t n_t, const float *x, size_t x_stride,
                              const float *y, size_t y_stride, float *out, size_t out_stride)
{
    vec sums[ROWS][ROWS];
    const float *xs[ROWS], *ys[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        xs[i] = x + (i < n_a ? i : 0) * x_stride;
        ys[i] = y + (i < n_b ? i : 0) * y_stride;
        for (size_t k = 0; k < ROWS; k++) sums[i][k] = v_zero();
    }
    for (size_t t = 0; t < n_t; t += LANES) {
        vec columns[ROWS];
        for (size_t k = 0; k < ROWS; k++) columns[k] = v_load(ys[k] + t);
        for (size_t i = 0; i < ROWS; i++) {
            vec row = v_load(xs[i] + t);
            for (size_t k = 0; k < ROWS; k++) sums[i][k] = v_fma(row, columns[k], sums[i][k]);
        }
    }
    for (size_t i = 0; i < n_a; i++)
        for (size_t k = 0; k < n_b; k++) out[i * out_stride + k] = v_sum(sums[i][k]);
}

static void dots(size_t n_a, size_t n_b, size_t n_t, const float *x, size_t x_stride, const float *y,
                 size_t y_stride, float *out)
{
    for (size_t a = 0; a < n_a; a += ROWS)
        for (size_t b = 0; b < n_b; b += ROWS)
            dots_block(n_a - a < ROWS ? n_a - a : ROWS, n_b - b < ROWS ? n_b - b : ROWS, n_t,
                       x + a * x_stride, x_stride, y + b * y_stride, y_stride, out + a * n_b + b, n_b);
}

/* --- pairs --- */

/* Four rows on their way through the keys. */
typedef struct train_quad {
    size_t row, n; /* first of up to four rows */
    size_t edge[ROWS], edge_end[ROWS];
    _Alignas(64) float x[ROWS][PAIR_LANES], g[ROWS][PAIR_LANES]; /* of the keys at hand; dloss / dx */
} train_quad;

static inline double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double value_of(const sp_train_pairs *p, float x, float w, bool edge)
{
    if (p->loss == SP_TRAIN_BALANCED)
        return (double)(edge ? w : p->others) * softplus(edge ? (double)-x : (double)x);
    if (edge) return -(double)w * log((double)(x > SP_ROUTED_FLOOR ? x : SP_ROUTED_FLOOR));
    return -(double)p->others * log1p(-(double)(x < 0.999999f ? x : 0.999999f));
}

static float slope_of_edge(const sp_train_pairs *p, float x, float w)
{
    if (p->loss == SP_TRAIN_BALANCED) return -w / (1.0f + expf(x));
    return x > SP_ROUTED_FLOOR ? -w / x : 0.0f;
}

static inline vec slope_of_others(const sp_train_pairs *p, vec x)
{
    const vec one = v_set(1.0f), others = v_set(p->others);
    if (p->loss == SP_TRAIN_BALANCED) return v_div(others, v_add(one, exp_lanes(v_mul(x, v_set(-1.0f)))));
    return v_div(others, v_max(v_fma(x, v_set(-1.0f), one), v_set(1e-6f)));
}

static inline void scores_of(const sp_train_pairs *p, train_quad *quad, size_t t)
{
    vec sums[ROWS][PAIR_VECS];
    const float *q[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        q[i] = p->q + (quad->row + (i < quad->n ? i : 0)) * p->rank;
        for (size_t v = 0; v < PAIR_VECS; v++) sums[i][v] = v_zero();
    }
    for (size_t r = 0; r < p->rank; r++) {
        const float *k = p->k + r * p->stride + t;
        for (size_t v = 0; v < PAIR_VECS; v++) {
            vec keys = v_load(k + v * LANES);
            for (size_t i = 0; i < ROWS; i++) sums[i][v] = v_fma(v_set(q[i][r]), keys, sums[i][v]);
        }
    }
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t v = 0; v < PAIR_VECS; v++) {
            v_store(&quad->x[i][v * LANES], sums[i][v]);
            v_store(&quad->g[i][v * LANES], slope_of_others(p, sums[i][v]));
        }
    }
}

/* True edges get their slope, keys that the row may not see none. */
static inline void correct_row(const sp_train_pairs *p, train_quad *quad, size_t i, size_t t)
{
    float *g = quad->g[i];
    size_t length = i < quad->n ? p->lengths[quad->row + i] : 0;
    size_t n = length > t + PAIR_LANES ? PAIR_LANES : length > t ? length - t : 0;
    for (size_t l = n; l < PAIR_LANES; l++) g[l] = 0;
    size_t edge = quad->edge[i], first = edge;
    for (; edge < quad->edge_end[i] && p->edges[edge] < t + PAIR_LANES; edge++) {
        size_t l = p->edges[edge] - t;
        g[l] = slope_of_edge(p, quad->x[i][l], p->weights[edge]);
    }
    quad->edge[i] = edge;
    if (!p->value) return;
    double sum = 0;
    for (size_t l = 0, e = first; l < n; l++) {
        bool is_edge = e < edge && p->edges[e] == t + l;
        sum += value_of(p, quad->x[i][l], is_edge ? p->weights[e] : 0, is_edge);
        e += is_edge;
    }
    *p->value += sum;
}

static inline void slopes_back(const sp_train_pairs *p, const train_quad *quad, size_t t)
{
    vec g[ROWS][PAIR_VECS];
    const float *q[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        q[i] = p->q + (quad->row + (i < quad->n ? i : 0)) * p->rank;
        for (size_t v = 0; v < PAIR_VECS; v++) g[i][v] = v_load(&quad->g[i][v * LANES]);
    }
    for (size_t r = 0; r < p->rank; r++) {
        const float *k = p->k + r * p->stride + t;
        float *dk = p->dk + r * p->stride + t, *dq = p->scratch + r * ROWS * LANES;
        vec keys[PAIR_VECS], slopes[PAIR_VECS];
        for (size_t v = 0; v < PAIR_VECS; v++) {
            keys[v] = v_load(k + v * LANES);
            slopes[v] = v_load(dk + v * LANES);
        }
        for (size_t i = 0; i < ROWS; i++) {
            vec query = v_set(q[i][r]), sum = v_load(dq + i * LANES);
            for (size_t v = 0; v < PAIR_VECS; v++) {
                slopes[v] = v_fma(g[i][v], query, slopes[v]);
                sum = v_fma(g[i][v], keys[v], sum);
            }
            v_store(dq + i * LANES, sum);
        }
        for (size_t v = 0; v < PAIR_VECS; v++) v_store(dk + v * LANES, slopes[v]);
    }
}

static void run_quad(const sp_train_pairs *p, size_t row)
{
    train_quad quad = {.row = row, .n = p->n_rows - row < ROWS ? p->n_rows - row : ROWS};
    for (size_t i = 0; i < quad.n; i++) {
        quad.edge[i] = p->begins[row + i];
        quad.edge_end[i] = p->begins[row + i + 1];
    }
    for (size_t i = 0; i < p->rank * ROWS * LANES; i++) p->scratch[i] = 0;
    for (size_t t = 0; t < p->lengths[row + quad.n - 1]; t += PAIR_LANES) {
        scores_of(p, &quad, t);
        for (size_t i = 0; i < ROWS; i++) correct_row(p, &quad, i, t);
        slopes_back(p, &quad, t);
    }
    for (size_t i = 0; i < quad.n; i++)
        for (size_t r = 0; r < p->rank; r++)
            p->dq[(row + i) * p->rank + r] = v_sum(v_load(p->scratch + (r * ROWS + i) * LANES));
}

static void pairs(const sp_train_pairs *p)
{
    for (size_t row = 0; row < p->n_rows; row += ROWS) run_quad(p, row);
}

/* --- rows --- */

static void widen(size_t n, const uint16_t *bf16, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = sp_bf16_to_f32(bf16[i]);
}

static float highest(size_t n, const float *x)
{
    size_t i = 0;
    float best = x[0], lanes[LANES];
    vec most = v_set(best);
    for (; i + LANES <= n; i += LANES) most = v_max(most, v_loadu(x + i));
    v_storeu(lanes, most);
    for (size_t l = 0; l < LANES; l++) best = lanes[l] > best ? lanes[l] : best;
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

static double exp_sum(size_t n, float shift, const float *x, float *y)
{
    const vec back = v_set(-shift);
    double sum = 0;
    size_t i = 0;
    while (i + LANES <= n) {
        vec part = v_zero();
        for (size_t k = 0; k < 64 && i + LANES <= n; k++, i += LANES) {
            vec e = exp_lanes(v_add(v_loadu(x + i), back));
            v_storeu(y + i, e);
            part = v_add(part, e);
        }
        sum += (double)v_sum(part);
    }
    for (; i < n; i++) sum += (double)(y[i] = expf(x[i] - shift));
    return sum;
}

static size_t collect(size_t n, float cut, const float *x, uint32_t *places, float *values)
{
    const vec cuts = v_set(cut);
    size_t found = 0, i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (unsigned mask = v_above(v_loadu(x + i), cuts); mask; mask &= mask - 1) {
            size_t at = i + (size_t)__builtin_ctz(mask);
            places[found] = (uint32_t)at;
            values[found++] = x[at];
        }
    }
    for (; i < n; i++) {
        if (!(x[i] > cut)) continue;
        places[found] = (uint32_t)i;
        values[found++] = x[i];
    }
    return found;
}

static void excess(size_t n, float t, const float *x, double sums[2])
{
    const vec back = v_set(-t), none = v_zero();
    size_t i = 0;
    sums[0] = sums[1] = 0;
    while (i + LANES <= n) {
        vec first = v_zero(), second = v_zero();
        for (size_t k = 0; k < 32 && i + LANES <= n; k++, i += LANES) {
            vec over = v_max(v_add(v_loadu(x + i), back), none);
            first = v_add(first, over);
            second = v_fma(over, over, second);
        }
        sums[0] += (double)v_sum(first);
        sums[1] += (double)v_sum(second);
    }
    for (; i < n; i++) {
        double over = x[i] > t ? (double)x[i] - (double)t : 0;
        sums[0] += over;
        sums[1] += over * over;
    }
}

static double sum_from(size_t n, float cut, const float *x)
{
    double sum = 0;
    size_t i = 0;
    while (i + LANES <= n) {
        vec part = v_zero();
        for (size_t k = 0; k < 64 && i + LANES <= n; k++, i += LANES)
            part = v_add(part, v_from(v_loadu(x + i), v_set(cut)));
        sum += (double)v_sum(part);
    }
    for (; i < n; i++) sum += x[i] >= cut ? (double)x[i] : 0;
    return sum;
}

const sp_train_ops TRAIN_LEVEL = {product, dots, pairs, widen, highest, exp_sum, collect, excess, sum_from};

#endif
