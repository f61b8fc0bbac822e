/* GGUF files made by hand for tests: bytes are appended as they stand in the file, right or wrong, so every
 * count, length and type can lie. The format is in models/gguf.h; nothing of models/ is used here. */
#ifndef SPARSED_TESTS_SUPPORT_GGUF_FILE_H
#define SPARSED_TESTS_SUPPORT_GGUF_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Numbers of value types. */
enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

typedef struct gguf_file {
    uint8_t *bytes; /* freed by gguf_free */
    size_t size, capacity;
} gguf_file;

void gguf_free(gguf_file *file);
void gguf_raw(gguf_file *file, const void *bytes, size_t n);
/* The low n bytes of a number, little endian. */
void gguf_number(gguf_file *file, uint64_t value, size_t n);
void gguf_float(gguf_file *file, float value);
/* Length and bytes. */
void gguf_text(gguf_file *file, const char *text);
/* "GGUF", version, counts. */
void gguf_begin(gguf_file *file, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
/* Name and type; the value follows. */
void gguf_key(gguf_file *file, const char *key, uint32_t type);
void gguf_key_u32(gguf_file *file, const char *key, uint32_t value);
void gguf_key_text(gguf_file *file, const char *key, const char *value);
/* Name, type, element type, count; the elements follow. */
void gguf_key_array(gguf_file *file, const char *key, uint32_t element, uint64_t count);
/* An entry of the tensor table; shape innermost first. */
void gguf_tensor(gguf_file *file, const char *name, uint32_t rank, const uint64_t *shape, uint32_t type,
                 uint64_t offset);
/* Zeros up to a multiple of alignment, then n more. */
void gguf_data(gguf_file *file, size_t alignment, size_t n);
/* Reads a whole file. */
void gguf_load(gguf_file *file, const char *path);
/* Puts keys (n of them, as the bytes of another file) in front of the first; keeps data aligned to 32. */
void gguf_insert(gguf_file *file, const gguf_file *keys, uint64_t n);
/* Where the value behind a key or the entry behind a tensor's name begins (its type); 0 when absent. */
size_t gguf_find(const gguf_file *file, const char *name);
/* Overwrites n bytes of the value (behind its type) of a key. */
void gguf_set(gguf_file *file, const char *key, uint64_t value, size_t n);
void gguf_store(const gguf_file *file, const char *path);

#endif
