/* See gguf_file.h. */
#include "tests/support/gguf_file.h"

#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gguf_free(gguf_file *file)
{
    free(file->bytes);
    *file = (gguf_file){0};
}

void gguf_raw(gguf_file *file, const void *bytes, size_t n)
{
    if (file->size + n > file->capacity) {
        file->capacity = 2 * (file->size + n);
        file->bytes = realloc(file->bytes, file->capacity);
        assert_non_null(file->bytes);
    }
    if (n) memcpy(file->bytes + file->size, bytes, n);
    file->size += n;
}

void gguf_number(gguf_file *file, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++) gguf_raw(file, &(uint8_t){(uint8_t)(value >> (8 * i))}, 1);
}

void gguf_float(gguf_file *file, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    gguf_number(file, bits, 4);
}

void gguf_text(gguf_file *file, const char *text)
{
    gguf_number(file, strlen(text), 8);
    gguf_raw(file, text, strlen(text));
}

void gguf_begin(gguf_file *file, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    gguf_raw(file, "GGUF", 4);
    gguf_number(file, version, 4);
    gguf_number(file, n_tensors, 8);
    gguf_number(file, n_keys, 8);
}

void gguf_key(gguf_file *file, const char *key, uint32_t type)
{
    gguf_text(file, key);
    gguf_number(file, type, 4);
}

void gguf_key_u32(gguf_file *file, const char *key, uint32_t value)
{
    gguf_key(file, key, GGUF_U32);
    gguf_number(file, value, 4);
}

void gguf_key_text(gguf_file *file, const char *key, const char *value)
{
    gguf_key(file, key, GGUF_TEXT);
    gguf_text(file, value);
}

void gguf_key_array(gguf_file *file, const char *key, uint32_t element, uint64_t count)
{
    gguf_key(file, key, GGUF_ARRAY);
    gguf_number(file, element, 4);
    gguf_number(file, count, 8);
}

void gguf_tensor(gguf_file *file, const char *name, uint32_t rank, const uint64_t *shape, uint32_t type,
                 uint64_t offset)
{
    gguf_text(file, name);
    gguf_number(file, rank, 4);
    for (uint32_t i = 0; i < rank; i++) gguf_number(file, shape[i], 8);
    gguf_number(file, type, 4);
    gguf_number(file, offset, 8);
}

void gguf_data(gguf_file *file, size_t alignment, size_t n)
{
    size_t target = (file->size + alignment - 1) / alignment * alignment + n;
    while (file->size < target) gguf_raw(file, "", 1);
}

void gguf_load(gguf_file *file, const char *path)
{
    char *bytes;
    size_t size;
    sp_error error = {0};
    assert_ok(sp_read_file(path, (size_t)1 << 24, &bytes, &size, &error), error);
    gguf_raw(file, bytes, size);
    sp_free(bytes);
}

void gguf_insert(gguf_file *file, const gguf_file *keys, uint64_t n)
{
    gguf_file whole = {0}, filler = {0};
    size_t frame = 8 + strlen("filler") + 4 + 8;
    gguf_key(&filler, "filler", GGUF_TEXT);
    size_t rest = (32 - (keys->size + frame) % 32) % 32;
    gguf_number(&filler, rest, 8);
    for (size_t i = 0; i < rest; i++) gguf_raw(&filler, "x", 1);
    gguf_raw(&whole, file->bytes, 24);
    gguf_raw(&whole, filler.bytes, filler.size);
    gguf_raw(&whole, keys->bytes, keys->size);
    gguf_raw(&whole, file->bytes + 24, file->size - 24);
    uint64_t count = whole.bytes[16] + n + 1;
    assert_true(count < 256);
    whole.bytes[16] = (uint8_t)count;
    gguf_free(&filler);
    gguf_free(file);
    *file = whole;
}

size_t gguf_find(const gguf_file *file, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 24; i + 8 + n < file->size; i++)
        if (file->bytes[i] == n && file->bytes[i + 1] == 0 && memcmp(file->bytes + i + 8, name, n) == 0)
            return i + 8 + n;
    return 0;
}

void gguf_set(gguf_file *file, const char *key, uint64_t value, size_t n)
{
    size_t place = gguf_find(file, key);
    assert_true(place != 0);
    for (size_t i = 0; i < n; i++) file->bytes[place + 4 + i] = (uint8_t)(value >> (8 * i));
}

void gguf_store(const gguf_file *file, const char *path)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(file->bytes, 1, file->size, out), file->size);
    fclose(out);
}
