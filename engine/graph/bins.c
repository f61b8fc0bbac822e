/* See bins.h. */
#include "engine/graph/bins.h"

#include <math.h>

/* --- rows --- */

sp_status sp_picture_reader_open(const sp_picture_graph *graph, sp_picture_reader *out, sp_error *error)
{
    *out = (sp_picture_reader){.graph = graph};
    return graph->rows ? sp_row_room_open(&out->room, graph->rows->n_key, error) : SP_OK;
}

void sp_picture_reader_close(sp_picture_reader *reader)
{
    sp_row_room_close(&reader->room);
}

sp_status sp_picture_read(sp_picture_reader *reader, uint32_t row, sp_row *out, sp_error *error)
{
    const sp_picture_graph *graph = reader->graph;
    const sp_slice *held = graph->about;
    if (!graph->rows) {
        uint32_t begin = held->indptr[row - held->row_begin], end = held->indptr[row - held->row_begin + 1];
        *out = (sp_row){.n = end - begin};
        if (begin < end)
            *out =
                (sp_row){.keys = held->indices + begin, .weights = held->weights + begin, .n = end - begin};
        return SP_OK;
    }
    if (row % 64 == 0 && graph->stop && graph->stop(graph->context))
        return sp_fail(error, SP_CANCELLED, "the request was cancelled");
    sp_filtered_row(graph->rows, graph->filter, row, &reader->room, out);
    return SP_OK;
}

/* --- cells --- */

static void add_row(const sp_slice *about, uint32_t row, const sp_row *edges, sp_bins *out)
{
    size_t base = (size_t)((row - about->row_begin) / out->step) * out->columns;
    for (uint32_t i = 0; i < edges->n; i++) {
        size_t at = base + (edges->keys[i] - about->col_begin) / out->step;
        float weight = edges->weights[i];
        if (weight > out->top[at]) out->top[at] = weight;
        if (out->mass) out->mass[at] += fmaxf(weight, SP_BIN_WEIGHT);
        out->most = fmax(out->most, (double)weight);
        if (weight > 0) out->least = fmin(out->least, (double)weight);
    }
    out->edges += edges->n;
}

sp_status sp_bins_fill(const sp_picture_graph *graph, uint32_t step, bool mass, sp_bins *out, sp_error *error)
{
    const sp_slice *about = graph->about;
    sp_picture_reader reader = {0};
    *out = (sp_bins){.step = step,
                     .rows = sp_divide_up(sp_slice_rows(about), step),
                     .columns = sp_divide_up(about->col_end - about->col_begin, step),
                     .least = INFINITY};
    size_t cells = (size_t)out->rows * out->columns;
    out->top = sp_alloc(cells, sizeof *out->top);
    if (mass) out->mass = sp_alloc_zero(cells, sizeof *out->mass);
    sp_status status = out->top && (!mass || out->mass)
                           ? sp_picture_reader_open(graph, &reader, error)
                           : sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    for (size_t i = 0; i < cells && status == SP_OK; i++) out->top[i] = -1;
    for (uint32_t row = about->row_begin; row < about->row_end && status == SP_OK; row++) {
        sp_row edges;
        status = sp_picture_read(&reader, row, &edges, error);
        if (status == SP_OK) add_row(about, row, &edges, out);
    }
    sp_picture_reader_close(&reader);
    if (status != SP_OK) sp_bins_close(out);
    return status;
}

void sp_bins_close(sp_bins *bins)
{
    sp_free(bins->top);
    sp_free(bins->mass);
    *bins = (sp_bins){0};
}

/* --- differences --- */

/* Counts of one row's edges; cells: (columns, SP_KINDS) of its row of cells. */
static void compare_rows(const sp_slice *about, uint32_t step, const sp_row *gold, const sp_row *pred,
                         uint32_t *cells, sp_difference_bins *out)
{
    for (uint32_t g = 0, p = 0; g < gold->n || p < pred->n;) {
        uint32_t a = g < gold->n ? gold->keys[g] : UINT32_MAX, b = p < pred->n ? pred->keys[p] : UINT32_MAX;
        uint32_t key = a < b ? a : b;
        int kind = a == b ? SP_BOTH : a < b ? SP_MISSED : SP_EXTRA;
        cells[(size_t)((key - about->col_begin) / step) * SP_KINDS + (size_t)kind]++;
        out->totals[kind]++;
        g += a <= b;
        p += b <= a;
    }
}

sp_status sp_differences_fill(const sp_picture_graph *gold, const sp_picture_graph *pred, uint32_t step,
                              sp_difference_bins *out, sp_error *error)
{
    const sp_slice *about = gold->about;
    size_t rows = sp_divide_up(sp_slice_rows(about), step),
           columns = sp_divide_up(about->col_end - about->col_begin, step);
    sp_picture_reader left = {0}, right = {0};
    *out = (sp_difference_bins){.counts = sp_alloc_zero(rows * columns * SP_KINDS, sizeof *out->counts)};
    sp_status status = out->counts ? sp_picture_reader_open(gold, &left, error)
                                   : sp_fail(error, SP_NO_MEMORY, "no memory for a picture");
    if (status == SP_OK) status = sp_picture_reader_open(pred, &right, error);
    for (uint32_t row = about->row_begin; row < about->row_end && status == SP_OK; row++) {
        sp_row a, b;
        status = sp_picture_read(&left, row, &a, error);
        if (status == SP_OK) status = sp_picture_read(&right, row, &b, error);
        size_t first = (row - about->row_begin) / step * columns * SP_KINDS;
        if (status == SP_OK) compare_rows(about, step, &a, &b, out->counts + first, out);
    }
    sp_picture_reader_close(&left);
    sp_picture_reader_close(&right);
    if (status != SP_OK) sp_differences_close(out);
    return status;
}

void sp_differences_close(sp_difference_bins *bins)
{
    sp_free(bins->counts);
    *bins = (sp_difference_bins){0};
}
