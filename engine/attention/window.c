/* window: keys at most window div 2 positions away, plus rows and columns of the first and last tokens.
 *
 * window counts the centre (257: 128 on either side), so it is odd, or 0 for none. A global token sees every
 * allowed key and every allowed row sees it; the causal rule comes last. global_last marks the last valid
 * tokens, which a stream does not know: 0 while generating. Tests: tests/attention/test_conformance.c */
#include "engine/attention/band.h"

static sp_status window_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    const sp_band band =
        sp_band_make(request, sp_param_u32(request, "window"), sp_param_u32(request, "global_first"),
                     sp_param_u32(request, "global_last"));
    sp_status status = sp_pattern_begin(request, 1, out, error);
    return status ? status : sp_plan_add_intervals(out, 0, sp_band_row, &band, error);
}

static const sp_param params[] = {
    {.name = "window",
     .summary = "keys around the query, the centre counted: odd, or 0 for none",
     .fallback = 257,
     .max = 1048577,
     .odd_only = true},
    {.name = "global_first",
     .summary = "first tokens that see and are seen by all",
     .fallback = 0,
     .max = 1048576},
    {.name = "global_last",
     .summary = "last valid tokens that see and are seen by all; 0 while generating and in cross-attention",
     .fallback = 0,
     .max = 1048576},
};

const sp_backend sp_backend_window = {
    .name = "window",
    .summary = "the nearest keys, plus global tokens",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS | SP_CAP_PREFIX,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .plan = window_plan,
};
