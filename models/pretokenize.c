/* Pre-tokenizers known by their pattern, as hand-written scanners: no regex engine, no recursion, no
 * backtracking; every call looks at each character a constant number of times. The patterns stand in
 * sp_split_pattern.
 *
 * A run of white space before something else leaves its last character to what follows (\s+(?!\S)), unless it
 * is only one character long. Llama 3 and Qwen 2 differ in how many numbers make a piece. The patterns of
 * DeepSeek leave gaps, which are pieces too. Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c */
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

/* numbers: how many \p{N} make a piece. */
static size_t next_llama3(const scan *s, size_t begin, int numbers)
{
    size_t skip = contraction(s, begin, true), length, length2;
    if (skip) return begin + skip;
    sp_char_class class = class_at(s, begin, &length);
    if (class == SP_CHAR_LETTER) return run_end(s, begin, SP_CHAR_LETTER);
    if (class == SP_CHAR_NUMBER) return number_end(s, begin, numbers);
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

/* --- patterns that leave gaps: a piece is a match, or what lies in front of the next one --- */

typedef size_t match_function(const scan *s, size_t place); /* end of the match at place, 0 for none */

static size_t next_match(const scan *s, size_t begin, match_function *match)
{
    size_t end = match(s, begin), length, place = begin;
    if (end) return end;
    do {
        class_at(s, place, &length);
        place += length;
    } while (place < s->end && !match(s, place));
    return place;
}

static bool is_punctuation(uint32_t code)
{
    return sp_unicode_kind(code) == SP_KIND_PUNCTUATION;
}
static bool is_letter(uint32_t code)
{
    return sp_unicode_class(code) == SP_CHAR_LETTER;
}
static bool is_word(uint32_t code)
{
    sp_char_kind kind = sp_unicode_kind(code);
    return is_letter(code) || kind == SP_KIND_MARK || kind == SP_KIND_ACCENT;
}
static bool is_sign(uint32_t code)
{
    return is_punctuation(code) || sp_unicode_kind(code) == SP_KIND_SYMBOL;
}
static bool is_cjk(uint32_t code)
{
    return (code >= 0x0800 && code <= 0x9fa5) || (code >= 0xac00 && code <= 0xd7ff);
}
static bool is_kana(uint32_t code)
{
    return (code >= 0x4e00 && code <= 0x9fa5) || (code >= 0x3040 && code <= 0x30ff);
}

/* End of the run of characters that pass a test. */
static size_t tested_end(const scan *s, size_t place, bool (*test)(uint32_t))
{
    size_t length;
    while (place < s->end && test(sp_utf8_decode(s->text + place, &length))) place += length;
    return place;
}

static size_t match_line(const scan *s, size_t place)
{
    return is_newline(s, place) ? place + 1 : 0;
}

/* \s?X+ */
static size_t match_run(const scan *s, size_t place, bool (*test)(uint32_t))
{
    size_t length, start = place;
    if (class_at(s, place, &length) == SP_CHAR_SPACE) start += length;
    size_t end = tested_end(s, start, test);
    return end > start ? end : 0;
}
static size_t match_words(const scan *s, size_t place)
{
    return match_run(s, place, is_letter);
}
static size_t match_punctuation(const scan *s, size_t place)
{
    return match_run(s, place, is_punctuation);
}

static size_t match_cjk(const scan *s, size_t place)
{
    size_t end = tested_end(s, place, is_cjk);
    return end > place ? end : 0;
}
static size_t match_kana(const scan *s, size_t place)
{
    size_t end = tested_end(s, place, is_kana);
    return end > place ? end : 0;
}
static size_t match_numbers3(const scan *s, size_t place)
{
    size_t end = number_end(s, place, 3);
    return end > place ? end : 0;
}

static bool is_ascii_letter(uint32_t code)
{
    return (code | 0x20u) >= 'a' && (code | 0x20u) <= 'z';
}

/* The two branches of DeepSeek V3 that take words: an ASCII sign with ASCII letters, or letters and marks
 * with one character in front that is neither line break, letter, punctuation nor symbol. */
static size_t match_deepseek3_word(const scan *s, size_t place)
{
    size_t length, end;
    uint32_t code = sp_utf8_decode(s->text + place, &length);
    if (code > ' ' && code < 0x7f && !is_ascii_letter(code) && (code < '0' || code > '9')) {
        end = tested_end(s, place + 1, is_ascii_letter);
        if (end > place + 1) return end;
    }
    size_t start = is_word(code) || is_sign(code) || is_newline(s, place) ? place : place + length;
    end = tested_end(s, start, is_word);
    return end > start ? end : 0;
}

static size_t match_deepseek3(const scan *s, size_t place)
{
    size_t length, end = match_deepseek3_word(s, place);
    if (end) return end;
    size_t start = is_at(s, place, ' ') ? place + 1 : place;
    end = tested_end(s, start, is_sign);
    if (end > start) {
        while (is_newline(s, end)) end++;
        return end;
    }
    return class_at(s, place, &length) == SP_CHAR_SPACE ? space_or_lines_end(s, place) : 0;
}

static size_t match_number(const scan *s, size_t place)
{
    size_t length;
    return class_at(s, place, &length) == SP_CHAR_NUMBER ? place + length : 0;
}

static size_t next_meta(const scan *s, size_t begin)
{
    const char *text = s->text, *meta = "\xe2\x96\x81";
    for (size_t place = begin + 1; place + 3 <= s->end; place++)
        if (text[place] == meta[0] && memcmp(text + place, meta, 3) == 0) return place;
    return s->end;
}

static bool is_bert_punctuation(uint32_t code)
{
    bool ascii = (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
                 (code >= 123 && code <= 126);
    return ascii || is_punctuation(code);
}
static bool is_white(uint32_t code)
{
    return sp_unicode_class(code) == SP_CHAR_SPACE;
}
static bool is_plain(uint32_t code)
{
    return !is_bert_punctuation(code) && !is_white(code);
}

static size_t next_bert(const scan *s, size_t begin)
{
    size_t length, end = tested_end(s, begin, is_white);
    if (end == begin) end = tested_end(s, begin, is_plain);
    class_at(s, begin, &length);
    return end > begin ? end : begin + length;
}

const char *sp_split_pattern(sp_split split)
{
    static const char *const patterns[SP_SPLIT_PATTERNS] = {
        [SP_SPLIT_GPT2] =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        [SP_SPLIT_LLAMA3] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        [SP_SPLIT_QWEN2] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                           "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        [SP_SPLIT_LINES] = "[\r\n]",
        [SP_SPLIT_WORDS] = "\\s?\\p{L}+",
        [SP_SPLIT_PUNCTUATION] = "\\s?\\p{P}+",
        [SP_SPLIT_CJK] = "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+",
        [SP_SPLIT_NUMBERS3] = "\\p{N}{1,3}",
        [SP_SPLIT_KANA] = "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
        [SP_SPLIT_DEEPSEEK3] =
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    };
    return split < SP_SPLIT_PATTERNS ? patterns[split] : NULL;
}

size_t sp_split_next(sp_split split, const char *text, size_t begin, size_t end)
{
    static match_function *const matches[SP_SPLIT_META] = {
        [SP_SPLIT_LINES] = match_line,
        [SP_SPLIT_WORDS] = match_words,
        [SP_SPLIT_PUNCTUATION] = match_punctuation,
        [SP_SPLIT_CJK] = match_cjk,
        [SP_SPLIT_NUMBERS3] = match_numbers3,
        [SP_SPLIT_KANA] = match_kana,
        [SP_SPLIT_DEEPSEEK3] = match_deepseek3,
        [SP_SPLIT_DIGITS] = match_number,
    };
    scan s = {text, end};
    if (split == SP_SPLIT_GPT2) return next_gpt2(&s, begin);
    if (split == SP_SPLIT_LLAMA3) return next_llama3(&s, begin, 3);
    if (split == SP_SPLIT_QWEN2) return next_llama3(&s, begin, 1);
    if (split == SP_SPLIT_META) return next_meta(&s, begin);
    if (split == SP_SPLIT_BERT) return next_bert(&s, begin);
    return next_match(&s, begin, matches[split]);
}
