/* What the files of the graph routes share: one function a route below /v1/attention/captures/{id}. */
#ifndef SPARSED_SERVER_API_GRAPH_H
#define SPARSED_SERVER_API_GRAPH_H

#include "server/graph_call.h"

/* GET {id}, the path behind it empty. */
void sp_graph_state(sp_exchange *exchange, const char *id);
sp_status sp_graph_run_tokens(sp_graph_call *call, sp_error *error);
/* A route that reads many heads: api_graph_many.c. False: there is no such route. */
bool sp_graph_many(sp_exchange *exchange, sp_graph_call *call, const char *name);
/* What {id}/aggregate and {id}/labels take: api_graph_mix.c. False: refused. */
bool sp_graph_aggregate(sp_exchange *exchange, sp_graph_call *call);
bool sp_graph_labels(sp_exchange *exchange, sp_graph_call *call);
/* What {id}/sweeps/{job} takes: api_graph_sweep.c. False: refused. */
bool sp_graph_sweep(sp_exchange *exchange, sp_graph_call *call, const char *id);
/* What {id}/export takes: api_graph_export.c. False: refused. */
bool sp_graph_export(sp_exchange *exchange, sp_graph_call *call);
sp_status sp_graph_run_edges(sp_graph_call *call, sp_error *error);

#endif
