/* The sets that a fit job fills: their memory, and the part of it that one unit writes. Tests:
 * tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_SETS_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_SETS_H

#include "engine/sparsefinder/fit_job.h"

/* A fit with every set that the options ask for, numbers zero. *out: sp_fit_close. SP_NO_MEMORY. */
sp_status sp_fit_sets_new(const sp_hparams *hparams, const sp_fit_options *options, sp_fit **out,
                          sp_error *error) SP_MUST_CHECK;
/* Query heads of a unit: 1, or those of a KV head. */
uint32_t sp_fit_unit_heads(const sp_hparams *hparams, const sp_fit_options *options);
/* Calls visit with every run of numbers of a layer that belong to the heads first .. first + n - 1. */
void sp_fit_sets_visit(sp_fit_layer *layer, uint32_t n_heads, uint32_t head_dim, uint32_t first, uint32_t n,
                       void (*visit)(void *context, float *numbers, size_t count), void *context);
sp_fit_set *sp_fit_sets_find(sp_fit_layer *layer, sp_fit_type type, uint32_t size);

/* Trained maps of a unit into a set. */
void sp_fit_sets_store(const sp_unit *unit, const sp_maps *folded, sp_fit_set *set);

/* --- one unit --- */
/* Trains all sets of a layer for one unit, and judges its heads into figures (unit->n_heads). SP_CANCELLED.
 */
sp_status sp_fit_unit(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                      sp_fit_layer *layer, sp_head_figures *figures, sp_error *error) SP_MUST_CHECK;

/* Pieces of it (groups.c): plain k-means and frozen bins of the default set; routed clusters, which start
 * from the maps of the default set (standardised inputs). */
sp_status sp_fit_groups(const sp_unit *unit, const sp_fit_options *options, sp_fit_set *set,
                        sp_error *error) SP_MUST_CHECK;
sp_status sp_fit_routed(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                        const sp_maps *start, sp_fit_set *set, sp_error *error) SP_MUST_CHECK;
/* blocks.c: maps and centroids of blocks. */
sp_status sp_fit_blocks(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                        const sp_maps *start, sp_fit_set *set, sp_error *error) SP_MUST_CHECK;

#endif
