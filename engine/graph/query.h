/* Slices of a head's graph: filters, pages, single rows and columns.
 *
 * An edge is returned when every cut keeps it, each judged on the whole row: cols (key in c:d), top_k (among
 * the row's k largest weights, ties to the lower key), min_weight, mass (among the fewest keys by falling
 * weight whose sum is at least that). A page ends at the end of a row and holds at least one row.
 * Tests: tests/unit/engine/test_graph_query.c, tests/http/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_QUERY_H
#define SPARSED_ENGINE_GRAPH_QUERY_H

#include "engine/graph/head.h"

typedef struct sp_filter {
    uint32_t row_begin, row_end, col_begin, col_end; /* half-open */
    bool has_top_k, has_min_weight, has_mass;
    uint32_t top_k;
    double min_weight, mass;
} sp_filter;

/* Rows of some graph: a head's, or one made of several. */
typedef struct sp_rows {
    void (*row)(const void *context, uint32_t row, uint32_t begin, uint32_t end, sp_row_room *room,
                sp_row *out);
    double (*mass)(const void *context, uint32_t row); /* the row's full mass */
    /* Edges with begin <= key < end without listing them, or SP_NOT_COUNTED; NULL: never. */
    uint32_t (*count)(const void *context, uint32_t row, uint32_t begin, uint32_t end);
    const void *context;
    uint32_t n_query, n_key;
} sp_rows;

struct sp_head_part;
/* A head's graph as rows; view lives as long as they are read. */
typedef struct sp_head_view {
    const sp_head *head;
    sp_graph graph;
    struct sp_head_part *part; /* where the head does not hold the graph's weights (capture.h); else NULL */
} sp_head_view;
sp_rows sp_head_rows(const sp_head_view *view);

/* The rows of filter from `first` on, until about `limit` edges: arrays, ranges, edges_total and truncated of
 * *out are filled, nothing else of it. edges_total counts all of the filter's rows. SP_NO_MEMORY;
 * SP_CANCELLED when stop(context) says so; stop may be NULL. */
sp_status sp_slice_fill(const sp_rows *rows, const sp_filter *filter, uint32_t first, uint64_t limit,
                        bool (*stop)(void *context), void *stop_context, sp_slice *out,
                        sp_error *error) SP_MUST_CHECK;

/* Edges of one row or of one column, by falling weight, ties to the lower position. */
typedef struct sp_line {
    uint32_t n;
    uint32_t *positions; /* (n) keys of a row, queries of a column */
    float *weights;      /* (n) */
    double left_out;     /* full mass minus what is listed; of a column: what the filter left */
} sp_line;
void sp_line_fini(sp_line *line);
/* filter: cols, top_k, min_weight and mass for a row; rows and the same for a column. */
sp_status sp_line_row(const sp_rows *rows, uint32_t row, const sp_filter *filter, sp_line *out,
                      sp_error *error) SP_MUST_CHECK;
sp_status sp_line_col(const sp_rows *rows, uint32_t col, const sp_filter *filter, sp_line *out,
                      sp_error *error) SP_MUST_CHECK;

/* The edges of a row that the filter keeps; *out points into the graph or the room. */
void sp_filtered_row(const sp_rows *rows, const sp_filter *filter, uint32_t row, sp_row_room *room,
                     sp_row *out);

#endif
