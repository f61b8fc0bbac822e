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

/* --- SHA-256 --- */

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void hash_block(uint32_t state[8], const uint8_t block[64])
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t choose = (s[4] & s[5]) ^ (~s[4] & s[6]);
        uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        uint32_t a = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + choose + k[i] + w[i];
        uint32_t b = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + majority;
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += a;
        s[0] = a + b;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

void sp_encode_sha256(const void *bytes, size_t n, uint8_t digest[32])
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *in = bytes;
    size_t whole = n / 64 * 64, tail = n - whole;
    for (size_t i = 0; i < whole; i += 64) hash_block(state, in + i);
    uint8_t last[128] = {0};
    size_t last_size = tail < 56 ? 64 : 128;
    memcpy(last, in + whole, tail);
    last[tail] = 0x80;
    uint64_t bits = (uint64_t)n * 8;
    for (int i = 0; i < 8; i++) last[last_size - 1 - (size_t)i] = (uint8_t)(bits >> 8 * i);
    for (size_t i = 0; i < last_size; i += 64) hash_block(state, last + i);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
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
