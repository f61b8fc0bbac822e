/* Private to models/: how architectures take tensors out of a file. Shapes come from config.json; what
 * disagrees is refused with the names of file, tensor and keys. Values are counted in model->n_params, bytes
 * in model->weight_bytes. What is given out belongs to the caller also when a later call fails. Tests:
 * tests/unit/models/test_model.c, tests/golden/test_models.c */
#ifndef SPARSED_MODELS_LOADING_H
#define SPARSED_MODELS_LOADING_H

#include "models/model.h"

typedef struct sp_loader {
    sp_model *model;
    const sp_weights *weights;
    const sp_model_options *options;
    const char *layers_key; /* the key of config.json that counts layers */
    sp_error *error;
} sp_loader;

/* A tensor of the shape that these keys of config.json ask for: (rows, columns), or (rows) for rank 1. */
sp_status sp_loader_tensor(const sp_loader *loader, const char *name, const char *keys, uint32_t rank,
                           size_t rows, size_t columns, sp_tensor *out) SP_MUST_CHECK;
/* The same, packed for the device. */
sp_status sp_loader_matrix(const sp_loader *loader, const char *name, const char *keys, size_t rows,
                           size_t columns, sp_matrix *out) SP_MUST_CHECK;
/* Packs rows first .. first + rows - 1 of a tensor of rank 2: one of several layers stored as one. */
sp_status sp_loader_rows(const sp_loader *loader, const sp_tensor *whole, size_t first, size_t rows,
                         sp_matrix *out) SP_MUST_CHECK;
/* n numbers as float32; sp_free. */
sp_status sp_loader_vector(const sp_loader *loader, const char *name, const char *keys, size_t n,
                           float **out) SP_MUST_CHECK;

/* A table whose rows are looked up, as stored. */
typedef struct sp_table {
    sp_dtype dtype;
    size_t width, row_bytes;
    void *rows; /* (rows, width); sp_free */
} sp_table;
sp_status sp_loader_table(const sp_loader *loader, const char *name, const char *keys, size_t rows,
                          size_t width, sp_table *out) SP_MUST_CHECK;
void sp_table_row(const sp_table *table, size_t row, float *out);

typedef bool (*sp_known_fn)(const sp_model *model, const void *context, const char *name);
/* Weights inside a layer (a name that begins with prefix and ends with .weight or .bias) that known() denies
 * would change the result: refused. Other such tensors get one note together. */
sp_status sp_loader_check_unknown(const sp_loader *loader, const char *prefix, sp_known_fn known,
                                  const void *context) SP_MUST_CHECK;

bool sp_ends_with(const char *text, const char *end);
/* What follows "PREFIX<layer>." in a name, where layer is below n_layers; else NULL. */
const char *sp_layer_tensor(const char *name, const char *prefix, uint32_t n_layers);

#endif
