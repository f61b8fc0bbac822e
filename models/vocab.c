/* The vocabulary: tokens by id, and by spelling through an open-addressed table.
 *
 * The table probes at most MAX_PROBES slots: a half-full table never needs as many unless somebody made
 * colliding names, and then the file is refused instead of loading for hours. Tests:
 * tests/unit/models/test_tokenizer.c */
#include "models/vocab.h"

#include <string.h>

#define MAX_PROBES 256u

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
    if (n > vocab->longest || memchr(piece, 0, n)) return -1;
    const uint32_t *slot = find_slot(vocab, piece, n);
    return slot && *slot ? (int32_t)*slot - 1 : -1;
}

sp_status sp_vocab_add(sp_vocab *vocab, int32_t id, const char *piece, size_t n, sp_spelling spelling,
                       sp_error *error)
{
    if (n == 0 || n > SP_MAX_PIECE || memchr(piece, 0, n))
        return sp_fail(error, SP_DATA, "token %d is empty, longer than %u bytes or holds a NUL", (int)id,
                       SP_MAX_PIECE);
    int shown = n < 60 ? (int)n : 60; /* the piece need not end with a NUL */
    if (vocab->pieces[id])
        return sp_fail(error, SP_DATA, "id %d is given to '%.60s' and to '%.*s'", (int)id, vocab->pieces[id],
                       shown, piece);
    uint32_t *slot = find_slot(vocab, piece, n);
    if (!slot) return sp_fail(error, SP_DATA, "the vocabulary's hashes collide: no natural set of tokens");
    if (*slot)
        return sp_fail(error, SP_DATA, "token '%.*s' has the ids %d and %d", shown, piece, (int)*slot - 1,
                       (int)id);
    char *copy = sp_arena_copy(&vocab->arena, piece, n);
    char *raw = sp_arena_alloc(&vocab->arena, n + 2, 1);
    if (!copy || !raw) return sp_fail(error, SP_NO_MEMORY, "out of memory for the vocabulary");
    size_t n_raw = sp_spelling_text(spelling, copy, n, raw);
    raw[n_raw] = 0;
    vocab->pieces[id] = copy;
    vocab->bytes[id] = raw;
    vocab->n_bytes[id] = (uint32_t)n_raw;
    if (n > vocab->longest) vocab->longest = n;
    *slot = (uint32_t)id + 1;
    return SP_OK;
}

bool sp_tokens_push(sp_tokens *tokens, int32_t id, size_t begin, size_t end)
{
    if (tokens->count == tokens->capacity) {
        size_t wanted = tokens->capacity ? 2 * tokens->capacity : 64;
        sp_token *bigger = sp_alloc(wanted, sizeof *bigger);
        if (!bigger) return false;
        if (tokens->count) memcpy(bigger, tokens->data, tokens->count * sizeof *bigger);
        sp_free(tokens->data);
        tokens->data = bigger;
        tokens->capacity = wanted;
    }
    tokens->data[tokens->count++] = (sp_token){.id = id, .begin = (uint32_t)begin, .end = (uint32_t)end};
    return true;
}
