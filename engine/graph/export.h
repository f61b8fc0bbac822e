/* Attention graphs as files: tables (csv, npz, safetensors), graphs (graphml, dot), what other viewers take
 * (bertviz, circuitsvis, exbert), and one page to send to a colleague (html). Pictures are in picture.h.
 *
 * Pure functions from slices to a growing buffer; any thread may call them. All formats of one slice hold the
 * same edges. Text forms write ill-formed UTF-8 as U+FFFD, and what XML forbids too. Tests:
 * tests/unit/engine/test_graph_export.c, tests/golden/test_graph.py */
#ifndef SPARSED_ENGINE_GRAPH_EXPORT_H
#define SPARSED_ENGINE_GRAPH_EXPORT_H

#include "engine/graph/picture.h"

typedef enum sp_export {
    SP_EXPORT_CSV,
    SP_EXPORT_NPZ,
    SP_EXPORT_SAFETENSORS,
    SP_EXPORT_GRAPHML,
    SP_EXPORT_DOT,
    SP_EXPORT_HTML,
    SP_EXPORT_SVG, /* the matrix of picture.h */
    SP_EXPORT_PNG,
    SP_EXPORT_BERTVIZ, /* from here on dense */
    SP_EXPORT_CIRCUITSVIS,
    SP_EXPORT_EXBERT,
    SP_N_EXPORTS
} sp_export;
/* "csv", "npz", ... */
const char *sp_export_name(sp_export format);
bool sp_export_find(const char *name, sp_export *out) SP_MUST_CHECK;
/* "text/csv; charset=utf-8", ... */
const char *sp_export_type(sp_export format);
static inline bool sp_export_is_dense(sp_export format)
{
    return format >= SP_EXPORT_BERTVIZ;
}

/* Whether all that was written fits into the buffer: SP_TOO_LARGE (param "rows"), SP_NO_MEMORY. */
sp_status sp_export_check(const sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* One slice in any format that is not dense. picture may be NULL (sp_picture_defaults; its kind is set
 * here). safetensors has U16 weights. */
sp_status sp_export_slice(sp_export format, const sp_slice *slice, const sp_picture_options *picture,
                          sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* csv: header query,key,weight. */
sp_status sp_export_csv(const sp_slice *slice, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
/* npz: scipy.sparse.load_npz reads a csr_matrix of the full shape (n_query, n_key); rows and columns that the
 * slice leaves out are empty. */
sp_status sp_export_npz(const sp_slice *slice, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
/* safetensors: indptr U32 (rows + 1), indices U16 when n_key <= 65,536 else U32, weights U16 (fixed point,
 * slice.h) or F32, left_out F32 (rows); widest items first, each aligned to its item size; provenance in
 * __metadata__. next: cursor of the following page, or NULL. */
sp_status sp_export_safetensors(const sp_slice *slice, bool f32, const char *next, sp_buffer *out,
                                sp_error *error) SP_MUST_CHECK;
/* graphml and dot: nodes n{position} with token, edges query -> key with weight. */
sp_status sp_export_graphml(const sp_slice *slice, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_export_dot(const sp_slice *slice, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
/* html: one page that needs no network, with picture, text of every token and a table of edges. */
sp_status sp_export_html(const sp_slice *slice, const sp_picture_options *picture, sp_buffer *out,
                         sp_error *error) SP_MUST_CHECK;

/* A dense format of several heads; slices (n_layers, n_heads) over the same ranges, layer by layer. Call
 * sp_export_dense_check before making them: SP_TOO_LARGE above max_values = layers x heads x rows x columns,
 * naming the edges route; SP_INVALID: circuitsvis needs rows = cols, exbert one layer. */
sp_status sp_export_dense_check(sp_export format, uint32_t n_layers, uint32_t n_heads, const uint32_t rows[2],
                                const uint32_t cols[2], uint64_t max_values, sp_error *error) SP_MUST_CHECK;
sp_status sp_export_dense(sp_export format, const sp_slice *slices, uint32_t n_layers, uint32_t n_heads,
                          sp_buffer *out, sp_error *error) SP_MUST_CHECK;

#endif
