/* GET /v1/models and /v1/models/{id}: the loaded model, then its adapters. Tests:
 * tests/http/test_completions.py, test_tokenize.py */
#include <string.h>

#include "server/routes.h"

static void write_meta(const sp_engine_info *info, sp_json_writer *out)
{
    sp_json_key(out, "meta");
    sp_json_open(out, '{');
    sp_json_key(out, "n_vocab");
    sp_json_uint(out, info->hparams.vocab);
    sp_json_key(out, "n_ctx_train");
    sp_json_uint(out, info->hparams.context);
    sp_json_key(out, "n_embd");
    sp_json_uint(out, info->hparams.hidden);
    sp_json_key(out, "n_layers");
    sp_json_uint(out, info->hparams.n_layers);
    sp_json_key(out, "n_heads");
    sp_json_uint(out, info->hparams.n_heads);
    sp_json_key(out, "n_params");
    sp_json_uint(out, info->n_params);
    sp_json_key(out, "size");
    sp_json_uint(out, info->weight_bytes);
    sp_json_close(out, '}');
}

/* Which backends predict by a fit, and the fit that requests of this model get: its sets by name. */
static void write_fit(const sp_engine_info *info, size_t index, sp_json_writer *out)
{
    const sp_fit *fit = info->fits ? info->fits[index] : NULL;
    sp_json_key(out, "attention_needs_fit");
    sp_json_open(out, '[');
    for (size_t i = 0; sp_backends[i]; i++)
        if (sp_backends[i]->caps & SP_CAP_NEEDS_FIT) sp_json_cstring(out, sp_backends[i]->name);
    sp_json_close(out, ']');
    sp_json_key(out, "attention_fit");
    if (!fit) {
        sp_json_null(out);
        return;
    }
    sp_json_open(out, '{');
    sp_json_key(out, "length");
    if (fit->length)
        sp_json_uint(out, fit->length);
    else
        sp_json_null(out);
    sp_json_key(out, "rope");
    sp_json_cstring(out, fit->rope_pre ? "pre" : "post");
    sp_json_key(out, "sets");
    sp_json_open(out, '[');
    for (size_t i = 0; i < fit->layers[0].n_sets; i++) {
        char name[32];
        sp_fit_set_label(&fit->layers[0].sets[i], name);
        sp_json_cstring(out, name);
    }
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}

/* index: 0 the model, then its adapters. */
static void write_model(const sp_engine_info *info, size_t index, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, info->model_ids[index]);
    sp_json_key(out, "object");
    sp_json_cstring(out, "model");
    sp_json_key(out, "created");
    sp_json_int(out, info->created);
    sp_json_key(out, "owned_by");
    sp_json_cstring(out, "sparsed");
    sp_json_key(out, "root");
    sp_json_cstring(out, info->model_name);
    sp_json_key(out, "parent");
    if (index > 0)
        sp_json_cstring(out, info->model_name);
    else
        sp_json_null(out);
    sp_json_key(out, "max_model_len");
    sp_json_uint(out, info->context);
    write_meta(info, out);
    sp_json_key(out, "attention_backends");
    sp_json_open(out, '[');
    for (size_t i = 0; sp_backends[i]; i++) {
        if (sp_backends[i]->caps & SP_CAP_STREAMING) sp_json_cstring(out, sp_backends[i]->name);
    }
    sp_json_close(out, ']');
    write_fit(info, index, out);
    sp_json_key(out, "tasks");
    sp_json_open(out, '[');
    sp_json_cstring(out, "generate");
    if (info->chat->family != SP_CHAT_NONE) sp_json_cstring(out, "chat");
    sp_json_cstring(out, "score");
    sp_json_cstring(out, "embed");
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}

void sp_api_models(sp_exchange *exchange)
{
    sp_json_writer writer;
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_exchange_json(exchange, 200, &writer);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "object");
    sp_json_cstring(&writer, "list");
    sp_json_key(&writer, "data");
    sp_json_open(&writer, '[');
    const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
    for (size_t i = 0; i <= info->n_adapters; i++) write_model(info, i, &writer);
    sp_json_close(&writer, ']');
    sp_json_close(&writer, '}');
}

void sp_api_model(sp_exchange *exchange)
{
    sp_json_writer writer;
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    const sp_engine_info *info = sp_engine_get_info(sp_exchange_engine(exchange));
    const char *name = sp_exchange_rest(exchange);
    uint32_t index = 0;
    if (sp_engine_find_model(info, name, strlen(name), &index, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_exchange_json(exchange, 200, &writer);
    write_model(info, index, &writer);
}
