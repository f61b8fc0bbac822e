/* The KV pool (engine/kv.h): the free list never hands a page out twice, rows land where the page layout
 * says, rounded to the KV type, and freed pages are poisoned. The expected addresses are computed here from
 * the layout's text. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

#include "engine/kv.h"

enum { LAYERS = 3, KV_HEADS = 2, DIM = 8, PAGES = 11 };

static sp_kv open_kv(sp_dtype dtype)
{
    sp_kv_options options = {.n_layers = LAYERS,
                             .n_kv_heads = KV_HEADS,
                             .head_dim = DIM,
                             .dtype = dtype,
                             .n_pages = PAGES,
                             .poison = true};
    sp_kv kv;
    sp_error error;
    assert_ok(sp_kv_open(&options, &kv, &error), error);
    return kv;
}

static void test_sizes(void **state)
{
    (void)state;
    sp_kv kv = open_kv(SP_BF16);
    assert_int_equal(kv.head_bytes, 2 * 64 * DIM * 2);
    assert_int_equal(kv.page_bytes, LAYERS * KV_HEADS * 2 * 64 * DIM * 2);
    sp_kv_close(&kv);

    size_t bytes;
    sp_kv_options huge = {
        .n_layers = UINT32_MAX, .n_kv_heads = UINT32_MAX, .head_dim = UINT32_MAX, .dtype = SP_F32};
    assert_false(sp_kv_page_bytes(&huge, &bytes));
}

/* Random takes and gives against a list of owners kept here. */
static void test_pages_have_one_owner(void **state)
{
    (void)state;
    sp_kv kv = open_kv(SP_F32);
    test_random random = {7};
    uint32_t held[4][PAGES], n_held[4] = {0}, total = 0;
    for (int round = 0; round < 2000; round++) {
        uint32_t who = (uint32_t)test_random_below(&random, 4);
        if (n_held[who] > 0) {
            sp_kv_give(&kv, n_held[who], held[who]);
            total -= n_held[who];
            n_held[who] = 0;
        } else {
            uint32_t n = (uint32_t)test_random_below(&random, 6);
            bool fits = n <= PAGES - total;
            assert_int_equal(sp_kv_take(&kv, n, held[who]), fits);
            if (fits) total += n_held[who] = n;
        }
        assert_int_equal(sp_kv_used(&kv), total);
        int owners[PAGES] = {0};
        for (int i = 0; i < 4; i++)
            for (uint32_t j = 0; j < n_held[i]; j++) owners[held[i][j]]++;
        for (int i = 0; i < PAGES; i++) assert_true(owners[i] <= 1);
    }
    sp_kv_close(&kv);
}

static float read_value(const sp_kv *kv, const uint8_t *at)
{
    float value;
    uint16_t half;
    memcpy(&value, at, sizeof value);
    memcpy(&half, at, sizeof half);
    return kv->options.dtype == SP_BF16 ? sp_bf16_to_f32(half) : value;
}

static void check_rows(sp_dtype dtype)
{
    sp_device *device;
    sp_error error;
    assert_ok(sp_device_open("cpu", &(sp_device_options){.n_threads = 1}, &device, &error), error);
    sp_kv kv = open_kv(dtype);
    uint32_t pages[3] = {7, 0, 4};
    const uint32_t position = 60, rows = 100, layer = 1; /* across two page borders */
    static float k[100 * KV_HEADS * DIM], v[100 * KV_HEADS * DIM];
    test_random random = {3};
    test_random_fill(&random, k, COUNT_OF(k), 1);
    test_random_fill(&random, v, COUNT_OF(v), 1);
    sp_kv_write(&kv, device, pages, layer, position, rows, k, v);

    const uint8_t *pointers[3];
    sp_kv_view view = sp_kv_layer(&kv, pages, layer, position + rows, pointers);
    size_t size = sp_dtype_size(dtype);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t h = 0; h < KV_HEADS; h++)
            for (uint32_t d = 0; d < DIM; d++) {
                uint32_t at = position + r;
                const uint8_t *block = kv.memory + pages[at / 64] * kv.page_bytes +
                                       (layer * KV_HEADS + h) * (2 * 64 * DIM * size);
                float want_k = k[(r * KV_HEADS + h) * DIM + d], want_v = v[(r * KV_HEADS + h) * DIM + d];
                if (dtype == SP_BF16) want_k = sp_bf16_to_f32(sp_bf16_from_f32(want_k));
                if (dtype == SP_BF16) want_v = sp_bf16_to_f32(sp_bf16_from_f32(want_v));
                assert_true(read_value(&kv, block + (at % 64 * DIM + d) * size) == want_k);
                assert_true(read_value(&kv, block + ((64 + at % 64) * DIM + d) * size) == want_v);
                assert_ptr_equal(view.pages[at / 64] + h * view.head_bytes, block);
            }
    /* the neighbours are as they were: NaN from the start */
    assert_true(
        isnan(read_value(&kv, kv.memory + 7 * kv.page_bytes + layer * kv.layer_bytes + 59 * DIM * size)));
    assert_true(isnan(read_value(&kv, kv.memory + 7 * kv.page_bytes)));
    assert_true(isnan(read_value(&kv, kv.memory + 1 * kv.page_bytes + layer * kv.layer_bytes)));
    sp_kv_close(&kv);
    sp_device_close(device);
}

static void test_rows_f32(void **state)
{
    (void)state;
    check_rows(SP_F32);
}

static void test_rows_bf16(void **state)
{
    (void)state;
    check_rows(SP_BF16);
}

static void test_freed_pages_are_poisoned(void **state)
{
    (void)state;
    sp_kv kv = open_kv(SP_BF16);
    uint32_t pages[2];
    assert_true(sp_kv_take(&kv, 2, pages));
    memset(kv.memory, 0, PAGES * kv.page_bytes);
    sp_kv_give(&kv, 1, pages + 1);
    assert_true(isnan(read_value(&kv, kv.memory + pages[1] * kv.page_bytes + kv.page_bytes - 2)));
    assert_true(read_value(&kv, kv.memory + pages[0] * kv.page_bytes) == 0);
    sp_kv_close(&kv);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_sizes),
    cmocka_unit_test(test_pages_have_one_owner),
    cmocka_unit_test(test_rows_f32),
    cmocka_unit_test(test_rows_bf16),
    cmocka_unit_test(test_freed_pages_are_poisoned),
};
TEST_MAIN(tests)
