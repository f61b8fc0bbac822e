/* The GGUF reader: a file of every value type read back, and one crafted file for every rule of the format,
 * every cap of ours and every class of peers' bugs (reliability.md 1.1). Each must be refused as SP_DATA with
 * the name of the key or tensor. Bytes are laid down by tests/support/gguf_file.c, which knows nothing of the
 * reader; parsed copies have exactly their size, so the address sanitizer sees an overrun by one byte. */
#include "tests/support/test.h"
#include "tests/support/gguf_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "models/gguf.h"

static const uint64_t shape_8x4[] = {8, 4}, shape_32[] = {32};

/* Parses a copy of exactly the file's size. */
static sp_status parse(const gguf_file *file, sp_gguf **gguf, sp_error *error)
{
    static uint8_t *copy;
    free(copy);
    copy = malloc(file->size ? file->size : 1);
    assert_non_null(copy);
    if (file->size) memcpy(copy, file->bytes, file->size);
    memset(error, 0, sizeof *error);
    sp_status status = sp_gguf_parse("file.gguf", copy, file->size, gguf, error);
    if (status != SP_OK) {
        free(copy);
        copy = NULL;
    }
    return status;
}

/* Refuses the file, naming param and saying says; frees it. */
static void check_refused(gguf_file *file, const char *param, const char *says)
{
    sp_gguf *gguf = NULL;
    sp_error error;
    sp_status status = parse(file, &gguf, &error);
    sp_gguf_close(gguf);
    if (status != SP_DATA || strcmp(error.param, param) != 0 || !strstr(error.message, says) ||
        strncmp(error.message, "file.gguf: ", 11) != 0)
        fail_msg("wanted [%s] ...%s..., got %s [%s] %s", param, says, sp_status_name(status), error.param,
                 error.message);
    gguf_free(file);
}

/* One key of each type, two tensors. */
static void make_valid(gguf_file *f, uint32_t version)
{
    gguf_begin(f, version, 2, 15);
    gguf_key(f, "u8", GGUF_U8), gguf_number(f, 255, 1);
    gguf_key(f, "i8", GGUF_I8), gguf_number(f, 0x80, 1);
    gguf_key(f, "u16", GGUF_U16), gguf_number(f, 65535, 2);
    gguf_key(f, "i16", GGUF_I16), gguf_number(f, 0xfffe, 2);
    gguf_key_u32(f, "u32", 4294967295u);
    gguf_key(f, "i32", GGUF_I32), gguf_number(f, 0x80000000u, 4);
    gguf_key(f, "f32", GGUF_F32), gguf_float(f, 0.5f);
    gguf_key(f, "bool", GGUF_BOOL), gguf_number(f, 1, 1);
    gguf_key_text(f, "text", "h\xc3\xa9llo");
    gguf_key(f, "u64", GGUF_U64), gguf_number(f, UINT64_MAX, 8);
    gguf_key(f, "i64", GGUF_I64), gguf_number(f, UINT64_MAX, 8);
    gguf_key(f, "f64", GGUF_F64), gguf_number(f, 0xbff8000000000000u, 8);
    gguf_key_array(f, "texts", GGUF_TEXT, 3), gguf_text(f, "a"), gguf_text(f, ""), gguf_text(f, "bc");
    gguf_key_array(f, "ints", GGUF_I16, 2), gguf_number(f, 0xffff, 2), gguf_number(f, 7, 2);
    gguf_key_array(f, "floats", GGUF_F32, 1), gguf_float(f, -2.25f);
    gguf_tensor(f, "b", 2, shape_8x4, 0, 64);
    gguf_tensor(f, "a", 1, shape_32, 8, 0);
    gguf_data(f, 32, 64 + 128);
}

static void check_values(const sp_gguf *g)
{
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"u8", 255},         {"i8", -128},       {"u16", 65535},     {"i16", -2},
                {"u32", 4294967295}, {"i32", INT32_MIN}, {"u64", INT64_MAX}, {"i64", -1}};
    sp_error e = {0};
    int64_t value;
    double number;
    bool flag;
    const char *text;
    size_t size;
    for (size_t i = 0; i < COUNT_OF(ints); i++) {
        assert_ok(sp_gguf_int(g, ints[i].key, NULL, INT64_MIN, INT64_MAX, &value, &e), e);
        assert_true(value == ints[i].value);
    }
    assert_ok(sp_gguf_double(g, "f32", NULL, 0, 1, &number, &e), e);
    assert_true(number == 0.5);
    assert_ok(sp_gguf_double(g, "f64", NULL, -2, 1, &number, &e), e);
    assert_true(number == -1.5);
    assert_ok(sp_gguf_double(g, "u64", NULL, 0, 1e20, &number, &e), e);
    assert_true(number == 18446744073709551616.0);
    assert_ok(sp_gguf_bool(g, "bool", false, &flag, &e), e);
    assert_true(flag);
    assert_ok(sp_gguf_bool(g, "absent", true, &flag, &e), e);
    assert_true(flag);
    assert_ok(sp_gguf_text(g, "text", &text, &size, &e), e);
    assert_string_equal(text, "h\xc3\xa9llo");
    assert_int_equal(size, 6);
    assert_ok(sp_gguf_text(g, "absent", &text, &size, &e), e);
    assert_null(text);
    assert_ok(sp_gguf_int(g, "absent", &(int64_t){5}, 0, 1, &value, &e), e);
    assert_int_equal(value, 5);
}

static void check_arrays(const sp_gguf *g)
{
    sp_gguf_array array;
    sp_error e = {0};
    bool present;
    const char *text;
    size_t size, sizes[] = {1, 0, 2};
    int64_t value;
    double number;
    assert_ok(sp_gguf_array_open(g, "texts", SP_GGUF_TEXTS, &present, &array, &e), e);
    assert_true(present && array.count == 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(sp_gguf_next_text(&array, &text, &size));
        assert_int_equal(size, sizes[i]);
    }
    assert_memory_equal(text, "bc", 2);
    assert_false(sp_gguf_next_text(&array, &text, &size));
    assert_ok(sp_gguf_array_open(g, "ints", SP_GGUF_INTEGERS, &present, &array, &e), e);
    assert_false(sp_gguf_next_double(&array, &number));
    assert_true(sp_gguf_next_int(&array, &value) && value == -1);
    assert_true(sp_gguf_next_int(&array, &value) && value == 7);
    assert_false(sp_gguf_next_int(&array, &value));
    assert_ok(sp_gguf_array_open(g, "ints", SP_GGUF_NUMBERS, &present, &array, &e), e);
    assert_true(sp_gguf_next_double(&array, &number) && number == -1);
    assert_ok(sp_gguf_array_open(g, "floats", SP_GGUF_NUMBERS, &present, &array, &e), e);
    assert_true(sp_gguf_next_double(&array, &number) && number == -2.25);
    assert_ok(sp_gguf_array_open(g, "absent", SP_GGUF_TEXTS, &present, &array, &e), e);
    assert_false(present || sp_gguf_next_text(&array, &text, &size));
}

static void check_tensors(const sp_gguf *g)
{
    const sp_gguf_tensor *b = sp_gguf_tensor_find(g, "b"), *a = sp_gguf_tensor_find(g, "a");
    assert_int_equal(sp_gguf_tensor_count(g), 2);
    assert_ptr_equal(sp_gguf_tensor_at(g, 0), b);
    assert_int_equal(b->tensor.rank, 2);
    assert_int_equal(b->tensor.shape[0], 4);
    assert_int_equal(b->tensor.shape[1], 8);
    assert_int_equal(b->tensor.bytes, 128);
    assert_int_equal(b->tensor.dtype, SP_F32);
    assert_int_equal(b->offset, 64);
    assert_int_equal(a->tensor.dtype, SP_Q8_0);
    assert_int_equal(a->tensor.bytes, 34);
    assert_string_equal(a->type, "Q8_0");
    assert_null(sp_gguf_tensor_find(g, "c"));
}

static void test_reads_every_type(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_file f = {0};
        sp_gguf *g;
        sp_error e;
        make_valid(&f, version);
        assert_ok(parse(&f, &g, &e), e);
        assert_int_equal(sp_gguf_version(g), version);
        assert_int_equal(sp_gguf_count(g), 15);
        assert_string_equal(sp_gguf_key(g, 0), "bool"); /* sorted */
        check_values(g);
        check_arrays(g);
        check_tensors(g);
        sp_gguf_close(g);
        gguf_raw(&f, "trailing", 8);
        assert_ok(parse(&f, &g, &e), e);
        sp_gguf_close(g);
        gguf_free(&f);
    }
}

/* The same from a file that is read in pieces: a header beyond the first piece, and one that ends the file.
 */
static void test_opens_files(void **state)
{
    (void)state;
    char path[] = "/tmp/sparsed-gguf-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (uint32_t bytes = 10; bytes <= 1000000; bytes *= 100) {
        gguf_file f = {0};
        sp_gguf *g;
        sp_error e = {0};
        size_t size;
        const char *text;
        gguf_begin(&f, 3, 0, 2);
        gguf_key(&f, "long", GGUF_TEXT), gguf_number(&f, bytes, 8);
        for (uint32_t i = 0; i < bytes; i++) gguf_raw(&f, i % 2 ? "a" : "b", 1);
        gguf_key_text(&f, "last", "end");
        gguf_store(&f, path);
        assert_true(sp_gguf_is_file(path));
        assert_ok(sp_gguf_open(path, &g, &e), e);
        assert_ok(sp_gguf_text(g, "long", &text, &size, &e), e);
        assert_int_equal(size, bytes);
        assert_memory_equal(text + bytes - 2, "ba", 3);
        assert_ok(sp_gguf_text(g, "last", &text, &size, &e), e);
        assert_string_equal(text, "end");
        sp_gguf_close(g);
        f.size -= 2;
        gguf_store(&f, path);
        assert_int_equal(sp_gguf_open(path, &g, &e), SP_DATA);
        assert_string_equal(e.param, "last");
        gguf_free(&f);
    }
    unlink(path);
    sp_gguf *g;
    sp_error e = {0};
    assert_int_equal(sp_gguf_open(path, &g, &e), SP_NOT_FOUND);
    assert_int_equal(sp_gguf_open("/tmp", &g, &e), SP_DATA);
    assert_false(sp_gguf_is_file(path) || sp_gguf_is_file("/tmp"));
}

static void test_wrong_types_are_refused(void **state)
{
    (void)state;
    gguf_file f = {0};
    sp_gguf *g;
    sp_error e;
    int64_t value;
    double number;
    bool flag, present;
    const char *text;
    size_t size;
    sp_gguf_array array;
    make_valid(&f, 3);
    assert_ok(parse(&f, &g, &e), e);
    static const char *const no_int[] = {"f32", "f64", "bool", "text", "texts", "ints", "absent"};
    for (size_t i = 0; i < COUNT_OF(no_int); i++) {
        assert_int_equal(sp_gguf_int(g, no_int[i], NULL, INT64_MIN, INT64_MAX, &value, &e), SP_DATA);
        assert_string_equal(e.param, no_int[i]);
    }
    static const char *const no_double[] = {"bool", "text", "floats", "absent"};
    for (size_t i = 0; i < COUNT_OF(no_double); i++)
        assert_int_equal(sp_gguf_double(g, no_double[i], NULL, -1e300, 1e300, &number, &e), SP_DATA);
    assert_int_equal(sp_gguf_int(g, "u8", NULL, 0, 254, &value, &e), SP_DATA);
    assert_int_equal(sp_gguf_int(g, "i64", NULL, 0, INT64_MAX, &value, &e), SP_DATA);
    assert_int_equal(sp_gguf_double(g, "f64", NULL, -1.4, 0, &number, &e), SP_DATA);
    assert_int_equal(sp_gguf_bool(g, "u8", false, &flag, &e), SP_DATA);
    assert_int_equal(sp_gguf_text(g, "texts", &text, &size, &e), SP_DATA);
    static const struct {
        const char *key;
        sp_gguf_kind kind;
    } no_array[] = {{"text", SP_GGUF_TEXTS},  {"ints", SP_GGUF_TEXTS},      {"texts", SP_GGUF_NUMBERS},
                    {"u8", SP_GGUF_INTEGERS}, {"floats", SP_GGUF_INTEGERS}, {"texts", SP_GGUF_INTEGERS},
                    {"f32", SP_GGUF_NUMBERS}};
    for (size_t i = 0; i < COUNT_OF(no_array); i++) {
        assert_int_equal(sp_gguf_array_open(g, no_array[i].key, no_array[i].kind, &present, &array, &e),
                         SP_DATA);
        assert_string_equal(e.param, no_array[i].key);
        assert_int_equal(array.count, 0);
    }
    sp_gguf_close(g);
    gguf_free(&f);
}

static void test_header_rules(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        const char *says;
    } versions[] = {{0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {0x03000000, "big endian"}};
    gguf_file f = {0};
    gguf_raw(&f, "GGML", 4), gguf_number(&f, 3, 4), gguf_number(&f, 0, 8), gguf_number(&f, 0, 8);
    check_refused(&f, "header", "GGUF");
    check_refused(&f, "header", "cut short");
    for (size_t i = 0; i < COUNT_OF(versions); i++) {
        gguf_begin(&f, versions[i].version, 0, 0);
        check_refused(&f, "version", versions[i].says);
    }
    static const uint64_t counts[] = {65537, (uint64_t)1 << 60, UINT64_MAX, UINT64_MAX / 80 + 2};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        gguf_begin(&f, 3, counts[i], 0);
        check_refused(&f, "header", "65536 tensors");
        gguf_begin(&f, 3, 0, counts[i]);
        check_refused(&f, "header", "65536 keys");
    }
    gguf_begin(&f, 3, 0, 65536);
    check_refused(&f, "header", "more keys than");
    gguf_begin(&f, 3, 65536, 0);
    check_refused(&f, "header", "more tensors than");
}

static void test_key_rules(void **state)
{
    (void)state;
    gguf_file f = {0};
    char name[257];
    memset(name, 'n', 256);
    name[256] = 0;
    gguf_begin(&f, 3, 0, 1), gguf_key_u32(&f, name, 1);
    check_refused(&f, "name of key 0", "256 bytes");
    gguf_begin(&f, 3, 0, 1), gguf_key_u32(&f, "", 1), gguf_number(&f, 0, 4);
    check_refused(&f, "name of key 0", "0 bytes");
    gguf_begin(&f, 3, 0, 1), gguf_number(&f, UINT64_MAX, 8), gguf_data(&f, 32, 32);
    check_refused(&f, "name of key 0", "bytes, not 1 to 255");
    gguf_begin(&f, 3, 0, 1), gguf_number(&f, 3, 8), gguf_raw(&f, "a\0b", 3), gguf_number(&f, 0, 8);
    check_refused(&f, "name of key 0", "NUL");
    gguf_begin(&f, 3, 0, 1), gguf_number(&f, 200, 8), gguf_raw(&f, "abcdefgh", 8);
    check_refused(&f, "name of key 0", "cut short");
    gguf_begin(&f, 3, 0, 1), gguf_key(&f, "k", 13), gguf_number(&f, 0, 8);
    check_refused(&f, "k", "unknown type");
    gguf_begin(&f, 3, 0, 1), gguf_key(&f, "k", GGUF_BOOL), gguf_number(&f, 2, 1);
    check_refused(&f, "k", "boolean");
    gguf_begin(&f, 3, 0, 3), gguf_key_u32(&f, "a", 1), gguf_key_u32(&f, "k", 1), gguf_key_u32(&f, "a", 1);
    check_refused(&f, "a", "twice");
    static const uint64_t lengths[] = {UINT64_MAX, (uint64_t)1 << 63, ((uint64_t)1 << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        gguf_begin(&f, 3, 0, 1), gguf_key(&f, "k", GGUF_TEXT), gguf_number(&f, lengths[i], 8);
        check_refused(&f, "k", "longer than 1 MiB");
    }
    gguf_begin(&f, 3, 0, 1), gguf_key(&f, "k", GGUF_TEXT), gguf_number(&f, 100, 8), gguf_raw(&f, "short", 5);
    check_refused(&f, "k", "beyond the end");
    gguf_begin(&f, 3, 0, 1), gguf_key(&f, "k", GGUF_U64), gguf_number(&f, 1, 7);
    check_refused(&f, "k", "cut short");
}

static void test_array_rules(void **state)
{
    (void)state;
    gguf_file f = {0};
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", GGUF_ARRAY, 1);
    gguf_number(&f, GGUF_U8, 4), gguf_number(&f, 1, 8), gguf_number(&f, 1, 1);
    check_refused(&f, "k", "array of arrays");
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", 99, 1), gguf_number(&f, 1, 8);
    check_refused(&f, "k", "unknown type");
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 61, ((uint64_t)1 << 24) + 1};
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        for (uint32_t type = 0; type <= GGUF_F64; type++) {
            if (type == GGUF_ARRAY) continue;
            gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", type, counts[i]), gguf_data(&f, 32, 64);
            check_refused(&f, "k", "more than 16777216");
        }
    for (uint32_t type = 0; type <= GGUF_F64; type++) {
        if (type == GGUF_ARRAY) continue;
        gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", type, (uint64_t)1 << 24), gguf_data(&f, 32, 64);
        check_refused(&f, "k", "bytes left");
    }
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", GGUF_TEXT, 2), gguf_text(&f, "ab"),
        gguf_number(&f, 1, 8);
    check_refused(&f, "k", "beyond the end");
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", GGUF_TEXT, 2), gguf_text(&f, "a"),
        gguf_number(&f, UINT64_MAX - 7, 8);
    check_refused(&f, "k", "longer than 1 MiB");
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "k", GGUF_BOOL, 3), gguf_number(&f, 0x020100, 3);
    check_refused(&f, "k", "boolean");
}

/* Header, general.alignment, and one tensor that may be wrong. */
static void one_tensor(gguf_file *f, const char *name, uint32_t rank, const uint64_t *shape, uint32_t type,
                       uint64_t offset)
{
    gguf_begin(f, 3, 1, 1), gguf_key_u32(f, "general.alignment", 64);
    gguf_tensor(f, name, rank, shape, type, offset);
    gguf_data(f, 64, 256);
}

static void test_alignment_rules(void **state)
{
    (void)state;
    gguf_file f = {0};
    static const uint32_t wrong[] = {0, 1, 4, 7, 12, 48, 4095, 8192, 0x80000000u};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        gguf_begin(&f, 3, 0, 1), gguf_key_u32(&f, "general.alignment", wrong[i]);
        check_refused(&f, "general.alignment", "general.alignment");
    }
    gguf_begin(&f, 3, 0, 1), gguf_key_text(&f, "general.alignment", "32");
    check_refused(&f, "general.alignment", "one integer");
    gguf_begin(&f, 3, 0, 1), gguf_key_array(&f, "general.alignment", GGUF_U32, 1), gguf_number(&f, 32, 4);
    check_refused(&f, "general.alignment", "one integer");
}

static void test_tensor_rules(void **state)
{
    (void)state;
    gguf_file f = {0};
    const uint64_t five[] = {1, 1, 1, 1, 1}, wide[] = {(uint64_t)1 << 42, (uint64_t)1 << 42},
                   stride[] = {((uint64_t)1 << 42) + 1, 4}, huge[] = {UINT64_MAX},
                   half[] = {(uint64_t)1 << 62}, forty[] = {40, 4}, exact[] = {16, 4};
    one_tensor(&f, "t", 5, five, 0, 0);
    check_refused(&f, "t", "4 dimensions");
    gguf_begin(&f, 3, 1, 0), gguf_text(&f, "t"), gguf_number(&f, UINT32_MAX, 4), gguf_data(&f, 32, 64);
    check_refused(&f, "t", "4 dimensions");
    one_tensor(&f, "t", 2, wide, 0, 0);
    check_refused(&f, "t", "overflows");
    one_tensor(&f, "t", 1, half, 0, 0);
    check_refused(&f, "t", "overflow");
    one_tensor(&f, "t", 2, stride, 0, 0);
    check_refused(&f, "t", "beyond the end");
    one_tensor(&f, "t", 1, huge, 1, 0);
    check_refused(&f, "t", "overflow");
    one_tensor(&f, "t", 2, forty, 8, 0);
    check_refused(&f, "t", "whole blocks");
    static const uint64_t offsets[] = {UINT64_MAX - 63, (uint64_t)1 << 63, 64, 256};
    for (size_t i = 0; i < COUNT_OF(offsets); i++) {
        one_tensor(&f, "t", 2, exact, 0, offsets[i]);
        check_refused(&f, "t", "beyond the end");
    }
    one_tensor(&f, "t", 2, shape_8x4, 0, 32);
    check_refused(&f, "t", "aligned");
    one_tensor(&f, "t", 2, exact, 0, 0), f.size--;
    check_refused(&f, "t", "beyond the end");
    one_tensor(&f, "", 1, shape_32, 0, 0);
    check_refused(&f, "name of tensor 0", "0 bytes");
    gguf_begin(&f, 3, 2, 0);
    gguf_tensor(&f, "t", 1, shape_32, 0, 0), gguf_tensor(&f, "u", 1, shape_32, 0, 96), gguf_data(&f, 32, 256);
    check_refused(&f, "u", "overlaps");
    gguf_begin(&f, 3, 2, 0);
    gguf_tensor(&f, "t", 1, shape_32, 0, 0), gguf_tensor(&f, "t", 1, shape_32, 0, 128),
        gguf_data(&f, 32, 256);
    check_refused(&f, "t", "twice");
    /* Exactly fitting, and types that are known by name only. */
    static const uint32_t types[] = {0, 10, 23, 39, 40, 0xffffffffu};
    static const char *const names[] = {"F32", "Q2_K", "IQ4_XS", "MXFP4", "unknown", "unknown"};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        sp_gguf *g;
        sp_error e;
        one_tensor(&f, "t", 2, exact, types[i], 0);
        assert_ok(parse(&f, &g, &e), e);
        assert_string_equal(sp_gguf_tensor_at(g, 0)->type, names[i]);
        assert_int_equal(sp_gguf_tensor_at(g, 0)->supported, i == 0);
        sp_gguf_close(g);
        gguf_free(&f);
    }
}

/* A valid file cut anywhere and with any byte of its header changed never crashes and is refused as SP_DATA
 * or still reads. */
static void test_damage(void **state)
{
    (void)state;
    gguf_file whole = {0};
    make_valid(&whole, 3);
    sp_gguf *g;
    sp_error e;
    size_t header = whole.size - 192, refused = 0;
    for (size_t size = 0; size < whole.size; size++) {
        gguf_file cut = {.bytes = whole.bytes, .size = size};
        if (parse(&cut, &g, &e) == SP_OK) fail_msg("cut to %zu of %zu bytes and accepted", size, whole.size);
        assert_int_equal(e.status, SP_DATA);
        assert_true(e.param[0] != 0);
    }
    for (size_t i = 0; i < header; i++) {
        uint8_t old = whole.bytes[i];
        for (unsigned value = 0; value < 256; value++) {
            whole.bytes[i] = (uint8_t)value;
            sp_status status = parse(&whole, &g, &e);
            if (status == SP_OK)
                sp_gguf_close(g);
            else
                refused++;
            assert_true(status == SP_OK ||
                        (status == SP_DATA && e.param[0] && strstr(e.message, "file.gguf")));
        }
        whole.bytes[i] = old;
    }
    assert_true(refused > 20000);
    gguf_free(&whole);
}

/* As many keys as may be, all alike but for their ends: sorted, found and refused when two are equal, in
 * little time. */
static void test_many_keys(void **state)
{
    (void)state;
    char name[64];
    for (int twice = 0; twice < 2; twice++) {
        gguf_file f = {0};
        sp_gguf *g = NULL;
        sp_error e;
        gguf_begin(&f, 3, 0, 65536);
        for (unsigned i = 0; i < 65536; i++) {
            snprintf(name, sizeof name, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%06u",
                     twice && i == 65535 ? 0 : i);
            gguf_key_u32(&f, name, i);
        }
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        sp_status status = parse(&f, &g, &e);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        assert_int_equal(status, twice ? SP_DATA : SP_OK);
        assert_true((double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec) < 1.0);
        if (twice) assert_string_equal(e.param, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000");
        sp_gguf_close(g);
        gguf_free(&f);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads_every_type),
                                          cmocka_unit_test(test_opens_files),
                                          cmocka_unit_test(test_wrong_types_are_refused),
                                          cmocka_unit_test(test_header_rules),
                                          cmocka_unit_test(test_key_rules),
                                          cmocka_unit_test(test_array_rules),
                                          cmocka_unit_test(test_alignment_rules),
                                          cmocka_unit_test(test_tensor_rules),
                                          cmocka_unit_test(test_damage),
                                          cmocka_unit_test(test_many_keys)};
TEST_MAIN(tests)
