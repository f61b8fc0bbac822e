/* GET /v1/attention/backends and POST /v1/attention/apply: the registry, and one layer on anybody's tensors.
 * Tests: tests/http/test_apply.py */
#include <string.h>

#include "server/jobs.h"
#include "server/routes.h"
#include "server/state.h"

void sp_api_backends(sp_exchange *exchange)
{
    sp_json_writer writer;
    const sp_engine *engine = sp_exchange_engine(exchange);
    const char *no_fit = !engine ? "the model is still loading"
                         : !sp_engine_get_info(engine)->has_fit
                             ? "no fit is loaded: see sparsed fit and --fit"
                             : NULL;
    sp_exchange_json(exchange, 200, &writer);
    sp_backends_write(no_fit, &writer);
}

void sp_api_apply(sp_exchange *exchange)
{
    const char *metrics = sp_exchange_query(exchange, "metrics"),
               *model = sp_exchange_query(exchange, "model");
    bool wanted = metrics && strcmp(metrics, "true") == 0;
    uint32_t adapter = 0;
    sp_error error;
    if (metrics && !wanted && strcmp(metrics, "false") != 0) {
        sp_exchange_refuse(exchange, 400, "metrics", "metrics must be true or false");
        return;
    }
    sp_status status = sp_exchange_admit(exchange, &error);
    if (!status && model) {
        const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
        status = sp_engine_find_model(info, model, strlen(model), &adapter, &error);
    }
    if (!status)
        status = sp_jobs_apply(sp_exchange_server(exchange)->jobs, exchange, wanted, adapter, &error);
    if (status) sp_exchange_fail(exchange, &error);
}
