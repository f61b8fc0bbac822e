/* Models that are not kept here. */
#ifndef SPARSED_TESTS_SUPPORT_FETCH_H
#define SPARSED_TESTS_SUPPORT_FETCH_H

#include <stdbool.h>
#include <stddef.h>

/* The path of a model of deploy/fetch-model.sh, fetched into the user's cache if need be. False where it
 * can't be: what the script said stands on standard error. */
bool test_fetch_model(const char *name, char *path, size_t size);

#endif
