/* Header gate, Host list and percent decoding, row by row (server/gate.h). */
#include "tests/support/test.h"

#include <string.h>

#include "server/gate.h"

typedef struct head {
    const char *name, *value;
} head;

static const char *check(const head *heads, bool http_1_1, sp_gate *gate)
{
    sp_gate_init(gate);
    for (; heads->name; heads++) {
        sp_gate_header(gate, heads->name, strlen(heads->name), heads->value, strlen(heads->value));
    }
    return sp_gate_finish(gate, http_1_1);
}

static void passes_good_heads(void **state)
{
    (void)state;
    sp_gate gate;
    const head plain[] = {
        {"Host", "a"}, {"X-Tab", "a\tb"}, {"X-Text", "\xc3\xa9"}, {"X-Empty", ""}, {NULL, NULL}};
    const head sized[] = {{"host", "a"},
                          {"CONTENT-LENGTH", "0012"},
                          {"content-type", "Application/JSON ; charset=x"},
                          {NULL, NULL}};
    const head chunked[] = {
        {"Host", "a"}, {"Transfer-Encoding", "ChunKed"}, {"X-Request-Id", "a-1"}, {NULL, NULL}};
    assert_null(check(plain, true, &gate));
    assert_false(sp_gate_has_body(&gate));
    assert_null(check(plain, false, &gate));
    assert_null(check(sized, true, &gate));
    assert_int_equal(gate.length, 12);
    assert_string_equal(gate.type, "application/json");
    assert_true(sp_gate_has_body(&gate));
    assert_null(check(chunked, true, &gate));
    assert_true(gate.chunked && sp_gate_has_body(&gate));
    assert_string_equal(gate.request_id, "a-1");
}

static void refuses_doubtful_heads(void **state)
{
    (void)state;
    sp_gate gate;
    const head rows[][4] = {
        {{"X", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"Host", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"X ", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"X(", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"X\xc3\xa9", "a"}, {NULL, NULL}},
        {{"Host", "a"}, {"X", "a\rb"}, {NULL, NULL}},
        {{"Host", "a"}, {"X", "a\nb"}, {NULL, NULL}},
        {{"Host", "a"}, {"X", "\x01"}, {NULL, NULL}},
        {{"Host", "a"}, {"X", "\x7f"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", ""}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "-1"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "+1"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "1 "}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "0x1"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "18446744073709551615"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "1"}, {"Content-Length", "1"}, {NULL, NULL}},
        {{"Host", "a"}, {"Content-Length", "1"}, {"Transfer-Encoding", "chunked"}, {NULL, NULL}},
        {{"Host", "a"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}, {NULL, NULL}},
        {{"Host", "a"}, {"Transfer-Encoding", "gzip, chunked"}, {NULL, NULL}},
        {{"Host", "a"}, {"Transfer-Encoding", "identity"}, {NULL, NULL}},
        {{"Host", "a"}, {"Transfer-Encoding", ""}, {NULL, NULL}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_non_null(check(rows[i], true, &gate));
    const head chunked[] = {{"Host", "a"}, {"Transfer-Encoding", "chunked"}, {NULL, NULL}};
    assert_non_null(check(chunked, false, &gate));
}

static void ignores_unfit_request_ids(void **state)
{
    (void)state;
    sp_gate gate;
    const char *const rows[] = {"", "a b", "\xc3\xa9",
                                "0123456789012345678901234567890123456789012345678901234567890123x"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const head heads[] = {{"Host", "a"}, {"X-Request-Id", rows[i]}, {NULL, NULL}};
        assert_null(check(heads, true, &gate));
        assert_string_equal(gate.request_id, "");
    }
}

static void decides_hosts(void **state)
{
    (void)state;
    const char *const good[] = {"localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:1",
                                "[::1]",     "[::1]:8080",   "me:1"};
    const char *const bad[] = {"",       ":80",       "evil", "localhost.evil", "localhost:8x", "[::1",
                               "[::1]x", "127.0.0.2", "::1"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(sp_gate_host_allowed(good[i], NULL, "me"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(sp_gate_host_allowed(bad[i], NULL, "me"));
    assert_true(sp_gate_host_allowed("b.example:9", "a.example, b.example", "me"));
    assert_false(sp_gate_host_allowed("localhost", "a.example,b.example", "me"));
    assert_false(sp_gate_host_allowed("a.exampl", "a.example", "me"));
    assert_true(sp_gate_host_allowed("anything", "x,*", "me"));
    assert_true(sp_gate_host_allowed("[fe80::1]:80", NULL, "fe80::1"));
    assert_true(sp_gate_is_loopback("127.1.2.3") && sp_gate_is_loopback("::1") &&
                sp_gate_is_loopback("localhost"));
    assert_false(sp_gate_is_loopback("0.0.0.0") || sp_gate_is_loopback("::") ||
                 sp_gate_is_loopback("128.0.0.1"));
}

static void decodes_paths_and_values(void **state)
{
    (void)state;
    char out[32];
    const char *const bad[] = {"/%00",   "/%0a",    "/%",   "/%4",
                               "/%zz",   "/a/../b", "/..",  "/%2e%2e/x",
                               "/a%5Cb", "/\\",     "/%ff", "/0123456789012345678901234567890"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(sp_gate_decode(bad[i], strlen(bad[i]), false, out, sizeof out));
    }
    assert_true(sp_gate_decode("/a%41%2Fb+c..", 13, false, out, sizeof out));
    assert_string_equal(out, "/aA/b+c..");
    assert_true(sp_gate_decode("%c3%a9", 6, false, out, sizeof out));
    assert_string_equal(out, "\xc3\xa9");
    assert_true(sp_gate_decode("a+b%2Bc\\", 8, true, out, sizeof out));
    assert_string_equal(out, "a b+c\\");
    assert_true(sp_gate_decode("", 0, true, out, 1));
    assert_false(sp_gate_decode("a", 1, true, out, 1));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(passes_good_heads),         cmocka_unit_test(refuses_doubtful_heads),
    cmocka_unit_test(ignores_unfit_request_ids), cmocka_unit_test(decides_hosts),
    cmocka_unit_test(decodes_paths_and_values),
};
TEST_MAIN(tests)
