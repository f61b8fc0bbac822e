/* See gold.h. */
#include "engine/sparsefinder/gold.h"

#include <math.h>
#include <string.h>

/* tau of alpha 1.5 for z <= 0 whose largest is 0: Newton on f(t) = sum (z - t)^2 - 1, convex and falling,
 * from -1, where f >= 0, rises to the root. */
static float threshold15(const sp_train_ops *ops, const float *z, size_t n)
{
    double t = -1;
    for (int round = 0; round < 60; round++) {
        double sums[2];
        ops->excess(n, (float)t, z, sums);
        double step = (sums[1] - 1) / (2 * sums[0]);
        t += step;
        if (!(step > 1e-7)) break;
    }
    return (float)t;
}

static size_t entmax_row(const sp_train_ops *ops, float alpha, const float *scores, size_t n, uint32_t *keys,
                         float *p)
{
    float slope = alpha - 1.0f, most = ops->highest(n, scores), power = 1.0f / slope;
    size_t found = ops->collect(n, most - power, scores, keys, p), kept = 0;
    for (size_t i = 0; i < found; i++) p[i] = (p[i] - most) * slope;
    float tau = power == 2.0f ? threshold15(ops, p, found) : (float)sp_entmax_threshold(alpha, p, found);
    for (size_t i = 0; i < found; i++) {
        float over = p[i] - tau;
        if (!(over > 0)) continue;
        keys[kept] = keys[i];
        p[kept++] = power == 2.0f ? over * over : power == 1.0f ? over : powf(over, power);
    }
    return kept;
}

/* The largest cut whose numbers hold the mass: bisection over the bits of a positive float32, which have its
 * order. */
static float mass_cut(const sp_train_ops *ops, const float *p, size_t n, double mass)
{
    uint32_t low = 0, high = 0x7f7fffffu; /* from low on there is enough, from high on there isn't */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        float cut;
        memcpy(&cut, &middle, sizeof cut);
        if (ops->sum_from(n, cut, p) >= mass)
            low = middle;
        else
            high = middle;
    }
    float cut;
    memcpy(&cut, &low, sizeof cut);
    return cut;
}

static size_t softmax_row(const sp_train_ops *ops, double mass, const float *scores, size_t n, uint32_t *keys,
                          float *p, float *weights)
{
    double sum = ops->exp_sum(n, ops->highest(n, scores), scores, weights);
    float cut = mass_cut(ops, weights, n, mass * sum), factor = (float)(1.0 / sum);
    size_t found = ops->collect(n, nextafterf(cut, -1.0f), weights, keys, p);
    for (size_t i = 0; i < found; i++) p[i] *= factor;
    return found;
}

size_t sp_gold_row(const sp_train_ops *ops, const sp_gold_rule *rule, const float *scores, size_t n,
                   uint32_t *keys, float *p, float *scratch)
{
    if (sp_is_softmax(rule->normalizer)) return softmax_row(ops, rule->mass, scores, n, keys, p, scratch);
    return entmax_row(ops, rule->normalizer.alpha, scores, n, keys, p);
}
