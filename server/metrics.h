/* GET /metrics: Prometheus text format 0.0.4. Names are vLLM's with the prefix sparsed_ in place of "vllm:",
 * buckets too, so that a dashboard ports by search and replace; but iteration_tokens has no _total, which
 * promtool takes for a counter's. Tests: tests/http/test_metrics.py */
#ifndef SPARSED_SERVER_METRICS_H
#define SPARSED_SERVER_METRICS_H

#include "server/server.h"

void sp_metrics_write(sp_server *server, sp_buffer *out);
/* A request for n choices was accepted. */
void sp_metrics_count_choices(sp_server *server, uint32_t n);
/* A reply is over. route: index in the table, SP_MAX_ROUTES: none; status_class: 0 the client left, 1..5. */
void sp_metrics_count_reply(sp_server *server, size_t route, unsigned status_class, double seconds);

#endif
