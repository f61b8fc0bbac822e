/* What the static backends share: lists of key intervals kept ascending and disjoint, and the start of a
 * plan. Private to engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_PATTERN_H
#define SPARSED_ENGINE_ATTENTION_PATTERN_H

#include "engine/attention/attention.h"

/* Adds [begin, end) to n ascending, disjoint intervals, joining what meets; returns the new number. */
static inline uint32_t sp_interval_add(sp_interval *list, uint32_t n, uint32_t begin, uint32_t end)
{
    if (begin >= end) return n;
    uint32_t at = 0;
    while (at < n && list[at].end < begin) at++;
    uint32_t stop = at;
    for (; stop < n && list[stop].begin <= end; stop++) {
        if (list[stop].begin < begin) begin = list[stop].begin;
        if (list[stop].end > end) end = list[stop].end;
    }
    if (stop == at) {
        for (uint32_t i = n; i > at; i--) list[i] = list[i - 1];
        n++;
    } else if (stop > at + 1) {
        for (uint32_t i = stop; i < n; i++) list[at + 1 + i - stop] = list[i];
        n -= stop - at - 1;
    }
    list[at] = (sp_interval){begin, end};
    return n;
}

/* The half-open span of a window of `radius` keys on either side of the query. */
static inline uint32_t sp_interval_add_window(sp_interval *list, uint32_t n, uint32_t query, uint32_t radius)
{
    return sp_interval_add(list, n, query > radius ? query - radius : 0, query + radius + 1);
}

static inline uint32_t sp_param_u32(const sp_plan_request *request, const char *name)
{
    return (uint32_t)sp_attention_param(request->attention, name);
}

/* sp_plan_begin with the request's rows and keys. */
static inline sp_status sp_pattern_begin(const sp_plan_request *request, uint32_t n_lists, sp_plan *plan,
                                         sp_error *error)
{
    const sp_plan_shape shape = {.n_heads = request->n_heads,
                                 .n_lists = n_lists,
                                 .position = request->position,
                                 .rows = request->rows,
                                 .n_keys = request->n_keys,
                                 .causal = request->causal};
    return sp_plan_begin(plan, &shape, error);
}

#endif
