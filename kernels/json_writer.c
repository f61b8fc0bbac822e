/* The JSON writer: appends values to a bounded buffer and puts the commas.
 *
 * Numbers are printed with the fewest significant digits that read back to the same value (at most 17 for a
 * double, 9 for a float32); integers of up to 15 digits are printed without an exponent. Ill-formed UTF-8
 * becomes U+FFFD, one for each maximal part of a sequence (Unicode 15, section 3.9, as in the WHATWG encoding
 * standard). The buffer keeps the failure: check out->failed once at the end. Tests:
 * tests/unit/kernels/test_json.c, tests/fuzz/fuzz_json.c */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"

enum { MAX_DEPTH = 63, NUMBER_TEXT = 40 };

void sp_json_writer_init(sp_json_writer *writer, sp_buffer *out)
{
    *writer = (sp_json_writer){.out = out};
}

/* Before every value and key: the comma, unless this is the first item or the value of a key. */
static void begin_item(sp_json_writer *w)
{
    uint64_t bit = (uint64_t)1 << w->depth;
    if (!w->after_key && w->depth > 0 && (w->has_item & bit)) sp_buffer_append(w->out, ",", 1);
    w->has_item |= bit;
    w->after_key = false;
}

void sp_json_open(sp_json_writer *writer, char bracket)
{
    assert((bracket == '{' || bracket == '[') && writer->depth < MAX_DEPTH);
    begin_item(writer);
    sp_buffer_append(writer->out, &bracket, 1);
    writer->depth++;
    writer->has_item &= ~((uint64_t)1 << writer->depth);
}

void sp_json_close(sp_json_writer *writer, char bracket)
{
    assert((bracket == '}' || bracket == ']') && writer->depth > 0 && !writer->after_key);
    writer->depth--;
    sp_buffer_append(writer->out, &bracket, 1);
}

/* Bytes of the ill-formed sequence at text that one U+FFFD replaces: the longest start of a well-formed one.
 * A start is sound if continuation bytes complete it, since only the second byte has a narrower range
 * than 80..BF. */
static size_t ill_formed_length(const char *text, size_t n)
{
    for (size_t start = n < 3 ? n : 3; start > 1; start--) {
        char trial[4] = {'\x80', '\x80', '\x80', '\x80'};
        memcpy(trial, text, start);
        if (sp_utf8_length(trial, sizeof trial) > start) return start;
    }
    return 1;
}

static void append_escape(sp_buffer *out, char c)
{
    static const char raw[] = "\"\\\b\f\n\r\t", name[] = "\"\\bfnrt";
    const char *found = memchr(raw, c, sizeof raw - 1);
    if (found) {
        char pair[2] = {'\\', name[found - raw]};
        sp_buffer_append(out, pair, sizeof pair);
    } else {
        sp_buffer_format(out, "\\u%04x", (unsigned)(unsigned char)c);
    }
}

static void append_string(sp_buffer *out, const char *text, size_t size)
{
    sp_buffer_append(out, "\"", 1);
    size_t plain = 0; /* start of the bytes that can be copied as they are */
    for (size_t at = 0; at < size;) {
        unsigned char c = (unsigned char)text[at];
        size_t length = c < 0x80 ? 1 : sp_utf8_length(text + at, size - at);
        if (length > 0 && c >= 0x20 && c != '"' && c != '\\') {
            at += length;
            continue;
        }
        if (at > plain) sp_buffer_append(out, text + plain, at - plain);
        if (length > 0) {
            append_escape(out, text[at]);
        } else {
            length = ill_formed_length(text + at, size - at);
            sp_buffer_append(out, "\xef\xbf\xbd", 3);
        }
        at += length;
        plain = at;
    }
    if (size > plain) sp_buffer_append(out, text + plain, size - plain);
    sp_buffer_append(out, "\"", 1);
}

void sp_json_key(sp_json_writer *writer, const char *key)
{
    assert(writer->depth > 0 && !writer->after_key);
    begin_item(writer);
    append_string(writer->out, key, strlen(key));
    sp_buffer_append(writer->out, ":", 1);
    writer->after_key = true;
}

void sp_json_string(sp_json_writer *writer, const char *text, size_t size)
{
    begin_item(writer);
    append_string(writer->out, text, size);
}

void sp_json_cstring(sp_json_writer *writer, const char *text)
{
    if (text)
        sp_json_string(writer, text, strlen(text));
    else
        sp_json_null(writer);
}

void sp_json_int(sp_json_writer *writer, int64_t value)
{
    begin_item(writer);
    sp_buffer_format(writer->out, "%" PRId64, value);
}

void sp_json_uint(sp_json_writer *writer, uint64_t value)
{
    begin_item(writer);
    sp_buffer_format(writer->out, "%" PRIu64, value);
}

/* Prints value with the fewest digits that read back, as a double or as a float32. */
static void append_number(sp_buffer *out, double value, int max_digits, bool single)
{
    char text[NUMBER_TEXT];
    if (fabs(value) < 1e15 && value == floor(value)) {
        snprintf(text, sizeof text, "%.0f", value);
    } else {
        for (int digits = 1; digits <= max_digits; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, value);
            if (single ? (double)strtof(text, NULL) == value : strtod(text, NULL) == value) break;
        }
    }
    sp_buffer_text(out, text);
}

void sp_json_number(sp_json_writer *writer, double value)
{
    if (!isfinite(value)) {
        sp_json_null(writer);
        return;
    }
    begin_item(writer);
    append_number(writer->out, value, 17, false);
}

void sp_json_float(sp_json_writer *writer, float value)
{
    if (!isfinite(value)) {
        sp_json_null(writer);
        return;
    }
    begin_item(writer);
    append_number(writer->out, (double)value, 9, true);
}

void sp_json_bool(sp_json_writer *writer, bool value)
{
    begin_item(writer);
    sp_buffer_text(writer->out, value ? "true" : "false");
}

void sp_json_null(sp_json_writer *writer)
{
    begin_item(writer);
    sp_buffer_text(writer->out, "null");
}

void sp_json_raw(sp_json_writer *writer, const char *json, size_t size)
{
    begin_item(writer);
    sp_buffer_append(writer->out, json, size);
}
