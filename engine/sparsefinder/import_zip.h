/* The zip archive of a PyTorch save: entries that are stored, never compressed, and nothing else.
 *
 * The central directory at the end says what there is; every entry's local header must agree with it and its
 * bytes must lie in front of the directory. Refused: compression, encryption, zip64 sizes, several disks, two
 * entries of one name, a wrong checksum. Owner: the archive's bytes are the caller's and outlive it; entries
 * point into them. Tests: tests/unit/engine/test_import_fit.c, tests/fuzz/fuzz_import.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_IMPORT_ZIP_H
#define SPARSED_ENGINE_SPARSEFINDER_IMPORT_ZIP_H

#include "kernels/base.h"

#define SP_ZIP_MAX_ENTRIES 4096u
#define SP_ZIP_MAX_NAME 255u

typedef struct sp_zip_entry {
    const char *name; /* (name_size), not NUL terminated */
    size_t name_size;
    const uint8_t *bytes; /* (size) */
    size_t size;
    uint32_t checksum;
    bool checked; /* the checksum fits */
} sp_zip_entry;

typedef struct sp_zip {
    const char *file; /* for messages */
    sp_zip_entry *entries;
    size_t n_entries;
} sp_zip;

/* SP_DATA naming file and entry. Call sp_zip_close in either case. */
sp_status sp_zip_open(const char *file, const void *bytes, size_t size, sp_zip *out,
                      sp_error *error) SP_MUST_CHECK;
void sp_zip_close(sp_zip *zip);
/* The entry FOLDER/name with its checksum verified, where FOLDER is the one folder that the whole archive
 * lies in; SP_DATA where absent or damaged. */
sp_status sp_zip_find(sp_zip *zip, const char *name, const sp_zip_entry **out, sp_error *error) SP_MUST_CHECK;
bool sp_zip_has(const sp_zip *zip, const char *name);

#endif
