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
/* Labels as numbers, in the order they first come; in the call's arena. */
typedef struct sp_graph_labels_numbered {
    const char **names; /* (n_names) */
    uint32_t n_names;
    uint32_t *numbers; /* (n) of each position */
} sp_graph_labels_numbered;
/* False: no memory, or more than graph_dense_values pairs of labels. */
bool sp_graph_number_labels(const sp_label_set *set, sp_graph_call *call, sp_graph_labels_numbered *out);
/* What heads/{layer}/{head}/clusters takes; cluster: members of one, or NULL: api_graph_clusters.c. False:
 * refused. */
bool sp_graph_clusters(sp_exchange *exchange, sp_graph_call *call, const char *cluster);
/* What {id}/sweeps/{job} takes: api_graph_sweep.c. False: refused. */
bool sp_graph_sweep(sp_exchange *exchange, sp_graph_call *call, const char *id);
/* What {id}/export takes: api_graph_export.c. False: refused. */
bool sp_graph_export(sp_exchange *exchange, sp_graph_call *call);
sp_status sp_graph_run_edges(sp_graph_call *call, sp_error *error);

#endif
