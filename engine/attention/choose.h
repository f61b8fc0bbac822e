/* What `auto` runs: the fastest attention measured by `sparsed sweep` that keeps within a request's budgets.
 *
 * The rules, over the points of sweep.json (engine/evaluate/sweep.h), are those of engine/README.md, "auto":
 * only the measured length nearest to prompt and answer together counts (by ratio; of two the longer); never
 * a point that sees later tokens; recall may be short of 1 by max_recall_loss, perplexity above dense by
 * max_perplexity_increase (a share; without any budget: not at all); expected seconds for the request's
 * prompt and answer are linear in their tokens, dense ones the means of what was measured beside the points;
 * what does not save a twentieth of dense's is dense. Pure functions of their arguments. Tests:
 * tests/unit/engine/test_choose.c */
#ifndef SPARSED_ENGINE_ATTENTION_CHOOSE_H
#define SPARSED_ENGINE_ATTENTION_CHOOSE_H

#include "engine/evaluate/sweep.h"

typedef struct sp_choice {
    uint32_t n_prompt, n_new; /* tokens to read and to write at most */
    double max_recall_loss;   /* NaN: no such budget */
    double max_perplexity_increase;
    const char *device; /* points of others do not count */
    /* Whether the model at hand can run the point's attention. */
    bool (*usable)(void *context, const sp_sweep_point *point);
    void *context;
} sp_choice;

/* NULL: dense. reason (at most room bytes with its NUL): one sentence for the report, either way. */
const sp_sweep_point *sp_choose(const sp_sweep *sweep, const sp_choice *choice, char *reason, size_t room);

#endif
