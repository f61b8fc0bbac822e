/* One safetensors file: 8 bytes of length (little endian), a JSON header, the data of all tensors end to end.
 *
 *   {"__metadata__": {key: text}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Rules (format: the safetensors README): sorted by begin the tensors tile the data section without hole or
 * overlap; product(shape) x size of dtype = end - begin; no duplicate keys. Everything is checked before the
 * data is read or memory is taken for it, so a small file can't ask for much. The strict JSON reader
 * (kernels/json.h) refuses what is no JSON. Owner: sp_weights. Tests: tests/unit/models/test_safetensors.c,
 * tests/fuzz/fuzz_safetensors.c */
#include "models/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/json.h"

static sp_status fail_tensor(const sp_weights *weights, uint32_t file, const char *tensor, const char *reason,
                             sp_error *error)
{
    return sp_fail_param(error, SP_DATA, tensor, "%s: tensor '%.100s': %s", weights->files[file].name, tensor,
                         reason);
}

static sp_status fail_memory(const sp_weights *weights, uint32_t file, sp_error *error)
{
    return sp_fail(error, SP_NO_MEMORY, "%s: out of memory while reading it", weights->files[file].name);
}

/* Makes room for one more item of an array that doubles. */
static bool grow(void **items, size_t count, size_t *capacity, size_t item_size)
{
    if (count < *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 32;
    void *bigger = sp_alloc_zero(wanted, item_size);
    if (!bigger) return false;
    if (count) memcpy(bigger, *items, count * item_size);
    sp_free(*items);
    *items = bigger;
    *capacity = wanted;
    return true;
}

static sp_status read_metadata(sp_weights *weights, uint32_t file, sp_json *reader, sp_error *error)
{
    if (sp_json_next(reader) != SP_JSON_OBJECT)
        return fail_tensor(weights, file, "__metadata__", "must be an object of strings", error);
    while (sp_json_next(reader) == SP_JSON_KEY) {
        if (!grow((void **)&weights->metadata, weights->n_metadata, &weights->metadata_capacity,
                  sizeof *weights->metadata))
            return fail_memory(weights, file, error);
        size_t size;
        sp_weights_metadata_item *item = &weights->metadata[weights->n_metadata];
        item->key = sp_json_text(reader, &weights->arena, &size);
        if (!item->key) return fail_memory(weights, file, error);
        if (sp_json_next(reader) != SP_JSON_STRING)
            return sp_fail_param(error, SP_DATA, "__metadata__",
                                 "%s: __metadata__ key '%.100s': the value must be a string",
                                 weights->files[file].name, item->key);
        item->value = sp_json_text(reader, &weights->arena, &size);
        if (!item->value) return fail_memory(weights, file, error);
        weights->n_metadata++;
    }
    return SP_OK;
}

static sp_status fail_dtype(sp_weights *weights, uint32_t file, const char *tensor, const sp_json *reader,
                            sp_error *error)
{
    const char *dtype = sp_json_text(reader, &weights->arena, NULL);
    return sp_fail_param(error, SP_DATA, tensor, "%s: tensor '%.100s': dtype '%.30s' is not supported",
                         weights->files[file].name, tensor, dtype ? dtype : "?");
}

static bool read_dtype(const sp_json *reader, sp_dtype *dtype)
{
    for (int d = 0; d < SP_DTYPES; d++)
        if (!sp_dtype_is_block((sp_dtype)d) && sp_json_is(reader, sp_dtype_name((sp_dtype)d))) {
            *dtype = (sp_dtype)d;
            return true;
        }
    return false;
}

/* An array of non-negative integers into values; false for anything else or more than max of them. */
static bool read_sizes(sp_json *reader, size_t *values, uint32_t max, uint32_t *count)
{
    if (sp_json_next(reader) != SP_JSON_ARRAY) return false;
    *count = 0;
    for (;;) {
        sp_json_type type = sp_json_next(reader);
        if (type == SP_JSON_ARRAY_END) return true;
        int64_t value;
        if (type != SP_JSON_NUMBER || *count == max || !sp_json_int64(reader, &value) || value < 0)
            return false;
        values[(*count)++] = (size_t)value;
    }
}

static const char *check_extent(const sp_weights_entry *entry, size_t data_size, size_t *bytes)
{
    size_t total = sp_dtype_size(entry->tensor.dtype);
    for (uint32_t i = 0; i < entry->tensor.rank; i++)
        if (!sp_mul_size(total, entry->tensor.shape[i], &total)) return "shape overflows";
    if (entry->end < entry->begin) return "data_offsets end before they begin";
    if (entry->end > data_size) return "data_offsets lie beyond the end of the file";
    if (entry->end - entry->begin != total) return "shape and dtype do not match data_offsets";
    *bytes = total;
    return NULL;
}

static sp_status read_tensor(sp_weights *weights, uint32_t file, sp_json *reader, sp_weights_entry *entry,
                             size_t data_size, sp_error *error)
{
    const char *name = entry->name;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    if (sp_json_next(reader) != SP_JSON_OBJECT)
        return fail_tensor(weights, file, name, "must be an object", error);
    while (sp_json_next(reader) == SP_JSON_KEY) {
        if (sp_json_is(reader, "dtype")) {
            if (sp_json_next(reader) != SP_JSON_STRING)
                return fail_tensor(weights, file, name, "dtype must be a text", error);
            if (!read_dtype(reader, &entry->tensor.dtype))
                return fail_dtype(weights, file, name, reader, error);
            has_dtype = true;
        } else if (sp_json_is(reader, "shape")) {
            if (!read_sizes(reader, entry->tensor.shape, SP_MAX_RANK, &entry->tensor.rank))
                return fail_tensor(weights, file, name, "shape must be at most 4 non-negative integers",
                                   error);
            has_shape = true;
        } else if (sp_json_is(reader, "data_offsets")) {
            size_t offsets[2];
            uint32_t count;
            if (!read_sizes(reader, offsets, 2, &count) || count != 2)
                return fail_tensor(weights, file, name, "data_offsets must be two non-negative integers",
                                   error);
            entry->begin = offsets[0];
            entry->end = offsets[1];
            has_offsets = true;
        } else {
            return fail_tensor(weights, file, name, "has a key that is not dtype, shape or data_offsets",
                               error);
        }
    }
    if (!has_dtype) return fail_tensor(weights, file, name, "dtype is missing", error);
    if (!has_shape) return fail_tensor(weights, file, name, "shape is missing", error);
    if (!has_offsets) return fail_tensor(weights, file, name, "data_offsets are missing", error);
    const char *fault = check_extent(entry, data_size, &entry->tensor.bytes);
    return fault ? fail_tensor(weights, file, name, fault, error) : SP_OK;
}

static sp_status add_tensor(sp_weights *weights, uint32_t file, sp_json *reader, size_t data_size,
                            sp_error *error)
{
    if (weights->n_entries == SP_SAFETENSORS_MAX_TENSORS)
        return sp_fail_param(error, SP_DATA, "header", "%s: more than %u tensors", weights->files[file].name,
                             SP_SAFETENSORS_MAX_TENSORS);
    if (!grow((void **)&weights->entries, weights->n_entries, &weights->entries_capacity,
              sizeof *weights->entries))
        return fail_memory(weights, file, error);
    size_t size;
    char *name = sp_json_text(reader, &weights->arena, &size);
    if (!name) return fail_memory(weights, file, error);
    if (size > SP_SAFETENSORS_MAX_NAME || size != strlen(name))
        return fail_tensor(weights, file, name, "its name is longer than 255 bytes or holds a NUL", error);
    sp_weights_entry *entry = &weights->entries[weights->n_entries];
    entry->name = name;
    entry->file = file;
    sp_status status = read_tensor(weights, file, reader, entry, data_size, error);
    if (status == SP_OK) weights->n_entries++;
    return status;
}

static int by_offset(const void *left, const void *right)
{
    const sp_weights_entry *a = left, *b = right;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Sorted by place, the tensors must tile the data section. */
static sp_status check_tiling(sp_weights *weights, uint32_t file, size_t first, size_t data_size,
                              sp_error *error)
{
    size_t count = weights->n_entries - first, place = 0;
    if (count) qsort(weights->entries + first, count, sizeof *weights->entries, by_offset);
    for (size_t i = first; i < weights->n_entries; i++) {
        const sp_weights_entry *entry = &weights->entries[i];
        if (entry->begin < place)
            return fail_tensor(weights, file, entry->name, "overlaps another tensor", error);
        if (entry->begin > place)
            return fail_tensor(weights, file, entry->name, "leaves a hole in the data before it", error);
        place = entry->end;
    }
    if (place == data_size) return SP_OK;
    const char *last = count ? weights->entries[weights->n_entries - 1].name : "";
    return sp_fail_param(error, SP_DATA, last,
                         "%s: %zu bytes behind the last tensor '%.100s' that no tensor claims",
                         weights->files[file].name, data_size - place, last);
}

sp_status sp_safetensors_header(sp_weights *weights, uint32_t file, const char *header, size_t size,
                                size_t data_size, sp_error *error)
{
    const char *name = weights->files[file].name;
    if (size == 0 || header[0] != '{')
        return sp_fail_param(error, SP_DATA, "header", "%s: the header does not begin with {", name);
    sp_error reason = {0};
    sp_status status = sp_json_validate(header, size, &reason);
    if (status != SP_OK)
        return sp_fail_param(error, status, "header", "%s: header: %s", name, reason.message);
    size_t first = weights->n_entries;
    sp_json reader;
    sp_json_init(&reader, header, size);
    (void)sp_json_next(&reader); /* the object just seen */
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        if (sp_json_is(&reader, "__metadata__"))
            status = read_metadata(weights, file, &reader, error);
        else
            status = add_tensor(weights, file, &reader, data_size, error);
        if (status != SP_OK) return status;
    }
    return check_tiling(weights, file, first, data_size, error);
}

sp_status sp_safetensors_bind(sp_weights *weights, size_t first, const uint8_t *data, sp_error *error)
{
    for (size_t i = first; i < weights->n_entries; i++) {
        sp_weights_entry *entry = &weights->entries[i];
        const uint8_t *from = data ? data + entry->begin : NULL;
        size_t alignment = sp_dtype_is_block(entry->tensor.dtype) ? 1 : sp_dtype_size(entry->tensor.dtype);
        if ((uintptr_t)from % alignment != 0 && entry->tensor.bytes) {
            entry->copy = sp_alloc(entry->tensor.bytes, 1);
            if (!entry->copy) return fail_memory(weights, entry->file, error);
            memcpy(entry->copy, from, entry->tensor.bytes);
            from = entry->copy;
        }
        entry->tensor.data = from;
    }
    return SP_OK;
}

sp_status sp_safetensors_length(const char *name, const uint8_t prefix[8], size_t file_size, size_t *length,
                                sp_error *error)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | prefix[i];
    if (n > SP_SAFETENSORS_MAX_HEADER)
        return sp_fail_param(error, SP_DATA, "header",
                             "%s: header length %llu is over the limit of %zu bytes: no safetensors file?",
                             name, (unsigned long long)n, SP_SAFETENSORS_MAX_HEADER);
    if (n > file_size - 8)
        return sp_fail_param(error, SP_DATA, "header",
                             "%s: header length %llu reaches beyond the file of %zu bytes: cut short?", name,
                             (unsigned long long)n, file_size);
    *length = (size_t)n;
    return SP_OK;
}

static sp_status read_exactly(int fd, const char *name, void *into, size_t size, sp_error *error)
{
    uint8_t *place = into;
    while (size) {
        ssize_t got = read(fd, place, size < ((size_t)1 << 30) ? size : (size_t)1 << 30);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sp_fail(error, SP_IO, "%s: reading failed: %s", name, strerror(errno));
        if (got == 0) return sp_fail(error, SP_DATA, "%s: became shorter while it was read", name);
        place += got;
        size -= (size_t)got;
    }
    return SP_OK;
}

static sp_status map_data(sp_safetensors_file *file, int fd, size_t file_size, sp_error *error)
{
    void *map = mmap(NULL, file_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return sp_fail(error, SP_IO, "%s: mapping failed: %s", file->name, strerror(errno));
    file->map = map;
    file->map_size = file_size;
    return SP_OK;
}

static sp_status read_data(sp_safetensors_file *file, int fd, size_t size, sp_error *error)
{
    file->data = sp_alloc(size, 1);
    if (!file->data) return sp_fail(error, SP_NO_MEMORY, "%s: no memory for %zu bytes", file->name, size);
    return read_exactly(fd, file->name, file->data, size, error);
}

static sp_status read_open_file(sp_weights *weights, uint32_t index, int fd, size_t file_size, bool use_mmap,
                                sp_error *error)
{
    sp_safetensors_file *file = &weights->files[index];
    uint8_t prefix[8];
    size_t length, first = weights->n_entries;
    if (file_size < 8)
        return sp_fail_param(error, SP_DATA, "header", "%s: %zu bytes are too few for a safetensors header",
                             file->name, file_size);
    sp_status status = read_exactly(fd, file->name, prefix, 8, error);
    if (status == SP_OK) status = sp_safetensors_length(file->name, prefix, file_size, &length, error);
    if (status != SP_OK) return status;
    char *header = sp_alloc(length + 1, 1);
    if (!header) return fail_memory(weights, index, error);
    size_t data_size = file_size - 8 - length;
    status = read_exactly(fd, file->name, header, length, error);
    if (status == SP_OK) status = sp_safetensors_header(weights, index, header, length, data_size, error);
    sp_free(header);
    if (status != SP_OK || data_size == 0)
        return status == SP_OK ? sp_safetensors_bind(weights, first, NULL, error) : status;
    status = use_mmap ? map_data(file, fd, file_size, error) : read_data(file, fd, data_size, error);
    if (status != SP_OK) return status;
    const uint8_t *data = use_mmap ? (const uint8_t *)file->map + 8 + length : file->data;
    return sp_safetensors_bind(weights, first, data, error);
}

sp_status sp_safetensors_read(sp_weights *weights, uint32_t file, const char *path, bool use_mmap,
                              sp_error *error)
{
    const char *name = weights->files[file].name;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        return sp_fail(error, absent ? SP_NOT_FOUND : SP_IO, "%s: %s", name, strerror(errno));
    }
    struct stat info;
    sp_status status;
    if (fstat(fd, &info) != 0)
        status = sp_fail(error, SP_IO, "%s: %s", name, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = sp_fail(error, SP_DATA, "%s: not a regular file", name);
    else
        status = read_open_file(weights, file, fd, (size_t)info.st_size, use_mmap, error);
    close(fd);
    return status;
}
