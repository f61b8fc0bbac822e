/* A capture that is open (capture.h): filled by the engine thread, read by anybody. Opening it is in
 * capture_open.c. Tests: tests/unit/engine/test_graph_store.c, tests/http/test_captures.py */
#include "engine/graph/capture_parts.h"

#include <string.h>

/* --- the engine thread fills it --- */

const char *sp_capture_id(const sp_capture *capture)
{
    return capture->id;
}

void sp_capture_rows(sp_capture *capture, uint32_t layer, uint32_t position, uint32_t rows, const float *q,
                     const float *fit_q, const float *fit_k, float scale)
{
    const sp_capture_info *info = &capture->info;
    uint32_t slot = capture->slot_of[layer];
    size_t row = info->model_heads * capture->head_dim, k_row = info->kv_heads * capture->head_dim;
    capture->scale = scale;
    if (slot == SP_NO_HEAD || position + rows > info->capacity) return;
    memcpy(capture->q[slot] + position * row, q, rows * row * sizeof *q);
    if (!capture->plain) return;
    float *plain_k = capture->plain[slot] + info->capacity * row;
    memcpy(capture->plain[slot] + position * row, fit_q, rows * row * sizeof *q);
    memcpy(plain_k + position * k_row, fit_k, rows * k_row * sizeof *q);
}

void sp_capture_side(sp_capture *capture, uint32_t layer, uint32_t tile, const uint8_t *side)
{
    uint32_t slot = capture->slot_of[layer];
    size_t bytes = capture->store->options.side_bytes;
    if (slot == SP_NO_HEAD || !capture->prompt_sides || tile * SP_PAGE_TOKENS >= capture->n_prompt) return;
    memcpy(capture->prompt_sides[slot] + tile * bytes, side, bytes);
}

void sp_capture_grow(sp_capture *capture, const int32_t *tokens, uint32_t n)
{
    pthread_mutex_lock(&capture->store->lock);
    for (uint32_t i = capture->n_tokens; i < n; i++) capture->tokens[i] = tokens[i];
    capture->n_tokens = n;
    pthread_mutex_unlock(&capture->store->lock);
}

uint32_t sp_capture_adopt(sp_capture *capture, const uint32_t *pages)
{
    sp_captures *store = capture->store;
    pthread_mutex_lock(&store->lock);
    uint32_t kept = 0;
    if (capture->listed) {
        size_t all = sp_pages_of(capture->info.capacity);
        kept = (uint32_t)sp_pages_of(capture->n_tokens);
        memcpy(capture->pages, pages, kept * sizeof *pages);
        capture->n_pages = kept;
        sp_store_return(store, capture, (all - kept) * store->options.page_bytes);
        capture->state = SP_CAPTURE_READY;
        capture->last_used = sp_store_now(store);
    }
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    return kept;
}

void sp_capture_fail(sp_capture *capture, const sp_error *error)
{
    pthread_mutex_lock(&capture->store->lock);
    if (capture->state == SP_CAPTURE_RUNNING) {
        capture->state = SP_CAPTURE_FAILED;
        capture->error = *error;
    }
    pthread_cond_broadcast(&capture->store->changed);
    pthread_mutex_unlock(&capture->store->lock);
}

void sp_capture_leave(sp_capture *capture)
{
    pthread_mutex_lock(&capture->store->lock);
    bool drop = capture->listed && capture->state != SP_CAPTURE_READY && !capture->alone;
    if (drop) sp_store_unlist(capture->store, capture, false);
    pthread_mutex_unlock(&capture->store->lock);
    sp_capture_release(capture);
}

void sp_capture_keep_stream(sp_capture *capture, struct sp_stream *stream)
{
    pthread_mutex_lock(&capture->store->lock);
    capture->stream = stream;
    pthread_mutex_unlock(&capture->store->lock);
}

/* --- readers --- */

const sp_capture_info *sp_capture_get_info(const sp_capture *capture)
{
    return &capture->info;
}

const sp_fit *sp_capture_fit(const sp_capture *capture)
{
    return capture->fit;
}

void sp_capture_get_status(sp_capture *capture, sp_capture_status *out)
{
    sp_captures *store = capture->store;
    pthread_mutex_lock(&store->lock);
    double left = store->options.expiry - (sp_store_now(store) - capture->last_used);
    *out = (sp_capture_status){.state = capture->state,
                               .alone = capture->alone,
                               .error = capture->error,
                               .n_tokens = capture->n_tokens,
                               .n_planned = capture->info.capacity,
                               .bytes = capture->bytes,
                               .expires = (int64_t)(sp_unix_now() + (left > 0 ? left : 0))};
    pthread_mutex_unlock(&store->lock);
}

/* The bytes with every ill-formed part replaced by U+FFFD. */
static const char *well_formed(sp_arena *arena, const char *bytes, size_t n, size_t *size)
{
    char *text = sp_arena_alloc(arena, 3 * n + 1, 1);
    size_t used = 0;
    for (size_t i = 0; text && i < n;) {
        size_t length = sp_utf8_length(bytes + i, n - i);
        memcpy(text + used, length ? bytes + i : "\xef\xbf\xbd", length ? length : 3);
        used += length ? length : 3;
        i += length ? length : 1;
    }
    *size = used;
    return text;
}

static bool make_views(sp_capture *capture, sp_graph_token *views, sp_arena *texts)
{
    const sp_tokenizer *tokenizer = capture->store->options.model->tokenizer;
    for (uint32_t i = 0; i < capture->n_tokens; i++) {
        sp_graph_token *view = &views[i];
        view->id = capture->tokens[i];
        view->special = sp_tokenizer_is_special(tokenizer, view->id);
        view->bytes = sp_tokenizer_bytes(tokenizer, view->id, &view->n_bytes);
        if (sp_utf8_valid(view->bytes, view->n_bytes)) {
            view->text = view->bytes;
            view->n_text = view->n_bytes;
        } else {
            view->text = well_formed(texts, view->bytes, view->n_bytes, &view->n_text);
        }
        if (!view->text) return false;
    }
    return true;
}

sp_status sp_capture_tokens(sp_capture *capture, const sp_graph_token **out, sp_error *error)
{
    sp_captures *store = capture->store;
    sp_status status = SP_OK;
    pthread_mutex_lock(&store->lock);
    if (!capture->views && capture->n_tokens > 0) {
        sp_graph_token *views = sp_alloc_zero(capture->n_tokens, sizeof *views);
        sp_arena *texts = sp_alloc_zero(1, sizeof *texts);
        if (texts) sp_arena_init(texts, SP_CAPTURE_ARENA_BYTES);
        if (views && texts && make_views(capture, views, texts)) {
            capture->views = views;
            capture->view_texts = texts;
        } else {
            if (texts) sp_arena_fini(texts);
            sp_free(texts);
            sp_free(views);
            status = sp_fail(error, SP_NO_MEMORY, "no memory for the texts of %u tokens", capture->n_tokens);
        }
    }
    *out = capture->views;
    pthread_mutex_unlock(&store->lock);
    return status;
}
