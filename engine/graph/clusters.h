/* The clusters of a head whose attention groups tokens by centroids: which queries and keys each holds, and
 * how many gold edges the clustering cuts.
 *
 * q' and k' go through the maps of the set that the backend names; a token's cluster is its nearest centroid
 * of run 0. The pure cluster graph joins a query and a key whose `top` nearest centroids meet in any run,
 * without window and global tokens; missed counts gold edges outside of it by the clusters of both ends.
 * Owner: whoever made them. Tests: tests/http/test_graph_clusters.py */
#ifndef SPARSED_ENGINE_GRAPH_CLUSTERS_H
#define SPARSED_ENGINE_GRAPH_CLUSTERS_H

#include "engine/graph/capture.h"

typedef struct sp_token_clusters {
    uint32_t n, n_clusters, top, runs;
    uint16_t *q, *k; /* (n, runs, top) ids of centroids, nearest first */
} sp_token_clusters;

/* SP_NOT_FOUND naming "clusters" where the attention makes none; SP_CANCELLED; *out: fini. */
sp_status sp_token_clusters_make(sp_capture *capture, uint32_t layer, uint32_t head,
                                 const sp_graph_runner *runner, sp_token_clusters *out,
                                 sp_error *error) SP_MUST_CHECK;
void sp_token_clusters_fini(sp_token_clusters *clusters);
static inline uint32_t sp_token_cluster(const sp_token_clusters *clusters, bool key, uint32_t at)
{
    return (key ? clusters->k : clusters->q)[(size_t)at * clusters->runs * clusters->top];
}
/* Whether the clustering joins query and key. */
bool sp_token_clusters_meet(const sp_token_clusters *clusters, uint32_t query, uint32_t key);

#endif
