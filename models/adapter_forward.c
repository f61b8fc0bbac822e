/* Rows with adapters in a forward pass (adapter.h). Rows are sorted once a pass; each product takes the rows
 * of one adapter, as they lie where they are neighbours, else gathered. */
#include <string.h>

#include "models/adapter.h"
#include "models/parts.h"

bool sp_adapt_lay(const sp_model *model, uint8_t *base, size_t *place, size_t rows, size_t width,
                  sp_adapt *out)
{
    size_t rank = 0;
    float *starts = NULL, *order = NULL;
    *out = (sp_adapt){.model = model};
    if (model->n_adapters == 0) return true;
    for (size_t i = 0; i < model->n_adapters; i++)
        if (model->adapters[i]->rank > rank) rank = model->adapters[i]->rank;
    /* numbers of 32 bits take the place of floats */
    bool fits = sp_lay(base, place, 1, model->n_adapters + 1, &starts) &&
                sp_lay(base, place, rows, 1, &order) && sp_lay(base, place, rows, rank, &out->low) &&
                sp_lay(base, place, rows, width, &out->wide);
    out->starts = (uint32_t *)(void *)starts;
    out->order = (uint32_t *)(void *)order;
    return fits;
}

void sp_adapt_begin(sp_adapt *adapt, const sp_batch *batch)
{
    size_t n = adapt->model->n_adapters;
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        adapt->starts[i] = count;
        for (size_t row = 0; batch->adapters && row < batch->n_rows; row++)
            if (batch->adapters[row] == i + 1) adapt->order[count++] = (uint32_t)row;
    }
    if (n > 0) adapt->starts[n] = count;
}

/* Neighbours from rows[0] on. */
static size_t run_length(const uint32_t *rows, size_t n)
{
    size_t run = 1;
    while (run < n && rows[run] == rows[0] + run) run++;
    return run;
}

static void add_adapter(const sp_adapt *adapt, const sp_adapter *adapter, const sp_low_rank *part,
                        const uint32_t *rows, size_t n, const float *x, float *y)
{
    sp_device *device = adapt->model->device;
    size_t n_in = part->a.n_in, n_out = part->b.n_out, rank = part->a.n_out;
    const float *in = x + rows[0] * n_in;
    if (run_length(rows, n) < n) {
        for (size_t i = 0, run; i < n; i += run) {
            run = run_length(rows + i, n - i);
            memcpy(adapt->wide + i * n_in, x + rows[i] * n_in, run * n_in * sizeof *x);
        }
        in = adapt->wide;
    }
    device->ops->linear(device, &part->a, n, in, adapt->low);
    for (size_t i = 0; i < n * rank; i++) adapt->low[i] *= adapter->scale;
    device->ops->linear(device, &part->b, n, adapt->low, adapt->wide);
    for (size_t i = 0, run; i < n; i += run) {
        run = run_length(rows + i, n - i);
        device->ops->add(device, run * n_out, adapt->wide + i * n_out, y + rows[i] * n_out);
    }
}

void sp_adapt_add(const sp_adapt *adapt, uint32_t layer, uint32_t part, const float *x, float *y)
{
    for (size_t i = 0; i < adapt->model->n_adapters; i++) {
        const sp_adapter *adapter = adapt->model->adapters[i];
        const sp_low_rank *low = &adapter->parts[(size_t)layer * adapter->n_parts + part];
        size_t first = adapt->starts[i], n = adapt->starts[i + 1] - first;
        if (n > 0 && low->a.data) add_adapter(adapt, adapter, low, adapt->order + first, n, x, y);
    }
}
