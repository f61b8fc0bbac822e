/* See prefixes.h. Tests: tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c */
#include "models/prefixes.h"

#include <stdlib.h>
#include <string.h>

sp_status sp_prefixes_init(sp_prefixes *set, size_t n, sp_error *error)
{
    *set = (sp_prefixes){.entries = sp_alloc(n + 1, sizeof *set->entries)};
    return set->entries ? SP_OK : sp_fail(error, SP_NO_MEMORY, "out of memory for the vocabulary");
}

void sp_prefixes_fini(sp_prefixes *set)
{
    sp_free(set->entries);
    *set = (sp_prefixes){0};
}

void sp_prefixes_add(sp_prefixes *set, const char *text, size_t size, int32_t value)
{
    set->entries[set->count++] = (sp_prefix){.text = text, .size = (uint32_t)size, .value = value};
}

static int by_text(const void *left, const void *right)
{
    const sp_prefix *a = left, *b = right;
    int order = strcmp(a->text, b->text);
    return order ? order : (a->value > b->value) - (a->value < b->value);
}

void sp_prefixes_index(sp_prefixes *set)
{
    if (set->count) qsort(set->entries, set->count, sizeof *set->entries, by_text);
    memset(set->first, 0, sizeof set->first);
    for (size_t i = 0; i < set->count; i++) set->first[(uint8_t)set->entries[i].text[0] + 1]++;
    for (size_t b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
}

/* First entry of [low, high) whose byte at depth is at least this one. */
static size_t lower_bound(const sp_prefixes *set, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)set->entries[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void sp_prefix_start(const sp_prefixes *set, const char *text, size_t place, size_t end, sp_prefix_walk *walk)
{
    uint8_t byte = (uint8_t)text[place];
    *walk = (sp_prefix_walk){.text = text,
                             .place = place,
                             .end = end,
                             .low = set->first[byte],
                             .high = set->first[byte + 1],
                             .depth = 1};
}

const sp_prefix *sp_prefix_next(const sp_prefixes *set, sp_prefix_walk *walk)
{
    while (walk->low < walk->high) {
        const sp_prefix *found = NULL;
        while (walk->low < walk->high && set->entries[walk->low].size == walk->depth) {
            if (!found) found = &set->entries[walk->low];
            walk->low++;
        }
        if (walk->place + walk->depth < walk->end) {
            uint8_t byte = (uint8_t)walk->text[walk->place + walk->depth];
            walk->low = lower_bound(set, walk->low, walk->high, walk->depth, byte);
            walk->high = lower_bound(set, walk->low, walk->high, walk->depth, byte + 1u);
            walk->depth++;
        } else {
            walk->low = walk->high;
        }
        if (found) return found;
    }
    return NULL;
}
