/* See judge.h. */
#include "engine/sparsefinder/judge.h"

#include <math.h>
#include <string.h>

#include "engine/sparsefinder/judge_scores.h"

const double sp_judged_sparsities[SP_SPARSITIES] = {0.6, 0.7, 0.8, 0.9};

enum { BIN_BITS = 18, BINS = 1 << BIN_BITS };

/* Pairs, true edges and their probability. */
typedef struct sums {
    double pairs, edges, mass;
} sums;

typedef struct bins {
    uint32_t *pairs, *edges; /* (BINS) */
    double *mass;            /* (BINS) */
} bins;

typedef struct head_judge {
    sp_judge_walk walk;
    sp_judge_set dot, distance;
    sp_judge_set clusters[SP_JUDGE_CLUSTERS];
    const sp_fit_table *centroids[SP_JUDGE_CLUSTERS];
    uint16_t *ids[SP_JUDGE_CLUSTERS]; /* (length, 2) nearest centroids of the window's keys */
    sums found[SP_JUDGE_CLUSTERS];
    bins dot_bins, distance_bins, score_bins;
    sums *distances;   /* (length) by i - j, keys behind the first */
    sums first, total; /* of the first token, of all */
    sums inside;       /* of window and first token */
    double rows;
} head_judge;

/* --- bins --- */

static bool open_bins(bins *b)
{
    b->pairs = sp_alloc_zero(BINS, sizeof *b->pairs);
    b->edges = sp_alloc_zero(BINS, sizeof *b->edges);
    b->mass = sp_alloc_zero(BINS, sizeof *b->mass);
    return b->pairs && b->edges && b->mass;
}

static void close_bins(bins *b)
{
    sp_free(b->pairs);
    sp_free(b->edges);
    sp_free(b->mass);
}

/* Rises with the score. */
static inline uint32_t bin_of(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return bits >> (32 - BIN_BITS);
}

/* A row's keys begin .. end - 1 by their scores; its edges come ascending. */
static void count_row(bins *b, const float *scores, uint32_t begin, uint32_t end, const uint32_t *edges,
                      const float *p, size_t n_edges)
{
    for (uint32_t j = begin; j < end; j++) b->pairs[bin_of(scores[j])]++;
    for (size_t e = 0; e < n_edges; e++) {
        if (edges[e] < begin || edges[e] >= end) continue;
        uint32_t bin = bin_of(scores[edges[e]]);
        b->edges[bin]++;
        b->mass[bin] += (double)p[e];
    }
}

/* From the best bin down until the budget of pairs is spent; the last bin counts in part. */
static void read_bins(const bins *b, const sums *inside, const sums *total, double rows, sp_curve *out)
{
    for (size_t s = 0; s < SP_SPARSITIES; s++) {
        double left = (1 - sp_judged_sparsities[s]) * total->pairs - inside->pairs;
        double edges = inside->edges, mass = inside->mass;
        for (size_t i = BINS; i-- > 0 && left > 0;) {
            double pairs = (double)b->pairs[i];
            if (pairs == 0) continue;
            double share = pairs > left ? left / pairs : 1;
            edges += share * (double)b->edges[i];
            mass += share * b->mass[i];
            left -= pairs;
        }
        out->recall[s] = edges / total->edges;
        out->mass[s] = mass / rows;
    }
}

/* --- clusters --- */

/* The two nearest centroids, ties to the lower id. x (rank, .) in columns stride apart. */
static void nearest_two(const sp_judge_set *set, const float *centroids, uint32_t n_centroids, const float *x,
                        size_t stride, uint16_t ids[2])
{
    float best[2] = {INFINITY, INFINITY};
    ids[0] = ids[1] = 0;
    for (uint32_t c = 0; c < n_centroids; c++) {
        float sum = 0;
        for (uint32_t r = 0; r < set->shape.rank; r++) {
            float off = x[r * stride] - centroids[c * set->shape.rank + r];
            sum += off * off;
        }
        if (sum < best[0]) {
            best[1] = best[0];
            ids[1] = ids[0];
            best[0] = sum;
            ids[0] = (uint16_t)c;
        } else if (sum < best[1]) {
            best[1] = sum;
            ids[1] = (uint16_t)c;
        }
    }
}

static void count_clusters(head_judge *judge, size_t number)
{
    sp_judge_walk *walk = &judge->walk;
    sp_judge_set *set = &judge->clusters[number];
    const sp_unit *unit = walk->unit;
    const sp_fit_table *table = judge->centroids[number];
    size_t head = unit->first_head + walk->head, stride = unit->stride;
    const float *centroids = table->values + head * table->runs * table->size * set->shape.rank;
    sums *found = &judge->found[number];
    uint16_t(*ids)[2] = (void *)judge->ids[number];
    sp_judge_set_score(walk, set);
    for (uint32_t j = 0; walk->new_window && j < unit->sample->length; j++)
        nearest_two(set, centroids, table->size, set->k + j, stride, ids[j]);
    for (size_t i = 0; i < walk->n_rows; i++) {
        uint16_t own[2];
        uint32_t row = walk->rows[i], far = row > SP_JUDGE_RADIUS ? row - SP_JUDGE_RADIUS : 0;
        nearest_two(set, centroids, table->size, set->q + i, 64, own);
        size_t edge = walk->graph.begins[i];
        for (uint32_t j = 1; j < far; j++) {
            bool meets =
                own[0] == ids[j][0] || own[0] == ids[j][1] || own[1] == ids[j][0] || own[1] == ids[j][1];
            while (edge < walk->graph.begins[i + 1] && walk->graph.edges[edge] < j) edge++;
            bool is_edge = edge < walk->graph.begins[i + 1] && walk->graph.edges[edge] == j;
            found->pairs += meets;
            found->edges += meets && is_edge;
            found->mass += meets && is_edge ? (double)walk->graph.p[edge] : 0;
        }
    }
}

/* --- one block --- */

static void count_places(head_judge *judge)
{
    const sp_judge_walk *walk = &judge->walk;
    for (size_t i = 0; i < walk->n_rows; i++) {
        uint32_t row = walk->rows[i];
        judge->rows++;
        judge->total.pairs += row + 1;
        judge->first.pairs++;
        judge->inside.pairs += row < SP_JUDGE_RADIUS + 1 ? row + 1 : SP_JUDGE_RADIUS + 2;
        for (uint32_t d = 0; d < row; d++) judge->distances[d].pairs++;
        for (size_t e = walk->graph.begins[i]; e < walk->graph.begins[i + 1]; e++) {
            uint32_t key = walk->graph.edges[e];
            double p = (double)walk->graph.p[e];
            sums *place = key == 0 ? &judge->first : &judge->distances[row - key];
            place->edges++;
            place->mass += p;
            judge->total.edges++;
            judge->total.mass += p;
            if (key > 0 && row - key > SP_JUDGE_RADIUS) continue;
            judge->inside.edges++;
            judge->inside.mass += p;
        }
    }
}

static void count_scores(const sp_judge_walk *walk, const float *scores, bool all, bins *b)
{
    for (size_t i = 0; i < walk->n_rows; i++) {
        uint32_t row = walk->rows[i], far = row > SP_JUDGE_RADIUS ? row - SP_JUDGE_RADIUS : 0;
        size_t begin = walk->graph.begins[i];
        if (!all && far < 2) continue;
        count_row(b, scores + i * walk->unit->stride, all ? 0 : 1, all ? row + 1 : far,
                  walk->graph.edges + begin, walk->graph.p + begin, walk->graph.begins[i + 1] - begin);
    }
}

/* --- results --- */

static void read_window(const head_judge *judge, sp_curve *out)
{
    for (size_t s = 0; s < SP_SPARSITIES; s++) {
        double left = (1 - sp_judged_sparsities[s]) * judge->total.pairs - judge->first.pairs;
        double edges = judge->first.edges, mass = judge->first.mass;
        for (uint32_t d = 0; d < judge->walk.unit->sample->length && left > 0; d++) {
            const sums *ring = &judge->distances[d];
            double share = ring->pairs > left ? left / ring->pairs : 1;
            edges += share * ring->edges;
            mass += share * ring->mass;
            left -= ring->pairs;
        }
        out->recall[s] = edges / judge->total.edges;
        out->mass[s] = mass / judge->rows;
    }
}

static void read_random(const head_judge *judge, sp_curve *out)
{
    for (size_t s = 0; s < SP_SPARSITIES; s++) {
        double left = (1 - sp_judged_sparsities[s]) * judge->total.pairs - judge->inside.pairs;
        double outside = judge->total.pairs - judge->inside.pairs;
        double share = left > 0 && outside > 0 ? left / outside : 0;
        out->recall[s] =
            (judge->inside.edges + share * (judge->total.edges - judge->inside.edges)) / judge->total.edges;
        out->mass[s] = (judge->inside.mass + share * (judge->total.mass - judge->inside.mass)) / judge->rows;
    }
}

static void read_judgement(const head_judge *judge, sp_judgement *out)
{
    const sums none = {0, 0, 0};
    out->has[SP_JUDGED_WINDOW] = out->has[SP_JUDGED_RANDOM] = out->has[SP_JUDGED_SCORES] = true;
    read_window(judge, &out->curves[SP_JUDGED_WINDOW]);
    read_random(judge, &out->curves[SP_JUDGED_RANDOM]);
    read_bins(&judge->score_bins, &none, &judge->total, judge->rows, &out->curves[SP_JUDGED_SCORES]);
    if (out->has[SP_JUDGED_DOT])
        read_bins(&judge->dot_bins, &judge->inside, &judge->total, judge->rows, &out->curves[SP_JUDGED_DOT]);
    if (out->has[SP_JUDGED_DISTANCE])
        read_bins(&judge->distance_bins, &judge->inside, &judge->total, judge->rows,
                  &out->curves[SP_JUDGED_DISTANCE]);
    for (uint32_t c = 0; c < out->n_clusters; c++) {
        const sums *found = &judge->found[c];
        out->points[c] =
            (sp_curve_point){.sparsity = 1 - (judge->inside.pairs + found->pairs) / judge->total.pairs,
                             .recall = (judge->inside.edges + found->edges) / judge->total.edges,
                             .mass = (judge->inside.mass + found->mass) / judge->rows};
    }
}

/* --- life --- */

static sp_status open_sets(head_judge *judge, const sp_unit *unit, uint32_t head, const sp_fit_layer *layer,
                           sp_judgement *out, sp_error *error)
{
    sp_status status = SP_OK;
    for (size_t i = 0; layer && status == SP_OK && i < layer->n_sets; i++) {
        const sp_fit_set *set = &layer->sets[i];
        uint32_t c = out->n_clusters;
        if (set->type == SP_FIT_DEFAULT) {
            out->has[SP_JUDGED_DISTANCE] = true;
            status = sp_judge_set_open(unit, head, set, &judge->distance, error);
        } else if (set->type == SP_FIT_DOT) {
            out->has[SP_JUDGED_DOT] = true;
            status = sp_judge_set_open(unit, head, set, &judge->dot, error);
        } else if (set->type == SP_FIT_CLUSTER && set->n_centroids > 0 && c < SP_JUDGE_CLUSTERS) {
            judge->centroids[c] = &set->centroids[0];
            judge->ids[c] = sp_alloc(2 * (size_t)unit->sample->length, sizeof *judge->ids[c]);
            out->clusters[out->n_clusters++] = set->size;
            status = judge->ids[c] ? sp_judge_set_open(unit, head, set, &judge->clusters[c], error)
                                   : sp_fail(error, SP_NO_MEMORY, "no memory to judge clusters");
        }
    }
    return status;
}

static void close_judge(head_judge *judge)
{
    sp_judge_walk_close(&judge->walk);
    sp_judge_set_close(&judge->dot);
    sp_judge_set_close(&judge->distance);
    for (size_t c = 0; c < SP_JUDGE_CLUSTERS; c++) {
        sp_judge_set_close(&judge->clusters[c]);
        sp_free(judge->ids[c]);
    }
    close_bins(&judge->dot_bins);
    close_bins(&judge->distance_bins);
    close_bins(&judge->score_bins);
    sp_free(judge->distances);
}

sp_status sp_judge_head(const sp_unit *unit, uint32_t head, const sp_fit_layer *layer, size_t first, size_t n,
                        size_t max_rows, sp_judgement *out, sp_error *error)
{
    head_judge judge = {0};
    *out = (sp_judgement){0};
    sp_status status = sp_judge_walk_open(unit, head, first, n, max_rows, &judge.walk, error);
    if (status != SP_OK) return status;
    status = open_sets(&judge, unit, head, layer, out, error);
    judge.distances = sp_alloc_zero(unit->sample->length, sizeof *judge.distances);
    if (status == SP_OK && (!judge.distances || !open_bins(&judge.dot_bins) ||
                            !open_bins(&judge.distance_bins) || !open_bins(&judge.score_bins)))
        status = sp_fail(error, SP_NO_MEMORY, "no memory to judge a head");
    while (status == SP_OK && sp_judge_walk_next(&judge.walk)) {
        count_places(&judge);
        count_scores(&judge.walk, judge.walk.scores, true, &judge.score_bins);
        if (out->has[SP_JUDGED_DOT]) {
            sp_judge_set_score(&judge.walk, &judge.dot);
            count_scores(&judge.walk, judge.dot.scores, false, &judge.dot_bins);
        }
        if (out->has[SP_JUDGED_DISTANCE]) {
            sp_judge_set_score(&judge.walk, &judge.distance);
            count_scores(&judge.walk, judge.distance.scores, false, &judge.distance_bins);
        }
        for (uint32_t c = 0; c < out->n_clusters; c++) count_clusters(&judge, c);
    }
    if (status == SP_OK) read_judgement(&judge, out);
    close_judge(&judge);
    return status;
}
