/* What a refused client is told to wait (engine/drain.h): the measured time between two requests leaving a
 * queue in which others wait. */
#include "tests/support/test.h"

#include <math.h>

#include "engine/drain.h"

static void test_steady(void **state)
{
    (void)state;
    sp_drain d;
    sp_drain_init(&d);
    double now = 50;
    sp_drain_note(&d, now, 0, true);
    for (int i = 0; i < 40; i++) sp_drain_note(&d, now += 3, 1, true);
    assert_true(fabs(sp_drain_seconds(&d, now) - 3) < 0.01);
    assert_true(fabs(sp_drain_seconds(&d, now + 2) - 3) < 0.01);
    assert_true(fabs(sp_drain_seconds(&d, now + 7) - 7) < 1e-9); /* none has left for seven seconds */
    for (int i = 0; i < 40; i++) sp_drain_note(&d, now += 0.25, 1, true);
    assert_true(fabs(sp_drain_seconds(&d, now) - 0.25) < 0.01);
}

/* Sixteen leave at once every eight seconds: two a second. */
static void test_bursts(void **state)
{
    (void)state;
    sp_drain d;
    sp_drain_init(&d);
    double now = 0;
    sp_drain_note(&d, now, 0, true);
    for (int i = 0; i < 10; i++) sp_drain_note(&d, now += 8, 16, true);
    assert_true(fabs(sp_drain_seconds(&d, now) - 0.5) < 0.01);
}

/* An idle server's requests are admitted at once; neither they nor its silence say how a full queue drains.
 */
static void test_idle(void **state)
{
    (void)state;
    sp_drain d;
    sp_drain_init(&d);
    double now = 0;
    assert_true(sp_drain_seconds(&d, now) == 1);
    for (int i = 0; i < 1000; i++) sp_drain_note(&d, now += 0.001, 1, false);
    assert_true(sp_drain_seconds(&d, now + 3600) == 1);
    sp_drain_note(&d, now += 3600, 4, true);
    assert_true(sp_drain_seconds(&d, now) == 1);
    sp_drain_note(&d, now += 10, 1, true);
    assert_true(fabs(sp_drain_seconds(&d, now) - 2.8) < 1e-9); /* 0.8 x 1 + 0.2 x 10 */
    sp_drain_note(&d, now += 2, 1, false);
    double mean = sp_drain_seconds(&d, now);
    assert_true(sp_drain_seconds(&d, now + 100) == mean);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_steady),
    cmocka_unit_test(test_bursts),
    cmocka_unit_test(test_idle),
};
TEST_MAIN(tests)
