/* API keys from a file: who may use the server.
 *
 * One key a line, UTF-8, 8 to 256 bytes; blanks around it are trimmed, empty lines and lines that begin with
 * # are skipped. Only SHA-256 digests are kept, and one is compared with all of them without an early end, so
 * the time says nothing about a key. Which routes need none is said by the route table alone
 * (SP_ROUTE_PUBLIC); everything else is refused, unknown paths too. Owner: the server; a reload swaps the
 * whole set. Tests: tests/unit/server/test_auth.c, tests/http/test_keys.py */
#ifndef SPARSED_SERVER_AUTH_H
#define SPARSED_SERVER_AUTH_H

#include "kernels/sha256.h"

#define SP_KEY_MIN_BYTES 8
#define SP_KEY_MAX_BYTES 256

typedef struct sp_keys {
    size_t n;
    uint8_t (*digests)[SP_SHA256_BYTES]; /* (n) */
} sp_keys;

/* What a text in the format above holds; path is for messages, which never show a key. SP_DATA naming the
 * line, or when there is no key. */
sp_status sp_keys_parse(const char *path, const char *text, size_t size, sp_keys **out,
                        sp_error *error) SP_MUST_CHECK;
/* The same of a file. SP_NOT_FOUND, SP_DATA. */
sp_status sp_keys_read(const char *path, sp_keys **out, sp_error *error) SP_MUST_CHECK;
/* Is the key one of them? Then digest (32) names its owner. */
bool sp_keys_find(const sp_keys *keys, const char *key, size_t size, uint8_t digest[SP_SHA256_BYTES]);
void sp_keys_free(sp_keys *keys);

#endif
