/* Dense matrices for other viewers: BertViz's head view, CircuitsVis' AttentionHeads, exBERT. See export.h.
 *
 * Rows are queries and columns keys in all three. What the viewers take was read in their sources: BertViz
 * attn [L][H][n][m], CircuitsVis attention [H][dest][src] with tokens of both axes, exBERT att [H][n][n] with
 * five digits. */
#include "engine/graph/export.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/json.h"

sp_status sp_export_dense_check(sp_export format, uint32_t n_layers, uint32_t n_heads, const uint32_t rows[2],
                                const uint32_t cols[2], uint64_t max_values, sp_error *error)
{
    double values = (double)n_layers * n_heads * (rows[1] - rows[0]) * (cols[1] - cols[0]);
    if (format == SP_EXPORT_EXBERT && n_layers != 1)
        return sp_fail_param(error, SP_INVALID, "layers",
                             "exbert shows one layer at a time: give layer or one of layers");
    if (format != SP_EXPORT_BERTVIZ && (rows[0] != cols[0] || rows[1] != cols[1]))
        return sp_fail_param(error, SP_INVALID, "cols", "%s is square: cols must be rows",
                             sp_export_name(format));
    if (values > (double)max_values)
        return sp_fail_param(
            error, SP_TOO_LARGE, "format",
            "%s is dense: %.0f values, the limit is %" PRIu64
            "; ask for fewer layers, heads, rows or cols, or for .../heads/{layer}/{head}/edges, "
            "which is sparse",
            sp_export_name(format), values, max_values);
    return SP_OK;
}

static void put_rounded(sp_json_writer *out, float weight)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%.5f", (double)weight);
    while (text[n - 1] == '0') n--;
    if (text[n - 1] == '.') n--;
    sp_json_raw(out, text, (size_t)n);
}

/* [rows][columns] of one head. */
static void put_matrix(const sp_slice *slice, bool rounded, sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++) {
        uint32_t e = slice->indptr[i], end = slice->indptr[i + 1];
        sp_json_open(out, '[');
        for (uint32_t j = slice->col_begin; j < slice->col_end; j++) {
            if (e == end || slice->indices[e] != j)
                sp_json_raw(out, "0", 1);
            else if (rounded)
                put_rounded(out, slice->weights[e++]);
            else
                sp_json_float(out, slice->weights[e++]);
        }
        sp_json_close(out, ']');
    }
    sp_json_close(out, ']');
}

static void put_tokens(const sp_slice *slice, uint32_t begin, uint32_t end, sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (uint32_t i = begin; i < end; i++)
        sp_json_string(out, slice->tokens[i].bytes, slice->tokens[i].n_bytes);
    sp_json_close(out, ']');
}

static void put_bertviz(const sp_slice *slices, uint32_t n_layers, uint32_t n_heads, sp_json_writer *out)
{
    sp_json_key(out, "attention");
    sp_json_open(out, '[');
    sp_json_open(out, '{');
    sp_json_key(out, "name");
    sp_json_null(out);
    sp_json_key(out, "attn");
    sp_json_open(out, '[');
    for (uint32_t l = 0; l < n_layers; l++) {
        sp_json_open(out, '[');
        for (uint32_t h = 0; h < n_heads; h++) put_matrix(&slices[(size_t)l * n_heads + h], false, out);
        sp_json_close(out, ']');
    }
    sp_json_close(out, ']');
    sp_json_key(out, "left_text");
    put_tokens(slices, slices->row_begin, slices->row_end, out);
    sp_json_key(out, "right_text");
    put_tokens(slices, slices->col_begin, slices->col_end, out);
    sp_json_close(out, '}');
    sp_json_close(out, ']');
    sp_json_key(out, "default_filter");
    sp_json_cstring(out, "0");
    sp_json_key(out, "root_div_id");
    sp_json_cstring(out, "bertviz");
    sp_json_key(out, "layer");
    sp_json_null(out);
    sp_json_key(out, "heads");
    sp_json_null(out);
    sp_json_key(out, "include_layers");
    sp_json_open(out, '[');
    for (uint32_t l = 0; l < n_layers; l++) sp_json_uint(out, slices[(size_t)l * n_heads].layer);
    sp_json_close(out, ']');
}

static void put_circuitsvis(const sp_slice *slices, uint32_t n_slices, sp_json_writer *out)
{
    char name[40];
    sp_json_key(out, "attention");
    sp_json_open(out, '[');
    for (uint32_t i = 0; i < n_slices; i++) put_matrix(&slices[i], false, out);
    sp_json_close(out, ']');
    sp_json_key(out, "tokens");
    put_tokens(slices, slices->row_begin, slices->row_end, out);
    sp_json_key(out, "attentionHeadNames");
    sp_json_open(out, '[');
    for (uint32_t i = 0; i < n_slices; i++) {
        snprintf(name, sizeof name, "L%uH%u", slices[i].layer, slices[i].head);
        sp_json_cstring(out, name);
    }
    sp_json_close(out, ']');
    sp_json_key(out, "maxValue");
    sp_json_int(out, 1);
    sp_json_key(out, "minValue");
    sp_json_int(out, 0);
    sp_json_key(out, "maskUpperTri");
    sp_json_bool(out, slices->causal);
}

/* Fields that need a tagger or a corpus are there and empty. */
static void put_exbert_token(const sp_graph_token *token, sp_json_writer *out)
{
    static const char *const texts[] = {"bpe_pos", "bpe_dep"};
    static const char *const lists[] = {"embeddings", "contexts", "topk_words", "topk_probs"};
    sp_json_open(out, '{');
    sp_json_key(out, "text");
    sp_json_string(out, token->bytes, token->n_bytes);
    sp_json_key(out, "bpe_token");
    sp_json_string(out, token->bytes, token->n_bytes);
    for (int i = 0; i < 2; i++) {
        sp_json_key(out, texts[i]);
        sp_json_cstring(out, "");
    }
    sp_json_key(out, "bpe_is_ent");
    sp_json_bool(out, false);
    for (int i = 0; i < 4; i++) {
        sp_json_key(out, lists[i]);
        sp_json_open(out, '[');
        sp_json_close(out, ']');
    }
    sp_json_close(out, '}');
}

static void put_exbert(const sp_slice *slices, uint32_t n_heads, sp_json_writer *out)
{
    static const char *const sides[] = {"left", "right"};
    sp_json_key(out, "status");
    sp_json_int(out, 200);
    sp_json_key(out, "payload");
    sp_json_open(out, '{');
    sp_json_key(out, "aa");
    sp_json_open(out, '{');
    sp_json_key(out, "att");
    sp_json_open(out, '[');
    for (uint32_t h = 0; h < n_heads; h++) put_matrix(&slices[h], true, out);
    sp_json_close(out, ']');
    for (int side = 0; side < 2; side++) {
        sp_json_key(out, sides[side]);
        sp_json_open(out, '[');
        for (uint32_t i = slices->row_begin; i < slices->row_end; i++)
            put_exbert_token(&slices->tokens[i], out);
        sp_json_close(out, ']');
    }
    sp_json_close(out, '}');
    sp_json_close(out, '}');
}

sp_status sp_export_dense(sp_export format, const sp_slice *slices, uint32_t n_layers, uint32_t n_heads,
                          sp_buffer *out, sp_error *error)
{
    sp_json_writer json;
    sp_json_writer_init(&json, out);
    sp_json_open(&json, '{');
    assert(sp_export_is_dense(format) && n_layers > 0 && n_heads > 0);
    if (format == SP_EXPORT_BERTVIZ)
        put_bertviz(slices, n_layers, n_heads, &json);
    else if (format == SP_EXPORT_CIRCUITSVIS)
        put_circuitsvis(slices, n_layers * n_heads, &json);
    else
        put_exbert(slices, n_heads, &json);
    sp_json_close(&json, '}');
    sp_buffer_text(out, "\n");
    return sp_export_check(out, error);
}
