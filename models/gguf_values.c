/* Reading what a GGUF file holds: typed getters of its keys, arrays walked element by element, small tensors.
 *
 * A getter says which kinds of type it takes and which range; whatever else the file brings is refused with
 * the key's name, so nobody casts an array to a type that it doesn't have. Tests:
 * tests/unit/models/test_gguf.c */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/gguf_parts.h"

size_t sp_gguf_type_size(sp_gguf_type type)
{
    static const uint8_t sizes[SP_GGUF_TYPES] = {
        [SP_GGUF_UINT8] = 1,  [SP_GGUF_INT8] = 1,  [SP_GGUF_UINT16] = 2,  [SP_GGUF_INT16] = 2,
        [SP_GGUF_UINT32] = 4, [SP_GGUF_INT32] = 4, [SP_GGUF_FLOAT32] = 4, [SP_GGUF_BOOL] = 1,
        [SP_GGUF_UINT64] = 8, [SP_GGUF_INT64] = 8, [SP_GGUF_FLOAT64] = 8};
    return sizes[type];
}

uint64_t sp_gguf_read_uint(const uint8_t *from, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | from[i];
    return value;
}

static bool is_integer(sp_gguf_type type)
{
    return type < SP_GGUF_FLOAT32 || type == SP_GGUF_UINT64 || type == SP_GGUF_INT64;
}

static bool is_number(sp_gguf_type type)
{
    return is_integer(type) || type == SP_GGUF_FLOAT32 || type == SP_GGUF_FLOAT64;
}

/* A value of an integer type; what is beyond int64 saturates. */
static int64_t integer_at(sp_gguf_type type, const uint8_t *from)
{
    uint64_t bits = sp_gguf_read_uint(from, sp_gguf_type_size(type));
    switch (type) {
    case SP_GGUF_INT8:
        return (int8_t)bits;
    case SP_GGUF_INT16:
        return (int16_t)bits;
    case SP_GGUF_INT32:
        return (int32_t)bits;
    case SP_GGUF_INT64:
        return (int64_t)bits;
    default:
        return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    }
}

static double double_at(sp_gguf_type type, const uint8_t *from)
{
    uint64_t bits = sp_gguf_read_uint(from, sp_gguf_type_size(type));
    if (type == SP_GGUF_FLOAT32) {
        uint32_t half = (uint32_t)bits;
        float value;
        memcpy(&value, &half, sizeof value);
        return value;
    }
    if (type == SP_GGUF_FLOAT64) {
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return type == SP_GGUF_UINT64 ? (double)bits : (double)integer_at(type, from);
}

/* --- looking up --- */

const char *sp_gguf_name(const sp_gguf *gguf)
{
    return gguf->name;
}
uint32_t sp_gguf_version(const sp_gguf *gguf)
{
    return gguf->version;
}
size_t sp_gguf_count(const sp_gguf *gguf)
{
    return gguf->n_items;
}
const char *sp_gguf_key(const sp_gguf *gguf, size_t index)
{
    return gguf->items[index].key;
}
size_t sp_gguf_tensor_count(const sp_gguf *gguf)
{
    return gguf->n_tensors;
}
const sp_gguf_tensor *sp_gguf_tensor_at(const sp_gguf *gguf, size_t index)
{
    return &gguf->tensors[index];
}

static int compare_tensor(const void *name, const void *tensor)
{
    return strcmp(name, (*(const sp_gguf_tensor *const *)tensor)->name);
}

const sp_gguf_tensor *sp_gguf_tensor_find(const sp_gguf *gguf, const char *name)
{
    if (gguf->n_tensors == 0) return NULL;
    const sp_gguf_tensor **found =
        bsearch(name, gguf->by_name, gguf->n_tensors, sizeof *gguf->by_name, compare_tensor);
    return found ? *found : NULL;
}

static int compare_item(const void *key, const void *item)
{
    return strcmp(key, ((const sp_gguf_item *)item)->key);
}

const sp_gguf_item *sp_gguf_find(const sp_gguf *gguf, const char *key)
{
    if (gguf->n_items == 0) return NULL;
    return bsearch(key, gguf->items, gguf->n_items, sizeof *gguf->items, compare_item);
}

bool sp_gguf_has(const sp_gguf *gguf, const char *key)
{
    return sp_gguf_find(gguf, key) != NULL;
}

/* --- single values --- */

sp_status sp_gguf_text(const sp_gguf *gguf, const char *key, const char **text, size_t *size, sp_error *error)
{
    const sp_gguf_item *item = sp_gguf_find(gguf, key);
    *text = NULL;
    *size = 0;
    if (!item) return SP_OK;
    if (item->type != SP_GGUF_TEXT) return sp_gguf_fail_key(gguf, key, "must be a text", error);
    if (strlen(item->text) != item->count) return sp_gguf_fail_key(gguf, key, "holds a NUL", error);
    *text = item->text;
    *size = item->count;
    return SP_OK;
}

sp_status sp_gguf_int(const sp_gguf *gguf, const char *key, const int64_t *fallback, int64_t min, int64_t max,
                      int64_t *out, sp_error *error)
{
    const sp_gguf_item *item = sp_gguf_find(gguf, key);
    if (!item && !fallback) return sp_gguf_fail_key(gguf, key, "is missing", error);
    if (!item) {
        *out = *fallback;
        return SP_OK;
    }
    if (!is_integer(item->type)) return sp_gguf_fail_key(gguf, key, "must be one integer", error);
    int64_t value = integer_at(item->type, gguf->bytes + item->place);
    if (value < min || value > max)
        return sp_fail_param(error, SP_DATA, key, "%s: key '%.100s' is %lld, not in %lld..%lld", gguf->name,
                             key, (long long)value, (long long)min, (long long)max);
    *out = value;
    return SP_OK;
}

sp_status sp_gguf_double(const sp_gguf *gguf, const char *key, const double *fallback, double min, double max,
                         double *out, sp_error *error)
{
    const sp_gguf_item *item = sp_gguf_find(gguf, key);
    if (!item && !fallback) return sp_gguf_fail_key(gguf, key, "is missing", error);
    if (!item) {
        *out = *fallback;
        return SP_OK;
    }
    if (!is_number(item->type)) return sp_gguf_fail_key(gguf, key, "must be one number", error);
    double value = double_at(item->type, gguf->bytes + item->place);
    if (!(value >= min && value <= max))
        return sp_fail_param(error, SP_DATA, key, "%s: key '%.100s' is %g, not in %g..%g", gguf->name, key,
                             value, min, max);
    *out = value;
    return SP_OK;
}

sp_status sp_gguf_bool(const sp_gguf *gguf, const char *key, bool fallback, bool *out, sp_error *error)
{
    const sp_gguf_item *item = sp_gguf_find(gguf, key);
    if (item && item->type != SP_GGUF_BOOL) return sp_gguf_fail_key(gguf, key, "must be a boolean", error);
    *out = item ? gguf->bytes[item->place] != 0 : fallback;
    return SP_OK;
}

/* --- arrays --- */

sp_status sp_gguf_array_open(const sp_gguf *gguf, const char *key, sp_gguf_kind kind, bool *present,
                             sp_gguf_array *out, sp_error *error)
{
    static const char *const wrong[] = {[SP_GGUF_INTEGERS] = "must be an array of integers",
                                        [SP_GGUF_NUMBERS] = "must be an array of numbers",
                                        [SP_GGUF_TEXTS] = "must be an array of texts"};
    const sp_gguf_item *item = sp_gguf_find(gguf, key);
    *out = (sp_gguf_array){.kind = kind};
    *present = item != NULL;
    if (!item) return SP_OK;
    bool fits = item->type == SP_GGUF_ARRAY;
    if (kind == SP_GGUF_INTEGERS) fits = fits && is_integer(item->element);
    if (kind == SP_GGUF_NUMBERS) fits = fits && is_number(item->element);
    if (kind == SP_GGUF_TEXTS) fits = fits && item->element == SP_GGUF_TEXT;
    if (!fits) return sp_gguf_fail_key(gguf, key, wrong[kind], error);
    out->type = item->element;
    out->count = item->count;
    out->place = gguf->bytes + item->place;
    return SP_OK;
}

bool sp_gguf_next_text(sp_gguf_array *array, const char **text, size_t *size)
{
    if (array->kind != SP_GGUF_TEXTS || array->index >= array->count) return false;
    *size = (size_t)sp_gguf_read_uint(array->place, 8);
    *text = (const char *)array->place + 8;
    array->place += 8 + *size;
    array->index++;
    return true;
}

bool sp_gguf_next_int(sp_gguf_array *array, int64_t *value)
{
    if (array->kind != SP_GGUF_INTEGERS || array->index >= array->count) return false;
    *value = integer_at(array->type, array->place);
    array->place += sp_gguf_type_size(array->type);
    array->index++;
    return true;
}

bool sp_gguf_next_double(sp_gguf_array *array, double *value)
{
    if (array->kind != SP_GGUF_NUMBERS || array->index >= array->count) return false;
    *value = double_at(array->type, array->place);
    array->place += sp_gguf_type_size(array->type);
    array->index++;
    return true;
}

/* --- small tensors --- */

sp_status sp_gguf_values(const sp_gguf *gguf, const sp_gguf_tensor *tensor, double *out, sp_error *error)
{
    size_t n = sp_tensor_count(&tensor->tensor);
    if (n == 0) return SP_OK;
    uint8_t *bytes = sp_alloc(tensor->tensor.bytes, 1);
    float *values = sp_alloc(n, sizeof *values);
    sp_status status = bytes && values
                           ? sp_gguf_read(gguf, tensor->offset, bytes, tensor->tensor.bytes, error)
                           : sp_fail(error, SP_NO_MEMORY, "%s: out of memory", gguf->name);
    if (status == SP_OK && !sp_convert_to_f32(tensor->tensor.dtype, bytes, values, n))
        status = sp_fail_param(error, SP_DATA, tensor->name, "%s: tensor '%.100s' is not of a floating type",
                               gguf->name, tensor->name);
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        out[i] = values[i];
        if (!isfinite(values[i]))
            status = sp_fail_param(error, SP_DATA, tensor->name,
                                   "%s: tensor '%.100s' holds NaN or infinity at element %zu", gguf->name,
                                   tensor->name, i);
    }
    sp_free(bytes);
    sp_free(values);
    return status;
}
