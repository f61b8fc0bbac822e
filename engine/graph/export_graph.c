/* Edges as graphs: GraphML for networkx, Gephi and igraph, DOT for Graphviz. Nodes are the positions of the
 * slice's rows and columns. See export.h. */
#include "engine/graph/export.h"

#include "kernels/json.h"

static bool is_node(const sp_slice *slice, uint32_t position)
{
    return (position >= slice->row_begin && position < slice->row_end) ||
           (position >= slice->col_begin && position < slice->col_end);
}

static uint32_t node_end(const sp_slice *slice)
{
    return slice->row_end > slice->col_end ? slice->row_end : slice->col_end;
}

static void put_weight(float weight, sp_buffer *out)
{
    sp_json_writer number;
    sp_json_writer_init(&number, out);
    sp_json_float(&number, weight);
}

/* Appends the title and provenance, one line. */
static void put_caption(const sp_slice *slice, sp_buffer *out)
{
    sp_caption_title(slice->source, slice, out);
    sp_buffer_text(out, ". ");
    sp_caption_provenance(slice->source, out);
}

static void put_xml_node(const sp_slice *slice, uint32_t position, sp_buffer *out)
{
    const sp_graph_token *token = &slice->tokens[position];
    sp_buffer_format(out, "<node id=\"n%u\"><data key=\"token\">", position);
    sp_text_xml(token->bytes, token->n_bytes, out);
    sp_buffer_format(out, "</data><data key=\"position\">%u</data><data key=\"token_id\">%d</data></node>\n",
                     position, token->id);
}

sp_status sp_export_graphml(const sp_slice *slice, sp_buffer *out, sp_error *error)
{
    sp_buffer caption;
    sp_buffer_init(&caption, (size_t)1 << 16);
    put_caption(slice, &caption);
    sp_buffer_text(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                        "<graphml xmlns=\"http://graphml.graphdrawing.org/xmlns\">\n"
                        "<key id=\"token\" for=\"node\" attr.name=\"token\" attr.type=\"string\"/>\n"
                        "<key id=\"position\" for=\"node\" attr.name=\"position\" attr.type=\"int\"/>\n"
                        "<key id=\"token_id\" for=\"node\" attr.name=\"token_id\" attr.type=\"int\"/>\n"
                        "<key id=\"weight\" for=\"edge\" attr.name=\"weight\" attr.type=\"double\"/>\n"
                        "<key id=\"source\" for=\"graph\" attr.name=\"source\" attr.type=\"string\"/>\n"
                        "<graph edgedefault=\"directed\">\n<data key=\"source\">");
    sp_text_xml(caption.data, caption.size, out);
    sp_buffer_text(out, "</data>\n");
    sp_buffer_pass(&caption, out);
    sp_buffer_fini(&caption);
    for (uint32_t i = 0; i < node_end(slice); i++)
        if (is_node(slice, i)) put_xml_node(slice, i, out);
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++) {
        for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++) {
            sp_buffer_format(out, "<edge source=\"n%u\" target=\"n%u\"><data key=\"weight\">",
                             slice->row_begin + i, slice->indices[e]);
            put_weight(slice->weights[e], out);
            sp_buffer_text(out, "</data></edge>\n");
        }
    }
    sp_buffer_text(out, "</graph>\n</graphml>\n");
    return sp_export_check(out, error);
}

/* The inside of a quoted DOT string: quotes and backslashes escaped, line ends as \n, other controls and
 * ill-formed bytes as U+FFFD. */
static void put_dot_text(const char *text, size_t n, sp_buffer *out)
{
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t code = sp_text_next(text + i, n - i, &used);
        if (code == '"' || code == '\\')
            sp_buffer_format(out, "\\%c", (char)code);
        else if (code == '\n')
            sp_buffer_text(out, "\\n");
        else if (code < 0x20 || (code >= 0x7f && code < 0xa0) || (code == 0xfffd && used == 1))
            sp_buffer_text(out, "\xef\xbf\xbd");
        else
            sp_buffer_append(out, text + i, used);
    }
}

static void put_dot_node(const sp_slice *slice, uint32_t position, sp_buffer *out)
{
    const sp_graph_token *token = &slice->tokens[position];
    sp_buffer_format(out, "  n%u [token=\"", position);
    put_dot_text(token->bytes, token->n_bytes, out);
    sp_buffer_format(out, "\", label=\"%u\\n", position);
    char room[1024];
    sp_buffer label;
    sp_buffer_lend(&label, room, sizeof room);
    sp_text_token(token->bytes, token->n_bytes, SP_FONT_TEXT, 160, &label);
    put_dot_text(label.data, label.size, out);
    sp_buffer_text(out, "\"];\n");
}

sp_status sp_export_dot(const sp_slice *slice, sp_buffer *out, sp_error *error)
{
    sp_buffer caption;
    sp_buffer_init(&caption, (size_t)1 << 16);
    put_caption(slice, &caption);
    sp_buffer_text(out, "digraph attention {\n  label=\"");
    put_dot_text(caption.data, caption.size, out);
    sp_buffer_pass(&caption, out);
    sp_buffer_fini(&caption);
    sp_buffer_text(out, "\";\n  // query -> key\n");
    for (uint32_t i = 0; i < node_end(slice); i++)
        if (is_node(slice, i)) put_dot_node(slice, i, out);
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++) {
        for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++) {
            sp_buffer_format(out, "  n%u -> n%u [weight=\"", slice->row_begin + i, slice->indices[e]);
            put_weight(slice->weights[e], out);
            sp_buffer_text(out, "\"];\n");
        }
    }
    sp_buffer_text(out, "}\n");
    return sp_export_check(out, error);
}
