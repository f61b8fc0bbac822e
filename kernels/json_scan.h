/* Strings and numbers inside a JSON text: what the validator and the reader share. Private to
 * kernels/json_*.c. */
#ifndef SPARSED_KERNELS_JSON_SCAN_H
#define SPARSED_KERNELS_JSON_SCAN_H

#include "kernels/base.h"

static inline bool sp_json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Length of the raw string that starts at text (behind its opening quote) up to the closing quote. On a fault
 * returns the offset of the fault, at most size, and sets *fault to a reason. */
size_t sp_json_scan_string(const char *text, size_t size, const char **fault);

/* Takes one character of a raw, valid string: writes its 1 to 4 UTF-8 bytes and returns their number; *taken
 * receives the raw bytes used. raw[size] must not be empty. */
size_t sp_json_decode(const char *raw, size_t size, char out[4], size_t *taken);

/* Length of the longest number (RFC 8259, section 6) at text, or 0. */
size_t sp_json_scan_number(const char *text, size_t size);

/* The nearest double of a valid number; infinite when beyond the largest. Linear time for any number of
 * digits. */
double sp_json_number_value(const char *raw, size_t size);

/* The exact value of a valid number, if integral and in range. */
bool sp_json_number_int64(const char *raw, size_t size, int64_t *value);

#endif
