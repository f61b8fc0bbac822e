/* See judge_scores.h. */
#include "engine/sparsefinder/judge_scores.h"

#include <string.h>

enum { COLUMNS = 64 }; /* of a block's queries, padded */

sp_status sp_judge_set_open(const sp_unit *unit, uint32_t head, const sp_fit_set *set, sp_judge_set *out,
                            sp_error *error)
{
    size_t dim = unit->sample->head_dim, rank = set->rank, stride = unit->stride, map = dim * rank;
    uint32_t q_map = unit->first_head + head, k_map = q_map / (unit->sample->n_heads / set->n_k_maps);
    *out = (sp_judge_set){.set = set, .shape = {1, unit->sample->head_dim, set->rank, 0}};
    out->space =
        (sp_space){.kind = set->type == SP_FIT_DOT ? SP_SPACE_DOT : SP_SPACE_DISTANCE, .rank = set->rank};
    size_t codes = sp_space_codes(&out->space);
    size_t count = 2 * map + (rank + codes + SP_UNIT_ROWS) * stride + (rank + codes) * COLUMNS +
                   SP_UNIT_ROWS * codes + 8 * 16,
           used = 0;
    out->numbers = sp_alloc_zero(count, sizeof *out->numbers);
    if (!out->numbers) return sp_fail(error, SP_NO_MEMORY, "no memory to judge a fit");
    out->weights = sp_numbers_lay(out->numbers, &used, 2 * map);
    out->k = sp_numbers_lay(out->numbers, &used, rank * stride);
    out->k_codes = sp_numbers_lay(out->numbers, &used, codes * stride);
    out->scores = sp_numbers_lay(out->numbers, &used, SP_UNIT_ROWS * stride);
    out->q = sp_numbers_lay(out->numbers, &used, rank * COLUMNS);
    out->q_codes = sp_numbers_lay(out->numbers, &used, codes * COLUMNS);
    out->q_rows = sp_numbers_lay(out->numbers, &used, SP_UNIT_ROWS * codes);
    sp_transpose(dim, rank, set->q_weight + q_map * map, rank, out->weights, dim);
    sp_transpose(dim, rank, set->k_weight + k_map * map, rank, out->weights + map, dim);
    out->q_bias = set->q_bias + q_map * rank;
    out->k_bias = set->k_bias + k_map * rank;
    return SP_OK;
}

void sp_judge_set_close(sp_judge_set *set)
{
    sp_free(set->numbers);
    set->numbers = NULL;
}

void sp_judge_set_score(const sp_judge_walk *walk, sp_judge_set *set)
{
    const sp_unit *unit = walk->unit;
    size_t dim = unit->sample->head_dim, stride = unit->stride, length = unit->sample->length;
    size_t codes = sp_space_codes(&set->space);
    if (walk->new_window) {
        sp_maps_project(unit->ops, &set->shape, set->weights + dim * set->shape.rank, set->k_bias, length,
                        stride, walk->keys, set->k);
        sp_space_forward(unit->ops, &set->space, false, length, stride, set->k, set->k_codes);
    }
    for (size_t r = 0; r < set->shape.rank; r++) /* few rows: no lanes */
        for (size_t i = 0; i < walk->n_rows; i++) {
            float sum = 0;
            for (size_t k = 0; k < dim; k++) sum += set->weights[r * dim + k] * walk->queries[i * dim + k];
            set->q[r * COLUMNS + i] = sum / unit->sample->scale + set->q_bias[r];
        }
    sp_space_forward(unit->ops, &set->space, true, walk->n_rows, COLUMNS, set->q, set->q_codes);
    sp_transpose(codes, walk->n_rows, set->q_codes, COLUMNS, set->q_rows, codes);
    uint32_t lengths[SP_UNIT_ROWS];
    for (size_t i = 0; i < walk->n_rows; i++) lengths[i] = walk->rows[i] + 1;
    sp_train_product product = {.n_a = walk->n_rows,
                                .n_d = codes,
                                .n_t = length,
                                .x = set->q_rows,
                                .x_stride = codes,
                                .y = set->k_codes,
                                .y_stride = stride,
                                .out = set->scores,
                                .out_stride = stride,
                                .lengths = lengths};
    unit->ops->product(&product);
}

/* --- rows --- */

sp_status sp_judge_walk_open(const sp_unit *unit, uint32_t head, size_t first, size_t n, size_t max_rows,
                             sp_judge_walk *out, sp_error *error)
{
    size_t dim = unit->sample->head_dim, stride = unit->stride, length = unit->sample->length;
    *out = (sp_judge_walk){
        .unit = unit, .head = head, .window = first - 1, .last_window = first + n, .next = length};
    out->step = max_rows > 0 ? (n * length + max_rows - 1) / max_rows : 1;
    out->graph.capacity = SP_UNIT_ROWS * length;
    out->graph.begins = sp_alloc_zero(SP_UNIT_ROWS + 1, sizeof *out->graph.begins);
    out->graph.edges = sp_alloc(out->graph.capacity, sizeof *out->graph.edges);
    out->graph.p = sp_alloc(out->graph.capacity, sizeof *out->graph.p);
    out->numbers = sp_alloc((dim + SP_UNIT_ROWS + 1) * stride + SP_UNIT_ROWS * dim + 16, sizeof(float));
    if (!out->graph.begins || !out->graph.edges || !out->graph.p || !out->numbers) {
        sp_judge_walk_close(out);
        return sp_fail(error, SP_NO_MEMORY, "no memory to judge windows of %zu tokens", length);
    }
    out->keys = out->numbers;
    out->scores = out->keys + dim * stride;
    out->queries = out->scores + (SP_UNIT_ROWS + 1) * stride;
    return SP_OK;
}

void sp_judge_walk_close(sp_judge_walk *walk)
{
    sp_free(walk->graph.begins);
    sp_free(walk->graph.edges);
    sp_free(walk->graph.p);
    sp_free(walk->numbers);
}

bool sp_judge_walk_next(sp_judge_walk *walk)
{
    const sp_unit *unit = walk->unit;
    walk->new_window = walk->next >= unit->sample->length;
    if (walk->new_window) {
        if (++walk->window >= walk->last_window) return false;
        sp_unit_keys(unit, walk->window, walk->keys);
        walk->next = walk->step / 2 % unit->sample->length;
    }
    for (walk->n_rows = 0; walk->n_rows < SP_UNIT_ROWS && walk->next < unit->sample->length;
         walk->next += walk->step)
        walk->rows[walk->n_rows++] = (uint32_t)walk->next;
    sp_unit_gold(unit, walk->head, walk->window, walk->rows, walk->n_rows, walk->keys, walk->queries,
                 walk->scores, &walk->graph, 0);
    return true;
}
