/* Strings and numbers inside a JSON text (RFC 8259, sections 6 and 7).
 *
 * Numbers are brought to the form digits * 10^exponent with at most MAX_DIGITS digits kept. A double's
 * midpoints have at most 767 significant digits, so what lies beyond only matters as "zero or not": one
 * sticky digit stands for it, and strtod on that short text rounds correctly in bounded time. Short numbers
 * (15 digits, |exponent| <= 22) are one exact product or quotient of doubles (Clinger, "How to read floating
 * point numbers accurately", 1990). Tests: tests/unit/kernels/test_json.c, tests/fuzz/fuzz_json.c */
#include "kernels/json_scan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 800, EXACT_DIGITS = 15, EXACT_POWER = 22, LARGE_EXPONENT = 100000 };

/* --- strings --- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The code unit of \uXXXX at text, or -1. */
static int32_t escaped_unit(const char *text, size_t size)
{
    if (size < 6 || text[0] != '\\' || text[1] != 'u') return -1;
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_value(text[i]);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static bool is_high_surrogate(int32_t unit)
{
    return unit >= 0xd800 && unit < 0xdc00;
}

static bool is_low_surrogate(int32_t unit)
{
    return unit >= 0xdc00 && unit < 0xe000;
}

/* Raw length of the escape at text (a backslash), or 0 with a reason. */
static size_t scan_escape(const char *text, size_t size, const char **fault)
{
    *fault = "unknown escape";
    if (size < 2 || !text[1] || !strchr("\"\\/bfnrtu", text[1])) return 0;
    if (text[1] != 'u') return 2;
    int32_t unit = escaped_unit(text, size);
    *fault = "\\u without four hexadecimal digits";
    if (unit < 0) return 0;
    *fault = "lone surrogate";
    if (is_low_surrogate(unit)) return 0;
    if (!is_high_surrogate(unit)) return 6;
    return is_low_surrogate(escaped_unit(text + 6, size - 6)) ? 12 : 0;
}

size_t sp_json_scan_string(const char *text, size_t size, const char **fault)
{
    size_t at = 0;
    while (at < size && text[at] != '"') {
        size_t length;
        if (text[at] == '\\') {
            length = scan_escape(text + at, size - at, fault);
        } else if ((unsigned char)text[at] < 0x20) {
            *fault = "control character in a string";
            length = 0;
        } else {
            length = sp_utf8_length(text + at, size - at);
            *fault = "ill-formed UTF-8";
        }
        if (length == 0) return at;
        at += length;
    }
    *fault = at < size ? NULL : "string without an end";
    return at;
}

static size_t encode_utf8(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[n] | c);
    return n;
}

size_t sp_json_decode(const char *raw, size_t size, char out[4], size_t *taken)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (raw[0] != '\\') { /* bytes of a UTF-8 sequence may pass one by one */
        out[0] = raw[0];
        *taken = 1;
        return 1;
    }
    assert(size >= 2);
    if (raw[1] != 'u') {
        const char *found = memchr(names, raw[1], sizeof names - 1);
        assert(found);
        out[0] = values[found - names];
        *taken = 2;
        return 1;
    }
    int32_t unit = escaped_unit(raw, size);
    assert(unit >= 0);
    *taken = 6;
    if (!is_high_surrogate(unit)) return encode_utf8((uint32_t)unit, out);
    int32_t low = escaped_unit(raw + 6, size - 6);
    assert(is_low_surrogate(low));
    *taken = 12;
    return encode_utf8(0x10000u + ((uint32_t)(unit - 0xd800) << 10) + (uint32_t)(low - 0xdc00), out);
}

/* --- numbers --- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t count_digits(const char *text, size_t size)
{
    size_t n = 0;
    while (n < size && is_digit(text[n])) n++;
    return n;
}

size_t sp_json_scan_number(const char *text, size_t size)
{
    size_t at = size > 0 && text[0] == '-';
    size_t digits = count_digits(text + at, size - at);
    if (digits == 0 || (digits > 1 && text[at] == '0')) return 0;
    at += digits;
    if (at < size && text[at] == '.') {
        digits = count_digits(text + at + 1, size - at - 1);
        if (digits == 0) return 0;
        at += 1 + digits;
    }
    if (at < size && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        if (at < size && (text[at] == '+' || text[at] == '-')) at++;
        digits = count_digits(text + at, size - at);
        if (digits == 0) return 0;
        at += digits;
    }
    return at;
}

struct decimal {
    bool negative, inexact; /* inexact: digits other than 0 were dropped behind the kept ones */
    size_t n;
    int64_t exponent;        /* the value is digits (as an integer) times 10^exponent */
    char digits[MAX_DIGITS]; /* the first is not '0'; n == 0 is zero */
};

/* The written exponent; far beyond any use it stays at +-10^15. */
static int64_t parse_exponent(const char *text, size_t size)
{
    int64_t value = 0;
    size_t at = size > 0 && (text[0] == '-' || text[0] == '+');
    for (; at < size; at++)
        if (value < 100000000000000) value = value * 10 + (text[at] - '0');
    return text[0] == '-' ? -value : value;
}

static void parse_decimal(const char *raw, size_t size, struct decimal *d)
{
    d->negative = raw[0] == '-';
    d->inexact = false;
    d->n = 0;
    d->exponent = 0;
    bool fraction = false;
    size_t at = d->negative;
    for (; at < size && raw[at] != 'e' && raw[at] != 'E'; at++) {
        if (raw[at] == '.') {
            fraction = true;
            continue;
        }
        bool kept = d->n < MAX_DIGITS;
        if (kept && (d->n > 0 || raw[at] != '0')) d->digits[d->n++] = raw[at];
        if (!kept && raw[at] != '0') d->inexact = true;
        if (kept && fraction) d->exponent--;
        if (!kept && !fraction) d->exponent++;
    }
    if (at < size) d->exponent += parse_exponent(raw + at + 1, size - at - 1);
}

double sp_json_number_value(const char *raw, size_t size)
{
    static const double powers[EXACT_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    struct decimal d;
    parse_decimal(raw, size, &d);
    if (d.n == 0) return d.negative ? -0.0 : 0.0;
    if (d.n <= EXACT_DIGITS && d.exponent >= -EXACT_POWER && d.exponent <= EXACT_POWER) {
        double value = 0;
        for (size_t i = 0; i < d.n; i++) value = value * 10 + (d.digits[i] - '0');
        value = d.exponent < 0 ? value / powers[-d.exponent] : value * powers[d.exponent];
        return d.negative ? -value : value;
    }
    if (d.inexact) { /* one more digit stands for all that were dropped */
        d.digits[MAX_DIGITS - 1] = d.digits[MAX_DIGITS - 1] == '0' ? '1' : d.digits[MAX_DIGITS - 1];
    }
    if (d.exponent > LARGE_EXPONENT) d.exponent = LARGE_EXPONENT;
    if (d.exponent < -LARGE_EXPONENT) d.exponent = -LARGE_EXPONENT;
    char text[MAX_DIGITS + 16];
    snprintf(text, sizeof text, "%s%.*se%d", d.negative ? "-" : "", (int)d.n, d.digits, (int)d.exponent);
    return strtod(text, NULL);
}

bool sp_json_number_int64(const char *raw, size_t size, int64_t *value)
{
    struct decimal d;
    parse_decimal(raw, size, &d);
    while (d.n > 0 && d.digits[d.n - 1] == '0') {
        d.n--;
        d.exponent++;
    }
    int64_t result = 0;
    if (d.n > 0 && (d.exponent < 0 || d.inexact || d.exponent > 18)) return false;
    for (size_t i = 0; i < d.n + (d.n > 0 ? (size_t)d.exponent : 0); i++) {
        int digit = i < d.n ? d.digits[i] - '0' : 0;
        if (__builtin_mul_overflow(result, 10, &result)) return false;
        if (__builtin_sub_overflow(result, digit, &result)) return false; /* negative: INT64_MIN fits too */
    }
    if (!d.negative && __builtin_sub_overflow((int64_t)0, result, &result)) return false;
    *value = result;
    return true;
}
