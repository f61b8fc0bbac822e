/* See encode.h. */
#include "engine/graph/encode.h"

#include <assert.h>
#include <string.h>
#include <zlib.h>

void sp_encode_base64(const void *bytes, size_t n, sp_buffer *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *in = bytes;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t group = (uint32_t)in[i] << 16;
        if (left > 1) group |= (uint32_t)in[i + 1] << 8;
        if (left > 2) group |= in[i + 2];
        char four[4] = {digits[group >> 18], digits[group >> 12 & 63],
                        left > 1 ? digits[group >> 6 & 63] : '=', left > 2 ? digits[group & 63] : '='};
        sp_buffer_append(out, four, 4);
    }
}

/* --- zip: APPNOTE 6.3, method 0 --- */

void sp_encode_u16(uint16_t value, sp_buffer *out)
{
    uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    sp_buffer_append(out, bytes, 2);
}

void sp_encode_u32(uint32_t value, sp_buffer *out)
{
    sp_encode_u16((uint16_t)value, out);
    sp_encode_u16((uint16_t)(value >> 16), out);
}

void sp_zip_init(sp_zip *zip, sp_buffer *out)
{
    *zip = (sp_zip){.out = out, .begin = out->size};
}

/* The part that local header and central directory share, from "version needed" to the name's length. Times
 * are the format's first: 1980-01-01, so that equal graphs are equal files. */
static void put_common(const sp_zip *zip, size_t i)
{
    sp_encode_u16(20, zip->out);
    sp_encode_u16(0x0800, zip->out); /* names are UTF-8 */
    sp_encode_u16(0, zip->out);      /* stored */
    sp_encode_u16(0, zip->out);
    sp_encode_u16(1 << 5 | 1, zip->out);
    sp_encode_u32(zip->files[i].crc, zip->out);
    sp_encode_u32((uint32_t)zip->files[i].size, zip->out);
    sp_encode_u32((uint32_t)zip->files[i].size, zip->out);
    sp_encode_u16((uint16_t)strlen(zip->files[i].name), zip->out);
}

static void put_local(const sp_zip *zip, size_t i)
{
    sp_encode_u32(0x04034b50, zip->out);
    put_common(zip, i);
    sp_encode_u16(0, zip->out);
    sp_buffer_text(zip->out, zip->files[i].name);
}

void sp_zip_begin(sp_zip *zip, const char *name)
{
    assert(zip->n_files < SP_ZIP_FILES);
    zip->files[zip->n_files].name = name;
    zip->files[zip->n_files].header = zip->out->size;
    put_local(zip, zip->n_files);
    zip->files[zip->n_files].data = zip->out->size;
}

/* Writes the local header again, now that size and checksum are known. */
void sp_zip_end(sp_zip *zip)
{
    size_t i = zip->n_files++, end = zip->out->size, data = zip->files[i].data;
    if (zip->out->failed) return;
    zip->files[i].size = end - data;
    zip->files[i].crc = (uint32_t)crc32_z(0, (const uint8_t *)zip->out->data + data, end - data);
    zip->out->size = zip->files[i].header;
    put_local(zip, i);
    zip->out->size = end;
}

sp_status sp_zip_finish(sp_zip *zip, sp_error *error)
{
    sp_buffer *out = zip->out;
    size_t directory = out->size;
    for (size_t i = 0; i < zip->n_files; i++) {
        sp_encode_u32(0x02014b50, out);
        sp_encode_u16(20, out);
        put_common(zip, i);
        sp_encode_u16(0, out); /* extra */
        sp_encode_u16(0, out); /* comment */
        sp_encode_u16(0, out); /* disk */
        sp_encode_u16(0, out);
        sp_encode_u32(0, out);
        sp_encode_u32((uint32_t)(zip->files[i].header - zip->begin), out);
        sp_buffer_text(out, zip->files[i].name);
    }
    size_t end = out->size;
    if (end - zip->begin > UINT32_MAX - 22)
        return sp_fail_param(error, SP_TOO_LARGE, "rows", "the archive would pass 4 GiB: ask for fewer rows");
    sp_encode_u32(0x06054b50, out);
    sp_encode_u32(0, out);
    sp_encode_u16((uint16_t)zip->n_files, out);
    sp_encode_u16((uint16_t)zip->n_files, out);
    sp_encode_u32((uint32_t)(end - directory), out);
    sp_encode_u32((uint32_t)(directory - zip->begin), out);
    sp_encode_u16(0, out);
    return out->failed ? sp_fail(error, SP_NO_MEMORY, "no memory for an archive") : SP_OK;
}
