/* kernels/sha256.h against the examples of FIPS 180-4 and digests by Python's hashlib around the block size.
 */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "kernels/sha256.h"

static void is(const char *text, size_t n, const char *expected)
{
    uint8_t digest[SP_SHA256_BYTES];
    char hex[2 * SP_SHA256_BYTES + 1];
    sp_sha256(text, n, digest);
    for (size_t i = 0; i < sizeof digest; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, expected);
}

static void known_digests(void **state)
{
    (void)state;
    static char many[1000000];
    memset(many, 'a', sizeof many);
    is("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    is("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    is(many, sizeof many, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    static const struct {
        size_t n;
        const char *digest;
    } edges[] = {
        {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
        {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
        {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
        {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
        {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
        {119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb"},
        {120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c"},
    };
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) is(many, edges[i].n, edges[i].digest);
}

/* The same in pieces of every length up to a whole block and beyond, ended as hex. */
static void pieces(void **state)
{
    (void)state;
    char text[200], hex[2 * SP_SHA256_BYTES + 1];
    memset(text, 'a', sizeof text);
    for (size_t piece = 1; piece <= 120; piece++) {
        sp_sha256_state pieces_of;
        sp_sha256_begin(&pieces_of);
        for (size_t at = 0; at < 120; at += piece)
            sp_sha256_add(&pieces_of, text + at, 120 - at < piece ? 120 - at : piece);
        sp_sha256_end_hex(&pieces_of, hex);
        assert_string_equal(hex, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c");
    }
}

static void compares_every_byte(void **state)
{
    (void)state;
    uint8_t a[SP_SHA256_BYTES], b[SP_SHA256_BYTES];
    sp_sha256("a", 1, a);
    memcpy(b, a, sizeof b);
    assert_true(sp_sha256_same(a, b));
    for (size_t i = 0; i < sizeof a; i++) {
        b[i] ^= 0x80;
        assert_false(sp_sha256_same(a, b));
        b[i] ^= 0x80;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_digests),
        cmocka_unit_test(pieces),
        cmocka_unit_test(compares_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
