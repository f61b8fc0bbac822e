/* The paper's loss (train.h), one row at a time: its edges are few, so no lanes. The other keys are drawn
 * without replacement from all that are no edges, later ones too, as in the published code. */
#include "engine/sparsefinder/train.h"

#define MARGIN 1.0

/* n of the keys without a mark, marked and listed. */
static void draw(sp_random *random, uint32_t length, size_t there, size_t n, uint8_t *marks, uint32_t *out)
{
    size_t found = 0;
    if (2 * n <= there) {
        while (found < n) {
            uint32_t j = sp_random_below(random, length);
            if (marks[j]) continue;
            marks[j] = 1;
            out[found++] = j;
        }
        return;
    }
    for (uint32_t j = 0; j < length && found < n; j++) {
        if (marks[j]) continue;
        if (sp_random_share(random) * (double)there < (double)(n - found)) {
            marks[j] = 1;
            out[found++] = j;
        }
        there--;
    }
}

static double distance(uint32_t rank, const float *q, const float *k, size_t stride)
{
    double sum = 0;
    for (uint32_t r = 0; r < rank; r++) {
        double off = (double)q[r] - (double)k[r * stride];
        sum += off * off;
    }
    return sum;
}

static void push(uint32_t rank, const float *q, const float *k, size_t stride, float sign, float *dq,
                 float *dk)
{
    for (uint32_t r = 0; r < rank; r++) {
        float slope = sign * 2.0f * (q[r] - k[r * stride]);
        dq[r] += slope;
        dk[r * stride] -= slope;
    }
}

double sp_hinge_rows(sp_random *random, uint32_t rank, size_t n, uint32_t length, const float *q,
                     const float *k, size_t stride, const size_t *begins, const uint32_t *edges, float *dq,
                     float *dk, uint8_t *marks, uint32_t *others)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float *row = q + i * rank;
        const uint32_t *near = edges + begins[i];
        size_t n_near = begins[i + 1] - begins[i],
               n_far = length - n_near < n_near ? length - n_near : n_near;
        for (size_t e = 0; e < n_near; e++) marks[near[e]] = 1;
        draw(random, length, length - n_near, n_far, marks, others);
        double loss = MARGIN;
        for (size_t e = 0; e < n_near; e++) loss += distance(rank, row, k + near[e], stride);
        for (size_t e = 0; e < n_far; e++) loss -= distance(rank, row, k + others[e], stride);
        if (loss > 0) {
            sum += loss;
            for (size_t e = 0; e < n_near; e++)
                push(rank, row, k + near[e], stride, 1, dq + i * rank, dk + near[e]);
            for (size_t e = 0; e < n_far; e++)
                push(rank, row, k + others[e], stride, -1, dq + i * rank, dk + others[e]);
        }
        for (size_t e = 0; e < n_near; e++) marks[near[e]] = 0;
        for (size_t e = 0; e < n_far; e++) marks[others[e]] = 0;
    }
    return sum;
}
