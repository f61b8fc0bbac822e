/* The gpt2 architecture (Radford et al. 2019; GPT2LMHeadModel): config.json and weights.
 *
 * x = token + learned position; a layer: x += o(attend(q(n), k(n), v(n))) with n = layer_norm(x), then
 * x += down(gelu(up(m))) with m = layer_norm(x); every linear layer has a bias. Hugging Face stores matrices
 * as (in, out) and q, k, v as one: they are turned and cut here. Tensor names come with or without
 * "transformer.". Buffers attn.bias and attn.masked_bias are causal masks, no biases: passed over. The
 * embedding is the output matrix unless tie_word_embeddings is false. The forward pass is in gpt2_forward.c.
 * Tests: tests/unit/models/test_families.c, tests/golden/test_models.c */
#include <stdio.h>
#include <string.h>

#include "models/gpt2.h"

/* --- config.json --- */

static sp_status read_size(const sp_model *model, const char *key, const int64_t *fallback, int64_t max,
                           uint32_t *out, sp_error *error)
{
    int64_t value = 0;
    sp_status status = sp_config_int(model->config, key, fallback, 1, max, &value, error);
    *out = (uint32_t)value;
    return status;
}

/* Keys that would change the result. */
static sp_status refuse_keys(const sp_model *model, sp_error *error)
{
    static const char *const acts[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"};
    static const struct {
        const char *key;
        bool served;
    } flags[] = {{"scale_attn_weights", true},
                 {"scale_attn_by_inverse_layer_idx", false},
                 {"add_cross_attention", false}};
    const sp_config *config = model->config;
    if (sp_config_has(config, "quantization_config"))
        return sp_fail_param(error, SP_DATA, "quantization_config",
                             "config.json: quantization_config is not supported");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on;
        sp_status status = sp_config_bool(config, flags[i].key, flags[i].served, &on, error);
        if (status != SP_OK) return status;
        if (on != flags[i].served)
            return sp_fail_param(error, SP_DATA, flags[i].key, "config.json: %s %s is not supported",
                                 flags[i].key, on ? "true" : "false");
    }
    if (!sp_config_has(config, "activation_function")) return SP_OK;
    const char *act = sp_config_text(config, "activation_function");
    for (size_t i = 0; act && i < sizeof acts / sizeof *acts; i++)
        if (strcmp(act, acts[i]) == 0) return SP_OK;
    return sp_fail_param(error, SP_DATA, "activation_function",
                         "config.json: activation_function '%.60s' is not supported", act ? act : "?");
}

static sp_status configure(sp_model *model, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    double eps, usual = 1e-5;
    sp_status status = read_size(model, "vocab_size", NULL, (int64_t)1 << 21, &h->vocab, error);
    if (status == SP_OK) status = read_size(model, "n_embd", NULL, 1 << 16, &h->hidden, error);
    if (status == SP_OK) status = read_size(model, "n_layer", NULL, 1024, &h->n_layers, error);
    if (status == SP_OK) status = read_size(model, "n_head", NULL, 1024, &h->n_heads, error);
    if (status == SP_OK) status = read_size(model, "n_positions", NULL, 1 << 24, &h->context, error);
    int64_t inner = (int64_t)h->hidden * 4;
    if (status == SP_OK) status = read_size(model, "n_inner", &inner, 1 << 20, &h->intermediate, error);
    if (status == SP_OK)
        status = sp_config_double(model->config, "layer_norm_epsilon", &usual, 1e-30, 1.0, &eps, error);
    if (status == SP_OK) status = sp_config_bool(model->config, "tie_word_embeddings", true, &h->tied, error);
    if (status == SP_OK) status = refuse_keys(model, error);
    if (status != SP_OK) return status;
    h->norm_eps = (float)eps;
    h->n_kv_heads = h->n_heads;
    h->head_dim = h->hidden / h->n_heads;
    if (h->hidden % h->n_heads != 0 || h->head_dim % 2 != 0 || h->head_dim > SP_MAX_HEAD_DIM)
        return sp_fail_param(error, SP_DATA, "n_head",
                             "config.json: n_embd %u over n_head %u must be even and at most %u",
                             (unsigned)h->hidden, (unsigned)h->n_heads, SP_MAX_HEAD_DIM);
    return SP_OK;
}

/* --- weights --- */

#define PREFIX "transformer."
#define KEYS "n_layer, n_embd and n_inner"

static const char *const layer_tensors[] = {"ln_1.weight",      "ln_1.bias",          "attn.c_attn.weight",
                                            "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
                                            "ln_2.weight",      "ln_2.bias",          "mlp.c_fc.weight",
                                            "mlp.c_fc.bias",    "mlp.c_proj.weight",  "mlp.c_proj.bias"};
static const char *const buffers[] = {"attn.bias", "attn.masked_bias"};

typedef struct loading {
    sp_loader base;
    const char *prefix; /* PREFIX or "" */
    char name[96];
} loading;

/* "PREFIXh.N.TENSOR.END", or without the layer when it is negative. */
static const char *name_of(loading *l, int64_t layer, const char *tensor, const char *end)
{
    if (layer < 0)
        snprintf(l->name, sizeof l->name, "%s%s.%s", l->prefix, tensor, end);
    else
        snprintf(l->name, sizeof l->name, "%sh.%u.%s.%s", l->prefix, (unsigned)layer, tensor, end);
    return l->name;
}

static sp_status load_norm(loading *l, int64_t layer, const char *tensor, sp_gpt2_norm *out)
{
    size_t n = l->base.model->hparams.hidden;
    sp_status status = sp_loader_vector(&l->base, name_of(l, layer, tensor, "weight"), KEYS, n, &out->weight);
    if (status != SP_OK) return status;
    return sp_loader_vector(&l->base, name_of(l, layer, tensor, "bias"), KEYS, n, &out->bias);
}

/* Takes a matrix as (n_out, n_in). *turned is its memory where it had to be turned: sp_free. */
static sp_status take_turned(loading *l, const char *name, size_t n_out, size_t n_in, sp_tensor *out,
                             void **turned)
{
    *turned = NULL;
    if (sp_weights_transposed(l->base.weights))
        return sp_loader_tensor(&l->base, name, KEYS, 2, n_out, n_in, out);
    sp_tensor stored;
    sp_status status = sp_loader_tensor(&l->base, name, KEYS, 2, n_in, n_out, &stored);
    if (status != SP_OK) return status;
    uint8_t *to = *turned = sp_alloc(stored.bytes, 1);
    if (!to) return sp_fail(l->base.error, SP_NO_MEMORY, "out of memory for tensor '%s'", name);
    const uint8_t *from = stored.data;
    size_t size = sp_dtype_size(stored.dtype);
    for (size_t o = 0; o < n_out; o++)
        for (size_t i = 0; i < n_in; i++, to += size) memcpy(to, from + (i * n_out + o) * size, size);
    *out = (sp_tensor){
        .dtype = stored.dtype, .rank = 2, .shape = {n_out, n_in}, .data = *turned, .bytes = stored.bytes};
    return SP_OK;
}

/* A stored layer of n_out outputs, cut evenly into n linear layers. */
static sp_status load_linear(loading *l, int64_t layer, const char *tensor, size_t n_out, size_t n_in,
                             size_t n, sp_gpt2_linear *const *out)
{
    sp_tensor whole;
    void *turned;
    float *bias = NULL;
    size_t part = n_out / n;
    sp_status status = take_turned(l, name_of(l, layer, tensor, "weight"), n_out, n_in, &whole, &turned);
    if (status == SP_OK)
        status = sp_loader_vector(&l->base, name_of(l, layer, tensor, "bias"), KEYS, n_out, &bias);
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        out[i]->bias = sp_alloc(part, sizeof *bias);
        if (out[i]->bias)
            memcpy(out[i]->bias, bias + i * part, part * sizeof *bias);
        else
            status = sp_fail(l->base.error, SP_NO_MEMORY, "out of memory for tensor '%s'", l->name);
        if (status == SP_OK) status = sp_loader_rows(&l->base, &whole, i * part, part, &out[i]->weight);
    }
    sp_free(turned);
    sp_free(bias);
    return status;
}

static sp_status load_layer(loading *l, uint32_t index, sp_gpt2_layer *layer)
{
    const sp_hparams *h = &l->base.model->hparams;
    sp_gpt2_linear *const qkv[] = {&layer->q, &layer->k, &layer->v}, *const o[] = {&layer->o};
    sp_gpt2_linear *const up[] = {&layer->up}, *const down[] = {&layer->down};
    size_t hidden = h->hidden, inner = h->intermediate;
    sp_status status = load_norm(l, index, "ln_1", &layer->attention_norm);
    if (status == SP_OK) status = load_linear(l, index, "attn.c_attn", 3 * hidden, hidden, 3, qkv);
    if (status == SP_OK) status = load_linear(l, index, "attn.c_proj", hidden, hidden, 1, o);
    if (status == SP_OK) status = load_norm(l, index, "ln_2", &layer->mlp_norm);
    if (status == SP_OK) status = load_linear(l, index, "mlp.c_fc", inner, hidden, 1, up);
    return status == SP_OK ? load_linear(l, index, "mlp.c_proj", hidden, inner, 1, down) : status;
}

/* Whether a name is one that load takes, or a buffer that may be passed over. */
static bool is_known(const sp_model *model, const void *context, const char *name)
{
    static const char *const ends[] = {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"};
    const loading *l = context;
    if (strcmp(name, "lm_head.weight") == 0) return true;
    if (strncmp(name, l->prefix, strlen(l->prefix)) != 0) return false;
    name += strlen(l->prefix);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strcmp(name, ends[i]) == 0) return true;
    const char *rest = sp_layer_tensor(name, "h.", model->hparams.n_layers);
    for (size_t i = 0; rest && i < sizeof layer_tensors / sizeof *layer_tensors; i++)
        if (strcmp(rest, layer_tensors[i]) == 0) return true;
    for (size_t i = 0; rest && i < sizeof buffers / sizeof *buffers; i++)
        if (strcmp(rest, buffers[i]) == 0) return true;
    return false;
}

static sp_status load_ends(loading *l, sp_gpt2 *gpt2)
{
    const sp_hparams *h = &l->base.model->hparams;
    static const char *const keys = "vocab_size and n_embd";
    sp_status status = load_norm(l, -1, "ln_f", &gpt2->norm);
    if (status == SP_OK)
        status = sp_loader_table(&l->base, name_of(l, -1, "wpe", "weight"), "n_positions and n_embd",
                                 h->context, h->hidden, &gpt2->positions);
    const char *embedding = name_of(l, -1, "wte", "weight");
    if (status == SP_OK)
        status = sp_loader_matrix(&l->base, h->tied ? embedding : "lm_head.weight", keys, h->vocab, h->hidden,
                                  &gpt2->head);
    if (status != SP_OK || h->tied) return status;
    return sp_loader_table(&l->base, embedding, keys, h->vocab, h->hidden, &gpt2->embed);
}

static sp_status load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    loading l = {.base = {.model = model,
                          .weights = weights,
                          .options = options,
                          .layers_key = "n_layer",
                          .error = error},
                 .prefix = sp_weights_find(weights, "wte.weight") ? "" : PREFIX};
    sp_gpt2 *gpt2 = model->state = sp_alloc_zero(1, sizeof *gpt2);
    if (gpt2) gpt2->layers = sp_alloc_zero(h->n_layers, sizeof *gpt2->layers);
    if (!gpt2 || !gpt2->layers) return sp_fail(error, SP_NO_MEMORY, "out of memory for layers");
    sp_status status = sp_loader_check_unknown(&l.base, *l.prefix ? PREFIX "h." : "h.", is_known, &l);
    if (status == SP_OK) status = load_ends(&l, gpt2);
    for (uint32_t i = 0; i < h->n_layers && status == SP_OK; i++) {
        if (options->progress)
            options->progress(options->progress_context, (double)(i + 1) / (h->n_layers + 1));
        status = load_layer(&l, i, &gpt2->layers[i]);
    }
    return status;
}

static void free_norm(sp_gpt2_norm *norm)
{
    sp_free(norm->weight);
    sp_free(norm->bias);
}

static void unload(sp_model *model)
{
    sp_gpt2 *gpt2 = model->state;
    if (!gpt2) return;
    for (uint32_t i = 0; gpt2->layers && i < model->hparams.n_layers; i++) {
        sp_gpt2_layer *layer = &gpt2->layers[i];
        sp_gpt2_linear *linears[] = {&layer->q, &layer->k, &layer->v, &layer->o, &layer->up, &layer->down};
        for (size_t k = 0; k < sizeof linears / sizeof *linears; k++) {
            sp_matrix_fini(&linears[k]->weight);
            sp_free(linears[k]->bias);
        }
        free_norm(&layer->attention_norm);
        free_norm(&layer->mlp_norm);
    }
    free_norm(&gpt2->norm);
    sp_matrix_fini(&gpt2->head);
    sp_free(gpt2->embed.rows);
    sp_free(gpt2->positions.rows);
    sp_free(gpt2->layers);
    sp_free(gpt2);
    model->state = NULL;
}

static const char *const model_types[] = {"gpt2", NULL};

const sp_arch sp_arch_gpt2 = {.name = "gpt2",
                              .model_types = model_types,
                              .configure = configure,
                              .load = load,
                              .unload = unload,
                              .scratch = sp_gpt2_scratch,
                              .forward = sp_gpt2_forward};
