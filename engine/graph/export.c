/* See export.h. Here: names and the choice of a format. */
#include "engine/graph/export.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name, *type;
} formats[SP_N_EXPORTS] = {
    [SP_EXPORT_CSV] = {"csv", "text/csv; charset=utf-8"},
    [SP_EXPORT_NPZ] = {"npz", "application/octet-stream"},
    [SP_EXPORT_SAFETENSORS] = {"safetensors", "application/octet-stream"},
    [SP_EXPORT_GRAPHML] = {"graphml", "application/xml; charset=utf-8"},
    [SP_EXPORT_DOT] = {"dot", "text/vnd.graphviz; charset=utf-8"},
    [SP_EXPORT_HTML] = {"html", "text/html; charset=utf-8"},
    [SP_EXPORT_SVG] = {"svg", "image/svg+xml; charset=utf-8"},
    [SP_EXPORT_PNG] = {"png", "image/png"},
    [SP_EXPORT_BERTVIZ] = {"bertviz", "application/json"},
    [SP_EXPORT_CIRCUITSVIS] = {"circuitsvis", "application/json"},
    [SP_EXPORT_EXBERT] = {"exbert", "application/json"},
};

const char *sp_export_name(sp_export format)
{
    return formats[format].name;
}

const char *sp_export_type(sp_export format)
{
    return formats[format].type;
}

bool sp_export_find(const char *name, sp_export *out)
{
    for (int i = 0; i < SP_N_EXPORTS; i++) {
        if (strcmp(formats[i].name, name) != 0) continue;
        *out = (sp_export)i;
        return true;
    }
    return false;
}

sp_status sp_export_check(const sp_buffer *out, sp_error *error)
{
    if (sp_buffer_check(out, error)) return error->status;
    return out->failed ? sp_fail_param(error, SP_TOO_LARGE, "rows",
                                       "the answer would pass %zu bytes: ask for fewer rows", out->max_bytes)
                       : SP_OK;
}

sp_status sp_export_slice(sp_export format, const sp_slice *slice, const sp_picture_options *picture,
                          sp_buffer *out, sp_error *error)
{
    sp_picture_options options = picture ? *picture : sp_picture_defaults(SP_CANVAS_SVG);
    options.kind = format == SP_EXPORT_PNG ? SP_CANVAS_PNG : SP_CANVAS_SVG;
    switch (format) {
    case SP_EXPORT_CSV:
        return sp_export_csv(slice, out, error);
    case SP_EXPORT_NPZ:
        return sp_export_npz(slice, out, error);
    case SP_EXPORT_SAFETENSORS:
        return sp_export_safetensors(slice, false, NULL, out, error);
    case SP_EXPORT_GRAPHML:
        return sp_export_graphml(slice, out, error);
    case SP_EXPORT_DOT:
        return sp_export_dot(slice, out, error);
    case SP_EXPORT_HTML:
        return sp_export_html(slice, &options, out, error);
    default:
        assert(!sp_export_is_dense(format));
        return sp_picture_matrix(&(sp_picture_graph){.about = slice}, &options, out, error);
    }
}
