/* See import_zip.h. Layout of the archive: APPNOTE.TXT 6.3.3, sections 4.3.7 (local header), 4.3.12 (central
 * directory), 4.3.16 (its end). All numbers are little endian. */
#include "engine/sparsefinder/import_zip.h"

#include <stdio.h>
#include <string.h>

#define LOCAL_MAGIC 0x04034b50u
#define CENTRAL_MAGIC 0x02014b50u
#define END_MAGIC 0x06054b50u
#define LOCAL_BYTES 30u
#define CENTRAL_BYTES 46u
#define END_BYTES 22u
#define FLAG_ENCRYPTED 1u
#define IS_ZIP64 UINT32_MAX /* a size or place that only the zip64 extension holds */

static uint32_t read16(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint32_t read32(const uint8_t *at)
{
    return read16(at) | read16(at + 2) << 16;
}

/* CRC-32 of ISO 3309, bit by bit over a table of sixteen. */
static uint32_t checksum(const uint8_t *bytes, size_t size)
{
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                       0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t sum = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        sum ^= bytes[i];
        sum = table[sum & 15] ^ sum >> 4;
        sum = table[sum & 15] ^ sum >> 4;
    }
    return ~sum;
}

/* The end of the central directory: the last place where its length fits the file's. */
static const uint8_t *find_end(const uint8_t *bytes, size_t size)
{
    for (size_t back = END_BYTES; back <= size && back <= END_BYTES + UINT16_MAX; back++) {
        const uint8_t *at = bytes + size - back;
        if (read32(at) == END_MAGIC && read16(at + 20) == back - END_BYTES) return at;
    }
    return NULL;
}

/* An entry of the central directory at `at`, which has `room` bytes. data_end: where the directory begins.
 * *used: bytes it takes. */
static sp_status read_entry(const char *file, const uint8_t *bytes, size_t data_end, const uint8_t *at,
                            size_t room, sp_zip_entry *out, size_t *used, sp_error *error)
{
    if (room < CENTRAL_BYTES || read32(at) != CENTRAL_MAGIC)
        return sp_fail(error, SP_DATA, "%s: the zip directory is cut short or damaged", file);
    uint32_t flags = read16(at + 8), method = read16(at + 10), packed = read32(at + 20),
             size = read32(at + 24), place = read32(at + 42);
    uint32_t name_size = read16(at + 28);
    *used = CENTRAL_BYTES + (size_t)name_size + read16(at + 30) + read16(at + 32);
    if (*used > room || name_size == 0 || name_size > SP_ZIP_MAX_NAME)
        return sp_fail(error, SP_DATA, "%s: the name of a zip entry is empty, too long or cut short", file);
    int shown = (int)name_size;
    const char *name = (const char *)at + CENTRAL_BYTES;
    if (flags & FLAG_ENCRYPTED)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s is encrypted", file, shown, name);
    if (packed == IS_ZIP64 || size == IS_ZIP64 || place == IS_ZIP64)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s has zip64 sizes", file, shown, name);
    if (method != 0 || packed != size)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s is compressed; PyTorch stores its entries", file,
                       shown, name);
    if (place > data_end || data_end - place < LOCAL_BYTES || read32(bytes + place) != LOCAL_MAGIC)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s has no header at byte %u", file, shown, name,
                       (unsigned)place);
    size_t header = LOCAL_BYTES + (size_t)read16(bytes + place + 26) + read16(bytes + place + 28);
    if (read16(bytes + place + 26) != name_size || header > data_end - place ||
        memcmp(bytes + place + LOCAL_BYTES, name, name_size) != 0)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s has another name in its own header", file, shown,
                       name);
    if (size > data_end - place - header)
        return sp_fail(error, SP_DATA, "%s: zip entry %.*s ends beyond the data", file, shown, name);
    *out = (sp_zip_entry){.name = name,
                          .name_size = name_size,
                          .bytes = bytes + place + header,
                          .size = size,
                          .checksum = read32(at + 16)};
    return SP_OK;
}

static bool same_name(const sp_zip_entry *entry, const char *name, size_t size)
{
    return entry->name_size == size && memcmp(entry->name, name, size) == 0;
}

sp_status sp_zip_open(const char *file, const void *bytes, size_t size, sp_zip *out, sp_error *error)
{
    *out = (sp_zip){.file = file};
    const uint8_t *begin = bytes, *end = size >= END_BYTES ? find_end(begin, size) : NULL;
    if (!end)
        return sp_fail(error, SP_DATA,
                       "%s: no zip archive; files of torch.save since PyTorch 1.6 are, older ones must be "
                       "loaded and saved again",
                       file);
    size_t data_end = read32(end + 16), room = read32(end + 12), n = read16(end + 10);
    size_t end_place = (size_t)(end - begin);
    if (read16(end + 4) != 0 || read16(end + 6) != 0 || read16(end + 8) != n || n == UINT16_MAX ||
        data_end > end_place || room > end_place - data_end)
        return sp_fail(error, SP_DATA, "%s: the end of the zip archive contradicts itself or is zip64's",
                       file);
    if (n > SP_ZIP_MAX_ENTRIES)
        return sp_fail(error, SP_DATA, "%s: the zip archive has %zu entries; at most %u are read", file, n,
                       SP_ZIP_MAX_ENTRIES);
    out->entries = sp_alloc_zero(n > 0 ? n : 1, sizeof *out->entries);
    if (!out->entries) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu zip entries", n);
    const uint8_t *at = begin + data_end;
    for (size_t used = 0; out->n_entries < n; at += used, room -= used) {
        sp_zip_entry *entry = &out->entries[out->n_entries];
        sp_status status = read_entry(file, begin, data_end, at, room, entry, &used, error);
        if (status) return status;
        for (size_t i = 0; i < out->n_entries; i++)
            if (same_name(&out->entries[i], entry->name, entry->name_size))
                return sp_fail(error, SP_DATA, "%s: the zip archive has two entries %.*s", file,
                               (int)entry->name_size, entry->name);
        out->n_entries++;
    }
    return SP_OK;
}

void sp_zip_close(sp_zip *zip)
{
    sp_free(zip->entries);
    *zip = (sp_zip){0};
}

static sp_zip_entry *find(const sp_zip *zip, const char *name)
{
    size_t size = strlen(name), folder = 0;
    if (zip->n_entries == 0) return NULL;
    const sp_zip_entry *first = &zip->entries[0];
    while (folder < first->name_size && first->name[folder] != '/') folder++;
    if (folder == first->name_size) return NULL;
    folder++;
    for (size_t i = 0; i < zip->n_entries; i++) {
        sp_zip_entry *entry = &zip->entries[i];
        if (entry->name_size == folder + size && memcmp(entry->name, first->name, folder) == 0 &&
            memcmp(entry->name + folder, name, size) == 0)
            return entry;
    }
    return NULL;
}

bool sp_zip_has(const sp_zip *zip, const char *name)
{
    return find(zip, name) != NULL;
}

sp_status sp_zip_find(sp_zip *zip, const char *name, const sp_zip_entry **out, sp_error *error)
{
    sp_zip_entry *entry = find(zip, name);
    if (!entry) return sp_fail(error, SP_DATA, "%s: the archive has no %s", zip->file, name);
    if (!entry->checked && checksum(entry->bytes, entry->size) != entry->checksum)
        return sp_fail(error, SP_DATA, "%s: the checksum of %s does not fit its bytes", zip->file, name);
    entry->checked = true;
    *out = entry;
    return SP_OK;
}
