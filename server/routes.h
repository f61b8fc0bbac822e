/* The route table: method, path, handler, flags. It drives dispatch, 404 and 405, the http_requests_total
 * labels and the tests. Tests: tests/unit/server/test_routes.c, tests/http/test_gate.py */
#ifndef SPARSED_SERVER_ROUTES_H
#define SPARSED_SERVER_ROUTES_H

#include "server/exchange.h"

extern const sp_route sp_routes[];
extern const size_t sp_route_count;

/* The route, or NULL: then allow is the value of Allow for 405, or empty for 404. rest: what "{name}" took.
 */
const sp_route *sp_route_find(const char *method, const char *path, const char **rest, char *allow,
                              size_t capacity);

/* Handlers, one file a family. */
void sp_api_completions(sp_exchange *exchange);
void sp_api_chat(sp_exchange *exchange);
void sp_api_embeddings(sp_exchange *exchange);
void sp_api_tokenize(sp_exchange *exchange);
void sp_api_detokenize(sp_exchange *exchange);
void sp_api_tokenizer_info(sp_exchange *exchange);
void sp_api_models(sp_exchange *exchange);
void sp_api_model(sp_exchange *exchange);
void sp_api_backends(sp_exchange *exchange);
void sp_api_apply(sp_exchange *exchange);
void sp_api_score(sp_exchange *exchange);
void sp_api_capture_new(sp_exchange *exchange);
void sp_api_capture_post(sp_exchange *exchange);
void sp_api_capture_get(sp_exchange *exchange); /* a capture and everything below it */
void sp_api_graph_schema(sp_exchange *exchange);
void sp_api_capture_compare(sp_exchange *exchange);
void sp_api_capture_delete(sp_exchange *exchange);
void sp_api_health(sp_exchange *exchange);
void sp_api_live(sp_exchange *exchange);
void sp_api_limits(sp_exchange *exchange);
void sp_api_openapi(sp_exchange *exchange);
void sp_api_requests(sp_exchange *exchange);
void sp_api_cancel(sp_exchange *exchange);
void sp_api_metrics(sp_exchange *exchange);

#endif
