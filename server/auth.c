/* The key file and the comparison (auth.h). */
#include "server/auth.h"

#include <string.h>

#define FILE_MAX_BYTES ((size_t)1 << 20)

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool has_control(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 32 || text[i] == 127) return true;
    return false;
}

static sp_status check_key(const char *path, size_t line, const char *key, size_t n, sp_error *error)
{
    if (n < SP_KEY_MIN_BYTES || n > SP_KEY_MAX_BYTES)
        return sp_fail_param(error, SP_DATA, "api-key-file", "%s: line %zu: a key has %d to %d bytes", path,
                             line, SP_KEY_MIN_BYTES, SP_KEY_MAX_BYTES);
    if (has_control(key, n) || !sp_utf8_valid(key, n))
        return sp_fail_param(error, SP_DATA, "api-key-file",
                             "%s: line %zu: a key is UTF-8 without control bytes", path, line);
    return SP_OK;
}

/* The next line without its blanks; false at the end. */
static bool next_line(const char **at, const char *end, const char **line, size_t *size)
{
    if (*at >= end) return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    const char *begin = *at, *behind = stop ? stop : end;
    *at = stop ? stop + 1 : end;
    while (begin < behind && is_blank(*begin)) begin++;
    while (behind > begin && is_blank(behind[-1])) behind--;
    *line = begin;
    *size = (size_t)(behind - begin);
    return true;
}

static sp_status take_lines(const char *path, const char *text, size_t size, sp_keys *keys, sp_error *error)
{
    const char *at = text, *line;
    size_t n, number = 0;
    while (next_line(&at, text + size, &line, &n)) {
        number++;
        if (n == 0 || line[0] == '#') continue;
        sp_status status = check_key(path, number, line, n, error);
        if (status) return status;
        sp_sha256(line, n, keys->digests[keys->n++]);
    }
    if (keys->n > 0) return SP_OK;
    return sp_fail_param(error, SP_DATA, "api-key-file", "%s: there is no key in it", path);
}

sp_status sp_keys_parse(const char *path, const char *text, size_t size, sp_keys **out, sp_error *error)
{
    sp_keys *keys = sp_alloc_zero(1, sizeof *keys);
    *out = NULL;
    /* Every key takes a line of at least nine bytes, the last one eight. */
    if (keys) keys->digests = sp_alloc(size / (SP_KEY_MIN_BYTES + 1) + 1, sizeof *keys->digests);
    sp_status status = keys && keys->digests
                           ? take_lines(path, text, size, keys, error)
                           : sp_fail_param(error, SP_NO_MEMORY, "api-key-file", "no memory for %s", path);
    if (!status)
        *out = keys;
    else
        sp_keys_free(keys);
    return status;
}

sp_status sp_keys_read(const char *path, sp_keys **out, sp_error *error)
{
    char *text;
    size_t size;
    sp_status status = sp_read_file(path, FILE_MAX_BYTES, &text, &size, error);
    *out = NULL;
    if (status == SP_IO && error) error->status = SP_DATA; /* it is there, and unusable */
    if (status) return status == SP_IO ? SP_DATA : status;
    status = sp_keys_parse(path, text, size, out, error);
    explicit_bzero(text, size);
    sp_free(text);
    return status;
}

bool sp_keys_find(const sp_keys *keys, const char *key, size_t size, uint8_t digest[SP_SHA256_BYTES])
{
    bool found = false;
    sp_sha256(key, size, digest);
    for (size_t i = 0; i < keys->n; i++) found |= sp_sha256_same(keys->digests[i], digest);
    return found;
}

void sp_keys_free(sp_keys *keys)
{
    if (!keys) return;
    sp_free(keys->digests);
    sp_free(keys);
}
