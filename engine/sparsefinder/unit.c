/* See unit.h. */
#include "engine/sparsefinder/unit.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MOMENT_TOKENS = 8192 };

/* What the model attends by, as its true graph needs it. */
struct sp_unit_turned {
    size_t window;  /* whose keys are there */
    float *keys;    /* (dim, stride) */
    float *queries; /* (SP_UNIT_ROWS, dim) */
};

/* from: (dim, length) of one window */
static void widen_keys(const sp_unit *unit, const uint16_t *from, float *columns)
{
    const sp_sample *sample = unit->sample;
    for (size_t i = 0; i < sample->head_dim; i++) {
        float *to = columns + i * unit->stride;
        unit->ops->widen(sample->length, from + i * sample->length, to);
        memset(to + sample->length, 0, (unit->stride - sample->length) * sizeof *to);
    }
}

void sp_unit_keys(const sp_unit *unit, size_t window, float *columns)
{
    widen_keys(unit, sp_sample_k(unit->sample, unit->layer, unit->kv_head, window), columns);
}

/* from: (length, dim) of one window */
static void widen_queries(const sp_unit *unit, const uint16_t *from, const uint32_t *rows, size_t n,
                          float factor, float *out)
{
    size_t dim = unit->sample->head_dim;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < dim; k++) out[i * dim + k] = factor * sp_bf16_to_f32(from[rows[i] * dim + k]);
}

void sp_unit_queries(const sp_unit *unit, uint32_t head, size_t window, const uint32_t *rows, size_t n,
                     float factor, float *out)
{
    widen_queries(unit, sp_sample_q(unit->sample, unit->layer, unit->first_head + head, window), rows, n,
                  factor, out);
}

/* Loads what the model attends by: rows of one head, and the window's keys where others are there. */
static void load_turned(const sp_unit *unit, uint32_t head, size_t window, const uint32_t *rows, size_t n)
{
    const sp_sample *sample = unit->sample;
    struct sp_unit_turned *turned = unit->turned;
    if (turned->window != window)
        widen_keys(unit, sp_sample_turned_k(sample, unit->layer, unit->kv_head, window), turned->keys);
    turned->window = window;
    widen_queries(unit, sp_sample_turned_q(sample, unit->layer, unit->first_head + head, window), rows, n,
                  sample->scale, turned->queries);
}

void sp_transpose(size_t n, size_t m, const float *from, size_t from_stride, float *out, size_t out_stride)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < m; k++) out[k * out_stride + i] = from[i * from_stride + k];
}

void sp_unit_gold(const sp_unit *unit, uint32_t head, size_t window, const uint32_t *rows, size_t n,
                  const float *keys, float *queries, float *scores, sp_unit_graph *graph, size_t at)
{
    uint32_t lengths[SP_UNIT_ROWS];
    assert(n <= SP_UNIT_ROWS);
    for (size_t i = 0; i < n; i++) lengths[i] = rows[i] + 1;
    sp_unit_queries(unit, head, window, rows, n, unit->sample->scale, queries);
    if (unit->turned) load_turned(unit, head, window, rows, n);
    sp_train_product product = {.n_a = n,
                                .n_d = unit->sample->head_dim,
                                .n_t = unit->sample->length,
                                .x = unit->turned ? unit->turned->queries : queries,
                                .x_stride = unit->sample->head_dim,
                                .y = unit->turned ? unit->turned->keys : keys,
                                .y_stride = unit->stride,
                                .out = scores,
                                .out_stride = unit->stride,
                                .lengths = lengths};
    unit->ops->product(&product);
    for (size_t i = 0; i < n; i++) {
        size_t begin = graph->begins[at + i];
        assert(begin + lengths[i] <= graph->capacity);
        graph->begins[at + i + 1] =
            begin + sp_gold_row(unit->ops, &unit->gold, scores + i * unit->stride, lengths[i],
                                graph->edges + begin, graph->p + begin, scores + SP_UNIT_ROWS * unit->stride);
    }
}

/* --- moments --- */

/* What gathers the inputs of one map: about MOMENT_TOKENS tokens, evenly over the windows trained on. */
typedef struct gathered {
    float *x; /* (n, dim) */
    size_t n;
} gathered;

static size_t step_of(const sp_unit *unit)
{
    size_t step = unit->n_train * unit->sample->length / MOMENT_TOKENS;
    return step > 0 ? step : 1;
}

static size_t count_tokens(const sp_unit *unit)
{
    size_t step = step_of(unit), total = unit->n_train * unit->sample->length;
    return (total + step - 1) / step;
}

static void gather_queries(const sp_unit *unit, uint32_t head, gathered *to)
{
    size_t step = step_of(unit), total = unit->n_train * unit->sample->length, dim = unit->sample->head_dim;
    for (size_t t = 0; t < total; t += step) {
        uint32_t row = (uint32_t)(t % unit->sample->length);
        sp_unit_queries(unit, head, t / unit->sample->length, &row, 1, 1.0f, to->x + to->n++ * dim);
    }
}

static void gather_keys(const sp_unit *unit, gathered *to)
{
    size_t length = unit->sample->length, step = step_of(unit), total = unit->n_train * length;
    for (size_t t = 0; t < total; t += step, to->n++) {
        const uint16_t *from = sp_sample_k(unit->sample, unit->layer, unit->kv_head, t / length);
        for (size_t i = 0; i < unit->sample->head_dim; i++)
            to->x[to->n * unit->sample->head_dim + i] = sp_bf16_to_f32(from[i * length + t % length]);
    }
}

static void find_moments(const gathered *inputs, size_t dim, float *mean, float *deviation)
{
    for (size_t i = 0; i < dim; i++) {
        double sum = 0, squares = 0, n = (double)inputs->n;
        for (size_t t = 0; t < inputs->n; t++) sum += (double)inputs->x[t * dim + i];
        for (size_t t = 0; t < inputs->n; t++) {
            double off = (double)inputs->x[t * dim + i] - sum / n;
            squares += off * off;
        }
        double spread = sqrt(squares / n);
        mean[i] = (float)(sum / n);
        deviation[i] = (float)(spread > 1e-6 ? spread : 1e-6);
    }
}

static void find_covariance(const sp_unit *unit, const gathered *inputs, const float *mean,
                            const float *deviation, float *columns, double *out)
{
    size_t dim = unit->sample->head_dim, padded = (inputs->n + 31) / 32 * 32;
    float *products = columns + dim * padded;
    memset(columns, 0, dim * padded * sizeof *columns);
    for (size_t t = 0; t < inputs->n; t++)
        for (size_t i = 0; i < dim; i++)
            columns[i * padded + t] = (inputs->x[t * dim + i] - mean[i]) / deviation[i];
    unit->ops->dots(dim, dim, padded, columns, padded, columns, padded, products);
    for (size_t i = 0; i < dim * dim; i++) out[i] = (double)products[i] / (double)inputs->n;
}

static void fill_moments(sp_unit *unit, bool shared, float *x, float *columns)
{
    size_t dim = unit->sample->head_dim;
    float *q_mean = unit->numbers, *q_deviation = q_mean + unit->n_heads * dim,
          *k_mean = q_deviation + unit->n_heads * dim, *k_deviation = k_mean + dim;
    unit->moments = (sp_moments){q_mean, q_deviation, k_mean, k_deviation};
    gathered inputs = {x, 0};
    gather_keys(unit, &inputs);
    if (shared) gather_queries(unit, 0, &inputs);
    find_moments(&inputs, dim, k_mean, k_deviation);
    find_covariance(unit, &inputs, k_mean, k_deviation, columns, unit->k_covariance);
    for (uint32_t h = 0; h < unit->n_heads; h++) {
        if (!shared) {
            inputs.n = 0;
            gather_queries(unit, h, &inputs);
        }
        find_moments(&inputs, dim, q_mean + h * dim, q_deviation + h * dim);
        find_covariance(unit, &inputs, q_mean + h * dim, q_deviation + h * dim, columns,
                        unit->q_covariance + h * dim * dim);
    }
}

static bool open_turned(sp_unit *unit)
{
    size_t dim = unit->sample->head_dim;
    if (!unit->sample->turned_q) return true;
    unit->turned = sp_alloc_zero(1, sizeof *unit->turned);
    if (!unit->turned) return false;
    unit->turned->window = SIZE_MAX;
    unit->turned->keys = sp_alloc(dim * unit->stride, sizeof(float));
    unit->turned->queries = sp_alloc(SP_UNIT_ROWS * dim, sizeof(float));
    return unit->turned->keys && unit->turned->queries;
}

sp_status sp_unit_open(const sp_train_ops *ops, const sp_sample *sample, uint32_t layer, uint32_t first_head,
                       uint32_t n_heads, size_t n_train, bool shared, double gold_mass, sp_unit *out,
                       sp_error *error)
{
    size_t dim = sample->head_dim;
    *out = (sp_unit){.ops = ops,
                     .sample = sample,
                     .gold = {sample->normalizer, gold_mass},
                     .layer = layer,
                     .first_head = first_head,
                     .n_heads = n_heads,
                     .kv_head = first_head / (sample->n_heads / sample->n_kv_heads),
                     .n_train = n_train,
                     .stride = (sample->length + 63) / 64 * 64 + 16};
    size_t tokens = count_tokens(out) * 2, padded = (tokens + 31) / 32 * 32;
    float *x = sp_alloc(tokens * dim, sizeof *x), *columns = sp_alloc((padded + dim) * dim, sizeof *columns);
    out->numbers = sp_alloc(2 * (n_heads + 1) * dim, sizeof *out->numbers);
    out->q_covariance = sp_alloc(n_heads * dim * dim, sizeof *out->q_covariance);
    out->k_covariance = sp_alloc(dim * dim, sizeof *out->k_covariance);
    bool enough = x && columns && out->numbers && out->q_covariance && out->k_covariance;
    enough = enough && open_turned(out);
    if (enough) fill_moments(out, shared, x, columns);
    sp_free(x);
    sp_free(columns);
    if (enough) return SP_OK;
    sp_unit_close(out);
    return sp_fail(error, SP_NO_MEMORY, "no memory to fit a head");
}

void sp_unit_close(sp_unit *unit)
{
    sp_free(unit->numbers);
    sp_free(unit->q_covariance);
    sp_free(unit->k_covariance);
    if (unit->turned) {
        sp_free(unit->turned->keys);
        sp_free(unit->turned->queries);
    }
    sp_free(unit->turned);
    *unit = (sp_unit){0};
}
