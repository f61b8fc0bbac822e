/* Private to models/: a set of texts that finds those with which a place in another text begins.
 *
 * The texts are sorted, so those that share a prefix are neighbours: walking along the text narrows a range
 * byte by byte, and a range's first entry is the one that ends exactly there. The work a place is bounded by
 * the longest entry times the logarithm of the count; nothing but the sorted list is kept in memory.
 * Used for added tokens, Unigram and WordPiece. Tests: tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_PREFIXES_H
#define SPARSED_MODELS_PREFIXES_H

#include "kernels/base.h"

typedef struct sp_prefix {
    const char *text; /* the owner of the set keeps it; NUL terminated */
    uint32_t size;    /* 1 and more */
    int32_t value;
} sp_prefix;

/* first[b] .. first[b + 1] are the entries whose first byte is b. */
typedef struct sp_prefixes {
    sp_prefix *entries; /* (count), owned */
    size_t count;
    uint32_t first[257];
} sp_prefixes;

/* Memory for n entries, none taken yet. */
sp_status sp_prefixes_init(sp_prefixes *set, size_t n, sp_error *error) SP_MUST_CHECK;
void sp_prefixes_fini(sp_prefixes *set);
void sp_prefixes_add(sp_prefixes *set, const char *text, size_t size, int32_t value);
/* Sorts what was added; of equal texts the one of least value is found. */
void sp_prefixes_index(sp_prefixes *set);

/* All entries with which text[place, end) begins, shortest first. */
typedef struct sp_prefix_walk {
    const char *text;
    size_t place, end;
    size_t low, high, depth;
} sp_prefix_walk;
/* place < end. */
void sp_prefix_start(const sp_prefixes *set, const char *text, size_t place, size_t end,
                     sp_prefix_walk *walk);
const sp_prefix *sp_prefix_next(const sp_prefixes *set, sp_prefix_walk *walk); /* NULL: no more */

#endif
