/* Private to engine/sparsefinder/: how fit_read.c (tensors) and fit_names.c (names and metadata) share the
 * reading of a fit file. */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_PARTS_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_PARTS_H

#include "engine/sparsefinder/fit.h"
#include "models/rope.h"
#include "models/weights.h"

#define SP_FIT_MAX_LAYERS 1024u
#define SP_FIT_MAX_HEADS 1024u
#define SP_FIT_MAX_RANK 1024u
#define SP_FIT_MAX_CENTROIDS 65535u /* numbers of clusters are 16 bits */

typedef enum sp_fit_leaf {
    SP_FIT_Q_WEIGHT,
    SP_FIT_Q_BIAS,
    SP_FIT_K_WEIGHT,
    SP_FIT_K_BIAS,
    SP_FIT_CENTROIDS,
    SP_FIT_BINS,
    SP_FIT_THRESHOLDS,
    SP_FIT_NO_LEAF
} sp_fit_leaf;

/* What a tensor's name says. */
typedef struct sp_fit_place {
    uint32_t layer, kind; /* kind: 0 self, 1 cross */
    sp_fit_type type;
    uint32_t size;
    sp_fit_leaf what;
    uint32_t table; /* size of a table; 0: none in the name */
} sp_fit_place;

typedef struct sp_fit_reading {
    const char *file;
    const sp_weights *weights;
    bool one_layer;
    sp_fit *fit;
    sp_error *error;
} sp_fit_reading;

/* False for a name that is no part of a fit. */
bool sp_fit_read_name(const char *name, sp_fit_place *out);
/* "layers.3.self.cluster16.": how the names of a set's tensors begin; place: 2 layer + kind. */
void sp_fit_name_set(char out[96], size_t place, const sp_fit_set *set);
/* Fills what metadata says; one_layer: the number of layers is that of the names. */
sp_status sp_fit_read_metadata(const sp_fit_reading *reading) SP_MUST_CHECK;

#endif
