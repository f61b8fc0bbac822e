/* The tensors of a GGUF file as sp_weights: under their Hugging Face names, q and k of llama put back.
 *
 * GGUF's llama stores the rows of a head so that row 2i turns with 2i + 1 (the order of Meta's files);
 * Hugging Face's row i turns with i + d/2. So row a * d/2 + i of a head, a in {0, 1}, is the file's row 2i +
 * a. Rows of quantized matrices are whole blocks and move as bytes. One read brings the data of all tensors
 * into memory; where it is ours the rows change places there, a mapping's or a caller's bytes are copied
 * first. Tests: tests/unit/models/test_gguf_model.c */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "models/gguf_parts.h"
#include "models/safetensors.h"

static sp_status fail_memory(const sp_gguf *gguf, size_t bytes, sp_error *error)
{
    return sp_fail(error, SP_NO_MEMORY, "%s: no memory for %zu bytes", gguf->name, bytes);
}

/* Bytes from the start of the data to the end of the last tensor. */
static size_t data_bytes(const sp_gguf *gguf)
{
    size_t end = 0;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        size_t this_end = gguf->tensors[i].offset + gguf->tensors[i].tensor.bytes;
        if (this_end > end) end = this_end;
    }
    return end;
}

static sp_status add_entries(sp_weights *weights, const sp_gguf *gguf, const sp_gguf_arch *arch,
                             sp_error *error)
{
    char name[256];
    if (gguf->n_tensors == 0) return SP_OK;
    weights->entries = sp_alloc_zero(gguf->n_tensors, sizeof *weights->entries);
    if (!weights->entries) return fail_memory(gguf, gguf->n_tensors * sizeof *weights->entries, error);
    weights->entries_capacity = gguf->n_tensors;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const sp_gguf_tensor *t = &gguf->tensors[i];
        sp_gguf_naming naming = sp_gguf_to_hugging(arch, t->name, name);
        if (naming == SP_GGUF_IGNORE) continue;
        sp_weights_entry *entry = &weights->entries[weights->n_entries++];
        entry->name = sp_arena_copy(&weights->arena, name, strlen(name));
        if (!entry->name) return fail_memory(gguf, strlen(name), error);
        entry->tensor = t->tensor;
        entry->begin = t->offset;
        entry->end = t->offset + t->tensor.bytes;
    }
    return SP_OK;
}

/* Brings the data to memory. *own: it may be written to. */
static sp_status bring_data(sp_weights *weights, const sp_gguf *gguf, bool use_mmap, const uint8_t **data,
                            bool *own, sp_error *error)
{
    sp_safetensors_file *file = &weights->files[0];
    size_t size = data_bytes(gguf);
    *own = false;
    *data = NULL;
    if (size == 0) return SP_OK;
    if (gguf->fd < 0) {
        *data = gguf->bytes + gguf->data_start;
        return SP_OK;
    }
    if (use_mmap) {
        void *map = mmap(NULL, gguf->file_size, PROT_READ, MAP_PRIVATE, gguf->fd, 0);
        if (map == MAP_FAILED) return sp_fail(error, SP_IO, "%s: mapping failed", gguf->name);
        file->map = map;
        file->map_size = gguf->file_size;
        *data = (const uint8_t *)map + gguf->data_start;
        return SP_OK;
    }
    file->data = sp_alloc(size, 1);
    if (!file->data) return fail_memory(gguf, size, error);
    *own = true;
    *data = file->data;
    return sp_gguf_read(gguf, 0, file->data, size, error);
}

/* Rows of every head, d of them of row_bytes, from pairs to halves order; spare: room for a head. */
static void order_rows(uint8_t *rows, size_t heads, size_t d, size_t row_bytes, uint8_t *spare)
{
    size_t head_bytes = d * row_bytes;
    for (size_t head = 0; head < heads; head++, rows += head_bytes) {
        memcpy(spare, rows, head_bytes);
        for (size_t a = 0; a < 2; a++)
            for (size_t i = 0; i < d / 2; i++)
                memcpy(rows + (a * (d / 2) + i) * row_bytes, spare + (2 * i + a) * row_bytes, row_bytes);
    }
}

/* Puts one tensor's rows into halves order. own: its bytes may be written to. */
static sp_status order_entry(const sp_gguf *gguf, sp_weights_entry *entry, size_t heads, bool own,
                             sp_error *error)
{
    sp_tensor *t = &entry->tensor;
    size_t rows = t->rank ? t->shape[0] : 1;
    if (t->bytes == 0) return SP_OK;
    if (rows % heads != 0 || rows / heads % 2 != 0 || (t->rank < 2 && sp_dtype_is_block(t->dtype)))
        return sp_fail_param(
            error, SP_DATA, entry->name,
            "config.json: tensor '%s' has %zu rows, not an even number for each of %zu heads", entry->name,
            rows, heads);
    size_t d = rows / heads, row_bytes = t->bytes / rows;
    uint8_t *spare = sp_alloc(d, row_bytes);
    if (!own && !entry->copy) {
        entry->copy = sp_alloc(t->bytes, 1);
        if (entry->copy) memcpy(entry->copy, t->data, t->bytes);
        t->data = entry->copy;
    }
    if (!spare || !t->data) {
        sp_free(spare);
        return fail_memory(gguf, t->bytes, error);
    }
    order_rows((uint8_t *)(uintptr_t)t->data, heads, d, row_bytes, spare);
    sp_free(spare);
    return SP_OK;
}

static bool is_within(const char *name, const char *part)
{
    return strncmp(name, "model.layers.", 13) == 0 && strstr(name, part);
}

static sp_status order_heads(sp_weights *weights, const sp_gguf *gguf, bool own, sp_error *error)
{
    int64_t heads, kv_heads;
    sp_status status = sp_gguf_int(gguf, "llama.attention.head_count", NULL, 1, 65536, &heads, error);
    if (status == SP_OK)
        status = sp_gguf_int(gguf, "llama.attention.head_count_kv", &heads, 1, 65536, &kv_heads, error);
    for (size_t i = 0; i < weights->n_entries && status == SP_OK; i++) {
        sp_weights_entry *entry = &weights->entries[i];
        if (is_within(entry->name, ".self_attn.q_proj."))
            status = order_entry(gguf, entry, (size_t)heads, own, error);
        else if (is_within(entry->name, ".self_attn.k_proj."))
            status = order_entry(gguf, entry, (size_t)kv_heads, own, error);
    }
    return status;
}

sp_status sp_weights_from_gguf(const sp_gguf *gguf, const sp_weights_options *options, sp_weights **out,
                               sp_error *error)
{
    const sp_gguf_arch *arch;
    const uint8_t *data;
    bool own;
    *out = NULL;
    sp_status status = sp_gguf_arch_of(gguf, &arch, error);
    if (status == SP_OK) status = sp_gguf_check_tensors(gguf, arch, error);
    if (status != SP_OK) return status;
    sp_weights *weights = sp_weights_new(1);
    if (!weights || !sp_weights_add_file(weights, gguf->name)) {
        sp_weights_close(weights);
        return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", gguf->name);
    }
    weights->allow_nonfinite = options && options->allow_nonfinite;
    weights->transposed = arch->transposed;
    status = add_entries(weights, gguf, arch, error);
    if (status == SP_OK) status = bring_data(weights, gguf, options && options->use_mmap, &data, &own, error);
    if (status == SP_OK) status = sp_safetensors_bind(weights, 0, data, error);
    if (status == SP_OK && arch->rotates_pairs) status = order_heads(weights, gguf, own, error);
    if (status != SP_OK) sp_gguf_explain(gguf, error);
    return sp_weights_finish(weights, status, out, error);
}
