/* Groups of plans from arrays, as tests have them: sp_plan_new_group and copies into its slots. */
#ifndef SPARSED_TESTS_SUPPORT_PLAN_GROUP_H
#define SPARSED_TESTS_SUPPORT_PLAN_GROUP_H

#include "kernels/plan.h"

typedef struct plan_group {
    uint32_t list, round, n_queries, n_keys, n_ranges;
    const uint32_t *queries, *keys, *ranges;
    const uint64_t *masks; /* (n_queries, ceil(n_keys / 64)) or NULL */
    uint32_t holder;       /* as in sp_group_data; then keys is not read */
} plan_group;

sp_status plan_add_group(sp_plan *plan, const plan_group *group, sp_error *error);

#endif
