/* Edges between queries and keys that share a class: clusters, buckets, routing means. Private to
 * engine/attention.
 *
 * Every query and key has up to `top` classes in each of `runs` runs; an edge where any run has a common one.
 * A round is a run and a slot of the query, so a query is in one group a round; a group is a class: its
 * queries against all its keys, ascending, found by counting sort. The band (window, globals) lies in tiles
 * and outside the ranges. Keys that an earlier round links to a query are dropped by the masks of later
 * rounds, made from one bit row an earlier class that a query of the group has. So a row's groups depend on
 * the row and the keys before it alone. Tests: tests/attention/test_conformance.c */
#ifndef SPARSED_ENGINE_ATTENTION_CLASSES_H
#define SPARSED_ENGINE_ATTENTION_CLASSES_H

#include "engine/attention/band.h"
#include "engine/attention/scratch.h"
#include "kernels/threads.h"

#define SP_NO_CLASS UINT16_MAX

typedef struct sp_classes {
    sp_threads *threads; /* heads are dealt to them */
    uint32_t n_heads, rows, n_keys, runs, top;
    uint32_t n_classes;    /* below 65,535 */
    const uint16_t *q_ids; /* (n_heads, runs, rows, top) */
    const uint16_t *k_ids; /* (n_heads, runs, n_keys, top); SP_NO_CLASS: none */
} sp_classes;

/* Sorts n numbered things by class. ids: of thing i at i * stride, `top` of them; starts (n_classes + 1):
 * where each class begins in sorted (n * top). */
void sp_classes_sort(const uint16_t *ids, size_t n, size_t stride, uint32_t top, uint32_t n_classes,
                     uint32_t *starts, uint32_t *sorted);

/* The plan is begun with one list a head. Adds the band's tiles and the groups. */
sp_status sp_classes_plan(const sp_classes *classes, const sp_band *band, uint32_t position,
                          sp_scratch *scratch, sp_plan *out, sp_error *error) SP_MUST_CHECK;

#endif
