/* Reads tests/golden/models/NAME/golden.json: what a model must say, by implementations that share no code
 * with this one. Failures are those of cmocka. */
#ifndef SPARSED_TESTS_SUPPORT_GOLDEN_MODEL_H
#define SPARSED_TESTS_SUPPORT_GOLDEN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GOLDEN_LENGTH = 320, GOLDEN_VOCAB = 512, GOLDEN_HIDDEN = 256, GOLDEN_GREEDY = 64, GOLDEN_ROWS = 16 };

typedef struct golden_case {
    int64_t ids[GOLDEN_LENGTH], greedy[GOLDEN_GREEDY], rows[GOLDEN_ROWS];
    double logprobs[GOLDEN_LENGTH]; /* (n_ids - 1), of ids[1] and on */
    double logits[GOLDEN_VOCAB];    /* after the last id */
    double margins[GOLDEN_GREEDY];
    double hidden_last[GOLDEN_HIDDEN], hidden_mean[GOLDEN_HIDDEN];
    double log_softmax[GOLDEN_ROWS * GOLDEN_VOCAB]; /* (n_rows, vocabulary) after ids[rows[i]] */
    size_t n_ids, n_greedy, n_logprobs, n_logits, n_margins, n_last, n_mean, n_rows, n_log_softmax;
} golden_case;

typedef void (*golden_check)(void *context, const golden_case *golden);

/* Calls check for every case of a file; member NULL: of the file's "cases", else of "files".member."cases".
 * Returns their number. */
size_t golden_read(const char *path, const char *member, golden_check check, void *context);

/* log p of one id under a row of logits. */
double golden_logprob(const float *logits, size_t vocab, int64_t id);
int64_t golden_best(const float *logits, size_t vocab);

#endif
