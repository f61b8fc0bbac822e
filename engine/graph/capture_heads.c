/* The heads of a capture: made on demand, one maker a head, kept under the budget (capture.h).
 *
 * Who asks for a head that is there gets it at once. Who asks for one that is not becomes its maker, step by
 * step on the engine thread, or waits for the one who is; a maker that leaves lets the next take over where
 * it was. */
#include <stdio.h>
#include <string.h>

#include "engine/deadline.h"
#include "engine/graph/capture_parts.h"

#define WIDE_SHARE 4

static sp_capture_slot *slot_at(sp_capture *capture, uint32_t layer, uint32_t head)
{
    return &capture->slots[(size_t)capture->slot_of[layer] * capture->info.model_heads + head];
}

void sp_slot_drop(sp_capture *capture, sp_capture_slot *slot)
{
    if (!slot->head) return;
    sp_store_return(capture->store, capture, slot->head->bytes);
    sp_head_close(slot->head);
    slot->head = NULL;
    slot->done = false;
    slot->progress = 0;
}

void sp_head_tables_close(sp_head_tables *t)
{
    sp_free((void *)t->pages);
    sp_free(t->sides);
    sp_free(t->prompt_sides);
}

sp_status sp_head_tables_open(uint32_t n_tokens, sp_head_tables *t, sp_error *error)
{
    size_t n = sp_pages_of(n_tokens);
    *t = (sp_head_tables){.pages = sp_alloc(n, sizeof *t->pages),
                          .sides = sp_alloc(n, sizeof *t->sides),
                          .prompt_sides = sp_alloc(n, sizeof *t->prompt_sides)};
    if (t->pages && t->sides && t->prompt_sides) return SP_OK;
    sp_head_tables_close(t);
    *t = (sp_head_tables){0};
    return sp_fail(error, SP_NO_MEMORY, "no memory for a graph job");
}

/* What the run kept of keys, for the prompt's attention and for that of generated positions. Sides hold what
 * decoding reads, where it reads anything (step.c). */
static void fill_sides(sp_capture *capture, const sp_kv *kv, uint32_t layer, sp_head_tables *t,
                       sp_head_source *out)
{
    size_t n_pages = sp_pages_of(capture->n_tokens);
    if (!kv->side) return;
    for (size_t i = 0; i < n_pages; i++) t->sides[i] = sp_kv_side(kv, capture->pages[i], layer);
    out->sides = out->decoding_sides = t->sides;
    if (!capture->prompt_sides) return;
    for (size_t i = 0; i * SP_PAGE_TOKENS < capture->n_prompt; i++)
        t->prompt_sides[i] =
            capture->prompt_sides[capture->slot_of[layer]] + i * capture->store->options.side_bytes;
    out->sides = t->prompt_sides;
}

void sp_head_source_fill(sp_capture *capture, const sp_graph_runner *runner, uint32_t layer, uint32_t head,
                         sp_head_tables *t, sp_head_source *out)
{
    const sp_capture_info *info = &capture->info;
    uint32_t n = capture->n_tokens;
    *out = (sp_head_source){.device = runner->device,
                            .attention = &capture->attention,
                            .decoding = capture->attention.decode_backend ? &capture->decoding : NULL,
                            .n_prompt = capture->n_prompt,
                            .gold = info->gold,
                            .kv = sp_kv_layer(runner->kv, capture->pages, layer, n, t->pages),
                            .q = capture->q[capture->slot_of[layer]],
                            .scale = capture->scale,
                            .layer = layer,
                            .head = head,
                            .n_heads = info->model_heads,
                            .n_kv_heads = info->kv_heads,
                            .n_query = n,
                            .n_key = n,
                            .n_valid_query = n,
                            .kind = SP_ATTEND_SELF,
                            .causal = info->causal,
                            .fit = capture->fit,
                            .tokens = capture->tokens};
    fill_sides(capture, runner->kv, layer, t, out);
    if (!capture->plain) return;
    out->fit_q = capture->plain[capture->slot_of[layer]];
    out->fit_k = out->fit_q + info->capacity * info->model_heads * capture->head_dim;
}

/* --- making --- */

typedef struct head_call {
    sp_capture *capture;
    sp_head_builder *builder;
    double seconds;
    sp_status status;
    sp_error error;
} head_call;

static void run_step(void *context)
{
    head_call *call = context;
    call->status = sp_head_step(call->builder, call->seconds, &call->error);
}

static bool reserve(void *context, size_t bytes)
{
    return sp_capture_take_bytes(context, bytes);
}

static void release(void *context, size_t bytes)
{
    sp_capture_give_bytes(context, bytes);
}

static bool is_stopped(const sp_graph_runner *runner)
{
    return runner->stop && runner->stop(runner->stop_context);
}

/* Lets others see how far the head is; false when the capture has left the table. */
static bool publish(sp_capture *capture, sp_capture_slot *slot)
{
    const sp_head *head = slot->head;
    pthread_mutex_lock(&capture->store->lock);
    bool listed = capture->listed;
    slot->progress = head->n_query ? (double)head->rows_done / head->n_query : 0;
    slot->seconds = head->seconds;
    slot->bytes = head->bytes;
    pthread_mutex_unlock(&capture->store->lock);
    return listed;
}

/* Steps until the head is done or the maker leaves. */
static sp_status make_head(sp_capture *capture, const sp_head_source *source, sp_capture_slot *slot,
                           const sp_graph_runner *runner, sp_error *error)
{
    sp_head *head = slot->head;
    const sp_head_options options = {.reserve = reserve, .release = release, .context = capture};
    head_call call = {.capture = capture, .seconds = runner->step_seconds};
    sp_status status = sp_head_builder_open(source, head, &options, &call.builder, error);
    while (status == SP_OK && !head->done && !is_stopped(runner)) {
        if (!publish(capture, slot)) {
            status = sp_fail_param(error, SP_NOT_FOUND, "id", "the capture was deleted");
            break;
        }
        status = runner->run(runner->engine, run_step, &call, error);
        if (status == SP_OK && call.status != SP_OK) {
            status = call.status;
            if (error) *error = call.error;
        }
    }
    if (status == SP_OK) (void)publish(capture, slot); /* who goes on finds how far it came */
    sp_head_builder_close(call.builder);
    return status;
}

/* Whether the weights of all pairs would take more than a share of the budget: others' captures are worth
 * more, and they are made again for the rows that are asked for (capture_part.c). */
static bool is_wide(const sp_captures *store, const sp_head *head)
{
    size_t pairs = (size_t)head->n_query * head->n_key / (head->causal ? 2 : 1);
    return head->full && !head->like_gold && pairs * sizeof(float) > store->options.max_bytes / WIDE_SHARE;
}

/* With the lock held: an empty head in the slot, counted. */
static sp_status begin_head(sp_capture *capture, sp_capture_slot *slot, const sp_head_source *source,
                            sp_error *error)
{
    if (slot->head) return SP_OK;
    sp_head *head;
    if (!sp_store_reserve(capture->store, sp_head_base_bytes(source), capture))
        return sp_fail_param(error, SP_TOO_LARGE, "capture_bytes",
                             "what is in use leaves no room for a head within capture_bytes");
    sp_status status = sp_head_open(source, &head, error);
    if (status == SP_OK) {
        head->lost = is_wide(capture->store, head);
        slot->head = head;
        slot->bytes = head->bytes;
        return SP_OK;
    }
    sp_store_return(capture->store, capture, sp_head_base_bytes(source));
    return status;
}

/* Called and left with the lock held; the slot is ours meanwhile. */
static sp_status build(sp_capture *capture, sp_capture_slot *slot, uint32_t layer, uint32_t head,
                       const sp_graph_runner *runner, sp_error *error)
{
    sp_captures *store = capture->store;
    sp_head_source source;
    sp_head_tables t;
    sp_status status = sp_head_tables_open(capture->n_tokens, &t, error);
    if (status != SP_OK) return status;
    sp_head_source_fill(capture, runner, layer, head, &t, &source);
    slot->building = true;
    status = begin_head(capture, slot, &source, error);
    pthread_mutex_unlock(&store->lock);
    if (status == SP_OK) status = make_head(capture, &source, slot, runner, error);
    pthread_mutex_lock(&store->lock);
    slot->building = false;
    slot->last_used = sp_store_now(store);
    if (status == SP_OK && slot->head->done) {
        slot->has_record = slot->done = true;
        slot->progress = 1;
        slot->seconds = slot->head->seconds;
        slot->bytes = slot->head->bytes;
        slot->record = slot->head->record;
    } else if (status != SP_OK) {
        sp_slot_drop(capture, slot);
    }
    pthread_cond_broadcast(&store->changed);
    sp_head_tables_close(&t);
    return status;
}

/* With the lock held: a while for somebody else's head. */
static void wait_change(sp_captures *store)
{
    struct timespec until = sp_deadline_after(0.02);
    pthread_cond_timedwait(&store->changed, &store->lock, &until);
}

sp_status sp_capture_head(sp_capture *capture, uint32_t layer, uint32_t head, const sp_graph_runner *runner,
                          const sp_head **out, double *progress, sp_error *error)
{
    sp_captures *store = capture->store;
    sp_capture_slot *slot = slot_at(capture, layer, head);
    sp_status status = SP_OK;
    *out = NULL;
    *progress = 0;
    pthread_mutex_lock(&store->lock);
    while (status == SP_OK) {
        if (slot->done) {
            slot->users++;
            slot->last_used = capture->last_used = sp_store_now(store);
            *out = slot->head;
            *progress = 1;
            break;
        }
        *progress = slot->progress;
        if (!runner || capture->state != SP_CAPTURE_READY) break;
        pthread_mutex_unlock(&store->lock);
        bool stopped = is_stopped(runner);
        pthread_mutex_lock(&store->lock);
        if (stopped) break;
        if (slot->building)
            wait_change(store);
        else if (!slot->done)
            status = build(capture, slot, layer, head, runner, error);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

void sp_capture_release_head(sp_capture *capture, uint32_t layer, uint32_t head)
{
    pthread_mutex_lock(&capture->store->lock);
    slot_at(capture, layer, head)->users--;
    pthread_mutex_unlock(&capture->store->lock);
}

/* --- another attention over the same queries and keys --- */

static sp_status run_all(sp_capture *capture, sp_head *head, head_call *call, const sp_graph_runner *runner,
                         sp_error *error)
{
    sp_status status = SP_OK;
    while (status == SP_OK && !head->done) {
        pthread_mutex_lock(&capture->store->lock);
        bool listed = capture->listed;
        pthread_mutex_unlock(&capture->store->lock);
        if (!listed) return sp_fail_param(error, SP_NOT_FOUND, "id", "the capture was deleted");
        if (is_stopped(runner)) return sp_fail(error, SP_CANCELLED, "the request was cancelled");
        status = runner->run(runner->engine, run_step, call, error);
        if (status == SP_OK && call->status != SP_OK) {
            status = call->status;
            if (error) *error = call->error;
        }
    }
    return status;
}

sp_status sp_capture_measure(sp_capture *capture, uint32_t layer, uint32_t head, const sp_head *gold,
                             const sp_attention *attention, const sp_graph_runner *runner,
                             sp_head_record *out, sp_error *error)
{
    sp_head_tables t;
    const sp_head_options options = {.given = gold, .record_only = true};
    head_call call = {.seconds = runner->step_seconds};
    sp_head_source source;
    sp_head *made = NULL;
    sp_status status = sp_head_tables_open(capture->n_tokens, &t, error);
    if (status == SP_OK) {
        sp_head_source_fill(capture, runner, layer, head, &t, &source);
        source.attention = attention;
        source.decoding = NULL;
        source.sides = NULL; /* those are of the run's own attention */
        source.gold.cut = SP_CUT_NONE;
        status = sp_head_open(&source, &made, error);
    }
    if (status == SP_OK) status = sp_head_builder_open(&source, made, &options, &call.builder, error);
    if (status == SP_OK) status = run_all(capture, made, &call, runner, error);
    if (status == SP_OK) *out = made->record;
    sp_head_builder_close(call.builder);
    sp_head_close(made);
    sp_head_tables_close(&t);
    return status;
}

/* --- what is known of heads --- */

bool sp_capture_record(sp_capture *capture, uint32_t layer, uint32_t head, sp_head_record *out)
{
    sp_capture_slot *slot = slot_at(capture, layer, head);
    pthread_mutex_lock(&capture->store->lock);
    bool has = slot->has_record;
    if (has) *out = slot->record;
    pthread_mutex_unlock(&capture->store->lock);
    return has;
}

size_t sp_capture_list_heads(sp_capture *capture, sp_head_status *out, size_t max)
{
    const sp_capture_info *info = &capture->info;
    size_t n = 0;
    pthread_mutex_lock(&capture->store->lock);
    for (uint32_t l = 0; l < info->n_layers; l++) {
        for (uint32_t h = 0; h < info->model_heads && n < max; h++) {
            const sp_capture_slot *slot = slot_at(capture, info->layers[l], h);
            if (!slot->head) continue;
            out[n++] = (sp_head_status){.layer = info->layers[l],
                                        .head = h,
                                        .bytes = slot->bytes,
                                        .seconds = slot->seconds,
                                        .progress = slot->progress};
        }
    }
    pthread_mutex_unlock(&capture->store->lock);
    return n;
}

const uint8_t *sp_capture_thumbnail(sp_capture *capture, uint32_t layer, uint32_t head, sp_graph graph)
{
    pthread_mutex_lock(&capture->store->lock);
    const uint8_t *cells = slot_at(capture, layer, head)->thumbnails[graph];
    pthread_mutex_unlock(&capture->store->lock);
    return cells;
}

sp_status sp_capture_keep_thumbnail(sp_capture *capture, uint32_t layer, uint32_t head, sp_graph graph,
                                    const uint8_t *cells, sp_error *error)
{
    const size_t size = (size_t)SP_OVERVIEW_SIDE * SP_OVERVIEW_SIDE;
    sp_capture_slot *slot = slot_at(capture, layer, head);
    sp_status status = SP_OK;
    pthread_mutex_lock(&capture->store->lock);
    if (!slot->thumbnails[graph]) {
        uint8_t *copy = NULL;
        if (sp_store_reserve(capture->store, size, capture)) {
            copy = sp_alloc(size, 1);
            if (!copy) sp_store_return(capture->store, capture, size);
        }
        if (copy) memcpy(copy, cells, size);
        slot->thumbnails[graph] = copy;
        if (!copy) status = sp_fail(error, SP_NO_MEMORY, "no room for a thumbnail within capture_bytes");
    }
    pthread_mutex_unlock(&capture->store->lock);
    return status;
}
