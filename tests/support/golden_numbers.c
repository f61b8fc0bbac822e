/* See golden_numbers.h. */
#include "tests/support/golden_numbers.h"

#include "tests/support/test.h"

#include <math.h>

/* Into numbers, or into ids where numbers is NULL. */
static size_t read_array(sp_json *json, double *numbers, int32_t *ids, size_t max)
{
    size_t n = 0;
    for (int depth = 1; depth > 0;) {
        sp_json_type type = sp_json_next(json);
        depth += (type == SP_JSON_ARRAY) - (type == SP_JSON_ARRAY_END);
        if (type != SP_JSON_NUMBER && type != SP_JSON_NULL) continue;
        double value = type == SP_JSON_NULL ? (double)NAN : sp_json_double(json);
        assert_true(n < max);
        if (numbers)
            numbers[n++] = value;
        else
            ids[n++] = (int32_t)value;
    }
    return n;
}

size_t golden_numbers(sp_json *json, double *out, size_t max)
{
    return read_array(json, out, NULL, max);
}

size_t golden_ids(sp_json *json, int32_t *out, size_t max)
{
    return read_array(json, NULL, out, max);
}
