/* The table of tensors over one file, several shards, or bytes in memory; see weights.h.
 *
 * All entries lie in one array sorted by name: lookups are binary searches and a name in two shards shows as
 * two equal neighbours, whatever names a file brings. Tests: tests/unit/models/test_safetensors.c */
#include "models/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kernels/json.h"
#include "models/gguf.h"
#include "models/safetensors.h"

#define MAX_SHARDS 4096u
#define MAX_NAME_SHOWN 160u

sp_weights *sp_weights_new(size_t max_files)
{
    sp_weights *weights = sp_alloc_zero(1, sizeof *weights);
    if (!weights) return NULL;
    sp_arena_init(&weights->arena, (size_t)128 << 20);
    weights->files = sp_alloc_zero(max_files, sizeof *weights->files);
    if (weights->files) return weights;
    sp_weights_close(weights);
    return NULL;
}

bool sp_weights_add_file(sp_weights *weights, const char *path)
{
    size_t n = strlen(path);
    const char *shown = n > MAX_NAME_SHOWN ? path + n - MAX_NAME_SHOWN : path;
    char *name = sp_copy_text(shown, strlen(shown));
    if (!name) return false;
    weights->files[weights->n_files++].name = name;
    return true;
}

void sp_weights_close(sp_weights *weights)
{
    if (!weights) return;
    for (size_t i = 0; i < weights->n_entries; i++) sp_free(weights->entries[i].copy);
    for (size_t i = 0; i < weights->n_files; i++) {
        sp_safetensors_file *file = &weights->files[i];
        if (file->map) munmap(file->map, file->map_size);
        sp_free(file->data);
        sp_free(file->name);
    }
    sp_free(weights->files);
    sp_free(weights->entries);
    sp_free(weights->metadata);
    sp_arena_fini(&weights->arena);
    sp_free(weights);
}

static int by_name(const void *left, const void *right)
{
    const sp_weights_entry *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    return order ? order : (a->file > b->file) - (a->file < b->file);
}

static sp_status sort_entries(sp_weights *weights, sp_error *error)
{
    if (weights->n_entries) qsort(weights->entries, weights->n_entries, sizeof *weights->entries, by_name);
    for (size_t i = 1; i < weights->n_entries; i++) {
        const sp_weights_entry *entry = &weights->entries[i];
        if (strcmp(entry[-1].name, entry->name) == 0)
            return sp_fail_param(error, SP_DATA, entry->name, "%s: tensor '%.100s' is also in %s",
                                 weights->files[entry->file].name, entry->name,
                                 weights->files[entry[-1].file].name);
    }
    return SP_OK;
}

static const sp_weights_entry *find_entry(const sp_weights *weights, const char *name)
{
    size_t low = 0, high = weights->n_entries;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(weights->entries[middle].name, name);
        if (order == 0) return &weights->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

sp_status sp_weights_finish(sp_weights *weights, sp_status status, sp_weights **out, sp_error *error)
{
    if (status == SP_OK) status = sort_entries(weights, error);
    if (status == SP_OK)
        *out = weights;
    else
        sp_weights_close(weights);
    return status;
}

sp_status sp_weights_parse(const char *name, const void *bytes, size_t size, sp_weights **out,
                           sp_error *error)
{
    sp_weights *weights = sp_weights_new(1);
    *out = NULL;
    if (!weights || !sp_weights_add_file(weights, name)) {
        sp_weights_close(weights);
        return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", name);
    }
    const uint8_t *start = bytes;
    size_t length = 0;
    sp_status status;
    if (size < 8)
        status = sp_fail_param(error, SP_DATA, "header", "%s: %zu bytes are too few for a safetensors header",
                               name, size);
    else
        status = sp_safetensors_length(name, start, size, &length, error);
    if (status == SP_OK)
        status = sp_safetensors_header(weights, 0, (const char *)start + 8, length, size - 8 - length, error);
    if (status == SP_OK) status = sp_safetensors_bind(weights, 0, start + 8 + length, error);
    return sp_weights_finish(weights, status, out, error);
}

static sp_status open_single(const char *path, const sp_weights_options *options, sp_weights **out,
                             sp_error *error)
{
    sp_weights *weights = sp_weights_new(1);
    if (!weights || !sp_weights_add_file(weights, path)) {
        sp_weights_close(weights);
        return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", path);
    }
    weights->allow_nonfinite = options && options->allow_nonfinite;
    sp_status status = sp_safetensors_read(weights, 0, path, options && options->use_mmap, error);
    return sp_weights_finish(weights, status, out, error);
}

/* --- shards: model.safetensors.index.json says which file holds which tensor --- */

/* One tensor of the index; file: index into the shards. */
typedef struct shard_claim {
    const char *tensor;
    uint32_t file;
} shard_claim;

typedef struct shard_index {
    const char *path, *folder;
    sp_arena arena;
    shard_claim *claims;
    size_t n_claims;
    const char **shards; /* sorted, distinct */
    size_t n_shards;
} shard_index;

static bool shard_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > 255 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* One pair of weight_map into names[] and claims[]. */
static sp_status read_claim(shard_index *index, sp_json *reader, const char **names, sp_error *error)
{
    size_t size;
    if (index->n_claims == SP_SAFETENSORS_MAX_TENSORS)
        return sp_fail_param(error, SP_DATA, "weight_map", "%s: weight_map names more than %u tensors",
                             index->path, SP_SAFETENSORS_MAX_TENSORS);
    char *tensor = sp_json_text(reader, &index->arena, &size);
    if (!tensor) return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", index->path);
    if (size != strlen(tensor) || sp_json_next(reader) != SP_JSON_STRING)
        return sp_fail_param(error, SP_DATA, tensor, "%s: weight_map: '%.100s' must be mapped to a file name",
                             index->path, tensor);
    char *file = sp_json_text(reader, &index->arena, &size);
    if (!file) return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", index->path);
    if (size != strlen(file) || !shard_name_ok(file))
        return sp_fail_param(
            error, SP_DATA, tensor,
            "%s: weight_map: '%.100s' lies in '%.60s', which is no file name of [A-Za-z0-9._-]", index->path,
            tensor, file);
    names[index->n_claims] = file;
    index->claims[index->n_claims++].tensor = tensor;
    return SP_OK;
}

/* Distinct file names, sorted, and for every claim the number of its file. */
static sp_status number_shards(shard_index *index, const char **names, sp_error *error)
{
    index->shards = sp_alloc(index->n_claims, sizeof *index->shards);
    if (!index->shards) return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", index->path);
    memcpy(index->shards, names, index->n_claims * sizeof *names);
    qsort(index->shards, index->n_claims, sizeof *index->shards, compare_texts);
    for (size_t i = 0; i < index->n_claims; i++)
        if (index->n_shards == 0 || strcmp(index->shards[index->n_shards - 1], index->shards[i]) != 0)
            index->shards[index->n_shards++] = index->shards[i];
    if (index->n_shards > MAX_SHARDS)
        return sp_fail_param(error, SP_DATA, "weight_map", "%s: weight_map names more than %u files",
                             index->path, MAX_SHARDS);
    for (size_t i = 0; i < index->n_claims; i++) {
        const char **found =
            bsearch(&names[i], index->shards, index->n_shards, sizeof *index->shards, compare_texts);
        index->claims[i].file = (uint32_t)(found - index->shards);
    }
    return SP_OK;
}

static sp_status read_weight_map(shard_index *index, sp_json *reader, sp_error *error)
{
    if (sp_json_next(reader) != SP_JSON_OBJECT)
        return sp_fail_param(error, SP_DATA, "weight_map", "%s: weight_map must be an object", index->path);
    const char **names = sp_alloc(SP_SAFETENSORS_MAX_TENSORS, sizeof *names);
    index->claims = sp_alloc(SP_SAFETENSORS_MAX_TENSORS, sizeof *index->claims);
    sp_status status = SP_OK;
    if (!names || !index->claims) status = sp_fail(error, SP_NO_MEMORY, "%s: out of memory", index->path);
    while (status == SP_OK && sp_json_next(reader) == SP_JSON_KEY)
        status = read_claim(index, reader, names, error);
    if (status == SP_OK && index->n_claims == 0)
        status = sp_fail_param(error, SP_DATA, "weight_map", "%s: weight_map is empty", index->path);
    if (status == SP_OK) status = number_shards(index, names, error);
    sp_free(names);
    return status;
}

static sp_status parse_index(shard_index *index, const char *text, size_t size, sp_error *error)
{
    sp_error reason = {0};
    sp_status status = sp_json_validate(text, size, &reason);
    if (status != SP_OK) return sp_fail(error, status, "%s: %s", index->path, reason.message);
    sp_json reader;
    sp_json_init(&reader, text, size);
    if (sp_json_next(&reader) == SP_JSON_OBJECT)
        while (sp_json_next(&reader) == SP_JSON_KEY) {
            if (sp_json_is(&reader, "weight_map")) return read_weight_map(index, &reader, error);
            sp_json_skip(&reader, sp_json_next(&reader));
        }
    return sp_fail_param(error, SP_DATA, "weight_map", "%s: weight_map is missing", index->path);
}

static sp_status read_shards(sp_weights *weights, const shard_index *index, const sp_weights_options *options,
                             sp_error *error)
{
    sp_buffer path;
    sp_buffer_init(&path, 8192);
    sp_status status = SP_OK;
    for (size_t i = 0; i < index->n_shards && status == SP_OK; i++) {
        sp_buffer_clear(&path);
        sp_buffer_format(&path, "%s/%s", index->folder, index->shards[i]);
        if (!sp_buffer_append(&path, "", 1))
            status = sp_fail(error, SP_DATA, "%s: the path of shard '%s' is too long", index->path,
                             index->shards[i]);
        else if (!sp_weights_add_file(weights, path.data))
            status = sp_fail(error, SP_NO_MEMORY, "%s: out of memory", index->path);
        else
            status =
                sp_safetensors_read(weights, (uint32_t)i, path.data, options && options->use_mmap, error);
    }
    sp_buffer_fini(&path);
    return status;
}

/* Every tensor the index claims must lie in the file it names; call after sorting. */
static sp_status check_claims(const sp_weights *weights, const shard_index *index, sp_error *error)
{
    for (size_t i = 0; i < index->n_claims; i++) {
        const shard_claim *claim = &index->claims[i];
        const sp_weights_entry *entry = find_entry(weights, claim->tensor);
        if (!entry || entry->file != claim->file)
            return sp_fail_param(error, SP_DATA, claim->tensor,
                                 "%s: tensor '%.100s' is not in %s as weight_map says", index->path,
                                 claim->tensor, index->shards[claim->file]);
    }
    return SP_OK;
}

static sp_status open_sharded(const char *folder, const char *path, const sp_weights_options *options,
                              sp_weights **out, sp_error *error)
{
    char *text = NULL;
    size_t size = 0;
    sp_status status = sp_read_file(path, SP_SAFETENSORS_MAX_HEADER, &text, &size, error);
    if (status != SP_OK) return status;
    shard_index index = {.path = path, .folder = folder};
    sp_arena_init(&index.arena, (size_t)64 << 20);
    status = parse_index(&index, text, size, error);
    if (status == SP_OK) {
        sp_weights *weights = sp_weights_new(index.n_shards);
        if (!weights)
            status = sp_fail(error, SP_NO_MEMORY, "%s: out of memory", path);
        else {
            weights->allow_nonfinite = options && options->allow_nonfinite;
            status = sp_weights_finish(weights, read_shards(weights, &index, options, error), out, error);
        }
    }
    if (status == SP_OK) status = check_claims(*out, &index, error);
    if (status != SP_OK) {
        sp_weights_close(*out);
        *out = NULL;
    }
    sp_free(index.shards);
    sp_free(index.claims);
    sp_arena_fini(&index.arena);
    sp_free(text);
    return status;
}

static sp_status open_gguf(const char *path, const sp_weights_options *options, sp_weights **out,
                           sp_error *error)
{
    sp_gguf *gguf;
    sp_status status = sp_gguf_open(path, &gguf, error);
    if (status != SP_OK) return status;
    status = sp_weights_from_gguf(gguf, options, out, error);
    sp_gguf_close(gguf);
    return status;
}

static bool exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

sp_status sp_weights_open(const char *path, const sp_weights_options *options, sp_weights **out,
                          sp_error *error)
{
    *out = NULL;
    struct stat info;
    if (stat(path, &info) != 0) return sp_fail(error, SP_NOT_FOUND, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(info.st_mode) && sp_gguf_is_file(path)) return open_gguf(path, options, out, error);
    if (!S_ISDIR(info.st_mode)) return open_single(path, options, out, error);
    sp_buffer file, index;
    sp_buffer_init(&file, 8192);
    sp_buffer_init(&index, 8192);
    sp_buffer_format(&file, "%s/model.safetensors", path);
    sp_buffer_format(&index, "%s/model.safetensors.index.json", path);
    sp_status status;
    if (!sp_buffer_append(&file, "", 1) || !sp_buffer_append(&index, "", 1))
        status = sp_buffer_path_fail(file.failed ? &file : &index, path, error);
    else if (!exists(file.data) && exists(index.data))
        status = open_sharded(path, index.data, options, out, error);
    else
        status = open_single(file.data, options, out, error);
    sp_buffer_fini(&file);
    sp_buffer_fini(&index);
    return status;
}

/* --- reading the table --- */

size_t sp_weights_count(const sp_weights *weights)
{
    return weights->n_entries;
}
const char *sp_weights_name(const sp_weights *weights, size_t index)
{
    return weights->entries[index].name;
}
const sp_tensor *sp_weights_at(const sp_weights *weights, size_t index)
{
    return &weights->entries[index].tensor;
}

const sp_tensor *sp_weights_find(const sp_weights *weights, const char *name)
{
    const sp_weights_entry *entry = find_entry(weights, name);
    return entry ? &entry->tensor : NULL;
}

const char *sp_weights_file(const sp_weights *weights, const char *name)
{
    const sp_weights_entry *entry = find_entry(weights, name);
    return entry ? weights->files[entry->file].name : NULL;
}

bool sp_weights_transposed(const sp_weights *weights)
{
    return weights->transposed;
}

const char *sp_weights_metadata(const sp_weights *weights, const char *key)
{
    for (size_t i = 0; i < weights->n_metadata; i++)
        if (strcmp(weights->metadata[i].key, key) == 0) return weights->metadata[i].value;
    return NULL;
}

static void print_shape(uint32_t rank, const size_t *shape, char *out, size_t size)
{
    size_t used = 0;
    for (uint32_t i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%zu", i ? ", " : "", shape[i]);
    if (rank == 0) out[0] = 0;
}

/* The same for a block type: its float16 scale and minimum decide. */
static size_t first_nonfinite_block(const sp_tensor *tensor, size_t n)
{
    size_t block = sp_dtype_block(tensor->dtype), bytes = sp_dtype_block_bytes(tensor->dtype);
    size_t halves = sp_block_has_mins(tensor->dtype) ? 2 : 1,
           first = tensor->dtype == SP_Q6_K ? bytes - 2 : 0;
    const uint8_t *place = tensor->data;
    for (size_t i = 0; i < n; i += block, place += bytes)
        for (size_t k = 0; k < halves; k++)
            if ((place[first + 2 * k + 1] & 0x7c) == 0x7c) return i;
    return n;
}

/* Index of the first NaN or infinity, or n: all bits of its exponent are set. */
static size_t first_nonfinite(const sp_tensor *tensor, size_t n)
{
    if (sp_dtype_is_block(tensor->dtype)) return first_nonfinite_block(tensor, n);
    uint32_t mask = tensor->dtype == SP_F16 ? 0x7c00u : 0x7f80u;
    const uint16_t *halves = tensor->data;
    const uint32_t *words = tensor->data;
    for (size_t begin = 0; begin < n; begin += 4096) {
        size_t end = n - begin < 4096 ? n : begin + 4096;
        uint32_t found = 0;
        if (tensor->dtype == SP_F32)
            for (size_t i = begin; i < end; i++) found |= (words[i] & 0x7f800000u) == 0x7f800000u;
        else
            for (size_t i = begin; i < end; i++) found |= (halves[i] & mask) == mask;
        for (size_t i = begin; found && i < end; i++)
            if (tensor->dtype == SP_F32 ? (words[i] & 0x7f800000u) == 0x7f800000u
                                        : (halves[i] & mask) == mask)
                return i;
    }
    return n;
}

sp_status sp_weights_take(const sp_weights *weights, const char *name, uint32_t rank, const size_t *shape,
                          sp_tensor *out, sp_error *error)
{
    const sp_weights_entry *entry = find_entry(weights, name);
    if (!entry)
        return sp_fail_param(error, SP_DATA, name, "%s: tensor '%.100s' is missing",
                             weights->n_files ? weights->files[0].name : "weights", name);
    const char *file = weights->files[entry->file].name;
    const sp_tensor *tensor = &entry->tensor;
    bool same = tensor->rank == rank;
    for (uint32_t i = 0; same && i < rank; i++) same = tensor->shape[i] == shape[i];
    if (!same) {
        char has[96], wants[96];
        print_shape(tensor->rank, tensor->shape, has, sizeof has);
        print_shape(rank, shape, wants, sizeof wants);
        return sp_fail_param(error, SP_DATA, name, "%s: tensor '%.100s' has shape [%s], not [%s]", file, name,
                             has, wants);
    }
    if (tensor->dtype != SP_F32 && tensor->dtype != SP_F16 && tensor->dtype != SP_BF16 &&
        !sp_dtype_is_block(tensor->dtype))
        return sp_fail_param(error, SP_DATA, name,
                             "%s: tensor '%.100s' has dtype %s; F32, F16 and BF16 are read", file, name,
                             sp_dtype_name(tensor->dtype));
    size_t count = sp_tensor_count(tensor);
    size_t bad = weights->allow_nonfinite ? count : first_nonfinite(tensor, count);
    if (bad < count)
        return sp_fail_param(
            error, SP_DATA, name,
            "%s: tensor '%.100s' holds NaN or infinity at element %zu; --allow-nonfinite accepts it", file,
            name, bad);
    *out = *tensor;
    return SP_OK;
}
