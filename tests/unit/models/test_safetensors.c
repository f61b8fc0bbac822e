/* The safetensors reader and writer: one negative test for every rule of the format and every cap of ours,
 * files written by hand here (text of the header and raw bytes), so the reader is not checked against our
 * writer alone; shards and their index; finite values. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/weights.h"

/* Bytes of a file: length, header, then data zeros counting up. Freed by the caller. */
static uint8_t *make_file(const char *header, size_t data, size_t *size)
{
    size_t n = strlen(header);
    *size = 8 + n + data;
    uint8_t *bytes = malloc(*size);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++) bytes[i] = (uint8_t)(n >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < data; i++) bytes[8 + n + i] = (uint8_t)(i % 100);
    return bytes;
}

static sp_status parse(const char *header, size_t data, sp_error *error)
{
    size_t size;
    uint8_t *bytes = make_file(header, data, &size);
    sp_weights *weights;
    sp_status status = sp_weights_parse("file.safetensors", bytes, size, &weights, error);
    sp_weights_close(weights);
    free(bytes);
    return status;
}

static void test_reads_a_file(void **state)
{
    (void)state;
    const char *header = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
                         "\"__metadata__\":{\"who\":\"me\\n\",\"x\":\"\"},"
                         "\"a\\u0031\":{\"shape\":[4],\"data_offsets\":[0,8],\"dtype\":\"BF16\"},"
                         "\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[8,8]},"
                         "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[32,33]}}   ";
    size_t size;
    uint8_t *bytes = make_file(header, 33, &size);
    sp_weights *weights;
    sp_error error = {0};
    assert_ok(sp_weights_parse("file.safetensors", bytes, size, &weights, &error), error);
    assert_int_equal(sp_weights_count(weights), 4);
    const sp_tensor *b = sp_weights_find(weights, "b"), *a = sp_weights_find(weights, "a1");
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_memory_equal(b->data, bytes + size - 33 + 8, 24);
    assert_int_equal((uintptr_t)b->data % 4, 0);
    assert_int_equal(a->dtype, SP_BF16);
    assert_int_equal(sp_weights_find(weights, "none")->bytes, 0);
    assert_int_equal(*(const uint8_t *)sp_weights_find(weights, "one")->data, 32);
    assert_null(sp_weights_find(weights, "c"));
    assert_string_equal(sp_weights_metadata(weights, "who"), "me\n");
    assert_string_equal(sp_weights_metadata(weights, "x"), "");
    assert_null(sp_weights_metadata(weights, "y"));
    assert_string_equal(sp_weights_file(weights, "b"), "file.safetensors");
    sp_weights_close(weights);
    free(bytes);
}

/* Any start of the data gives aligned tensors: those that lie badly are copied. */
static void test_unaligned_tensors_are_copied(void **state)
{
    (void)state;
    char header[256];
    for (int pad = 0; pad < 8; pad++) {
        snprintf(header, sizeof header,
                 "{\"odd\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                 "\"wide\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[3,19]}}%*s",
                 pad, "");
        size_t size;
        uint8_t *bytes = make_file(header, 19, &size);
        sp_weights *weights;
        sp_error error = {0};
        assert_ok(sp_weights_parse("f", bytes, size, &weights, &error), error);
        const sp_tensor *wide = sp_weights_find(weights, "wide");
        assert_int_equal((uintptr_t)wide->data % 8, 0);
        assert_memory_equal(wide->data, bytes + size - 16, 16);
        sp_weights_close(weights);
        free(bytes);
    }
}

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_refuses_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *param, *says;
    } cases[] = {
        {"[]", 0, "header", "begin"},
        {" {}", 0, "header", "begin"},
        {"{", 0, "header", "header"},
        {"{}x", 0, "header", "header"},
        {"{\"a\":1}", 0, "a", "object"},
        {"{\"\xff\":1}", 0, "header", "header"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8, "header", "header"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("\\u0061", "F32", "[1]", "[4,8]") "}", 8, "header",
         "header"},
        {"{" T("a", "F8_E4M3", "[4]", "[0,4]") "}", 4, "a", "F8_E4M3"},
        {"{" T("a", "f32", "[1]", "[0,4]") "}", 4, "a", "dtype"},
        {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a", "dtype"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a", "dtype is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "a", "shape is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "a", "data_offsets are missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "a", "key"},
        {"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "[1.5]", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "[1,1,1,1,1]", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "[[1]]", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "{}", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "[9223372036854775807,9]", "[0,4]") "}", 4, "a", "overflow"},
        {"{" T("a", "F64", "[4611686018427387904]", "[0,0]") "}", 0, "a", "overflow"},
        {"{" T("a", "F32", "[99999999999999999999]", "[0,4]") "}", 4, "a", "shape"},
        {"{" T("a", "F32", "[2]", "[0,4]") "}", 4, "a", "match"},
        {"{" T("a", "F32", "[1]", "[4,0]") "}", 4, "a", "end before"},
        {"{" T("a", "F32", "[2]", "[0,8]") "}", 4, "a", "beyond"},
        {"{" T("a", "F32", "[1]", "[0,4,4]") "}", 4, "a", "data_offsets"},
        {"{" T("a", "F32", "[1]", "[0]") "}", 4, "a", "data_offsets"},
        {"{" T("a", "F32", "[1]", "[-4,0]") "}", 4, "a", "data_offsets"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, "b", "overlaps"},
        {"{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[4,8]") "}", 8, "b", "overlaps"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12, "b", "hole"},
        {"{" T("a", "F32", "[1]", "[4,8]") "}", 8, "a", "hole"},
        {"{" T("a", "F32", "[1]", "[0,4]") "}", 5, "a", "no tensor claims"},
        {"{}", 1, "", "no tensor claims"},
        {"{" T("a\\u0000b", "F32", "[1]", "[0,4]") "}", 4, "a", "NUL"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__", "'k'"},
        {"{\"__metadata__\":[]}", 0, "__metadata__", "object"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_error error = {0};
        sp_status status = parse(cases[i].header, cases[i].data, &error);
        if (status != SP_DATA || strcmp(error.param, cases[i].param) != 0 ||
            !strstr(error.message, cases[i].says) || !strstr(error.message, "file.safetensors"))
            fail_msg("%s: %s [%s] %s", cases[i].header, sp_status_name(status), error.param, error.message);
    }
}

static void test_refuses_lengths(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[12];
        size_t size;
    } cases[] = {{{0}, 0},
                 {{2, 0, 0, 0, 0, 0, 0}, 7},
                 {{0, 0, 0, 0, 0, 0, 0, 0}, 8},
                 {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10},
                 {{1, 0, 0, 1, 0, 0, 0, 0, '{', '}'}, 10}, /* 16 MiB + 1 */
                 {{2, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'}, 10},
                 {{255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, 10}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        sp_error error = {0};
        sp_weights *weights;
        assert_int_equal(sp_weights_parse("f", cases[i].bytes, cases[i].size, &weights, &error), SP_DATA);
        assert_null(weights);
        assert_string_equal(error.param, "header");
    }
    sp_error error = {0};
    assert_ok(parse("{}", 0, &error), error);
}

static void test_escapes_names_in_messages(void **state)
{
    (void)state;
    sp_error error = {0};
    assert_int_equal(parse("{" T("x\\u001b[31m\\n", "F32", "[2]", "[0,4]") "}", 4, &error), SP_DATA);
    for (const char *c = error.message; *c; c++) assert_true((uint8_t)*c >= 0x20);
    for (const char *c = error.param; *c; c++) assert_true((uint8_t)*c >= 0x20);
}

static void test_caps(void **state)
{
    (void)state;
    /* 65,536 empty tensors are accepted, one more is not; names up to 255 bytes */
    for (size_t n = 65536; n <= 65537; n++) {
        char *text = malloc(n * 64);
        size_t used = (size_t)snprintf(text, 16, "{");
        for (size_t i = 0; i < n; i++)
            used += (size_t)snprintf(text + used, 64,
                                     "%s\"%zu\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                                     i ? "," : "", i);
        snprintf(text + used, 16, "}");
        sp_error error = {0};
        assert_int_equal(parse(text, 0, &error), n > 65536 ? SP_DATA : SP_OK);
        free(text);
    }
    for (int n = 255; n <= 256; n++) {
        char text[512];
        snprintf(text, sizeof text, "{\"%0*d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", n,
                 0);
        sp_error error = {0};
        assert_int_equal(parse(text, 0, &error), n > 255 ? SP_DATA : SP_OK);
    }
}

static void check_take(const char *dtype, const void *values, size_t bytes, const char *shape,
                       sp_status wanted)
{
    char header[128];
    snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}", dtype,
             shape, bytes);
    size_t size;
    uint8_t *file = make_file(header, bytes, &size);
    memcpy(file + size - bytes, values, bytes);
    sp_weights *weights;
    sp_error error = {0};
    sp_tensor tensor;
    const size_t two[1] = {2};
    assert_ok(sp_weights_parse("file", file, size, &weights, &error), error);
    assert_int_equal(sp_weights_take(weights, "t", 1, two, &tensor, &error), wanted);
    if (wanted != SP_OK) assert_string_equal(error.param, "t");
    sp_weights_close(weights);
    free(file);
}

static void test_take_checks_type_shape_and_values(void **state)
{
    (void)state;
    const uint32_t fine[2] = {0x3f800000, 0xff7fffff}, infinite[2] = {0, 0x7f800000},
                   nan[2] = {0xffc00001, 0};
    check_take("F32", fine, 8, "[2]", SP_OK);
    check_take("F32", infinite, 8, "[2]", SP_DATA);
    check_take("F32", nan, 8, "[2]", SP_DATA);
    check_take("F32", fine, 8, "[1,2]", SP_DATA);
    check_take("F32", fine, 8, "[2,1]", SP_DATA);
    check_take("I32", fine, 8, "[2]", SP_DATA);
    const uint16_t bf16_fine[2] = {0x7f7f, 0x8000}, bf16_nan[2] = {0x7fc0, 0}, bf16_infinite[2] = {0, 0xff80};
    check_take("BF16", bf16_fine, 4, "[2]", SP_OK);
    check_take("BF16", bf16_nan, 4, "[2]", SP_DATA);
    check_take("BF16", bf16_infinite, 4, "[2]", SP_DATA);
    const uint16_t f16_fine[2] = {0x7bff, 0x0001}, f16_infinite[2] = {0, 0xfc00}, f16_nan[2] = {0x7e00, 0};
    check_take("F16", f16_fine, 4, "[2]", SP_OK);
    check_take("F16", f16_infinite, 4, "[2]", SP_DATA);
    check_take("F16", f16_nan, 4, "[2]", SP_DATA);
    check_take("BF16", f16_infinite, 4, "[2]", SP_OK); /* the same bits are finite there */
}

/* --- folders --- */

static char folder[64];
static char *inside(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(inside(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void write_tensor_file(const char *name, const char *header, size_t data)
{
    size_t size;
    uint8_t *bytes = make_file(header, data, &size);
    write_bytes(name, bytes, size);
    free(bytes);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sparsed-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "a.safetensors",
                                        "b.safetensors"};
    for (size_t i = 0; i < COUNT_OF(names); i++) unlink(inside(names[i]));
    return rmdir(folder);
}

static sp_status open_folder(const sp_weights_options *options, sp_error *error)
{
    sp_weights *weights;
    sp_status status = sp_weights_open(folder, options, &weights, error);
    sp_weights_close(weights);
    return status;
}

static void test_opens_one_file_read_or_mapped(void **state)
{
    (void)state;
    sp_error error = {0};
    assert_int_equal(open_folder(NULL, &error), SP_NOT_FOUND);
    assert_non_null(strstr(error.message, "model.safetensors"));
    write_tensor_file("model.safetensors",
                      "{" T("a", "U8", "[3]", "[0,3]") "," T("b", "F32", "[2]", "[3,11]") "}", 11);
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        sp_weights_options options = {.use_mmap = use_mmap};
        sp_weights *weights;
        assert_ok(sp_weights_open(folder, &options, &weights, &error), error);
        const uint8_t *b = sp_weights_find(weights, "b")->data;
        assert_int_equal((uintptr_t)b % 4, 0);
        assert_int_equal(b[0], 3);
        assert_int_equal(b[7], 10);
        sp_weights_close(weights);
        assert_ok(sp_weights_open(inside("model.safetensors"), &options, &weights, &error), error);
        assert_int_equal(sp_weights_count(weights), 2);
        sp_weights_close(weights);
    }
    assert_int_equal(truncate(inside("model.safetensors"), 20), 0);
    assert_int_equal(open_folder(NULL, &error), SP_DATA);
    unlink(inside("model.safetensors"));
    assert_int_equal(mkfifo(inside("model.safetensors"), 0600), 0); /* must not block */
    assert_int_equal(open_folder(NULL, &error), SP_DATA);
    assert_non_null(strstr(error.message, "regular"));
}

static void test_opens_shards(void **state)
{
    (void)state;
    sp_error error = {0};
    write_tensor_file("a.safetensors", "{" T("x", "U8", "[1]", "[0,1]") "," T("y", "U8", "[1]", "[1,2]") "}",
                      2);
    write_tensor_file("b.safetensors", "{" T("z", "U8", "[2]", "[0,2]") "}", 2);
    static const struct {
        const char *index;
        sp_status status;
        const char *param;
    } cases[] = {
        {"{\"metadata\":{},\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"b.safetensors\",\"y\":\"a."
         "safetensors\"}}",
         SP_OK, ""},
        {"{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\",\"z\":\"b.safetensors\"}}",
         SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":\"a.safetensors\",\"w\":\"a.safetensors\"}}", SP_DATA, "w"},
        {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":\"..\"}}", SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":\"\"}}", SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":\"a.safetensors\\u0000\"}}", SP_DATA, "x"},
        {"{\"weight_map\":{\"x\":1}}", SP_DATA, "x"},
        {"{\"weight_map\":{}}", SP_DATA, "weight_map"},
        {"{\"weight_map\":[]}", SP_DATA, "weight_map"},
        {"{}", SP_DATA, "weight_map"},
        {"[]", SP_DATA, "weight_map"},
        {"{\"weight_map\":", SP_DATA, ""},
        {"{\"weight_map\":{\"x\":\"c.safetensors\"}}", SP_NOT_FOUND, ""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        error = (sp_error){0};
        write_bytes("model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        sp_status status = open_folder(NULL, &error);
        if (status != cases[i].status || strcmp(error.param, cases[i].param) != 0)
            fail_msg("%s: %s [%s] %s", cases[i].index, sp_status_name(status), error.param, error.message);
    }
    /* a name in two shards */
    write_tensor_file("b.safetensors", "{" T("x", "U8", "[2]", "[0,2]") "}", 2);
    const char *index = "{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"b.safetensors\"}}";
    write_bytes("model.safetensors.index.json", index, strlen(index));
    assert_int_equal(open_folder(NULL, &error), SP_DATA);
    assert_string_equal(error.param, "x");
}

static void test_allow_nonfinite(void **state)
{
    (void)state;
    const uint32_t nan = 0x7fc00000;
    sp_error error = {0};
    uint8_t bytes[128];
    const char *header = "{" T("t", "F32", "[1]", "[0,4]") "}";
    size_t n = strlen(header);
    memset(bytes, 0, sizeof bytes);
    bytes[0] = (uint8_t)n;
    memcpy(bytes + 8, header, n);
    memcpy(bytes + 8 + n, &nan, 4);
    write_bytes("model.safetensors", bytes, 12 + n);
    for (int allow = 0; allow < 2; allow++) {
        sp_weights_options options = {.allow_nonfinite = allow};
        const size_t one[1] = {1};
        sp_weights *weights;
        sp_tensor tensor;
        assert_ok(sp_weights_open(folder, &options, &weights, &error), error);
        assert_int_equal(sp_weights_take(weights, "t", 1, one, &tensor, &error), allow ? SP_OK : SP_DATA);
        sp_weights_close(weights);
    }
}

static void test_writes_aligned_and_reads_back(void **state)
{
    (void)state;
    const uint8_t small[3] = {1, 2, 3};
    const float wide[4] = {1, 2, 3, 4};
    const int64_t widest[1] = {-5};
    const sp_tensor_entry entries[] = {
        {"small", {.dtype = SP_U8, .rank = 1, .shape = {3}, .data = small, .bytes = 3}},
        {"wide \"q\"", {.dtype = SP_F32, .rank = 2, .shape = {2, 2}, .data = wide, .bytes = 16}},
        {"widest", {.dtype = SP_I64, .rank = 0, .data = widest, .bytes = 8}},
        {"empty", {.dtype = SP_F32, .rank = 2, .shape = {0, 5}}},
    };
    const sp_metadata_entry metadata[] = {{"format", "pt", 2}, {"json", "{\"a\":1}", 7}};
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, 4096);
    assert_ok(sp_safetensors_write(entries, 4, metadata, 2, &out, &error), error);
    size_t header = (uint8_t)out.data[0] | (size_t)(uint8_t)out.data[1] << 8;
    assert_int_equal(header % 8, 0);
    assert_int_equal(out.size, 8 + header + 27);
    assert_memory_equal(out.data + 8 + header, widest, 8); /* largest elements first */
    assert_memory_equal(out.data + 8 + header + 8, wide, 16);
    assert_memory_equal(out.data + 8 + header + 24, small, 3);
    sp_weights *weights;
    assert_ok(sp_weights_parse("written", out.data, out.size, &weights, &error), error);
    assert_int_equal(sp_weights_count(weights), 4);
    assert_memory_equal(sp_weights_find(weights, "wide \"q\"")->data, wide, 16);
    assert_int_equal(sp_weights_find(weights, "widest")->rank, 0);
    assert_string_equal(sp_weights_metadata(weights, "json"), "{\"a\":1}");
    sp_weights_close(weights);
    sp_buffer_fini(&out);
    sp_buffer_init(&out, 40);
    assert_int_equal(sp_safetensors_write(entries, 4, NULL, 0, &out, &error), SP_TOO_LARGE);
    sp_buffer_fini(&out);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_reads_a_file),
    cmocka_unit_test(test_unaligned_tensors_are_copied),
    cmocka_unit_test(test_refuses_by_name),
    cmocka_unit_test(test_refuses_lengths),
    cmocka_unit_test(test_escapes_names_in_messages),
    cmocka_unit_test(test_caps),
    cmocka_unit_test(test_take_checks_type_shape_and_values),
    cmocka_unit_test_setup_teardown(test_opens_one_file_read_or_mapped, make_folder, remove_folder),
    cmocka_unit_test_setup_teardown(test_opens_shards, make_folder, remove_folder),
    cmocka_unit_test_setup_teardown(test_allow_nonfinite, make_folder, remove_folder),
    cmocka_unit_test(test_writes_aligned_and_reads_back),
};
TEST_MAIN(tests)
