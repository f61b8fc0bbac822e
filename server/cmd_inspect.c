/* `sparsed inspect`: what a model is, what memory it takes, and whether it can be served.
 *
 * The list of tensors comes from the files alone, so that it is there for a model that is refused too; a GGUF
 * file's tensors keep the names and types of the file. Then the model is opened as serving opens it: all that
 * follows from that, sizes, memory, tokenizer and attention, is printed when it succeeds, else the refusal,
 * and the exit code is that of the refusal (65 for a model that is broken or not supported). Owner: the
 * subject holds whichever of gguf, weights and model could be opened. Tests: tests/http/test_inspect.py */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/kv.h"
#include "kernels/json.h"
#include "server/command.h"

typedef struct subject {
    const sp_options *options;
    sp_device *device;
    sp_gguf *gguf;       /* or NULL */
    sp_weights *weights; /* or NULL */
    sp_model *model;     /* NULL: refused */
    sp_error refusal;
    size_t tensor_bytes;
} subject;

typedef struct tensor_row {
    const char *name, *type;
    const sp_tensor *tensor;
} tensor_row;

/* --- opening --- */

/* What the file holds, if it can be read: opening the model says why not. Only the want of memory is an
 * error. */
static sp_status open_tensors(subject *s, sp_error *error)
{
    struct stat info;
    const char *path = s->options->model;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode) && sp_gguf_is_file(path)) {
        sp_status status = sp_gguf_open(path, &s->gguf, error);
        if (status) s->gguf = NULL;
        return status == SP_NO_MEMORY ? status : SP_OK;
    }
    const sp_weights_options mapped = {.use_mmap = true, .allow_nonfinite = true};
    sp_status status = sp_weights_open(path, &mapped, &s->weights, error);
    if (status) s->weights = NULL;
    return status == SP_NO_MEMORY ? status : SP_OK;
}

static size_t count_tensors(const subject *s)
{
    if (s->gguf) return sp_gguf_tensor_count(s->gguf);
    return s->weights ? sp_weights_count(s->weights) : 0;
}

static tensor_row tensor_at(const subject *s, size_t index)
{
    if (s->gguf) {
        const sp_gguf_tensor *tensor = sp_gguf_tensor_at(s->gguf, index);
        return (tensor_row){.name = tensor->name, .type = tensor->type, .tensor = &tensor->tensor};
    }
    const sp_tensor *tensor = sp_weights_at(s->weights, index);
    return (tensor_row){
        .name = sp_weights_name(s->weights, index), .type = sp_dtype_name(tensor->dtype), .tensor = tensor};
}

static sp_status open_subject(const sp_options *options, subject *s, sp_error *error)
{
    sp_engine_options engine;
    sp_progress progress;
    sp_engine_options_init(&engine);
    *s = (subject){.options = options};
    sp_status status = sp_options_engine(options, &engine, error);
    if (!status) status = sp_device_open("cpu", &(sp_device_options){0}, &s->device, error);
    if (!status) status = open_tensors(s, error);
    if (status) return status;
    for (size_t i = 0; i < count_tensors(s); i++) s->tensor_bytes += tensor_at(s, i).tensor->bytes;
    sp_progress_init(&progress, "loading");
    const sp_model_options model = {.weights = engine.weights,
                                    .weights_as = engine.weights_as,
                                    .exact = engine.kv_type == SP_F32,
                                    .progress = sp_progress_show,
                                    .progress_context = &progress};
    if (sp_model_open(options->model, s->device, &model, &s->model, &s->refusal)) s->model = NULL;
    sp_progress_clear(&progress);
    return SP_OK;
}

static void close_subject(subject *s)
{
    sp_model_close(s->model);
    sp_weights_close(s->weights);
    if (s->gguf) sp_gguf_close(s->gguf);
    if (s->device) sp_device_close(s->device);
}

/* Keys and values of one token: a page's bytes by its tokens. */
static size_t kv_token_bytes(const subject *s)
{
    const sp_hparams *h = &s->model->hparams;
    const sp_kv_options kv = {.n_layers = h->n_layers,
                              .n_kv_heads = h->n_kv_heads,
                              .head_dim = h->head_dim,
                              .dtype = strcmp(s->options->kv, "f32") == 0 ? SP_F32 : SP_BF16};
    size_t bytes = 0;
    return sp_kv_page_bytes(&kv, &bytes) ? bytes / SP_PAGE_TOKENS : 0;
}

/* --- JSON --- */

static void write_sizes(const sp_model *model, sp_json_writer *out)
{
    const sp_hparams *h = &model->hparams;
    const struct {
        const char *name;
        uint64_t value;
    } sizes[] = {{"layers", h->n_layers},     {"hidden", h->hidden},     {"heads", h->n_heads},
                 {"kv_heads", h->n_kv_heads}, {"head_dim", h->head_dim}, {"intermediate", h->intermediate},
                 {"vocabulary", h->vocab},    {"context", h->context},   {"parameters", model->n_params}};
    sp_json_key(out, "hyper_parameters");
    sp_json_open(out, '{');
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        sp_json_key(out, sizes[i].name);
        sp_json_uint(out, sizes[i].value);
    }
    sp_json_key(out, "norm_eps");
    sp_json_float(out, h->norm_eps);
    sp_json_key(out, "positions");
    sp_json_cstring(out, model->rope ? "rotary" : "learned");
    sp_json_key(out, "rope_theta");
    if (model->rope)
        sp_json_number(out, model->rope->theta);
    else
        sp_json_null(out);
    sp_json_key(out, "tied");
    sp_json_bool(out, h->tied);
    sp_json_close(out, '}');
}

static void write_memory(const subject *s, sp_json_writer *out)
{
    size_t token = kv_token_bytes(s);
    sp_json_key(out, "memory");
    sp_json_open(out, '{');
    sp_json_key(out, "weight_bytes");
    sp_json_uint(out, s->model->weight_bytes);
    sp_json_key(out, "kv_type");
    sp_json_cstring(out, s->options->kv);
    sp_json_key(out, "kv_bytes_a_token");
    sp_json_uint(out, token);
    sp_json_key(out, "kv_bytes_full_context");
    sp_json_uint(out, (uint64_t)token * s->model->hparams.context);
    sp_json_close(out, '}');
}

static void write_tokenizer(const sp_model *model, sp_json_writer *out)
{
    sp_json_key(out, "tokenizer");
    sp_json_open(out, '{');
    sp_json_key(out, "size");
    sp_json_int(out, sp_tokenizer_size(model->tokenizer));
    sp_json_key(out, "bos");
    sp_json_int(out, model->hparams.bos);
    sp_json_key(out, "adds_bos");
    sp_json_bool(out, sp_tokenizer_adds_bos(model->tokenizer));
    sp_json_key(out, "eos");
    sp_json_open(out, '[');
    for (size_t i = 0; i < model->hparams.n_eos; i++) sp_json_int(out, model->hparams.eos[i]);
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}

static void write_attention(const sp_model *model, sp_json_writer *out)
{
    sp_json_key(out, "normalizer");
    sp_normalizer_write(model->hparams.normalizer, out);
    sp_json_key(out, "attention_pattern");
    if (model->attention_pattern)
        sp_json_raw(out, model->attention_pattern, strlen(model->attention_pattern));
    else
        sp_json_cstring(out, "dense");
}

static void write_tensors(const subject *s, sp_json_writer *out)
{
    sp_json_key(out, "tensors");
    sp_json_open(out, '[');
    for (size_t i = 0; i < count_tensors(s); i++) {
        const tensor_row row = tensor_at(s, i);
        sp_json_open(out, '{');
        sp_json_key(out, "name");
        sp_json_cstring(out, row.name);
        sp_json_key(out, "type");
        sp_json_cstring(out, row.type);
        sp_json_key(out, "shape");
        sp_json_open(out, '[');
        for (uint32_t d = 0; d < row.tensor->rank; d++) sp_json_uint(out, row.tensor->shape[d]);
        sp_json_close(out, ']');
        sp_json_key(out, "bytes");
        sp_json_uint(out, row.tensor->bytes);
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
}

static void write_json(const subject *s, sp_buffer *buffer)
{
    sp_json_writer writer, *out = &writer;
    sp_json_writer_init(out, buffer);
    sp_json_open(out, '{');
    sp_json_key(out, "path");
    sp_json_cstring(out, s->options->model);
    sp_json_key(out, "format");
    sp_json_cstring(out, s->gguf ? "gguf" : s->weights ? "safetensors" : NULL);
    sp_json_key(out, "refused");
    if (s->model) {
        sp_json_null(out);
        sp_json_key(out, "model");
        sp_json_cstring(out, s->model->name);
        sp_json_key(out, "architecture");
        sp_json_cstring(out, s->model->arch->name);
        write_sizes(s->model, out);
        write_memory(s, out);
        write_tokenizer(s->model, out);
        write_attention(s->model, out);
    } else {
        sp_json_open(out, '{');
        sp_json_key(out, "message");
        sp_json_cstring(out, s->refusal.message);
        sp_json_key(out, "param");
        sp_json_cstring(out, s->refusal.param[0] ? s->refusal.param : NULL);
        sp_json_close(out, '}');
    }
    sp_json_key(out, "tensor_bytes");
    sp_json_uint(out, s->tensor_bytes);
    write_tensors(s, out);
    sp_json_close(out, '}');
    sp_buffer_text(buffer, "\n");
}

/* --- text --- */

static void print_attention(const sp_model *model, sp_buffer *out)
{
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_init(&text, 256);
    sp_json_writer_init(&writer, &text);
    sp_normalizer_write(model->hparams.normalizer, &writer);
    sp_buffer_format(out, "attention   trained with %s, normalizer %.*s\n",
                     model->attention_pattern ? model->attention_pattern : "dense", (int)text.size,
                     text.data ? text.data : "");
    sp_buffer_pass(&text, out);
    sp_buffer_fini(&text);
}

static void print_model(const subject *s, sp_buffer *out)
{
    const sp_model *model = s->model;
    const sp_hparams *h = &model->hparams;
    size_t token = kv_token_bytes(s);
    sp_buffer_format(out, "model       %s, architecture %s, %.1f million parameters\n", model->name,
                     model->arch->name, (double)model->n_params * 1e-6);
    sp_buffer_format(
        out,
        "sizes       %u layers, hidden %u, %u heads on %u of %u, intermediate %u, vocabulary %u, "
        "context %u\n",
        h->n_layers, h->hidden, h->n_heads, h->n_kv_heads, h->head_dim, h->intermediate, h->vocab,
        h->context);
    sp_buffer_format(out, "            norm eps %g, %s output matrix, ", (double)h->norm_eps,
                     h->tied ? "the embedding is the" : "separate");
    if (model->rope)
        sp_buffer_format(out, "rotary positions, base %g\n", model->rope->theta);
    else
        sp_buffer_text(out, "learned positions\n");
    print_attention(model, out);
    sp_buffer_format(out, "tokenizer   ids below %d, begin of text %d (%s), end of text",
                     (int)sp_tokenizer_size(model->tokenizer), (int)h->bos,
                     sp_tokenizer_adds_bos(model->tokenizer) ? "added" : "not added");
    for (size_t i = 0; i < h->n_eos; i++) sp_buffer_format(out, " %d", (int)h->eos[i]);
    sp_buffer_format(
        out,
        "\nmemory      weights %.1f MB; keys and values (%s) %zu bytes a token, %.1f MB at the full "
        "context\n",
        (double)model->weight_bytes * 1e-6, s->options->kv, token, (double)token * h->context * 1e-6);
    sp_buffer_text(out, "refused     no: it can be served\n");
}

static void print_text(const subject *s, sp_buffer *out)
{
    sp_buffer_format(out, "path        %s (%s)\n", s->options->model,
                     s->gguf      ? "GGUF"
                     : s->weights ? "safetensors"
                                  : "no readable tensors");
    if (s->model)
        print_model(s, out);
    else
        sp_buffer_format(out, "refused     %s\n", s->refusal.message);
    size_t n = count_tensors(s);
    if (n) sp_buffer_format(out, "tensors     %zu, %.1f MB in the file\n", n, (double)s->tensor_bytes * 1e-6);
    for (size_t i = 0; i < n; i++) {
        const tensor_row row = tensor_at(s, i);
        sp_buffer_format(out, "  %-5s %12zu  %s [", row.type, row.tensor->bytes, row.name);
        for (uint32_t d = 0; d < row.tensor->rank; d++)
            sp_buffer_format(out, "%s%zu", d ? ", " : "", row.tensor->shape[d]);
        sp_buffer_text(out, "]\n");
    }
}

int sp_command_inspect(const sp_options *options)
{
    sp_error error = {0};
    subject s;
    sp_buffer out;
    sp_buffer_init(&out, SIZE_MAX / 2);
    sp_status status = open_subject(options, &s, &error);
    if (!status) {
        if (options->json)
            write_json(&s, &out);
        else
            print_text(&s, &out);
        status = sp_command_print(&out, &error);
    }
    int code = status ? sp_command_fail(&error) : SP_EXIT_OK;
    if (!status && !s.model) code = sp_command_fail(&s.refusal);
    sp_buffer_fini(&out);
    close_subject(&s);
    return code;
}
