/* Slices and records as JSON and safetensors (graph_call.h). The wire is server/README.md, "Attention
 * graphs".
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/encode.h"
#include "engine/graph/export.h"
#include "server/graph_call.h"

/* --- records --- */

typedef struct record_field {
    const char *name;
    size_t offset;
    bool ratio;
} record_field;

#define COUNT(field)                                                                                         \
    {                                                                                                        \
#field, offsetof(sp_head_record, field), false                                                       \
    }
#define RATIO(field)                                                                                         \
    {                                                                                                        \
#field, offsetof(sp_head_record, field), true                                                        \
    }
static const record_field fields[] = {
    COUNT(edges_gold),    COUNT(edges_pred), COUNT(edges_both), COUNT(edges_after),   COUNT(pairs_valid),
    COUNT(rows_valid),    COUNT(rows_exact), COUNT(rows_empty), COUNT(max_degree),    RATIO(recall),
    RATIO(precision),     RATIO(f1),         RATIO(sparsity),   RATIO(sparsity_gold), RATIO(mass_recall),
    RATIO(mean_distance), RATIO(entropy),    RATIO(self),       RATIO(previous),      RATIO(sink),
    RATIO(duplicate),     RATIO(induction),
};
enum { N_FIELDS = sizeof fields / sizeof *fields };
const char *const sp_record_names[] = {
    "edges_gold", "edges_pred",    "edges_both",  "edges_after",   "pairs_valid", "rows_valid",
    "rows_exact", "rows_empty",    "max_degree",  "recall",        "precision",   "f1",
    "sparsity",   "sparsity_gold", "mass_recall", "mean_distance", "entropy",     "self",
    "previous",   "sink",          "duplicate",   "induction",     NULL,
};

static double value_of(const sp_head_record *record, const record_field *field)
{
    const char *at = (const char *)record + field->offset;
    double ratio;
    uint64_t count;
    if (field->ratio) {
        memcpy(&ratio, at, sizeof ratio);
        return ratio;
    }
    memcpy(&count, at, sizeof count);
    return (double)count;
}

bool sp_record_value(const sp_head_record *record, const char *name, double *out)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (strcmp(fields[i].name, name) != 0) continue;
        *out = value_of(record, &fields[i]);
        return true;
    }
    return false;
}

void sp_graph_write_record(sp_json_writer *out, const sp_head_record *record)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        sp_json_key(out, fields[i].name);
        sp_json_number(out, value_of(record, &fields[i]));
    }
}

static void write_counts(sp_json_writer *out, const sp_head_record *record)
{
    if (!record) {
        sp_json_null(out);
        return;
    }
    sp_json_open(out, '{');
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (fields[i].ratio) continue;
        sp_json_key(out, fields[i].name);
        sp_json_number(out, value_of(record, &fields[i]));
    }
    sp_json_close(out, '}');
}

/* --- parts --- */

void sp_graph_write_floats(sp_json_writer *out, const float *values, size_t n)
{
    sp_json_open(out, '[');
    for (size_t i = 0; i < n; i++) sp_json_float(out, values[i]);
    sp_json_close(out, ']');
}

static void write_numbers(sp_json_writer *out, const uint32_t *values, size_t n)
{
    sp_json_open(out, '[');
    for (size_t i = 0; i < n; i++) sp_json_uint(out, values[i]);
    sp_json_close(out, ']');
}

void sp_graph_write_base64(sp_json_writer *out, const void *bytes, size_t n)
{
    sp_buffer text;
    sp_buffer_init(&text, out->out->max_bytes);
    sp_buffer_text(&text, "\"");
    sp_encode_base64(bytes, n, &text);
    sp_buffer_text(&text, "\"");
    sp_buffer_pass(&text, out->out);
    if (text.failed)
        sp_json_null(out); /* of what is not sent; a key wants its value */
    else
        sp_json_raw(out, text.data, text.size);
    sp_buffer_fini(&text);
}

static void write_index(sp_json_writer *out, const char *key, uint32_t value)
{
    sp_json_key(out, key);
    if (value == SP_NO_HEAD)
        sp_json_null(out);
    else
        sp_json_uint(out, value);
}

static void write_pair(sp_json_writer *out, const char *key, uint32_t a, uint32_t b)
{
    sp_json_key(out, key);
    sp_json_open(out, '[');
    sp_json_uint(out, a);
    sp_json_uint(out, b);
    sp_json_close(out, ']');
}

/* --- a slice --- */

static void reply_json(sp_graph_call *call, const sp_slice *slice)
{
    sp_json_writer out;
    uint32_t rows = sp_slice_rows(slice), edges = sp_slice_edges(slice);
    char cursor[SP_CURSOR_SIZE];
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "graph");
    sp_json_cstring(&out, slice->name);
    write_index(&out, "layer", slice->layer);
    write_index(&out, "head", slice->head);
    write_index(&out, "kv_head", slice->kv_head);
    write_pair(&out, "rows", slice->row_begin, slice->row_end);
    write_pair(&out, "cols", slice->col_begin, slice->col_end);
    sp_json_key(&out, "indptr");
    write_numbers(&out, slice->indptr, (size_t)rows + 1);
    sp_json_key(&out, "indices");
    write_numbers(&out, slice->indices, edges);
    sp_json_key(&out, "weights");
    sp_graph_write_floats(&out, slice->weights, edges);
    sp_json_key(&out, "left_out");
    sp_graph_write_floats(&out, slice->left_out, rows);
    sp_json_key(&out, "edges_total");
    sp_json_uint(&out, slice->edges_total);
    sp_json_key(&out, "edges_returned");
    sp_json_uint(&out, edges);
    sp_json_key(&out, "truncated");
    sp_json_bool(&out, slice->truncated);
    sp_json_key(&out, "next");
    sp_graph_write_cursor(call, slice->row_end, cursor);
    sp_json_cstring(&out, slice->truncated ? cursor : NULL);
    sp_json_key(&out, "metrics");
    write_counts(&out, slice->metrics);
    sp_json_close(&out, '}');
}

static sp_status reply_safetensors(sp_graph_call *call, const sp_slice *slice, sp_error *error)
{
    char cursor[SP_CURSOR_SIZE];
    sp_graph_write_cursor(call, slice->row_end, cursor);
    sp_graph_binary(call, "application/octet-stream");
    return sp_export_safetensors(slice, call->f32, slice->truncated ? cursor : NULL, &call->reply.body,
                                 error);
}

sp_status sp_graph_reply_slice(sp_graph_call *call, const sp_slice *slice, sp_error *error)
{
    if (call->binary) return reply_safetensors(call, slice, error);
    reply_json(call, slice);
    return SP_OK;
}
