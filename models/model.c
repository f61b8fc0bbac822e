/* Opens a model, a folder or a GGUF file: config.json (or the metadata as its keys) chooses the architecture,
 * which reads its sizes and takes its weights.
 *
 * Order: config, tokenizer, weights, cheapest first, so that a folder that can't work is refused before
 * gigabytes are read. The model owns its config, tokenizer and packed weights; the files' bytes are dropped
 * when loading ends. Tests: tests/unit/models/test_model.c, tests/golden/test_models.c,
 * tests/golden/test_hostile.py */
#include "models/adapter.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/json.h"
#include "models/fingerprint.h"

#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

static bool ends_with_gguf(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

/* The last part of a path, without ".gguf". */
static char *last_part(const char *path)
{
    size_t end = strlen(path);
    if (ends_with_gguf(path)) end -= 5;
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    return sp_copy_text(path + begin, end - begin);
}

static sp_status open_config(sp_model *model, const char *config_name, sp_error *error)
{
    return model->gguf ? sp_gguf_config(model->gguf, &model->config, error)
                       : sp_config_open(config_name, &model->config, error);
}

static sp_status choose_arch(sp_model *model, const char *config_name, sp_error *error)
{
    const char *type = sp_config_text(model->config, "model_type");
    if (!type) return sp_fail_param(error, SP_DATA, "model_type", "%s: model_type is missing", config_name);
    for (const sp_arch *const *arch = sp_archs; *arch; arch++)
        for (const char *const *name = (*arch)->model_types; *name; name++)
            if (strcmp(*name, type) == 0) {
                model->arch = *arch;
                return SP_OK;
            }
    /* An architecture may be unknown just because of a feature that has a name of its own. */
    static const char *const features[] = {"num_local_experts", "num_experts", "n_routed_experts",
                                           "kv_lora_rank",      "layer_types", "vision_config"};
    const char *feature = NULL;
    for (size_t i = 0; i < sizeof features / sizeof *features && !feature; i++)
        if (sp_config_has(model->config, features[i])) feature = features[i];
    return sp_fail_param(error, SP_DATA, "model_type", "%s: model_type '%.80s'%s%s is not supported",
                         config_name, type, feature ? " with " : "", feature ? feature : "");
}

/* What every architecture's config.json may say: the normalizer and pattern it was trained with, its token
 * ids. */
static sp_status read_common(sp_model *model, const char *config_name, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    bool present;
    int32_t bos[1];
    size_t n_bos;
    h->normalizer.alpha = 1.0f;
    sp_status status =
        sp_config_normalizer(model->config, "attention_normalizer", &present, &h->normalizer, error);
    if (status == SP_OK) status = sp_config_ids(model->config, "bos_token_id", bos, 1, &n_bos, error);
    if (status == SP_OK) status = sp_config_ids(model->config, "eos_token_id", h->eos, 8, &h->n_eos, error);
    if (status != SP_OK) return status;
    h->bos = n_bos ? bos[0] : -1;
    if (h->bos >= (int64_t)h->vocab)
        return sp_fail_param(error, SP_DATA, "bos_token_id", "%s: bos_token_id %d is not below vocab_size %u",
                             config_name, (int)h->bos, (unsigned)h->vocab);
    for (size_t i = 0; i < h->n_eos; i++)
        if (h->eos[i] >= (int64_t)h->vocab)
            return sp_fail_param(error, SP_DATA, "eos_token_id",
                                 "%s: eos_token_id %d is not below vocab_size %u", config_name,
                                 (int)h->eos[i], (unsigned)h->vocab);
    if (!sp_config_has(model->config, "attention_pattern")) return SP_OK;
    model->attention_pattern = sp_config_json(model->config, "attention_pattern");
    return model->attention_pattern ? SP_OK : sp_fail(error, SP_NO_MEMORY, "%s: out of memory", config_name);
}

static sp_status open_tokenizer(sp_model *model, const char *path, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    sp_status status = model->gguf ? sp_tokenizer_from_gguf(model->gguf, &model->tokenizer, error)
                                   : sp_tokenizer_open(path, &model->tokenizer, error);
    if (status != SP_OK) return status;
    if (sp_tokenizer_size(model->tokenizer) > (int64_t)h->vocab)
        return sp_fail_param(error, SP_DATA, "vocab_size",
                             "%s: tokenizer.json has ids up to %d, config.json's vocab_size is %u", path,
                             (int)sp_tokenizer_size(model->tokenizer) - 1, (unsigned)h->vocab);
    if (h->bos < 0) h->bos = sp_tokenizer_bos(model->tokenizer);
    if (h->n_eos == 0 && sp_tokenizer_eos(model->tokenizer) >= 0)
        h->eos[h->n_eos++] = sp_tokenizer_eos(model->tokenizer);
    return SP_OK;
}

/* The template called default of [{"name", "template"}, ...], else the first. NULL: none. */
static char *choose_template(const char *json)
{
    sp_json reader;
    sp_arena arena;
    char *chosen = NULL;
    sp_arena_init(&arena, 4 * strlen(json) + 4096);
    sp_json_init(&reader, json, strlen(json));
    if (sp_json_next(&reader) == SP_JSON_ARRAY) {
        bool is_default = false;
        while (sp_json_next(&reader) == SP_JSON_OBJECT) {
            char *text = NULL;
            size_t size;
            bool named = false;
            while (sp_json_next(&reader) == SP_JSON_KEY) {
                bool name = sp_json_is(&reader, "name"), body = sp_json_is(&reader, "template");
                sp_json_type type = sp_json_next(&reader);
                if (type == SP_JSON_STRING && name) named = sp_json_is(&reader, "default");
                if (type == SP_JSON_STRING && body) text = sp_json_text(&reader, &arena, &size);
                sp_json_skip(&reader, type);
            }
            if (!text || (chosen && (is_default || !named))) continue;
            chosen = text;
            is_default = named;
        }
    }
    chosen = chosen ? sp_copy_text(chosen, strlen(chosen)) : NULL;
    sp_arena_fini(&arena);
    return chosen;
}

/* chat_template of tokenizer_config.json, or the file chat_template.jinja. */
static sp_status read_folder_template(sp_model *model, const char *path, sp_error *error)
{
    sp_buffer name;
    sp_config *config = NULL;
    char *file = NULL;
    size_t size;
    sp_buffer_init(&name, 8192);
    sp_buffer_format(&name, "%s/tokenizer_config.json", path);
    sp_buffer_append(&name, "", 1);
    if (!name.failed && sp_config_open(name.data, &config, NULL) == SP_OK) {
        const char *text = sp_config_text(config, "chat_template");
        char *list = text ? NULL : sp_config_json(config, "chat_template");
        model->chat_template = text ? sp_copy_text(text, strlen(text)) : list ? choose_template(list) : NULL;
        sp_free(list);
    }
    sp_config_close(config);
    sp_buffer_clear(&name);
    sp_buffer_format(&name, "%s/chat_template.jinja", path);
    sp_buffer_append(&name, "", 1);
    sp_error absent;
    sp_status status = SP_OK;
    if (!model->chat_template && !name.failed) {
        status = sp_read_file(name.data, MAX_TEMPLATE_BYTES, &file, &size, &absent);
        if (status == SP_OK) model->chat_template = file;
        if (status != SP_OK && status != SP_NOT_FOUND && error) *error = absent;
        if (status == SP_NOT_FOUND) status = SP_OK;
    }
    sp_buffer_fini(&name);
    return status;
}

static sp_status read_template(sp_model *model, const char *path, sp_error *error)
{
    const char *text = NULL;
    size_t size = 0;
    if (!model->gguf) return read_folder_template(model, path, error);
    if (!sp_gguf_has(model->gguf, "tokenizer.chat_template")) return SP_OK;
    sp_status status = sp_gguf_text(model->gguf, "tokenizer.chat_template", &text, &size, error);
    if (status != SP_OK) return status;
    model->chat_template = sp_copy_text(text, size);
    return model->chat_template ? SP_OK : sp_fail(error, SP_NO_MEMORY, "%s: out of memory", path);
}

/* The fingerprint is taken on a thread of its own, while the weights are packed: both only read the file. */
typedef struct fingerprinting {
    sp_model *model;
    const sp_weights *weights;
    pthread_t thread;
    bool wanted, apart; /* apart: on that thread */
    sp_status status;
    sp_error error;
} fingerprinting;

static void *take_fingerprint(void *context)
{
    fingerprinting *f = context;
    sp_model *model = f->model;
    sp_sha256_begin(&model->hashed);
    f->status =
        sp_fingerprint_weights(&model->hashed, f->weights, model->gguf, model->hparams.n_layers, &f->error);
    sp_sha256_state end = model->hashed;
    if (f->status == SP_OK) sp_sha256_end_hex(&end, model->fingerprint);
    return NULL;
}

static void begin_fingerprint(fingerprinting *f)
{
    f->apart = f->wanted && pthread_create(&f->thread, NULL, take_fingerprint, f) == 0;
}

static sp_status end_fingerprint(fingerprinting *f, sp_error *error)
{
    if (f->apart)
        pthread_join(f->thread, NULL);
    else if (f->wanted)
        (void)take_fingerprint(f);
    if (f->status != SP_OK && error) *error = f->error;
    return f->status;
}

static sp_status load_weights(sp_model *model, const char *path, const sp_model_options *options,
                              sp_error *error)
{
    sp_weights *weights;
    if (options->progress) options->progress(options->progress_context, 0.0);
    sp_status status = model->gguf ? sp_weights_from_gguf(model->gguf, &options->weights, &weights, error)
                                   : sp_weights_open(path, &options->weights, &weights, error);
    if (status != SP_OK) return status;
    fingerprinting fingerprint = {.model = model, .weights = weights, .wanted = options->fingerprint};
    begin_fingerprint(&fingerprint);
    status = model->arch->load(model, weights, options, error);
    if (status != SP_OK) fingerprint.wanted = false; /* a thread that takes it is still waited for */
    sp_status taken = end_fingerprint(&fingerprint, status == SP_OK ? error : NULL);
    if (status == SP_OK) status = taken;
    sp_weights_close(weights);
    if (status == SP_OK && options->progress) options->progress(options->progress_context, 1.0);
    return status;
}

/* config_name: what messages call config.json. */
static sp_status open_parts(sp_model *model, const char *path, const char *config_name,
                            const sp_model_options *options, sp_error *error)
{
    sp_status status = open_config(model, config_name, error);
    if (status == SP_OK) status = choose_arch(model, config_name, error);
    if (status == SP_OK) status = model->arch->configure(model, error);
    if (status == SP_OK) status = read_common(model, config_name, error);
    if (status == SP_OK) status = open_tokenizer(model, path, error);
    if (status == SP_OK) status = read_template(model, path, error);
    if (status == SP_OK) status = load_weights(model, path, options, error);
    return status;
}

static sp_status open_folder(sp_model *model, const char *path, const sp_model_options *options,
                             sp_error *error)
{
    sp_buffer name;
    sp_buffer_init(&name, 8192);
    sp_buffer_format(&name, "%s/config.json", path);
    sp_status status = sp_buffer_append(&name, "", 1) ? open_parts(model, path, name.data, options, error)
                                                      : sp_buffer_path_fail(&name, path, error);
    sp_buffer_fini(&name);
    return status;
}

static sp_status open_gguf(sp_model *model, const char *path, const sp_model_options *options,
                           sp_error *error)
{
    sp_error reason = {0};
    sp_status status = sp_gguf_open(path, &model->gguf, error);
    if (status != SP_OK) return status;
    status = open_parts(model, path, "config.json", options, &reason);
    if (status != SP_OK) {
        sp_gguf_explain(model->gguf, &reason);
        if (error) *error = reason;
    }
    sp_gguf_close(model->gguf);
    model->gguf = NULL;
    return status;
}

static sp_status load_adapters(sp_model *model, const sp_model_options *options, sp_error *error)
{
    sp_status status = SP_OK;
    if (options->n_adapters == 0) return SP_OK;
    if (options->n_adapters > SP_MAX_ADAPTERS)
        return sp_fail_param(error, SP_USAGE, "adapter", "--adapter: more than %u", SP_MAX_ADAPTERS);
    model->adapters = sp_alloc_zero(options->n_adapters, sizeof(sp_adapter *));
    if (!model->adapters) return sp_fail(error, SP_NO_MEMORY, "no memory for adapters");
    for (size_t i = 0; i < options->n_adapters && status == SP_OK; i++) {
        const sp_adapter_option *wanted = &options->adapters[i];
        sp_adapter **adapter = &model->adapters[i];
        status = sp_adapter_open(model, wanted->name, wanted->path, options, adapter, error);
        if (status != SP_OK) break;
        model->weight_bytes += (*adapter)->bytes;
        model->n_adapters++;
    }
    return status;
}

sp_status sp_model_open(const char *path, sp_device *device, const sp_model_options *options, sp_model **out,
                        sp_error *error)
{
    static const sp_model_options defaults = {.exact = false};
    struct stat info;
    *out = NULL;
    if (stat(path, &info) != 0) return sp_fail(error, SP_NOT_FOUND, "%s: %s", path, strerror(errno));
    bool file = !S_ISDIR(info.st_mode);
    if (file && !ends_with_gguf(path) && !sp_gguf_is_file(path))
        return sp_fail(error, SP_DATA, "%s: a model is a folder or a GGUF file, this is neither", path);
    sp_model *model = sp_alloc_zero(1, sizeof *model);
    if (!model) return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", path);
    model->device = device;
    model->name = last_part(path);
    if (!options) options = &defaults;
    sp_status status = SP_OK;
    if (!model->name) status = sp_fail(error, SP_NO_MEMORY, "%s: out of memory", path);
    if (status == SP_OK)
        status = file ? open_gguf(model, path, options, error) : open_folder(model, path, options, error);
    if (status == SP_OK) status = load_adapters(model, options, error);
    if (status == SP_OK)
        *out = model;
    else
        sp_model_close(model);
    return status;
}

void sp_model_close(sp_model *model)
{
    if (!model) return;
    if (model->arch) model->arch->unload(model);
    for (size_t i = 0; i < model->n_adapters; i++) sp_adapter_close(model->adapters[i]);
    sp_free(model->adapters);
    sp_tokenizer_close(model->tokenizer);
    sp_config_close(model->config);
    sp_rope_close(model->rope);
    sp_free(model->name);
    sp_free(model->attention_pattern);
    sp_free(model->chat_template);
    sp_free(model);
}

bool sp_model_scratch_bytes(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes)
{
    return model->arch->scratch(model, max_rows, max_logits, bytes);
}

sp_status sp_model_forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                           void *scratch, float *logits, sp_error *error)
{
    return model->arch->forward(model, batch, attend, context, scratch, logits, error);
}
