/* Private to models/: how weights.c (one table over all files), safetensors.c (one file) and gguf_weights.c
 * share their work.
 *
 * A file is read in two steps: its header becomes entries with offsets, all rules checked; then, when the
 * bytes of its data section are at hand, the entries are bound to them. */
#ifndef SPARSED_MODELS_SAFETENSORS_H
#define SPARSED_MODELS_SAFETENSORS_H

#include "models/weights.h"

#define SP_SAFETENSORS_MAX_HEADER ((size_t)16 << 20)
#define SP_SAFETENSORS_MAX_TENSORS 65536u
#define SP_SAFETENSORS_MAX_NAME 255u

typedef struct sp_weights_entry {
    const char *name; /* in the arena */
    uint32_t file;
    size_t begin, end; /* bytes of the file's data section */
    sp_tensor tensor;  /* data NULL until bound */
    void *copy;        /* owned: the values moved to an aligned place; NULL when they lie well */
} sp_weights_entry;

typedef struct sp_safetensors_file {
    char *name;    /* for messages: the path, its front cut where it is long */
    uint8_t *data; /* owned data section, or NULL */
    void *map;     /* owned mapping of the whole file, or NULL */
    size_t map_size;
} sp_safetensors_file;

typedef struct sp_weights_metadata_item {
    const char *key, *value; /* in the arena */
} sp_weights_metadata_item;

struct sp_weights {
    sp_arena arena;
    sp_safetensors_file *files;
    size_t n_files;
    sp_weights_entry *entries; /* sorted by name once all files are in */
    size_t n_entries, entries_capacity;
    sp_weights_metadata_item *metadata;
    size_t n_metadata, metadata_capacity;
    bool allow_nonfinite, transposed;
};

/* An empty table with room for max_files; NULL when out of memory. */
sp_weights *sp_weights_new(size_t max_files);
/* Adds a file under the name that messages show; a long path loses its front. */
bool sp_weights_add_file(sp_weights *weights, const char *path);
/* Hands the finished table over, sorted, or frees it. */
sp_status sp_weights_finish(sp_weights *weights, sp_status status, sp_weights **out,
                            sp_error *error) SP_MUST_CHECK;

/* Adds the entries of a header (the JSON text alone) whose data section has data_size bytes. SP_DATA names
 * file and tensor; entries added before the fault stay and are freed with the table. */
sp_status sp_safetensors_header(sp_weights *weights, uint32_t file, const char *header, size_t size,
                                size_t data_size, sp_error *error) SP_MUST_CHECK;
/* Points the entries of a file, from index first on, at its data section; copies those that are not aligned
 * to their element size. */
sp_status sp_safetensors_bind(sp_weights *weights, size_t first, const uint8_t *data,
                              sp_error *error) SP_MUST_CHECK;
/* Opens, checks and reads one file into the table. file: its index, name set. */
sp_status sp_safetensors_read(sp_weights *weights, uint32_t file, const char *path, bool use_mmap,
                              sp_error *error) SP_MUST_CHECK;
/* The header's length from the first 8 bytes of a file of file_size bytes. */
sp_status sp_safetensors_length(const char *name, const uint8_t prefix[8], size_t file_size, size_t *length,
                                sp_error *error) SP_MUST_CHECK;

#endif
