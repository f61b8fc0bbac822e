/* The JSON pull reader: walks a text that sp_json_validate accepted, one event a call, no tree and no
 * allocation.
 *
 * Since the text is known to be well formed, commas and colons carry no news: the reader passes over them and
 * tells a key from a string by where it stands. The reader borrows the text; strings are unescaped only on
 * demand. Tests: tests/unit/kernels/test_json.c, tests/fuzz/fuzz_json.c */
#include <assert.h>
#include <string.h>

#include "kernels/json.h"
#include "kernels/json_scan.h"

void sp_json_init(sp_json *reader, const char *text, size_t size)
{
    *reader = (sp_json){.text = text, .size = size};
}

static sp_json_type open_container(sp_json *r, char bracket)
{
    assert(r->depth < SP_JSON_MAX_DEPTH);
    r->kinds[r->depth++] = (uint8_t)bracket;
    r->expect_value = false;
    r->position++;
    return bracket == '{' ? SP_JSON_OBJECT : SP_JSON_ARRAY;
}

static sp_json_type close_container(sp_json *r, char opener)
{
    assert(r->depth > 0 && r->kinds[r->depth - 1] == (uint8_t)opener);
    r->depth--;
    r->position++;
    return opener == '{' ? SP_JSON_OBJECT_END : SP_JSON_ARRAY_END;
}

static sp_json_type read_string(sp_json *r)
{
    size_t end = r->position + 1;
    while (end < r->size && r->text[end] != '"') end += r->text[end] == '\\' ? 2 : 1;
    assert(end < r->size);
    r->raw = r->text + r->position + 1;
    r->raw_size = end - r->position - 1;
    r->position = end + 1;
    bool key = r->depth > 0 && r->kinds[r->depth - 1] == '{' && !r->expect_value;
    r->expect_value = key;
    return key ? SP_JSON_KEY : SP_JSON_STRING;
}

static sp_json_type read_scalar(sp_json *r, size_t n, sp_json_type type)
{
    assert(n > 0 && n <= r->size - r->position);
    r->raw = r->text + r->position;
    r->raw_size = n;
    r->position += n;
    r->expect_value = false;
    return type;
}

sp_json_type sp_json_next(sp_json *reader)
{
    sp_json *r = reader;
    while (r->position < r->size) {
        char c = r->text[r->position];
        if (!sp_json_is_space(c) && c != ',' && c != ':') break;
        r->position++;
    }
    r->raw = NULL;
    r->raw_size = 0;
    if (r->position == r->size) {
        assert(r->depth == 0);
        return SP_JSON_END;
    }
    switch (r->text[r->position]) {
    case '{':
        return open_container(r, '{');
    case '[':
        return open_container(r, '[');
    case '}':
        return close_container(r, '{');
    case ']':
        return close_container(r, '[');
    case '"':
        return read_string(r);
    case 't':
        return read_scalar(r, 4, SP_JSON_TRUE);
    case 'f':
        return read_scalar(r, 5, SP_JSON_FALSE);
    case 'n':
        return read_scalar(r, 4, SP_JSON_NULL);
    default:
        return read_scalar(r, sp_json_scan_number(r->text + r->position, r->size - r->position),
                           SP_JSON_NUMBER);
    }
}

void sp_json_skip(sp_json *reader, sp_json_type type)
{
    if (type != SP_JSON_OBJECT && type != SP_JSON_ARRAY) return;
    for (uint32_t outside = reader->depth - 1; reader->depth > outside;) sp_json_next(reader);
}

bool sp_json_is(const sp_json *reader, const char *literal)
{
    size_t n = strlen(literal), done = 0;
    for (size_t at = 0; at < reader->raw_size;) {
        char bytes[4];
        size_t taken, count = sp_json_decode(reader->raw + at, reader->raw_size - at, bytes, &taken);
        if (count > n - done || memcmp(literal + done, bytes, count) != 0) return false;
        done += count;
        at += taken;
    }
    return done == n;
}

char *sp_json_text(const sp_json *reader, sp_arena *arena, size_t *size)
{
    size_t bytes = 0;
    for (size_t at = 0, taken; at < reader->raw_size; at += taken) {
        char unused[4];
        bytes += sp_json_decode(reader->raw + at, reader->raw_size - at, unused, &taken);
    }
    char *text = sp_arena_alloc(arena, bytes + 1, 1); /* cleared: the NUL is there */
    if (!text) return NULL;
    size_t done = 0;
    for (size_t at = 0, taken; at < reader->raw_size; at += taken) {
        char out[4];
        size_t n = sp_json_decode(reader->raw + at, reader->raw_size - at, out, &taken);
        memcpy(text + done, out, n);
        done += n;
    }
    if (size) *size = bytes;
    return text;
}

double sp_json_double(const sp_json *reader)
{
    return sp_json_number_value(reader->raw, reader->raw_size);
}

bool sp_json_int64(const sp_json *reader, int64_t *value)
{
    return sp_json_number_int64(reader->raw, reader->raw_size, value);
}
