/* Errors, log, checked sizes, memory, arenas, buffers, files, hash and UTF-8. */
#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_errors(void **state)
{
    (void)state;
    sp_error error;
    assert_int_equal(sp_fail(&error, SP_DATA, "%s has %d", "x", 3), SP_DATA);
    assert_int_equal(error.status, SP_DATA);
    assert_string_equal(error.message, "x has 3");
    assert_string_equal(error.param, "");
    assert_int_equal(sp_fail_param(&error, SP_INVALID, "top_p", "must be below %g", 1.0), SP_INVALID);
    assert_string_equal(error.param, "top_p");
    assert_string_equal(error.message, "must be below 1");
    assert_int_equal(sp_fail(NULL, SP_BUSY, "nobody listens"), SP_BUSY);
    /* the arguments may be the error itself */
    sp_fail_param(&error, SP_INTERNAL, error.param, "again: %s", error.message);
    assert_string_equal(error.param, "top_p");
    assert_string_equal(error.message, "again: must be below 1");
    sp_fail(&error, SP_OK, "fresh");
    assert_string_equal(error.param, "");
    sp_fail_param(&error, SP_DATA, NULL, "no name");
    assert_string_equal(error.param, "");
}

static void test_errors_are_harmless(void **state)
{
    (void)state;
    sp_error error;
    sp_fail_param(&error, SP_DATA, "a\nb", "%s", "x\x1b[31m\r\n\x7f\xc2\x85\xff\xc3\xa9");
    assert_string_equal(error.param, "a\\x0ab");
    assert_string_equal(error.message, "x\\x1b[31m\\x0d\\x0a\\x7f\\xc2\\x85\\xff\xc3\xa9");

    char text[2000]; /* longer than a message, cut between characters whatever the offset */
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 2 < sizeof text; i += 2) memcpy(text + i, "\xc3\xa9", 3);
        sp_fail_param(&error, SP_DATA, text, "%s", text);
        assert_true(strlen(error.message) >= sizeof error.message - 3);
        assert_true(strlen(error.message) < sizeof error.message);
        assert_true(strlen(error.param) < sizeof error.param);
        assert_true(sp_utf8_valid(error.message, strlen(error.message)));
        assert_true(sp_utf8_valid(error.param, strlen(error.param)));
    }
}

static void test_status_names(void **state)
{
    (void)state;
    for (int i = SP_OK; i <= SP_INTERNAL; i++)
        for (int k = SP_OK; k < i; k++)
            assert_string_not_equal(sp_status_name((sp_status)i), sp_status_name((sp_status)k));
    assert_string_equal(sp_status_name((sp_status)999), "unknown");
}

/* What sp_log writes to standard error while body runs is caught through a pipe. */
static void test_log(void **state)
{
    (void)state;
    int ends[2], saved = dup(STDERR_FILENO);
    char text[8192];
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    errno = 33;
    sp_log(SP_LOG_DEBUG, "not shown");
    sp_log(SP_LOG_WARN, "one\ntwo %d", 7);
    int kept = errno;
    sp_log_set_level(SP_LOG_ERROR);
    sp_log(SP_LOG_INFO, "not shown");
    sp_log(SP_LOG_ERROR, "%2000s", "long");
    sp_log_set_level(SP_LOG_INFO);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    assert_true(n > 0);
    text[n] = 0;
    assert_int_equal(kept, 33);
    assert_null(strstr(text, "not shown"));
    char *first_end = strchr(text, '\n');
    assert_non_null(first_end);
    assert_non_null(strstr(text, "Z warn  one\\x0atwo 7\n"));
    assert_true(text[4] == '-' && text[10] == 'T' && text[23] == 'Z');
    assert_ptr_equal(strchr(first_end + 1, '\n'), text + n - 1); /* two lines, the second cut but ended */
}

static void test_clock(void **state)
{
    (void)state;
    double first = sp_now();
    usleep(2000);
    double passed = sp_now() - first;
    assert_true(passed >= 0.002 && passed < 60);
}

static void test_sizes(void **state)
{
    (void)state;
    size_t out = 5;
    assert_false(sp_add_size(SIZE_MAX, 1, &out));
    assert_false(sp_mul_size(SIZE_MAX / 2 + 1, 2, &out));
    assert_false(sp_mul_size((size_t)1 << 32, (size_t)1 << 32, &out));
    assert_false(sp_align_size(SIZE_MAX - 62, 64, &out));
    assert_int_equal(out, 5);
    assert_true(sp_add_size(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
    assert_true(sp_mul_size((size_t)1 << 32, ((size_t)1 << 32) - 1, &out));
    assert_true(out == ((size_t)1 << 32) * (((size_t)1 << 32) - 1));
    assert_true(sp_mul_size(SIZE_MAX, 0, &out));
    assert_int_equal(out, 0);
    assert_true(sp_align_size(SIZE_MAX - 63, 64, &out));
    assert_true(out == SIZE_MAX - 63);
    for (size_t i = 0; i < 200; i++) {
        assert_true(sp_align_size(i, 64, &out));
        assert_int_equal(out, (i + 63) / 64 * 64);
        assert_true(sp_align_size(i, 1, &out));
        assert_int_equal(out, i);
    }
}

static void test_memory(void **state)
{
    (void)state;
    assert_null(sp_alloc(0, 8));
    assert_null(sp_alloc(8, 0));
    assert_null(sp_alloc(SIZE_MAX / 2, 3));
    assert_null(sp_alloc(SIZE_MAX, 1));
    assert_null(sp_alloc_zero(PTRDIFF_MAX, 2));
    sp_free(NULL);
    for (size_t n = 1; n < 300; n += 7) {
        unsigned char *memory = sp_alloc_zero(n, 3);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % SP_ALIGNMENT, 0);
        for (size_t i = 0; i < 3 * n; i++) assert_int_equal(memory[i], 0);
        memset(memory, 1, 3 * n);
        sp_free(memory);
    }
    char *copy = sp_copy_text("abc\0d", 5);
    assert_memory_equal(copy, "abc\0d", 6);
    sp_free(copy);
    copy = sp_copy_text(NULL, 0);
    assert_string_equal(copy, "");
    sp_free(copy);
}

static void test_arena(void **state)
{
    (void)state;
    sp_arena arena;
    sp_arena_init(&arena, 100000);
    char *pieces[100];
    for (size_t i = 0; i < COUNT_OF(pieces); i++) {
        size_t n = 1 + i * 7;
        pieces[i] = sp_arena_alloc(&arena, n, 1);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t k = 0; k < n; k++) assert_int_equal(pieces[i][k], 0);
        memset(pieces[i], (int)i + 1, n);
    }
    for (size_t i = 0; i < COUNT_OF(pieces); i++) /* nobody wrote over another */
        for (size_t k = 0; k < 1 + i * 7; k++) assert_int_equal(pieces[i][k], i + 1);
    assert_string_equal(sp_arena_copy(&arena, "text", 4), "text");
    assert_string_equal(sp_arena_copy(&arena, NULL, 0), "");
    assert_non_null(sp_arena_alloc(&arena, 0, 4));
    assert_non_null(sp_arena_alloc(&arena, 50000, 1));
    assert_null(sp_arena_alloc(&arena, 50000, 1)); /* over the limit; the arena stays good */
    assert_false(arena.no_memory);
    assert_null(sp_arena_alloc(&arena, SIZE_MAX, 2));
    assert_null(sp_arena_alloc(&arena, SIZE_MAX, 1));
    assert_null(sp_arena_copy(&arena, "x", SIZE_MAX));
    assert_non_null(sp_arena_alloc(&arena, 16, 1));
    assert_true(arena.used <= arena.max_bytes);
    sp_arena_fini(&arena);
    assert_int_equal(arena.used, 0);
    assert_non_null(sp_arena_alloc(&arena, 100000 - 16, 1)); /* good for another request */
    assert_non_null(sp_arena_alloc(&arena, 16, 1));
    assert_null(sp_arena_alloc(&arena, 1, 1));
    sp_arena_fini(&arena);
    sp_arena_init(&arena, 0);
    assert_null(sp_arena_alloc(&arena, 1, 1));
    assert_false(arena.no_memory);
    sp_arena_fini(&arena);
    sp_arena_init(&arena, SIZE_MAX);
    assert_null(sp_arena_alloc(&arena, SIZE_MAX / 2, 1)); /* within its limit, more than there is */
    assert_true(arena.no_memory);
    sp_arena_fini(&arena);
}

static void test_buffer(void **state)
{
    (void)state;
    sp_buffer buffer;
    sp_buffer_init(&buffer, 1000);
    assert_true(sp_buffer_append(&buffer, NULL, 0));
    assert_true(sp_buffer_text(&buffer, "ab"));
    assert_true(sp_buffer_format(&buffer, "%d-%s", 12, "x"));
    assert_memory_equal(buffer.data, "ab12-x", 6);
    assert_int_equal(buffer.size, 6);
    assert_true(sp_buffer_format(&buffer, "%994d", 7)); /* longer than the stack copy, exactly to the limit */
    assert_int_equal(buffer.size, 1000);
    assert_int_equal(buffer.data[999], '7');
    assert_true(sp_buffer_append(&buffer, NULL, 0));
    assert_false(sp_buffer_append(&buffer, "x", 1));
    assert_true(buffer.failed);
    assert_int_equal(buffer.size, 1000);
    assert_false(sp_buffer_append(&buffer, NULL, 0)); /* sticky */
    sp_buffer_clear(&buffer);
    assert_false(buffer.failed);
    assert_int_equal(buffer.size, 0);
    assert_false(sp_buffer_format(&buffer, "%1001d", 7));
    assert_true(buffer.failed);
    assert_false(sp_buffer_text(&buffer, ""));
    assert_int_equal(buffer.size, 0);
    sp_buffer_clear(&buffer);
    for (size_t i = 0; i < 1000; i++) assert_true(sp_buffer_append(&buffer, &(char){(char)i}, 1));
    for (size_t i = 0; i < 1000; i++) assert_int_equal(buffer.data[i], (char)i);
    assert_true(buffer.capacity <= 1000);
    sp_buffer_fini(&buffer);
    assert_null(buffer.data);

    sp_buffer_init(&buffer, 300); /* grows by doubling, but not beyond its limit */
    for (size_t i = 0; i < 300; i++) assert_true(sp_buffer_text(&buffer, "x"));
    assert_int_equal(buffer.capacity, 300);
    assert_false(sp_buffer_text(&buffer, "x"));
    sp_buffer_fini(&buffer);

    sp_buffer_init(&buffer, SIZE_MAX);
    assert_true(sp_buffer_text(&buffer, "a"));
    assert_false(sp_buffer_append(&buffer, "a", SIZE_MAX)); /* the sum would overflow */
    sp_buffer_fini(&buffer);
}

static void test_read_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/sparsed-test-XXXXXX", path[128], *data;
    size_t size;
    sp_error error;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(sp_read_file(path, 10, &data, &size, &error), SP_NOT_FOUND);
    assert_non_null(strstr(error.message, path));
    assert_null(data);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite("a\0b\xff\n", 1, 5, file);
    fclose(file);
    assert_ok(sp_read_file(path, 5, &data, &size, &error), error);
    assert_int_equal(size, 5);
    assert_memory_equal(data, "a\0b\xff\n", 6); /* and a NUL behind it */
    sp_free(data);
    assert_int_equal(sp_read_file(path, 4, &data, &size, &error), SP_DATA);
    assert_non_null(strstr(error.message, path));
    assert_int_equal(truncate(path, 0), 0);
    assert_ok(sp_read_file(path, 0, &data, &size, &error), error);
    assert_int_equal(size, 0);
    assert_string_equal(data, "");
    sp_free(data);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* must be refused, not waited for */
    assert_int_equal(sp_read_file(path, 10, &data, &size, &error), SP_DATA);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(sp_read_file(folder, 10, &data, &size, &error), SP_DATA);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(sp_read_file("/dev/zero", 10, &data, &size, NULL), SP_DATA);
}

static void test_hash(void **state)
{
    (void)state; /* test vectors of the FNV authors */
    assert_true(sp_hash_bytes("", 0) == 0xcbf29ce484222325u);
    assert_true(sp_hash_bytes("a", 1) == 0xaf63dc4c8601ec8cu);
    assert_true(sp_hash_bytes("foobar", 6) == 0x85944171f73967e8u);
}

/* Every Unicode scalar value is encoded by hand here and found well-formed; everything else is not. */
static void test_utf8(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x120000; c++) {
        char text[4];
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        if (n == 1) text[0] = (char)c;
        if (n == 2) text[0] = (char)(0xc0 | c >> 6);
        if (n == 3) text[0] = (char)(0xe0 | c >> 12);
        if (n == 4) text[0] = (char)(0xf0 | c >> 18);
        for (size_t i = 1; i < n; i++) text[i] = (char)(0x80 | ((c >> 6 * (n - 1 - i)) & 0x3f));
        bool scalar = (c < 0xd800 || c > 0xdfff) && c <= 0x10ffff;
        if (sp_utf8_length(text, n) != (scalar ? n : 0)) fail_msg("U+%04X", c);
        if (n > 1 && sp_utf8_length(text, n - 1) != 0) fail_msg("cut U+%04X", c);
        if (sp_utf8_valid(text, n) != scalar) fail_msg("U+%04X", c);
    }
    size_t counts[5] = {0}; /* of all first three bytes, exactly the scalar values' ones pass */
    for (uint32_t i = 0; i < 1u << 24; i++) {
        char text[3] = {(char)(i >> 16), (char)(i >> 8), (char)i};
        counts[sp_utf8_length(text, 3)]++;
    }
    assert_int_equal(counts[1], 128 << 16);
    assert_int_equal(counts[2], (0x800 - 0x80) << 8);
    assert_int_equal(counts[3], 0x10000 - 0x800 - 0x800);
    assert_int_equal(counts[4], 0);
    assert_int_equal(sp_utf8_length("", 0), 0);
    assert_true(sp_utf8_valid(NULL, 0));
    assert_true(sp_utf8_valid("a\0b\xf0\x9f\x98\x80", 7));
    assert_false(sp_utf8_valid("\xf0\x80\x80\x80", 4));
    assert_false(sp_utf8_valid("ab\x80", 3));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_errors),       cmocka_unit_test(test_errors_are_harmless),
    cmocka_unit_test(test_status_names), cmocka_unit_test(test_log),
    cmocka_unit_test(test_clock),        cmocka_unit_test(test_sizes),
    cmocka_unit_test(test_memory),       cmocka_unit_test(test_arena),
    cmocka_unit_test(test_buffer),       cmocka_unit_test(test_hash),
    cmocka_unit_test(test_read_file),    cmocka_unit_test(test_utf8)};

TEST_MAIN(tests)
