/* GET /v1/attention/backends and POST /v1/attention/apply: the registry, and one layer on anybody's tensors.
 * Tests: tests/http/test_apply.py */
#include <string.h>

#include "server/jobs.h"
#include "server/routes.h"
#include "server/state.h"

void sp_api_backends(sp_exchange *exchange)
{
    sp_json_writer writer;
    sp_exchange_json(exchange, 200, &writer);
    sp_backends_write(&writer);
}

void sp_api_apply(sp_exchange *exchange)
{
    const char *metrics = sp_exchange_query(exchange, "metrics");
    bool wanted = metrics && strcmp(metrics, "true") == 0;
    sp_error error;
    if (metrics && !wanted && strcmp(metrics, "false") != 0) {
        sp_exchange_refuse(exchange, 400, "metrics", "metrics must be true or false");
    } else if (sp_exchange_admit(exchange, &error) ||
               sp_jobs_apply(sp_exchange_server(exchange)->jobs, exchange, wanted, &error)) {
        sp_exchange_fail(exchange, &error);
    }
}
