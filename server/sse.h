/* Server-sent events: one frame is "data: " + one line of JSON + an empty line; the last frame is "data:
 * [DONE]"; comment lines keep the connection alive. Tests: tests/unit/server/test_routes.c, tests/http/ */
#ifndef SPARSED_SERVER_SSE_H
#define SPARSED_SERVER_SSE_H

#include "kernels/json.h"

/* A frame is written in place: begin, write one JSON value to writer, end with what begin returned. */
size_t sp_sse_begin(sp_buffer *out, sp_json_writer *writer);
void sp_sse_end(sp_buffer *out, size_t begin);
void sp_sse_done(sp_buffer *out);
void sp_sse_ping(sp_buffer *out);

#endif
