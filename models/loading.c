/* See loading.h. */
#include "models/loading.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file to name where a tensor lies in none. */
static const char *any_file(const sp_weights *weights)
{
    return sp_weights_count(weights) ? sp_weights_file(weights, sp_weights_name(weights, 0))
                                     : "model.safetensors";
}

static sp_status fail_shape(const sp_loader *l, const char *name, const char *keys, const sp_tensor *found,
                            const char *wanted)
{
    char has[96] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < found->rank && used < sizeof has; i++)
        used += (size_t)snprintf(has + used, sizeof has - used, "%s%zu", i ? ", " : "", found->shape[i]);
    return sp_fail_param(l->error, SP_DATA, name,
                         "%s: tensor '%.80s' has shape [%s]; %s of config.json ask for [%s]",
                         sp_weights_file(l->weights, name), name, has, keys, wanted);
}

sp_status sp_loader_tensor(const sp_loader *l, const char *name, const char *keys, uint32_t rank, size_t rows,
                           size_t columns, sp_tensor *out)
{
    const size_t shape[2] = {rows, columns};
    char wanted[64];
    if (rank == 2)
        snprintf(wanted, sizeof wanted, "%zu, %zu", rows, columns);
    else
        snprintf(wanted, sizeof wanted, "%zu", rows);
    const sp_tensor *found = sp_weights_find(l->weights, name);
    if (!found)
        return sp_fail_param(l->error, SP_DATA, name,
                             "%s: tensor '%.80s' is missing; %s of config.json ask for [%s]",
                             any_file(l->weights), name, keys, wanted);
    if (found->rank != rank || found->shape[0] != rows || (rank == 2 && found->shape[1] != columns))
        return fail_shape(l, name, keys, found, wanted);
    sp_status status = sp_weights_take(l->weights, name, rank, shape, out, l->error);
    if (status == SP_OK) l->model->n_params += sp_tensor_count(out);
    return status;
}

static sp_status pack(const sp_loader *l, const sp_tensor *tensor, sp_matrix *out)
{
    sp_status status = sp_model_pack(l->model, l->options, tensor, out, l->error);
    if (status == SP_OK) l->model->weight_bytes += out->bytes;
    return status;
}

sp_status sp_loader_matrix(const sp_loader *l, const char *name, const char *keys, size_t rows,
                           size_t columns, sp_matrix *out)
{
    sp_tensor tensor;
    sp_status status = sp_loader_tensor(l, name, keys, 2, rows, columns, &tensor);
    return status == SP_OK ? pack(l, &tensor, out) : status;
}

sp_status sp_loader_rows(const sp_loader *l, const sp_tensor *whole, size_t first, size_t rows,
                         sp_matrix *out)
{
    size_t row_bytes;
    if (whole->rank != 2 || first > whole->shape[0] || rows > whole->shape[0] - first ||
        !sp_dtype_bytes(whole->dtype, whole->shape[1], &row_bytes))
        return sp_fail(l->error, SP_INTERNAL, "rows %zu to %zu of a tensor that lacks them", first,
                       first + rows);
    const sp_tensor part = {.dtype = whole->dtype,
                            .rank = 2,
                            .shape = {rows, whole->shape[1]},
                            .data = (const uint8_t *)whole->data + first * row_bytes,
                            .bytes = rows * row_bytes};
    return pack(l, &part, out);
}

sp_status sp_loader_vector(const sp_loader *l, const char *name, const char *keys, size_t n, float **out)
{
    sp_tensor tensor;
    sp_status status = sp_loader_tensor(l, name, keys, 1, n, 0, &tensor);
    if (status != SP_OK) return status;
    *out = sp_alloc(n, sizeof **out);
    if (!*out) return sp_fail(l->error, SP_NO_MEMORY, "out of memory for tensor '%s'", name);
    sp_convert_to_f32(tensor.dtype, tensor.data, *out, n);
    l->model->weight_bytes += n * sizeof **out;
    return SP_OK;
}

sp_status sp_loader_table(const sp_loader *l, const char *name, const char *keys, size_t rows, size_t width,
                          sp_table *out)
{
    sp_tensor tensor;
    size_t row_bytes;
    sp_status status = sp_loader_tensor(l, name, keys, 2, rows, width, &tensor);
    if (status != SP_OK) return status;
    if (!sp_dtype_bytes(tensor.dtype, width, &row_bytes))
        return sp_fail_param(l->error, SP_DATA, name, "%s: rows of tensor '%.80s' are not whole blocks",
                             sp_weights_file(l->weights, name), name);
    *out = (sp_table){.dtype = tensor.dtype, .width = width, .row_bytes = row_bytes};
    out->rows = sp_alloc(tensor.bytes, 1);
    if (!out->rows) return sp_fail(l->error, SP_NO_MEMORY, "out of memory for tensor '%s'", name);
    memcpy(out->rows, tensor.data, tensor.bytes);
    l->model->weight_bytes += tensor.bytes;
    return SP_OK;
}

void sp_table_row(const sp_table *table, size_t row, float *out)
{
    sp_convert_to_f32(table->dtype, (const uint8_t *)table->rows + row * table->row_bytes, out, table->width);
}

/* --- names --- */

bool sp_ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

const char *sp_layer_tensor(const char *name, const char *prefix, uint32_t n_layers)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return NULL;
    char *rest;
    unsigned long layer = strtoul(name + n, &rest, 10);
    return layer < n_layers && *rest == '.' ? rest + 1 : NULL;
}

sp_status sp_loader_check_unknown(const sp_loader *l, const char *prefix, sp_known_fn known,
                                  const void *context)
{
    size_t extra = 0;
    const char *first = "";
    for (size_t i = 0; i < sp_weights_count(l->weights); i++) {
        const char *name = sp_weights_name(l->weights, i);
        if (known(l->model, context, name)) continue;
        if (strncmp(name, prefix, strlen(prefix)) == 0 &&
            (sp_ends_with(name, ".weight") || sp_ends_with(name, ".bias")))
            return sp_fail_param(l->error, SP_DATA, name,
                                 "%s: tensor '%.100s' belongs to no layer of a %s with %s %u",
                                 sp_weights_file(l->weights, name), name, l->model->arch->name, l->layers_key,
                                 (unsigned)l->model->hparams.n_layers);
        if (extra++ == 0) first = name;
    }
    if (extra)
        sp_log(SP_LOG_INFO, "%s: %zu unknown tensors are ignored, the first is '%.100s'", l->model->name,
               extra, first);
    return SP_OK;
}
