/* What somebody wants of a graph as a file: a format, and for pictures a view, a scale, colours and a theme;
 * the same words in GET .../export and `sparsed graph`. And the making of it, from a call's capture.
 * Tests: tests/http/test_graph_export.py, tests/http/test_graph_command.py */
#ifndef SPARSED_SERVER_GRAPH_WISH_H
#define SPARSED_SERVER_GRAPH_WISH_H

#include "engine/graph/export.h"
#include "server/graph_call.h"

typedef enum sp_graph_view { SP_VIEW_MATRIX, SP_VIEW_PANELS, SP_VIEW_LINES, SP_VIEW_OVERVIEW } sp_graph_view;

typedef struct sp_graph_wish {
    bool json; /* the JSON of the edges route: not an sp_export */
    sp_export format;
    sp_graph_view view; /* svg and png */
    sp_picture_options picture;
} sp_graph_wish;

/* The words as they were given; NULL: not given. */
typedef struct sp_graph_words {
    const char *format, *view, *scale, *colors, *theme;
} sp_graph_words;

/* one_head: layer and head were named. Without them svg and png show the overview, dense formats all heads,
 * and the others are refused. SP_INVALID, param is the word's name, "layer" or "head". */
sp_status sp_graph_wish_read(const sp_graph_words *words, bool one_head, sp_graph_wish *out,
                             sp_error *error) SP_MUST_CHECK;

/* Makes the file; call->more is the sp_graph_wish, call->filter, graph, layer, head, or layers and heads say
 * of what. SP_TOO_LARGE: more edges than limits.graph_edges, more values than graph_dense_values. Like every
 * run function it may leave the call pending. */
sp_status sp_graph_run_export(sp_graph_call *call, sp_error *error);

/* All about a slice of a head but its edges. */
void sp_graph_describe(const sp_graph_call *call, uint32_t layer, uint32_t head, sp_graph graph,
                       const sp_head *made, sp_slice *slice);
/* A head's picture, made where there is time; NULL and SP_OK: not yet. */
sp_status sp_graph_thumbnail(sp_graph_call *call, uint32_t layer, uint32_t head, const uint8_t **cells,
                             sp_error *error) SP_MUST_CHECK;
/* Most bytes of one file in a dense format. */
size_t sp_graph_dense_bytes(const sp_options *options);

#endif
