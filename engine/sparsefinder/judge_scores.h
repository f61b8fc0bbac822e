/* Private to judge.c and thresholds.c: walking over rows of a head with the scores that sets give their
 * pairs.
 */
#ifndef SPARSED_ENGINE_SPARSEFINDER_JUDGE_SCORES_H
#define SPARSED_ENGINE_SPARSEFINDER_JUDGE_SCORES_H

#include "engine/sparsefinder/judge.h"

/* One set's maps for one head, and its codes of the window and rows at hand. */
typedef struct sp_judge_set {
    const sp_fit_set *set;
    sp_maps_shape shape;
    sp_space space;
    float *weights; /* q then k: (rank, dim) each */
    const float *q_bias, *k_bias;
    float *k, *k_codes; /* (rank, stride), (codes, stride) */
    float *q, *q_codes; /* (rank, 64), (codes, 64) */
    float *q_rows;      /* (SP_UNIT_ROWS, codes) */
    float *scores;      /* (SP_UNIT_ROWS, stride): larger is nearer */
    float *numbers;     /* owns them */
} sp_judge_set;
sp_status sp_judge_set_open(const sp_unit *unit, uint32_t head, const sp_fit_set *set, sp_judge_set *out,
                            sp_error *error) SP_MUST_CHECK;
void sp_judge_set_close(sp_judge_set *set);

/* Rows of a head, a block at a time. */
typedef struct sp_judge_walk {
    const sp_unit *unit;
    uint32_t head;
    size_t window, last_window, step; /* window wraps around before the first */
    size_t next;                      /* row of the window */
    uint32_t rows[SP_UNIT_ROWS];
    size_t n_rows;
    bool new_window;
    float *keys, *queries, *scores; /* as sp_unit_gold takes them */
    sp_unit_graph graph;            /* of the block's rows */
    float *numbers;
} sp_judge_walk;
sp_status sp_judge_walk_open(const sp_unit *unit, uint32_t head, size_t first, size_t n, size_t max_rows,
                             sp_judge_walk *out, sp_error *error) SP_MUST_CHECK;
void sp_judge_walk_close(sp_judge_walk *walk);
/* The next block; false at the end. */
bool sp_judge_walk_next(sp_judge_walk *walk);
/* Fills set->scores for the block. */
void sp_judge_set_score(const sp_judge_walk *walk, sp_judge_set *set);

#endif
