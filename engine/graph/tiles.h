/* A graph as a pyramid of tiles, and a head as a thumbnail.
 *
 * Level z joins 2^z x 2^z pairs to a bin; a tile is 256 x 256 bins, row-major by query. Counts add exactly: a
 * bin is the sum of its four children, a level sums to the graph's edges. Empty space behind the last
 * position is 0. Tests: tests/unit/engine/test_graph_query.c, tests/http/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_TILES_H
#define SPARSED_ENGINE_GRAPH_TILES_H

#include "engine/graph/query.h"

#define SP_TILE_BINS 256u

typedef enum sp_tile_stat { SP_TILE_COUNT, SP_TILE_MASS, SP_TILE_MAX, SP_TILE_DIFF } sp_tile_stat;

/* The highest level: there one tile holds everything. */
uint32_t sp_tile_levels(uint32_t n_query, uint32_t n_key);
/* Whether such a tile touches the matrix. */
bool sp_tile_exists(uint32_t n_query, uint32_t n_key, uint32_t z, uint32_t ty, uint32_t tx);
/* Bytes of a tile: one plane of 256 x 256 of 4 bytes, diff three. */
size_t sp_tile_bytes(sp_tile_stat stat);
/* Little-endian planes into out (sp_tile_bytes): count u32; mass, max f32; diff u32 both, missed, extra.
 * *empty: there is no edge in it. diff ignores the view's graph; counts of full graphs need no weights.
 * SP_NO_MEMORY. */
sp_status sp_tile_make(const sp_head_view *view, sp_tile_stat stat, uint32_t z, uint32_t ty, uint32_t tx,
                       uint8_t *out, bool *empty, sp_error *error) SP_MUST_CHECK;
/* Whether such a tile needs weights, a thumbnail as a tile of counts: a view of a graph whose weights are not
 * held then needs a part. */
bool sp_tile_weighs(const sp_head *head, sp_graph graph, sp_tile_stat stat);

/* 64 x 64 cells as slice.h says. */
sp_status sp_thumbnail_make(const sp_head_view *view, uint8_t *cells, sp_error *error) SP_MUST_CHECK;

#endif
