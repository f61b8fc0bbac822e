/* See finder.h. Slow on purpose. */
#include "tests/support/finder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- patterns --- */

#define FINDER(text) "{\"backend\":\"sparsefinder\",\"params\":{" text "}}"
const finder_pattern finder_patterns[] = {
    {.json = "\"sparsefinder\"",
     .rule = FINDER_DOT,
     .set = SP_FIT_DOT,
     .threshold = NAN,
     .window = 33,
     .first = 1},
    {.json = FINDER("\"metric\":\"dot\",\"recall\":0.9,\"window\":0,\"global_first\":0"),
     .rule = FINDER_DOT,
     .set = SP_FIT_DOT,
     .table = 90,
     .threshold = NAN},
    {.json = FINDER("\"keep\":5,\"window\":9,\"global_first\":3"),
     .rule = FINDER_DOT,
     .set = SP_FIT_DOT,
     .keep = 5,
     .window = 9,
     .first = 3},
    {.json = FINDER("\"metric\":\"l2\",\"threshold\":6.5,\"window\":1"),
     .rule = FINDER_L2,
     .threshold = 6.5,
     .window = 1,
     .first = 1},
    {.json = FINDER("\"metric\":\"l2\",\"window\":5,\"global_first\":70,\"global_last\":2"),
     .rule = FINDER_L2,
     .threshold = NAN,
     .window = 5,
     .first = 70,
     .last = 2},
    {.json = FINDER("\"metric\":\"l2\",\"keep\":16,\"window\":0,\"global_first\":0,\"global_last\":3"),
     .rule = FINDER_L2,
     .keep = 16,
     .last = 3},
    {.json = FINDER("\"metric\":\"euclidean\",\"threshold\":2.377,\"window\":3"),
     .rule = FINDER_EUCLIDEAN,
     .threshold = 2.377,
     .window = 3,
     .first = 1},
    {.json = FINDER("\"metric\":\"cosine\",\"threshold\":0.29371,\"window\":0"),
     .rule = FINDER_COSINE,
     .threshold = 0.29371,
     .first = 1},
    {.json = FINDER("\"grouping\":\"bucket\",\"window\":7"),
     .rule = FINDER_FROZEN,
     .buckets = 6,
     .window = 7,
     .first = 1},
    {.json = FINDER("\"grouping\":\"bucket\",\"bins\":\"fixed\",\"buckets\":11,\"temperature\":0.5,"
                    "\"global_first\":2"),
     .rule = FINDER_FIXED,
     .buckets = 11,
     .temperature = 0.5,
     .window = 33,
     .first = 2},
    {.json =
         FINDER("\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":8,\"window\":3,\"global_first\":0"),
     .rule = FINDER_EQUAL,
     .buckets = 8,
     .window = 3},
    {.json = FINDER("\"grouping\":\"bucket\",\"bins\":\"fixed\",\"buckets\":1,\"window\":3"),
     .rule = FINDER_FIXED,
     .buckets = 1,
     .temperature = 1,
     .window = 3,
     .first = 1},
    {.json = FINDER("\"grouping\":\"cluster\",\"runs\":2"),
     .rule = FINDER_CLUSTER,
     .top = 2,
     .runs = 2,
     .window = 33,
     .first = 1},
    {.json = FINDER("\"grouping\":\"cluster\",\"clusters\":5,\"top\":1,\"window\":0,\"global_first\":0"),
     .rule = FINDER_CLUSTER,
     .table = 5,
     .top = 1,
     .runs = 1},
    {.json = FINDER("\"grouping\":\"cluster\",\"clusters\":9,\"top\":4,\"window\":5,\"global_last\":1"),
     .rule = FINDER_CLUSTER,
     .set = SP_FIT_CLUSTER,
     .set_size = 9,
     .top = 4,
     .runs = 1,
     .window = 5,
     .first = 1,
     .last = 1},
    {.json = FINDER("\"grouping\":\"cluster\",\"clusters\":70,\"top\":3,\"window\":3"),
     .rule = FINDER_CLUSTER,
     .set = SP_FIT_CLUSTER,
     .set_size = 70,
     .top = 3,
     .runs = 1,
     .window = 3,
     .first = 1},
    {.json = FINDER("\"grouping\":\"block\",\"block\":16,\"keep\":2"),
     .rule = FINDER_TOKEN,
     .set = SP_FIT_BLOCK,
     .set_size = 16,
     .keep = 2,
     .top = 2,
     .block = 16,
     .window = 3,
     .first = 1},
    {.json = FINDER("\"grouping\":\"block\",\"block\":7,\"select\":\"centroid\",\"keep\":3,\"window\":0,"
                    "\"global_first\":0,\"global_last\":1"),
     .rule = FINDER_CENTROID,
     .set = SP_FIT_BLOCK,
     .set_size = 7,
     .keep = 3,
     .block = 7,
     .last = 1},
    {.json = "\"routing\"", .rule = FINDER_ROUTING, .window = 3, .first = 1},
    {.json = "{\"backend\":\"routing\",\"params\":{\"clusters\":5,\"window\":0,\"global_first\":4}}",
     .rule = FINDER_ROUTING,
     .table = 5,
     .first = 4},
};
const size_t n_finder_patterns = sizeof finder_patterns / sizeof *finder_patterns;

bool finder_streams(const finder_pattern *pattern)
{
    return pattern->last == 0 && pattern->rule != FINDER_EQUAL && pattern->rule != FINDER_TOKEN &&
           pattern->rule != FINDER_CENTROID && pattern->rule != FINDER_ROUTING;
}

/* --- the oracle --- */

typedef struct scene {
    const finder_pattern *p;
    const sp_fit *fit;
    const sp_fit_set *set;
    uint32_t n, n_keys, r;
    bool causal;
    double *q, *k; /* (n, r), (n_keys, r) of the head */
    uint32_t head;
    uint8_t *edge; /* (n, n_keys) of the head: predicted */
} scene;

static void *take(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    if (!memory) abort();
    return memory;
}

static const sp_fit_table *table_of(const sp_fit_table *tables, size_t n, uint32_t size)
{
    for (size_t i = 0; i < n; i++)
        if (tables[i].size == size) return &tables[i];
    return &tables[0];
}

static const float *centroids(const scene *s, uint32_t run, uint32_t *count, uint32_t wide)
{
    const sp_fit_table *t = table_of(s->set->centroids, s->set->n_centroids, s->p->table);
    *count = t->size;
    return t->values + ((size_t)s->head * t->runs + run) * t->size * wide;
}

static double squared(const double *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (a[i] - (double)b[i]) * (a[i] - (double)b[i]);
    return sum;
}

/* Smaller is nearer. */
static double distance(const scene *s, uint32_t i, uint32_t j)
{
    const double *a = s->q + (size_t)i * s->r, *b = s->k + (size_t)j * s->r;
    double dot = 0, gap = 0, aa = 0, bb = 0;
    for (uint32_t d = 0; d < s->r; d++) {
        dot += a[d] * b[d];
        gap += (a[d] - b[d]) * (a[d] - b[d]);
        aa += a[d] * a[d];
        bb += b[d] * b[d];
    }
    if (s->p->rule == FINDER_DOT) return -dot;
    if (s->p->rule == FINDER_L2) return gap;
    if (s->p->rule == FINDER_EUCLIDEAN) return sqrt(gap);
    return aa == 0 || bb == 0 ? INFINITY : 1 - dot / (sqrt(aa) * sqrt(bb));
}

static bool in_band(const scene *s, int64_t i, int64_t j)
{
    const finder_pattern *p = s->p;
    int64_t n = s->n_keys;
    bool rows = i < p->first || (i >= n - (int64_t)p->last && i < n);
    bool columns = j < p->first || j >= n - (int64_t)p->last;
    return rows || columns || (p->window && llabs(i - j) <= p->window / 2);
}

static bool allowed(const scene *s, uint32_t i, uint32_t j)
{
    return !s->causal || j <= i;
}

static void by_distance(scene *s)
{
    const sp_fit_table *t = table_of(s->set->thresholds, s->set->n_thresholds, s->p->table);
    double limit = isnan(s->p->threshold) ? (double)t->values[s->head] : s->p->threshold;
    if (s->p->rule == FINDER_DOT) limit = -limit;
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t j = 0; j < s->n_keys && !s->p->keep; j++)
            s->edge[(size_t)i * s->n_keys + j] = distance(s, i, j) < limit;
        for (uint32_t taken = 0; taken < s->p->keep; taken++) {
            uint32_t best = UINT32_MAX;
            for (uint32_t j = 0; j < s->n_keys; j++) {
                if (!allowed(s, i, j) || in_band(s, i, j) || s->edge[(size_t)i * s->n_keys + j]) continue;
                if (best == UINT32_MAX || distance(s, i, j) < distance(s, i, best)) best = j;
            }
            if (best == UINT32_MAX) break;
            s->edge[(size_t)i * s->n_keys + best] = 1;
        }
    }
}

/* Bin of thing i in dimension d. */
static uint32_t bin(const scene *s, const double *x, uint32_t n, uint32_t i, uint32_t d)
{
    uint32_t b = s->p->buckets, below = 0;
    double value = x[(size_t)i * s->r + d];
    if (s->p->rule == FINDER_EQUAL) {
        for (uint32_t other = 0; other < n; other++) {
            double v = x[(size_t)other * s->r + d];
            below += v < value || (v == value && other < i);
        }
        return below / ((n + b - 1) / b);
    }
    for (uint32_t border = 1; border < b; border++) {
        if (s->p->rule == FINDER_FIXED)
            below += -1 + 2.0 * border / b < tanh(s->p->temperature * value);
        else
            below +=
                (double)s->set->bins[0].values[((size_t)s->head * s->r + d) * (b - 1) + border - 1] < value;
    }
    return below;
}

static void by_bins(scene *s)
{
    uint32_t *q = take((size_t)s->n * s->r, sizeof *q), *k = take((size_t)s->n_keys * s->r, sizeof *k);
    for (uint32_t i = 0; i < s->n * s->r; i++) q[i] = bin(s, s->q, s->n, i / s->r, i % s->r);
    for (uint32_t j = 0; j < s->n_keys * s->r; j++) k[j] = bin(s, s->k, s->n_keys, j / s->r, j % s->r);
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t j = 0; j < s->n_keys; j++)
            for (uint32_t d = 0; d < s->r; d++)
                s->edge[(size_t)i * s->n_keys + j] |= q[(size_t)i * s->r + d] == k[(size_t)j * s->r + d];
    free(q);
    free(k);
}

/* Marks the `top` smallest of n, ties to the lower. */
static void mark_nearest(const double *distances, uint32_t n, uint32_t top, uint8_t *marks)
{
    memset(marks, 0, n);
    for (uint32_t t = 0; t < top && t < n; t++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t c = 0; c < n; c++)
            if (!marks[c] && (best == UINT32_MAX || distances[c] < distances[best])) best = c;
        marks[best] = 1;
    }
}

static uint8_t *nearest_sets(const double *x, uint32_t n, uint32_t wide, const float *means, uint32_t C,
                             uint32_t top)
{
    uint8_t *marks = take((size_t)n * C, 1);
    double *distances = take(C, sizeof *distances);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t c = 0; c < C; c++)
            distances[c] = squared(x + (size_t)i * wide, means + (size_t)c * wide, wide);
        mark_nearest(distances, C, top, marks + (size_t)i * C);
    }
    free(distances);
    return marks;
}

static bool meet(const uint8_t *a, const uint8_t *b, uint32_t C)
{
    for (uint32_t c = 0; c < C; c++)
        if (a[c] && b[c]) return true;
    return false;
}

static void by_clusters(scene *s)
{
    for (uint32_t run = 0; run < s->p->runs; run++) {
        uint32_t C;
        const float *means = centroids(s, run, &C, s->r);
        uint8_t *q = nearest_sets(s->q, s->n, s->r, means, C, s->p->top);
        uint8_t *k = nearest_sets(s->k, s->n_keys, s->r, means, C, s->p->top);
        for (uint32_t i = 0; i < s->n; i++)
            for (uint32_t j = 0; j < s->n_keys; j++)
                s->edge[(size_t)i * s->n_keys + j] |= meet(q + (size_t)i * C, k + (size_t)j * C, C);
        free(q);
        free(k);
    }
}

/* Tokens of blocks end to end: (blocks, b r). */
static double *lay_blocks(const scene *s, const double *x, uint32_t n, uint32_t *n_blocks)
{
    uint32_t b = s->p->block;
    *n_blocks = (n + b - 1) / b;
    double *out = take((size_t)*n_blocks * b * s->r, sizeof *out);
    memcpy(out, x, (size_t)n * s->r * sizeof *x);
    return out;
}

static void spread(scene *s, uint32_t I, uint32_t J)
{
    uint32_t b = s->p->block;
    for (uint32_t i = I * b; i < (I + 1) * b && i < s->n; i++)
        for (uint32_t j = J * b; j < (J + 1) * b && j < s->n_keys; j++)
            s->edge[(size_t)i * s->n_keys + j] = 1;
}

static void by_blocks(scene *s)
{
    uint32_t C, n_q, n_k, wide = s->p->block * s->r, keep = s->p->keep;
    const float *means = centroids(s, 0, &C, wide);
    double *q = lay_blocks(s, s->q, s->n, &n_q), *k = lay_blocks(s, s->k, s->n_keys, &n_k);
    uint32_t most = n_q > n_k ? n_q : n_k;
    uint8_t *near_q = nearest_sets(q, n_q, wide, means, C, s->p->top), *marks = take(most, 1);
    uint8_t *near_k = nearest_sets(k, n_k, wide, means, C, s->p->top), *taken = take(n_q, 1);
    double *scores = take(most, sizeof *scores);
    for (uint32_t I = 0; I < n_q && s->p->rule == FINDER_TOKEN; I++) {
        uint32_t end = s->causal && I + 1 < n_k ? I + 1 : n_k;
        for (uint32_t J = 0; J < end; J++) {
            double sum = 0;
            for (uint32_t c = 0; c < C; c++)
                sum += squared(q + (size_t)I * wide, means + (size_t)c * wide, wide) *
                       squared(k + (size_t)J * wide, means + (size_t)c * wide, wide);
            scores[J] = 1 / (1 + exp(sum));
            scores[J] = -(scores[J] + (meet(near_q + (size_t)I * C, near_k + (size_t)J * C, C) ? 1 : 0));
        }
        mark_nearest(scores, end, keep, marks);
        for (uint32_t J = 0; J < end; J++)
            if (marks[J]) spread(s, I, J);
    }
    for (uint32_t c = 0; c < C && s->p->rule == FINDER_CENTROID; c++) {
        uint8_t *mine = take(n_q, 1);
        for (uint32_t I = 0; I < n_q; I++)
            scores[I] = squared(q + (size_t)I * wide, means + (size_t)c * wide, wide);
        mark_nearest(scores, n_q, keep, marks);
        for (uint32_t I = 0; I < n_q; I++)
            if (marks[I] && !taken[I]) mine[I] = taken[I] = 1;
        for (uint32_t J = 0; J < n_k; J++)
            scores[J] = squared(k + (size_t)J * wide, means + (size_t)c * wide, wide);
        mark_nearest(scores, n_k, keep, marks);
        for (uint32_t I = 0; I < n_q; I++)
            for (uint32_t J = 0; J < n_k && mine[I]; J++)
                if (marks[J]) spread(s, I, J);
        free(mine);
    }
    for (uint32_t I = 0; I < n_q && s->p->rule == FINDER_CENTROID; I++)
        if (!taken[I]) spread(s, I, 0);
    void *const held[] = {q, k, near_q, near_k, marks, taken, scores};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) free(held[i]);
}

/* Means that take each of n things; C: none. */
static uint32_t *route(const scene *s, const double *x, uint32_t n, const float *means, uint32_t C)
{
    uint32_t *out = take(n, sizeof *out);
    double *scores = take(n, sizeof *scores);
    uint8_t *marks = take(n, 1);
    for (uint32_t i = 0; i < n; i++) out[i] = C;
    for (uint32_t c = 0; c < C; c++) {
        double mm = 0;
        for (uint32_t d = 0; d < s->r; d++) {
            double m = (double)means[(size_t)c * s->r + d];
            mm += m * m;
        }
        for (uint32_t i = 0; i < n; i++) {
            double xx = 0, dot = 0;
            for (uint32_t d = 0; d < s->r; d++) xx += x[(size_t)i * s->r + d] * x[(size_t)i * s->r + d];
            for (uint32_t d = 0; d < s->r; d++) {
                double a = xx > 0 ? x[(size_t)i * s->r + d] / sqrt(xx) : 0;
                double b = mm > 0 ? (double)means[(size_t)c * s->r + d] / sqrt(mm) : 0;
                dot += a * b;
            }
            scores[i] = -dot;
        }
        mark_nearest(scores, n, n / C + 1, marks);
        for (uint32_t i = 0; i < n; i++)
            if (marks[i] && out[i] == C) out[i] = c;
    }
    free(scores);
    free(marks);
    return out;
}

static void by_routing(scene *s)
{
    uint32_t C;
    const float *means = centroids(s, 0, &C, s->r);
    uint32_t *q = route(s, s->q, s->n, means, C), *k = route(s, s->k, s->n_keys, means, C);
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t j = 0; j < s->n_keys; j++)
            s->edge[(size_t)i * s->n_keys + j] = q[i] < C && q[i] == k[j];
    free(q);
    free(k);
}

static void project(const float *x, uint32_t n, size_t stride, uint32_t d, const float *w, const float *b,
                    uint32_t r, double *out)
{
    for (size_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < r; c++) {
            double sum = (double)b[c];
            for (uint32_t a = 0; a < d; a++) sum += (double)x[i * stride + a] * (double)w[a * r + c];
            out[i * r + c] = sum;
        }
}

/* Band in tokens, or in blocks. */
static bool extra(const scene *s, uint32_t i, uint32_t j)
{
    if (!s->p->block) return in_band(s, i, j);
    scene blocks = *s;
    blocks.n_keys = (s->n_keys + s->p->block - 1) / s->p->block;
    return in_band(&blocks, i / s->p->block, j / s->p->block);
}

void finder_mask(const finder_pattern *pattern, const sp_fit *fit, bool cross, bool causal,
                 uint32_t n_kv_heads, const float *q, uint32_t n, const float *k, uint32_t n_keys,
                 uint8_t *mask)
{
    uint32_t heads = fit->n_heads, d = fit->head_dim;
    scene s = {.p = pattern, .fit = fit, .n = n, .n_keys = n_keys, .causal = causal};
    for (size_t i = 0; i < fit->layers[cross].n_sets; i++)
        if (fit->layers[cross].sets[i].type == pattern->set &&
            fit->layers[cross].sets[i].size == pattern->set_size)
            s.set = &fit->layers[cross].sets[i];
    if (!s.set) abort();
    s.r = s.set->rank;
    s.q = take((size_t)n * s.r, sizeof *s.q);
    s.k = take((size_t)n_keys * s.r, sizeof *s.k);
    for (s.head = 0; s.head < heads; s.head++) {
        size_t map = s.head / (heads / s.set->n_k_maps), kv = s.head / (heads / n_kv_heads);
        s.edge = mask + (size_t)s.head * n * n_keys;
        memset(s.edge, 0, (size_t)n * n_keys);
        project(q + (size_t)s.head * d, n, (size_t)heads * d, d, s.set->q_weight + (size_t)s.head * d * s.r,
                s.set->q_bias + (size_t)s.head * s.r, s.r, s.q);
        project(k + kv * d, n_keys, (size_t)n_kv_heads * d, d, s.set->k_weight + map * d * s.r,
                s.set->k_bias + map * s.r, s.r, s.k);
        if (pattern->rule <= FINDER_DOT) by_distance(&s);
        if (pattern->rule >= FINDER_EQUAL && pattern->rule <= FINDER_FROZEN) by_bins(&s);
        if (pattern->rule == FINDER_CLUSTER) by_clusters(&s);
        if (pattern->rule == FINDER_TOKEN || pattern->rule == FINDER_CENTROID) by_blocks(&s);
        if (pattern->rule == FINDER_ROUTING) by_routing(&s);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n_keys; j++) {
                uint8_t *edge = &s.edge[(size_t)i * n_keys + j];
                *edge = (*edge || extra(&s, i, j)) && allowed(&s, i, j);
            }
    }
    free(s.q);
    free(s.k);
}
