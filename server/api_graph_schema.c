/* GET /v1/attention/schema: the JSON Schema of every answer of the graph routes, made at build by
 * make_graph_schema.py. Tests: tests/http/test_graph_schema.py holds real answers against it. */
#include "server/graph_schema.h"
#include "server/routes.h"

void sp_api_graph_schema(sp_exchange *exchange)
{
    sp_json_writer unused;
    sp_exchange_json(exchange, 200, &unused);
    sp_buffer_text(&sp_exchange_reply(exchange)->body, graph_schema);
}
