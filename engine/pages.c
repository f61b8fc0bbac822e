/* See pages.h. */
#include "engine/pages.h"

#include "engine/graph/capture.h"

#include <math.h>

/* --- what a page depends on besides its tokens --- */

static void add_number(sp_sha256_state *digest, double value)
{
    if (isnan(value)) value = -INFINITY; /* absent: one spelling; no parameter has that value */
    sp_sha256_add(digest, &value, sizeof value);
}

static void add_pattern(sp_sha256_state *digest, const sp_attention *attention)
{
    const char *name = attention->backend->name;
    sp_sha256_add(digest, name, strlen(name) + 1);
    for (size_t i = 0; i < attention->backend->n_params; i++) add_number(digest, attention->params[i]);
    sp_sha256_add(digest, &attention->seed, sizeof attention->seed);
    add_number(digest, attention->heads);
    add_number(digest, (double)attention->normalizer.alpha);
}

static void make_key(sp_sequence *s, const sp_request *request)
{
    uint64_t owner = s->host->share_prefixes ? 0 : request->owner;
    uint32_t variant = sp_rope_variant(s->host->model->rope, sp_sequence_length(s));
    sp_sha256_state digest;
    sp_sha256_begin(&digest);
    sp_sha256_add(&digest, &s->adapter, sizeof s->adapter);
    sp_sha256_add(&digest, &owner, sizeof owner);
    sp_sha256_add(&digest, &variant, sizeof variant);
    add_pattern(&digest, &s->attention);
    bool keeps = s->attention.decode_backend && s->decoding.backend->codes;
    sp_sha256_add(&digest, &keeps, sizeof keeps);
    if (keeps) add_pattern(&digest, &s->decoding);
    if (request->cache_salt) sp_sha256_add(&digest, request->cache_salt, request->cache_salt_size);
    sp_sha256_end(&digest, s->prefix_key);
}

void sp_pages_describe(sp_sequence *s, const sp_request *request)
{
    unsigned caps = s->attention.backend->caps & s->decoding.backend->caps;
    s->shares = request->share_pages && !s->whole && (caps & SP_CAP_PREFIX);
    bool needs_rows = s->attention.measure || s->attention.capture || request->capture ||
                      request->prompt_logprobs || request->pooling == SP_POOLING_MEAN;
    s->takes = s->shares && !needs_rows;
    if (s->shares) make_key(s, request);
}

/* --- sharing --- */

/* What the index has for the page after those that are published. */
static uint32_t find_next(const sp_prefix *prefix, const sp_sequence *s)
{
    uint32_t n = s->n_published;
    return sp_prefix_find(prefix, s->prefix_key, n > 0 ? s->pages[n - 1] : SP_NO_PAGE,
                          s->tokens + (size_t)n * SP_PAGE_TOKENS);
}

/* Puts a page of the index in place of the sequence's own. */
static void replace_next(sp_kv *kv, sp_sequence *s, uint32_t page)
{
    uint32_t *own = &s->pages[s->n_published++];
    sp_kv_hold(kv, page);
    if (*own != SP_NO_PAGE) sp_kv_give(kv, 1, own);
    *own = page;
}

void sp_pages_share(sp_kv *kv, sp_prefix *prefix, sp_sequence *s)
{
    while (s->takes && (s->n_published + 1) * SP_PAGE_TOKENS < s->n_prompt) { /* its last token is run */
        uint32_t page = find_next(prefix, s);
        if (page == SP_NO_PAGE) return;
        replace_next(kv, s, page);
        s->usage.cached_tokens += s->n_published * SP_PAGE_TOKENS - s->position;
        s->position = s->n_published * SP_PAGE_TOKENS;
    }
}

void sp_pages_publish(sp_kv *kv, sp_prefix *prefix, sp_sequence *s)
{
    uint32_t end = s->position;
    if (s->attention.decode_backend && end > s->n_prompt) end = s->n_prompt; /* other rows than a prompt's */
    while (s->shares && (s->n_published + 1) * SP_PAGE_TOKENS <= end) {
        uint32_t page = find_next(prefix, s), n = s->n_published;
        if (page != SP_NO_PAGE) {
            replace_next(kv, s, page);
            continue;
        }
        sp_prefix_add(prefix, s->prefix_key, n > 0 ? s->pages[n - 1] : SP_NO_PAGE,
                      s->tokens + (size_t)n * SP_PAGE_TOKENS, s->pages[n]);
        s->n_published++;
    }
}

/* --- beginning and end --- */

bool sp_pages_admit(sp_kv *kv, sp_prefix *prefix, struct sp_captures *captures, sp_sequence *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++) s->pages[i] = SP_NO_PAGE;
    sp_pages_share(kv, prefix, s);
    uint32_t shared = s->n_published, wanted = s->n_pages - shared;
    if (captures && sp_kv_available(kv) < wanted) sp_captures_reclaim(captures, kv, wanted);
    if (sp_kv_take(kv, wanted, s->pages + shared)) return true;
    sp_kv_give(kv, shared, s->pages);
    s->n_published = s->position = s->usage.cached_tokens = 0;
    return false;
}

void sp_pages_release(sp_kv *kv, sp_sequence *s, bool keeps)
{
    uint32_t n_kept = keeps ? sp_capture_adopt(s->capture, s->pages) : 0;
    sp_kv_pin(kv, n_kept, s->pages);
    sp_kv_give(kv, s->n_pages, s->pages);
}
