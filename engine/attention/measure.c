/* See measure.h. One task a head, so that no two threads add to one sum and the order of additions is fixed.
 */
#include "engine/attention/measure.h"

#include <stdlib.h>

typedef struct sp_measure_scratch {
    float *weights, *sorted; /* (context) */
    uint32_t *keys;          /* (context) */
} sp_measure_scratch;

struct sp_measurer {
    sp_device *device;
    size_t n_workers;
    sp_measure_scratch *scratch; /* (n_workers) */
};

sp_status sp_measurer_open(sp_device *device, uint32_t context, sp_measurer **out, sp_error *error)
{
    sp_measurer *measurer = sp_alloc_zero(1, sizeof *measurer);
    if (!measurer) return sp_fail(error, SP_NO_MEMORY, "no memory to measure attention");
    measurer->device = device;
    measurer->n_workers = sp_threads_count(device->threads);
    measurer->scratch = sp_alloc_zero(measurer->n_workers, sizeof *measurer->scratch);
    bool enough = measurer->scratch != NULL;
    for (size_t i = 0; enough && i < measurer->n_workers; i++) {
        sp_measure_scratch *scratch = &measurer->scratch[i];
        scratch->weights = sp_alloc(context, sizeof *scratch->weights);
        scratch->sorted = sp_alloc(context, sizeof *scratch->sorted);
        scratch->keys = sp_alloc(context, sizeof *scratch->keys);
        enough = scratch->weights && scratch->sorted && scratch->keys;
    }
    if (!enough) {
        sp_measurer_close(measurer);
        return sp_fail(error, SP_NO_MEMORY, "no memory to measure attention over %u keys", context);
    }
    *out = measurer;
    return SP_OK;
}

void sp_measurer_close(sp_measurer *measurer)
{
    if (!measurer) return;
    for (size_t i = 0; measurer->scratch && i < measurer->n_workers; i++) {
        sp_free(measurer->scratch[i].weights);
        sp_free(measurer->scratch[i].sorted);
        sp_free(measurer->scratch[i].keys);
    }
    sp_free(measurer->scratch);
    sp_free(measurer);
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Zeroes the weights of softmax that are no gold; returns the number of gold keys. */
static size_t cut_to_mass(float *weights, size_t n, float *sorted)
{
    memcpy(sorted, weights, n * sizeof *weights);
    qsort(sorted, n, sizeof *sorted, falling);
    double mass = 0;
    size_t gold = 0;
    while (gold < n && mass < SP_GOLD_MASS) mass += (double)sorted[gold++];
    if (gold == 0) return 0;
    float edge = sorted[gold - 1];
    size_t ties = 0; /* gold keys of exactly this weight: the lowest positions */
    for (size_t i = gold; i-- > 0 && sorted[i] == edge;) ties++;
    for (size_t j = 0; j < n; j++) {
        bool keep = weights[j] > edge || (weights[j] == edge && ties > 0);
        if (weights[j] == edge && ties > 0) ties--;
        if (!keep) weights[j] = 0;
    }
    return gold;
}

typedef struct sp_measure_work {
    sp_measurer *measurer;
    const sp_plan *plan;
    const sp_attend_args *args;
    sp_head_measure *measures;
} sp_measure_work;

static void measure_row(const sp_measure_work *work, uint32_t head, uint32_t row, sp_measure_scratch *scratch,
                        sp_head_measure *sum)
{
    const sp_attend_args *args = work->args;
    const sp_plan_shape *shape = &work->plan->shape;
    sp_device *device = work->measurer->device;
    uint32_t query = shape->position + row, kv_head = head / (shape->n_heads / args->n_kv_heads);
    size_t n = shape->causal ? query + 1 : shape->n_keys;
    const float *q = args->q + ((size_t)row * shape->n_heads + head) * args->kv.head_dim;
    float *weights = scratch->weights;
    size_t gold = device->ops->row_weights(device, &args->kv, kv_head, q, args->scale, args->normalizer, NULL,
                                           n, weights);
    size_t n_pred = sp_plan_row(work->plan, head, query, scratch->keys), both = 0;
    double mass = 0;
    for (size_t i = 0; i < n_pred; i++) mass += (double)weights[scratch->keys[i]];
    if (sp_is_softmax(args->normalizer)) gold = cut_to_mass(weights, n, scratch->sorted);
    for (size_t i = 0; i < n_pred; i++) both += weights[scratch->keys[i]] > 0;

    sum->edges_gold += gold;
    sum->edges_pred += n_pred;
    sum->edges_both += both;
    sum->pairs_valid += n;
    sum->rows_valid++;
    sum->rows_exact += both == gold;
    sum->rows_empty += n_pred == 0;
    sum->mass += mass;
    sum->rows += 1;
}

static void measure_head(void *context, size_t task, size_t worker)
{
    const sp_measure_work *work = context;
    for (uint32_t row = 0; row < work->plan->shape.rows; row++)
        measure_row(work, (uint32_t)task, row, &work->measurer->scratch[worker], &work->measures[task]);
}

void sp_measure_rows(sp_measurer *measurer, const sp_plan *plan, const sp_attend_args *args,
                     sp_head_measure *measures)
{
    sp_measure_work work = {.measurer = measurer, .plan = plan, .args = args, .measures = measures};
    sp_threads_run(measurer->device->threads, plan->shape.n_heads, measure_head, &work);
}
