/* SHA-256 (FIPS 180-4): digests of API keys, so that comparing them takes the same time whatever they hold.
 * Tests: tests/unit/kernels/test_sha256.c */
#ifndef SPARSED_KERNELS_SHA256_H
#define SPARSED_KERNELS_SHA256_H

#include "kernels/base.h"

#define SP_SHA256_BYTES 32

void sp_sha256(const void *bytes, size_t n, uint8_t out[SP_SHA256_BYTES]);
/* In a time that does not depend on the content. */
bool sp_sha256_same(const uint8_t a[SP_SHA256_BYTES], const uint8_t b[SP_SHA256_BYTES]);

#endif
