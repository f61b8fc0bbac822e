/* The one error envelope, for every status, also inside streams:
 * {"error":{"message","type","param":null,"code":STATUS}}, types as server/README.md lists them.
 * Tests: tests/unit/server/test_routes.c, tests/http/ */
#ifndef SPARSED_SERVER_ERRORS_H
#define SPARSED_SERVER_ERRORS_H

#include "kernels/json.h"

/* HTTP status of a library error. */
unsigned sp_error_http_status(sp_status status);
/* The envelope's type of an HTTP status. */
const char *sp_error_type(unsigned http_status);
/* One JSON object. param NULL or empty: null. */
void sp_error_write(sp_json_writer *out, unsigned http_status, const char *type, const char *param,
                    const char *message);
/* A prompt that exceeds the context: the same with n_prompt_tokens and n_ctx. */
void sp_error_write_context(sp_json_writer *out, const char *param, const char *message,
                            uint64_t n_prompt_tokens, uint64_t n_ctx);
/* Reason phrase of a status line. */
const char *sp_http_reason(unsigned http_status);

#endif
