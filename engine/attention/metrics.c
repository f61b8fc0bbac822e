/* Counting of gold and predicted edges, and the ratios of Sparsefinder (arXiv 2109.12188): recall = both /
 * gold, precision = both / predicted, sparsity = 1 - predicted / pairs, gold sparsity = 1 - gold / pairs. A
 * row is exact when every gold edge is predicted. Mass is the share of the dense weight on predicted edges,
 * averaged over rows. Tests: tests/golden/test_attend_golden.c, tests/unit/engine/test_attention_metrics.c */
#include "engine/attention/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights are not negative, so their bits order as they do; ties put the lower key first. */
static uint64_t pack(float weight, uint32_t key)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (uint64_t)bits << 32 | (UINT32_MAX - key);
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Zeroes the weights behind the first whose running sum, largest first, reaches SP_GOLD_MASS. */
static void cut_softmax(float *gold, size_t n, uint64_t *scratch)
{
    for (size_t k = 0; k < n; k++) scratch[k] = pack(gold[k], (uint32_t)k);
    qsort(scratch, n, sizeof *scratch, descending);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t key = UINT32_MAX - (uint32_t)scratch[i];
        double weight = gold[key];
        if (sum >= SP_GOLD_MASS) gold[key] = 0;
        sum += weight;
    }
}

void sp_measure_row(sp_head_measure *measure, sp_normalizer normalizer, float *gold, size_t n_allowed,
                    const uint32_t *predicted, size_t n_predicted, uint64_t *scratch)
{
    double total = 0, kept = 0;
    for (size_t k = 0; k < n_allowed; k++) total += gold[k];
    for (size_t i = 0; i < n_predicted; i++) kept += gold[predicted[i]];
    if (total > 0) measure->mass += kept / total, measure->rows += 1;
    if (sp_is_softmax(normalizer)) cut_softmax(gold, n_allowed, scratch);
    uint64_t edges = 0, both = 0;
    for (size_t k = 0; k < n_allowed; k++) edges += gold[k] > 0;
    for (size_t i = 0; i < n_predicted; i++) both += gold[predicted[i]] > 0;
    measure->edges_gold += edges;
    measure->edges_pred += n_predicted;
    measure->edges_both += both;
    measure->pairs_valid += n_allowed;
    measure->rows_valid++;
    measure->rows_exact += both == edges;
    measure->rows_empty += n_predicted == 0;
}

void sp_measure_add(sp_head_measure *sum, const sp_head_measure *more)
{
    sum->edges_gold += more->edges_gold;
    sum->edges_pred += more->edges_pred;
    sum->edges_both += more->edges_both;
    sum->pairs_valid += more->pairs_valid;
    sum->rows_valid += more->rows_valid;
    sum->rows_exact += more->rows_exact;
    sum->rows_empty += more->rows_empty;
    sum->mass += more->mass;
    sum->rows += more->rows;
    sum->clusters = more->clusters;
    sum->sequences += more->sequences;
    sum->operations += more->operations;
    sum->operations_balanced += more->operations_balanced;
    sum->entropy_q += more->entropy_q;
    sum->entropy_k += more->entropy_k;
}

double sp_cluster_entropy(const uint64_t *counts, size_t n_clusters)
{
    double total = 0, sum = 0;
    for (size_t c = 0; c < n_clusters; c++) total += (double)counts[c];
    for (size_t c = 0; c < n_clusters; c++) {
        double p = (double)counts[c] / total;
        if (counts[c] > 0) sum -= p * log(p);
    }
    if (total == 0) return (double)NAN;
    return n_clusters > 1 ? sum / log((double)n_clusters) : 1;
}

uint64_t sp_balanced_operations(uint64_t n, uint64_t n_clusters)
{
    uint64_t size = (n + n_clusters - 1) / n_clusters;
    return n_clusters * size * size;
}

void sp_ratio_write(const char *key, double a, double b, sp_json_writer *out)
{
    sp_json_key(out, key);
    if (b == 0)
        sp_json_null(out);
    else
        sp_json_number(out, a / b);
}

void sp_measure_write(const sp_head_measure *measure, sp_json_writer *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } integers[] = {{"edges_gold", measure->edges_gold}, {"edges_pred", measure->edges_pred},
                    {"edges_both", measure->edges_both}, {"pairs_valid", measure->pairs_valid},
                    {"rows_valid", measure->rows_valid}, {"rows_exact", measure->rows_exact},
                    {"rows_empty", measure->rows_empty}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        sp_json_key(out, integers[i].name);
        sp_json_uint(out, integers[i].value);
    }
    double gold = (double)measure->edges_gold, predicted = (double)measure->edges_pred;
    double both = (double)measure->edges_both, pairs = (double)measure->pairs_valid;
    sp_ratio_write("recall", both, gold, out);
    sp_ratio_write("precision", both, predicted, out);
    sp_ratio_write("sparsity", pairs - predicted, pairs, out);
    sp_ratio_write("sparsity_gold", pairs - gold, pairs, out);
}
