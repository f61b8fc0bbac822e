/* Private to engine/graph: what a picture is drawn from. A graph's edges are read once, row by row, into
 * cells of step x step pairs, so that a picture takes the memory of its cells, whatever the graph has.
 *
 * Owner: whoever filled them. Tests: tests/unit/engine/test_picture.c, tests/http/test_graph_export.py */
#ifndef SPARSED_ENGINE_GRAPH_BINS_H
#define SPARSED_ENGINE_GRAPH_BINS_H

#include "engine/graph/picture.h"

typedef struct sp_bins {
    uint32_t step, rows, columns;
    float *top;     /* (rows, columns) largest weight of the cell; below 0: no edge */
    float *mass;    /* (rows, columns) sum of the cell's weights, each at least SP_BIN_WEIGHT; or NULL */
    uint64_t edges; /* in all cells */
    double least,
        most; /* of the weights: the least above 0, the largest; INFINITY and 0 where there are none */
} sp_bins;
#define SP_BIN_WEIGHT 1e-6f /* so that an edge of weight 0 counts */

/* Cells of b positions that hold a of them. */
static inline uint32_t sp_divide_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b > 0);
}

/* Reads every edge. SP_NO_MEMORY; SP_CANCELLED when the graph's stop says so. */
sp_status sp_bins_fill(const sp_picture_graph *graph, uint32_t step, bool mass, sp_bins *out,
                       sp_error *error) SP_MUST_CHECK;
void sp_bins_close(sp_bins *bins);

/* How two graphs over the same part differ, cell by cell. */
enum { SP_BOTH, SP_MISSED, SP_EXTRA, SP_KINDS };
typedef struct sp_difference_bins {
    uint32_t *counts; /* (rows, columns, SP_KINDS) */
    uint64_t totals[SP_KINDS];
} sp_difference_bins;
sp_status sp_differences_fill(const sp_picture_graph *gold, const sp_picture_graph *pred, uint32_t step,
                              sp_difference_bins *out, sp_error *error) SP_MUST_CHECK;
void sp_differences_close(sp_difference_bins *bins);

/* Rows of a graph in turn, for what needs single edges. */
typedef struct sp_picture_reader {
    const sp_picture_graph *graph;
    sp_row_room room;
} sp_picture_reader;
sp_status sp_picture_reader_open(const sp_picture_graph *graph, sp_picture_reader *out,
                                 sp_error *error) SP_MUST_CHECK;
void sp_picture_reader_close(sp_picture_reader *reader);
/* row: absolute. *out is good until the next call. */
sp_status sp_picture_read(sp_picture_reader *reader, uint32_t row, sp_row *out,
                          sp_error *error) SP_MUST_CHECK;

#endif
