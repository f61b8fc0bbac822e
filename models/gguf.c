/* The GGUF reader: header, keys and tensor table, every length checked before it is used (gguf.h has format
 * and caps).
 *
 * A source is the caller's bytes or a file that is read forward in growing pieces, so a file of many
 * gigabytes costs only what stands in front of its data, and no count is believed before that many bytes are
 * there. Offsets instead of pointers are kept while the bytes may still move. Tensors must lie in the file,
 * each at a multiple of the alignment, and may not overlap; types we don't know are kept by number and
 * refused where weights are wanted. Tests: tests/unit/models/test_gguf.c, tests/fuzz/fuzz_gguf.c */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/gguf_parts.h"

#define MAX_KEYS 65536u
#define MAX_TENSORS 65536u
#define MAX_ELEMENTS ((uint64_t)1 << 24)
#define MAX_HEADER ((size_t)256 << 20)
#define MAX_SHOWN 160u
/* The smallest a key and a tensor can be: name of one byte, its length, types, a value; no dimensions. */
#define MIN_KEY_BYTES (8u + 1u + 4u + 1u)
#define MIN_TENSOR_BYTES (8u + 1u + 4u + 4u + 8u)

typedef struct source {
    sp_gguf *gguf;
    size_t place, have, capacity;
    sp_error *error;
} source;

static sp_status fail_memory(const source *s)
{
    return sp_fail(s->error, SP_NO_MEMORY, "%s: out of memory while reading it", s->gguf->name);
}

static sp_status fail_header(const source *s, const char *reason)
{
    return sp_fail_param(s->error, SP_DATA, "header", "%s: header: %s", s->gguf->name, reason);
}

static sp_status fail_key(const source *s, const char *key, const char *reason)
{
    return sp_gguf_fail_key(s->gguf, key, reason, s->error);
}

static sp_status fail_tensor(const source *s, const char *name, const char *reason)
{
    return sp_fail_param(s->error, SP_DATA, name, "%s: tensor '%.100s' %s", s->gguf->name, name, reason);
}

sp_status sp_gguf_fail_key(const sp_gguf *gguf, const char *key, const char *reason, sp_error *error)
{
    return sp_fail_param(error, SP_DATA, key, "%s: key '%.100s' %s", gguf->name, key, reason);
}

/* --- bytes --- */

static sp_status read_exactly(const sp_gguf *gguf, size_t at, uint8_t *into, size_t n, sp_error *error)
{
    while (n) {
        ssize_t got = pread(gguf->fd, into, n < ((size_t)1 << 30) ? n : (size_t)1 << 30, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sp_fail(error, SP_IO, "%s: reading failed: %s", gguf->name, strerror(errno));
        if (got == 0) return sp_fail(error, SP_DATA, "%s: became shorter while it was read", gguf->name);
        into += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return SP_OK;
}

/* Reads on until end bytes are there; end is at most the file's size. */
static sp_status fetch(source *s, size_t end)
{
    sp_gguf *g = s->gguf;
    if (end <= s->have) return SP_OK;
    if (end > MAX_HEADER) return fail_header(s, "more than 256 MiB in front of the data");
    if (end > s->capacity) {
        size_t wanted = s->capacity ? s->capacity * 2 : 65536;
        while (wanted < end) wanted *= 2;
        if (wanted > g->file_size) wanted = g->file_size;
        uint8_t *bigger = sp_alloc(wanted, 1);
        if (!bigger) return fail_memory(s);
        if (s->have) memcpy(bigger, g->owned, s->have);
        sp_free(g->owned);
        g->bytes = g->owned = bigger;
        s->capacity = wanted;
    }
    sp_status status = read_exactly(g, s->have, g->owned + s->have, s->capacity - s->have, s->error);
    if (status == SP_OK) s->have = s->capacity;
    return status;
}

/* Whether n more bytes are in the file; then they are in memory too. *cut: the file ends before. */
static sp_status need(source *s, uint64_t n, bool *cut)
{
    *cut = n > s->gguf->file_size - s->place;
    return *cut ? SP_DATA : fetch(s, s->place + (size_t)n);
}

/* An unsigned number of the file's order; what stands in its place names it when the file ends there. */
static sp_status take_uint(source *s, size_t bytes, uint64_t *value, const char *what)
{
    bool cut;
    sp_status status = need(s, bytes, &cut);
    if (cut)
        return sp_fail_param(s->error, SP_DATA, what,
                             "%s: '%.100s': the file of %zu bytes ends here: cut short?", s->gguf->name, what,
                             s->gguf->file_size);
    if (status != SP_OK) return status;
    *value = sp_gguf_read_uint(s->gguf->bytes + s->place, bytes);
    s->place += bytes;
    return SP_OK;
}

/* The name of a key or tensor into the arena. what: "key" or "tensor", number: which, for messages. */
static sp_status take_name(source *s, const char *what, size_t number, const char **out)
{
    char label[48];
    snprintf(label, sizeof label, "name of %s %zu", what, number);
    uint64_t n = 0;
    bool cut;
    sp_status status = take_uint(s, 8, &n, label);
    if (status != SP_OK) return status;
    if (n == 0 || n > SP_GGUF_MAX_NAME)
        return sp_fail_param(s->error, SP_DATA, label, "%s: %s has %llu bytes, not 1 to 255", s->gguf->name,
                             label, (unsigned long long)n);
    status = need(s, n, &cut);
    if (cut)
        return sp_fail_param(s->error, SP_DATA, label, "%s: the file ends within the %s: cut short?",
                             s->gguf->name, label);
    if (status != SP_OK) return status;
    const char *from = (const char *)s->gguf->bytes + s->place;
    if (memchr(from, 0, (size_t)n))
        return sp_fail_param(s->error, SP_DATA, label, "%s: %s holds a NUL", s->gguf->name, label);
    *out = sp_arena_copy(&s->gguf->arena, from, (size_t)n);
    s->place += (size_t)n;
    return *out ? SP_OK : fail_memory(s);
}

/* --- keys --- */

static sp_status take_text(source *s, const char *key, size_t *size)
{
    uint64_t n = 0;
    bool cut;
    sp_status status = take_uint(s, 8, &n, key);
    if (status != SP_OK) return status;
    if (n > SP_GGUF_MAX_TEXT) return fail_key(s, key, "holds a text longer than 1 MiB");
    status = need(s, n, &cut);
    if (cut) return fail_key(s, key, "holds a text that reaches beyond the end of the file");
    if (status == SP_OK) s->place += (size_t)n;
    *size = (size_t)n;
    return status;
}

static sp_status check_bools(const source *s, const char *key, const uint8_t *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (values[i] > 1) return fail_key(s, key, "holds a boolean other than 0 and 1");
    return SP_OK;
}

/* Passes over an array's elements; its type and count are read. */
static sp_status take_elements(source *s, sp_gguf_item *item)
{
    size_t size = sp_gguf_type_size(item->element), least = size ? size : 8;
    if (item->count > (s->gguf->file_size - s->place) / least)
        return fail_key(s, item->key, "is an array with more elements than the file has bytes left");
    item->place = s->place;
    sp_status status = SP_OK;
    if (item->element == SP_GGUF_TEXT) {
        size_t bytes;
        for (size_t i = 0; i < item->count && status == SP_OK; i++) status = take_text(s, item->key, &bytes);
        return status;
    }
    bool cut;
    status = need(s, item->count * size, &cut);
    if (status != SP_OK) return status;
    s->place += item->count * size;
    return item->element == SP_GGUF_BOOL
               ? check_bools(s, item->key, s->gguf->bytes + item->place, item->count)
               : SP_OK;
}

static sp_status take_array(source *s, sp_gguf_item *item)
{
    uint64_t type = 0, count = 0;
    sp_status status = take_uint(s, 4, &type, item->key);
    if (status == SP_OK) status = take_uint(s, 8, &count, item->key);
    if (status != SP_OK) return status;
    if (type == SP_GGUF_ARRAY) return fail_key(s, item->key, "is an array of arrays");
    if (type >= SP_GGUF_TYPES) return fail_key(s, item->key, "is an array of an unknown type");
    if (count > MAX_ELEMENTS) return fail_key(s, item->key, "is an array of more than 16777216 elements");
    item->element = (sp_gguf_type)type;
    item->count = (size_t)count;
    return take_elements(s, item);
}

static sp_status take_item(source *s, size_t number, sp_gguf_item *item)
{
    uint64_t type = 0, value = 0;
    sp_status status = take_name(s, "key", number, &item->key);
    if (status == SP_OK) status = take_uint(s, 4, &type, item->key);
    if (status != SP_OK) return status;
    if (type >= SP_GGUF_TYPES) return fail_key(s, item->key, "has an unknown type");
    item->type = (sp_gguf_type)type;
    item->count = 1;
    if (type == SP_GGUF_ARRAY) return take_array(s, item);
    if (type == SP_GGUF_TEXT) {
        status = take_text(s, item->key, &item->count);
        if (status != SP_OK) return status;
        item->place = s->place - item->count;
        item->text = sp_arena_copy(&s->gguf->arena, (const char *)s->gguf->bytes + item->place, item->count);
        return item->text ? SP_OK : fail_memory(s);
    }
    item->place = s->place;
    status = take_uint(s, sp_gguf_type_size(item->type), &value, item->key);
    if (status == SP_OK && type == SP_GGUF_BOOL)
        status = check_bools(s, item->key, s->gguf->bytes + item->place, 1);
    return status;
}

static int by_key(const void *left, const void *right)
{
    return strcmp(((const sp_gguf_item *)left)->key, ((const sp_gguf_item *)right)->key);
}

static sp_status take_items(source *s, uint64_t count)
{
    sp_gguf *g = s->gguf;
    if (count > MAX_KEYS) return fail_header(s, "more than 65536 keys");
    if (count > (g->file_size - s->place) / MIN_KEY_BYTES)
        return fail_header(s, "more keys than the file has bytes for");
    if (count == 0) return SP_OK;
    g->items = sp_alloc_zero((size_t)count, sizeof *g->items);
    if (!g->items) return fail_memory(s);
    for (size_t i = 0; i < count; i++) {
        sp_status status = take_item(s, i, &g->items[i]);
        if (status != SP_OK) return status;
        g->n_items++;
    }
    qsort(g->items, g->n_items, sizeof *g->items, by_key);
    for (size_t i = 1; i < g->n_items; i++)
        if (by_key(&g->items[i - 1], &g->items[i]) == 0)
            return fail_key(s, g->items[i].key, "is there twice");
    return SP_OK;
}

/* --- tensors --- */

static const struct {
    const char *name;
    int dtype; /* -1: not supported */
} types[] = {
    [0] = {"F32", SP_F32},     [1] = {"F16", SP_F16},     [2] = {"Q4_0", SP_Q4_0},   [3] = {"Q4_1", SP_Q4_1},
    [4] = {"Q4_2", -1},        [5] = {"Q4_3", -1},        [6] = {"Q5_0", SP_Q5_0},   [7] = {"Q5_1", SP_Q5_1},
    [8] = {"Q8_0", SP_Q8_0},   [9] = {"Q8_1", -1},        [10] = {"Q2_K", -1},       [11] = {"Q3_K", -1},
    [12] = {"Q4_K", SP_Q4_K},  [13] = {"Q5_K", SP_Q5_K},  [14] = {"Q6_K", SP_Q6_K},  [15] = {"Q8_K", -1},
    [16] = {"IQ2_XXS", -1},    [17] = {"IQ2_XS", -1},     [18] = {"IQ3_XXS", -1},    [19] = {"IQ1_S", -1},
    [20] = {"IQ4_NL", -1},     [21] = {"IQ3_S", -1},      [22] = {"IQ2_S", -1},      [23] = {"IQ4_XS", -1},
    [24] = {"I8", -1},         [25] = {"I16", -1},        [26] = {"I32", -1},        [27] = {"I64", -1},
    [28] = {"F64", -1},        [29] = {"IQ1_M", -1},      [30] = {"BF16", SP_BF16},  [31] = {"Q4_0_4_4", -1},
    [32] = {"Q4_0_4_8", -1},   [33] = {"Q4_0_8_8", -1},   [34] = {"TQ1_0", -1},      [35] = {"TQ2_0", -1},
    [36] = {"IQ4_NL_4_4", -1}, [37] = {"IQ4_NL_4_8", -1}, [38] = {"IQ4_NL_8_8", -1}, [39] = {"MXFP4", -1},
};

static void name_type(sp_gguf_tensor *t)
{
    bool known = t->type_number < sizeof types / sizeof *types;
    t->type = known ? types[t->type_number].name : "unknown";
    t->supported = known && types[t->type_number].dtype >= 0;
    if (t->supported) t->tensor.dtype = (sp_dtype)types[t->type_number].dtype;
}

/* Bytes of a tensor from its shape; NULL or what is wrong. */
static const char *measure(sp_gguf_tensor *t)
{
    size_t count = 1;
    for (uint32_t i = 0; i < t->tensor.rank; i++)
        if (!sp_mul_size(count, t->tensor.shape[i], &count)) return "has dimensions whose product overflows";
    if (!t->supported) return NULL;
    size_t row = t->tensor.rank ? t->tensor.shape[t->tensor.rank - 1] : 1;
    if (row % sp_dtype_block(t->tensor.dtype) != 0) return "has rows that are not whole blocks of its type";
    if (!sp_dtype_bytes(t->tensor.dtype, count, &t->tensor.bytes))
        return "has dimensions whose bytes overflow";
    return NULL;
}

static sp_status take_tensor(source *s, size_t number, sp_gguf_tensor *t)
{
    uint64_t rank = 0, value = 0;
    sp_status status = take_name(s, "tensor", number, &t->name);
    if (status == SP_OK) status = take_uint(s, 4, &rank, t->name);
    if (status != SP_OK) return status;
    if (rank > SP_MAX_RANK) return fail_tensor(s, t->name, "has more than 4 dimensions");
    t->tensor.rank = (uint32_t)rank;
    for (size_t i = (size_t)rank; i-- > 0;) {
        status = take_uint(s, 8, &value, t->name);
        if (status != SP_OK) return status;
        t->tensor.shape[i] = (size_t)value;
    }
    status = take_uint(s, 4, &value, t->name);
    t->type_number = (uint32_t)value;
    if (status == SP_OK) status = take_uint(s, 8, &value, t->name);
    t->offset = (size_t)value;
    if (status != SP_OK) return status;
    name_type(t);
    const char *fault = measure(t);
    return fault ? fail_tensor(s, t->name, fault) : SP_OK;
}

static int by_tensor_name(const void *left, const void *right)
{
    return strcmp((*(const sp_gguf_tensor *const *)left)->name,
                  (*(const sp_gguf_tensor *const *)right)->name);
}

static int by_offset(const void *left, const void *right)
{
    const sp_gguf_tensor *a = *(const sp_gguf_tensor *const *)left,
                         *b = *(const sp_gguf_tensor *const *)right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return (a->tensor.bytes > b->tensor.bytes) - (a->tensor.bytes < b->tensor.bytes);
}

static sp_status check_places(source *s, size_t alignment)
{
    sp_gguf *g = s->gguf;
    size_t data = g->file_size > g->data_start ? g->file_size - g->data_start : 0, place = 0;
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, by_offset);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const sp_gguf_tensor *t = g->by_name[i];
        if (t->offset % alignment) return fail_tensor(s, t->name, "has an offset that is not aligned");
        if (t->offset > data || t->tensor.bytes > data - t->offset)
            return fail_tensor(s, t->name, "reaches beyond the end of the file: cut short?");
        if (t->offset < place) return fail_tensor(s, t->name, "overlaps another tensor");
        place = t->offset + t->tensor.bytes;
    }
    return SP_OK;
}

static sp_status take_tensors(source *s, uint64_t count)
{
    sp_gguf *g = s->gguf;
    if (count > MAX_TENSORS) return fail_header(s, "more than 65536 tensors");
    if (count > (g->file_size - s->place) / MIN_TENSOR_BYTES)
        return fail_header(s, "more tensors than the file has bytes for");
    int64_t usual = 32, alignment;
    sp_status status = sp_gguf_int(g, "general.alignment", &usual, 8, 4096, &alignment, s->error);
    if (status != SP_OK) return status;
    if (alignment & (alignment - 1)) return fail_key(s, "general.alignment", "is no power of two");
    if (count) {
        g->tensors = sp_alloc_zero((size_t)count, sizeof *g->tensors);
        g->by_name = sp_alloc((size_t)count, sizeof *g->by_name);
        if (!g->tensors || !g->by_name) return fail_memory(s);
    }
    for (size_t i = 0; i < count; i++) {
        status = take_tensor(s, i, &g->tensors[i]);
        if (status != SP_OK) return status;
        g->by_name[i] = &g->tensors[i];
        g->n_tensors++;
    }
    if (!sp_align_size(s->place, (size_t)alignment, &g->data_start))
        return fail_header(s, "has no place for data behind it");
    if (count == 0) return SP_OK;
    status = check_places(s, (size_t)alignment);
    if (status != SP_OK) return status;
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, by_tensor_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (by_tensor_name(&g->by_name[i - 1], &g->by_name[i]) == 0)
            return fail_tensor(s, g->by_name[i]->name, "is there twice");
    return SP_OK;
}

/* --- the whole file --- */

static sp_status take_file(source *s)
{
    sp_gguf *g = s->gguf;
    uint64_t magic = 0, version = 0, n_tensors = 0, n_items = 0;
    sp_status status = take_uint(s, 4, &magic, "header");
    if (status != SP_OK) return status;
    if (magic != 0x46554747u) return fail_header(s, "does not begin with GGUF");
    status = take_uint(s, 4, &version, "header");
    if (status != SP_OK) return status;
    if (version != 2 && version != 3) {
        bool swapped = version == 0x02000000u || version == 0x03000000u;
        return sp_fail_param(s->error, SP_DATA, "version", "%s: GGUF version %llu is not supported%s",
                             g->name, (unsigned long long)version,
                             swapped ? ": the file is big endian" : ": 2 and 3 are");
    }
    g->version = (uint32_t)version;
    status = take_uint(s, 8, &n_tensors, "header");
    if (status == SP_OK) status = take_uint(s, 8, &n_items, "header");
    if (status == SP_OK && n_tensors > MAX_TENSORS) status = fail_header(s, "more than 65536 tensors");
    if (status == SP_OK) status = take_items(s, n_items);
    if (status == SP_OK) status = take_tensors(s, n_tensors);
    return status;
}

/* bytes NULL: fd is read. */
static sp_status take(const char *name, const void *bytes, int fd, size_t size, sp_gguf **out,
                      sp_error *error)
{
    size_t n = strlen(name);
    const char *shown = n > MAX_SHOWN ? name + n - MAX_SHOWN : name;
    *out = NULL;
    sp_gguf *g = sp_alloc_zero(1, sizeof *g);
    char *copy = sp_copy_text(shown, strlen(shown));
    if (!g || !copy) {
        sp_free(g);
        sp_free(copy);
        if (fd >= 0) close(fd);
        return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", shown);
    }
    g->name = copy;
    g->bytes = bytes;
    g->fd = fd;
    g->file_size = size;
    sp_arena_init(&g->arena, 2 * MAX_HEADER);
    source s = {.gguf = g, .have = bytes ? size : 0, .error = error};
    sp_status status = take_file(&s);
    if (status == SP_OK)
        *out = g;
    else
        sp_gguf_close(g);
    return status;
}

sp_status sp_gguf_parse(const char *name, const void *bytes, size_t size, sp_gguf **out, sp_error *error)
{
    return take(name, bytes ? bytes : "", -1, size, out, error);
}

sp_status sp_gguf_open(const char *path, sp_gguf **out, sp_error *error)
{
    struct stat info;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        return sp_fail(error, absent ? SP_NOT_FOUND : SP_IO, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
        return take(path, NULL, fd, (size_t)info.st_size, out, error);
    close(fd);
    return sp_fail(error, SP_DATA, "%s: not a regular file", path);
}

bool sp_gguf_is_file(const char *path)
{
    char magic[4];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    bool is = pread(fd, magic, 4, 0) == 4 && memcmp(magic, "GGUF", 4) == 0;
    close(fd);
    return is;
}

void sp_gguf_close(sp_gguf *gguf)
{
    if (!gguf) return;
    if (gguf->fd >= 0) close(gguf->fd);
    sp_arena_fini(&gguf->arena);
    sp_free(gguf->items);
    sp_free(gguf->tensors);
    sp_free((void *)gguf->by_name);
    sp_free(gguf->owned);
    sp_free(gguf->name);
    sp_free(gguf);
}

sp_status sp_gguf_read(const sp_gguf *gguf, size_t offset, void *into, size_t n, sp_error *error)
{
    if (gguf->fd >= 0) return read_exactly(gguf, gguf->data_start + offset, into, n, error);
    memcpy(into, gguf->bytes + gguf->data_start + offset, n);
    return SP_OK;
}
