/* See fit_text.h. */
#include "engine/sparsefinder/fit_text.h"

#include <stdio.h>
#include <string.h>

#include "kernels/sha256.h"

#define TEXT_MAX_BYTES ((size_t)1 << 30)

typedef struct text_ids {
    int32_t *ids;
    size_t n, capacity;
} text_ids;

static bool grow(text_ids *ids, size_t more)
{
    if (ids->n + more <= ids->capacity) return true;
    size_t capacity = (ids->n + more) * 2;
    int32_t *wider = sp_alloc(capacity, sizeof *wider);
    if (!wider) return false;
    if (ids->n > 0) memcpy(wider, ids->ids, ids->n * sizeof *wider);
    sp_free(ids->ids);
    ids->ids = wider;
    ids->capacity = capacity;
    return true;
}

static sp_status add_tokens(const sp_tokenizer *tokenizer, const char *path, const char *text, size_t size,
                            text_ids *ids, sp_error *error)
{
    sp_tokens tokens = {0};
    sp_error why = {0};
    sp_status status = sp_tokenizer_encode(tokenizer, text, size, 0, &tokens, &why);
    if (status == SP_INVALID)
        status = sp_fail(error, SP_DATA, "--text: %s: %s", path, why.message);
    else if (status != SP_OK)
        *error = why;
    if (status == SP_OK && !grow(ids, tokens.count))
        status = sp_fail(error, SP_NO_MEMORY, "no memory for %zu tokens", tokens.count);
    for (size_t i = 0; status == SP_OK && i < tokens.count; i++) ids->ids[ids->n++] = tokens.data[i].id;
    sp_tokens_fini(&tokens);
    return status;
}

/* All bytes to one buffer, because their digest is one; the tokens file by file. */
static sp_status read_files(const sp_tokenizer *tokenizer, const char *const *paths, size_t n_paths,
                            sp_buffer *bytes, text_ids *ids, sp_error *error)
{
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < n_paths; i++) {
        char *text = NULL;
        size_t size = 0;
        status = sp_read_file(paths[i], TEXT_MAX_BYTES, &text, &size, error);
        if (status == SP_OK) status = add_tokens(tokenizer, paths[i], text, size, ids, error);
        if (status == SP_OK && !sp_buffer_append(bytes, text, size)) status = sp_buffer_check(bytes, error);
        if (status == SP_OK && bytes->failed)
            status =
                sp_fail_param(error, SP_DATA, "text", "--text: more than %zu bytes together", TEXT_MAX_BYTES);
        sp_free(text);
    }
    return status;
}

static sp_status cut(const sp_tokenizer *tokenizer, const text_ids *ids, size_t max_tokens, sp_fit_text *out,
                     sp_error *error)
{
    uint32_t head = sp_tokenizer_adds_bos(tokenizer) ? 1 : 0, body = out->length - head;
    size_t there = ids->n / body, wanted = max_tokens > 0 ? max_tokens / out->length : there;
    if (wanted > there) wanted = there;
    if (wanted < 2)
        return sp_fail_param(error, SP_DATA, "text",
                             "--text: %zu tokens are fewer than two windows of %u; give more text or a "
                             "shorter --length",
                             max_tokens > 0 && max_tokens < ids->n ? max_tokens : ids->n, out->length);
    out->n_windows = wanted;
    out->ids = sp_alloc(wanted * out->length, sizeof *out->ids);
    if (!out->ids) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu windows", wanted);
    for (size_t w = 0; w < wanted; w++) {
        int32_t *to = out->ids + w * out->length;
        if (head) to[0] = sp_tokenizer_bos(tokenizer);
        memcpy(to + head, ids->ids + w * there / wanted * body, body * sizeof *to);
    }
    return SP_OK;
}

sp_status sp_fit_text_open(const sp_tokenizer *tokenizer, const char *const *paths, size_t n_paths,
                           uint32_t length, size_t max_tokens, sp_fit_text *out, sp_error *error)
{
    *out = (sp_fit_text){.length = length};
    sp_buffer bytes;
    text_ids ids = {0};
    sp_buffer_init(&bytes, TEXT_MAX_BYTES);
    sp_status status = read_files(tokenizer, paths, n_paths, &bytes, &ids, error);
    if (status == SP_OK) status = cut(tokenizer, &ids, max_tokens, out, error);
    if (status == SP_OK) {
        uint8_t digest[SP_SHA256_BYTES];
        sp_sha256(bytes.data, bytes.size, digest);
        for (size_t i = 0; i < SP_SHA256_BYTES; i++) snprintf(out->sha256 + 2 * i, 3, "%02x", digest[i]);
    }
    sp_buffer_fini(&bytes);
    sp_free(ids.ids);
    return status;
}

void sp_fit_text_close(sp_fit_text *text)
{
    sp_free(text->ids);
    *text = (sp_fit_text){0};
}
