/* See import_torch.h. What torch.save writes: torch/serialization.py and torch/_utils.py
 * (_rebuild_tensor_v2), PyTorch 1.6 and later: an archive with data.pkl, data/KEY for each storage (raw,
 * little endian), and since 2.1 byteorder. */
#include "engine/sparsefinder/import_torch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX 16u

typedef enum name_kind { NAME_DICT, NAME_TENSOR, NAME_PARAMETER, NAME_STORAGE } name_kind;
static const struct {
    const char *text; /* module, a space, name */
    name_kind kind;
    sp_dtype dtype; /* of a storage */
} names[] = {
    {"collections OrderedDict", NAME_DICT, SP_F32},
    {"torch._utils _rebuild_tensor_v2", NAME_TENSOR, SP_F32},
    {"torch._utils _rebuild_parameter", NAME_PARAMETER, SP_F32},
    {"torch FloatStorage", NAME_STORAGE, SP_F32},
    {"torch DoubleStorage", NAME_STORAGE, SP_F64},
    {"torch HalfStorage", NAME_STORAGE, SP_F16},
    {"torch BFloat16Storage", NAME_STORAGE, SP_BF16},
    {"torch LongStorage", NAME_STORAGE, SP_I64},
    {"torch IntStorage", NAME_STORAGE, SP_I32},
    {"torch BoolStorage", NAME_STORAGE, SP_BOOL},
};
#define N_NAMES (sizeof names / sizeof *names)

static const char no_room[] = "the pickle needs more memory than is allowed";

int sp_torch_name(const char *module, size_t module_size, const char *name, size_t name_size)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        const char *known = names[i].text;
        if (strlen(known) == module_size + 1 + name_size && memcmp(known, module, module_size) == 0 &&
            known[module_size] == ' ' && memcmp(known + module_size + 1, name, name_size) == 0)
            return (int)i;
    }
    return -1;
}

static bool is_text(const sp_value *value, const char *text)
{
    return value->type == SP_VALUE_TEXT && value->size == strlen(text) &&
           memcmp(value->text, text, value->size) == 0;
}

static bool is_key(const sp_value *value)
{
    if (value->type != SP_VALUE_TEXT || value->size == 0 || value->size > KEY_MAX) return false;
    for (size_t i = 0; i < value->size; i++)
        if (value->text[i] < '0' || value->text[i] > '9') return false;
    return true;
}

/* ('storage', class, key, device, elements). */
const char *sp_torch_storage(const sp_value *id, sp_arena *arena, sp_value *out)
{
    static const char why[] = "a storage is not ('storage', class, key, device, size)";
    if (id->type != SP_VALUE_TUPLE || id->n != 5) return why;
    sp_value *const *of = id->items;
    if (!is_text(of[0], "storage") || of[1]->type != SP_VALUE_NAME ||
        names[of[1]->integer].kind != NAME_STORAGE || !is_key(of[2]) || of[3]->type != SP_VALUE_TEXT ||
        of[4]->type != SP_VALUE_INT || of[4]->integer < 0)
        return why;
    sp_storage *storage = sp_arena_alloc(arena, 1, sizeof *storage);
    if (!storage) return no_room;
    *storage = (sp_storage){.key = of[2]->text,
                            .key_size = of[2]->size,
                            .dtype = names[of[1]->integer].dtype,
                            .n = (size_t)of[4]->integer};
    *out = (sp_value){.type = SP_VALUE_STORAGE, .storage = storage};
    return NULL;
}

static bool read_size(const sp_value *value, size_t *out)
{
    if (value->type != SP_VALUE_INT || value->integer < 0) return false;
    *out = (size_t)value->integer;
    return true;
}

/* Whether the last element lies inside of the storage. An empty tensor does. */
static bool is_inside(const sp_stored_tensor *t)
{
    size_t last = t->offset, step;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0) return true;
        if (!sp_mul_size(t->shape[i] - 1, t->stride[i], &step) || !sp_add_size(last, step, &last))
            return false;
    }
    return last < t->storage.n;
}

/* (storage, offset, shape, strides, requires_grad, hooks[, metadata]). */
static const char *make_tensor(const sp_value *args, sp_arena *arena, sp_value *out)
{
    if ((args->n != 6 && args->n != 7) || args->items[0]->type != SP_VALUE_STORAGE ||
        args->items[2]->type != SP_VALUE_TUPLE || args->items[3]->type != SP_VALUE_TUPLE ||
        args->items[2]->n != args->items[3]->n)
        return "a tensor is not made from a storage, an offset, a shape and strides";
    const sp_value *shape = args->items[2], *stride = args->items[3];
    if (shape->n > SP_MAX_RANK) return "a tensor has more than 4 dimensions";
    sp_stored_tensor *tensor = sp_arena_alloc(arena, 1, sizeof *tensor);
    if (!tensor) return no_room;
    tensor->storage = *args->items[0]->storage;
    tensor->rank = (uint32_t)shape->n;
    bool fits = read_size(args->items[1], &tensor->offset);
    for (size_t i = 0; fits && i < shape->n; i++)
        fits =
            read_size(shape->items[i], &tensor->shape[i]) && read_size(stride->items[i], &tensor->stride[i]);
    if (!fits || !is_inside(tensor)) return "a tensor reaches outside of its storage";
    *out = (sp_value){.type = SP_VALUE_TENSOR, .tensor = tensor};
    return NULL;
}

const char *sp_torch_call(int name, const sp_value *args, sp_arena *arena, sp_value *out)
{
    switch (names[name].kind) {
    case NAME_DICT:
        *out = (sp_value){.type = SP_VALUE_DICT};
        return args->n == 0 ? NULL : "an OrderedDict with arguments";
    case NAME_TENSOR:
        return make_tensor(args, arena, out);
    case NAME_PARAMETER: /* (tensor, requires_grad, hooks) */
        if (args->n != 3 || args->items[0]->type != SP_VALUE_TENSOR) return "a parameter without a tensor";
        *out = *args->items[0];
        return NULL;
    case NAME_STORAGE:
        break;
    }
    return "a call of a storage class";
}

/* --- whole files --- */

sp_status sp_torch_parse(const char *name, const void *bytes, size_t size, sp_torch_file *out,
                         sp_error *error)
{
    const sp_zip_entry *entry = NULL;
    *out = (sp_torch_file){.name = name};
    sp_arena_init(&out->arena, SP_PICKLE_ARENA_BYTES);
    sp_status status = sp_zip_open(name, bytes, size, &out->zip, error);
    if (!status && sp_zip_has(&out->zip, "byteorder")) {
        status = sp_zip_find(&out->zip, "byteorder", &entry, error);
        if (!status && (entry->size != 6 || memcmp(entry->bytes, "little", 6) != 0))
            status = sp_fail(error, SP_DATA, "%s: byteorder is not little", name);
    }
    if (!status) status = sp_zip_find(&out->zip, "data.pkl", &entry, error);
    if (!status) status = sp_pickle_read(name, entry->bytes, entry->size, &out->arena, &out->root, error);
    return status;
}

sp_status sp_torch_open(const char *path, sp_torch_file *out, sp_error *error)
{
    char *bytes;
    size_t size;
    *out = (sp_torch_file){.name = path};
    sp_status status = sp_read_file(path, SP_TORCH_MAX_BYTES, &bytes, &size, error);
    if (status) return status;
    status = sp_torch_parse(path, bytes, size, out, error);
    out->owned = bytes;
    return status;
}

void sp_torch_close(sp_torch_file *file)
{
    sp_zip_close(&file->zip);
    sp_arena_fini(&file->arena);
    sp_free(file->owned);
    *file = (sp_torch_file){0};
}

const sp_value *sp_value_find(const sp_value *dict, const char *key)
{
    for (size_t i = 0; dict->type == SP_VALUE_DICT && i + 1 < dict->n; i += 2)
        if (is_text(dict->items[i], key)) return dict->items[i + 1];
    return NULL;
}

bool sp_torch_count(const sp_stored_tensor *tensor, size_t *out)
{
    size_t n = 1;
    for (uint32_t i = 0; i < tensor->rank; i++)
        if (!sp_mul_size(n, tensor->shape[i], &n)) return false;
    *out = n;
    return true;
}

/* Element number n of a contiguous tensor lies at this element of the storage. */
static size_t place_of(const sp_stored_tensor *tensor, size_t n)
{
    size_t place = tensor->offset;
    for (uint32_t i = tensor->rank; i-- > 0; n /= tensor->shape[i])
        place += n % tensor->shape[i] * tensor->stride[i];
    return place;
}

static float read_element(sp_dtype dtype, const uint8_t *at)
{
    float value = 0;
    double wide;
    if (dtype == SP_F64) {
        memcpy(&wide, at, sizeof wide);
        return (float)wide;
    }
    (void)sp_convert_to_f32(dtype, at, &value, 1);
    return value;
}

sp_status sp_torch_floats(sp_torch_file *file, const sp_stored_tensor *tensor, const char *what, float *out,
                          sp_error *error)
{
    char name[32];
    const sp_zip_entry *entry = NULL;
    const sp_storage *storage = &tensor->storage;
    size_t width = sp_dtype_size(storage->dtype), bytes, n = 0;
    if (storage->dtype != SP_F32 && storage->dtype != SP_F64 && storage->dtype != SP_F16 &&
        storage->dtype != SP_BF16)
        return sp_fail(error, SP_DATA, "%s: %s has type %s; a floating type is needed", file->name, what,
                       sp_dtype_name(storage->dtype));
    (void)snprintf(name, sizeof name, "data/%.*s", (int)storage->key_size, storage->key);
    sp_status status = sp_zip_find(&file->zip, name, &entry, error);
    if (status) return status;
    if (!sp_mul_size(storage->n, width, &bytes) || entry->size != bytes || !sp_torch_count(tensor, &n))
        return sp_fail(error, SP_DATA, "%s: %s: the storage %s has %zu bytes, not %zu elements of %zu",
                       file->name, what, name, entry->size, storage->n, width);
    for (size_t i = 0; i < n; i++) {
        _Alignas(8) uint8_t element[8];
        memcpy(element, entry->bytes + place_of(tensor, i) * width, width);
        out[i] = read_element(storage->dtype, element);
        if (!isfinite(out[i]))
            return sp_fail(error, SP_DATA, "%s: element %zu of %s is not finite as float32", file->name, i,
                           what);
    }
    return SP_OK;
}
