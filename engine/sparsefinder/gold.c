/* See gold.h. */
#include "engine/sparsefinder/gold.h"

#include <math.h>
#include <string.h>

static size_t entmax_row(const sp_train_ops *ops, float alpha, const float *scores, size_t n, uint32_t *keys,
                         float *p)
{
    float slope = alpha - 1.0f, most = ops->highest(n, scores), cut = most - 1.0f / slope;
    size_t found = 0;
    for (size_t j = 0; j < n; j++) {
        keys[found] = (uint32_t)j;
        p[found] = (scores[j] - most) * slope;
        found += scores[j] > cut;
    }
    float tau = (float)sp_entmax_threshold(alpha, p, found), power = 1.0f / slope;
    size_t kept = 0;
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
    size_t found = 0;
    for (size_t j = 0; j < n; j++) {
        keys[found] = (uint32_t)j;
        p[found] = weights[j] * factor;
        found += weights[j] >= cut && weights[j] > 0;
    }
    return found;
}

size_t sp_gold_row(const sp_train_ops *ops, const sp_gold_rule *rule, const float *scores, size_t n,
                   uint32_t *keys, float *p, float *scratch)
{
    if (sp_is_softmax(rule->normalizer)) return softmax_row(ops, rule->mass, scores, n, keys, p, scratch);
    return entmax_row(ops, rule->normalizer.alpha, scores, n, keys, p);
}
