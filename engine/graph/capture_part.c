/* Rows whose predicted weights are made when they are read (capture.h): a head of its own whose builder is
 * set to the block of the row, and which holds that block alone. Tests: tests/http/test_graph_dense.py */
#include "engine/graph/capture_parts.h"

struct sp_head_part {
    sp_capture *capture;
    const sp_graph_runner *runner;
    sp_head_tables tables;
    sp_head_source source;
    sp_head *head;
    sp_head_builder *builder;
    uint32_t block; /* that is there; UINT32_MAX: none */
    size_t bytes;   /* counted in the budget */
    sp_status status;
    sp_error error;
};

/* What making and holding one block takes. */
static size_t part_bytes(const sp_head_source *source)
{
    size_t block = (size_t)sp_head_block_rows(source->n_key) * source->n_key;
    return sizeof(sp_head_part) + sp_head_base_bytes(source) +
           sp_head_builder_bytes(source->n_key, sp_threads_count(source->device->threads)) +
           block * (2 * sizeof(float) + sizeof(uint32_t));
}

static void close_part(sp_head_part *part)
{
    sp_head_builder_close(part->builder);
    sp_head_close(part->head);
    sp_head_tables_close(&part->tables);
    if (part->bytes) sp_capture_give_bytes(part->capture, part->bytes);
    sp_free(part);
}

sp_status sp_head_part_open(sp_capture *capture, uint32_t layer, uint32_t head, const sp_head *made,
                            const sp_graph_runner *runner, sp_head_part **out, sp_error *error)
{
    const sp_head_options options = {.given = made};
    sp_head_part *part = sp_alloc_zero(1, sizeof *part);
    if (!part) return sp_fail(error, SP_NO_MEMORY, "no memory for a graph job");
    part->capture = capture;
    part->runner = runner;
    part->block = UINT32_MAX;
    sp_status status = sp_head_tables_open(capture->n_tokens, &part->tables, error);
    if (status == SP_OK) {
        sp_head_source_fill(capture, runner, layer, head, &part->tables, &part->source);
        part->bytes = part_bytes(&part->source);
        if (!sp_capture_take_bytes(capture, part->bytes)) {
            part->bytes = 0;
            status = sp_fail_param(error, SP_TOO_LARGE, "capture_bytes",
                                   "what is in use leaves no room for the weights of some rows within "
                                   "capture_bytes");
        }
    }
    if (status == SP_OK) status = sp_head_open(&part->source, &part->head, error);
    if (status == SP_OK)
        status = sp_head_builder_open(&part->source, part->head, &options, &part->builder, error);
    if (status == SP_OK) {
        *out = part;
        return SP_OK;
    }
    close_part(part);
    return status;
}

static void step(void *context)
{
    sp_head_part *part = context;
    part->status = sp_head_step(part->builder, part->runner->step_seconds, &part->error);
}

/* The block of this row, where it can be made. */
static bool make_block(sp_head_part *part, uint32_t row)
{
    const sp_graph_runner *runner = part->runner;
    sp_head *head = part->head;
    uint32_t block = row / head->block_rows, first = block * head->block_rows;
    if (part->status != SP_OK) return false;
    if (part->block == block) return true;
    part->block = UINT32_MAX;
    sp_head_builder_seek(part->builder, row);
    while (part->status == SP_OK && head->rows_done == first) {
        if (runner->stop && runner->stop(runner->stop_context))
            part->status = sp_fail(&part->error, SP_CANCELLED, "the request was cancelled");
        else if (runner->run(runner->engine, step, part, &part->error) != SP_OK)
            part->status = part->error.status;
    }
    if (part->status == SP_OK) part->block = block;
    return part->status == SP_OK;
}

void sp_head_part_row(sp_head_part *part, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end,
                      sp_row_room *room, sp_row *out)
{
    *out = (sp_row){0};
    if (make_block(part, row)) sp_head_row(part->head, graph, row, begin, end, room, out);
}

double sp_head_part_mass(sp_head_part *part, sp_graph graph, uint32_t row)
{
    return make_block(part, row) ? sp_head_row_mass(part->head, graph, row) : 0;
}

sp_status sp_head_part_close(sp_head_part *part, sp_error *error)
{
    if (!part) return SP_OK;
    sp_status status = part->status;
    if (status != SP_OK && error) *error = part->error;
    close_part(part);
    return status;
}
