/* Looks code points up in the tables made at build; Hangul syllables by the arithmetic of the Unicode
 * Standard, section 3.12. Tests: tests/unit/models/test_normalize.c, tests/unit/models/test_tokenizer.c */
#include "models/unicode.h"

#include "models/unicode_tables.h"

#define CLASS_BITS 3u
#define KIND_SHIFT 2u
#define KIND_BITS 7u
#define DECOMPOSES 0x20u
#define HAS_LOWER 0x40u
#define JOINS 0x80u

#define HANGUL_FIRST 0xac00u
#define HANGUL_COUNT 11172u
#define LEAD_FIRST 0x1100u
#define LEAD_COUNT 19u
#define VOWEL_FIRST 0x1161u
#define VOWEL_COUNT 21u
#define TAIL_FIRST 0x11a7u /* one below the first tail: no tail */
#define TAIL_COUNT 28u

static uint8_t properties(uint32_t code)
{
    if (code > 0x10ffffu) return 0;
    return sp_unicode_rows[sp_unicode_blocks[code >> 8]][code & 255u];
}

sp_char_class sp_unicode_class(uint32_t code)
{
    return (sp_char_class)(properties(code) & CLASS_BITS);
}

sp_char_kind sp_unicode_kind(uint32_t code)
{
    return (sp_char_kind)(properties(code) >> KIND_SHIFT & KIND_BITS);
}

bool sp_unicode_is_inert(uint32_t code)
{
    return !(properties(code) & (DECOMPOSES | JOINS));
}

bool sp_unicode_joins(uint32_t code)
{
    return properties(code) & JOINS;
}

uint8_t sp_unicode_combining(uint32_t code)
{
    size_t low = 0, high = sizeof sp_unicode_combining_classes / sizeof *sp_unicode_combining_classes;
    if (!sp_unicode_joins(code)) return 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sp_unicode_combining_classes[middle] >> 8 < code)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < sizeof sp_unicode_combining_classes / sizeof *sp_unicode_combining_classes &&
                 sp_unicode_combining_classes[low] >> 8 == code;
    return found ? (uint8_t)sp_unicode_combining_classes[low] : 0;
}

/* Copies what a sorted list maps a code point to; 0 when it is not listed. */
static size_t map(const sp_mapping *list, size_t n, uint32_t code, uint32_t *out)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == n || list[low].code != code) return 0;
    for (size_t i = 0; i < list[low].count; i++) out[i] = sp_unicode_points[list[low].place + i];
    return list[low].count;
}
#define MAP(list, code, out) map(list, sizeof(list) / sizeof *(list), code, out)

size_t sp_unicode_decompose(uint32_t code, bool compatible, uint32_t out[SP_MAX_DECOMPOSITION])
{
    size_t n = 0;
    if (properties(code) & DECOMPOSES) {
        uint32_t index = code - HANGUL_FIRST;
        if (index < HANGUL_COUNT) {
            out[0] = LEAD_FIRST + index / (VOWEL_COUNT * TAIL_COUNT);
            out[1] = VOWEL_FIRST + index / TAIL_COUNT % VOWEL_COUNT;
            out[2] = TAIL_FIRST + index % TAIL_COUNT;
            return out[2] == TAIL_FIRST ? 2 : 3;
        }
        if (compatible) n = MAP(sp_unicode_compatible, code, out);
        if (n == 0) n = MAP(sp_unicode_canonical, code, out);
    }
    if (n) return n;
    out[0] = code;
    return 1;
}

uint32_t sp_unicode_compose(uint32_t first, uint32_t second)
{
    size_t count = sizeof sp_unicode_compositions / sizeof *sp_unicode_compositions, low = 0, high = count;
    if (!sp_unicode_joins(second)) return 0;
    uint32_t lead = first - LEAD_FIRST, vowel = second - VOWEL_FIRST, tail = second - TAIL_FIRST,
             syllable = first - HANGUL_FIRST;
    if (lead < LEAD_COUNT && vowel < VOWEL_COUNT)
        return HANGUL_FIRST + (lead * VOWEL_COUNT + vowel) * TAIL_COUNT;
    if (syllable < HANGUL_COUNT && syllable % TAIL_COUNT == 0 && tail > 0 && tail < TAIL_COUNT)
        return first + tail;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const sp_composition *pair = &sp_unicode_compositions[middle];
        if (pair->first < first || (pair->first == first && pair->second < second))
            low = middle + 1;
        else
            high = middle;
    }
    const sp_composition *pair = &sp_unicode_compositions[low];
    return low < count && pair->first == first && pair->second == second ? pair->composed : 0;
}

size_t sp_unicode_lower(uint32_t code, uint32_t out[SP_MAX_LOWER])
{
    if (properties(code) & HAS_LOWER) return MAP(sp_unicode_lower_case, code, out);
    out[0] = code;
    return 1;
}

uint32_t sp_utf8_decode(const char *text, size_t *length)
{
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *length = 2;
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    }
    if (b[0] < 0xf0) {
        *length = 3;
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    }
    *length = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

size_t sp_utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80u | (code & 0x3fu));
    out[0] = (char)((0xf00u >> n & 0xffu) | code);
    return n;
}
