/* See measure.h. One task a head, so that no two threads add to one sum and the order of additions is fixed.
 */
#include "engine/attention/measure.h"

#include "engine/attention/metrics.h"

typedef struct sp_measure_scratch {
    float *weights;   /* (context) */
    uint32_t *keys;   /* (context) */
    uint64_t *sorted; /* (context) */
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
        scratch->keys = sp_alloc(context, sizeof *scratch->keys);
        scratch->sorted = sp_alloc(context, sizeof *scratch->sorted);
        enough = scratch->weights && scratch->keys && scratch->sorted;
    }
    if (!enough) {
        sp_measurer_close(measurer);
        return sp_fail(error, SP_NO_MEMORY, "no memory to measure attention over %u keys", context);
    }
    *out = measurer;
    return SP_OK;
}

size_t sp_measurer_bytes(const sp_device *device, uint32_t context)
{
    return sp_threads_count(device->threads) * context *
           (sizeof(float) + sizeof(uint32_t) + sizeof(uint64_t));
}

void sp_measurer_close(sp_measurer *measurer)
{
    if (!measurer) return;
    for (size_t i = 0; measurer->scratch && i < measurer->n_workers; i++) {
        sp_free(measurer->scratch[i].weights);
        sp_free(measurer->scratch[i].keys);
        sp_free(measurer->scratch[i].sorted);
    }
    sp_free(measurer->scratch);
    sp_free(measurer);
}

typedef struct sp_measure_work {
    sp_measurer *measurer;
    const sp_plan *plan;
    const sp_attend_args *args;
    sp_head_measure *measures;
} sp_measure_work;

static void measure_head(void *context, size_t task, size_t worker)
{
    const sp_measure_work *work = context;
    const sp_attend_args *args = work->args;
    const sp_plan_shape *shape = &work->plan->shape;
    const sp_measure_scratch *scratch = &work->measurer->scratch[worker];
    sp_device *device = work->measurer->device;
    uint32_t head = (uint32_t)task, kv_head = head / (shape->n_heads / args->n_kv_heads);
    for (uint32_t row = 0; row < shape->rows; row++) {
        uint32_t query = shape->position + row;
        size_t n = shape->causal ? query + 1 : shape->n_keys;
        const float *q = args->q + ((size_t)row * shape->n_heads + head) * args->kv.head_dim;
        device->ops->row_weights(device, &args->kv, kv_head, q, args->scale, args->normalizer, NULL, n,
                                 scratch->weights);
        size_t n_keys = sp_plan_row(work->plan, head, query, scratch->keys);
        sp_measure_row(&work->measures[head], args->normalizer, scratch->weights, n, scratch->keys, n_keys,
                       scratch->sorted);
    }
}

void sp_measure_rows(sp_measurer *measurer, const sp_plan *plan, const sp_attend_args *args,
                     sp_head_measure *measures)
{
    sp_measure_work work = {.measurer = measurer, .plan = plan, .args = args, .measures = measures};
    sp_threads_run(measurer->device->threads, plan->shape.n_heads, measure_head, &work);
}
