/* See record.h. */
#include "engine/graph/record.h"

#include <math.h>

void sp_sums_edge(sp_head_sums *sums, uint32_t query, uint32_t key, float weight, bool predicted,
                  const int32_t *tokens)
{
    double w = (double)weight;
    sums->gold++;
    sums->weight += w;
    sums->both += predicted;
    if (predicted) sums->both_weight += w;
    sums->distance += w * fabs((double)query - (double)key);
    sums->entropy -= w * log(w);
    if (key == query) sums->self += w;
    if (key + 1 == query) sums->previous += w;
    if (key == 0) sums->sink += w;
    if (!tokens) return;
    if (key < query && tokens[key] == tokens[query]) sums->duplicate += w;
    if (key >= 1 && key <= query && tokens[key - 1] == tokens[query]) sums->induction += w;
}

void sp_sums_end_row(sp_head_sums *row, uint64_t pairs, uint64_t pred)
{
    row->pairs = pairs;
    row->pred = pred;
    row->rows = 1;
    row->exact = row->both == row->gold;
    row->empty = pred == 0;
    row->max_degree = row->gold;
}

void sp_sums_add(sp_head_sums *sums, const sp_head_sums *row)
{
    sums->gold += row->gold, sums->pred += row->pred, sums->both += row->both, sums->after += row->after;
    sums->pairs += row->pairs, sums->rows += row->rows;
    sums->exact += row->exact, sums->empty += row->empty;
    if (row->max_degree > sums->max_degree) sums->max_degree = row->max_degree;
    sums->weight += row->weight, sums->both_weight += row->both_weight;
    sums->distance += row->distance, sums->entropy += row->entropy;
    sums->self += row->self, sums->previous += row->previous, sums->sink += row->sink;
    sums->duplicate += row->duplicate, sums->induction += row->induction;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : (double)NAN;
}

void sp_record_finish(const sp_head_sums *sums, sp_head_record *out)
{
    double gold = (double)sums->gold, pred = (double)sums->pred, both = (double)sums->both;
    double pairs = (double)sums->pairs, weight = sums->weight;
    *out = (sp_head_record){.edges_gold = sums->gold,
                            .edges_pred = sums->pred,
                            .edges_both = sums->both,
                            .edges_after = sums->after,
                            .pairs_valid = sums->pairs,
                            .rows_valid = sums->rows,
                            .rows_exact = sums->exact,
                            .rows_empty = sums->empty,
                            .max_degree = sums->max_degree,
                            .recall = ratio(both, gold),
                            .precision = ratio(both, pred),
                            .f1 = ratio(2 * both, gold + pred),
                            .sparsity = ratio(pairs - pred, pairs),
                            .sparsity_gold = ratio(pairs - gold, pairs),
                            .mass_recall = ratio(sums->both_weight, weight),
                            .mean_distance = ratio(sums->distance, weight),
                            .entropy = ratio(sums->entropy, (double)sums->rows),
                            .self = ratio(sums->self, weight),
                            .previous = ratio(sums->previous, weight),
                            .sink = ratio(sums->sink, weight),
                            .duplicate = ratio(sums->duplicate, weight),
                            .induction = ratio(sums->induction, weight)};
}
