/* engine/beside: which file lies beside a model or in a folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/beside.h"
#include "tests/support/test.h"

#define NAME "notes.json"

static char folder[64];

static const char *inside(const char *name)
{
    static char paths[4][256];
    static size_t turn;
    char *path = paths[turn++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s%s%s", folder, *name ? "/" : "", name);
    return path;
}

static void touch(const char *name)
{
    FILE *file = fopen(inside(name), "w");
    assert_non_null(file);
    fclose(file);
}

static int make(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/sparsed-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return rmdir(folder);
}

static void test_folder(void **state)
{
    (void)state;
    char path[SP_PATH_BYTES], slash[256];
    (void)snprintf(slash, sizeof slash, "%s/", folder);
    assert_false(sp_beside_model(folder, NAME, path));
    assert_false(sp_beside_in(folder, NAME, path));
    touch(NAME);
    assert_true(sp_beside_model(folder, NAME, path));
    assert_string_equal(path, inside(NAME));
    assert_true(sp_beside_in(folder, NAME, path));
    assert_string_equal(path, inside(NAME));
    assert_true(sp_beside_in(slash, NAME, path));
    assert_string_equal(path, inside(NAME));
    unlink(inside(NAME));
    assert_int_equal(mkdir(inside(NAME), 0700), 0); /* a folder is no file */
    assert_false(sp_beside_in(folder, NAME, path));
    rmdir(inside(NAME));
}

static void test_file(void **state)
{
    (void)state;
    char path[SP_PATH_BYTES];
    assert_false(sp_beside_model(inside("small.gguf"), NAME, path));
    touch(NAME);
    assert_true(sp_beside_model(inside("small.gguf"), NAME, path));
    assert_string_equal(path, inside(NAME));
    touch("small." NAME); /* its own goes first */
    assert_true(sp_beside_model(inside("small.gguf"), NAME, path));
    assert_string_equal(path, inside("small." NAME));
    assert_true(sp_beside_model(inside("other.gguf"), NAME, path));
    assert_string_equal(path, inside(NAME));
    unlink(inside(NAME));
    unlink(inside("small." NAME));
}

static void test_no_folder(void **state)
{
    (void)state;
    char path[SP_PATH_BYTES], before[SP_PATH_BYTES];
    assert_non_null(getcwd(before, sizeof before));
    touch(NAME);
    assert_int_equal(chdir(folder), 0);
    bool found = sp_beside_model("small.gguf", NAME, path);
    assert_int_equal(chdir(before), 0);
    assert_true(found);
    assert_string_equal(path, NAME);
    unlink(inside(NAME));
}

/* What open() would not take is not there, and nothing is written behind the path. */
static void test_long(void **state)
{
    (void)state;
    static char name[2 * SP_PATH_BYTES];
    char path[SP_PATH_BYTES];
    memset(name, '/', sizeof name - 1);
    for (size_t n = sizeof name - 1; n > SP_PATH_BYTES - 16; n -= n > SP_PATH_BYTES + 4 ? 500 : 1) {
        name[n] = 0;
        assert_false(sp_beside_in(name, NAME, path));
        assert_false(sp_beside_model(name, NAME, path));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_folder, make, clear),
        cmocka_unit_test_setup_teardown(test_file, make, clear),
        cmocka_unit_test_setup_teardown(test_no_folder, make, clear),
        cmocka_unit_test_setup_teardown(test_long, make, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
