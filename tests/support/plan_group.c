/* See plan_group.h. */
#include "tests/support/plan_group.h"

#include <string.h>

sp_status plan_add_group(sp_plan *plan, const plan_group *group, sp_error *error)
{
    const sp_group_data sizes = {.list = group->list,
                                 .round = group->round,
                                 .n_queries = group->n_queries,
                                 .n_keys = group->n_keys,
                                 .n_ranges = group->n_ranges,
                                 .with_masks = group->masks != NULL,
                                 .holder = group->holder};
    size_t n = group->n_queries, tiles = (group->n_keys + SP_TILE - 1) / SP_TILE;
    sp_group_slots slots;
    sp_status status = sp_plan_new_group(plan, &sizes, &slots, error);
    if (status != SP_OK) return status;
    if (n > 0) {
        memcpy(slots.queries, group->queries, n * sizeof *slots.queries);
        memcpy(slots.ranges, group->ranges, n * group->n_ranges * 2 * sizeof *slots.ranges);
    }
    if (group->n_keys > 0 && !group->holder)
        memcpy(slots.keys, group->keys, group->n_keys * sizeof *slots.keys);
    if (slots.masks) memcpy(slots.masks, group->masks, n * tiles * sizeof *slots.masks);
    return SP_OK;
}
