/* SHA-256 (FIPS 180-4): digests of API keys, so that comparing them takes the same time whatever they hold;
 * of a page's own style and script; and of what a fit or a sweep was made from, which are hashed in pieces.
 * Tests: tests/unit/kernels/test_sha256.c */
#ifndef SPARSED_KERNELS_SHA256_H
#define SPARSED_KERNELS_SHA256_H

#include "kernels/base.h"

#define SP_SHA256_BYTES 32

/* In pieces. A state is plain data: a copy goes on from there in another way. */
typedef struct sp_sha256_state {
    uint32_t words[8];
    uint64_t size; /* bytes so far */
    uint8_t block[64];
} sp_sha256_state;
void sp_sha256_begin(sp_sha256_state *state);
void sp_sha256_add(sp_sha256_state *state, const void *bytes, size_t n);
void sp_sha256_end(sp_sha256_state *state, uint8_t out[SP_SHA256_BYTES]);
/* Lower case hex digits and a NUL. */
void sp_sha256_end_hex(sp_sha256_state *state, char out[2 * SP_SHA256_BYTES + 1]);

/* At once. */
void sp_sha256(const void *bytes, size_t n, uint8_t out[SP_SHA256_BYTES]);
/* In a time that does not depend on the content. */
bool sp_sha256_same(const uint8_t a[SP_SHA256_BYTES], const uint8_t b[SP_SHA256_BYTES]);

#endif
