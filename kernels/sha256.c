/* SHA-256 as FIPS 180-4 section 6.2 writes it: blocks of 64 bytes, each mixed into eight words by 64 rounds;
 * behind the message a 1 bit, zeros and its length in bits. Tests: tests/unit/kernels/test_sha256.c */
#include "kernels/sha256.h"

#include <string.h>

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* One round on words that are named anew for the next one, so that none is moved: d and h change. */
#define ROUND(a, b, c, d, e, f, g, h, t)                                                                     \
    do {                                                                                                     \
        h += (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[t] +    \
             w[t];                                                                                           \
        d += h;                                                                                              \
        h += (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));                 \
    } while (0)

static void take_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5],
                    g = state[6], h = state[7];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[t - 7] +
               (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
    }
    for (int t = 0; t < 64; t += 8) {
        ROUND(a, b, c, d, e, f, g, h, t);
        ROUND(h, a, b, c, d, e, f, g, t + 1);
        ROUND(g, h, a, b, c, d, e, f, t + 2);
        ROUND(f, g, h, a, b, c, d, e, t + 3);
        ROUND(e, f, g, h, a, b, c, d, t + 4);
        ROUND(d, e, f, g, h, a, b, c, t + 5);
        ROUND(c, d, e, f, g, h, a, b, t + 6);
        ROUND(b, c, d, e, f, g, h, a, t + 7);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void sp_sha256_begin(sp_sha256_state *state)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(state->words, start, sizeof start);
    state->size = 0;
}

void sp_sha256_add(sp_sha256_state *state, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    size_t held = (size_t)(state->size % 64);
    state->size += n;
    if (held) {
        size_t part = n < 64 - held ? n : 64 - held;
        if (part) memcpy(state->block + held, from, part);
        if (held + part < 64) return;
        take_block(state->words, state->block);
        from += part;
        n -= part;
    }
    for (; n >= 64; n -= 64, from += 64) take_block(state->words, from);
    if (n) memcpy(state->block, from, n);
}

void sp_sha256_end(sp_sha256_state *state, uint8_t out[SP_SHA256_BYTES])
{
    static const uint8_t padding[64] = {0x80};
    uint8_t length[8];
    size_t held = (size_t)(state->size % 64);
    for (size_t i = 0; i < 8; i++) length[i] = (uint8_t)(state->size * 8 >> (56 - 8 * i));
    sp_sha256_add(state, padding, held < 56 ? 56 - held : 120 - held);
    sp_sha256_add(state, length, sizeof length);
    for (size_t i = 0; i < SP_SHA256_BYTES; i++)
        out[i] = (uint8_t)(state->words[i / 4] >> (24 - 8 * (i % 4)));
}

void sp_sha256_end_hex(sp_sha256_state *state, char out[2 * SP_SHA256_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[SP_SHA256_BYTES];
    sp_sha256_end(state, digest);
    for (size_t i = 0; i < 2 * SP_SHA256_BYTES; i++) out[i] = digits[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    out[2 * SP_SHA256_BYTES] = 0;
}

void sp_sha256(const void *bytes, size_t n, uint8_t out[SP_SHA256_BYTES])
{
    sp_sha256_state state;
    sp_sha256_begin(&state);
    sp_sha256_add(&state, bytes, n);
    sp_sha256_end(&state, out);
}

bool sp_sha256_same(const uint8_t a[SP_SHA256_BYTES], const uint8_t b[SP_SHA256_BYTES])
{
    volatile uint64_t differ = 0; /* no comparison ends early */
    for (size_t i = 0; i < SP_SHA256_BYTES; i += sizeof(uint64_t)) {
        uint64_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        differ = differ | (x ^ y);
    }
    return differ == 0;
}
