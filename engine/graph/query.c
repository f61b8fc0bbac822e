/* See query.h. */
#include "engine/graph/query.h"

#include "engine/graph/capture.h"
#include "engine/graph/rank.h"

#include <string.h>

static void head_row(const void *context, uint32_t row, uint32_t begin, uint32_t end, sp_row_room *room,
                     sp_row *out)
{
    const sp_head_view *view = context;
    if (view->part)
        sp_head_part_row(view->part, view->graph, row, begin, end, room, out);
    else
        sp_head_row(view->head, view->graph, row, begin, end, room, out);
}

static double head_mass(const void *context, uint32_t row)
{
    const sp_head_view *view = context;
    return view->part ? sp_head_part_mass(view->part, view->graph, row)
                      : sp_head_row_mass(view->head, view->graph, row);
}

static uint32_t head_count(const void *context, uint32_t row, uint32_t begin, uint32_t end)
{
    const sp_head_view *view = context;
    return sp_head_row_count(view->head, view->graph, row, begin, end);
}

sp_rows sp_head_rows(const sp_head_view *view)
{
    return (sp_rows){.row = head_row,
                     .mass = head_mass,
                     .count = head_count,
                     .context = view,
                     .n_query = view->head->n_query,
                     .n_key = view->head->n_key};
}

/* --- cuts --- */

/* The last edge, in falling order, that top_k and mass keep; false when they keep none. */
static bool find_last(const sp_filter *filter, const sp_row *row, uint64_t *order, uint64_t *last)
{
    *last = 0;
    if (row->n == 0 || (filter->has_top_k && filter->top_k == 0)) return false;
    if (filter->has_mass && !(filter->mass > 0)) return false;
    for (uint32_t i = 0; i < row->n; i++) order[i] = sp_rank_pack(row->weights[i], i);
    if (filter->has_mass) *last = sp_rank_find_mass(order, row->n, filter->mass);
    if (filter->has_top_k && filter->top_k < row->n) {
        uint64_t kth = sp_rank_find(order, row->n, filter->top_k);
        if (kth > *last) *last = kth;
    }
    return true;
}

/* Keeps of a row's edges those that the filter's cuts on weights keep, in place in room (which *row may point
 * into already). */
static void filter_row(const sp_filter *filter, sp_row_room *room, sp_row *row)
{
    uint64_t last = 0;
    uint32_t n = 0;
    bool ranked = filter->has_top_k || filter->has_mass;
    if (!ranked && !filter->has_min_weight) return;
    if (ranked && !find_last(filter, row, room->order, &last)) {
        row->n = 0;
        return;
    }
    for (uint32_t i = 0; i < row->n; i++) {
        uint32_t key = row->keys[i];
        float weight = row->weights[i];
        if (ranked && sp_rank_pack(weight, i) < last) continue;
        if (filter->has_min_weight && !((double)weight >= filter->min_weight)) continue;
        room->keys[n] = key;
        room->weights[n++] = weight;
    }
    *row = (sp_row){.keys = room->keys, .weights = room->weights, .n = n};
}

/* Cuts on weights look at the whole row. */
void sp_filtered_row(const sp_rows *rows, const sp_filter *filter, uint32_t row, sp_row_room *room,
                     sp_row *out)
{
    bool whole = filter->has_top_k || filter->has_mass;
    rows->row(rows->context, row, whole ? 0 : filter->col_begin, whole ? rows->n_key : filter->col_end, room,
              out);
    filter_row(filter, room, out);
    if (!whole) return;
    uint32_t begin = 0, end = out->n;
    while (begin < end && out->keys[begin] < filter->col_begin) begin++;
    while (end > begin && out->keys[end - 1] >= filter->col_end) end--;
    out->keys += out->n ? begin : 0;
    out->weights += out->n ? begin : 0;
    out->n = end - begin;
}

static double sum_row(const sp_row *row)
{
    double sum = 0;
    for (uint32_t i = 0; i < row->n; i++) sum += (double)row->weights[i];
    return sum;
}

static float left_of(double full, double kept)
{
    return full > kept ? (float)(full - kept) : 0;
}

/* --- slices --- */

/* Edges of a page while it grows. */
typedef struct page {
    sp_slice *out;
    size_t capacity;
} page;

static bool grow(page *p, size_t n)
{
    size_t used = p->out->indptr[p->out->row_end - p->out->row_begin], capacity = 2 * p->capacity;
    if (used + n <= p->capacity) return true;
    if (capacity < used + n) capacity = used + n;
    if (capacity < 1024) capacity = 1024;
    uint32_t *indices = sp_alloc(capacity, sizeof *indices);
    float *weights = sp_alloc(capacity, sizeof *weights);
    if (!indices || !weights) {
        sp_free(indices);
        sp_free(weights);
        return false;
    }
    if (used) memcpy(indices, p->out->indices, used * sizeof *indices);
    if (used) memcpy(weights, p->out->weights, used * sizeof *weights);
    sp_free(p->out->indices);
    sp_free(p->out->weights);
    p->out->indices = indices;
    p->out->weights = weights;
    p->capacity = capacity;
    return true;
}

static bool append(page *p, const sp_row *row, double full)
{
    sp_slice *out = p->out;
    uint32_t r = out->row_end - out->row_begin, used = out->indptr[r];
    if (!grow(p, row->n)) return false;
    if (row->n) memcpy(out->indices + used, row->keys, row->n * sizeof *row->keys);
    if (row->n) memcpy(out->weights + used, row->weights, row->n * sizeof *row->weights);
    out->indptr[r + 1] = used + row->n;
    out->left_out[r] = left_of(full, sum_row(row));
    out->row_end++;
    return true;
}

/* Edges that the filter keeps of a row that nobody reads, where its cuts leave that easy. */
static uint32_t count_row(const sp_rows *rows, const sp_filter *filter, uint32_t row)
{
    bool cuts = filter->has_top_k || filter->has_min_weight || filter->has_mass;
    return !cuts && rows->count ? rows->count(rows->context, row, filter->col_begin, filter->col_end)
                                : SP_NOT_COUNTED;
}

static sp_status fill(const sp_rows *rows, const sp_filter *filter, uint32_t first, uint64_t limit,
                      bool (*stop)(void *context), void *stop_context, sp_row_room *room, page *p,
                      sp_error *error)
{
    sp_slice *out = p->out;
    bool open = true;
    for (uint32_t i = filter->row_begin; i < filter->row_end; i++) {
        sp_row row;
        if (i % 16 == 0 && stop && stop(stop_context))
            return sp_fail(error, SP_CANCELLED, "the request was cancelled");
        bool read = i >= first && open;
        uint32_t n = read ? SP_NOT_COUNTED : count_row(rows, filter, i);
        if (n != SP_NOT_COUNTED) {
            out->edges_total += n;
            continue;
        }
        sp_filtered_row(rows, filter, i, room, &row);
        out->edges_total += row.n;
        if (!read) continue;
        uint64_t held = out->indptr[out->row_end - out->row_begin];
        if (i > first && held + row.n > limit) {
            open = false;
            out->truncated = true;
        } else if (!append(p, &row, rows->mass(rows->context, i))) {
            return sp_fail(error, SP_NO_MEMORY, "no memory for a slice");
        }
    }
    return SP_OK;
}

sp_status sp_slice_fill(const sp_rows *rows, const sp_filter *filter, uint32_t first, uint64_t limit,
                        bool (*stop)(void *context), void *stop_context, sp_slice *out, sp_error *error)
{
    sp_row_room room = {0};
    page p = {.out = out};
    size_t most = (size_t)filter->row_end - first;
    out->n_query = rows->n_query, out->n_key = rows->n_key;
    out->row_begin = out->row_end = first;
    out->col_begin = filter->col_begin, out->col_end = filter->col_end;
    out->edges_total = 0;
    out->truncated = false;
    out->indptr = sp_alloc_zero(most + 1, sizeof *out->indptr);
    out->left_out = sp_alloc(most, sizeof *out->left_out);
    sp_status status = out->indptr && out->left_out ? sp_row_room_open(&room, rows->n_key, error)
                                                    : sp_fail(error, SP_NO_MEMORY, "no memory for a slice");
    if (status == SP_OK) status = fill(rows, filter, first, limit, stop, stop_context, &room, &p, error);
    sp_row_room_close(&room);
    if (status != SP_OK) sp_slice_fini(out);
    return status;
}

/* --- one row, one column --- */

void sp_line_fini(sp_line *line)
{
    sp_free(line->positions);
    sp_free(line->weights);
    *line = (sp_line){0};
}

/* The edges by falling weight. */
static sp_status sort_line(const sp_row *row, uint64_t *order, sp_line *out, sp_error *error)
{
    out->n = row->n;
    if (row->n == 0) return SP_OK;
    out->positions = sp_alloc(row->n, sizeof *out->positions);
    out->weights = sp_alloc(row->n, sizeof *out->weights);
    if (!out->positions || !out->weights) {
        sp_line_fini(out);
        return sp_fail(error, SP_NO_MEMORY, "no memory for %u edges", row->n);
    }
    for (uint32_t i = 0; i < row->n; i++) order[i] = sp_rank_pack(row->weights[i], i);
    sp_rank_sort(order, row->n);
    for (uint32_t i = 0; i < row->n; i++) {
        uint32_t at = sp_rank_place(order[i]);
        out->positions[i] = row->keys[at];
        out->weights[i] = row->weights[at];
    }
    return SP_OK;
}

sp_status sp_line_row(const sp_rows *rows, uint32_t row, const sp_filter *filter, sp_line *out,
                      sp_error *error)
{
    sp_row_room room;
    sp_row edges;
    *out = (sp_line){0};
    sp_status status = sp_row_room_open(&room, rows->n_key, error);
    if (status != SP_OK) return status;
    sp_filtered_row(rows, filter, row, &room, &edges);
    status = sort_line(&edges, room.order, out, error);
    out->left_out = (double)left_of(rows->mass(rows->context, row), sum_row(&edges));
    sp_row_room_close(&room);
    return status;
}

sp_status sp_line_col(const sp_rows *rows, uint32_t col, const sp_filter *filter, sp_line *out,
                      sp_error *error)
{
    sp_row_room room = {0}, column = {0};
    sp_row edges = {0};
    uint32_t largest = rows->n_query > rows->n_key ? rows->n_query : rows->n_key;
    *out = (sp_line){0};
    sp_status status = sp_row_room_open(&room, rows->n_key, error);
    if (status == SP_OK) status = sp_row_room_open(&column, largest, error);
    for (uint32_t i = filter->row_begin; i < filter->row_end && status == SP_OK; i++) {
        sp_row row;
        rows->row(rows->context, i, col, col + 1, &room, &row);
        if (row.n == 0) continue;
        column.keys[edges.n] = i;
        column.weights[edges.n++] = row.weights[0];
    }
    if (status == SP_OK) {
        edges.keys = column.keys;
        edges.weights = column.weights;
        double full = sum_row(&edges);
        filter_row(filter, &column, &edges);
        status = sort_line(&edges, column.order, out, error);
        out->left_out = (double)left_of(full, sum_row(&edges));
    }
    sp_row_room_close(&room);
    sp_row_room_close(&column);
    return status;
}
