/* The index of prefixes: which pages of the pool hold the keys and values of which tokens, so that a request
 * that begins like another takes its pages instead of computing them.
 *
 * A page is found by the page before it and its 64 tokens, the first one by a key: a digest of everything
 * else that the rows depend on (engine/pages.h). Pages are hashed in a chain,
 *
 *   h(first) = H(H(seed, key), tokens), h(next) = H(h(page before), tokens),
 *
 * and the hash only says where to look: key, page before and tokens are compared. The seed is random, so that
 * nobody can choose tokens that meet in one bucket. There is one entry a page of the pool, made at open:
 * nothing here allocates while requests run.
 *
 * Whoever holds a page holds those before it, and they are given back last first (engine/kv.h). So of the
 * cached pages, the one cached for longest has none after it, and an entry never outlives the one before it.
 * Owner: the engine thread. Tests: tests/unit/engine/test_prefix_index.c */
#ifndef SPARSED_ENGINE_PREFIX_H
#define SPARSED_ENGINE_PREFIX_H

#include "engine/kv.h"
#include "kernels/sha256.h"

#define SP_PREFIX_KEY_BYTES SP_SHA256_BYTES

typedef struct sp_prefix sp_prefix;

/* The index of a pool, which outlives it. hash_mask: UINT64_MAX; tests make hashes collide. SP_NO_MEMORY. */
sp_status sp_prefix_open(sp_kv *kv, uint64_t hash_mask, sp_prefix **out, sp_error *error) SP_MUST_CHECK;
void sp_prefix_close(sp_prefix *prefix);
/* Bytes that sp_prefix_open takes. */
size_t sp_prefix_bytes(uint32_t n_pages);

/* The page that holds these tokens (SP_PAGE_TOKENS) after the page `before` (SP_NO_PAGE: at the start);
 * SP_NO_PAGE: none. before is in the index. */
uint32_t sp_prefix_find(const sp_prefix *prefix, const uint8_t key[SP_PREFIX_KEY_BYTES], uint32_t before,
                        const int32_t *tokens);
/* Adds a page that sp_prefix_find does not find, full and held: it never changes again. */
void sp_prefix_add(sp_prefix *prefix, const uint8_t key[SP_PREFIX_KEY_BYTES], uint32_t before,
                   const int32_t *tokens, uint32_t page);
/* Entries. */
uint32_t sp_prefix_count(const sp_prefix *prefix);

#endif
