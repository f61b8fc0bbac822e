/* Bytes as a fit file, of a model or (odd sizes) within a body of `attend`.
 *
 * Oracle: nothing crashes or reads outside; a refusal is SP_DATA and names the file; every array of a fit
 * that is accepted can be read to its end and holds no NaN. Corpus: tests/support/make_fit_corpus.py. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sparsefinder/fit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(values[i])) abort();
}

static void walk_set(const sp_fit *fit, const sp_fit_set *set)
{
    size_t heads = fit->n_heads, wide = (size_t)set->rank * (set->type == SP_FIT_BLOCK ? set->size : 1);
    walk(set->q_weight, heads * fit->head_dim * set->rank);
    walk(set->q_bias, heads * set->rank);
    walk(set->k_weight, (size_t)set->n_k_maps * fit->head_dim * set->rank);
    walk(set->k_bias, (size_t)set->n_k_maps * set->rank);
    for (size_t i = 0; i < set->n_centroids; i++)
        walk(set->centroids[i].values, heads * set->centroids[i].runs * set->centroids[i].size * wide);
    for (size_t i = 0; i < set->n_bins; i++)
        walk(set->bins[i].values, heads * set->rank * (set->bins[i].size - 1));
    for (size_t i = 0; i < set->n_thresholds; i++) walk(set->thresholds[i].values, heads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_fit *fit;
    sp_error error = {0};
    sp_status status = sp_fit_read("fuzz.fit", data, size, size % 2, &fit, &error);
    if (status != SP_OK) {
        if (status != SP_DATA || !strstr(error.message, "fuzz.fit")) abort();
        return 0;
    }
    for (size_t i = 0; i < 2 * (size_t)fit->n_layers; i++)
        for (size_t k = 0; k < fit->layers[i].n_sets; k++) walk_set(fit, &fit->layers[i].sets[k]);
    status = sp_fit_check_layers(fit, &error);
    if (status != SP_OK && (status != SP_DATA || !strstr(error.message, "layers."))) abort();
    sp_fit_close(fit);
    return 0;
}
