/* Fuzz target: tokens whose bytes end inside code points, decoded as they come and sent as server-sent
 * events, which arrive cut anywhere.
 *
 * Input: a byte that seeds where the events are cut; then tokens: a byte is the token of that byte, 0xFF and
 * k the k-th of the longer tokens (the special one among them) or, from 128 on, the token of byte 0xFF. Every
 * piece must be well-formed UTF-8, all together what the bytes as a whole decode to (the Unicode standard's
 * substitution of maximal subparts, reckoned here from ranges of code points), and the events, read by a
 * parser written after the WHATWG standard, the same again, one for each piece and [DONE] at last. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/tokenizer.h"
#include "server/sse.h"
#include "tests/support/byte_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_INPUT 4096
#define MAX_OUT ((size_t)1 << 20)

static sp_tokenizer *tokenizer;
static int32_t n_longer; /* tokens of several bytes, from TEST_END_ID on */

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_sse: %s\n", what);
    abort();
}

/* Tokens that begin and end inside code points: F0 9F, F0 9F 98, E2 82, E2 82 AC, C3 A9, A9 C3, 80 F0, "a"
 * C3. */
static void open_tokenizer(void)
{
    static const char *const merges[] = {"\xc3\xb0 \xc5\x81",
                                         "\xc3\xb0\xc5\x81 \xc4\xba",
                                         "\xc3\xa2 \xc4\xa4",
                                         "\xc3\xa2\xc4\xa4 \xc2\xac",
                                         "\xc3\x83 \xc2\xa9",
                                         "\xc2\xa9 \xc3\x83",
                                         "\xc4\xa2 \xc3\xb0",
                                         "a \xc3\x83",
                                         NULL};
    sp_buffer json;
    sp_buffer_init(&json, 65536);
    test_byte_tokenizer(&json, merges, NULL, "", "");
    require(sp_tokenizer_parse("t", json.data, json.size, NULL, 0, &tokenizer, NULL) == SP_OK,
            "no tokenizer");
    n_longer = sp_tokenizer_size(tokenizer) - TEST_END_ID;
    sp_buffer_fini(&json);
}

/* --- what the bytes mean --- */
/* Whether bytes (n) begin a code point's UTF-8: whether some scalar value of that length has them. */
static bool begins(const uint8_t *bytes, size_t n, size_t length)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t low = bytes[0] & (length == 1 ? 0x7fu : 0x7fu >> length);
    for (size_t i = 1; i < n; i++) {
        if (bytes[i] < 0x80 || bytes[i] > 0xbf) return false;
        low = low << 6 | (bytes[i] & 0x3fu);
    }
    uint32_t high = low;
    for (size_t i = n; i < length; i++) {
        low <<= 6;
        high = high << 6 | 0x3fu;
    }
    return high >= least[length] && low <= 0x10ffff && !(low >= 0xd800 && high <= 0xdfff);
}

static size_t length_of(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
}

static void decode_whole(const sp_buffer *bytes, sp_buffer *out)
{
    const uint8_t *data = (const uint8_t *)bytes->data;
    for (size_t i = 0; i < bytes->size;) {
        size_t length = length_of(data[i]), n = 0, left = bytes->size - i;
        while (n < length && n < left && begins(data + i, n + 1, length)) n++;
        if (length && n == length)
            sp_buffer_append(out, bytes->data + i, n);
        else
            sp_buffer_append(out, "\xef\xbf\xbd", 3);
        i += n ? n : 1;
    }
}

/* --- the sender --- */
typedef struct sender {
    sp_decoder decoder;
    sp_buffer bytes, text, wire;
    size_t n_frames;
} sender;

static void send_piece(sender *s, const char *piece, size_t size)
{
    sp_json_writer writer;
    require(sp_utf8_valid(piece, size), "a piece is not UTF-8");
    sp_buffer_append(&s->text, piece, size);
    size_t begin = sp_sse_begin(&s->wire, &writer);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "made elsewhere");
    sp_json_raw(&writer, "[\r\n1,\n\n2]", 9);
    sp_json_key(&writer, "text");
    sp_json_string(&writer, piece, size);
    sp_json_close(&writer, '}');
    sp_sse_end(&s->wire, begin);
    if (s->n_frames++ % 5 == 0) sp_sse_ping(&s->wire);
}

static void push(sender *s, int32_t id)
{
    size_t size;
    const char *bytes = sp_tokenizer_bytes(tokenizer, id, &size);
    sp_buffer piece;
    sp_buffer_init(&piece, 4096);
    if (!sp_tokenizer_is_special(tokenizer, id)) sp_buffer_append(&s->bytes, bytes, size);
    require(sp_decoder_push(&s->decoder, id, &piece), "push");
    send_piece(s, piece.data, piece.size);
    sp_buffer_fini(&piece);
}

static void send_all(sender *s, const uint8_t *data, size_t size)
{
    sp_buffer piece;
    sp_decoder_init(&s->decoder, tokenizer, true);
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0xff || i + 1 == size) {
            push(s, data[i]);
            continue;
        }
        i++;
        push(s, data[i] >= 128 ? 0xff : TEST_END_ID + data[i] % n_longer);
    }
    sp_buffer_init(&piece, 64);
    require(sp_decoder_finish(&s->decoder, &piece), "finish");
    send_piece(s, piece.data, piece.size);
    sp_buffer_fini(&piece);
    sp_sse_done(&s->wire);
}

/* --- the receiver --- */
typedef struct receiver {
    char line[65536], data[65536];
    size_t n_line, n_data, n_frames;
    bool has_data, after_return, done;
    sp_buffer text;
} receiver;

static uint32_t read_hex(const char *digits)
{
    char text[5] = {digits[0], digits[1], digits[2], digits[3], 0}, *end;
    unsigned long value = strtoul(text, &end, 16);
    require(*end == 0, "a bad escape");
    return (uint32_t)value;
}

static void append_code(sp_buffer *out, uint32_t code)
{
    require(code < 0x80, "an escape that is not needed");
    char byte = (char)code;
    sp_buffer_append(out, &byte, 1);
}

/* A JSON string's inside, up to its closing quote. */
static void read_string(const char *at, sp_buffer *out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    for (; *at != '"'; at++) {
        require((uint8_t)*at >= 0x20, "a control byte or no end");
        if (*at != '\\') {
            sp_buffer_append(out, at, 1);
        } else if (*++at == 'u') {
            append_code(out, read_hex(at + 1));
            at += 4;
        } else {
            const char *name = *at ? strchr(names, *at) : NULL;
            require(name != NULL, "an unknown escape");
            sp_buffer_append(out, &values[name - names], 1);
        }
    }
    require(strcmp(at, "\"}") == 0, "something behind the text");
}

static void dispatch(receiver *r)
{
    static const char head[] = "{\"made elsewhere\":[  1,  2],\"text\":\"";
    r->data[r->n_data] = 0;
    require(!r->done, "an event behind [DONE]");
    if (strcmp(r->data, "[DONE]") == 0) {
        r->done = true;
    } else {
        require(strncmp(r->data, head, sizeof head - 1) == 0, "another event than was sent");
        require(strlen(r->data) == r->n_data, "a NUL");
        read_string(r->data + sizeof head - 1, &r->text);
        r->n_frames++;
    }
    r->n_data = 0;
    r->has_data = false;
}

static void end_line(receiver *r)
{
    const char *value = r->line + 5;
    r->line[r->n_line] = 0;
    size_t n = r->n_line;
    r->n_line = 0;
    if (n == 0) {
        if (r->has_data) dispatch(r);
        return;
    }
    if (r->line[0] == ':') return;
    require(strncmp(r->line, "data:", 5) == 0, "an unknown field");
    n -= 5;
    if (n && *value == ' ') {
        value++;
        n--;
    }
    if (r->has_data) r->data[r->n_data++] = '\n';
    require(r->n_data + n + 1 < sizeof r->data, "too long");
    memcpy(r->data + r->n_data, value, n);
    r->n_data += n;
    r->has_data = true;
}

static void receive(receiver *r, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool second = r->after_return && bytes[i] == '\n';
        r->after_return = bytes[i] == '\r';
        if (second) continue;
        if (bytes[i] == '\r' || bytes[i] == '\n') {
            end_line(r);
            continue;
        }
        require(r->n_line + 1 < sizeof r->line, "too long");
        r->line[r->n_line++] = bytes[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static receiver r;
    sender s = {0};
    sp_buffer whole;
    if (!tokenizer) open_tokenizer();
    if (size < 1 || size > MAX_INPUT) return 0;
    sp_buffer_init(&s.bytes, MAX_OUT);
    sp_buffer_init(&s.text, MAX_OUT);
    sp_buffer_init(&s.wire, MAX_OUT);
    sp_buffer_init(&whole, MAX_OUT);
    memset(&r, 0, sizeof r);
    sp_buffer_init(&r.text, MAX_OUT);

    send_all(&s, data + 1, size - 1);
    decode_whole(&s.bytes, &whole);
    uint32_t state = data[0];
    for (size_t at = 0; at < s.wire.size;) {
        state = state * 1664525u + 1013904223u;
        size_t n = 1 + (state >> 24) % (data[0] % 64 + 1u), left = s.wire.size - at;
        receive(&r, s.wire.data + at, n < left ? n : left);
        at += n < left ? n : left;
    }
    require(!s.wire.failed && !s.text.failed && !whole.failed && !r.text.failed, "out of room");
    require(s.text.size == whole.size && (whole.size == 0 || !memcmp(s.text.data, whole.data, whole.size)),
            "the pieces differ from the whole");
    require(r.text.size == whole.size && (whole.size == 0 || !memcmp(r.text.data, whole.data, whole.size)),
            "the events differ from the whole");
    require(r.done && r.n_frames == s.n_frames && r.n_line == 0 && !r.has_data, "events were lost");

    sp_buffer_fini(&s.bytes);
    sp_buffer_fini(&s.text);
    sp_buffer_fini(&s.wire);
    sp_buffer_fini(&whole);
    sp_buffer_fini(&r.text);
    return 0;
}
