/* Pre-tokenizers known by their pattern, as hand-written scanners: no regex engine, no recursion, no
 * backtracking; every call looks at each character a constant number of times.
 *
 * GPT-2:    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama 3:  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+| \s+(?!\S)|\s+ Digits:   every \p{N} alone, the rest in runs.
 *
 * A run of white space before something else leaves its last character to what follows (\s+(?!\S)), unless it
 * is only one character long. Tests: tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c */
#include "models/pretokenize.h"

#include <string.h>

#include "models/unicode.h"

typedef struct scan {
    const char *text;
    size_t end;
} scan;

/* Class of the character at a place, its length in *length; SP_CHAR_OTHER and length 0 at the end. */
static sp_char_class class_at(const scan *s, size_t place, size_t *length)
{
    *length = 0;
    if (place >= s->end) return SP_CHAR_OTHER;
    return sp_unicode_class(sp_utf8_decode(s->text + place, length));
}

/* End of the run of characters of this class that begins at place. */
static size_t run_end(const scan *s, size_t place, sp_char_class wanted)
{
    size_t length;
    while (class_at(s, place, &length) == wanted && length) place += length;
    return place;
}

static bool is_at(const scan *s, size_t place, char byte)
{
    return place < s->end && s->text[place] == byte;
}

/* Bytes of a contraction at place ('s 't 're 've 'm 'll 'd), or 0. Any case folds U+017F to s as well. */
static size_t contraction(const scan *s, size_t place, bool any_case)
{
    if (!is_at(s, place, '\'')) return 0;
    const char *rest = s->text + place + 1;
    size_t left = s->end - place - 1;
    if (any_case && left >= 2 && memcmp(rest, "\xc5\xbf", 2) == 0) return 3;
    char fold = any_case ? 0x20 : 0;
    char first = left > 0 ? (char)(rest[0] | fold) : 0, second = left > 1 ? (char)(rest[1] | fold) : 0;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    bool pair =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return pair ? 3 : 0;
}

/* \s+(?!\S)|\s+ at white space. */
static size_t space_end(const scan *s, size_t begin)
{
    size_t place = begin, last = begin, length;
    while (class_at(s, place, &length) == SP_CHAR_SPACE) {
        last = place;
        place += length;
    }
    return place < s->end && last > begin ? last : place;
}

static size_t next_gpt2(const scan *s, size_t begin)
{
    size_t skip = contraction(s, begin, false), length;
    if (skip) return begin + skip;
    size_t start = is_at(s, begin, ' ') ? begin + 1 : begin;
    sp_char_class class = class_at(s, start, &length);
    if (length && class != SP_CHAR_SPACE) return run_end(s, start, class);
    return space_end(s, begin);
}

static bool is_newline(const scan *s, size_t place)
{
    return is_at(s, place, '\r') || is_at(s, place, '\n');
}

/* Llama 3's branches for white space: \s*[\r\n]+ up to the last line break of the run, else as GPT-2. */
static size_t space_or_lines_end(const scan *s, size_t begin)
{
    size_t length, behind_line = 0;
    for (size_t place = begin; class_at(s, place, &length) == SP_CHAR_SPACE; place += length)
        if (is_newline(s, place)) behind_line = place + 1;
    return behind_line ? behind_line : space_end(s, begin);
}

static size_t number_end(const scan *s, size_t begin, int most)
{
    size_t length;
    for (int n = 0; n < most && class_at(s, begin, &length) == SP_CHAR_NUMBER; n++) begin += length;
    return begin;
}

static size_t next_llama3(const scan *s, size_t begin)
{
    size_t skip = contraction(s, begin, true), length, length2;
    if (skip) return begin + skip;
    sp_char_class class = class_at(s, begin, &length);
    if (class == SP_CHAR_LETTER) return run_end(s, begin, SP_CHAR_LETTER);
    if (class == SP_CHAR_NUMBER) return number_end(s, begin, 3);
    if (!is_newline(s, begin) && class_at(s, begin + length, &length2) == SP_CHAR_LETTER)
        return run_end(s, begin + length, SP_CHAR_LETTER);
    size_t start = is_at(s, begin, ' ') ? begin + 1 : begin;
    if (class_at(s, start, &length2) == SP_CHAR_OTHER && length2) {
        size_t end = run_end(s, start, SP_CHAR_OTHER);
        while (is_newline(s, end)) end++;
        return end;
    }
    return space_or_lines_end(s, begin);
}

static size_t next_digits(const scan *s, size_t begin)
{
    size_t place = begin, length;
    while (class_at(s, place, &length) != SP_CHAR_NUMBER && length) place += length;
    return place > begin ? place : begin + length;
}

const char *sp_split_pattern(sp_split split)
{
    switch (split) {
    case SP_SPLIT_GPT2:
        return "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    case SP_SPLIT_LLAMA3:
        return "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
               "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    default:
        return NULL;
    }
}

size_t sp_split_next(sp_split split, const char *text, size_t begin, size_t end)
{
    scan s = {text, end};
    if (split == SP_SPLIT_GPT2) return next_gpt2(&s, begin);
    if (split == SP_SPLIT_LLAMA3) return next_llama3(&s, begin);
    return next_digits(&s, begin);
}
