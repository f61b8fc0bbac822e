/* `sparsed tokenize`: texts to token ids and back, without weights.
 *
 * Standard input holds a JSON array of texts (with --decode: of arrays of ids), standard output gets
 * [{"ids", "tokens", "offsets"}] (of texts). Special tokens written in a text are recognised, nothing is
 * added; --plain reads them as ordinary characters, --special adds what the post-processor adds (BOS, EOS).
 * Decoding keeps special tokens, with --plain it drops them. Tokens are spelled as the model's file spells
 * them; offsets are byte ranges of the text. Tests: tests/golden/test_tokenize.py */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/json.h"
#include "server/command.h"

#define INPUT_MAX_BYTES ((size_t)256 << 20)
#define TOKENIZER_MAX_BYTES ((size_t)64 << 20)

typedef struct tokenize_run {
    const sp_options *options;
    sp_tokenizer *tokenizer;
    sp_tokens tokens; /* of the text at hand */
    sp_arena arena;   /* texts */
    sp_json in;
    sp_buffer out;
    sp_json_writer json;
} tokenize_run;

static sp_status open_file(const char *path, sp_tokenizer **out, sp_error *error)
{
    char *text;
    size_t size;
    sp_status status = sp_read_file(path, TOKENIZER_MAX_BYTES, &text, &size, error);
    if (status) return status;
    status = sp_tokenizer_parse(path, text, size, NULL, 0, out, error);
    sp_free(text);
    return status;
}

static sp_status open_gguf(const char *path, sp_tokenizer **out, sp_error *error)
{
    sp_gguf *gguf;
    sp_status status = sp_gguf_open(path, &gguf, error);
    if (status) return status;
    status = sp_tokenizer_from_gguf(gguf, out, error);
    sp_gguf_close(gguf);
    return status;
}

/* A model's folder, or a file: GGUF or tokenizer.json. */
static sp_status open_tokenizer(const char *path, sp_tokenizer **out, sp_error *error)
{
    struct stat info;
    bool file = stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
    if (file) return sp_gguf_is_file(path) ? open_gguf(path, out, error) : open_file(path, out, error);
    return sp_tokenizer_open(path, out, error);
}

static sp_status bad_input(const tokenize_run *run, size_t index, sp_error *error)
{
    return sp_fail(error, SP_DATA, "standard input: item %zu is no %s", index,
                   run->options->decode ? "array of token ids of this tokenizer" : "string");
}

static void write_tokens(tokenize_run *run)
{
    sp_json_writer *out = &run->json;
    const sp_tokens *tokens = &run->tokens;
    sp_json_open(out, '{');
    sp_json_key(out, "ids");
    sp_json_open(out, '[');
    for (size_t i = 0; i < tokens->count; i++) sp_json_int(out, tokens->data[i].id);
    sp_json_close(out, ']');
    sp_json_key(out, "tokens");
    sp_json_open(out, '[');
    for (size_t i = 0; i < tokens->count; i++)
        sp_json_cstring(out, sp_tokenizer_piece(run->tokenizer, tokens->data[i].id));
    sp_json_close(out, ']');
    sp_json_key(out, "offsets");
    sp_json_open(out, '[');
    for (size_t i = 0; i < tokens->count; i++) {
        sp_json_open(out, '[');
        sp_json_uint(out, tokens->data[i].begin);
        sp_json_uint(out, tokens->data[i].end);
        sp_json_close(out, ']');
    }
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}

/* The string that the reader stands on. */
static sp_status encode(tokenize_run *run, size_t index, sp_json_type type, sp_error *error)
{
    size_t size;
    if (type != SP_JSON_STRING) return bad_input(run, index, error);
    const char *text = sp_json_text(&run->in, &run->arena, &size);
    if (!text) return sp_fail(error, SP_NO_MEMORY, "standard input: item %zu is too long", index);
    unsigned flags = run->options->plain ? 0 : SP_ENCODE_SPECIAL;
    if (run->options->special) flags |= SP_ENCODE_ADD;
    sp_error why = {0};
    sp_status status = sp_tokenizer_encode(run->tokenizer, text, size, flags, &run->tokens, &why);
    if (status)
        return sp_fail(error, status == SP_INVALID ? SP_DATA : status, "standard input: item %zu: %s", index,
                       why.message);
    write_tokens(run);
    return SP_OK;
}

/* The array that the reader has entered. */
static sp_status decode(tokenize_run *run, size_t index, sp_json_type type, sp_error *error)
{
    sp_decoder decoder;
    sp_buffer text;
    sp_status status = SP_OK;
    if (type != SP_JSON_ARRAY) return bad_input(run, index, error);
    sp_buffer_init(&text, SIZE_MAX / 2);
    sp_decoder_init(&decoder, run->tokenizer, run->options->plain);
    while (!status && (type = sp_json_next(&run->in)) != SP_JSON_ARRAY_END) {
        int64_t id = -1;
        bool integer = type == SP_JSON_NUMBER && sp_json_int64(&run->in, &id);
        if (!integer || id < 0 || id >= sp_tokenizer_size(run->tokenizer))
            status = bad_input(run, index, error);
        else
            sp_decoder_push(&decoder, (int32_t)id, &text);
    }
    sp_decoder_finish(&decoder, &text);
    if (!status && text.failed) status = sp_fail(error, SP_NO_MEMORY, "no memory for a text");
    if (!status) sp_json_string(&run->json, text.data ? text.data : "", text.size);
    sp_buffer_fini(&text);
    return status;
}

static sp_status convert(tokenize_run *run, const char *text, size_t size, sp_error *error)
{
    sp_error why = {0};
    sp_status valid = sp_json_validate(text, size, &why);
    if (valid)
        return sp_fail(error, valid == SP_NO_MEMORY ? SP_NO_MEMORY : SP_DATA, "standard input: %s",
                       why.message);
    sp_json_init(&run->in, text, size);
    if (sp_json_next(&run->in) != SP_JSON_ARRAY)
        return sp_fail(error, SP_DATA, "standard input: must hold one JSON array");
    sp_json_open(&run->json, '[');
    sp_status status = SP_OK;
    sp_json_type type;
    for (size_t i = 0; !status && (type = sp_json_next(&run->in)) != SP_JSON_ARRAY_END; i++)
        status = run->options->decode ? decode(run, i, type, error) : encode(run, i, type, error);
    sp_json_close(&run->json, ']');
    sp_buffer_text(&run->out, "\n");
    return status;
}

static sp_status read_input(sp_buffer *text, sp_error *error)
{
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, stdin)) > 0;) sp_buffer_append(text, block, n);
    if (ferror(stdin)) return sp_fail(error, SP_IO, "cannot read standard input");
    if (sp_buffer_check(text, error)) return error->status;
    if (text->failed)
        return sp_fail(error, SP_DATA, "standard input: longer than %zu bytes", INPUT_MAX_BYTES);
    return SP_OK;
}

int sp_command_tokenize(const sp_options *options)
{
    sp_error error = {0};
    tokenize_run run = {.options = options};
    sp_buffer text;
    sp_arena_init(&run.arena, 2 * INPUT_MAX_BYTES);
    sp_buffer_init(&text, INPUT_MAX_BYTES);
    sp_buffer_init(&run.out, SIZE_MAX / 2);
    sp_json_writer_init(&run.json, &run.out);
    sp_status status = open_tokenizer(options->model, &run.tokenizer, &error);
    if (!status) status = read_input(&text, &error);
    if (!status) status = convert(&run, text.data ? text.data : "", text.size, &error);
    if (!status) status = sp_command_print(&run.out, &error);
    int code = status ? sp_command_fail(&error) : SP_EXIT_OK;
    sp_tokenizer_close(run.tokenizer);
    sp_tokens_fini(&run.tokens);
    sp_arena_fini(&run.arena);
    sp_buffer_fini(&run.out);
    sp_buffer_fini(&text);
    return code;
}
