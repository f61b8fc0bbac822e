/* See adapter.h: reading an adapter. Using one is in adapter_forward.c. */
#include "models/adapter.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "models/fingerprint.h"

/* --- adapter_config.json --- */

/* Keys that are read, and keys that only say how it was trained or what made it. */
static const char *const known_keys[] = {"peft_type",
                                         "r",
                                         "lora_alpha",
                                         "use_rslora",
                                         "target_modules",
                                         "attention_normalizer",
                                         "task_type",
                                         "bias",
                                         "init_lora_weights",
                                         "lora_dropout",
                                         "base_model_name_or_path",
                                         "revision",
                                         "auto_mapping",
                                         "inference_mode",
                                         "megatron_core",
                                         "peft_version",
                                         "qalora_group_size",
                                         NULL};

static sp_status expect_text(const sp_config *config, const char *key, const char *only, sp_error *error)
{
    const char *text = sp_config_text(config, key);
    if (!sp_config_has(config, key) || (text && strcmp(text, only) == 0)) return SP_OK;
    return sp_fail_param(error, SP_DATA, key, "adapter_config.json: %s must be \"%s\", not %.60s", key, only,
                         text ? text : "another type");
}

/* Some ways to begin change the base's weights, and the adapter means nothing beside those it is given. */
static sp_status check_beginning(const sp_config *config, sp_error *error)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    static const char *const key = "init_lora_weights";
    const char *text = sp_config_text(config, key);
    bool flag;
    if (!text) return sp_config_bool(config, key, true, &flag, error);
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strcmp(text, harmless[i]) == 0) return SP_OK;
    return sp_fail_param(error, SP_DATA, key,
                         "adapter_config.json: init_lora_weights \"%.60s\" is not supported: it may have "
                         "changed the base's weights",
                         text);
}

sp_status sp_adapter_read_settings(const sp_config *config, sp_adapter_settings *out, sp_error *error)
{
    int64_t rank = 1;
    double alpha = 0;
    bool stabilized = false;
    *out = (sp_adapter_settings){.rank = 0};
    sp_status status = SP_OK;
    if (!sp_config_has(config, "peft_type"))
        return sp_fail_param(error, SP_DATA, "peft_type", "adapter_config.json: peft_type is missing");
    status = expect_text(config, "peft_type", "LORA", error);
    if (status == SP_OK) status = expect_text(config, "task_type", "CAUSAL_LM", error);
    if (status == SP_OK) status = expect_text(config, "bias", "none", error);
    if (status == SP_OK) status = sp_config_check_keys(config, known_keys, error);
    if (status == SP_OK) status = check_beginning(config, error);
    if (status == SP_OK) status = sp_config_int(config, "r", NULL, 1, SP_MAX_ADAPTER_RANK, &rank, error);
    if (status == SP_OK) status = sp_config_double(config, "lora_alpha", NULL, -1e6, 1e6, &alpha, error);
    if (status == SP_OK) status = sp_config_bool(config, "use_rslora", false, &stabilized, error);
    if (status == SP_OK)
        status = sp_config_normalizer(config, "attention_normalizer", &out->has_normalizer, &out->normalizer,
                                      error);
    if (status == SP_OK)
        status = sp_config_texts(config, "target_modules", sizeof out->targets / sizeof *out->targets,
                                 out->targets, &out->n_targets, error);
    out->rank = (uint32_t)rank;
    out->scale = (float)(alpha / (stabilized ? sqrt((double)rank) : (double)rank));
    return status;
}

/* --- adapter_model.safetensors --- */

typedef struct loading {
    const sp_model *model;
    const sp_model_options *options;
    const sp_adapter_settings *settings;
    const sp_weights *weights;
    struct sp_adapter_module modules[SP_MAX_MODULES];
    bool targeted[SP_MAX_MODULES];
    size_t n_modules;
    sp_adapter *adapter;
    sp_error *error;
} loading;

/* Whether a target names this module: by its whole name behind the layer's, or by the end of it. */
static bool names_module(const char *target, const char *module)
{
    size_t n = strlen(target), all = strlen(module);
    if (n > all || strcmp(module + all - n, target) != 0) return false;
    return n == all || module[all - n - 1] == '.';
}

static sp_status choose_modules(loading *l)
{
    for (size_t t = 0; t < l->settings->n_targets; t++) {
        const char *target = l->settings->targets[t];
        bool found = false;
        for (size_t m = 0; m < l->n_modules; m++)
            if (names_module(target, l->modules[m].name)) l->targeted[m] = found = true;
        if (!found)
            return sp_fail_param(l->error, SP_DATA, "target_modules",
                                 "adapter_config.json: target_modules: '%.80s' is no module of %s that can "
                                 "be adapted",
                                 target, l->model->arch->name);
    }
    return SP_OK;
}

#define PREFIX "base_model.model.model.layers."

static const char *name_tensor(const struct sp_adapter_module *module, uint32_t layer, char which, char *out,
                               size_t size)
{
    snprintf(out, size, PREFIX "%u.%s.lora_%c.weight", (unsigned)layer, module->name, which);
    return out;
}

/* Every tensor must be the A or B of a targeted module in a layer that exists. */
static bool belongs(const loading *l, const char *name)
{
    char known[256];
    unsigned layer;
    if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0) return false;
    if (sscanf(name + sizeof PREFIX - 1, "%5u.", &layer) != 1 || layer >= l->model->hparams.n_layers)
        return false;
    for (size_t m = 0; m < l->n_modules; m++) {
        if (!l->targeted[m]) continue;
        if (strcmp(name, name_tensor(&l->modules[m], layer, 'A', known, sizeof known)) == 0) return true;
        if (strcmp(name, name_tensor(&l->modules[m], layer, 'B', known, sizeof known)) == 0) return true;
    }
    return false;
}

static sp_status check_tensors(const loading *l)
{
    for (size_t i = 0; i < sp_weights_count(l->weights); i++) {
        const char *name = sp_weights_name(l->weights, i);
        if (belongs(l, name)) continue;
        return sp_fail_param(l->error, SP_DATA, name,
                             "%s: tensor '%.120s' is no lora_A or lora_B of a module in target_modules; was "
                             "the adapter made for another base?",
                             sp_weights_file(l->weights, name), name);
    }
    return SP_OK;
}

static sp_status pack(loading *l, const sp_tensor *whole, size_t first, size_t rows, sp_matrix *out)
{
    sp_tensor part = *whole;
    size_t row_bytes = whole->bytes / whole->shape[0];
    part.shape[0] = rows;
    part.bytes = rows * row_bytes;
    part.data = (const uint8_t *)whole->data + first * row_bytes;
    sp_status status = sp_model_pack(l->model, l->options, &part, out, l->error);
    if (status == SP_OK) l->adapter->bytes += out->bytes;
    return status;
}

static sp_status load_module(loading *l, const struct sp_adapter_module *module, uint32_t layer)
{
    char name[256];
    size_t n_out = 0, first = 0, rank = l->settings->rank;
    sp_low_rank *parts = l->adapter->parts + (size_t)layer * l->adapter->n_parts + module->first_part;
    sp_tensor a, b;
    for (uint32_t i = 0; i < module->n_parts; i++) n_out += module->n_out[i];
    sp_status status = sp_weights_take(l->weights, name_tensor(module, layer, 'A', name, sizeof name), 2,
                                       (const size_t[]){rank, module->n_in}, &a, l->error);
    if (status == SP_OK)
        status = sp_weights_take(l->weights, name_tensor(module, layer, 'B', name, sizeof name), 2,
                                 (const size_t[]){n_out, rank}, &b, l->error);
    for (uint32_t i = 0; i < module->n_parts && status == SP_OK; i++) {
        status = pack(l, &a, 0, rank, &parts[i].a);
        if (status == SP_OK) status = pack(l, &b, first, module->n_out[i], &parts[i].b);
        first += module->n_out[i];
    }
    return status;
}

static sp_status load_tensors(loading *l)
{
    sp_adapter *adapter = l->adapter;
    for (size_t m = 0; m < l->n_modules; m++) {
        uint32_t end = l->modules[m].first_part + l->modules[m].n_parts;
        if (end > adapter->n_parts) adapter->n_parts = end;
    }
    adapter->n_layers = l->model->hparams.n_layers;
    adapter->parts = sp_alloc_zero((size_t)adapter->n_layers * adapter->n_parts, sizeof *adapter->parts);
    if (!adapter->parts) return sp_fail(l->error, SP_NO_MEMORY, "no memory for an adapter");
    sp_status status = check_tensors(l);
    for (uint32_t layer = 0; layer < adapter->n_layers; layer++)
        for (size_t m = 0; m < l->n_modules && status == SP_OK; m++)
            if (l->targeted[m]) status = load_module(l, &l->modules[m], layer);
    return status;
}

static sp_status load(sp_adapter *adapter, const sp_model *model, const char *path, const sp_config *config,
                      const sp_model_options *options, sp_error *error)
{
    sp_adapter_settings settings;
    sp_status status = sp_adapter_read_settings(config, &settings, error);
    if (status != SP_OK) return status;
    adapter->rank = settings.rank;
    adapter->scale = settings.scale;
    adapter->has_normalizer = settings.has_normalizer;
    adapter->normalizer = settings.normalizer;
    loading l = {
        .model = model, .options = options, .settings = &settings, .adapter = adapter, .error = error};
    l.n_modules = model->arch->modules(model, l.modules);
    status = choose_modules(&l);
    if (status != SP_OK) return status;

    sp_buffer file;
    sp_weights *weights = NULL;
    sp_buffer_init(&file, 8192);
    sp_buffer_format(&file, "%s/adapter_model.safetensors", path);
    status = sp_buffer_append(&file, "", 1) ? sp_weights_open(file.data, &options->weights, &weights, error)
                                            : sp_buffer_path_fail(&file, path, error);
    sp_buffer_fini(&file);
    l.weights = weights;
    if (status == SP_OK) status = load_tensors(&l);
    if (status == SP_OK && options->fingerprint) {
        sp_sha256_state hashed = model->hashed;
        sp_fingerprint_adapter(&hashed, weights, model->hparams.n_layers);
        sp_sha256_end_hex(&hashed, adapter->fingerprint);
    }
    sp_weights_close(weights);
    return status;
}

/* --- the folder --- */

static sp_status check_name(const sp_model *model, const char *name, sp_error *error)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    if (n == 0 || n > SP_MAX_ADAPTER_NAME || strspn(name, letters) != n)
        return sp_fail_param(error, SP_USAGE, "adapter",
                             "--adapter: \"%.80s\" is no name: 1 to %u letters, digits, '.', '_', '-'", name,
                             SP_MAX_ADAPTER_NAME);
    for (size_t i = 0; i < model->n_adapters; i++)
        if (strcmp(model->adapters[i]->name, name) == 0)
            return sp_fail_param(error, SP_USAGE, "adapter", "--adapter: the name %s is given twice", name);
    return SP_OK;
}

static sp_status open_config(const char *path, sp_config **out, sp_error *error)
{
    struct stat info;
    sp_buffer file;
    *out = NULL;
    if (stat(path, &info) != 0) return sp_fail(error, SP_NOT_FOUND, "%.200s: %s", path, strerror(errno));
    sp_buffer_init(&file, 8192);
    sp_buffer_format(&file, "%s/adapter_config.json", path);
    sp_status status = sp_buffer_append(&file, "", 1) ? sp_config_open(file.data, out, error)
                                                      : sp_buffer_path_fail(&file, path, error);
    sp_buffer_fini(&file);
    return status;
}

sp_status sp_adapter_open(const sp_model *model, const char *name, const char *path,
                          const sp_model_options *options, sp_adapter **out, sp_error *error)
{
    sp_config *config = NULL;
    sp_error reason = {0};
    *out = NULL;
    sp_status status = check_name(model, name, error);
    if (status != SP_OK) return status;
    if (!model->arch->modules)
        return sp_fail_param(error, SP_UNSUPPORTED, "adapter",
                             "--adapter %s: models of architecture %s take no adapters", name,
                             model->arch->name);
    sp_adapter *adapter = sp_alloc_zero(1, sizeof *adapter);
    if (adapter) adapter->name = sp_copy_text(name, strlen(name));
    if (!adapter || !adapter->name) status = sp_fail(&reason, SP_NO_MEMORY, "no memory for an adapter");
    if (status == SP_OK) status = open_config(path, &config, &reason);
    if (status == SP_OK) status = load(adapter, model, path, config, options, &reason);
    if (status == SP_OK && sp_config_text(config, "base_model_name_or_path"))
        sp_log(SP_LOG_INFO, "adapter %s: rank %u, made for %.120s", name, (unsigned)adapter->rank,
               sp_config_text(config, "base_model_name_or_path"));
    sp_config_close(config);
    if (status == SP_OK) {
        *out = adapter;
        return SP_OK;
    }
    sp_adapter_close(adapter);
    return sp_fail_param(error, status, reason.param, "adapter %s: %s", name, reason.message);
}

void sp_adapter_close(sp_adapter *adapter)
{
    if (!adapter) return;
    for (size_t i = 0; adapter->parts && i < (size_t)adapter->n_layers * adapter->n_parts; i++) {
        sp_matrix_fini(&adapter->parts[i].a);
        sp_matrix_fini(&adapter->parts[i].b);
    }
    sp_free(adapter->parts);
    sp_free(adapter->name);
    sp_free(adapter);
}
