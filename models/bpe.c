/* Byte pair encoding (Sennrich et al. 2016): of all neighbouring pairs the one of lowest rank is merged, the
 * leftmost among equals, until none is left. It starts from bytes (GPT-2), or from characters, where one that
 * the vocabulary lacks becomes its bytes, spelled <0xHH>, or the unknown token (SentencePiece).
 *
 * Symbols are a doubly linked list in an array; a heap holds (rank, place of the left symbol). A heap entry
 * is stale when its symbol's rank changed since, and is skipped. A piece of n bytes takes O(n log n): each
 * merge pops one entry and pushes two. Owner: the tokenizer; scratch belongs to one call of encode. Tests:
 * tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenize.c */
#include "models/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/unicode.h"

#define NO_RANK UINT32_MAX
#define NO_SYMBOL UINT32_MAX

typedef struct sp_bpe_symbol {
    int32_t id;
    uint32_t begin;      /* byte of the piece */
    uint32_t prev, next; /* NO_SYMBOL at the ends */
    uint32_t rank;       /* of the pair with next; NO_RANK: none */
    int32_t merged;      /* what that pair makes */
} symbol;

const char *sp_bpe_find_merge(const sp_vocab *vocab, const char *left, size_t n_left, const char *right,
                              size_t n_right, size_t rank, sp_merge *out)
{
    char joined[2 * SP_MAX_PIECE];
    if (n_left == 0 || n_right == 0 || n_left > SP_MAX_PIECE || n_right > SP_MAX_PIECE)
        return "has an empty or overlong half";
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    *out = (sp_merge){.left = sp_vocab_find(vocab, left, n_left),
                      .right = sp_vocab_find(vocab, right, n_right),
                      .rank = (uint32_t)rank,
                      .result = sp_vocab_find(vocab, joined, n_left + n_right)};
    if (out->left < 0 || out->right < 0) return "joins what is no token";
    return out->result < 0 ? "makes what is no token" : NULL;
}

const char *sp_bpe_read_merge(const sp_vocab *vocab, const char *text, size_t size, size_t rank,
                              sp_merge *out)
{
    const char *space = memchr(text, ' ', size);
    if (!space) return "has no space between its halves";
    size_t n_left = (size_t)(space - text);
    return sp_bpe_find_merge(vocab, text, n_left, space + 1, size - n_left - 1, rank, out);
}

static int by_pair(const void *left, const void *right)
{
    const sp_merge *a = left, *b = right;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

/* The tokens of single bytes, and of ASCII characters. */
static void find_small_tokens(sp_bpe *bpe, bool byte_fallback)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        char text[7];
        size_t size = bpe->characters ? (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte)
                                      : sp_byte_spell((uint8_t)byte, text);
        bool used = byte_fallback || !bpe->characters;
        bpe->byte_ids[byte] = used ? sp_vocab_find(bpe->vocab, text, size) : -1;
        text[0] = (char)byte;
        if (byte < 128) bpe->ascii_ids[byte] = sp_vocab_find(bpe->vocab, text, 1);
    }
}

sp_status sp_bpe_init(sp_bpe *bpe, const sp_vocab *vocab, sp_merge *merges, size_t n, bool byte_fallback,
                      sp_error *error)
{
    bpe->vocab = vocab;
    bpe->merges = merges;
    bpe->n_merges = n;
    bpe->first = sp_alloc_zero((size_t)vocab->size + 1, sizeof *bpe->first);
    if (!bpe->first) return sp_fail(error, SP_NO_MEMORY, "out of memory for the merges");
    if (n) qsort(merges, n, sizeof *merges, by_pair);
    for (size_t i = 0; i < n; i++) {
        if (i && by_pair(&merges[i - 1], &merges[i]) == 0)
            return sp_fail_param(error, SP_DATA, "merges", "merges: the pair '%.60s' '%.60s' is listed twice",
                                 vocab->pieces[merges[i].left], vocab->pieces[merges[i].right]);
        bpe->first[merges[i].left + 1]++;
    }
    for (int32_t id = 0; id < vocab->size; id++) bpe->first[id + 1] += bpe->first[id];
    find_small_tokens(bpe, byte_fallback);
    return SP_OK;
}

void sp_bpe_fini(sp_bpe *bpe)
{
    sp_free(bpe->merges);
    sp_free(bpe->first);
}

void sp_bpe_scratch_fini(sp_bpe_scratch *scratch)
{
    sp_free(scratch->symbols);
    sp_free(scratch->heap);
    sp_free(scratch->spelling);
    *scratch = (sp_bpe_scratch){0};
}

static const sp_merge *find_merge(const sp_bpe *bpe, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return NULL;
    uint32_t low = bpe->first[left], high = bpe->first[left + 1];
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (bpe->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < bpe->first[left + 1] && bpe->merges[low].right == right;
    return found ? &bpe->merges[low] : NULL;
}

/* --- a heap of 64-bit keys, least first --- */

static void sift_down(uint64_t *heap, size_t n, size_t place)
{
    uint64_t key = heap[place];
    for (size_t child; (child = 2 * place + 1) < n; place = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[place] = heap[child];
    }
    heap[place] = key;
}

static void push(uint64_t *heap, size_t *n, uint64_t key)
{
    size_t place = (*n)++;
    for (size_t parent; place && heap[parent = (place - 1) / 2] > key; place = parent)
        heap[place] = heap[parent];
    heap[place] = key;
}

static uint64_t pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0];
    heap[0] = heap[--*n];
    if (*n) sift_down(heap, *n, 0);
    return top;
}

/* --- one piece --- */

static bool reserve(sp_bpe_scratch *scratch, size_t n)
{
    if (n <= scratch->capacity) return true;
    size_t wanted = scratch->capacity * 2 > n ? scratch->capacity * 2 : n;
    if (wanted < 256) wanted = 256;
    sp_free(scratch->symbols);
    sp_free(scratch->heap);
    scratch->symbols = sp_alloc(wanted, sizeof *scratch->symbols);
    scratch->heap = sp_alloc(2 * wanted, sizeof *scratch->heap); /* n - 1 at first, one more a merge */
    scratch->capacity = scratch->symbols && scratch->heap ? wanted : 0;
    return scratch->capacity != 0;
}

/* Sets the rank of symbol i with its next one and queues the pair. */
static void link_pair(const sp_bpe *bpe, sp_bpe_scratch *scratch, uint32_t i, size_t *n_heap)
{
    symbol *s = &scratch->symbols[i];
    const sp_merge *merge =
        s->next == NO_SYMBOL ? NULL : find_merge(bpe, s->id, scratch->symbols[s->next].id);
    s->rank = merge ? merge->rank : NO_RANK;
    s->merged = merge ? merge->result : -1;
    if (merge) push(scratch->heap, n_heap, (uint64_t)s->rank << 32 | i);
}

static void merge_pair(const sp_bpe *bpe, sp_bpe_scratch *scratch, uint32_t i, size_t *n_heap)
{
    symbol *left = &scratch->symbols[i], *right = &scratch->symbols[left->next];
    left->id = left->merged;
    left->next = right->next;
    right->rank = NO_RANK;
    if (left->next != NO_SYMBOL) scratch->symbols[left->next].prev = i;
    link_pair(bpe, scratch, i, n_heap);
    if (left->prev != NO_SYMBOL) link_pair(bpe, scratch, left->prev, n_heap);
}

static void add_symbol(sp_bpe_scratch *scratch, uint32_t *count, int32_t id, size_t begin)
{
    scratch->symbols[(*count)++] = (symbol){.id = id, .begin = (uint32_t)begin};
}

/* The characters of a piece as symbols; returns their number, at most n. */
static uint32_t start_characters(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t n)
{
    uint32_t count = 0;
    bool was_unknown = false;
    size_t length;
    for (size_t place = 0; place < n; place += length) {
        uint32_t code = sp_utf8_decode(text + place, &length);
        int32_t id = code < 128 ? bpe->ascii_ids[code] : sp_vocab_find(bpe->vocab, text + place, length);
        bool spelled = id < 0;
        for (size_t i = 0; i < length; i++) spelled = spelled && bpe->byte_ids[(uint8_t)text[place + i]] >= 0;
        bool is_unknown = id < 0 && !spelled;
        if (spelled)
            for (size_t i = 0; i < length; i++)
                add_symbol(scratch, &count, bpe->byte_ids[(uint8_t)text[place + i]], place + i);
        else if (!is_unknown || !was_unknown || !bpe->fuse_unknown)
            add_symbol(scratch, &count, is_unknown ? bpe->unknown : id, place);
        was_unknown = is_unknown;
    }
    return count;
}

static uint32_t start_bytes(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) add_symbol(scratch, &count, bpe->byte_ids[(uint8_t)text[i]], i);
    return count;
}

static void merge_all(const sp_bpe *bpe, sp_bpe_scratch *scratch, uint32_t n)
{
    size_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        scratch->symbols[i].prev = i ? i - 1 : NO_SYMBOL;
        scratch->symbols[i].next = i + 1 < n ? i + 1 : NO_SYMBOL;
    }
    for (uint32_t i = 0; i < n; i++) link_pair(bpe, scratch, i, &n_heap);
    while (n_heap) {
        uint64_t key = pop(scratch->heap, &n_heap);
        uint32_t i = (uint32_t)key;
        if (scratch->symbols[i].rank == (uint32_t)(key >> 32)) merge_pair(bpe, scratch, i, &n_heap);
    }
}

/* The token that a piece is as a whole, or -1. *failed: out of memory. */
static int32_t whole_token(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t n,
                           bool *failed)
{
    if (n > bpe->vocab->longest) return -1;
    if (bpe->characters) return sp_vocab_find(bpe->vocab, text, n);
    if (!scratch->spelling) scratch->spelling = sp_alloc(2 * bpe->vocab->longest + 2, 1);
    *failed = !scratch->spelling;
    if (*failed) return -1;
    size_t size = 0;
    for (size_t i = 0; i < n; i++) size += sp_byte_spell((uint8_t)text[i], scratch->spelling + size);
    return sp_vocab_find(bpe->vocab, scratch->spelling, size);
}

bool sp_bpe_encode(const sp_bpe *bpe, sp_bpe_scratch *scratch, const char *text, size_t begin, size_t end,
                   sp_tokens *out)
{
    size_t n = end - begin;
    if (n == 1 && !bpe->characters)
        return sp_tokens_push(out, bpe->byte_ids[(uint8_t)text[begin]], begin, end);
    if (bpe->ignore_merges) {
        bool failed = false;
        int32_t id = whole_token(bpe, scratch, text + begin, n, &failed);
        if (failed) return false;
        if (id >= 0) return sp_tokens_push(out, id, begin, end);
    }
    if (!reserve(scratch, n)) return false;
    uint32_t count = bpe->characters ? start_characters(bpe, scratch, text + begin, n)
                                     : start_bytes(bpe, scratch, text + begin, n);
    merge_all(bpe, scratch, count);
    for (uint32_t i = 0; i != NO_SYMBOL; i = scratch->symbols[i].next) {
        const symbol *s = &scratch->symbols[i];
        size_t stop = s->next == NO_SYMBOL ? n : scratch->symbols[s->next].begin;
        if (!sp_tokens_push(out, s->id, begin + s->begin, begin + stop)) return false;
    }
    return true;
}
