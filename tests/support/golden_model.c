/* See the header. */
#include "tests/support/golden_model.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

#include "kernels/json.h"

/* Numbers of an array, arrays within it opened out; nulls are left out. */
static size_t read_numbers(sp_json *reader, int64_t *integers, double *numbers, size_t max)
{
    size_t n = 0, depth = 1;
    assert_int_equal(sp_json_next(reader), SP_JSON_ARRAY);
    while (depth > 0) {
        sp_json_type type = sp_json_next(reader);
        if (type == SP_JSON_ARRAY) depth++;
        if (type == SP_JSON_ARRAY_END) depth--;
        if (type == SP_JSON_ARRAY || type == SP_JSON_ARRAY_END || type == SP_JSON_NULL) continue;
        assert_int_equal(type, SP_JSON_NUMBER);
        assert_true(n < max);
        if (integers)
            assert_true(sp_json_int64(reader, &integers[n]));
        else
            numbers[n] = sp_json_double(reader);
        n++;
    }
    return n;
}

static void read_rows(sp_json *reader, golden_case *g)
{
    assert_int_equal(sp_json_next(reader), SP_JSON_OBJECT);
    while (sp_json_next(reader) == SP_JSON_KEY) {
        if (sp_json_is(reader, "positions"))
            g->n_rows = read_numbers(reader, g->rows, NULL, GOLDEN_ROWS);
        else if (sp_json_is(reader, "values"))
            g->n_log_softmax = read_numbers(reader, NULL, g->log_softmax, GOLDEN_ROWS * GOLDEN_VOCAB);
        else
            sp_json_skip(reader, sp_json_next(reader));
    }
}

static void read_case(sp_json *reader, golden_case *g)
{
    while (sp_json_next(reader) == SP_JSON_KEY) {
        if (sp_json_is(reader, "ids"))
            g->n_ids = read_numbers(reader, g->ids, NULL, GOLDEN_LENGTH - 20);
        else if (sp_json_is(reader, "greedy_ids"))
            g->n_greedy = read_numbers(reader, g->greedy, NULL, GOLDEN_GREEDY);
        else if (sp_json_is(reader, "greedy_margins"))
            g->n_margins = read_numbers(reader, NULL, g->margins, GOLDEN_GREEDY);
        else if (sp_json_is(reader, "token_logprobs"))
            g->n_logprobs = read_numbers(reader, NULL, g->logprobs, GOLDEN_LENGTH);
        else if (sp_json_is(reader, "last_logits"))
            g->n_logits = read_numbers(reader, NULL, g->logits, GOLDEN_VOCAB);
        else if (sp_json_is(reader, "hidden_last"))
            g->n_last = read_numbers(reader, NULL, g->hidden_last, GOLDEN_HIDDEN);
        else if (sp_json_is(reader, "hidden_mean"))
            g->n_mean = read_numbers(reader, NULL, g->hidden_mean, GOLDEN_HIDDEN);
        else if (sp_json_is(reader, "log_softmax"))
            read_rows(reader, g);
        else
            sp_json_skip(reader, sp_json_next(reader));
    }
    assert_true(g->n_ids > 0 && g->n_greedy > 0);
    assert_int_equal(g->n_logprobs + 1, g->n_ids);
    assert_int_equal(g->n_greedy, g->n_margins);
    assert_int_equal(g->n_log_softmax, g->n_rows * g->n_logits);
}

/* The members of an object whose bracket was read; those of "cases" go to check. */
static size_t read_cases(sp_json *reader, golden_check check, void *context)
{
    static golden_case g;
    size_t n = 0;
    while (sp_json_next(reader) == SP_JSON_KEY) {
        bool cases = sp_json_is(reader, "cases");
        sp_json_type type = sp_json_next(reader);
        if (!cases) sp_json_skip(reader, type);
        while (cases && sp_json_next(reader) == SP_JSON_OBJECT) {
            memset(&g, 0, sizeof g);
            read_case(reader, &g);
            check(context, &g);
            n++;
        }
    }
    return n;
}

static size_t read_files(sp_json *reader, const char *member, golden_check check, void *context)
{
    size_t n = 0;
    while (sp_json_next(reader) == SP_JSON_KEY) {
        bool files = sp_json_is(reader, "files");
        sp_json_type type = sp_json_next(reader);
        if (!files) sp_json_skip(reader, type);
        while (files && sp_json_next(reader) == SP_JSON_KEY) {
            bool wanted = sp_json_is(reader, member);
            type = sp_json_next(reader);
            if (wanted)
                n += read_cases(reader, check, context);
            else
                sp_json_skip(reader, type);
        }
    }
    return n;
}

size_t golden_read(const char *path, const char *member, golden_check check, void *context)
{
    sp_error error = {0};
    sp_json reader;
    char *text;
    size_t size;
    assert_ok(sp_read_file(path, (size_t)1 << 24, &text, &size, &error), error);
    assert_ok(sp_json_validate(text, size, &error), error);
    sp_json_init(&reader, text, size);
    assert_int_equal(sp_json_next(&reader), SP_JSON_OBJECT);
    size_t n = member ? read_files(&reader, member, check, context) : read_cases(&reader, check, context);
    sp_free(text);
    return n;
}

double golden_logprob(const float *logits, size_t vocab, int64_t id)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    for (size_t i = 0; i < vocab; i++) sum += exp(logits[i] - most);
    return logits[id] - most - log(sum);
}

int64_t golden_best(const float *logits, size_t vocab)
{
    size_t found = 0;
    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[found]) found = i;
    return (int64_t)found;
}
