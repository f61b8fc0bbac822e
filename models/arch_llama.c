/* The llama architecture (Touvron et al. 2023; LlamaForCausalLM): config.json and weights.
 *
 * A layer: x += o(attend(rope(q(n)), rope(k(n)), v(n))) with n = rms_norm(x), then x += down(silu(gate(m)) *
 * up(m)) with m = rms_norm(x). Queries may share KV heads (grouped queries). head_dim is hidden / heads
 * unless its key is there. Whatever changes the result and is not built is refused by its key or tensor.
 * Weights are packed by the device; sp_model owns them. The forward pass is in llama_forward.c. Tests:
 * tests/unit/models/test_model.c, tests/golden/test_models.c */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/llama.h"

#define MAX_CONTEXT ((int64_t)1 << 30)

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
    int64_t context = 0;
    sp_status status = read_size(model, "vocab_size", NULL, (int64_t)1 << 21, &h->vocab, error);
    if (status == SP_OK) status = read_size(model, "hidden_size", NULL, 1 << 16, &h->hidden, error);
    if (status == SP_OK)
        status = read_size(model, "intermediate_size", NULL, 1 << 20, &h->intermediate, error);
    if (status == SP_OK) status = read_size(model, "num_hidden_layers", NULL, 1024, &h->n_layers, error);
    if (status == SP_OK) status = read_size(model, "num_attention_heads", NULL, 1024, &h->n_heads, error);
    int64_t n_heads = h->n_heads;
    if (status == SP_OK)
        status = read_size(model, "num_key_value_heads", &n_heads, 1024, &h->n_kv_heads, error);
    if (status == SP_OK)
        status = sp_config_int(model->config, "max_position_embeddings", NULL, 1, INT64_MAX, &context, error);
    h->context = (uint32_t)(context < MAX_CONTEXT ? context : MAX_CONTEXT);
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
    sp_status status = read_size(model, "head_dim", &quotient, 1024, &h->head_dim, error);
    if (status != SP_OK) return status;
    if (h->head_dim == 0 || h->head_dim % 2 != 0 || h->head_dim > 1024)
        return sp_fail_param(error, SP_DATA, "head_dim",
                             "config.json: head_dim %u must be even and at most 1024", (unsigned)h->head_dim);
    return SP_OK;
}

/* rope_theta, and the refusal of every scaling: rope_scaling (older files) or rope_parameters (newer ones).
 */
static sp_status read_rope(sp_model *model, sp_error *error)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    static const double plain_theta = 10000.0;
    double one = 1.0, factor;
    sp_status status = sp_config_double(model->config, "rope_theta", &plain_theta, 1.0, 1e15,
                                        &model->hparams.rope_theta, error);
    if (status == SP_OK)
        status = sp_config_double(model->config, "partial_rotary_factor", &one, 1.0, 1.0, &factor, error);
    for (size_t i = 0; i < 2 && status == SP_OK; i++) {
        if (!sp_config_has(model->config, keys[i])) continue;
        const sp_config *rope = sp_config_object(model->config, keys[i]);
        if (!rope)
            return sp_fail_param(error, SP_DATA, keys[i], "config.json: %s must be an object", keys[i]);
        const char *type = sp_config_text(rope, "rope_type");
        if (!type) type = sp_config_text(rope, "type");
        if (!type && sp_config_has(rope, "factor")) type = "(none)";
        if (type && strcmp(type, "default") != 0)
            return sp_fail_param(error, SP_DATA, keys[i], "config.json: %s of type '%.60s' is not supported",
                                 keys[i], type);
        double outer = model->hparams.rope_theta;
        status = sp_config_double(rope, "rope_theta", &outer, 1.0, 1e15, &model->hparams.rope_theta, error);
    }
    return status;
}

/* Keys that would change the result. */
static sp_status refuse_keys(const sp_model *model, sp_error *error)
{
    static const char *const absent[] = {"num_experts",         "num_local_experts",   "n_routed_experts",
                                         "num_experts_per_tok", "quantization_config", "compression_config",
                                         "kv_lora_rank",        "layer_types"};
    static const char *const off[] = {"attention_bias", "mlp_bias", "is_encoder_decoder",
                                      "add_cross_attention", "use_qk_norm"};
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
    const char *act = sp_config_text(config, "hidden_act");
    if (sp_config_has(config, "hidden_act") && (!act || strcmp(act, "silu") != 0))
        return sp_fail_param(error, SP_DATA, "hidden_act", "config.json: hidden_act '%.60s' is not supported",
                             act ? act : "?");
    bool used;
    int64_t window, none = 0;
    sp_status status = sp_config_bool(config, "use_sliding_window", true, &used, error);
    if (status == SP_OK)
        status = sp_config_int(config, "sliding_window", &none, 0, INT64_MAX, &window, error);
    if (status == SP_OK && used && window > 0 && window < model->hparams.context)
        return sp_fail_param(error, SP_DATA, "sliding_window",
                             "config.json: sliding_window %lld is shorter than the context and not supported",
                             (long long)window);
    return status;
}

static sp_status configure(sp_model *model, sp_error *error)
{
    sp_hparams *h = &model->hparams;
    double eps, usual = 1e-6;
    sp_status status = read_sizes(model, error);
    if (status == SP_OK) status = read_heads(model, error);
    if (status == SP_OK) status = read_rope(model, error);
    if (status == SP_OK)
        status = sp_config_double(model->config, "rms_norm_eps", &usual, 1e-30, 1.0, &eps, error);
    if (status == SP_OK)
        status = sp_config_bool(model->config, "tie_word_embeddings", false, &h->tied, error);
    if (status == SP_OK) status = refuse_keys(model, error);
    if (status == SP_OK) h->norm_eps = (float)eps;
    return status;
}

/* --- weights --- */

typedef struct loading {
    sp_model *model;
    const sp_weights *weights;
    bool round_rows;
    sp_error *error;
} loading;

/* A file to name where a tensor lies in none. */
static const char *any_file(const sp_weights *weights)
{
    return sp_weights_count(weights) ? sp_weights_file(weights, sp_weights_name(weights, 0))
                                     : "model.safetensors";
}

static sp_status fail_shape(const loading *l, const char *name, const char *keys, const sp_tensor *found,
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

/* Takes a tensor of the shape that these keys of config.json ask for. */
static sp_status take(const loading *l, const char *name, const char *keys, uint32_t rank, size_t rows,
                      size_t columns, sp_tensor *out)
{
    const size_t shape[2] = {rows, columns};
    char wanted[64];
    snprintf(wanted, sizeof wanted, rank == 2 ? "%zu, %zu" : "%zu", rows, columns);
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

static sp_status take_matrix(const loading *l, const char *name, const char *keys, size_t rows,
                             size_t columns, sp_matrix *out)
{
    sp_tensor tensor;
    sp_status status = take(l, name, keys, 2, rows, columns, &tensor);
    if (status != SP_OK) return status;
    sp_device *device = l->model->device;
    status = device->ops->pack(device, &tensor, l->round_rows, out, l->error);
    l->model->weight_bytes += status == SP_OK ? out->bytes : 0;
    return status;
}

static sp_status take_norm(const loading *l, const char *name, const char *keys, float **out)
{
    sp_tensor tensor;
    size_t n = l->model->hparams.hidden;
    sp_status status = take(l, name, keys, 1, n, 0, &tensor);
    if (status != SP_OK) return status;
    *out = sp_alloc(n, sizeof **out);
    if (!*out) return sp_fail(l->error, SP_NO_MEMORY, "out of memory for tensor '%s'", name);
    sp_convert_to_f32(tensor.dtype, tensor.data, *out, n);
    l->model->weight_bytes += n * sizeof **out;
    return SP_OK;
}

/* The tensors of a layer, behind "model.layers.N.". */
enum { Q, K, V, O, GATE, UP, DOWN, ATTENTION_NORM, MLP_NORM, LAYER_TENSORS };
static const char *const layer_tensors[LAYER_TENSORS] = {
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
    "mlp.down_proj.weight",    "input_layernorm.weight",  "post_attention_layernorm.weight"};

static sp_status load_layer(const loading *l, uint32_t index, sp_llama_layer *layer)
{
    const sp_hparams *h = &l->model->hparams;
    size_t hidden = h->hidden, wide = (size_t)h->n_heads * h->head_dim,
           narrow = (size_t)h->n_kv_heads * h->head_dim;
    static const char *const q_keys = "num_hidden_layers, num_attention_heads, head_dim and hidden_size",
                             *const kv_keys =
                                 "num_hidden_layers, num_key_value_heads, head_dim and hidden_size",
                             *const norm_keys = "num_hidden_layers and hidden_size",
                             *const mlp_keys = "num_hidden_layers, intermediate_size and hidden_size";
    const struct {
        int tensor;
        const char *keys;
        size_t rows, columns;
        sp_matrix *out;
    } matrices[] = {{Q, q_keys, wide, hidden, &layer->q},
                    {K, kv_keys, narrow, hidden, &layer->k},
                    {V, kv_keys, narrow, hidden, &layer->v},
                    {O, q_keys, hidden, wide, &layer->o},
                    {GATE, mlp_keys, h->intermediate, hidden, &layer->gate},
                    {UP, mlp_keys, h->intermediate, hidden, &layer->up},
                    {DOWN, mlp_keys, hidden, h->intermediate, &layer->down}};
    char name[128];
    sp_status status = SP_OK;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices && status == SP_OK; i++) {
        snprintf(name, sizeof name, "model.layers.%u.%s", (unsigned)index, layer_tensors[matrices[i].tensor]);
        status =
            take_matrix(l, name, matrices[i].keys, matrices[i].rows, matrices[i].columns, matrices[i].out);
    }
    if (status != SP_OK) return status;
    snprintf(name, sizeof name, "model.layers.%u.%s", (unsigned)index, layer_tensors[ATTENTION_NORM]);
    status = take_norm(l, name, norm_keys, &layer->attention_norm);
    if (status != SP_OK) return status;
    snprintf(name, sizeof name, "model.layers.%u.%s", (unsigned)index, layer_tensors[MLP_NORM]);
    return take_norm(l, name, norm_keys, &layer->mlp_norm);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Whether a name is one that load takes, or a buffer that may be passed over. */
static bool is_known(const sp_model *model, const char *name)
{
    static const char *const others[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0) return true;
    if (ends_with(name, "rotary_emb.inv_freq")) return true;
    if (strncmp(name, "model.layers.", 13) != 0) return false;
    char *rest;
    unsigned long layer = strtoul(name + 13, &rest, 10);
    if (layer >= model->hparams.n_layers || *rest != '.') return false;
    for (size_t i = 0; i < LAYER_TENSORS; i++)
        if (strcmp(rest + 1, layer_tensors[i]) == 0) return true;
    return false;
}

/* Weights inside a layer that we don't know would change the result; other tensors get one note. */
static sp_status check_unknown(const loading *l)
{
    size_t extra = 0;
    const char *first = "";
    for (size_t i = 0; i < sp_weights_count(l->weights); i++) {
        const char *name = sp_weights_name(l->weights, i);
        if (is_known(l->model, name)) continue;
        if (strncmp(name, "model.layers.", 13) == 0 &&
            (ends_with(name, ".weight") || ends_with(name, ".bias")))
            return sp_fail_param(
                l->error, SP_DATA, name,
                "%s: tensor '%.100s' belongs to no layer of a llama with num_hidden_layers %u",
                sp_weights_file(l->weights, name), name, (unsigned)l->model->hparams.n_layers);
        if (extra++ == 0) first = name;
    }
    if (extra)
        sp_log(SP_LOG_INFO, "%s: %zu unknown tensors are ignored, the first is '%.100s'", l->model->name,
               extra, first);
    return SP_OK;
}

/* The output matrix and, unless tied, the embedding as it is stored. */
static sp_status load_ends(const loading *l, sp_llama *llama)
{
    const sp_hparams *h = &l->model->hparams;
    static const char *const keys = "vocab_size and hidden_size";
    const char *embedding = "model.embed_tokens.weight";
    sp_status status = take_norm(l, "model.norm.weight", "hidden_size", &llama->norm);
    if (status == SP_OK)
        status =
            take_matrix(l, h->tied ? embedding : "lm_head.weight", keys, h->vocab, h->hidden, &llama->head);
    if (status != SP_OK || h->tied) return status;
    sp_tensor tensor;
    status = take(l, embedding, keys, 2, h->vocab, h->hidden, &tensor);
    if (status != SP_OK) return status;
    llama->embed_type = tensor.dtype;
    llama->embed = sp_alloc(tensor.bytes, 1);
    if (!llama->embed) return sp_fail(l->error, SP_NO_MEMORY, "out of memory for tensor '%s'", embedding);
    memcpy(llama->embed, tensor.data, tensor.bytes);
    l->model->weight_bytes += tensor.bytes;
    return SP_OK;
}

static sp_status load(sp_model *model, const sp_weights *weights, const sp_model_options *options,
                      sp_error *error)
{
    const sp_hparams *h = &model->hparams;
    loading l = {.model = model, .weights = weights, .round_rows = !options->exact, .error = error};
    sp_llama *llama = model->state = sp_alloc_zero(1, sizeof *llama);
    if (llama) llama->layers = sp_alloc_zero(h->n_layers, sizeof *llama->layers);
    if (llama) llama->frequencies = sp_alloc(h->head_dim / 2, sizeof *llama->frequencies);
    if (!llama || !llama->layers || !llama->frequencies)
        return sp_fail(error, SP_NO_MEMORY, "out of memory for layers");
    for (uint32_t i = 0; i < h->head_dim / 2; i++)
        llama->frequencies[i] = pow(h->rope_theta, -2.0 * i / h->head_dim);
    sp_status status = check_unknown(&l);
    if (status == SP_OK) status = load_ends(&l, llama);
    for (uint32_t i = 0; i < h->n_layers && status == SP_OK; i++) {
        if (options->progress)
            options->progress(options->progress_context, (double)(i + 1) / (h->n_layers + 1));
        status = load_layer(&l, i, &llama->layers[i]);
    }
    return status;
}

static void unload(sp_model *model)
{
    sp_llama *llama = model->state;
    if (!llama) return;
    for (uint32_t i = 0; llama->layers && i < model->hparams.n_layers; i++) {
        sp_llama_layer *layer = &llama->layers[i];
        sp_matrix *matrices[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                 &layer->gate, &layer->up, &layer->down};
        for (size_t k = 0; k < sizeof matrices / sizeof *matrices; k++) sp_matrix_fini(matrices[k]);
        sp_free(layer->attention_norm);
        sp_free(layer->mlp_norm);
    }
    sp_matrix_fini(&llama->head);
    sp_free(llama->layers);
    sp_free(llama->norm);
    sp_free(llama->embed);
    sp_free(llama->frequencies);
    sp_free(llama);
    model->state = NULL;
}

static const char *const model_types[] = {"llama", NULL};

const sp_arch sp_arch_llama = {.name = "llama",
                               .model_types = model_types,
                               .configure = configure,
                               .load = load,
                               .unload = unload,
                               .scratch = sp_llama_scratch,
                               .forward = sp_llama_forward};
