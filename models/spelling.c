/* What tokens stand for. The spelling of bytes is GPT-2's: printable bytes of Latin-1 stand for themselves,
 * the other 68 for U+0100, U+0101... in their order. WordPiece's tidying is that of the Hugging Face library,
 * which looks at one token with the space in front of it. Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c */
#include "models/spelling.h"

#include <string.h>

#include "models/unicode.h"

#define META_CODE 0x2581u

/* --- bytes --- */

static bool is_printable(uint32_t code)
{
    return (code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255);
}

/* Code point of a byte: itself, or 256 + the number of unprintable bytes below it. */
static uint32_t spelled_code(uint32_t byte)
{
    if (is_printable(byte)) return byte;
    if (byte < 33) return 256 + byte;
    if (byte < 161) return 256 + 33 + (byte - 127);
    return 256 + 33 + 34; /* 173 */
}

size_t sp_byte_spell(uint8_t byte, char out[2])
{
    char bytes[4];
    size_t n = sp_utf8_encode(spelled_code(byte), bytes);
    memcpy(out, bytes, n);
    return n;
}

/* The byte that a character stands for, -1 for none. */
static int unspell(uint32_t code)
{
    if (code >= 256 && code < 256 + 33) return (int)code - 256;
    if (code >= 256 + 33 && code < 256 + 67) return (int)code - 256 - 33 + 127;
    if (code == 256 + 67) return 173;
    return is_printable(code) ? (int)code : -1;
}

static size_t read_bytes(const char *piece, size_t size, char *out)
{
    size_t n = 0, length;
    for (size_t i = 0; i < size; i += length) {
        int byte = unspell(sp_utf8_decode(piece + i, &length));
        if (byte < 0) {
            memcpy(out, piece, size);
            return size;
        }
        out[n++] = (char)byte;
    }
    return n;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool looks_like_byte(const char *piece, size_t size)
{
    return size == 6 && memcmp(piece, "<0x", 3) == 0 && piece[5] == '>';
}

int sp_byte_token(const char *piece, size_t size)
{
    if (!looks_like_byte(piece, size)) return -1;
    int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

bool sp_byte_token_is_bad(const char *piece, size_t size)
{
    return looks_like_byte(piece, size) && sp_byte_token(piece, size) < 0;
}

/* --- spaces --- */

/* Meta symbols become spaces, or go. */
static size_t read_meta(const char *piece, size_t size, bool drop, char *out)
{
    size_t n = 0, length;
    for (size_t i = 0; i < size; i += length) {
        if (sp_utf8_decode(piece + i, &length) == META_CODE) {
            if (!drop) out[n++] = ' ';
        } else {
            memcpy(out + n, piece + i, length);
            n += length;
        }
    }
    return n;
}

/* Replaces every occurrence of a text by a shorter one, in place. */
static size_t replace(char *text, size_t size, const char *from, const char *to)
{
    size_t n = 0, n_from = strlen(from), n_to = strlen(to);
    for (size_t i = 0; i < size;) {
        if (size - i >= n_from && memcmp(text + i, from, n_from) == 0) {
            memcpy(text + n, to, n_to);
            n += n_to;
            i += n_from;
        } else {
            text[n++] = text[i++];
        }
    }
    return n;
}

static size_t tidy(char *text, size_t size)
{
    static const char *const pairs[][2] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        size = replace(text, size, pairs[i][0], pairs[i][1]);
    return size;
}

static size_t read_word(const char *piece, size_t size, bool start, bool tidied, char *out)
{
    size_t n = 0, skip = !start && size >= 2 && memcmp(piece, "##", 2) == 0 ? 2 : 0;
    if (!start && !skip) out[n++] = ' ';
    memcpy(out + n, piece + skip, size - skip);
    n += size - skip;
    return tidied ? tidy(out, n) : n;
}

static size_t read_piece(sp_spelling spelling, const char *piece, size_t size, bool start, char *out)
{
    int byte;
    switch (spelling) {
    case SP_SPELLING_BYTES:
        return read_bytes(piece, size, out);
    case SP_SPELLING_META:
        return read_meta(piece, size, start, out);
    case SP_SPELLING_FALLBACK:
        byte = sp_byte_token(piece, size);
        if (byte < 0) return read_meta(piece, size, false, out);
        *out = (char)byte;
        return 1;
    case SP_SPELLING_WORDS:
    case SP_SPELLING_WORDS_TIDY:
        return read_word(piece, size, start, spelling == SP_SPELLING_WORDS_TIDY, out);
    default:
        memcpy(out, piece, size);
        return size;
    }
}

size_t sp_spelling_text(sp_spelling spelling, const char *piece, size_t size, char *out)
{
    return read_piece(spelling, piece, size, false, out);
}

size_t sp_spelling_start(sp_spelling spelling, const char *piece, size_t size, char *out)
{
    return read_piece(spelling, piece, size, true, out);
}
