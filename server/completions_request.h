/* The body of POST /v1/completions, checked: every field has a range, the error names it. Fields that are
 * documented but not built yet are taken at their neutral value and refused at any other; unknown ones are
 * ignored and logged once. Tests: tests/http/test_completions.py, test_json.py */
#ifndef SPARSED_SERVER_COMPLETIONS_REQUEST_H
#define SPARSED_SERVER_COMPLETIONS_REQUEST_H

#include "server/json_body.h"
#include "server/server.h"

typedef struct sp_completion {
    sp_request request; /* points into the body's text and arena */
    bool stream, include_usage;
} sp_completion;

/* SP_INVALID with the field; SP_NOT_FOUND: another model. */
sp_status sp_completion_read(const sp_body *body, const sp_engine_info *info, sp_completion *out,
                             sp_error *error) SP_MUST_CHECK;

#endif
