/* The texts of a picture: title, how many edges, where it comes from. See picture.h. */
#include "engine/graph/picture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kernels/json.h"

static const char *const graph_words[SP_N_GRAPHS] = {
    [SP_GRAPH_GOLD] = "gold graph",
    [SP_GRAPH_PRED] = "predicted graph",
    [SP_GRAPH_BOTH] = "gold edges that are predicted",
    [SP_GRAPH_MISSED] = "missed edges: gold, not predicted",
    [SP_GRAPH_EXTRA] = "extra edges: predicted, not gold",
    [SP_GRAPH_AFTER] = "edges left after normalizing over the predicted ones",
};

/* Appends text with ill-formed bytes as U+FFFD. */
static void put_clean(const char *text, sp_buffer *out)
{
    for (size_t i = 0, n = strlen(text), used; i < n; i += used) {
        uint32_t code = sp_text_next(text + i, n - i, &used);
        if ((code == 0xfffd && used == 1) || code < 0x20)
            sp_buffer_text(out, "\xef\xbf\xbd");
        else
            sp_buffer_append(out, text + i, used);
    }
}

void sp_caption_count(uint64_t value, sp_buffer *out)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, value);
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) sp_buffer_text(out, ",");
        sp_buffer_append(out, digits + i, 1);
    }
}

void sp_caption_head(const sp_graph_source *source, const sp_slice *slice, sp_buffer *out)
{
    put_clean(source->model, out);
    if (slice->layer != SP_NO_HEAD) sp_buffer_format(out, ", layer %u", slice->layer);
    if (slice->head != SP_NO_HEAD) sp_buffer_format(out, ", head %u", slice->head);
}

const char *sp_caption_graph(sp_graph graph)
{
    return graph_words[graph];
}

void sp_caption_title(const sp_graph_source *source, const sp_slice *slice, sp_buffer *out)
{
    bool one = slice->graph < SP_N_GRAPHS && strcmp(slice->name, sp_graph_name(slice->graph)) == 0;
    sp_caption_head(source, slice, out);
    sp_buffer_text(out, ": ");
    sp_buffer_text(out, one ? graph_words[slice->graph] : slice->name);
    if (!one) sp_buffer_format(out, " of several heads, %s", graph_words[slice->graph]);
}

/* Pairs of the slice that are not masked. */
static uint64_t valid_pairs(const sp_slice *slice)
{
    uint64_t pairs = 0;
    for (uint32_t i = slice->row_begin; i < slice->row_end; i++) {
        uint32_t end = slice->causal && i + 1 < slice->col_end ? i + 1 : slice->col_end;
        if (end > slice->col_begin) pairs += end - slice->col_begin;
    }
    return pairs;
}

static void put_ratio(const char *name, double value, sp_buffer *out)
{
    if (isfinite(value)) sp_buffer_format(out, ", %s %.3f", name, value);
}

void sp_caption_part(const sp_slice *slice, sp_buffer *out)
{
    if (sp_slice_rows(slice) == slice->n_query && slice->col_end - slice->col_begin == slice->n_key) return;
    sp_buffer_format(out, "; queries %u to %u of %u, keys %u to %u of %u", slice->row_begin,
                     slice->row_end - 1, slice->n_query, slice->col_begin, slice->col_end - 1, slice->n_key);
}

void sp_caption_facts(const sp_slice *slice, sp_buffer *out)
{
    uint64_t edges = sp_slice_count(slice), pairs = valid_pairs(slice);
    sp_caption_count(edges, out);
    sp_buffer_text(out, edges == 1 ? " edge of " : " edges of ");
    sp_caption_count(pairs, out);
    sp_buffer_text(out, pairs == 1 ? " pair" : " pairs");
    if (pairs > 0) sp_buffer_format(out, " (%.3g %%)", 100.0 * (double)edges / (double)pairs);
    sp_caption_part(slice, out);
    sp_buffer_text(out, ".");
    const sp_head_record *m = slice->metrics;
    if (!m) return;
    sp_buffer_text(out, " Whole head: ");
    sp_caption_count(m->edges_gold, out);
    sp_buffer_text(out, " gold and ");
    sp_caption_count(m->edges_pred, out);
    sp_buffer_text(out, " predicted edges");
    put_ratio("recall", m->recall, out);
    put_ratio("precision", m->precision, out);
    sp_buffer_text(out, ".");
}

static void put_fact(const char *name, const char *value, sp_buffer *out)
{
    if (!*value) return;
    sp_buffer_format(out, " \xc2\xb7 %s%s", name, *name ? " " : "");
    put_clean(value, out);
}

/* The parameters that have a value, as "window 33, metric dot"; what is no JSON object is left out. */
static void put_params(const char *params, sp_buffer *out)
{
    sp_json reader;
    size_t n = strlen(params);
    const char *between = " \xc2\xb7 ";
    sp_status status = sp_json_validate(params, n, NULL);
    if (status == SP_NO_MEMORY) sp_buffer_break(out);
    if (status) return;
    sp_json_init(&reader, params, n);
    if (sp_json_next(&reader) != SP_JSON_OBJECT) return;
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        const char *name = reader.raw;
        size_t name_size = reader.raw_size;
        sp_json_type type = sp_json_next(&reader);
        sp_json_skip(&reader, type);
        if (type != SP_JSON_STRING && type != SP_JSON_NUMBER && type != SP_JSON_TRUE && type != SP_JSON_FALSE)
            continue;
        sp_buffer_format(out, "%s%.*s ", between, (int)name_size, name);
        if (type == SP_JSON_TRUE || type == SP_JSON_FALSE)
            sp_buffer_text(out, type == SP_JSON_TRUE ? "true" : "false");
        else
            sp_buffer_append(out, reader.raw, reader.raw_size);
        between = ", ";
    }
}

void sp_caption_provenance(const sp_graph_source *source, sp_buffer *out)
{
    put_clean(source->software, out);
    put_fact("model", source->model, out);
    if (*source->arch && *source->model) {
        sp_buffer_text(out, " (");
        put_clean(source->arch, out);
        sp_buffer_text(out, ")");
    }
    if (*source->hash) sp_buffer_format(out, " \xc2\xb7 weights %.12s", source->hash);
    put_fact("attention", source->backend, out);
    put_params(source->params, out);
    if (source->sees_later) sp_buffer_text(out, " (chosen among later tokens too)");
    put_fact("generated tokens:", source->decode_backend, out);
    if (*source->decode_backend) put_params(source->decode_params, out);
    put_fact("normalizer", source->normalizer, out);
    put_fact("gold", source->gold, out);
    put_fact("heads", source->heads, out);
    put_fact("type", source->dtype, out);
    put_fact("capture", source->capture, out);
    time_t seconds = (time_t)source->created;
    struct tm utc;
    char date[40];
    if (source->created > 0 && gmtime_r(&seconds, &utc) &&
        strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &utc))
        sp_buffer_format(out, " \xc2\xb7 %s", date);
}
