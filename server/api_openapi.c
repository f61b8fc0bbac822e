/* GET /openapi.json: the interface as an OpenAPI 3.1 document, made at build by make_openapi.py. Bounds that
 * the loaded model decides ("$CONTEXT" and its like) are filled in here. Tests: tests/http/test_openapi.py */
#include <string.h>

#include "engine/attention/attention.h"
#include "server/openapi_text.h"
#include "server/routes.h"

static void write_names(const sp_engine_info *info, sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (size_t i = 0; i <= info->n_adapters; i++) sp_json_cstring(out, info->model_ids[i]);
    sp_json_close(out, ']');
}

static void write_backends(sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (size_t i = 0; sp_backends[i]; i++) sp_json_cstring(out, sp_backends[i]->name);
    sp_json_close(out, ']');
}

/* What stands for the name between the quotes. */
static void write_value(const sp_engine_info *info, const char *name, size_t size, sp_buffer *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"$CONTEXT", info->context},
                   {"$VOCAB", info->hparams.vocab},
                   {"$VOCAB_LAST", info->hparams.vocab - 1},
                   {"$HIDDEN", info->hparams.hidden}};
    sp_json_writer writer;
    sp_json_writer_init(&writer, out);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strlen(numbers[i].name) != size || strncmp(numbers[i].name, name, size) != 0) continue;
        sp_json_uint(&writer, numbers[i].value);
        return;
    }
    if (strncmp(name, "$MODELS", size) == 0)
        write_names(info, &writer);
    else if (strncmp(name, "$BACKENDS", size) == 0)
        write_backends(&writer);
    else
        sp_json_cstring(&writer, SPARSED_VERSION);
}

void sp_api_openapi(sp_exchange *exchange)
{
    sp_engine *engine = sp_exchange_engine(exchange);
    sp_error error;
    if (sp_exchange_admit(exchange, &error)) {
        sp_exchange_fail(exchange, &error);
        return;
    }
    sp_json_writer unused;
    sp_exchange_json(exchange, 200, &unused);
    sp_buffer *out = &sp_exchange_reply(exchange)->body;
    /* A value begins behind its quote with $ and upper case; "$ref" is a key of the document. */
    for (const char *at = openapi_text;;) {
        const char *mark = strstr(at, "\"$");
        while (mark && mark[2] == 'r') mark = strstr(mark + 2, "\"$");
        if (!mark) {
            sp_buffer_text(out, at);
            return;
        }
        size_t size = strcspn(mark + 1, "\"");
        sp_buffer_append(out, at, (size_t)(mark - at));
        write_value(sp_engine_get_info(engine), mark + 1, size, out);
        at = mark + 1 + size + 1;
    }
}
