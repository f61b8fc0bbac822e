/* See train.h. A step: fold the maps, project the keys of its windows once and the queries of every head,
 * turn both into codes, let sp_train_ops.pairs compare them with the true graph, and walk the same way back.
 */
#include "engine/sparsefinder/train.h"

#include <math.h>
#include <string.h>

#include "engine/sparsefinder/adam.h"

enum { WINDOWS = 4, ROWS = SP_UNIT_ROWS, STEP_ROWS = WINDOWS * ROWS };
#define ADAM_1 0.9
#define ADAM_2 0.98
#define PAPER_ADAM_2 0.999
#define MAX_NORM 1.0 /* of the hinge's derivative */
#define BETA_FIRST 1.0
#define BETA_LAST 1.5

typedef struct trainer {
    const sp_unit *unit;
    const sp_train_options *options;
    const sp_moments *moments;
    sp_random random;
    sp_maps maps, folded, slopes; /* maps: of standardised inputs, trained in place */
    sp_adam adam;
    uint32_t step;
    size_t n_codes;
    /* the step */
    size_t windows[WINDOWS];
    uint32_t rows[STEP_ROWS];
    float *keys;               /* (WINDOWS, dim, stride) */
    float *k, *dk;             /* (WINDOWS, rank, stride) projected */
    float *queries;            /* (ROWS, dim) */
    float *scores;             /* (ROWS + 1, stride) */
    float *rows_of_q;          /* (STEP_ROWS, dim) */
    float *columns;            /* (dim, STEP_ROWS) queries */
    float *q, *dq;             /* (rank, STEP_ROWS) projected */
    float *q_codes, *dq_codes; /* (codes, STEP_ROWS) */
    float *q_rows, *dq_rows;   /* (STEP_ROWS, codes) */
    float *k_codes, *dk_codes; /* (codes, stride) */
    float *products;           /* (rank, dim) */
    float *scratch, *work, *ones;
    float *weights;   /* as graph.p */
    uint8_t *marks;   /* (length) hinge */
    uint32_t *others; /* (length) hinge */
    sp_unit_graph graph;
    float *numbers; /* owns all floats but maps */
} trainer;

/* --- memory --- */

static size_t lay_all(trainer *t, float *numbers)
{
    const sp_unit *unit = t->unit;
    const sp_maps_shape *s = &t->maps.shape;
    size_t used = 0, stride = unit->stride, dim = s->dim, rank = s->rank, codes = t->n_codes;
    size_t count = sp_maps_count(s), edges = (size_t)STEP_ROWS * unit->sample->length;
    sp_space space = {.rank = s->rank, .n_centroids = s->n_centroids};
    float *folded = sp_numbers_lay(numbers, &used, count), *slopes = sp_numbers_lay(numbers, &used, count);
    if (numbers) {
        t->folded = sp_maps_view(s, folded);
        t->slopes = sp_maps_view(s, slopes);
    }
    t->adam.first = sp_numbers_lay(numbers, &used, count);
    t->adam.second = sp_numbers_lay(numbers, &used, count);
    t->keys = sp_numbers_lay(numbers, &used, WINDOWS * dim * stride);
    t->k = sp_numbers_lay(numbers, &used, WINDOWS * rank * stride);
    t->dk = sp_numbers_lay(numbers, &used, WINDOWS * rank * stride);
    t->queries = sp_numbers_lay(numbers, &used, ROWS * dim);
    t->scores = sp_numbers_lay(numbers, &used, (ROWS + 1) * stride);
    t->rows_of_q = sp_numbers_lay(numbers, &used, STEP_ROWS * dim);
    t->columns = sp_numbers_lay(numbers, &used, STEP_ROWS * dim);
    t->q = sp_numbers_lay(numbers, &used, STEP_ROWS * rank);
    t->dq = sp_numbers_lay(numbers, &used, STEP_ROWS * rank);
    t->q_codes = sp_numbers_lay(numbers, &used, STEP_ROWS * codes);
    t->dq_codes = sp_numbers_lay(numbers, &used, STEP_ROWS * codes);
    t->q_rows = sp_numbers_lay(numbers, &used, STEP_ROWS * codes);
    t->dq_rows = sp_numbers_lay(numbers, &used, STEP_ROWS * codes);
    t->k_codes = sp_numbers_lay(numbers, &used, codes * stride);
    t->dk_codes = sp_numbers_lay(numbers, &used, codes * stride);
    t->products = sp_numbers_lay(numbers, &used, rank * dim);
    t->scratch = sp_numbers_lay(numbers, &used, 64 * (codes > rank ? codes : rank));
    t->work = sp_numbers_lay(numbers, &used, sp_space_work(&space, stride > STEP_ROWS ? stride : STEP_ROWS));
    t->ones = sp_numbers_lay(numbers, &used, stride > STEP_ROWS ? stride : STEP_ROWS);
    t->weights = sp_numbers_lay(numbers, &used, edges);
    t->graph.p = sp_numbers_lay(numbers, &used, edges);
    return used;
}

static void close_trainer(trainer *t)
{
    sp_free(t->numbers);
    sp_free(t->marks);
    sp_free(t->others);
    sp_free(t->graph.begins);
    sp_free(t->graph.edges);
}

static sp_status open_trainer(trainer *t, sp_error *error)
{
    size_t length = t->unit->sample->length, count = lay_all(t, NULL);
    t->numbers = sp_alloc_zero(count, sizeof *t->numbers);
    t->marks = sp_alloc_zero(length, 1);
    t->others = sp_alloc(length, sizeof *t->others);
    t->graph.capacity = STEP_ROWS * length;
    t->graph.begins = sp_alloc(STEP_ROWS + 1, sizeof *t->graph.begins);
    t->graph.edges = sp_alloc(t->graph.capacity, sizeof *t->graph.edges);
    if (!t->numbers || !t->marks || !t->others || !t->graph.begins || !t->graph.edges) {
        close_trainer(t);
        return sp_fail(error, SP_NO_MEMORY, "no memory to train windows of %zu tokens", length);
    }
    lay_all(t, t->numbers);
    for (size_t i = 0; i < length || i < STEP_ROWS; i++) t->ones[i] = 1.0f;
    return SP_OK;
}

/* --- one step --- */

static void sort_rows(uint32_t *rows, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint32_t row = rows[i];
        size_t k = i;
        for (; k > 0 && rows[k - 1] > row; k--) rows[k] = rows[k - 1];
        rows[k] = row;
    }
}

static void load_keys(trainer *t)
{
    const sp_unit *unit = t->unit;
    size_t stride = unit->stride, dim = t->maps.shape.dim, rank = t->maps.shape.rank;
    for (size_t w = 0; w < WINDOWS; w++) {
        t->windows[w] = sp_random_below(&t->random, (uint32_t)unit->n_train);
        sp_unit_keys(unit, t->windows[w], t->keys + w * dim * stride);
        sp_maps_project(unit->ops, &t->maps.shape, t->folded.k, t->folded.k_bias, unit->sample->length,
                        stride, t->keys + w * dim * stride, t->k + w * rank * stride);
    }
    memset(t->dk, 0, WINDOWS * rank * stride * sizeof *t->dk);
}

static void load_queries(trainer *t, uint32_t head)
{
    const sp_unit *unit = t->unit;
    size_t dim = t->maps.shape.dim, rank = t->maps.shape.rank;
    t->graph.begins[0] = 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        uint32_t *rows = t->rows + w * ROWS;
        /* every other window without its second half: short contexts count as much as long ones */
        uint32_t below = w % 2 > 0 ? unit->sample->length : (unit->sample->length + 1) / 2;
        for (size_t i = 0; i < ROWS; i++) rows[i] = sp_random_below(&t->random, below);
        sort_rows(rows, ROWS);
        sp_unit_gold(unit, head, t->windows[w], rows, ROWS, t->keys + w * dim * unit->stride, t->queries,
                     t->scores, &t->graph, w * ROWS);
        sp_unit_queries(unit, head, t->windows[w], rows, ROWS, 1.0f, t->rows_of_q + w * ROWS * dim);
    }
    sp_transpose(STEP_ROWS, dim, t->rows_of_q, dim, t->columns, STEP_ROWS);
    sp_maps_project(unit->ops, &t->maps.shape, t->folded.q + head * rank * dim,
                    t->folded.q_bias + head * rank, STEP_ROWS, STEP_ROWS, t->columns, t->q);
    memset(t->dq, 0, STEP_ROWS * rank * sizeof *t->dq);
}

/* The weights w of the edges; returns that of a pair which is none. */
static float weigh(trainer *t)
{
    double mass = 0, pairs = 0, n = (double)t->graph.begins[STEP_ROWS];
    for (size_t i = 0; i < STEP_ROWS; i++) pairs += t->rows[i] + 1;
    for (size_t e = 0; e < t->graph.begins[STEP_ROWS]; e++) mass += (double)t->graph.p[e];
    for (size_t e = 0; e < t->graph.begins[STEP_ROWS]; e++)
        t->weights[e] = (float)(0.5 / n + 0.5 * (double)t->graph.p[e] / mass);
    double factor = t->options->loss == SP_FIT_ROUTED ? t->options->lambda : 1;
    return pairs > n ? (float)(factor / (pairs - n)) : 0;
}

static sp_space space_of(const trainer *t, uint32_t head)
{
    const sp_maps_shape *s = &t->maps.shape;
    double share = t->options->steps > 1 ? (double)t->step / (t->options->steps - 1) : 1;
    return (sp_space){.kind = t->options->space,
                      .rank = s->rank,
                      .n_centroids = s->n_centroids,
                      .offset = t->folded.offset[head],
                      .beta = (float)(BETA_FIRST + (BETA_LAST - BETA_FIRST) * share),
                      .centroids = t->folded.centroids + (size_t)head * s->n_centroids * s->rank};
}

static double compare(trainer *t, uint32_t head, bool wants_loss)
{
    const sp_unit *unit = t->unit;
    const sp_train_ops *ops = unit->ops;
    size_t stride = unit->stride, rank = t->maps.shape.rank, length = unit->sample->length;
    sp_space space = space_of(t, head);
    float *dcentroids = t->slopes.centroids + (size_t)head * space.n_centroids * rank;
    float *doffset = &t->slopes.offset[head], others = weigh(t);
    double value = 0;
    uint32_t lengths[STEP_ROWS];
    for (size_t i = 0; i < STEP_ROWS; i++) lengths[i] = t->rows[i] + 1;
    sp_space_forward(ops, &space, true, STEP_ROWS, STEP_ROWS, t->q, t->q_codes);
    sp_transpose(t->n_codes, STEP_ROWS, t->q_codes, STEP_ROWS, t->q_rows, t->n_codes);
    for (size_t w = 0; w < WINDOWS; w++) {
        const float *k = t->k + w * rank * stride;
        sp_space_forward(ops, &space, false, length, stride, k, t->k_codes);
        memset(t->dk_codes, 0, t->n_codes * stride * sizeof *t->dk_codes);
        sp_train_pairs pairs = {.loss =
                                    t->options->loss == SP_FIT_ROUTED ? SP_TRAIN_ROUTED : SP_TRAIN_BALANCED,
                                .n_rows = ROWS,
                                .rank = t->n_codes,
                                .lengths = lengths + w * ROWS,
                                .q = t->q_rows + w * ROWS * t->n_codes,
                                .k = t->k_codes,
                                .stride = stride,
                                .begins = t->graph.begins + w * ROWS,
                                .edges = t->graph.edges,
                                .weights = t->weights,
                                .others = others,
                                .dq = t->dq_rows + w * ROWS * t->n_codes,
                                .dk = t->dk_codes,
                                .scratch = t->scratch,
                                .value = wants_loss ? &value : NULL};
        ops->pairs(&pairs);
        sp_space_backward(ops, &space, false, length, stride, k, t->k_codes, t->dk_codes,
                          t->dk + w * rank * stride, doffset, dcentroids, t->work);
    }
    sp_transpose(STEP_ROWS, t->n_codes, t->dq_rows, t->n_codes, t->dq_codes, STEP_ROWS);
    sp_space_backward(ops, &space, true, STEP_ROWS, STEP_ROWS, t->q, t->q_codes, t->dq_codes, t->dq, doffset,
                      dcentroids, t->work);
    return value;
}

static double compare_by_hinge(trainer *t)
{
    size_t stride = t->unit->stride, rank = t->maps.shape.rank;
    double value = 0;
    sp_transpose(rank, STEP_ROWS, t->q, STEP_ROWS, t->q_rows, rank);
    memset(t->dq_rows, 0, STEP_ROWS * rank * sizeof *t->dq_rows);
    for (size_t w = 0; w < WINDOWS; w++)
        value += sp_hinge_rows(&t->random, t->maps.shape.rank, ROWS, t->unit->sample->length,
                               t->q_rows + w * ROWS * rank, t->k + w * rank * stride, stride,
                               t->graph.begins + w * ROWS, t->graph.edges, t->dq_rows + w * ROWS * rank,
                               t->dk + w * rank * stride, t->marks, t->others);
    sp_transpose(STEP_ROWS, rank, t->dq_rows, rank, t->dq, STEP_ROWS);
    const float share = 1.0f / STEP_ROWS;
    for (size_t i = 0; i < STEP_ROWS * rank; i++) t->dq[i] *= share;
    return value / STEP_ROWS;
}

static void queries_back(trainer *t, uint32_t head)
{
    size_t dim = t->maps.shape.dim, rank = t->maps.shape.rank;
    t->unit->ops->dots(rank, dim, STEP_ROWS, t->dq, STEP_ROWS, t->columns, STEP_ROWS,
                       t->slopes.q + head * rank * dim);
    t->unit->ops->dots(rank, 1, STEP_ROWS, t->dq, STEP_ROWS, t->ones, STEP_ROWS,
                       t->slopes.q_bias + head * rank);
}

/* factor: the hinge's mean over rows. */
static void keys_back(trainer *t, float factor)
{
    const sp_unit *unit = t->unit;
    size_t dim = t->maps.shape.dim, rank = t->maps.shape.rank, stride = unit->stride;
    size_t padded = (unit->sample->length + 31) / 32 * 32;
    for (size_t w = 0; w < WINDOWS; w++) {
        float *dk = t->dk + w * rank * stride;
        for (size_t r = 0; r < rank; r++)
            memset(dk + r * stride + unit->sample->length, 0, (padded - unit->sample->length) * sizeof *dk);
        unit->ops->dots(rank, dim, padded, dk, stride, t->keys + w * dim * stride, stride, t->products);
        for (size_t i = 0; i < rank * dim; i++) t->slopes.k[i] += factor * t->products[i];
        unit->ops->dots(rank, 1, padded, dk, stride, t->ones, stride, t->products);
        for (size_t r = 0; r < rank; r++) t->slopes.k_bias[r] += factor * t->products[r];
    }
}

static void update(trainer *t)
{
    const sp_train_options *o = t->options;
    double clip = 1, squares = 0, rate = o->rate;
    if (o->loss == SP_FIT_HINGE) {
        for (size_t i = 0; i < t->adam.count; i++) squares += (double)t->slopes.q[i] * (double)t->slopes.q[i];
        if (squares > MAX_NORM * MAX_NORM) clip = MAX_NORM / sqrt(squares);
    } else {
        rate = sp_cosine_rate(o->rate, o->warm_up, o->steps, t->step);
    }
    sp_adam_update(&t->adam, rate, clip, t->slopes.q, t->maps.q);
}

static double step(trainer *t, bool wants_loss)
{
    const sp_maps_shape *s = &t->maps.shape;
    double loss = 0;
    sp_maps_fold(&t->maps, t->moments, &t->folded);
    memset(t->slopes.q, 0, sp_maps_count(s) * sizeof *t->slopes.q);
    load_keys(t);
    for (uint32_t h = 0; h < s->n_heads; h++) {
        load_queries(t, h);
        loss += t->options->loss == SP_FIT_HINGE ? compare_by_hinge(t) : compare(t, h, wants_loss);
        queries_back(t, h);
    }
    keys_back(t, t->options->loss == SP_FIT_HINGE ? 1.0f / STEP_ROWS : 1.0f);
    sp_maps_fold_back(t->moments, &t->slopes);
    if (t->options->shared) sp_maps_share(&t->slopes);
    update(t);
    return loss / s->n_heads;
}

/* --- the whole --- */

enum { SHOWN_STEPS = 4 };

sp_status sp_train_maps(const sp_unit *unit, const sp_moments *moments, const sp_train_options *options,
                        sp_maps *maps, sp_train_result *result, sp_error *error)
{
    size_t dim = maps->shape.dim;
    sp_space space = {
        .kind = options->space, .rank = maps->shape.rank, .n_centroids = maps->shape.n_centroids};
    trainer t = {.unit = unit, .options = options, .random = options->random, .maps = *maps};
    t.n_codes = sp_space_codes(&space);
    t.adam.count = sp_maps_count(&maps->shape);
    t.adam.beta_1 = ADAM_1;
    t.adam.beta_2 = options->loss == SP_FIT_HINGE ? PAPER_ADAM_2 : ADAM_2;
    float *plain = sp_alloc_zero(2 * (unit->n_heads + 1) * dim, sizeof *plain);
    sp_status status = plain ? open_trainer(&t, error) : sp_fail(error, SP_NO_MEMORY, "no memory to train");
    if (status != SP_OK) {
        sp_free(plain);
        return status;
    }
    float *deviations = plain + (unit->n_heads + 1) * dim;
    for (size_t i = 0; i < (unit->n_heads + 1) * dim; i++) deviations[i] = 1.0f;
    const sp_moments as_they_are = {plain, deviations, plain, deviations};
    t.moments = moments ? moments : &as_they_are;
    *result = (sp_train_result){0};
    for (t.step = 0; status == SP_OK && t.step < options->steps; t.step++) {
        bool first = t.step < SHOWN_STEPS, last = t.step + SHOWN_STEPS >= options->steps;
        double loss = step(&t, first || last) / (options->steps < SHOWN_STEPS ? options->steps : SHOWN_STEPS);
        if (first) result->first_loss += loss;
        if (last) result->last_loss += loss;
        if (options->stop && atomic_load(options->stop)) status = SP_CANCELLED;
    }
    close_trainer(&t);
    sp_free(plain);
    return status;
}
