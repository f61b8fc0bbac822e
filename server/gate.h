/* The header gate: what libmicrohttpd 0.9.75 lets through and must not reach us, because a proxy in front
 * could read it otherwise (request smuggling): RFC 9112 6.3, RFC 9110 5.1 and 5.5. Pure functions on bytes.
 *
 * Refused: names that are no tokens, control bytes in names and values, not exactly one Host, two
 * Content-Lengths, one beside a Transfer-Encoding, an empty or signed length, a Transfer-Encoding other than
 * `chunked`, two of them, any on HTTP/1.0. Tests: tests/unit/server/test_gate.c, tests/http/test_gate.py */
#ifndef SPARSED_SERVER_GATE_H
#define SPARSED_SERVER_GATE_H

#include "server/auth.h"

/* A key as it was sent; size 0: none, or one that no key file can hold. */
typedef struct sp_gate_key {
    char text[SP_KEY_MAX_BYTES];
    size_t size;
} sp_gate_key;

typedef struct sp_gate {
    unsigned hosts, lengths, codings, types;
    bool chunked, encoded;
    uint64_t length;
    const char *fault;       /* first fault found; NULL: none */
    char host[256];          /* as sent */
    char type[64];           /* Content-Type without parameters, lower case; empty: none */
    char accept[128];        /* Accept; empty: none, or too long to look at */
    char if_none_match[128]; /* the same of If-None-Match */
    char request_id[65];     /* X-Request-Id if it is 1 to 64 visible bytes, else empty */
    unsigned authorizations, api_keys, origins;
    sp_gate_key bearer;  /* of Authorization: Bearer */
    sp_gate_key api_key; /* of X-Api-Key */
    char origin[256];    /* Origin; empty: none, or too long for any list */
    char wanted[1024];   /* Access-Control-Request-Headers if these are names between commas, else empty */
} sp_gate;

void sp_gate_init(sp_gate *gate);
void sp_gate_header(sp_gate *gate, const char *name, size_t name_size, const char *value, size_t value_size);
/* After the last header: NULL or what is wrong. */
const char *sp_gate_finish(sp_gate *gate, bool http_1_1);
/* A body is declared (or may be). */
bool sp_gate_has_body(const sp_gate *gate);

/* Host header against the list: allowed is comma-separated names ("*": any), or NULL: localhost, 127.0.0.1,
 * [::1] and own (the --host value). Any port. */
bool sp_gate_host_allowed(const char *host, const char *allowed, const char *own);
/* An address or name that only this machine reaches. */
bool sp_gate_is_loopback(const char *host);

/* Percent-decodes a path (form: false) or a query value (true: + is a space). False for a bad escape, a
 * control byte
 * (%00 too), a backslash or a ".." segment in a path, or more than capacity - 1 bytes. */
bool sp_gate_decode(const char *raw, size_t size, bool form, char *out, size_t capacity);

#endif
