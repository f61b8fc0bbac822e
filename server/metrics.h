/* GET /metrics: Prometheus text format 0.0.4. Names are vLLM's with the prefix sparsed_ in place of "vllm:",
 * buckets too, so that a dashboard ports by search and replace. Tests: tests/http/test_metrics.py */
#ifndef SPARSED_SERVER_METRICS_H
#define SPARSED_SERVER_METRICS_H

#include "server/server.h"

void sp_metrics_write(sp_server *server, sp_buffer *out);

#endif
