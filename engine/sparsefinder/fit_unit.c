/* sp_fit_unit: every set of one unit, one after another. Each has random numbers of its own, so that asking
 * for one set more does not change the others. */
#include "engine/sparsefinder/fit_sets.h"

#include <string.h>

enum { JUDGED_ROWS = 4096, THRESHOLD_ROWS = 4096 };
enum { WARM_UP = 20 };
#define RATE 0.01

static sp_status train_set(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                           sp_space_kind space, sp_maps *maps, sp_maps *folded, sp_train_result *result,
                           sp_error *error)
{
    bool paper = options->loss == SP_FIT_HINGE;
    sp_train_options train = {.space = space,
                              .loss = options->loss,
                              .shared = options->shared,
                              .steps = options->steps,
                              .warm_up = WARM_UP,
                              .rate = RATE,
                              .random = sp_random_open(options->seed, unit->sample->first_layer + unit->layer,
                                                       unit->first_head, (uint32_t)space),
                              .stop = stop};
    sp_status status = SP_OK;
    if (paper)
        sp_start_uniform(&train.random, options->shared, maps);
    else
        status = sp_start_spectral(unit, space, maps, error);
    if (status != SP_OK) return status;
    status = sp_train_maps(unit, paper ? NULL : &unit->moments, &train, maps, result, error);
    if (status != SP_OK) return status;
    if (paper)
        memcpy(folded->q, maps->q, sp_maps_count(&maps->shape) * sizeof *maps->q);
    else
        sp_maps_fold(maps, &unit->moments, folded);
    return SP_OK;
}

static sp_status finish_set(const sp_unit *unit, const sp_maps *folded, sp_fit_set *set, sp_error *error)
{
    sp_status status = SP_OK;
    sp_fit_sets_store(unit, folded, set);
    for (uint32_t h = 0; status == SP_OK && h < unit->n_heads; h++)
        status = sp_judge_thresholds(unit, h, set, THRESHOLD_ROWS, error);
    return status;
}

/* maps is left holding the default set's, of standardised inputs: others start from there. */
static sp_status train_sets(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                            sp_fit_layer *layer, sp_maps *maps, sp_maps *folded, sp_head_figures *figures,
                            sp_error *error)
{
    sp_train_result result = {0};
    sp_status status = SP_OK;
    sp_fit_set *dot = sp_fit_sets_find(layer, SP_FIT_DOT, 0),
               *base = sp_fit_sets_find(layer, SP_FIT_DEFAULT, 0);
    if (dot) status = train_set(unit, options, stop, SP_SPACE_DOT, maps, folded, &result, error);
    if (dot && status == SP_OK) status = finish_set(unit, folded, dot, error);
    for (uint32_t h = 0; h < unit->n_heads; h++) {
        figures[h].first_loss = result.first_loss;
        figures[h].last_loss = result.last_loss;
    }
    if (status == SP_OK)
        status = train_set(unit, options, stop, SP_SPACE_DISTANCE, maps, folded, &result, error);
    if (status == SP_OK) status = finish_set(unit, folded, base, error);
    for (uint32_t h = 0; !dot && h < unit->n_heads; h++) {
        figures[h].first_loss = result.first_loss;
        figures[h].last_loss = result.last_loss;
    }
    if (status == SP_OK) status = sp_fit_groups(unit, options, base, error);
    for (size_t i = 0; status == SP_OK && i < layer->n_sets; i++) {
        sp_fit_set *set = &layer->sets[i];
        if (set->type == SP_FIT_CLUSTER) status = sp_fit_routed(unit, options, stop, maps, set, error);
        if (set->type == SP_FIT_BLOCK) status = sp_fit_blocks(unit, options, stop, maps, set, error);
    }
    return status;
}

sp_status sp_fit_unit(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                      sp_fit_layer *layer, sp_head_figures *figures, sp_error *error)
{
    sp_maps_shape shape = {unit->n_heads, unit->sample->head_dim, options->rank, 0};
    size_t count = (sp_maps_count(&shape) + 15) / 16 * 16;
    float *numbers = sp_alloc_zero(2 * count, sizeof *numbers);
    if (!numbers) return sp_fail(error, SP_NO_MEMORY, "no memory for the maps of a head");
    sp_maps maps = sp_maps_view(&shape, numbers), folded = sp_maps_view(&shape, numbers + count);
    sp_status status = train_sets(unit, options, stop, layer, &maps, &folded, figures, error);
    for (uint32_t h = 0; status == SP_OK && h < unit->n_heads; h++)
        status = sp_judge_head(unit, h, layer, unit->n_train, unit->sample->n_windows - unit->n_train,
                               JUDGED_ROWS, &figures[h].judgement, error);
    sp_free(numbers);
    return status;
}
