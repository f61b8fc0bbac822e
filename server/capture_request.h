/* The body of POST /v1/attention/captures, checked. A route of our own: unknown members are refused by name.
 * Tests: tests/http/test_captures.py */
#ifndef SPARSED_SERVER_CAPTURE_REQUEST_H
#define SPARSED_SERVER_CAPTURE_REQUEST_H

#include "engine/graph/capture.h"
#include "server/json_body.h"
#include "server/server.h"

/* Texts and lists live in the body's arena. */
typedef struct sp_capture_request {
    sp_request request; /* max_tokens 0; without capture */
    sp_capture_spec spec;
} sp_capture_request;

sp_status sp_capture_request_read(const sp_body *body, const sp_engine_info *info, sp_capture_request *out,
                                  sp_error *error) SP_MUST_CHECK;

#endif
