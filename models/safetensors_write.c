/* Writes one safetensors file in memory.
 *
 * Tensors are laid out by falling element size, then by name, and the header is padded with spaces to a
 * multiple of 8: so every tensor starts at a multiple of its element size, and the same input gives the same
 * bytes in any order. Tests: tests/unit/models/test_safetensors.c (read back by the reader and by an
 * independent one in Python). */
#include <stdlib.h>

#include "kernels/json.h"
#include "models/weights.h"

#define MAX_HEADER ((size_t)16 << 20)

static int by_layout(const void *left, const void *right)
{
    const sp_tensor_entry *a = *(const sp_tensor_entry *const *)left,
                          *b = *(const sp_tensor_entry *const *)right;
    size_t size_a = sp_dtype_size(a->tensor.dtype), size_b = sp_dtype_size(b->tensor.dtype);
    if (size_a != size_b) return size_a > size_b ? -1 : 1;
    return strcmp(a->name, b->name);
}

static void write_metadata(sp_json_writer *out, const sp_metadata_entry *metadata, size_t count)
{
    sp_json_key(out, "__metadata__");
    sp_json_open(out, '{');
    for (size_t i = 0; i < count; i++) {
        sp_json_key(out, metadata[i].key);
        sp_json_string(out, metadata[i].value, metadata[i].size);
    }
    sp_json_close(out, '}');
}

static void write_entry(sp_json_writer *out, const sp_tensor_entry *entry, size_t begin, size_t end)
{
    sp_json_key(out, entry->name);
    sp_json_open(out, '{');
    sp_json_key(out, "dtype");
    sp_json_cstring(out, sp_dtype_name(entry->tensor.dtype));
    sp_json_key(out, "shape");
    sp_json_open(out, '[');
    for (uint32_t i = 0; i < entry->tensor.rank; i++) sp_json_uint(out, entry->tensor.shape[i]);
    sp_json_close(out, ']');
    sp_json_key(out, "data_offsets");
    sp_json_open(out, '[');
    sp_json_uint(out, begin);
    sp_json_uint(out, end);
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}

/* The header into text; false when two tensors share a name or a size overflows. */
static bool write_header(const sp_tensor_entry **order, size_t n_tensors, const sp_metadata_entry *metadata,
                         size_t n_metadata, sp_buffer *text)
{
    sp_json_writer writer;
    sp_json_writer_init(&writer, text);
    sp_json_open(&writer, '{');
    if (n_metadata) write_metadata(&writer, metadata, n_metadata);
    size_t place = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        size_t end;
        if (i && strcmp(order[i - 1]->name, order[i]->name) == 0) return false;
        if (!sp_add_size(place, order[i]->tensor.bytes, &end)) return false;
        write_entry(&writer, order[i], place, end);
        place = end;
    }
    sp_json_close(&writer, '}');
    while (text->size % 8 != 0 && !text->failed) sp_buffer_append(text, " ", 1);
    return true;
}

sp_status sp_safetensors_write(const sp_tensor_entry *tensors, size_t n_tensors,
                               const sp_metadata_entry *metadata, size_t n_metadata, sp_buffer *out,
                               sp_error *error)
{
    const sp_tensor_entry **order = n_tensors ? sp_alloc(n_tensors, sizeof *order) : NULL;
    if (n_tensors && !order) return sp_fail(error, SP_NO_MEMORY, "out of memory while writing tensors");
    for (size_t i = 0; i < n_tensors; i++) order[i] = &tensors[i];
    if (n_tensors) qsort(order, n_tensors, sizeof *order, by_layout);
    sp_buffer header;
    sp_buffer_init(&header, MAX_HEADER);
    sp_status status = SP_OK;
    if (!write_header(order, n_tensors, metadata, n_metadata, &header))
        status = sp_fail(error, SP_INTERNAL, "two tensors to write share a name, or their sizes overflow");
    else if (sp_buffer_check(&header, error))
        status = error->status;
    else if (header.failed)
        status = sp_fail(error, SP_TOO_LARGE, "the header of the tensors to write is too large");
    uint8_t length[8];
    for (size_t i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header.size >> (8 * i));
    if (status == SP_OK) {
        sp_buffer_append(out, length, sizeof length);
        sp_buffer_append(out, header.data, header.size);
        for (size_t i = 0; i < n_tensors; i++)
            if (order[i]->tensor.bytes) sp_buffer_append(out, order[i]->tensor.data, order[i]->tensor.bytes);
        status = sp_buffer_check(out, error);
        if (!status && out->failed)
            status = sp_fail(error, SP_TOO_LARGE, "the tensors to write are over the limit of %zu bytes",
                             out->max_bytes);
    }
    sp_buffer_fini(&header);
    sp_free(order);
    return status;
}
