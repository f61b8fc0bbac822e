/* What torch.save writes, without torch: the few names its pickles use, and a whole file as values whose
 * tensors can be read as float32.
 *
 * Owner: an sp_torch_file holds the file's bytes, its entries and all values. Tests:
 * tests/unit/engine/test_import_fit.c, tests/fuzz/fuzz_import.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_IMPORT_TORCH_H
#define SPARSED_ENGINE_SPARSEFINDER_IMPORT_TORCH_H

#include "engine/sparsefinder/import_pickle.h"
#include "engine/sparsefinder/import_zip.h"

/* --- for the pickle reader --- */

/* The number of an accepted name; -1 for any other. */
int sp_torch_name(const char *module, size_t module_size, const char *name, size_t name_size);
/* A storage from the tuple that names it. NULL, or why not. */
const char *sp_torch_storage(const sp_value *id, sp_arena *arena, sp_value *out);
/* What calling the name with this tuple of arguments means. NULL, or why not. */
const char *sp_torch_call(int name, const sp_value *args, sp_arena *arena, sp_value *out);

/* --- whole files --- */

#define SP_TORCH_MAX_BYTES ((size_t)1 << 30)
typedef struct sp_torch_file {
    const char *name; /* for messages */
    sp_zip zip;
    sp_arena arena;
    sp_value *root;
    char *owned;    /* bytes read from disk, or NULL */
    size_t n_taken; /* values that the importer took so far */
} sp_torch_file;

/* Reads path; the path must outlive the file. Call sp_torch_close in either case. */
sp_status sp_torch_open(const char *path, sp_torch_file *out, sp_error *error) SP_MUST_CHECK;
/* The same from bytes that stay the caller's. */
sp_status sp_torch_parse(const char *name, const void *bytes, size_t size, sp_torch_file *out,
                         sp_error *error) SP_MUST_CHECK;
void sp_torch_close(sp_torch_file *file);

/* The value of a text key; NULL where absent or where the value is no dictionary. */
const sp_value *sp_value_find(const sp_value *dict, const char *key);
/* Elements of a tensor; false where they are more than can be counted. */
bool sp_torch_count(const sp_stored_tensor *tensor, size_t *out) SP_MUST_CHECK;
/* All elements in order, as float32 (out: sp_torch_count). SP_DATA naming `what` for a type without
 * fractions, bytes that are missing, and values that are not finite. */
sp_status sp_torch_floats(sp_torch_file *file, const sp_stored_tensor *tensor, const char *what, float *out,
                          sp_error *error) SP_MUST_CHECK;

#endif
