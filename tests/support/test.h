/* What every C test includes first: cmocka behind the four headers it needs, and a few helpers.
 *
 *     static void test_x(void **state) { (void)state; assert_int_equal(1, 1); }
 *     static const struct CMUnitTest tests[] = {cmocka_unit_test(test_x)};
 *     TEST_MAIN(tests)
 */
#ifndef SPARSED_TESTS_SUPPORT_TEST_H
#define SPARSED_TESTS_SUPPORT_TEST_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "kernels/base.h"

/* The whole main of a test program: one group of tests. */
#define TEST_MAIN(tests)                                                                                     \
    int main(void)                                                                                           \
    {                                                                                                        \
        return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;                                       \
    }

/* Exit code by which a test says that this machine cannot run it. */
#define TEST_SKIP 77

/* Checks an sp_status that should be SP_OK and prints the error's message if it is not. */
#define assert_ok(status, error)                                                                             \
    do {                                                                                                     \
        sp_status assert_ok_status = (status);                                                               \
        if (assert_ok_status != SP_OK)                                                                       \
            fail_msg("%s: %s %s", sp_status_name(assert_ok_status), (error).param, (error).message);         \
    } while (0)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
