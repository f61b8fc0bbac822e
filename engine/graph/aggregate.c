/* See aggregate.h. */
#include "engine/graph/aggregate.h"

#include <stdlib.h>
#include <string.h>

size_t sp_mix_bytes(uint32_t n_query, uint64_t max_edges)
{
    size_t row = sizeof(sp_mix_row) + 2 * 2 * SP_ALIGNMENT; /* two arrays, rounded up, with what each costs */
    return n_query * row + (size_t)max_edges * (sizeof(uint32_t) + sizeof(float));
}

size_t sp_mix_work_bytes(uint32_t n_key)
{
    size_t room = sizeof(uint32_t) + sizeof(float) + sizeof(uint64_t),
           joined = sizeof(uint32_t) + sizeof(double),
           dense = 2 * sizeof(double) + 1 + sizeof(uint32_t) + sizeof(uint64_t);
    return ((size_t)n_key + 1) * (room + joined + dense);
}

sp_status sp_mix_open(sp_mix *mix, uint32_t n_query, uint32_t n_key, uint64_t max_edges, sp_error *error)
{
    *mix = (sp_mix){.n_query = n_query, .n_key = n_key, .row_end = n_query, .max_edges = max_edges};
    mix->rows = sp_alloc_zero(n_query, sizeof *mix->rows);
    return mix->rows ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for a graph of %u rows", n_query);
}

static void free_row(sp_mix_row *row)
{
    sp_free(row->keys);
    sp_free(row->weights);
}

void sp_mix_close(sp_mix *mix)
{
    for (uint32_t i = 0; mix->rows && i < mix->n_query; i++) free_row(&mix->rows[i]);
    sp_free(mix->rows);
    *mix = (sp_mix){0};
}

/* Replaces a row. What it held is freed. product: of a product, which top_k bounds; else of a sum. */
static sp_status put_row(sp_mix *mix, uint32_t at, const uint32_t *keys, const double *weights, uint32_t n,
                         double mass, bool product, sp_error *error)
{
    sp_mix_row fresh = {.n = n, .mass = mass}, *row = &mix->rows[at];
    if (mix->edges - row->n + n > mix->max_edges)
        return sp_fail_param(error, SP_TOO_LARGE, product ? "top_k" : "heads",
                             "this graph has more than %llu edges; %s", (unsigned long long)mix->max_edges,
                             product ? "set or lower top_k, or choose fewer heads"
                                     : "choose fewer heads, or fewer rows");
    if (n > 0) {
        fresh.keys = sp_alloc(n, sizeof *fresh.keys);
        fresh.weights = sp_alloc(n, sizeof *fresh.weights);
        if (!fresh.keys || !fresh.weights) {
            free_row(&fresh);
            return sp_fail(error, SP_NO_MEMORY, "no memory for %u edges", n);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        fresh.keys[i] = keys[i];
        fresh.weights[i] = (float)weights[i];
    }
    mix->edges += n;
    mix->edges -= row->n;
    free_row(row);
    *row = fresh;
    return SP_OK;
}

sp_status sp_mix_identity(sp_mix *mix, sp_error *error)
{
    const double one = 1;
    sp_status status = SP_OK;
    for (uint32_t i = 0; i < mix->n_query && status == SP_OK; i++)
        status = put_row(mix, i, &i, &one, 1, 1, false, error);
    return status;
}

/* --- sums --- */

/* Two rising lists into one; returns its length. keys, weights: room for both. */
static uint32_t join(const sp_mix_row *held, const sp_row *row, double factor, bool largest, uint32_t *keys,
                     double *weights)
{
    uint32_t a = 0, b = 0, n = 0;
    while (a < held->n || b < row->n) {
        uint32_t x = a < held->n ? held->keys[a] : UINT32_MAX, y = b < row->n ? row->keys[b] : UINT32_MAX;
        double old = x <= y ? (double)held->weights[a] : 0,
               new = y <= x ? factor *(double)row->weights[b] : 0;
        keys[n] = x <= y ? x : y;
        weights[n++] = largest ? (old > new ? old : new) : old + new;
        a += x <= y;
        b += y <= x;
    }
    return n;
}

sp_status sp_mix_add(sp_mix *mix, const sp_rows *rows, double factor, bool largest,
                     bool (*stop)(void *context), void *context, sp_error *error)
{
    sp_row_room room;
    uint32_t *keys = sp_alloc((size_t)mix->n_key + 1, sizeof *keys);
    double *weights = sp_alloc((size_t)mix->n_key + 1, sizeof *weights);
    sp_status status = sp_row_room_open(&room, mix->n_key, error);
    if (status == SP_OK && (!keys || !weights)) status = sp_fail(error, SP_NO_MEMORY, "no memory for a row");
    for (uint32_t i = mix->row_begin; i < mix->row_end && status == SP_OK; i++) {
        sp_row row;
        double mass = mix->rows[i].mass;
        if (i % 256 == 0 && stop && stop(context))
            status = sp_fail(error, SP_CANCELLED, "the request was cancelled");
        rows->row(rows->context, i, 0, mix->n_key, &room, &row);
        uint32_t n = join(&mix->rows[i], &row, factor, largest, keys, weights);
        if (!largest) mass += factor * rows->mass(rows->context, i);
        for (uint32_t e = 0; e < n && largest; e++) mass = e > 0 ? mass + weights[e] : weights[e];
        if (status == SP_OK) status = put_row(mix, i, keys, weights, n, mass, false, error);
    }
    sp_row_room_close(&room);
    sp_free(keys);
    sp_free(weights);
    return status;
}

/* --- products --- */

/* A dense row that is filled here and there. */
typedef struct dense_row {
    double *values; /* (n_key), 0 where not touched */
    uint8_t *seen;  /* (n_key) */
    uint32_t *keys; /* (n_key) those touched, then those kept */
    double *kept;   /* (n_key) */
    uint64_t *order;
    uint32_t n;
} dense_row;

static void close_dense(dense_row *row)
{
    sp_free(row->values);
    sp_free(row->seen);
    sp_free(row->keys);
    sp_free(row->kept);
    sp_free(row->order);
}

static sp_status open_dense(dense_row *row, uint32_t n, sp_error *error)
{
    *row = (dense_row){.values = sp_alloc_zero(n, sizeof(double)),
                       .seen = sp_alloc_zero(n, 1),
                       .keys = sp_alloc(n, sizeof(uint32_t)),
                       .kept = sp_alloc(n, sizeof(double)),
                       .order = sp_alloc(n, sizeof(uint64_t))};
    if (row->values && row->seen && row->keys && row->kept && row->order) return SP_OK;
    close_dense(row);
    return sp_fail(error, SP_NO_MEMORY, "no memory for a row of %u keys", n);
}

static int rising(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The k largest of the touched keys, ties to the lower key, rising; all for 0. */
static void keep_best(dense_row *row, uint32_t k)
{
    if (k > 0 && k < row->n) {
        for (uint32_t i = 0; i < row->n; i++) {
            float weight = (float)row->values[row->keys[i]];
            uint32_t bits;
            memcpy(&bits, &weight, sizeof bits);
            row->order[i] = (uint64_t)bits << 32 | (UINT32_MAX - row->keys[i]);
        }
        qsort(row->order, row->n, sizeof *row->order, descending);
        for (uint32_t i = 0; i < row->n; i++) {
            uint32_t key = UINT32_MAX - (uint32_t)row->order[i];
            if (i < k)
                row->keys[i] = key;
            else
                row->values[key] = 0, row->seen[key] = 0;
        }
        row->n = k;
    }
    qsort(row->keys, row->n, sizeof *row->keys, rising);
    for (uint32_t i = 0; i < row->n; i++) {
        uint32_t key = row->keys[i];
        row->kept[i] = row->values[key];
        row->values[key] = 0;
        row->seen[key] = 0;
    }
}

/* Row i of left * right into the dense row; returns its mass. */
static double multiply_row(const sp_mix *left, const sp_mix *right, uint32_t i, dense_row *out)
{
    const sp_mix_row *from = &left->rows[i];
    double mass = 0;
    out->n = 0;
    for (uint32_t a = 0; a < from->n; a++) {
        const sp_mix_row *row = &right->rows[from->keys[a]];
        double weight = (double)from->weights[a];
        mass += weight * row->mass;
        for (uint32_t b = 0; b < row->n; b++) {
            uint32_t key = row->keys[b];
            if (!out->seen[key]) out->keys[out->n++] = key;
            out->seen[key] = 1;
            out->values[key] += weight * (double)row->weights[b];
        }
    }
    return mass;
}

sp_status sp_mix_multiply(const sp_mix *left, const sp_mix *right, uint32_t top_k, sp_mix *out,
                          bool (*stop)(void *context), void *context, sp_error *error)
{
    dense_row row;
    sp_status status = open_dense(&row, right->n_key, error);
    if (status != SP_OK) return status;
    for (uint32_t i = out->row_begin; i < out->row_end && status == SP_OK; i++) {
        if (i % 64 == 0 && stop && stop(context)) {
            status = sp_fail(error, SP_CANCELLED, "the request was cancelled");
            break;
        }
        double mass = multiply_row(left, right, i, &row);
        keep_best(&row, top_k);
        status = put_row(out, i, row.keys, row.kept, row.n, mass, true, error);
    }
    close_dense(&row);
    return status;
}

/* --- reading --- */

static void mix_row(const void *context, uint32_t at, uint32_t begin, uint32_t end, sp_row_room *room,
                    sp_row *out)
{
    const sp_mix *mix = context;
    const sp_mix_row *row = &mix->rows[at];
    uint32_t low = 0, high = row->n;
    (void)room;
    while (low < high && row->keys[low] < begin) low++;
    while (high > low && row->keys[high - 1] >= end) high--;
    *out = (sp_row){0};
    if (low < high) *out = (sp_row){.keys = row->keys + low, .weights = row->weights + low, .n = high - low};
}

static double mix_mass(const void *context, uint32_t at)
{
    const sp_mix *mix = context;
    return mix->rows[at].mass;
}

sp_rows sp_mix_rows(const sp_mix *mix)
{
    return (sp_rows){
        .row = mix_row, .mass = mix_mass, .context = mix, .n_query = mix->n_query, .n_key = mix->n_key};
}

sp_status sp_rows_compare(const sp_rows *a, const sp_rows *b, sp_difference *out, sp_error *error)
{
    sp_row_room room_a = {0}, room_b = {0};
    sp_status status = sp_row_room_open(&room_a, a->n_key, error);
    if (status == SP_OK) status = sp_row_room_open(&room_b, b->n_key, error);
    *out = (sp_difference){0};
    for (uint32_t i = 0; i < a->n_query && status == SP_OK; i++) {
        sp_row x, y;
        uint32_t at = 0;
        a->row(a->context, i, 0, a->n_key, &room_a, &x);
        b->row(b->context, i, 0, b->n_key, &room_b, &y);
        out->edges_a += x.n;
        out->edges_b += y.n;
        for (uint32_t e = 0; e < x.n; e++) {
            while (at < y.n && y.keys[at] < x.keys[e]) at++;
            out->both += at < y.n && y.keys[at] == x.keys[e];
        }
    }
    sp_row_room_close(&room_a);
    sp_row_room_close(&room_b);
    return status;
}

sp_status sp_rows_label(const sp_rows *rows, const uint32_t *labels, uint32_t n_labels, uint64_t *counts,
                        double *mass, sp_error *error)
{
    sp_row_room room;
    sp_status status = sp_row_room_open(&room, rows->n_key, error);
    for (uint32_t i = 0; i < rows->n_query && status == SP_OK; i++) {
        sp_row row;
        rows->row(rows->context, i, 0, rows->n_key, &room, &row);
        for (uint32_t e = 0; e < row.n; e++) {
            size_t at = (size_t)labels[i] * n_labels + labels[row.keys[e]];
            counts[at]++;
            mass[at] += (double)row.weights[e];
        }
    }
    sp_row_room_close(&room);
    return status;
}
