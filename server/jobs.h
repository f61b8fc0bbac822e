/* One helper thread for requests that block: POST /v1/attention/apply. The connection waits suspended
 * meanwhile.
 *
 * A job belongs to its exchange and to the thread that runs it; whoever lets go last frees it, so a client
 * may leave while its job runs. Answers held at once are bounded (SP_TENSOR_BODIES), also those that slow
 * clients still read. Tests: tests/http/test_apply.py */
#ifndef SPARSED_SERVER_JOBS_H
#define SPARSED_SERVER_JOBS_H

#include "server/exchange.h"

typedef struct sp_jobs sp_jobs;

sp_status sp_jobs_open(sp_server *server, sp_jobs **out, sp_error *error) SP_MUST_CHECK;
/* Waits for the job that runs; the rest is dropped. Exchanges must be gone. NULL is fine. */
void sp_jobs_close(sp_jobs *jobs);
/* Runs sp_engine_apply on the exchange's body, which it takes; then the reply is filled. adapter: as in
 * sp_apply_options. SP_BUSY: max_queue jobs wait already; SP_NO_MEMORY. */
sp_status sp_jobs_apply(sp_jobs *jobs, sp_exchange *exchange, bool metrics, uint32_t adapter,
                        sp_error *error) SP_MUST_CHECK;
/* Jobs that run and wait now, for the gauges. */
void sp_jobs_count(sp_jobs *jobs, size_t *running, size_t *waiting);

#endif
