/* The attention objects that the conformance tests try, each with the parameters the oracle reads. A backend
 * of the registry without a line here fails the tests. All suit 4 query heads. */
#ifndef SPARSED_TESTS_SUPPORT_PATTERNS_H
#define SPARSED_TESTS_SUPPORT_PATTERNS_H

#include "tests/support/oracle.h"

extern const oracle_pattern test_patterns[];
extern const size_t n_test_patterns;

#endif
