/* Encodings that files of graphs need: base64, CRC-32 and files in a zip archive, stored. Tests:
 * tests/unit/engine/test_graph_encode.c */
#ifndef SPARSED_ENGINE_GRAPH_ENCODE_H
#define SPARSED_ENGINE_GRAPH_ENCODE_H

#include "kernels/base.h"

/* Appends RFC 4648 base64 with padding. */
void sp_encode_base64(const void *bytes, size_t n, sp_buffer *out);

/* A zip archive of stored (not compressed) files, at most 8 of them, appended to a buffer. A file is begun,
 * its bytes are appended to out by the caller, and it is ended; then the archive is finished. Archives stay
 * below 4 GiB (SP_TOO_LARGE). */
#define SP_ZIP_FILES 8
typedef struct sp_zip {
    sp_buffer *out;
    size_t begin; /* of the archive in out */
    size_t n_files;
    struct {
        const char *name; /* static */
        size_t header, data, size;
        uint32_t crc;
    } files[SP_ZIP_FILES];
} sp_zip;
void sp_zip_init(sp_zip *zip, sp_buffer *out);
void sp_zip_begin(sp_zip *zip, const char *name);
void sp_zip_end(sp_zip *zip);
sp_status sp_zip_finish(sp_zip *zip, sp_error *error) SP_MUST_CHECK;

/* Little-endian numbers. */
void sp_encode_u16(uint16_t value, sp_buffer *out);
void sp_encode_u32(uint32_t value, sp_buffer *out);

#endif
