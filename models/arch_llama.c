/* The llama architecture (Touvron et al. 2023; LlamaForCausalLM): config.json and weights, also of the
 * families in llama.h.
 *
 * A layer: x += o(attend(rope(q(n)), rope(k(n)), v(n))) with n = rms_norm(x), then x += down(silu(gate(m)) *
 * up(m)) with m = rms_norm(x). Queries may share KV heads (grouped queries). head_dim is hidden / heads
 * unless its key is there. Matrices stored as one are cut into their rows, so that the forward pass knows one
 * form. Whatever changes the result and is not built is refused by its key or tensor. Weights are packed by
 * the device; sp_model owns them. The forward pass is in llama_forward.c. Tests:
 * tests/unit/models/test_model.c, tests/golden/test_models.c */
#include <stdio.h>
#include <string.h>

#include "models/llama.h"

/* --- config.json --- */

static sp_status read_size(const sp_model *model, const char *key, const int64_t *fallback, int64_t max,
                           uint32_t *out, sp_error *error)
{
    int64_t value = 0;
    sp_status status = sp_config_int(model->config, key, fallback, 1, max, &value, error);
    *out = (uint32_t)value;
    return status;
}

static sp_status read_sizes(sp_model *model, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    sp_status status = read_size(model, "vocab_size", NULL, (int64_t)1 << 21, &h->vocab, error);
    if (status == SP_OK) status = read_size(model, "hidden_size", NULL, 1 << 16, &h->hidden, error);
    if (status == SP_OK)
        status = read_size(model, "intermediate_size", NULL, 1 << 20, &h->intermediate, error);
    if (status == SP_OK) status = read_size(model, "num_hidden_layers", NULL, 1024, &h->n_layers, error);
    if (status == SP_OK) status = read_size(model, "num_attention_heads", NULL, 1024, &h->n_heads, error);
    int64_t n_heads = h->n_heads;
    if (status == SP_OK)
        status = read_size(model, "num_key_value_heads", &n_heads, 1024, &h->n_kv_heads, error);
    return status;
}

static sp_status read_heads(sp_model *model, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    if (h->n_heads % h->n_kv_heads != 0)
        return sp_fail_param(error, SP_DATA, "num_key_value_heads",
                             "config.json: num_attention_heads %u is no multiple of num_key_value_heads %u",
                             (unsigned)h->n_heads, (unsigned)h->n_kv_heads);
    int64_t quotient = h->hidden / h->n_heads;
    if (!sp_config_has(model->config, "head_dim") && h->hidden % h->n_heads != 0)
        return sp_fail_param(
            error, SP_DATA, "num_attention_heads",
            "config.json: hidden_size %u is no multiple of num_attention_heads %u and head_dim is "
            "absent",
            (unsigned)h->hidden, (unsigned)h->n_heads);
    sp_status status = read_size(model, "head_dim", &quotient, SP_MAX_HEAD_DIM, &h->head_dim, error);
    if (status != SP_OK) return status;
    if (h->head_dim == 0 || h->head_dim % 2 != 0 || h->head_dim > SP_MAX_HEAD_DIM)
        return sp_fail_param(error, SP_DATA, "head_dim",
                             "config.json: head_dim %u must be even and at most 1024", (unsigned)h->head_dim);
    return SP_OK;
}

static sp_status read_rope(sp_model *model, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    sp_status status = sp_rope_open(model->config, h->head_dim, &model->rope, error);
    if (status != SP_OK) return status;
    h->rope_theta = model->rope->theta;
    h->context = model->rope->context;
    return SP_OK;
}

/* A window shorter than the context would change the result. */
static sp_status refuse_window(const sp_model *model, const sp_llama_family *family, sp_error *error)
{
    bool used;
    int64_t window, none = 0;
    sp_status status =
        sp_config_bool(model->config, "use_sliding_window", !family->window_is_opt_in, &used, error);
    if (status == SP_OK)
        status = sp_config_int(model->config, "sliding_window", &none, 0, INT64_MAX, &window, error);
    if (status == SP_OK && used && window > 0 && window < model->hparams.context)
        return sp_fail_param(error, SP_DATA, "sliding_window",
                             "config.json: sliding_window %lld is shorter than the context of %u and not "
                             "supported",
                             (long long)window, (unsigned)model->hparams.context);
    return status;
}

/* Keys that would change the result. */
static sp_status refuse_keys(const sp_model *model, sp_error *error)
{
    static const char *const absent[] = {"num_experts",         "num_local_experts",   "n_routed_experts",
                                         "num_experts_per_tok", "quantization_config", "compression_config",
                                         "kv_lora_rank"};
    static const char *const off[] = {"attention_bias",      "mlp_bias",    "is_encoder_decoder",
                                      "add_cross_attention", "use_qk_norm", "rope_interleaved"};
    const sp_config *config = model->config;
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (sp_config_has(config, absent[i]))
            return sp_fail_param(error, SP_DATA, absent[i], "config.json: %s is not supported", absent[i]);
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        bool on;
        sp_status status = sp_config_bool(config, off[i], false, &on, error);
        if (status != SP_OK) return status;
        if (on) return sp_fail_param(error, SP_DATA, off[i], "config.json: %s true is not supported", off[i]);
    }
    if (sp_config_has(config, "layer_types") && !sp_config_repeats(config, "layer_types", "full_attention"))
        return sp_fail_param(error, SP_DATA, "layer_types",
                             "config.json: layer_types other than full_attention are not supported");
    const char *act = sp_config_text(config, "hidden_act");
    if (sp_config_has(config, "hidden_act") && (!act || strcmp(act, "silu") != 0))
        return sp_fail_param(error, SP_DATA, "hidden_act", "config.json: hidden_act '%.60s' is not supported",
                             act ? act : "?");
    return SP_OK;
}

sp_status sp_llama_configure(sp_model *model, sp_error *error)
{
    const sp_llama_family *family = model->arch->family;
    sp_hparams *h = &model->hparams;
    double eps, usual = family->epsilon;
    sp_status status = read_sizes(model, error);
    if (status == SP_OK) status = read_heads(model, error);
    if (status == SP_OK) status = read_rope(model, error);
    if (status == SP_OK)
        status = sp_config_double(model->config, "rms_norm_eps", &usual, 1e-30, 1.0, &eps, error);
    if (status == SP_OK)
        status = sp_config_bool(model->config, "tie_word_embeddings", false, &h->tied, error);
    if (status == SP_OK) status = refuse_keys(model, error);
    if (status == SP_OK) status = refuse_window(model, family, error);
    if (status == SP_OK) h->norm_eps = (float)eps;
    return status;
}

/* --- weights --- */

#define HEAD_KEYS "num_hidden_layers, num_attention_heads, head_dim and hidden_size"
#define KV_KEYS "num_hidden_layers, num_key_value_heads, head_dim and hidden_size"
#define MLP_KEYS "num_hidden_layers, intermediate_size and hidden_size"

/* The tensors of a layer, behind "model.layers.N.", and which families have them. */
typedef enum part {
    Q,
    K,
    V,
    QKV,
    O,
    GATE,
    UP,
    GATE_UP,
    DOWN,
    ATTENTION_NORM,
    MLP_NORM,
    Q_BIAS,
    K_BIAS,
    V_BIAS,
    Q_NORM,
    K_NORM,
    PARTS
} part;
static const char *const part_names[PARTS] = {
    [Q] = "self_attn.q_proj.weight",
    [K] = "self_attn.k_proj.weight",
    [V] = "self_attn.v_proj.weight",
    [QKV] = "self_attn.qkv_proj.weight",
    [O] = "self_attn.o_proj.weight",
    [GATE] = "mlp.gate_proj.weight",
    [UP] = "mlp.up_proj.weight",
    [GATE_UP] = "mlp.gate_up_proj.weight",
    [DOWN] = "mlp.down_proj.weight",
    [ATTENTION_NORM] = "input_layernorm.weight",
    [MLP_NORM] = "post_attention_layernorm.weight",
    [Q_BIAS] = "self_attn.q_proj.bias",
    [K_BIAS] = "self_attn.k_proj.bias",
    [V_BIAS] = "self_attn.v_proj.bias",
    [Q_NORM] = "self_attn.q_norm.weight",
    [K_NORM] = "self_attn.k_norm.weight",
};

static bool has_part(const sp_llama_family *family, part which)
{
    switch (which) {
    case Q:
    case K:
    case V:
    case GATE:
    case UP:
        return !family->fused;
    case QKV:
    case GATE_UP:
        return family->fused;
    case Q_BIAS:
    case K_BIAS:
    case V_BIAS:
        return family->qkv_bias;
    case Q_NORM:
    case K_NORM:
        return family->qk_norm;
    default:
        return true;
    }
}

/* One layer being loaded. */
typedef struct layer_loading {
    const sp_loader *loader;
    uint32_t index;
    const sp_llama_family *family;
    size_t hidden, wide, narrow, head_dim, intermediate;
    char name[96];
} layer_loading;

static const char *name_part(layer_loading *l, part which)
{
    snprintf(l->name, sizeof l->name, "model.layers.%u.%s", (unsigned)l->index, part_names[which]);
    return l->name;
}

static sp_status load_matrix(layer_loading *l, part which, const char *keys, size_t rows, size_t columns,
                             sp_matrix *out)
{
    if (!has_part(l->family, which)) return SP_OK;
    return sp_loader_matrix(l->loader, name_part(l, which), keys, rows, columns, out);
}

static sp_status load_vector(layer_loading *l, part which, const char *keys, size_t n, float **out)
{
    if (!has_part(l->family, which)) return SP_OK;
    return sp_loader_vector(l->loader, name_part(l, which), keys, n, out);
}

/* Cuts one stored matrix into up to three. */
static sp_status load_fused(layer_loading *l, part which, const char *keys, size_t n, const size_t *rows,
                            sp_matrix *const *out)
{
    sp_tensor whole;
    size_t all = 0, first = 0;
    if (!has_part(l->family, which)) return SP_OK;
    for (size_t i = 0; i < n; i++) all += rows[i];
    sp_status status = sp_loader_tensor(l->loader, name_part(l, which), keys, 2, all, l->hidden, &whole);
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        status = sp_loader_rows(l->loader, &whole, first, rows[i], out[i]);
        first += rows[i];
    }
    return status;
}

static sp_status load_attention(layer_loading *l, sp_llama_layer *layer)
{
    const size_t qkv_rows[] = {l->wide, l->narrow, l->narrow};
    sp_matrix *const qkv[] = {&layer->q, &layer->k, &layer->v};
    sp_status status = load_matrix(l, Q, HEAD_KEYS, l->wide, l->hidden, &layer->q);
    if (status == SP_OK) status = load_matrix(l, K, KV_KEYS, l->narrow, l->hidden, &layer->k);
    if (status == SP_OK) status = load_matrix(l, V, KV_KEYS, l->narrow, l->hidden, &layer->v);
    if (status == SP_OK) status = load_fused(l, QKV, "num_key_value_heads, " HEAD_KEYS, 3, qkv_rows, qkv);
    if (status == SP_OK) status = load_vector(l, Q_BIAS, HEAD_KEYS, l->wide, &layer->q_bias);
    if (status == SP_OK) status = load_vector(l, K_BIAS, KV_KEYS, l->narrow, &layer->k_bias);
    if (status == SP_OK) status = load_vector(l, V_BIAS, KV_KEYS, l->narrow, &layer->v_bias);
    if (status == SP_OK) status = load_vector(l, Q_NORM, "head_dim", l->head_dim, &layer->q_norm);
    if (status == SP_OK) status = load_vector(l, K_NORM, "head_dim", l->head_dim, &layer->k_norm);
    return status == SP_OK ? load_matrix(l, O, HEAD_KEYS, l->hidden, l->wide, &layer->o) : status;
}

static sp_status load_mlp(layer_loading *l, sp_llama_layer *layer)
{
    const size_t rows[] = {l->intermediate, l->intermediate};
    sp_matrix *const gate_up[] = {&layer->gate, &layer->up};
    sp_status status = load_matrix(l, GATE, MLP_KEYS, l->intermediate, l->hidden, &layer->gate);
    if (status == SP_OK) status = load_matrix(l, UP, MLP_KEYS, l->intermediate, l->hidden, &layer->up);
    if (status == SP_OK) status = load_fused(l, GATE_UP, MLP_KEYS, 2, rows, gate_up);
    return status == SP_OK ? load_matrix(l, DOWN, MLP_KEYS, l->hidden, l->intermediate, &layer->down)
                           : status;
}

static sp_status load_layer(const sp_loader *loader, const sp_llama_family *family, uint32_t index,
                            sp_llama_layer *layer)
{
    const sp_hparams *h = &loader->model->hparams;
    static const char *const norm_keys = "num_hidden_layers and hidden_size";
    layer_loading l = {.loader = loader,
                       .index = index,
                       .family = family,
                       .hidden = h->hidden,
                       .wide = (size_t)h->n_heads * h->head_dim,
                       .narrow = (size_t)h->n_kv_heads * h->head_dim,
                       .head_dim = h->head_dim,
                       .intermediate = h->intermediate};
    sp_status status = load_attention(&l, layer);
    if (status == SP_OK) status = load_mlp(&l, layer);
    if (status == SP_OK)
        status = load_vector(&l, ATTENTION_NORM, norm_keys, h->hidden, &layer->attention_norm);
    return status == SP_OK ? load_vector(&l, MLP_NORM, norm_keys, h->hidden, &layer->mlp_norm) : status;
}

/* Whether a name is one that load takes, or a buffer that may be passed over. */
static bool is_known(const sp_model *model, const void *context, const char *name)
{
    static const char *const others[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0) return true;
    if (sp_ends_with(name, "rotary_emb.inv_freq")) return true;
    const char *rest = sp_layer_tensor(name, "model.layers.", model->hparams.n_layers);
    for (part which = 0; rest && which < PARTS; which++)
        if (has_part(context, which) && strcmp(rest, part_names[which]) == 0) return true;
    return false;
}

/* The output matrix and, unless tied, the embedding as it is stored. */
static sp_status load_ends(const sp_loader *l, sp_llama *llama)
{
    const sp_hparams *h = &l->model->hparams;
    static const char *const keys = "vocab_size and hidden_size";
    const char *embedding = "model.embed_tokens.weight";
    sp_status status = sp_loader_vector(l, "model.norm.weight", "hidden_size", h->hidden, &llama->norm);
    if (status == SP_OK)
        status = sp_loader_matrix(l, h->tied ? embedding : "lm_head.weight", keys, h->vocab, h->hidden,
                                  &llama->head);
    if (status != SP_OK || h->tied) return status;
    return sp_loader_table(l, embedding, keys, h->vocab, h->hidden, &llama->embed);
}

sp_status sp_llama_load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                        sp_error *error)
{
    const sp_llama_family *family = model->arch->family;
    const sp_hparams *h = &model->hparams;
    const sp_loader l = {.model = model,
                         .weights = weights,
                         .options = options,
                         .layers_key = "num_hidden_layers",
                         .error = error};
    sp_llama *llama = model->state = sp_alloc_zero(1, sizeof *llama);
    if (llama) llama->layers = sp_alloc_zero(h->n_layers, sizeof *llama->layers);
    if (!llama || !llama->layers) return sp_fail(error, SP_NO_MEMORY, "out of memory for layers");
    llama->fused = family->fused;
    sp_status status = sp_loader_check_unknown(&l, "model.layers.", is_known, family);
    if (status == SP_OK) status = load_ends(&l, llama);
    for (uint32_t i = 0; i < h->n_layers && status == SP_OK; i++) {
        if (options->progress)
            options->progress(options->progress_context, (double)(i + 1) / (h->n_layers + 1));
        status = load_layer(&l, family, i, &llama->layers[i]);
    }
    return status;
}

size_t sp_llama_modules(const sp_model *model, struct sp_adapter_module *out)
{
    const sp_hparams *h = &model->hparams;
    size_t wide = (size_t)h->n_heads * h->head_dim, narrow = (size_t)h->n_kv_heads * h->head_dim, n = 0;
    size_t hidden = h->hidden, inner = h->intermediate;
    if (((const sp_llama *)model->state)->fused) {
        out[n++] =
            (struct sp_adapter_module){"self_attn.qkv_proj", hidden, SP_LLAMA_Q, 3, {wide, narrow, narrow}};
        out[n++] = (struct sp_adapter_module){"mlp.gate_up_proj", hidden, SP_LLAMA_GATE, 2, {inner, inner}};
    } else {
        out[n++] = (struct sp_adapter_module){"self_attn.q_proj", hidden, SP_LLAMA_Q, 1, {wide}};
        out[n++] = (struct sp_adapter_module){"self_attn.k_proj", hidden, SP_LLAMA_K, 1, {narrow}};
        out[n++] = (struct sp_adapter_module){"self_attn.v_proj", hidden, SP_LLAMA_V, 1, {narrow}};
        out[n++] = (struct sp_adapter_module){"mlp.gate_proj", hidden, SP_LLAMA_GATE, 1, {inner}};
        out[n++] = (struct sp_adapter_module){"mlp.up_proj", hidden, SP_LLAMA_UP, 1, {inner}};
    }
    out[n++] = (struct sp_adapter_module){"self_attn.o_proj", wide, SP_LLAMA_O, 1, {hidden}};
    out[n++] = (struct sp_adapter_module){"mlp.down_proj", inner, SP_LLAMA_DOWN, 1, {hidden}};
    return n;
}

void sp_llama_unload(sp_model *model)
{
    sp_llama *llama = model->state;
    if (!llama) return;
    for (uint32_t i = 0; llama->layers && i < model->hparams.n_layers; i++) {
        sp_llama_layer *layer = &llama->layers[i];
        sp_matrix *matrices[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                 &layer->gate, &layer->up, &layer->down};
        float *vectors[] = {layer->attention_norm, layer->mlp_norm, layer->q_bias, layer->k_bias,
                            layer->v_bias,         layer->q_norm,   layer->k_norm};
        for (size_t k = 0; k < sizeof matrices / sizeof *matrices; k++) sp_matrix_fini(matrices[k]);
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++) sp_free(vectors[k]);
    }
    sp_matrix_fini(&llama->head);
    sp_free(llama->layers);
    sp_free(llama->norm);
    sp_free(llama->embed.rows);
    sp_free(llama);
    model->state = NULL;
}

/* --- the plain one --- */

static const sp_llama_family family = {.epsilon = 1e-6};

const sp_arch sp_arch_llama = SP_LLAMA_ARCH("llama", &family);
