/* The JSON validator: one pass, one stack, one set of keys.
 *
 * A duplicate key is found with a hash set over the keys of all open objects, at most once per key. Senders
 * choose the keys, so the hash is keyed with random bytes of this process (SipHash-1-3: Aumasson and
 * Bernstein, 2012) and works on the unescaped bytes, so that "a" and "\u0061" meet. Keys leave the set in the
 * reverse order of their coming, when their object closes, which keeps linear probing sound without
 * tombstones: memory follows the keys of the open objects, at most some four bytes a byte of text. Tests:
 * tests/unit/kernels/test_json.c, tests/fuzz/fuzz_json.c */
#include "kernels/json.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "kernels/json_scan.h"

enum { FIRST_KEYS = 32 };
#define MAX_KEYS ((size_t)1 << 31) /* slots hold 32-bit positions */

/* --- keyed hash of an unescaped string --- */

static uint64_t hash_key[2];
static pthread_once_t hash_key_once = PTHREAD_ONCE_INIT;

static void choose_hash_key(void)
{
    if (getrandom(hash_key, sizeof hash_key, 0) == (ssize_t)sizeof hash_key) return;
    hash_key[0] =
        (uint64_t)(sp_now() * 1e9); /* no random source: time and load address are still hard to guess */
    hash_key[1] = (uint64_t)(uintptr_t)&hash_key;
}

static uint64_t rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* Hash of the unescaped bytes of raw; tweak tells objects apart. */
static uint64_t hash_string(const char *raw, size_t size, uint64_t tweak)
{
    uint64_t v[4] = {hash_key[0] ^ 0x736f6d6570736575u, hash_key[1] ^ 0x646f72616e646f6du,
                     hash_key[0] ^ 0x6c7967656e657261u, hash_key[1] ^ 0x7465646279746573u};
    uint64_t word = 0, total = 0;
    sip_word(v, tweak);
    for (size_t at = 0; at < size;) {
        char bytes[4];
        size_t taken, n = sp_json_decode(raw + at, size - at, bytes, &taken);
        at += taken;
        for (size_t i = 0; i < n; i++, total++) {
            word |= (uint64_t)(unsigned char)bytes[i] << 8 * (total & 7);
            if ((total & 7) != 7) continue;
            sip_word(v, word);
            word = 0;
        }
    }
    sip_word(v, word | total << 56);
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* --- the set of keys of all open objects --- */

struct key {
    uint64_t hash;
    uint32_t at, size; /* the raw key in the text */
};

struct keys {
    struct key *stack; /* in the order they came: the last object's keys on top */
    uint32_t *slots;   /* position in stack plus one; 0 is free; linear probing */
    size_t n, n_slots; /* n_slots is a power of two, or 0; stack has room for half of it */
};

static void slot_insert(struct keys *keys, size_t position)
{
    size_t mask = keys->n_slots - 1, slot = keys->stack[position].hash & mask;
    while (keys->slots[slot]) slot = (slot + 1) & mask;
    keys->slots[slot] = (uint32_t)(position + 1);
}

static bool keys_grow(struct keys *keys)
{
    size_t n_slots = keys->n_slots ? 2 * keys->n_slots : 2 * FIRST_KEYS;
    if (n_slots / 2 > MAX_KEYS) return false;
    struct key *stack = sp_alloc(n_slots / 2, sizeof *stack);
    uint32_t *slots = sp_alloc_zero(n_slots, sizeof *slots);
    if (!stack || !slots) {
        sp_free(stack);
        sp_free(slots);
        return false;
    }
    if (keys->n > 0) memcpy(stack, keys->stack, keys->n * sizeof *stack);
    sp_free(keys->stack);
    sp_free(keys->slots);
    *keys = (struct keys){stack, slots, keys->n, n_slots};
    for (size_t i = 0; i < keys->n; i++)
        slot_insert(keys, i); /* in order, so that the last can leave first */
    return true;
}

/* Drops the keys above the first n, the last first: no later key has probed past the slot that becomes free.
 */
static void keys_drop(struct keys *keys, size_t n)
{
    while (keys->n > n) {
        size_t mask = keys->n_slots - 1, slot = keys->stack[keys->n - 1].hash & mask;
        while (keys->slots[slot] != keys->n) slot = (slot + 1) & mask;
        keys->slots[slot] = 0;
        keys->n--;
    }
}

/* Next byte of an unescaped string; false at its end. */
struct cursor {
    const char *raw;
    size_t size, n, i;
    char bytes[4];
};

static bool cursor_next(struct cursor *cursor, char *byte)
{
    if (cursor->i == cursor->n) {
        size_t taken;
        if (cursor->size == 0) return false;
        cursor->n = sp_json_decode(cursor->raw, cursor->size, cursor->bytes, &taken);
        cursor->i = 0;
        cursor->raw += taken;
        cursor->size -= taken;
    }
    *byte = cursor->bytes[cursor->i++];
    return true;
}

static bool same_string(const char *a, size_t a_size, const char *b, size_t b_size)
{
    struct cursor x = {.raw = a, .size = a_size}, y = {.raw = b, .size = b_size};
    char p, q;
    for (;;) {
        bool more_x = cursor_next(&x, &p), more_y = cursor_next(&y, &q);
        if (!more_x || !more_y) return more_x == more_y;
        if (p != q) return false;
    }
}

/* --- the pass --- */

struct scan {
    const char *text;
    size_t size, at;
    uint32_t depth;
    char closers[SP_JSON_MAX_DEPTH];         /* of the open containers: '}' or ']' */
    size_t first_key[SP_JSON_MAX_DEPTH + 1]; /* keys in the set when the container opened */
    size_t opened_at[SP_JSON_MAX_DEPTH + 1];
    struct keys keys;
    sp_status status;
    const char *fault; /* NULL while all is well */
};

static bool refuse(struct scan *s, const char *fault)
{
    s->fault = fault;
    s->status = SP_DATA;
    return false;
}

static char peek(struct scan *s)
{
    while (s->at < s->size && sp_json_is_space(s->text[s->at])) s->at++;
    return s->at < s->size ? s->text[s->at] : 0; /* a real NUL is refused by every caller */
}

static bool scan_string(struct scan *s, size_t *raw_at, size_t *raw_size)
{
    const char *fault;
    *raw_at = ++s->at; /* behind the quote */
    *raw_size = sp_json_scan_string(s->text + s->at, s->size - s->at, &fault);
    s->at += *raw_size;
    if (fault) return refuse(s, fault);
    s->at++;
    return true;
}

/* Adds the key to the current object's; false if it is there already or memory ends. */
static bool add_key(struct scan *s, size_t at, size_t size)
{
    struct keys *keys = &s->keys;
    if (2 * keys->n >= keys->n_slots && !keys_grow(keys)) {
        s->fault = "out of memory";
        s->status = SP_NO_MEMORY;
        return false;
    }
    struct key key = {hash_string(s->text + at, size, s->opened_at[s->depth]), (uint32_t)at, (uint32_t)size};
    size_t mask = keys->n_slots - 1, slot = key.hash & mask;
    for (; keys->slots[slot]; slot = (slot + 1) & mask) {
        size_t position = keys->slots[slot] - 1;
        const struct key *other = &keys->stack[position];
        if (other->hash != key.hash || position < s->first_key[s->depth]) continue;
        if (!same_string(s->text + at, size, s->text + other->at, other->size)) continue;
        s->at = at - 1;
        return refuse(s, "duplicate key");
    }
    keys->stack[keys->n++] = key;
    keys->slots[slot] = (uint32_t)keys->n;
    return true;
}

static bool scan_key(struct scan *s)
{
    size_t at, size;
    if (peek(s) != '"') return refuse(s, "expected a key in double quotes");
    if (!scan_string(s, &at, &size) || !add_key(s, at, size)) return false;
    if (peek(s) != ':') return refuse(s, "expected ':' after a key");
    s->at++;
    return true;
}

static bool scan_literal(struct scan *s, const char *literal)
{
    size_t n = strlen(literal);
    if (s->size - s->at < n || memcmp(s->text + s->at, literal, n) != 0) return refuse(s, "expected a value");
    s->at += n;
    return true;
}

static bool scan_number(struct scan *s)
{
    size_t n = sp_json_scan_number(s->text + s->at, s->size - s->at);
    if (n == 0) return refuse(s, "malformed number");
    if (!isfinite(sp_json_number_value(s->text + s->at, n)))
        return refuse(s, "number beyond the range of a double");
    s->at += n;
    return true;
}

static bool open_container(struct scan *s, char closer)
{
    if (s->depth == SP_JSON_MAX_DEPTH) return refuse(s, "nested deeper than 32 levels");
    s->closers[s->depth++] = closer;
    s->first_key[s->depth] = s->keys.n;
    s->opened_at[s->depth] = s->at++;
    return true;
}

/* Reads up to the end of a scalar, through the openings of the containers around it, or up to the end of an
 * empty container, which scan_after closes. */
static bool scan_value(struct scan *s)
{
    size_t at, size;
    for (;;) {
        char c = peek(s);
        switch (c) {
        case '{':
            if (!open_container(s, '}')) return false;
            if (peek(s) == '}') return true;
            if (!scan_key(s)) return false;
            continue;
        case '[':
            if (!open_container(s, ']')) return false;
            if (peek(s) == ']') return true;
            continue;
        case '"':
            return scan_string(s, &at, &size);
        case 't':
            return scan_literal(s, "true");
        case 'f':
            return scan_literal(s, "false");
        case 'n':
            return scan_literal(s, "null");
        default:
            if (c == '-' || (c >= '0' && c <= '9')) return scan_number(s);
            return refuse(s, "expected a value");
        }
    }
}

/* Behind a value: closes containers that end here, then takes the comma (and key) before the next value.
 * *more tells whether there is one. */
static bool scan_after(struct scan *s, bool *more)
{
    *more = false;
    while (s->depth > 0) {
        char c = peek(s), closer = s->closers[s->depth - 1];
        if (c == closer) {
            keys_drop(&s->keys, s->first_key[s->depth]);
            s->depth--;
            s->at++;
        } else if (c == ',') {
            s->at++;
            *more = true;
            return closer == ']' || scan_key(s);
        } else {
            return refuse(s, closer == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        }
    }
    peek(s);
    return s->at == s->size || refuse(s, "something follows the value");
}

sp_status sp_json_validate(const char *text, size_t size, sp_error *error)
{
    struct scan s = {.text = text, .size = size};
    if (size > UINT32_MAX) return sp_fail(error, SP_DATA, "JSON: %zu bytes, more than 4 GiB", size);
    pthread_once(&hash_key_once, choose_hash_key);
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        refuse(&s, "byte order mark");
    else
        for (bool more = true; more && scan_value(&s) && scan_after(&s, &more);) continue;
    sp_free(s.keys.stack);
    sp_free(s.keys.slots);
    if (!s.fault) return SP_OK;
    const char *end = s.at >= size ? " (the text ends there)" : "";
    return sp_fail(error, s.status, "JSON: %s at byte %zu%s", s.fault, s.at, end);
}
