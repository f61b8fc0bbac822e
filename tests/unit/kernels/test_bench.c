/* Peaks and benchmarks give figures that can be: positive, and no product far faster than the machine
 * (loosely: a peak measured while others compute may be a small part of the true one). */
#include "tests/support/test.h"

#include "kernels/bench.h"
#include "kernels/peak.h"

static void test_shares(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    sp_peaks peaks;
    double f32, bf16;
    assert_ok(sp_device_open("cpu", NULL, &device, &error), error);
    assert_ok(sp_peak_measure(device, &peaks, &error), error);
    assert_true(peaks.fp32_gflops > 0 && peaks.memory_gbps > 0);
    if (device->has_bf16) assert_true(peaks.bf16_gflops > 0);
    assert_ok(sp_bench_linear_shape(device, SP_F32, 576, 192, 64, &f32, &error), error);
    assert_ok(sp_bench_linear_shape(device, SP_BF16, 576, 192, 64, &bf16, &error), error);
    assert_true(f32 > 0 && f32 < 100 * peaks.fp32_gflops);
    assert_true(bf16 > 0 && bf16 < 100 * (peaks.bf16_gflops + peaks.fp32_gflops));
    sp_device_close(device);
}

static void test_refused(void **state)
{
    (void)state;
    sp_error error = {0};
    sp_device *device;
    double rate;
    assert_ok(sp_device_open("cpu", NULL, &device, &error), error);
    assert_int_equal(sp_bench_linear_shape(device, SP_I8, 32, 32, 1, &rate, &error), SP_DATA);
    sp_device_close(device);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_shares), cmocka_unit_test(test_refused)};
TEST_MAIN(tests)
