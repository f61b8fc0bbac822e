/* See fingerprint.h. */
#include "models/fingerprint.h"

#include <stdio.h>

#include "models/gguf_parts.h"

/* Whichever of them a file has, in this order. */
static const char *const hugging_names[] = {
    "model.layers.%u.self_attn.q_proj.weight",
    "model.layers.%u.self_attn.k_proj.weight",
    "model.layers.%u.self_attn.qkv_proj.weight",
    "transformer.h.%u.attn.c_attn.weight",
    "h.%u.attn.c_attn.weight",
};
static const char *const gguf_names[] = {"blk.%u.attn_q.weight", "blk.%u.attn_k.weight",
                                         "blk.%u.attn_qkv.weight"};
static const char *const adapter_names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.qkv_proj",
                                            "attn.c_attn"};

#define N(names) (sizeof(names) / sizeof *(names))

/* formats are those above, each with one %u. */
static void name_layer(const char *format, uint32_t layer, char *out, size_t size)
{
    const char *mark = strstr(format, "%u");
    snprintf(out, size, "%.*s%u%s", (int)(mark - format), format, (unsigned)layer, mark + 2);
}

static sp_status add_gguf(sp_sha256_state *state, const sp_gguf *gguf, uint32_t n_layers, sp_error *error)
{
    char name[128];
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (size_t i = 0; i < N(gguf_names); i++) {
            name_layer(gguf_names[i], layer, name, sizeof name);
            const sp_gguf_tensor *found = sp_gguf_tensor_find(gguf, name);
            if (!found || found->tensor.bytes == 0) continue;
            void *bytes = sp_alloc(found->tensor.bytes, 1);
            if (!bytes) return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", sp_gguf_name(gguf));
            sp_status status = sp_gguf_read(gguf, found->offset, bytes, found->tensor.bytes, error);
            if (status == SP_OK) sp_sha256_add(state, bytes, found->tensor.bytes);
            sp_free(bytes);
            if (status != SP_OK) return status;
        }
    return SP_OK;
}

sp_status sp_fingerprint_weights(sp_sha256_state *state, const sp_weights *weights, const sp_gguf *gguf,
                                 uint32_t n_layers, sp_error *error)
{
    char name[128];
    if (gguf) return add_gguf(state, gguf, n_layers, error);
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (size_t i = 0; i < N(hugging_names); i++) {
            name_layer(hugging_names[i], layer, name, sizeof name);
            const sp_tensor *found = sp_weights_find(weights, name);
            if (found) sp_sha256_add(state, found->data, found->bytes);
        }
    return SP_OK;
}

void sp_fingerprint_adapter(sp_sha256_state *state, const sp_weights *weights, uint32_t n_layers)
{
    char name[160];
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (size_t i = 0; i < N(adapter_names); i++)
            for (const char *part = "AB"; *part; part++) {
                snprintf(name, sizeof name, "base_model.model.model.layers.%u.%s.lora_%c.weight",
                         (unsigned)layer, adapter_names[i], *part);
                const sp_tensor *found = sp_weights_find(weights, name);
                if (found) sp_sha256_add(state, found->data, found->bytes);
            }
}
