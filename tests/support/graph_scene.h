/* Attention graphs made by hand for tests of exports and pictures: random scores, 1.5-entmax rows, a window
 * as prediction, and tokens of which some are hostile (markup, quotes, control and ill-formed bytes, 10 kB).
 */
#ifndef SPARSED_TESTS_GRAPH_SCENE_H
#define SPARSED_TESTS_GRAPH_SCENE_H

#include "engine/graph/slice.h"

typedef struct sp_graph_scene {
    uint32_t n, m;
    sp_graph_token *tokens; /* (max(n, m)) */
    char *long_token;
    sp_head_record record;
    sp_graph_source source;
} sp_graph_scene;

/* hostile: token 1 is markup, 2 quotes, 3 controls, 4 ill-formed, 5 10 kB; the others words. */
void sp_graph_scene_init(sp_graph_scene *scene, uint32_t n, uint32_t m, bool hostile);
void sp_graph_scene_fini(sp_graph_scene *scene);
/* The gold, pred or after graph over rows and columns given as half-open ranges; free with sp_slice_fini. */
void sp_graph_scene_slice(const sp_graph_scene *scene, sp_graph graph, bool causal, const uint32_t rows[2],
                          const uint32_t columns[2], sp_slice *out);
/* All rows and columns. */
void sp_graph_scene_whole(const sp_graph_scene *scene, sp_graph graph, bool causal, sp_slice *out);

#endif
