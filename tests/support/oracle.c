/* See oracle.h. Slow on purpose: every rule is the sentence of the contract, tried on every pair. */
#include "tests/support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t distance(int64_t i, int64_t j)
{
    return i > j ? i - j : j - i;
}

/* Keeps of the two parts of a pattern what a head has: 1 the first, 2 the second, 3 both. */
static int parts_of(const oracle_pattern *pattern, uint32_t layer, uint32_t head)
{
    if (pattern->heads == ORACLE_MERGED) return 3;
    uint32_t number = pattern->heads == ORACLE_INTERLEAVED ? layer : head;
    return number % 2 == 0 ? 1 : 2;
}

static bool strided_edge(const oracle_pattern *p, int parts, int64_t i, int64_t j)
{
    bool local = distance(i, j) < p->stride, column = distance(i, j) % p->stride == 0;
    return (parts & 1 && local) || (parts & 2 && column);
}

static bool fixed_edge(const oracle_pattern *p, int parts, uint32_t head, int64_t i, int64_t j)
{
    int64_t u = (p->heads == ORACLE_MULTIHEAD ? head / 2 : head) % p->distinct;
    bool own = j / p->stride == i / p->stride;
    bool column =
        j % p->stride >= p->stride - (u + 1) * p->summary && j % p->stride < p->stride - u * p->summary;
    return (parts & 1 && own) || (parts & 2 && column);
}

static uint64_t draw(uint64_t seed, uint64_t layer, uint64_t kv_head, uint64_t round, uint64_t index)
{
    uint64_t x = seed, others[4] = {layer, kv_head, round, index};
    for (int v = 0; v < 4; v++) {
        x += 0x9E3779B97F4A7C15u * (others[v] + 1);
        x ^= x >> 30;
        x *= 0xBF58476D1CE4E5B9u;
        x ^= x >> 27;
        x *= 0x94D049BB133111EBu;
        x ^= x >> 31;
    }
    return x;
}

/* global[position] = 1 for first, last and drawn positions. */
static void mark_globals(const oracle_pattern *p, const oracle_shape *shape, uint32_t kv_head,
                         uint8_t *global)
{
    int64_t n = shape->n_keys;
    for (int64_t j = 0; j < n; j++) global[j] = j < p->first || j >= n - p->last;
    for (int64_t t = 0; t < p->random; t++) {
        uint64_t others = 0;
        for (int64_t j = 0; j < n; j++) others += !global[j];
        if (others == 0) return;
        uint64_t number = draw(p->seed, shape->layer, kv_head, 0, (uint64_t)t) % others;
        for (int64_t j = 0; j < n; j++) {
            if (global[j]) continue;
            if (number-- == 0) {
                global[j] = 1;
                break;
            }
        }
    }
}

static bool pattern_edge(const oracle_pattern *p, const oracle_shape *shape, uint32_t head, int64_t i,
                         int64_t j)
{
    int parts = parts_of(p, shape->layer, head);
    if (strcmp(p->backend, "dense") == 0 || strcmp(p->backend, "auto") == 0) return true;
    if (strcmp(p->backend, "strided") == 0) return strided_edge(p, parts, i, j);
    if (strcmp(p->backend, "fixed") == 0) return fixed_edge(p, parts, head, i, j);
    return p->window > 0 && distance(i, j) <= p->window / 2;
}

bool oracle_mask(const oracle_pattern *pattern, const oracle_shape *shape, uint8_t *mask)
{
    static const char *const known[] = {"dense", "auto", "strided", "fixed", "window", "longformer"};
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        found = found || strcmp(known[i], pattern->backend) == 0;
    if (!found) return false;
    uint8_t *global = malloc(shape->n_keys + 1);
    if (!global) abort();
    for (uint32_t h = 0; h < shape->n_heads; h++) {
        mark_globals(pattern, shape, h / (shape->n_heads / shape->n_kv_heads), global);
        for (uint32_t r = 0; r < shape->rows; r++) {
            int64_t i = (int64_t)shape->position + r;
            bool row_global = i < pattern->first || (i < shape->n_keys && global[i]);
            for (uint32_t j = 0; j < shape->n_keys; j++) {
                bool edge = row_global || global[j] || pattern_edge(pattern, shape, h, i, j);
                *mask++ = edge && !(shape->causal && j > i);
            }
        }
    }
    free(global);
    return true;
}

/* sum of max((alpha - 1) s - tau, 0)^(1 / (alpha - 1)), each term in weights */
static double entmax_sum(double alpha, const double *scores, const uint8_t *mask, size_t n, double tau,
                         double *weights)
{
    double sum = 0, power = 1 / (alpha - 1);
    for (size_t j = 0; j < n; j++) {
        double z = mask[j] ? (alpha - 1) * scores[j] - tau : 0;
        weights[j] = z <= 0       ? 0
                     : power == 1 ? z
                     : power == 2 ? z * z
                     : power == 4 ? z * z * z * z
                                  : pow(z, power);
        sum += weights[j];
    }
    return sum;
}

void oracle_weights(double alpha, const double *scores, const uint8_t *mask, size_t n, double *weights)
{
    double top = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        weights[j] = 0;
        if (mask[j] && scores[j] > top) top = scores[j];
    }
    if (top == -INFINITY) return;
    if (alpha == 1) {
        for (size_t j = 0; j < n; j++) sum += weights[j] = mask[j] ? exp(scores[j] - top) : 0;
    } else {
        double low = (alpha - 1) * top - 1, high = (alpha - 1) * top;
        for (int step = 0; step < 54; step++) {
            double middle = (low + high) / 2;
            if (entmax_sum(alpha, scores, mask, n, middle, weights) >= 1)
                low = middle;
            else
                high = middle;
        }
        sum = entmax_sum(alpha, scores, mask, n, low, weights);
    }
    for (size_t j = 0; j < n; j++) weights[j] /= sum;
}

void oracle_attend(const oracle_head *head, const uint8_t *mask, double *out)
{
    double *scores = malloc(2 * (head->n + 1) * sizeof *scores), *weights = scores + head->n + 1;
    if (!scores) abort();
    for (size_t j = 0; j < head->n; j++) {
        scores[j] = 0;
        for (size_t c = 0; c < head->d && mask[j]; c++) {
            scores[j] += (double)head->q[c] * (double)head->k[j * head->k_stride + c];
        }
        scores[j] *= head->scale;
    }
    oracle_weights(head->alpha, scores, mask, head->n, weights);
    for (size_t c = 0; c < head->dv; c++) out[c] = 0;
    for (size_t j = 0; j < head->n; j++) {
        for (size_t c = 0; c < head->dv && weights[j] > 0; c++) {
            out[c] += weights[j] * (double)head->v[j * head->v_stride + c];
        }
    }
    free(scores);
}
