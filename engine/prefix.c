/* See prefix.h. Entry i is that of page i; entries of one bucket are linked. */
#include "engine/prefix.h"

#include <assert.h>
#include <string.h>
#include <sys/random.h>

typedef struct entry {
    uint8_t key[SP_PREFIX_KEY_BYTES];
    int32_t tokens[SP_PAGE_TOKENS];
    uint64_t hash;
    uint32_t before, next; /* next: of its bucket */
    uint32_t n_after;      /* entries whose before it is */
    bool listed;
} entry;

struct sp_prefix {
    sp_kv *kv;
    uint64_t seed, hash_mask;
    entry *entries;    /* (n_pages) */
    uint32_t *buckets; /* (n_buckets): the first entry of each */
    size_t n_buckets;
    uint32_t count;
};

/* A power of two. */
static size_t count_buckets(uint32_t n_pages)
{
    size_t n = 1;
    while (n < n_pages) n *= 2;
    return n;
}

size_t sp_prefix_bytes(uint32_t n_pages)
{
    return sizeof(sp_prefix) + n_pages * sizeof(entry) + count_buckets(n_pages) * sizeof(uint32_t);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t hash_of(const sp_prefix *prefix, const uint8_t *key, uint32_t before, const int32_t *tokens)
{
    uint64_t hash = prefix->seed, word;
    if (before != SP_NO_PAGE) hash = prefix->entries[before].hash;
    for (size_t i = 0; i < SP_PREFIX_KEY_BYTES && before == SP_NO_PAGE; i += sizeof word) {
        memcpy(&word, key + i, sizeof word);
        hash = mix(hash + word);
    }
    for (size_t i = 0; i < SP_PAGE_TOKENS; i++)
        hash = mix(hash + (uint64_t)(uint32_t)tokens[i] + 0x9E3779B97F4A7C15u);
    return hash & prefix->hash_mask;
}

static uint32_t *bucket_of(const sp_prefix *prefix, uint64_t hash)
{
    return &prefix->buckets[hash & (prefix->n_buckets - 1)];
}

/* A cached page is about to be free. */
static void drop(void *context, uint32_t page)
{
    sp_prefix *prefix = context;
    entry *one = &prefix->entries[page];
    assert(one->listed && one->n_after == 0);
    uint32_t *at = bucket_of(prefix, one->hash);
    while (*at != page) at = &prefix->entries[*at].next;
    *at = one->next;
    if (one->before != SP_NO_PAGE) prefix->entries[one->before].n_after--;
    one->listed = false;
    prefix->count--;
}

sp_status sp_prefix_open(sp_kv *kv, uint64_t hash_mask, sp_prefix **out, sp_error *error)
{
    uint32_t n_pages = kv->options.n_pages;
    sp_prefix *prefix = sp_alloc_zero(1, sizeof *prefix);
    *out = NULL;
    if (!prefix) return sp_fail(error, SP_NO_MEMORY, "no memory for the index of prefixes");
    prefix->kv = kv;
    prefix->hash_mask = hash_mask;
    prefix->n_buckets = count_buckets(n_pages);
    prefix->entries = sp_alloc_zero(n_pages, sizeof *prefix->entries);
    prefix->buckets = sp_alloc(prefix->n_buckets, sizeof *prefix->buckets);
    if (!prefix->entries || !prefix->buckets) {
        sp_prefix_close(prefix);
        return sp_fail(error, SP_NO_MEMORY, "no memory for the index of prefixes of %u KV pages", n_pages);
    }
    for (size_t i = 0; i < prefix->n_buckets; i++) prefix->buckets[i] = SP_NO_PAGE;
    if (getrandom(&prefix->seed, sizeof prefix->seed, 0) != (ssize_t)sizeof prefix->seed) prefix->seed = 0;
    kv->drop = drop;
    kv->index = prefix;
    *out = prefix;
    return SP_OK;
}

void sp_prefix_close(sp_prefix *prefix)
{
    if (!prefix) return;
    sp_free(prefix->entries);
    sp_free(prefix->buckets);
    sp_free(prefix);
}

uint32_t sp_prefix_find(const sp_prefix *prefix, const uint8_t key[SP_PREFIX_KEY_BYTES], uint32_t before,
                        const int32_t *tokens)
{
    assert(before == SP_NO_PAGE || prefix->entries[before].listed);
    uint64_t hash = hash_of(prefix, key, before, tokens);
    uint32_t page = *bucket_of(prefix, hash);
    for (; page != SP_NO_PAGE; page = prefix->entries[page].next) {
        const entry *one = &prefix->entries[page];
        if (one->hash == hash && one->before == before &&
            memcmp(one->tokens, tokens, sizeof one->tokens) == 0 &&
            memcmp(one->key, key, sizeof one->key) == 0)
            break;
    }
    return page;
}

void sp_prefix_add(sp_prefix *prefix, const uint8_t key[SP_PREFIX_KEY_BYTES], uint32_t before,
                   const int32_t *tokens, uint32_t page)
{
    entry *one = &prefix->entries[page];
    assert(!one->listed && sp_prefix_find(prefix, key, before, tokens) == SP_NO_PAGE);
    memcpy(one->key, key, sizeof one->key);
    memcpy(one->tokens, tokens, sizeof one->tokens);
    one->hash = hash_of(prefix, key, before, tokens);
    one->before = before;
    one->n_after = 0;
    one->listed = true;
    uint32_t *bucket = bucket_of(prefix, one->hash);
    one->next = *bucket;
    *bucket = page;
    if (before != SP_NO_PAGE) prefix->entries[before].n_after++;
    prefix->count++;
    sp_kv_keep(prefix->kv, page);
}

uint32_t sp_prefix_count(const sp_prefix *prefix)
{
    return prefix->count;
}
