/* The steps of normalizers: normal forms against Python's unicodedata (tests/golden/normal_forms.txt, made by
 * tests/support/make_normal_forms.py), the other steps against results worked out by hand; ranges of original
 * bytes; long runs of marks in linear time. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "models/normalize.h"
#include "models/unicode.h"

#define MAX_LINE 4096

static size_t read_hex(const char *hex, char *out)
{
    size_t n = 0;
    for (unsigned byte; hex[0] != '-' && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++) out[n] = (char)byte;
    return n;
}

/* Runs steps over a text, compares, and checks that ranges lie in the text and never run backwards. */
static void check_steps(const sp_step *steps, size_t n_steps, const char *text, size_t size,
                        const char *wanted, size_t wanted_size)
{
    sp_normalizing scratch = {0};
    sp_view view = {.text = text, .size = size}, out;
    size_t begin, end;
    assert_true(sp_normalize(steps, n_steps, &scratch, &view, 0, size, &out, &begin, &end));
    if (end - begin != wanted_size || memcmp(out.text + begin, wanted, wanted_size) != 0)
        fail_msg("%.*s: step %d gave %.*s, not %.*s", (int)size, text, (int)steps[0], (int)(end - begin),
                 out.text + begin, (int)wanted_size, wanted);
    uint32_t last_begin = 0, last_end = 0, from, to;
    for (size_t i = begin; i < end; i++) {
        sp_view_range(&out, i, i + 1, &from, &to);
        assert_true(from >= last_begin && to >= last_end && from <= to && to <= size);
        last_begin = from;
        last_end = to;
    }
    sp_normalizing_fini(&scratch);
}

static void test_normal_forms(void **state)
{
    (void)state;
    static const sp_step forms[] = {SP_STEP_NFC, SP_STEP_NFKC, SP_STEP_NFD};
    FILE *file = fopen(SPARSED_ROOT "/tests/golden/normal_forms.txt", "r");
    assert_non_null(file);
    static char columns[4][MAX_LINE], bytes[4][MAX_LINE];
    size_t lines = 0;
    while (fscanf(file, "%4095s %4095s %4095s %4095s", columns[0], columns[1], columns[2], columns[3]) == 4) {
        size_t sizes[4];
        for (int i = 0; i < 4; i++) sizes[i] = read_hex(columns[i], bytes[i]);
        for (int i = 0; i < 3; i++) check_steps(&forms[i], 1, bytes[0], sizes[0], bytes[i + 1], sizes[i + 1]);
        lines++;
    }
    fclose(file);
    assert_int_equal(lines, 300);
}

static void check_text(const sp_step *steps, size_t n, const char *text, const char *wanted)
{
    check_steps(steps, n, text, strlen(text), wanted, strlen(wanted));
}

static void test_other_steps(void **state)
{
    (void)state;
    static const sp_step clean[] = {SP_STEP_CLEAN}, chinese[] = {SP_STEP_CHINESE}, lower[] = {SP_STEP_LOWER},
                         accents[] = {SP_STEP_NFD, SP_STEP_STRIP_ACCENTS}, join[] = {SP_STEP_JOIN_SPACES},
                         llama[] = {SP_STEP_PREPEND, SP_STEP_MARK_SPACES},
                         meta[] = {SP_STEP_PREPEND_UNLESS, SP_STEP_MARK_SPACES};
    check_text(clean, 1, "a\tb\xc2\xa0z\x07\xef\xbf\xbd\xe2\x80\x8b.\xcd\xb8", "a b z.\xcd\xb8");
    check_text(chinese, 1, "a\xe4\xb8\xad\xe3\x81\x82", "a \xe4\xb8\xad \xe3\x81\x82");
    check_text(lower, 1, "\xc3\x89\xc4\xb0x\xce\xa3", "\xc3\xa9i\xcc\x87x\xcf\x83");
    check_text(accents, 2, "\xc3\xa9\xe1\xba\xadz", "eaz");
    check_text(accents, 2, "\xea\xb0\x80", "\xe1\x84\x80\xe1\x85\xa1"); /* Hangul stays taken apart */
    check_text(join, 1, "  a   b ", " a b ");
    check_text(llama, 2, " a b",
               "\xe2\x96\x81\xe2\x96\x81"
               "a\xe2\x96\x81"
               "b");
    check_text(llama, 2, "", "");
    check_text(meta, 2, " a",
               "\xe2\x96\x81"
               "a");
    check_text(meta, 2,
               "\xe2\x96\x81"
               "a",
               "\xe2\x96\x81"
               "a");
    check_text(meta, 2, "a",
               "\xe2\x96\x81"
               "a");
}

/* Original ranges of all bytes of the result, as "b-e b-e ...". */
static void check_ranges(const sp_step *steps, size_t n_steps, const char *text, const char *wanted)
{
    sp_normalizing scratch = {0};
    sp_view view = {.text = text, .size = strlen(text)}, out;
    size_t begin, end, used = 0;
    char ranges[256] = "";
    assert_true(sp_normalize(steps, n_steps, &scratch, &view, 0, view.size, &out, &begin, &end));
    for (size_t i = begin; i < end; i++) {
        uint32_t from, to;
        sp_view_range(&out, i, i + 1, &from, &to);
        used += (size_t)snprintf(ranges + used, sizeof ranges - used, "%s%u-%u", i > begin ? " " : "",
                                 (unsigned)from, (unsigned)to);
    }
    assert_string_equal(ranges, wanted);
    sp_normalizing_fini(&scratch);
}

static void test_ranges(void **state)
{
    (void)state;
    static const sp_step nfc[] = {SP_STEP_NFC}, nfkc[] = {SP_STEP_NFKC}, join[] = {SP_STEP_JOIN_SPACES},
                         llama[] = {SP_STEP_PREPEND, SP_STEP_MARK_SPACES}, clean[] = {SP_STEP_CLEAN};
    check_ranges(nfc, 1, "xe\xcc\x81y", "0-1 1-4 1-4 4-5");       /* e + accent */
    check_ranges(nfc, 1, "e\xcc\x81\xc3\xa9", "0-3 0-3 3-4 4-5"); /* an untouched one keeps its bytes */
    check_ranges(nfkc, 1, "\xef\xac\x81n", "0-3 0-3 3-4");        /* the ligature fi */
    check_ranges(join, 1, "a  b", "0-1 2-3 3-4");
    check_ranges(llama, 2, "a b", "0-0 0-0 0-0 0-1 1-2 1-2 1-2 2-3");
    check_ranges(clean, 1,
                 "a\x01"
                 "b",
                 "0-1 2-3");
}

/* 3 MiB of marks in falling order of their classes. */
static void test_marks_take_linear_time(void **state)
{
    (void)state;
    size_t n = (size_t)3 << 20, begin, end;
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i += 4) memcpy(text + i, "\xcc\x81\xcc\xa3", 4); /* classes 230, 220 */
    sp_normalizing scratch = {0};
    sp_view view = {.text = text, .size = n}, out;
    const sp_step step = SP_STEP_NFC;
    struct timespec start, stop;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    assert_true(sp_normalize(&step, 1, &scratch, &view, 0, n, &out, &begin, &end));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &stop);
    assert_true(stop.tv_sec - start.tv_sec < 10);
    assert_int_equal(end - begin, n);
    assert_memory_equal(out.text, "\xcc\xa3\xcc\xa3", 4);
    assert_memory_equal(out.text + n - 4, "\xcc\x81\xcc\x81", 4);
    sp_normalizing_fini(&scratch);
    free(text);
}

static void test_utf8_encode(void **state)
{
    (void)state;
    static const uint32_t codes[] = {0, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff};
    for (size_t i = 0; i < COUNT_OF(codes); i++) {
        char bytes[4];
        size_t length, n = sp_utf8_encode(codes[i], bytes);
        assert_int_equal(sp_utf8_length(bytes, n), n);
        assert_int_equal(sp_utf8_decode(bytes, &length), codes[i]);
        assert_int_equal(length, n);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_normal_forms), cmocka_unit_test(test_other_steps),
    cmocka_unit_test(test_ranges),       cmocka_unit_test(test_marks_take_linear_time),
    cmocka_unit_test(test_utf8_encode),
};
TEST_MAIN(tests)
