/* How well the sets of a fit predict the true graph of a head, and the thresholds that follow.
 *
 * Curves are taken at given sparsities S (share of causal pairs left out), by one threshold for the head on
 * the rows looked at: recall = share of true edges kept, mass = share of the dense probability kept.
 * Predicted graphs hold a window of 33 and the first token, inside the budget. Scores are counted in bins of
 * their float32 bits (1 / 512 wide), the bin at the cut in part. Tests: tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_JUDGE_H
#define SPARSED_ENGINE_SPARSEFINDER_JUDGE_H

#include "engine/sparsefinder/fit.h"
#include "engine/sparsefinder/unit.h"

#define SP_JUDGE_RADIUS 16u /* of the window of 33 */
enum { SP_SPARSITIES = 4 };
extern const double sp_judged_sparsities[SP_SPARSITIES]; /* .6 .7 .8 .9 */

typedef struct sp_curve {
    double recall[SP_SPARSITIES], mass[SP_SPARSITIES];
} sp_curve;
typedef struct sp_curve_point {
    double sparsity, recall, mass;
} sp_curve_point;

enum { SP_JUDGE_CLUSTERS = 8 };
typedef enum sp_judged {
    SP_JUDGED_DOT,
    SP_JUDGED_DISTANCE,
    SP_JUDGED_WINDOW, /* as wide as the budget, and the first token */
    SP_JUDGED_RANDOM, /* window of 33 and first token, the rest at random: the expected value */
    SP_JUDGED_SCORES, /* q.k itself, no window: what one threshold a head can reach */
    SP_JUDGED_CURVES
} sp_judged;
typedef struct sp_judgement {
    bool has[SP_JUDGED_CURVES];
    sp_curve curves[SP_JUDGED_CURVES];
    uint32_t n_clusters;
    uint32_t clusters[SP_JUDGE_CLUSTERS];     /* C of each, */
    sp_curve_point points[SP_JUDGE_CLUSTERS]; /* served with top 2 */
} sp_judgement;

/* Looks at about max_rows rows of one head of the unit (windows first .. first + n - 1), under the sets of
 * `layer` (NULL: none). SP_NO_MEMORY. */
sp_status sp_judge_head(const sp_unit *unit, uint32_t head, const sp_fit_layer *layer, size_t first, size_t n,
                        size_t max_rows, sp_judgement *out, sp_error *error) SP_MUST_CHECK;

/* Fills the thresholds of a set (DEFAULT: squared distance; DOT) for one head: the quantiles of the scores of
 * true edges outside of window and first token, over about max_rows rows trained on. */
sp_status sp_judge_thresholds(const sp_unit *unit, uint32_t head, sp_fit_set *set, size_t max_rows,
                              sp_error *error) SP_MUST_CHECK;
#define SP_DEFAULT_RECALL 95u /* per cent: of the thresholds without a number in their name */

#endif
