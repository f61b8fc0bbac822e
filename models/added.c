/* Finds added tokens in text: leftmost, longest first.
 *
 * The tokens are sorted, so those that share a prefix are neighbours: walking along the text narrows a range
 * byte by byte, and the range's first token is the one that ends exactly there. A token has at most 255
 * bytes, so the work a place is bounded. Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c */
#include <stdlib.h>
#include <string.h>

#include "models/tokenizer_parts.h"

static int by_content(const void *left, const void *right)
{
    const sp_added_token *a = left, *b = right;
    return strcmp(a->content, b->content);
}

void sp_added_index(sp_added_set *set)
{
    if (set->count) qsort(set->tokens, set->count, sizeof *set->tokens, by_content);
    memset(set->first, 0, sizeof set->first);
    for (size_t i = 0; i < set->count; i++) set->first[(uint8_t)set->tokens[i].content[0] + 1]++;
    for (size_t b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
}

/* First token of [low, high) whose byte at depth is at least this one. */
static size_t lower_bound(const sp_added_set *set, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)set->tokens[middle].content[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const sp_added_token *sp_added_match(const sp_added_set *set, const char *text, size_t place, size_t end,
                                     bool special)
{
    const sp_added_token *best = NULL;
    uint8_t byte = (uint8_t)text[place];
    size_t low = set->first[byte], high = set->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        const sp_added_token *token = &set->tokens[low];
        if (token->size == depth) {
            if (special || !token->special) best = token;
            low++;
        }
        if (place + depth >= end) break;
        byte = (uint8_t)text[place + depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1u);
    }
    return best;
}
