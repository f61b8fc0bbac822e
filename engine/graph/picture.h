/* Pictures of attention graphs, as SVG or PNG: one head's matrix, gold | predicted | after side by side,
 * lines between two columns of tokens, and all heads at a glance.
 *
 * Each picture has a title, one sentence that says how to read it, the axis words query and key with arrows,
 * a legend with the scale's name, and at the bottom where the graph comes from. An edge of any weight stands
 * at least 3:1 against the page; where positions outnumber the cells, a cell stands for step x step pairs and
 * shows their largest weight. No edge, masked, missed and not computed all differ. Nothing but the arguments
 * is read, so any thread may draw. Tests: tests/unit/engine/test_picture.c, tests/golden/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_PICTURE_H
#define SPARSED_ENGINE_GRAPH_PICTURE_H

#include "engine/graph/canvas.h"
#include "engine/graph/query.h"

typedef struct sp_picture_options {
    sp_canvas_kind kind;
    sp_color_map colors;
    sp_color_scale scale;
    bool dark;
} sp_picture_options;
/* cividis, square root, light. */
sp_picture_options sp_picture_defaults(sp_canvas_kind kind);

/* A graph to be drawn, any part of any, without edges too. about says what it is and which part; the edges
 * are those that it holds, or, with rows, those of its part that rows have under the filter: a picture of a
 * graph takes the memory of its cells. Everything is borrowed. */
typedef struct sp_picture_graph {
    const sp_slice *about;
    const sp_rows *rows; /* NULL: about holds the edges */
    const sp_filter *filter;
    bool (*stop)(void *context); /* while rows are read; NULL: never */
    void *context;
} sp_picture_graph;

/* All append a whole file to out. SP_TOO_LARGE or SP_NO_MEMORY where a picture cannot be drawn; SP_CANCELLED.
 */
sp_status sp_picture_matrix(const sp_picture_graph *graph, const sp_picture_options *options, sp_buffer *out,
                            sp_error *error) SP_MUST_CHECK;
/* Three graphs of one head over the same part. The middle panel holds pred against gold: both, missed,
 * extra. */
sp_status sp_picture_panels(const sp_picture_graph *gold, const sp_picture_graph *pred,
                            const sp_picture_graph *after, const sp_picture_options *options, sp_buffer *out,
                            sp_error *error) SP_MUST_CHECK;
/* Up to SP_PICTURE_LINES edges as lines; of more, how much weight passes each point between the columns. */
#define SP_PICTURE_LINES 2000
sp_status sp_picture_lines(const sp_picture_graph *graph, const sp_picture_options *options, sp_buffer *out,
                           sp_error *error) SP_MUST_CHECK;
sp_status sp_picture_overview(const sp_overview *overview, const sp_picture_options *options, sp_buffer *out,
                              sp_error *error) SP_MUST_CHECK;

/* Texts that the HTML export shows too. title: "austen, layer 2, head 5: gold"; facts: counts and ratios in
 * one or two sentences; provenance: one line of facts with middle dots between. All well-formed UTF-8. */
void sp_caption_title(const sp_graph_source *source, const sp_slice *slice, sp_buffer *out);
void sp_caption_facts(const sp_slice *slice, sp_buffer *out);
/* The title's first half, "austen, layer 2, head 5"; "; queries 0 to 63 of 512, .." or nothing for a whole
 * graph. */
void sp_caption_head(const sp_graph_source *source, const sp_slice *slice, sp_buffer *out);
void sp_caption_part(const sp_slice *slice, sp_buffer *out);
void sp_caption_provenance(const sp_graph_source *source, sp_buffer *out);
/* "gold graph", "missed edges: gold, not predicted". */
const char *sp_caption_graph(sp_graph graph);
/* "1,234,567". */
void sp_caption_count(uint64_t value, sp_buffer *out);

#endif
