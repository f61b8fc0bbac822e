/* The table of captures: holds, budget, eviction, expiry, and the way of pages back to the pool (capture.h).
 */
#include "engine/graph/capture_parts.h"

#include <string.h>

#include "engine/deadline.h"

double sp_store_now(const sp_captures *store)
{
    return store->options.clock ? store->options.clock() : sp_now();
}

/* Without the lock. */
static void wake(sp_captures *store)
{
    if (store->options.wake) store->options.wake(store->options.wake_context);
}

/* --- opening --- */

sp_status sp_captures_open(const sp_captures_options *options, sp_captures **out, sp_error *error)
{
    sp_captures *store = sp_alloc_zero(1, sizeof *store);
    if (!store) return sp_fail(error, SP_NO_MEMORY, "no memory for captures");
    store->options = *options;
    pthread_mutex_init(&store->lock, NULL);
    sp_deadline_condition(&store->changed);
    store->tombstones = sp_alloc_zero(SP_TOMBSTONES, sizeof *store->tombstones);
    if (store->tombstones) {
        *out = store;
        return SP_OK;
    }
    sp_captures_close(store);
    return sp_fail(error, SP_NO_MEMORY, "no memory for captures");
}

static void free_list(sp_capture *capture)
{
    for (sp_capture *next; capture; capture = next) {
        next = capture->next;
        if (capture->stream) sp_stream_free(capture->stream);
        sp_capture_free_parts(capture);
        sp_free(capture->pages);
        sp_free(capture);
    }
}

void sp_captures_close(sp_captures *store)
{
    if (!store) return;
    free_list(store->all);
    free_list(store->dead);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    sp_free(store->tombstones);
    sp_free(store);
}

void sp_captures_drop_streams(sp_captures *store)
{
    if (!store) return;
    for (int list = 0; list < 2; list++) {
        for (sp_capture *capture = list ? store->dead : store->all; capture; capture = capture->next) {
            struct sp_stream *stream = capture->stream;
            capture->stream = NULL;
            if (stream) sp_stream_free(stream);
        }
    }
}

/* --- leaving --- */

static void remember(sp_captures *store, const sp_capture *capture)
{
    sp_tombstone *stone = &store->tombstones[store->next_tombstone++ % SP_TOMBSTONES];
    if (store->n_tombstones < SP_TOMBSTONES) store->n_tombstones++;
    memcpy(stone->id, capture->id, sizeof stone->id);
    stone->owner = capture->owner;
    stone->since = sp_store_now(store);
}

/* With the lock held, when the last hold is gone: frees all but the pages, which wait for the engine thread.
 */
static void bury(sp_captures *store, sp_capture *capture)
{
    store->used -= capture->bytes;
    capture->bytes = 0;
    sp_capture_free_parts(capture);
    capture->next = store->dead;
    store->dead = capture;
}

void sp_store_unlist(sp_captures *store, sp_capture *capture, bool evicted)
{
    sp_capture **at = &store->all;
    while (*at != capture) at = &(*at)->next;
    *at = capture->next;
    capture->next = NULL;
    capture->listed = false;
    if (evicted) remember(store, capture);
    if (capture->holds == 0) bury(store, capture);
}

/* What was not used for long leaves. A running capture stays: its sequence holds it. */
static void expire(sp_captures *store)
{
    double now = sp_store_now(store);
    for (sp_capture *capture = store->all, *next; capture; capture = next) {
        next = capture->next;
        bool old = now - capture->last_used > store->options.expiry;
        if (old && capture->holds == 0) sp_store_unlist(store, capture, true);
    }
}

/* --- the budget --- */

static bool is_idle(const sp_capture_slot *slot)
{
    return slot->head && !slot->building && slot->users == 0;
}

/* The idle head that was not used for the longest time. */
static sp_capture_slot *oldest_head(sp_captures *store, sp_capture **owner)
{
    sp_capture_slot *oldest = NULL;
    for (sp_capture *capture = store->all; capture; capture = capture->next) {
        size_t n = (size_t)capture->info.n_layers * capture->info.model_heads;
        for (size_t i = 0; i < n; i++) {
            sp_capture_slot *slot = &capture->slots[i];
            if (!is_idle(slot) || (oldest && oldest->last_used <= slot->last_used)) continue;
            oldest = slot;
            *owner = capture;
        }
    }
    return oldest;
}

static sp_capture *oldest_capture(sp_captures *store, const sp_capture *keep)
{
    sp_capture *oldest = NULL;
    for (sp_capture *capture = store->all; capture; capture = capture->next) {
        if (capture == keep || capture->holds > 0) continue;
        if (!oldest || capture->last_used < oldest->last_used) oldest = capture;
    }
    return oldest;
}

bool sp_store_reserve(sp_captures *store, size_t bytes, sp_capture *keep)
{
    expire(store);
    while (bytes > store->options.max_bytes || store->used > store->options.max_bytes - bytes) {
        sp_capture *owner = NULL;
        if (bytes > store->options.max_bytes) return false;
        sp_capture_slot *slot = oldest_head(store, &owner);
        if (slot) {
            sp_slot_drop(owner, slot);
            continue;
        }
        sp_capture *capture = oldest_capture(store, keep);
        if (!capture) return false;
        sp_store_unlist(store, capture, true);
    }
    store->used += bytes;
    if (keep) keep->bytes += bytes;
    return true;
}

void sp_store_return(sp_captures *store, sp_capture *capture, size_t bytes)
{
    store->used -= bytes;
    capture->bytes -= bytes;
}

bool sp_capture_take_bytes(sp_capture *capture, size_t bytes)
{
    pthread_mutex_lock(&capture->store->lock);
    bool fits = sp_store_reserve(capture->store, bytes, capture);
    pthread_mutex_unlock(&capture->store->lock);
    return fits;
}

void sp_capture_give_bytes(sp_capture *capture, size_t bytes)
{
    pthread_mutex_lock(&capture->store->lock);
    sp_store_return(capture->store, capture, bytes);
    pthread_mutex_unlock(&capture->store->lock);
}

/* --- the engine thread --- */

void sp_captures_tidy(sp_captures *store, sp_kv *kv)
{
    pthread_mutex_lock(&store->lock);
    sp_capture *dead = store->dead;
    store->dead = NULL;
    pthread_mutex_unlock(&store->lock);
    for (sp_capture *next; dead; dead = next) {
        next = dead->next;
        if (dead->n_pages) sp_kv_unpin(kv, dead->n_pages, dead->pages);
        if (dead->stream) sp_stream_free(dead->stream);
        sp_free(dead->pages);
        sp_free(dead);
    }
}

/* Pages alone go back here: the rest waits for tidy, since freeing a stream may wake the scheduler. */
static void give_pages(sp_captures *store, sp_kv *kv)
{
    for (sp_capture *capture = store->dead; capture; capture = capture->next) {
        if (capture->n_pages) sp_kv_unpin(kv, capture->n_pages, capture->pages);
        capture->n_pages = 0;
    }
}

void sp_captures_reclaim(sp_captures *store, sp_kv *kv, uint32_t n)
{
    pthread_mutex_lock(&store->lock);
    give_pages(store, kv);
    while (sp_kv_available(kv) < n) {
        sp_capture *capture = oldest_capture(store, NULL);
        if (!capture) break;
        sp_store_unlist(store, capture, true);
        give_pages(store, kv);
    }
    pthread_mutex_unlock(&store->lock);
}

/* --- readers --- */

static bool is_gone(const sp_captures *store, const char *id, uint64_t owner)
{
    double now = sp_store_now(store);
    for (uint32_t i = 0; i < store->n_tombstones; i++) {
        const sp_tombstone *stone = &store->tombstones[i];
        if (strcmp(stone->id, id) == 0 && stone->owner == owner && now - stone->since < SP_TOMBSTONE_SECONDS)
            return true;
    }
    return false;
}

sp_status sp_captures_hold(sp_captures *store, const char *id, uint64_t owner, bool use, sp_capture **out,
                           bool *gone, sp_error *error)
{
    pthread_mutex_lock(&store->lock);
    expire(store);
    sp_capture *capture = store->all;
    while (capture && (strcmp(capture->id, id) != 0 || capture->owner != owner)) capture = capture->next;
    *gone = !capture && is_gone(store, id, owner);
    if (capture) capture->holds++;
    if (capture && use) capture->last_used = sp_store_now(store);
    pthread_mutex_unlock(&store->lock);
    wake(store);
    *out = capture;
    if (capture) return SP_OK;
    return sp_fail_param(error, SP_NOT_FOUND, "id",
                         *gone ? "the capture %.40s is gone: evicted or expired; capture the input again"
                               : "there is no capture %.40s",
                         id);
}

void sp_capture_release(sp_capture *capture)
{
    sp_captures *store = capture->store;
    pthread_mutex_lock(&store->lock);
    bool last = --capture->holds == 0 && !capture->listed;
    if (last) bury(store, capture);
    pthread_mutex_unlock(&store->lock);
    if (last) wake(store);
}

void sp_capture_use(sp_capture *capture)
{
    pthread_mutex_lock(&capture->store->lock);
    capture->last_used = sp_store_now(capture->store);
    pthread_mutex_unlock(&capture->store->lock);
}

void sp_capture_delete(sp_capture *capture)
{
    sp_captures *store = capture->store;
    pthread_mutex_lock(&store->lock);
    if (capture->listed) sp_store_unlist(store, capture, false);
    struct sp_stream *stream = capture->stream;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (stream) sp_stream_cancel(stream); /* held by the caller, so it stays */
    wake(store);
}

void sp_captures_drop(sp_captures *store, const char *id, uint64_t owner)
{
    sp_capture *capture;
    sp_error error;
    bool gone;
    if (sp_captures_hold(store, id, owner, false, &capture, &gone, &error)) return;
    sp_capture_delete(capture);
    sp_capture_release(capture);
}

size_t sp_captures_used(sp_captures *store)
{
    pthread_mutex_lock(&store->lock);
    expire(store);
    size_t used = store->used;
    pthread_mutex_unlock(&store->lock);
    wake(store);
    return used;
}

size_t sp_captures_running(sp_captures *store, uint64_t owner, sp_capture_running *out, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&store->lock);
    for (const sp_capture *capture = store->all; capture && n < max; capture = capture->next) {
        if (!capture->alone || capture->owner != owner || capture->state != SP_CAPTURE_RUNNING) continue;
        out[n].n_tokens = capture->n_tokens;
        out[n].started = capture->started;
        memcpy(out[n++].id, capture->id, sizeof capture->id);
    }
    pthread_mutex_unlock(&store->lock);
    return n;
}
