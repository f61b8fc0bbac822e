/* Encoding and decoding; what the tokenizer is made of is in tokenizer_parts.h.
 *
 * Text is cut at added tokens, what lies between by the pre-tokenizers, and each piece goes through BPE.
 * Every byte ends in exactly one token, so decode(encode(x)) = x where no added token strips white space.
 * Offsets are byte ranges of the text.
 *
 * Decoding holds back the bytes of an unfinished code point; an ill-formed sequence gives one U+FFFD for its
 * longest well-formed beginning, as Unicode recommends (and as lossy decoding of the whole would). Tests:
 * tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenize.c */
#include "models/tokenizer.h"

#include <string.h>

#include "models/tokenizer_parts.h"
#include "models/unicode.h"

#define MAX_TEXT ((size_t)1 << 30)

void sp_tokens_fini(sp_tokens *tokens)
{
    sp_free(tokens->data);
    *tokens = (sp_tokens){0};
}

void sp_tokenizer_close(sp_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    sp_bpe_fini(&tokenizer->bpe);
    sp_vocab_fini(&tokenizer->vocab);
    sp_free(tokenizer->added[0].tokens);
    sp_free(tokenizer->added[1].tokens);
    sp_free(tokenizer);
}

/* --- encoding --- */

typedef struct encoder {
    const sp_tokenizer *tokenizer;
    const char *text;
    bool special;
    sp_bpe_scratch scratch;
    sp_tokens *out;
} encoder;

/* Cuts text[begin, end) by all pre-tokenizers at once: cuts[k] is the end of the current piece of step k. */
static bool encode_plain(encoder *e, size_t begin, size_t end)
{
    const sp_tokenizer *t = e->tokenizer;
    size_t cuts[SP_MAX_SPLITS + 1] = {end};
    for (size_t place = begin; place < end; place = cuts[t->n_splits]) {
        for (size_t k = 1; k <= t->n_splits; k++)
            if (cuts[k] <= place) cuts[k] = sp_split_next(t->splits[k - 1], e->text, place, cuts[k - 1]);
        if (!sp_bpe_encode(&t->bpe, &e->scratch, e->text, place, cuts[t->n_splits], e->out)) return false;
    }
    return true;
}

static bool is_space(const char *text)
{
    size_t length;
    return sp_unicode_class(sp_utf8_decode(text, &length)) == SP_CHAR_SPACE;
}

/* Start of the white space that ends at place, not before begin. */
static size_t strip_left(const char *text, size_t begin, size_t place)
{
    while (place > begin) {
        size_t before = place - 1;
        while (before > begin && ((uint8_t)text[before] & 0xc0u) == 0x80u) before--;
        if (!is_space(text + before)) break;
        place = before;
    }
    return place;
}

static size_t strip_right(const char *text, size_t place, size_t end)
{
    size_t length;
    while (place < end && sp_unicode_class(sp_utf8_decode(text + place, &length)) == SP_CHAR_SPACE)
        place += length;
    return place;
}

/* Cuts text[begin, end) at the added tokens of a set; what is left goes to the next set, then to plain text.
 */
static bool encode_added(encoder *e, size_t set, size_t begin, size_t end)
{
    if (set == 2) return encode_plain(e, begin, end);
    size_t start = begin;
    for (size_t place = begin; place < end;) {
        const sp_added_token *token =
            sp_added_match(&e->tokenizer->added[set], e->text, place, end, e->special);
        if (!token) {
            place++;
            continue;
        }
        size_t from = token->lstrip ? strip_left(e->text, start, place) : place;
        size_t to = place + token->size;
        if (token->rstrip) to = strip_right(e->text, to, end);
        if (from > start && !encode_added(e, set + 1, start, from)) return false;
        if (!sp_tokens_push(e->out, token->id, from, to)) return false;
        start = place = to;
    }
    return start == end || encode_added(e, set + 1, start, end);
}

static bool push_all(sp_tokens *out, const int32_t *ids, size_t n, size_t place)
{
    for (size_t i = 0; i < n; i++)
        if (!sp_tokens_push(out, ids[i], place, place)) return false;
    return true;
}

sp_status sp_tokenizer_encode(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                              sp_tokens *out, sp_error *error)
{
    out->count = 0;
    if (size > MAX_TEXT)
        return sp_fail(error, SP_TOO_LARGE, "the text has %zu bytes, more than %zu", size, MAX_TEXT);
    if (!sp_utf8_valid(text, size)) return sp_fail(error, SP_INVALID, "the text is not well-formed UTF-8");
    encoder e = {.tokenizer = tokenizer, .text = text, .special = flags & SP_ENCODE_SPECIAL, .out = out};
    bool add = flags & SP_ENCODE_ADD;
    bool done = (!add || push_all(out, tokenizer->prefix, tokenizer->n_prefix, 0)) &&
                encode_added(&e, 0, 0, size) &&
                (!add || push_all(out, tokenizer->suffix, tokenizer->n_suffix, size));
    sp_bpe_scratch_fini(&e.scratch);
    if (!done) return sp_fail(error, SP_NO_MEMORY, "out of memory while splitting the text into tokens");
    for (size_t i = 0; i < out->count; i++)
        if (out->data[i].id < 0)
            return sp_fail(error, SP_INVALID,
                           "the text has a byte 0x%02x at offset %u, for which this model has no token",
                           (unsigned)(uint8_t)text[out->data[i].begin], (unsigned)out->data[i].begin);
    return SP_OK;
}

/* --- facts --- */

int32_t sp_tokenizer_size(const sp_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}
int32_t sp_tokenizer_bos(const sp_tokenizer *tokenizer)
{
    return tokenizer->bos;
}
int32_t sp_tokenizer_eos(const sp_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

static bool is_token(const sp_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab.size && tokenizer->vocab.pieces[id];
}

bool sp_tokenizer_is_special(const sp_tokenizer *tokenizer, int32_t id)
{
    return is_token(tokenizer, id) && (tokenizer->vocab.flags[id] & SP_TOKEN_SPECIAL);
}

bool sp_tokenizer_adds_bos(const sp_tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->n_prefix; i++)
        if (tokenizer->prefix[i] == tokenizer->bos) return true;
    return false;
}

const char *sp_tokenizer_bytes(const sp_tokenizer *tokenizer, int32_t id, size_t *size)
{
    *size = is_token(tokenizer, id) ? tokenizer->vocab.n_bytes[id] : 0;
    return *size ? tokenizer->vocab.bytes[id] : "";
}

const char *sp_tokenizer_piece(const sp_tokenizer *tokenizer, int32_t id)
{
    return is_token(tokenizer, id) ? tokenizer->vocab.pieces[id] : "";
}

/* --- decoding --- */

void sp_decoder_init(sp_decoder *decoder, const sp_tokenizer *tokenizer, bool skip_special)
{
    *decoder = (sp_decoder){.tokenizer = tokenizer, .skip_special = skip_special};
}

static const char replacement[] = "\xef\xbf\xbd";

/* Bytes that a well-formed sequence beginning with these n has in all, or 0 when there is none. */
static size_t sequence_length(const char *bytes, size_t n)
{
    uint8_t first = (uint8_t)bytes[0];
    size_t length = first < 0x80   ? 1
                    : first < 0xc2 ? 0
                    : first < 0xe0 ? 2
                    : first < 0xf0 ? 3
                    : first < 0xf5 ? 4
                                   : 0;
    if (n < 2 || length < 2) return length;
    uint8_t second = (uint8_t)bytes[1];
    uint8_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (second < least || second > most) return 0;
    for (size_t i = 2; i < n; i++)
        if (((uint8_t)bytes[i] & 0xc0u) != 0x80u) return 0;
    return length;
}

static void push_byte(sp_decoder *decoder, char byte, sp_buffer *out)
{
    decoder->held[decoder->n_held++] = byte;
    size_t length = sequence_length(decoder->held, decoder->n_held);
    if (length == 0 && decoder->n_held > 1) { /* what was held ends here, the byte begins anew */
        sp_buffer_append(out, replacement, 3);
        decoder->held[0] = byte;
        decoder->n_held = 1;
        length = sequence_length(decoder->held, 1);
    }
    if (length == decoder->n_held)
        sp_buffer_append(out, decoder->held, length);
    else if (length == 0)
        sp_buffer_append(out, replacement, 3);
    if (length == 0 || length == decoder->n_held) decoder->n_held = 0;
}

bool sp_decoder_push(sp_decoder *decoder, int32_t id, sp_buffer *out)
{
    size_t size;
    if (decoder->skip_special && sp_tokenizer_is_special(decoder->tokenizer, id)) return !out->failed;
    const char *bytes = sp_tokenizer_bytes(decoder->tokenizer, id, &size);
    for (size_t i = 0; i < size; i++) push_byte(decoder, bytes[i], out);
    return !out->failed;
}

bool sp_decoder_finish(sp_decoder *decoder, sp_buffer *out)
{
    if (decoder->n_held) sp_buffer_append(out, replacement, 3);
    decoder->n_held = 0;
    return !out->failed;
}
