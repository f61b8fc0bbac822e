/* Arrays of numbers in golden.json files. Failures are those of cmocka. */
#ifndef SPARSED_TESTS_SUPPORT_GOLDEN_NUMBERS_H
#define SPARSED_TESTS_SUPPORT_GOLDEN_NUMBERS_H

#include "kernels/json.h"

/* Numbers of an array of any depth, in order; null is NaN. The array's opening bracket was read. At most max;
 * returns how many. */
size_t golden_numbers(sp_json *json, double *out, size_t max);
/* The same where they are token ids. */
size_t golden_ids(sp_json *json, int32_t *out, size_t max);

#endif
