/* dense: every allowed key. Tests: tests/attention/test_conformance.c */
#include "engine/attention/pattern.h"

static uint32_t dense_row(const void *context, uint32_t query, sp_interval *out)
{
    const sp_plan_request *request = context;
    (void)query;
    return sp_interval_add(out, 0, 0, request->n_keys);
}

static sp_status dense_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    sp_status status = sp_pattern_begin(request, 1, out, error);
    return status ? status : sp_plan_add_intervals(out, 0, dense_row, request, error);
}

const sp_backend sp_backend_dense = {
    .name = "dense",
    .summary = "every allowed key",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS | SP_CAP_PREFIX,
    .plan = dense_plan,
};
