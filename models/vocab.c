/* The vocabulary: tokens by id, and by spelling through an open-addressed table.
 *
 * The spelling of bytes is GPT-2's: printable bytes of Latin-1 stand for themselves, the other 68 for U+0100,
 * U+0101... in their order. The table probes at most MAX_PROBES slots: a half-full table never needs as many
 * unless somebody made colliding names, and then the file is refused instead of loading for hours. Tests:
 * tests/unit/models/test_tokenizer.c */
#include <string.h>

#include "models/bpe.h"
#include "models/unicode.h"

#define MAX_PROBES 256u

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
    uint32_t code = spelled_code(byte);
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0u | code >> 6);
    out[1] = (char)(0x80u | (code & 0x3fu));
    return 2;
}

bool sp_byte_unspell(const char *text, size_t size, char *out, size_t *out_size)
{
    size_t n = 0, length;
    for (size_t i = 0; i < size; i += length) {
        uint32_t code = sp_utf8_decode(text + i, &length), byte = code;
        if (code >= 256 && code < 256 + 33)
            byte = code - 256;
        else if (code >= 256 + 33 && code < 256 + 67)
            byte = code - 256 - 33 + 127;
        else if (code == 256 + 67)
            byte = 173;
        else if (!is_printable(code))
            return false;
        out[n++] = (char)byte;
    }
    *out_size = n;
    return true;
}

sp_status sp_vocab_init(sp_vocab *vocab, int32_t size, size_t n_tokens, sp_error *error)
{
    *vocab = (sp_vocab){.size = size, .n_slots = 64};
    while (vocab->n_slots < 2 * n_tokens) vocab->n_slots *= 2;
    sp_arena_init(&vocab->arena, (size_t)1 << 30);
    vocab->pieces = sp_alloc_zero((size_t)size, sizeof *vocab->pieces);
    vocab->bytes = sp_alloc_zero((size_t)size, sizeof *vocab->bytes);
    vocab->n_bytes = sp_alloc_zero((size_t)size, sizeof *vocab->n_bytes);
    vocab->flags = sp_alloc_zero((size_t)size, sizeof *vocab->flags);
    vocab->slots = sp_alloc_zero(vocab->n_slots, sizeof *vocab->slots);
    if (vocab->pieces && vocab->bytes && vocab->n_bytes && vocab->flags && vocab->slots) return SP_OK;
    return sp_fail(error, SP_NO_MEMORY, "out of memory for a vocabulary of %d tokens", (int)size);
}

void sp_vocab_fini(sp_vocab *vocab)
{
    sp_free(vocab->pieces);
    sp_free(vocab->bytes);
    sp_free(vocab->n_bytes);
    sp_free(vocab->flags);
    sp_free(vocab->slots);
    sp_arena_fini(&vocab->arena);
    *vocab = (sp_vocab){0};
}

/* The slot that holds a piece, or the empty one where it belongs; NULL when neither is near. */
static uint32_t *find_slot(const sp_vocab *vocab, const char *piece, size_t n)
{
    uint64_t hash = sp_hash_bytes(piece, n);
    size_t place = (size_t)(hash ^ hash >> 32);
    for (uint32_t probe = 0; probe < MAX_PROBES; probe++) {
        uint32_t *slot = &vocab->slots[(place + probe) & (vocab->n_slots - 1)];
        if (*slot == 0) return slot;
        const char *other = vocab->pieces[*slot - 1];
        if (strncmp(other, piece, n) == 0 && other[n] == 0) return slot;
    }
    return NULL;
}

int32_t sp_vocab_find(const sp_vocab *vocab, const char *piece, size_t n)
{
    const uint32_t *slot = find_slot(vocab, piece, n);
    return slot && *slot ? (int32_t)*slot - 1 : -1;
}

sp_status sp_vocab_add(sp_vocab *vocab, int32_t id, const char *piece, size_t n, bool literal,
                       sp_error *error)
{
    if (n == 0 || n > SP_MAX_PIECE || memchr(piece, 0, n))
        return sp_fail(error, SP_DATA, "token %d is empty, longer than %u bytes or holds a NUL", (int)id,
                       SP_MAX_PIECE);
    if (vocab->pieces[id])
        return sp_fail(error, SP_DATA, "id %d is given to '%.60s' and to '%.60s'", (int)id, vocab->pieces[id],
                       piece);
    uint32_t *slot = find_slot(vocab, piece, n);
    if (!slot) return sp_fail(error, SP_DATA, "the vocabulary's hashes collide: no natural set of tokens");
    if (*slot)
        return sp_fail(error, SP_DATA, "token '%.60s' has the ids %d and %d", piece, (int)*slot - 1, (int)id);
    char *copy = sp_arena_copy(&vocab->arena, piece, n);
    char *raw = sp_arena_alloc(&vocab->arena, n + 1, 1);
    size_t n_raw = n;
    if (!copy || !raw) return sp_fail(error, SP_NO_MEMORY, "out of memory for the vocabulary");
    if (literal || !sp_byte_unspell(copy, n, raw, &n_raw)) {
        memcpy(raw, copy, n);
        n_raw = n;
    }
    raw[n_raw] = 0;
    vocab->pieces[id] = copy;
    vocab->bytes[id] = raw;
    vocab->n_bytes[id] = (uint32_t)n_raw;
    if (n > vocab->longest) vocab->longest = n;
    *slot = (uint32_t)id + 1;
    return SP_OK;
}
