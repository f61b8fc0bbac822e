/* usage: graph_exporter FOLDER
 *
 * Writes every export and picture of a graph made by hand (tests/support/graph_scene.h) into a folder, and
 * the graph itself as numbers: what tests/golden/test_graph.py reads with other programs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/export.h"
#include "tests/support/graph_scene.h"

static const char *folder;

static int save(const char *name, const sp_buffer *bytes, sp_status status, const sp_error *error)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (status) {
        fprintf(stderr, "%s: %s %s\n", name, sp_status_name(status), error->message);
        return 1;
    }
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(bytes->data, 1, bytes->size, file) == bytes->size;
    return !file || fclose(file) || !written;
}

/* Edges as lines "query key weight", with all digits. */
static int save_edges(const char *name, const sp_slice *slice)
{
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, 1 << 24);
    for (uint32_t i = 0; i < sp_slice_rows(slice); i++)
        for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++)
            sp_buffer_format(&out, "%u %u %.9g\n", slice->row_begin + i, slice->indices[e],
                             (double)slice->weights[e]);
    int failed = save(name, &out, SP_OK, &error);
    sp_buffer_fini(&out);
    return failed;
}

static int export_all(const char *scene_name, const sp_slice *slices)
{
    int failed = 0;
    char name[64];
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, 1 << 26);
    for (int f = 0; f < SP_N_EXPORTS; f++) {
        sp_export format = (sp_export)f;
        snprintf(name, sizeof name, "%s.%s", scene_name, sp_export_name(format));
        sp_status status = sp_export_is_dense(format) ? sp_export_dense(format, slices, 1, 1, &out, &error)
                                                      : sp_export_slice(format, slices, NULL, &out, &error);
        failed |= save(name, &out, status, &error);
        sp_buffer_clear(&out);
    }
    sp_buffer_fini(&out);
    snprintf(name, sizeof name, "%s.edges", scene_name);
    return failed | save_edges(name, slices);
}

/* Thumbnails of one graph for every head; the last head is pending. */
static sp_status draw_overview(const sp_slice *slice, const sp_picture_options *options, sp_buffer *out,
                               sp_error *error)
{
    static const uint32_t numbers[] = {0, 1, 2};
    static uint8_t cells[2][3][64][64];
    static const uint8_t done[6] = {1, 1, 1, 1, 1, 0};
    static sp_head_record records[6];
    memset(cells, 0, sizeof cells);
    for (int head = 0; head < 6; head++) {
        records[head].sparsity_gold = 0.5;
        for (uint32_t i = 0; i < sp_slice_rows(slice); i++)
            for (uint32_t e = slice->indptr[i]; e < slice->indptr[i + 1]; e++)
                cells[head / 3][head % 3][64 * i / slice->n_query][64 * slice->indices[e] / slice->n_key] =
                    255;
    }
    const sp_overview overview = {.graph = SP_GRAPH_GOLD,
                                  .n_layers = 2,
                                  .n_heads = 3,
                                  .layers = numbers,
                                  .heads = numbers,
                                  .n_query = slice->n_query,
                                  .n_key = slice->n_key,
                                  .causal = slice->causal,
                                  .cells = &cells[0][0][0][0],
                                  .done = done,
                                  .records = records,
                                  .source = slice->source};
    return sp_picture_overview(&overview, options, out, error);
}

static int draw_all(const char *scene_name, const sp_slice slices[3])
{
    static const char *const views[] = {"matrix", "panels", "lines", "overview"};
    const sp_picture_graph graphs[3] = {{.about = &slices[0]}, {.about = &slices[1]}, {.about = &slices[2]}};
    int failed = 0;
    char name[64];
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, 1 << 26);
    for (int v = 0; v < 4; v++) {
        for (int dark_png = 0; dark_png < 2; dark_png++) {
            sp_picture_options options = sp_picture_defaults(dark_png ? SP_CANVAS_PNG : SP_CANVAS_SVG);
            options.dark = dark_png;
            snprintf(name, sizeof name, "%s-%s.%s", scene_name, views[v], dark_png ? "png" : "svg");
            sp_status status =
                v == 0   ? sp_picture_matrix(&graphs[0], &options, &out, &error)
                : v == 1 ? sp_picture_panels(&graphs[0], &graphs[1], &graphs[2], &options, &out, &error)
                : v == 2 ? sp_picture_lines(&graphs[0], &options, &out, &error)
                         : draw_overview(&slices[0], &options, &out, &error);
            failed |= save(name, &out, status, &error);
            sp_buffer_clear(&out);
        }
    }
    sp_buffer_fini(&out);
    return failed;
}

/* One scene over rows and columns; part: a window of it instead of the whole. */
static int run_scene(const char *name, uint32_t n, uint32_t m, bool causal, bool part)
{
    static const sp_graph graphs[3] = {SP_GRAPH_GOLD, SP_GRAPH_PRED, SP_GRAPH_AFTER};
    const uint32_t rows[2] = {part ? n / 3 : 0, part ? 2 * n / 3 : n};
    sp_graph_scene scene;
    sp_slice slices[3];
    sp_graph_scene_init(&scene, n, m, true);
    for (int i = 0; i < 3; i++)
        sp_graph_scene_slice(&scene, graphs[i], causal, rows, part ? rows : (uint32_t[]){0, m}, &slices[i]);
    int failed = export_all(name, slices) | draw_all(name, slices);
    for (int i = 0; i < 3; i++) sp_slice_fini(&slices[i]);
    sp_graph_scene_fini(&scene);
    return failed;
}

int main(int argc, char **argv)
{
    if (argc != 2) return 64;
    folder = argv[1];
    return run_scene("whole", 40, 40, true, false) | run_scene("part", 150, 150, true, true) |
           run_scene("one", 1, 1, true, false) | run_scene("full", 24, 24, false, false) |
           run_scene("large", 900, 900, true, false);
}
