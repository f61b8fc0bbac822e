/* sp_judge_thresholds: see judge.h. A recall R is reached by the score that the share R of the true edges lie
 * above; edges are compared strictly, so the threshold is the next float below it (above it for distances). A
 * head without such edges gets +inf, for distances -inf: no edge. */
#include <math.h>
#include <string.h>

#include "engine/sparsefinder/judge_scores.h"

typedef struct scores {
    float *data;
    size_t n, capacity;
} scores;

static bool add(scores *to, float score)
{
    if (to->n == to->capacity) {
        size_t capacity = to->capacity > 0 ? 2 * to->capacity : 4096;
        float *wider = sp_alloc(capacity, sizeof *wider);
        if (!wider) return false;
        if (to->n > 0) memcpy(wider, to->data, to->n * sizeof *wider);
        sp_free(to->data);
        to->data = wider;
        to->capacity = capacity;
    }
    to->data[to->n++] = score;
    return true;
}

/* The number of rank k if all were sorted (Hoare 1961); reorders them. */
static float select_rank(float *x, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i >= j) break;
            float swap = x[i];
            x[i++] = x[j];
            x[j--] = swap;
        }
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    return x[k];
}

static sp_status collect(const sp_unit *unit, uint32_t head, const sp_fit_set *set, size_t max_rows,
                         scores *out, sp_error *error)
{
    sp_judge_walk walk;
    sp_judge_set judged;
    sp_status status = sp_judge_set_open(unit, head, set, &judged, error);
    if (status != SP_OK) return status;
    status = sp_judge_walk_open(unit, head, 0, unit->n_train, max_rows, &walk, error);
    if (status != SP_OK) {
        sp_judge_set_close(&judged);
        return status;
    }
    bool enough = true;
    while (enough && sp_judge_walk_next(&walk)) {
        sp_judge_set_score(&walk, &judged);
        for (size_t i = 0; i < walk.n_rows; i++)
            for (size_t e = walk.graph.begins[i]; e < walk.graph.begins[i + 1]; e++) {
                uint32_t key = walk.graph.edges[e];
                if (key > 0 && walk.rows[i] - key > SP_JUDGE_RADIUS)
                    enough = enough && add(out, judged.scores[i * unit->stride + key]);
            }
    }
    sp_judge_walk_close(&walk);
    sp_judge_set_close(&judged);
    return enough ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for the thresholds of a head");
}

sp_status sp_judge_thresholds(const sp_unit *unit, uint32_t head, sp_fit_set *set, size_t max_rows,
                              sp_error *error)
{
    scores found = {0};
    sp_status status = collect(unit, head, set, max_rows, &found, error);
    for (size_t i = 0; status == SP_OK && i < set->n_thresholds; i++) {
        uint32_t recall = set->thresholds[i].size > 0 ? set->thresholds[i].size : SP_DEFAULT_RECALL;
        float cut = INFINITY;
        if (found.n > 0)
            cut = nextafterf(select_rank(found.data, found.n, found.n * (100 - recall) / 100), -INFINITY);
        set->thresholds[i].values[unit->first_head + head] = set->type == SP_FIT_DOT ? cut : -cut;
    }
    sp_free(found.data);
    return status;
}
