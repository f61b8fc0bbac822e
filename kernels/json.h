/* Strict JSON (RFC 8259): a validator, a pull reader over a validated text, and a writer.
 *
 * Everything that comes from outside is validated first: UTF-8, depth, duplicate keys (escaped spellings
 * too), lone surrogates, numbers beyond a double, trailing bytes, a BOM. Linear time, no recursion on input,
 * memory bounded by the text. Used for safetensors headers, tokenizers, exports; request bodies pass through
 * sp_json_validate before cJSON sees them (server/). Tests: tests/unit/kernels/test_json.c,
 * tests/fuzz/fuzz_json.c */
#ifndef SPARSED_KERNELS_JSON_H
#define SPARSED_KERNELS_JSON_H

#include "kernels/base.h"

#define SP_JSON_MAX_DEPTH 32 /* the outermost value is depth 1 */

/* SP_DATA with byte offset and reason in *error. */
sp_status sp_json_validate(const char *text, size_t size, sp_error *error) SP_MUST_CHECK;

typedef enum sp_json_type {
    SP_JSON_END,
    SP_JSON_OBJECT,
    SP_JSON_OBJECT_END,
    SP_JSON_ARRAY,
    SP_JSON_ARRAY_END,
    SP_JSON_KEY,
    SP_JSON_STRING,
    SP_JSON_NUMBER,
    SP_JSON_TRUE,
    SP_JSON_FALSE,
    SP_JSON_NULL
} sp_json_type;

/* Pull reader over a text that sp_json_validate accepted (an invariant, asserted). */
typedef struct sp_json {
    const char *text;
    size_t size, position;
    uint32_t depth;
    bool expect_value;                /* after a key */
    uint8_t kinds[SP_JSON_MAX_DEPTH]; /* open containers: '{' or '[' */
    const char *raw;                  /* the current KEY, STRING or NUMBER: raw bytes without quotes */
    size_t raw_size;
} sp_json;

void sp_json_init(sp_json *reader, const char *text, size_t size);
sp_json_type sp_json_next(sp_json *reader);
/* Skips the value that sp_json_next just opened (object or array); nothing for scalars. */
void sp_json_skip(sp_json *reader, sp_json_type type);
/* The current KEY or STRING equals this literal after unescaping. */
bool sp_json_is(const sp_json *reader, const char *literal);
/* Unescapes the current KEY or STRING into the arena (NUL added; *size counts without it); NULL out of
 * memory. */
char *sp_json_text(const sp_json *reader, sp_arena *arena, size_t *size);
double sp_json_double(const sp_json *reader); /* current NUMBER */
bool sp_json_int64(const sp_json *reader,
                   int64_t *value); /* false unless integral (1.0 counts) and in range */

/* --- writer: appends to a buffer, inserts commas; strings are escaped, ill-formed UTF-8 becomes U+FFFD ---
 */
typedef struct sp_json_writer {
    sp_buffer *out;
    uint32_t depth;
    uint64_t has_item; /* one bit a depth */
    bool after_key;
} sp_json_writer;

void sp_json_writer_init(sp_json_writer *writer, sp_buffer *out);
void sp_json_open(sp_json_writer *writer, char bracket);  /* '{' or '[' */
void sp_json_close(sp_json_writer *writer, char bracket); /* '}' or ']' */
void sp_json_key(sp_json_writer *writer, const char *key);
void sp_json_string(sp_json_writer *writer, const char *text, size_t size);
void sp_json_cstring(sp_json_writer *writer, const char *text); /* NULL writes null */
void sp_json_int(sp_json_writer *writer, int64_t value);
void sp_json_uint(sp_json_writer *writer, uint64_t value);
void sp_json_number(sp_json_writer *writer,
                    double value); /* shortest that reads back; NaN and Inf write null */
void sp_json_float(sp_json_writer *writer, float value); /* shortest that reads back to the same float32 */
void sp_json_bool(sp_json_writer *writer, bool value);
void sp_json_null(sp_json_writer *writer);
void sp_json_raw(sp_json_writer *writer, const char *json, size_t size); /* one finished value */

#endif
