/* A pickle read as data: the restricted reader behind `sparsed import-fit`.
 *
 * A pickle is a program for a stack machine that can call anything. This reader runs the opcodes that build
 * numbers, texts, lists, tuples, dictionaries and tensors as torch.save writes them (protocols 2 to 5) and
 * refuses every other one; the only names it knows are collections.OrderedDict, the two functions of torch
 * that make a tensor from a storage, and the storage classes. Nothing is imported, called or executed: each
 * of these names has its meaning written out here. Attributes set on a dictionary (BUILD: the _metadata of a
 * state_dict) are dropped.
 *
 * Owner: values live in the arena given, texts point into the pickle's bytes; both are the caller's. A list
 * may hold itself: walk values by a known path, never to the end. Tests: tests/unit/engine/test_import_fit.c,
 * tests/fuzz/fuzz_import.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_IMPORT_PICKLE_H
#define SPARSED_ENGINE_SPARSEFINDER_IMPORT_PICKLE_H

#include "kernels/tensor.h"

#define SP_PICKLE_MAX_BYTES ((size_t)1 << 20)
#define SP_PICKLE_ARENA_BYTES ((size_t)256 << 20) /* enough for every pickle of SP_PICKLE_MAX_BYTES */

typedef enum sp_value_type {
    SP_VALUE_NONE,
    SP_VALUE_BOOL,
    SP_VALUE_INT,
    SP_VALUE_FLOAT,
    SP_VALUE_TEXT,
    SP_VALUE_LIST,
    SP_VALUE_TUPLE,
    SP_VALUE_DICT, /* items: key, value, key, value */
    SP_VALUE_TENSOR,
    SP_VALUE_STORAGE,
    SP_VALUE_NAME /* one of the known names; its number is in integer */
} sp_value_type;

/* The bytes behind tensors: entry data/KEY of the archive. */
typedef struct sp_storage {
    const char *key; /* (key_size), decimal digits */
    size_t key_size;
    sp_dtype dtype;
    size_t n; /* elements */
} sp_storage;

/* A view of a storage; every element that it names lies inside. */
typedef struct sp_stored_tensor {
    sp_storage storage;
    uint32_t rank;
    size_t shape[SP_MAX_RANK], stride[SP_MAX_RANK], offset; /* in elements */
} sp_stored_tensor;

typedef struct sp_value {
    sp_value_type type;
    union {
        int64_t integer; /* INT, BOOL, NAME */
        double number;
        struct {
            const char *text; /* (size), UTF-8, not NUL terminated */
            size_t size;
        };
        struct {
            struct sp_value **items; /* (n) */
            size_t n, capacity;
        };
        sp_stored_tensor *tensor;
        sp_storage *storage;
    };
} sp_value;

/* Reads one pickle. file: for messages. SP_DATA names the byte and what is refused there. */
sp_status sp_pickle_read(const char *file, const void *bytes, size_t size, sp_arena *arena, sp_value **out,
                         sp_error *error) SP_MUST_CHECK;
#endif
