/* Edges as tables: csv, npz, safetensors. See export.h. */
#include "engine/graph/export.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/encode.h"
#include "kernels/json.h"
#include "models/weights.h"

sp_status sp_export_csv(const sp_slice *slice, sp_buffer *out, sp_error *error)
{
    sp_buffer_text(out, "query,key,weight\n");
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++) {
        for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++) {
            sp_json_writer number;
            sp_buffer_format(out, "%u,%u,", slice->row_begin + i, slice->indices[e]);
            sp_json_writer_init(&number, out);
            sp_json_float(&number, slice->weights[e]);
            sp_buffer_text(out, "\n");
        }
    }
    return sp_export_check(out, error);
}

/* --- npz: a zip of npy files; the format is numpy's NEP 1, version 1.0 --- */

/* The header of an array, padded so that the values begin at a multiple of 64 of the file. */
static void begin_npy(sp_zip *zip, const char *name, const char *type, const char *shape)
{
    char header[160];
    int n = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type,
                     shape);
    size_t size = ((size_t)n + 10 + 1 + 63) / 64 * 64 - 10;
    sp_zip_begin(zip, name);
    sp_buffer_append(zip->out, "\x93NUMPY\x01\x00", 8);
    sp_encode_u16((uint16_t)size, zip->out);
    sp_buffer_append(zip->out, header, (size_t)n);
    for (size_t i = (size_t)n + 1; i < size; i++) sp_buffer_append(zip->out, " ", 1);
    sp_buffer_append(zip->out, "\n", 1);
}

static void begin_vector(sp_zip *zip, const char *name, const char *type, uint64_t count)
{
    char shape[32];
    snprintf(shape, sizeof shape, "%" PRIu64 ",", count);
    begin_npy(zip, name, type, shape);
}

static void put_indptr(const sp_slice *slice, sp_buffer *out)
{
    for (uint32_t i = 0; i <= slice->n_query; i++) {
        uint32_t row = i < slice->row_begin ? slice->row_begin : i > slice->row_end ? slice->row_end : i;
        sp_encode_u32(slice->indptr[row - slice->row_begin], out);
    }
}

sp_status sp_export_npz(const sp_slice *slice, sp_buffer *out, sp_error *error)
{
    sp_zip zip;
    uint32_t edges = sp_slice_edges(slice);
    if (edges > INT32_MAX) return sp_fail(error, SP_TOO_LARGE, "npz holds at most %d edges", INT32_MAX);
    sp_zip_init(&zip, out);
    begin_vector(&zip, "indices.npy", "<i4", edges);
    for (uint32_t e = 0; e < edges; e++) sp_encode_u32(slice->indices[e], out);
    sp_zip_end(&zip);
    begin_vector(&zip, "indptr.npy", "<i4", (uint64_t)slice->n_query + 1);
    put_indptr(slice, out);
    sp_zip_end(&zip);
    begin_npy(&zip, "format.npy", "|S3", "");
    sp_buffer_text(out, "csr");
    sp_zip_end(&zip);
    begin_vector(&zip, "shape.npy", "<i8", 2);
    sp_encode_u32(slice->n_query, out);
    sp_encode_u32(0, out);
    sp_encode_u32(slice->n_key, out);
    sp_encode_u32(0, out);
    sp_zip_end(&zip);
    begin_vector(&zip, "data.npy", "<f4", edges);
    for (uint32_t e = 0; e < edges; e++) {
        uint32_t bits;
        memcpy(&bits, &slice->weights[e], sizeof bits);
        sp_encode_u32(bits, out);
    }
    sp_zip_end(&zip);
    sp_status status = sp_export_check(out, error);
    return status ? status : sp_zip_finish(&zip, error);
}

/* --- safetensors --- */

#define MAX_METADATA 32

typedef struct metadata {
    sp_metadata_entry entries[MAX_METADATA];
    size_t n;
    sp_arena arena;
    bool lost; /* no memory for a value */
} metadata;

static void put_text(metadata *m, const char *key, const char *value)
{
    if (!value || !*value) return;
    m->entries[m->n++] = (sp_metadata_entry){key, value, strlen(value)};
}

/* A value made here: kept in the arena. */
static void put_made(metadata *m, const char *key, const char *text, int n)
{
    const char *kept = sp_arena_copy(&m->arena, text, (size_t)n);
    m->lost = m->lost || !kept;
    put_text(m, key, kept);
}

static void put_range(metadata *m, const char *key, uint32_t begin, uint32_t end)
{
    char text[40];
    int n = snprintf(text, sizeof text, "%u:%u", begin, end);
    put_made(m, key, text, n);
}

static void put_number(metadata *m, const char *key, uint64_t value)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu64, value);
    put_made(m, key, text, n);
}

static void describe(const sp_slice *slice, bool f32, const char *next, metadata *m)
{
    const sp_graph_source *source = slice->source;
    put_text(m, "graph", slice->name);
    if (slice->layer != SP_NO_HEAD) put_number(m, "layer", slice->layer);
    if (slice->head != SP_NO_HEAD) put_number(m, "head", slice->head);
    if (slice->head != SP_NO_HEAD) put_number(m, "kv_head", slice->kv_head);
    put_number(m, "n", slice->n_query);
    put_number(m, "m", slice->n_key);
    put_text(m, "causal", slice->causal ? "true" : "false");
    put_range(m, "rows", slice->row_begin, slice->row_end);
    put_range(m, "cols", slice->col_begin, slice->col_end);
    put_number(m, "edges_total", slice->edges_total);
    put_number(m, "edges_returned", sp_slice_edges(slice));
    put_text(m, "weights", f32 ? "f32" : "u16");
    put_text(m, "truncated", slice->truncated ? "true" : "false");
    put_text(m, "next", next);
    put_text(m, "model", source->model);
    put_text(m, "model_hash", source->hash);
    put_text(m, "backend", source->backend);
    put_text(m, "params", source->params);
    if (*source->decode_backend) {
        put_text(m, "decode_backend", source->decode_backend);
        put_text(m, "decode_params", source->decode_params);
    }
    if (source->sees_later) put_text(m, "selection_sees_later_tokens", "true");
    put_text(m, "normalizer", source->normalizer);
    put_text(m, "gold", source->gold);
    put_text(m, "heads", source->heads);
    put_text(m, "dtype", source->dtype);
    put_text(m, "capture", source->capture);
    put_text(m, "software", source->software);
}

static sp_tensor_entry vector_of(const char *name, sp_dtype dtype, void *data, size_t count, size_t item)
{
    sp_tensor tensor = {.dtype = dtype, .rank = 1, .shape = {count}, .data = data, .bytes = count * item};
    return (sp_tensor_entry){name, tensor};
}

/* narrow_indices, narrow_weights: (edges) filled here, or NULL where the slice's own arrays are written. */
static sp_status write_tensors(const sp_slice *slice, const char *next, uint16_t *narrow_indices,
                               uint16_t *narrow_weights, sp_buffer *out, sp_error *error)
{
    size_t edges = sp_slice_edges(slice), rows = sp_slice_rows(slice);
    for (size_t e = 0; e < edges && narrow_indices; e++) narrow_indices[e] = (uint16_t)slice->indices[e];
    for (size_t e = 0; e < edges && narrow_weights; e++)
        narrow_weights[e] = sp_weight_to_u16(slice->weights[e]);
    sp_tensor_entry tensors[] = {
        vector_of("indptr", SP_U32, slice->indptr, rows + 1, 4),
        narrow_indices ? vector_of("indices", SP_U16, narrow_indices, edges, 2)
                       : vector_of("indices", SP_U32, slice->indices, edges, 4),
        narrow_weights ? vector_of("weights", SP_U16, narrow_weights, edges, 2)
                       : vector_of("weights", SP_F32, slice->weights, edges, 4),
        vector_of("left_out", SP_F32, slice->left_out, rows, 4),
    };
    metadata m = {.n = 0};
    sp_arena_init(&m.arena, 4096);
    describe(slice, !narrow_weights, next, &m);
    sp_status status =
        m.lost ? sp_fail(error, SP_NO_MEMORY, "no memory for the metadata")
               : sp_safetensors_write(tensors, slice->left_out ? 4 : 3, m.entries, m.n, out, error);
    sp_arena_fini(&m.arena);
    return status;
}

sp_status sp_export_safetensors(const sp_slice *slice, bool f32, const char *next, sp_buffer *out,
                                sp_error *error)
{
    size_t edges = sp_slice_edges(slice);
    bool narrow = slice->n_key <= 65536;
    uint16_t *indices = narrow ? sp_alloc(edges + 1, sizeof *indices) : NULL;
    uint16_t *weights = f32 ? NULL : sp_alloc(edges + 1, sizeof *weights);
    sp_status status = (narrow && !indices) || (!f32 && !weights)
                           ? sp_fail(error, SP_NO_MEMORY, "no memory for %zu edges", edges)
                           : write_tensors(slice, next, indices, weights, out, error);
    sp_free(indices);
    sp_free(weights);
    return status;
}
