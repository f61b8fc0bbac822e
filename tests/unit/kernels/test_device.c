/* Opening devices: names, levels forced by SPARSED_CPU, options, and every slot of the table filled. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

static sp_status open_forced(const char *level, sp_device **device, sp_error *error)
{
    sp_device_options options = {.n_threads = 1};
    setenv("SPARSED_CPU", level, 1);
    sp_status status = sp_device_open("cpu", &options, device, error);
    unsetenv("SPARSED_CPU");
    return status;
}

static void test_forced_levels(void **state)
{
    (void)state;
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level < SP_CPU_ISAS; level++) {
        sp_error error = {0};
        sp_device *device;
        assert_ok(open_forced(sp_cpu_level_name(level), &device, &error), error);
        sp_cpu_isa expected = level < sp_cpu_level() ? level : sp_cpu_level();
        assert_string_equal(device->level, sp_cpu_level_name(expected));
        assert_int_equal(device->has_bf16, expected == SP_CPU_AVX512BF16);
        sp_device_close(device);
    }
}

static void test_unknown_level(void **state)
{
    (void)state;
    static const char *const wrong[] = {"sse", "AVX2", "avx2 ", "avx", "avx512bf16x", "0"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        sp_error error = {0};
        sp_device *device;
        assert_int_equal(open_forced(wrong[i], &device, &error), SP_USAGE);
        assert_null(device);
        assert_string_equal(error.param, "SPARSED_CPU");
    }
}

static void test_empty_level_is_best(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    assert_ok(open_forced("", &device, &error), error);
    assert_string_equal(device->level, sp_cpu_level_name(sp_cpu_level()));
    sp_device_close(device);
}

static void test_level_too_high(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    sp_device_options options = {.n_threads = 1};
    assert_int_equal(sp_cpu_open_level(&options, sp_cpu_level() + 1, &device, &error), SP_UNSUPPORTED);
    assert_null(device);
}

static void test_unknown_device(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    assert_int_equal(sp_device_open("tpu", NULL, &device, &error), SP_USAGE);
    assert_null(device);
    assert_non_null(strstr(error.message, "tpu"));
    sp_device_close(NULL);
}

static void test_options(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    assert_ok(sp_device_open("cpu", NULL, &device, &error), error);
    assert_int_equal(sp_threads_count(device->threads), sp_cpu_count());
    assert_int_equal(device->attend_scratch, 64u << 20);
    assert_true(device->batch_invariant);
    sp_device_close(device);
    sp_device_options options = {.n_threads = 3, .attend_scratch = 12345678, .openblas = true};
    assert_ok(sp_device_open("cpu", &options, &device, &error), error);
    assert_int_equal(sp_threads_count(device->threads), 3);
    assert_int_equal(device->attend_scratch, 12345678);
    assert_false(device->batch_invariant);
    sp_device_close(device);
}

/* No slot of any level is missing, but for bf16 dot products below their level. */
static void test_slots_filled(void **state)
{
    (void)state;
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level < SP_CPU_ISAS; level++) {
        const sp_cpu_slots *slots = sp_cpu_slots_for(level);
        bool dot = level >= SP_CPU_AVX512BF16;
        assert_in_range(slots->row_block, 1, SP_MAX_ROW_BLOCK);
        assert_non_null(slots->block_f32);
        assert_non_null(slots->block_bf16);
        assert_non_null(slots->rms_norm);
        assert_non_null(slots->rope);
        assert_non_null(slots->silu_mul);
        assert_non_null(slots->add);
        assert_non_null(slots->to_bf16);
        assert_non_null(slots->peak_f32);
        assert_non_null(slots->peak_read);
        assert_int_equal(slots->block_dot != NULL, dot);
        assert_int_equal(slots->pack_dot != NULL, dot);
        assert_int_equal(slots->peak_bf16 != NULL, dot);
    }
}

static void check_table(const sp_ops *ops)
{
    assert_non_null(ops->pack);
    assert_non_null(ops->linear);
    assert_non_null(ops->rms_norm);
    assert_non_null(ops->rope);
    assert_non_null(ops->silu_mul);
    assert_non_null(ops->add);
    assert_non_null(ops->to_bf16);
    assert_non_null(ops->attend);
    assert_non_null(ops->row_weights);
}

static void test_tables_filled(void **state)
{
    (void)state;
    for (int openblas = 0; openblas < 2; openblas++) {
        sp_error error = {0};
        sp_device *device;
        sp_device_options options = {.n_threads = 1, .openblas = openblas};
        assert_ok(sp_device_open("cpu", &options, &device, &error), error);
        check_table(device->ops);
        sp_device_close(device);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_forced_levels),  cmocka_unit_test(test_unknown_level),
    cmocka_unit_test(test_level_too_high), cmocka_unit_test(test_empty_level_is_best),
    cmocka_unit_test(test_unknown_device), cmocka_unit_test(test_options),
    cmocka_unit_test(test_slots_filled),   cmocka_unit_test(test_tables_filled),
};
TEST_MAIN(tests)
