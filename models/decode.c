/* Streaming decode: the text of each token as it comes, never part of a character.
 *
 * The bytes of an unfinished code point are held back; an ill-formed sequence gives one U+FFFD for its
 * longest well-formed beginning, as Unicode recommends. Where a text starts, SentencePiece's decoders drop
 * the space that encoding put in front, Metaspace's the spaces of the whole first token, WordPiece writes
 * none; a text that goes on from another (sp_decoder_resume) keeps them. Tests:
 * tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenize.c */
#include <string.h>

#include "models/tokenizer_parts.h"

void sp_decoder_init(sp_decoder *decoder, const sp_tokenizer *tokenizer, bool skip_special)
{
    *decoder = (sp_decoder){.tokenizer = tokenizer,
                            .skip_special = skip_special,
                            .at_start = true,
                            .strips_space = tokenizer->strips_space};
}

void sp_decoder_resume(sp_decoder *decoder)
{
    decoder->at_start = decoder->strips_space = false;
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

static void push_bytes(sp_decoder *decoder, const char *bytes, size_t size, sp_buffer *out)
{
    if (size == 0) return;
    size_t skip = decoder->strips_space && bytes[0] == ' ';
    decoder->strips_space = false;
    for (size_t i = skip; i < size; i++) push_byte(decoder, bytes[i], out);
}

bool sp_decoder_push(sp_decoder *decoder, int32_t id, sp_buffer *out)
{
    const sp_tokenizer *t = decoder->tokenizer;
    size_t size;
    const char *bytes = sp_tokenizer_bytes(t, id, &size), *piece = sp_tokenizer_piece(t, id);
    if (!*piece || (decoder->skip_special && sp_tokenizer_is_special(t, id))) return !out->failed;
    bool is_start = decoder->at_start;
    decoder->at_start = false;
    if (is_start && t->spelling >= SP_SPELLING_META) {
        char start[SP_MAX_SPELLED];
        size = sp_spelling_start(t->spelling, piece, strlen(piece), start);
        push_bytes(decoder, start, size, out);
    } else {
        push_bytes(decoder, bytes, size, out);
    }
    return !out->failed;
}

bool sp_decoder_finish(sp_decoder *decoder, sp_buffer *out)
{
    if (decoder->n_held) sp_buffer_append(out, replacement, 3);
    decoder->n_held = 0;
    return !out->failed;
}
