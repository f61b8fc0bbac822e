/* Slices and records as JSON and safetensors (graph_call.h). The wire is server/README.md, "Attention
 * graphs".
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/weights.h"
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
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *from = bytes;
    size_t size = (n + 2) / 3 * 4, at = 0;
    char *text = sp_alloc(size + 1, 1);
    if (!text) {
        out->out->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = (uint32_t)from[i] << 16 | (i + 1 < n ? (uint32_t)from[i + 1] << 8 : 0) |
                        (i + 2 < n ? (uint32_t)from[i + 2] : 0);
        for (int d = 0; d < 4; d++) text[at++] = digits[word >> (18 - 6 * d) & 63];
    }
    if (n % 3 > 0) text[size - 1] = '=';
    if (n % 3 == 1) text[size - 2] = '=';
    sp_json_string(out, text, size);
    sp_free(text);
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

static void next_cursor(const sp_graph_call *call, const sp_slice *slice, char *cursor, size_t size)
{
    (void)snprintf(cursor, size, "%08x%016llx", slice->row_end, (unsigned long long)call->hash);
}

/* --- a slice --- */

static void reply_json(sp_graph_call *call, const sp_slice *slice)
{
    sp_json_writer out;
    uint32_t rows = sp_slice_rows(slice), edges = sp_slice_edges(slice);
    char cursor[32];
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
    next_cursor(call, slice, cursor, sizeof cursor);
    sp_json_cstring(&out, slice->truncated ? cursor : NULL);
    sp_json_key(&out, "metrics");
    write_counts(&out, slice->metrics);
    sp_json_close(&out, '}');
}

/* Metadata of a binary slice: texts, in room. */
typedef struct slice_texts {
    sp_metadata_entry entries[20];
    char room[20][32];
    size_t n;
} slice_texts;

static void add_text(slice_texts *texts, const char *key, const char *value)
{
    texts->entries[texts->n++] = (sp_metadata_entry){.key = key, .value = value, .size = strlen(value)};
}

static void add_number(slice_texts *texts, const char *key, unsigned long long value)
{
    char *room = texts->room[texts->n];
    (void)snprintf(room, sizeof texts->room[0], "%llu", value);
    add_text(texts, key, room);
}

static void add_range(slice_texts *texts, const char *key, uint32_t a, uint32_t b)
{
    char *room = texts->room[texts->n];
    (void)snprintf(room, sizeof texts->room[0], "%u:%u", a, b);
    add_text(texts, key, room);
}

static void fill_texts(const sp_graph_call *call, const sp_slice *slice, slice_texts *texts)
{
    const sp_graph_source *source = slice->source;
    texts->n = 0;
    add_text(texts, "graph", slice->name);
    if (slice->layer != SP_NO_HEAD) add_number(texts, "layer", slice->layer);
    if (slice->head != SP_NO_HEAD) add_number(texts, "head", slice->head);
    if (slice->kv_head != SP_NO_HEAD) add_number(texts, "kv_head", slice->kv_head);
    add_number(texts, "n", slice->n_query);
    add_number(texts, "m", slice->n_key);
    add_range(texts, "rows", slice->row_begin, slice->row_end);
    add_range(texts, "cols", slice->col_begin, slice->col_end);
    add_text(texts, "normalizer", source->normalizer);
    add_text(texts, "gold", source->gold);
    add_text(texts, "backend", source->backend);
    add_text(texts, "params", source->params);
    add_text(texts, "model", source->model);
    add_text(texts, "weights", call->f32 ? "f32" : "u16");
    add_number(texts, "edges_total", slice->edges_total);
    add_text(texts, "truncated", slice->truncated ? "true" : "false");
    next_cursor(call, slice, texts->room[texts->n], sizeof texts->room[0]);
    if (slice->truncated) add_text(texts, "next", texts->room[texts->n]);
    add_text(texts, "software", source->software);
}

/* The indices in 16 bits where they fit, the weights in fixed point where asked; NULL: no memory. */
static uint16_t *narrow_indices(const sp_slice *slice, size_t n)
{
    uint16_t *out = sp_alloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++) out[i] = (uint16_t)slice->indices[i];
    return out;
}

static uint16_t *narrow_weights(const sp_slice *slice, size_t n)
{
    uint16_t *out = sp_alloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++) out[i] = sp_weight_to_u16(slice->weights[i]);
    return out;
}

static sp_tensor_entry entry(const char *name, sp_dtype dtype, const void *data, size_t n)
{
    sp_tensor tensor = {
        .dtype = dtype, .rank = 1, .shape = {n}, .data = data, .bytes = n * sp_dtype_size(dtype)};
    return (sp_tensor_entry){.name = name, .tensor = tensor};
}

static sp_status reply_safetensors(sp_graph_call *call, const sp_slice *slice, sp_error *error)
{
    size_t rows = sp_slice_rows(slice), edges = sp_slice_edges(slice);
    bool small = slice->n_key <= 65536;
    uint16_t *indices = small ? narrow_indices(slice, edges) : NULL;
    uint16_t *weights = call->f32 ? NULL : narrow_weights(slice, edges);
    sp_status status = (small && !indices) || (!call->f32 && !weights)
                           ? sp_fail(error, SP_NO_MEMORY, "no memory for %zu edges", edges)
                           : SP_OK;
    if (status == SP_OK) {
        slice_texts texts;
        const sp_tensor_entry tensors[] = {entry("indptr", SP_U32, slice->indptr, rows + 1),
                                           entry("left_out", SP_F32, slice->left_out, rows),
                                           small ? entry("indices", SP_U16, indices, edges)
                                                 : entry("indices", SP_U32, slice->indices, edges),
                                           call->f32 ? entry("weights", SP_F32, slice->weights, edges)
                                                     : entry("weights", SP_U16, weights, edges)};
        fill_texts(call, slice, &texts);
        sp_graph_binary(call, "application/octet-stream");
        status = sp_safetensors_write(tensors, 4, texts.entries, texts.n, &call->reply.body, error);
    }
    sp_free(indices);
    sp_free(weights);
    return status;
}

sp_status sp_graph_reply_slice(sp_graph_call *call, const sp_slice *slice, sp_error *error)
{
    if (call->binary) return reply_safetensors(call, slice, error);
    reply_json(call, slice);
    return SP_OK;
}
