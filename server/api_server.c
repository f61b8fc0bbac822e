/* /health*, /v1/limits, /metrics: the server about itself. Tests: tests/http/test_gate.py, test_metrics.py */
#include "server/graph_call.h"
#include "server/metrics.h"
#include "server/routes.h"
#include "server/state.h"

static void reply_ok(sp_exchange *exchange)
{
    sp_json_writer writer;
    sp_exchange_json(exchange, 200, &writer);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "status");
    sp_json_cstring(&writer, "ok");
    sp_json_close(&writer, '}');
}

/* Ready to serve: a model is loaded and no stop was asked for. */
void sp_api_health(sp_exchange *exchange)
{
    sp_server *server = sp_exchange_server(exchange);
    sp_error error;
    sp_status status = sp_exchange_admit(exchange, &error);
    if (!status && atomic_load(&server->asked_to_stop))
        status = sp_fail(&error, SP_UNAVAILABLE, "The server is stopping");
    if (status)
        sp_exchange_fail(exchange, &error);
    else
        reply_ok(exchange);
}

void sp_api_live(sp_exchange *exchange)
{
    reply_ok(exchange);
}

void sp_api_limits(sp_exchange *exchange)
{
    const sp_options *options = sp_exchange_options(exchange);
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_json_writer writer;
    sp_exchange_json(exchange, 200, &writer);
    sp_json_open(&writer, '{');
    sp_options_write_limits(options, engine ? sp_engine_get_info(engine)->kv_bytes : 0, &writer);
    if (engine) {
        const sp_engine_info *info = sp_engine_get_info(engine);
        sp_json_key(&writer, "memory_ceiling_bytes");
        sp_json_uint(&writer, sp_server_ceiling_bytes(options, info));
        sp_json_key(&writer, "capture_bytes_used");
        sp_json_uint(&writer, sp_captures_used(sp_engine_captures(engine)));
        sp_json_key(&writer, "context");
        sp_json_uint(&writer, info->context);
        sp_json_key(&writer, "kv_tokens");
        sp_json_uint(&writer, (uint64_t)info->kv_pages * info->page_tokens);
    }
    sp_json_close(&writer, '}');
}

void sp_api_metrics(sp_exchange *exchange)
{
    sp_json_writer unused;
    sp_exchange_json(exchange, 200, &unused);
    sp_exchange_reply(exchange)->content_type = "text/plain; version=0.0.4; charset=utf-8";
    sp_metrics_write(sp_exchange_server(exchange), &sp_exchange_reply(exchange)->body);
}
