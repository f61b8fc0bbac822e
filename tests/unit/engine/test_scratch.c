/* Room that is kept: pieces do not overlap, are aligned, hold until the next begin; a steady state takes no
 * more memory; the limit holds. */
#include "tests/support/test.h"

#include <string.h>

#include "engine/attention/scratch.h"

static void test_pieces(void **state)
{
    (void)state;
    sp_scratch scratch;
    sp_error error;
    size_t bytes = 0;
    sp_scratch_init(&scratch, 0);
    for (int round = 0; round < 4; round++) {
        uint8_t *pieces[40];
        sp_scratch_begin(&scratch);
        for (size_t i = 0; i < 40; i++) {
            assert_ok(sp_scratch_take(&scratch, 100 * i, 3, &pieces[i], &error), error);
            assert_true(pieces[i] && (uintptr_t)pieces[i] % SP_ALIGNMENT == 0);
            memset(pieces[i], (int)i, 300 * i);
        }
        for (size_t i = 0; i < 40; i++)
            for (size_t k = 0; k < 300 * i; k++) assert_int_equal(pieces[i][k], i);
        if (round) assert_int_equal(scratch.n_blocks, 1);
        if (round > 1) assert_int_equal(scratch.bytes, bytes);
        bytes = scratch.bytes;
    }
    sp_scratch_fini(&scratch);
}

static void test_limit(void **state)
{
    (void)state;
    sp_scratch scratch;
    sp_error error;
    void *piece;
    sp_scratch_init(&scratch, 1 << 20);
    sp_scratch_begin(&scratch);
    assert_ok(sp_scratch_take(&scratch, 1 << 19, 1, &piece, &error), error);
    assert_ok(sp_scratch_take(&scratch, 1 << 19, 1, &piece, &error), error);
    assert_int_equal(sp_scratch_take(&scratch, 64, 1, &piece, &error), SP_TOO_LARGE);
    assert_int_equal(sp_scratch_take(&scratch, SIZE_MAX / 2, 4, &piece, &error), SP_TOO_LARGE);
    assert_true(scratch.bytes <= 1 << 20);
    sp_scratch_begin(&scratch);
    assert_ok(sp_scratch_take(&scratch, 1 << 20, 1, &piece, &error), error);
    sp_scratch_fini(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_limit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
