/* Opening a capture (capture.h): what is kept of a run is chosen and named, its bytes are counted and held
 * against the limits, and all of it is allocated and enters the table; and freeing it. Tests:
 * tests/unit/engine/test_graph_store.c, tests/http/test_captures.py, tests/http/test_limits.py */
#include "engine/graph/capture_parts.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* --- what it is made of --- */

static void make_id(char *id)
{
    unsigned char random[12] = {0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 0, sizeof random);
    (void)snprintf(id, SP_CAPTURE_ID, "attn-");
    for (size_t i = 0; i < sizeof random; i++)
        (void)snprintf(id + 5 + 2 * i, SP_CAPTURE_ID - 5 - 2 * i, "%02x", random[i]);
}

/* A rising copy of the chosen numbers below n, or of all of them. */
static const uint32_t *copy_list(sp_arena *arena, const uint32_t *chosen, uint32_t n_chosen, uint32_t n,
                                 uint32_t *count)
{
    uint32_t *list = sp_arena_alloc(arena, chosen ? n_chosen : n, sizeof *list);
    *count = chosen ? n_chosen : n;
    for (uint32_t i = 0; list && i < *count; i++) list[i] = chosen ? chosen[i] : i;
    return list;
}

static bool copy_lists(sp_capture *capture, const sp_capture_spec *spec, const sp_hparams *hparams)
{
    sp_capture_info *info = &capture->info;
    sp_arena *arena = &capture->arena;
    info->layers = copy_list(arena, spec->layers, spec->n_layers, hparams->n_layers, &info->n_layers);
    info->heads = copy_list(arena, spec->heads, spec->n_heads, hparams->n_heads, &info->n_heads);
    capture->slot_of = sp_arena_alloc(arena, hparams->n_layers, sizeof *capture->slot_of);
    capture->head_kept = sp_arena_alloc(arena, hparams->n_heads, 1);
    if (!info->layers || !info->heads || !capture->slot_of || !capture->head_kept) return false;
    for (uint32_t l = 0; l < hparams->n_layers; l++) capture->slot_of[l] = SP_NO_HEAD;
    for (uint32_t i = 0; i < info->n_layers; i++) capture->slot_of[info->layers[i]] = i;
    for (uint32_t i = 0; i < info->n_heads; i++) capture->head_kept[info->heads[i]] = 1;
    return true;
}

static bool copy_labels(sp_capture *capture, const sp_capture_spec *spec)
{
    if (spec->n_labels == 0) return true;
    sp_label_set *sets = sp_arena_alloc(&capture->arena, spec->n_labels, sizeof *sets);
    capture->info.labels = sets;
    capture->info.n_labels = spec->n_labels;
    for (size_t i = 0; sets && i < spec->n_labels; i++) {
        const sp_label_set *from = &spec->labels[i];
        const char **labels = sp_arena_alloc(&capture->arena, from->n, sizeof *labels);
        sets[i] = (sp_label_set){.name = sp_arena_copy(&capture->arena, from->name, strlen(from->name)),
                                 .labels = labels,
                                 .n = from->n};
        if (!sets[i].name || !labels) return false;
        for (uint32_t t = 0; t < from->n; t++) {
            labels[t] = sp_arena_copy(&capture->arena, from->labels[t], strlen(from->labels[t]));
            if (!labels[t]) return false;
        }
    }
    return sets != NULL;
}

/* --- provenance --- */

static const char *finish_json(sp_capture *capture, sp_buffer *text)
{
    const char *copy = text->failed ? NULL : sp_arena_copy(&capture->arena, text->data, text->size);
    sp_buffer_fini(text);
    return copy;
}

static const char *params_json(sp_capture *capture, const sp_attention *attention)
{
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_init(&text, 4096);
    sp_json_writer_init(&writer, &text);
    sp_attention_write_params(attention, &writer);
    return finish_json(capture, &text);
}

static const char *normalizer_json(sp_capture *capture)
{
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_init(&text, 256);
    sp_json_writer_init(&writer, &text);
    sp_normalizer_write(capture->attention.normalizer, &writer);
    return finish_json(capture, &text);
}

static const char *gold_json(sp_capture *capture)
{
    const sp_gold *gold = &capture->info.gold;
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_init(&text, 256);
    sp_json_writer_init(&writer, &text);
    sp_json_open(&writer, '{');
    sp_json_key(&writer, "normalizer");
    sp_normalizer_write(gold->normalizer, &writer);
    if (gold->cut == SP_CUT_MASS) {
        sp_json_key(&writer, "mass");
        sp_json_number(&writer, gold->mass);
    } else if (gold->cut == SP_CUT_TOP_K) {
        sp_json_key(&writer, "top_k");
        sp_json_uint(&writer, gold->top_k);
    } else if (gold->cut == SP_CUT_MIN_WEIGHT) {
        sp_json_key(&writer, "min_weight");
        sp_json_number(&writer, gold->min_weight);
    }
    sp_json_close(&writer, '}');
    return finish_json(capture, &text);
}

/* False: no memory. */
static bool fill_source(sp_capture *capture, uint32_t adapter)
{
    static const char *const heads[] = {"merged", "interleaved", "multihead"};
    const sp_captures_options *options = &capture->store->options;
    bool decodes = capture->attention.decode_backend != NULL;
    capture->source =
        (sp_graph_source){.capture = capture->id,
                          .model = options->model_ids ? options->model_ids[adapter] : options->model->name,
                          .arch = options->model->arch ? options->model->arch->name : "",
                          .backend = capture->attention.backend->name,
                          .params = params_json(capture, &capture->attention),
                          .decode_backend = decodes ? capture->decoding.backend->name : "",
                          .decode_params = decodes ? params_json(capture, &capture->decoding) : "",
                          .sees_later = !sp_attention_streams(&capture->attention),
                          .normalizer = normalizer_json(capture),
                          .gold = gold_json(capture),
                          .heads = heads[capture->attention.heads],
                          .dtype = sp_dtype_name(options->kv_type),
                          .software = "sparsed " SPARSED_VERSION,
                          .block = "self",
                          .created = (int64_t)time(NULL)};
    const char *hash = options->fingerprints ? options->fingerprints[adapter] : NULL;
    capture->source.hash = hash ? hash : "";
    if (!capture->source.model) capture->source.model = "";
    return capture->source.params && capture->source.decode_params && capture->source.normalizer &&
           capture->source.gold;
}

/* --- opening --- */

static sp_status choose_gold(const sp_capture_spec *spec, const sp_attention *attention, sp_gold *out,
                             sp_error *error)
{
    *out = (sp_gold){.normalizer = attention->normalizer};
    if (!spec->has_gold) {
        if (sp_is_softmax(out->normalizer)) out->cut = SP_CUT_MASS, out->mass = 0.95;
        return SP_OK;
    }
    *out = spec->gold;
    if (out->normalizer.alpha == SP_GOLD_OF_RUN) out->normalizer = attention->normalizer;
    bool softmax = sp_is_softmax(out->normalizer);
    if (softmax && out->cut == SP_CUT_NONE)
        return sp_fail_param(error, SP_INVALID, "gold",
                             "softmax gives every key weight: gold needs one of mass, top_k and min_weight, "
                             "such as \"mass\": 0.95");
    if (!softmax && out->cut != SP_CUT_NONE)
        return sp_fail_param(error, SP_INVALID, "gold",
                             "mass, top_k and min_weight cut softmax; entmax has zeros of its own");
    return SP_OK;
}

static sp_status check_labels(const sp_capture_spec *spec, uint32_t n_prompt, sp_error *error)
{
    char field[96];
    for (size_t i = 0; i < spec->n_labels; i++) {
        if (spec->labels[i].n == n_prompt) continue;
        (void)snprintf(field, sizeof field, "labels.%.60s", spec->labels[i].name);
        return sp_fail_param(error, SP_INVALID, field, "%s has %u labels, the input has %u tokens", field,
                             spec->labels[i].n, n_prompt);
    }
    return SP_OK;
}

/* Whether the pages' sides keep something else of keys than what the prompt's attention reads: the fallback
 * of an attention that needs the whole prompt may use another set of the fit. */
static bool keeps_prompt_sides(const sp_captures *store, const sp_attention *attention, const sp_fit *fit)
{
    const sp_attention decoding = sp_attention_decoding(attention);
    return store->options.side_bytes && !sp_attention_same_codes(attention, &decoding, fit, SP_ATTEND_SELF);
}

/* Numbers of a position's queries and keys before the rotary embedding; 0: the fit doesn't read those. */
static size_t plain_numbers(const sp_captures *store, const sp_fit *fit)
{
    const sp_model *model = store->options.model;
    if (!fit || !fit->rope_pre || !model->rope) return 0;
    return ((size_t)model->hparams.n_heads + model->hparams.n_kv_heads) * model->hparams.head_dim;
}

static size_t prompt_side_bytes(const sp_captures *store, uint32_t n_prompt)
{
    return sp_pages_of(n_prompt) * store->options.side_bytes;
}

/* Bytes of queries of one layer, with `more` of it, and of everything else. */
static void count_bytes(const sp_captures *store, uint32_t capacity, size_t more, size_t *layer, size_t *rest)
{
    const sp_hparams *hparams = &store->options.model->hparams;
    size_t pages = sp_pages_of(capacity);
    *layer = (size_t)capacity * hparams->n_heads * hparams->head_dim * sizeof(float) + more;
    *rest = pages * (store->options.page_bytes + sizeof(uint32_t)) + (size_t)capacity * sizeof(int32_t) +
            sizeof(sp_capture);
}

static sp_status check_size(const sp_captures *store, uint32_t capacity, uint32_t n_layers, size_t more,
                            size_t extra, size_t *bytes, sp_error *error)
{
    size_t layer, rest, most = store->options.max_capture_bytes;
    count_bytes(store, capacity, more, &layer, &rest);
    rest += extra;
    *bytes = rest + n_layers * layer;
    if (*bytes <= most) return SP_OK;
    if (rest + layer > most)
        return sp_fail_param(error, SP_TOO_LARGE, "layers",
                             "even one layer of %u tokens takes %zu bytes, more than capture_max_bytes %zu; "
                             "capture fewer tokens",
                             capacity, rest + layer, most);
    return sp_fail_param(
        error, SP_TOO_LARGE, "layers",
        "%u layers of %u tokens take %zu bytes, more than capture_max_bytes %zu; name at most "
        "%zu layers, such as \"layers\": [0]",
        n_layers, capacity, *bytes, most, (most - rest) / layer);
}

static bool allocate(sp_capture *capture, uint32_t capacity, size_t sides)
{
    const sp_hparams *hparams = &capture->store->options.model->hparams;
    const sp_capture_info *info = &capture->info;
    size_t row = (size_t)hparams->n_heads * hparams->head_dim;
    capture->q = sp_alloc_zero(info->n_layers, sizeof *capture->q);
    capture->tokens = sp_alloc(capacity, sizeof *capture->tokens);
    capture->pages = sp_alloc(sp_pages_of(capacity), sizeof *capture->pages);
    capture->slots = sp_alloc_zero((size_t)info->n_layers * hparams->n_heads, sizeof *capture->slots);
    if (!capture->q || !capture->tokens || !capture->pages || !capture->slots) return false;
    for (uint32_t i = 0; i < info->n_layers; i++) {
        capture->q[i] = sp_alloc(capacity, row * sizeof(float));
        if (!capture->q[i]) return false;
    }
    size_t plain = plain_numbers(capture->store, capture->fit);
    if (plain) capture->plain = sp_alloc_zero(info->n_layers, sizeof *capture->plain);
    for (uint32_t i = 0; plain && i < info->n_layers; i++) {
        if (!capture->plain) return false;
        capture->plain[i] = sp_alloc(capacity, plain * sizeof(float));
        if (!capture->plain[i]) return false;
    }
    if (sides == 0) return true;
    capture->prompt_sides = sp_alloc_zero(info->n_layers, sizeof *capture->prompt_sides);
    for (uint32_t i = 0; capture->prompt_sides && i < info->n_layers; i++) {
        capture->prompt_sides[i] = sp_alloc_zero(sides, 1);
        if (!capture->prompt_sides[i]) return false;
    }
    return capture->prompt_sides != NULL;
}

/* Into the table, counted in the budget. */
static sp_status enlist(sp_captures *store, sp_capture *capture, sp_error *error)
{
    pthread_mutex_lock(&store->lock);
    bool fits = sp_store_reserve(store, capture->fixed_bytes, capture);
    if (fits) {
        capture->last_used = sp_store_now(store);
        capture->holds = 1;
        capture->listed = true;
        capture->next = store->all;
        store->all = capture;
    }
    pthread_mutex_unlock(&store->lock);
    if (fits) return SP_OK;
    if (capture->fixed_bytes > store->options.max_bytes)
        return sp_fail_param(error, SP_TOO_LARGE, "layers",
                             "the capture takes %zu bytes, capture_bytes is %zu", capture->fixed_bytes,
                             store->options.max_bytes);
    return sp_fail(error, SP_BUSY, "captures in use hold all of capture_bytes (%zu); try again later",
                   store->options.max_bytes);
}

sp_status sp_capture_open(sp_captures *store, const sp_capture_spec *spec, const sp_attention *attention,
                          const sp_fit *fit, uint32_t adapter, const int32_t *tokens, uint32_t n_prompt,
                          uint32_t capacity, sp_capture **out, sp_error *error)
{
    const sp_hparams *hparams = &store->options.model->hparams;
    size_t bytes = 0;
    size_t sides = keeps_prompt_sides(store, attention, fit) ? prompt_side_bytes(store, n_prompt) : 0;
    uint32_t n_layers = spec->layers ? spec->n_layers : hparams->n_layers;
    size_t more = sides + capacity * plain_numbers(store, fit) * sizeof(float);
    sp_gold gold;
    sp_status status = choose_gold(spec, attention, &gold, error);
    if (status == SP_OK) status = check_labels(spec, n_prompt, error);
    if (status == SP_OK) status = check_size(store, capacity, n_layers, more, 0, &bytes, error);
    if (status != SP_OK) return status;
    sp_capture *capture = sp_alloc_zero(1, sizeof *capture);
    if (!capture) return sp_fail(error, SP_NO_MEMORY, "no memory for a capture");
    capture->store = store;
    capture->owner = spec->owner;
    capture->alone = spec->alone;
    capture->started = sp_now();
    capture->attention = *attention;
    capture->decoding = sp_attention_decoding(attention);
    capture->n_prompt = n_prompt;
    capture->fit = fit;
    capture->head_dim = hparams->head_dim;
    capture->info = (sp_capture_info){.id = capture->id,
                                      .model_layers = hparams->n_layers,
                                      .model_heads = hparams->n_heads,
                                      .kv_heads = hparams->n_kv_heads,
                                      .capacity = capacity,
                                      .causal = true,
                                      .gold = gold,
                                      .attention = &capture->attention,
                                      .source = &capture->source};
    make_id(capture->id);
    sp_arena_init(&capture->arena, SP_CAPTURE_ARENA_BYTES);
    bool copied =
        copy_lists(capture, spec, hparams) && copy_labels(capture, spec) && fill_source(capture, adapter);
    status = copied ? check_size(store, capacity, n_layers, more, capture->arena.used, &bytes, error)
                    : sp_fail(error, SP_NO_MEMORY, "no memory for the lists and labels of a capture");
    capture->fixed_bytes = bytes;
    if (status == SP_OK && !allocate(capture, capacity, sides))
        status = sp_fail(error, SP_NO_MEMORY, "no memory for a capture of %u tokens", capacity);
    if (status == SP_OK) {
        capture->info.tokens = capture->tokens;
        memcpy(capture->tokens, tokens, n_prompt * sizeof *tokens);
        status = enlist(store, capture, error);
    }
    if (status == SP_OK) {
        *out = capture;
        return SP_OK;
    }
    sp_capture_free_parts(capture);
    sp_free(capture->pages);
    sp_free(capture);
    return status;
}

void sp_capture_free_parts(sp_capture *capture)
{
    size_t n_slots = (size_t)capture->info.n_layers * capture->info.model_heads;
    for (size_t i = 0; capture->slots && i < n_slots; i++) {
        sp_head_close(capture->slots[i].head);
        for (int g = 0; g < SP_N_GRAPHS; g++) sp_free(capture->slots[i].thumbnails[g]);
    }
    for (uint32_t i = 0; capture->q && i < capture->info.n_layers; i++) sp_free(capture->q[i]);
    for (uint32_t i = 0; capture->plain && i < capture->info.n_layers; i++) sp_free(capture->plain[i]);
    sp_free(capture->plain);
    capture->plain = NULL;
    for (uint32_t i = 0; capture->prompt_sides && i < capture->info.n_layers; i++)
        sp_free(capture->prompt_sides[i]);
    sp_free(capture->prompt_sides);
    capture->prompt_sides = NULL;
    if (capture->view_texts) sp_arena_fini(capture->view_texts);
    sp_free(capture->view_texts);
    sp_free(capture->views);
    sp_free(capture->slots);
    sp_free(capture->q);
    sp_free(capture->tokens);
    sp_arena_fini(&capture->arena);
    capture->view_texts = NULL;
    capture->views = NULL;
    capture->slots = NULL;
    capture->q = NULL;
    capture->tokens = NULL;
}
