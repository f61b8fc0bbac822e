/* Frames of server-sent events (sse.h). */
#include "server/sse.h"

size_t sp_sse_begin(sp_buffer *out, sp_json_writer *writer)
{
    sp_buffer_text(out, "data: ");
    sp_json_writer_init(writer, out);
    return out->size;
}

void sp_sse_end(sp_buffer *out, size_t begin)
{
    /* JSON made elsewhere may be printed over several lines; a raw line end can only be white space there. */
    for (size_t i = begin; i < out->size; i++) {
        if (out->data[i] == '\n' || out->data[i] == '\r') out->data[i] = ' ';
    }
    sp_buffer_text(out, "\n\n");
}

void sp_sse_done(sp_buffer *out)
{
    sp_buffer_text(out, "data: [DONE]\n\n");
}

void sp_sse_ping(sp_buffer *out)
{
    sp_buffer_text(out, ": ping\n\n");
}
