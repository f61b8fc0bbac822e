/* longformer (Beltagy et al. 2020): a window, the first tokens global, and randomly chosen global tokens.
 *
 * Random globals are drawn per layer and KV head: global_random times, of the valid positions not yet global,
 * ascending, number draw(seed, layer, kv_head, 0, t) mod their count. Their rows and columns count as those
 * of the first tokens. The choice needs the whole length, so with global_random the pattern cannot decode.
 * Columns go to the plan as words of key tiles, rows as whole intervals. Tests:
 * tests/attention/test_conformance.c */
#include "engine/attention/draw.h"
#include "engine/attention/pattern.h"

enum { MAX_RANDOM = 4096 };

typedef struct sp_longformer {
    uint32_t n_keys, window, first;
    uint32_t n_random;
    uint32_t random[MAX_RANDOM]; /* ascending */
} sp_longformer;

static void draw_random(sp_longformer *self, const sp_plan_request *request, uint32_t kv_head,
                        uint32_t wanted)
{
    uint32_t others = self->n_keys > self->first ? self->n_keys - self->first : 0;
    self->n_random = 0;
    for (uint32_t t = 0; t < wanted && t < others; t++) {
        uint64_t x = sp_draw(request->attention->seed, request->layer, kv_head, 0, t);
        uint32_t position = self->first + (uint32_t)(x % (others - t)), at = 0;
        while (at < self->n_random && self->random[at] <= position) at++, position++;
        for (uint32_t i = self->n_random++; i > at; i--) self->random[i] = self->random[i - 1];
        self->random[at] = position;
    }
}

static uint32_t longformer_row(const void *context, uint32_t query, sp_interval *out)
{
    const sp_longformer *self = context;
    uint32_t at = sp_rank_of(self->random, self->n_random, query);
    if (query < self->first || (at < self->n_random && self->random[at] == query)) {
        return sp_interval_add(out, 0, 0, self->n_keys);
    }
    uint32_t n = sp_interval_add(out, 0, 0, self->first);
    return self->window ? sp_interval_add_window(out, n, query, self->window / 2) : n;
}

static uint64_t longformer_columns(const void *context, uint32_t *key_tile)
{
    const sp_longformer *self = context;
    uint32_t at = sp_rank_of(self->random, self->n_random, (uint64_t)*key_tile * SP_TILE);
    if (at == self->n_random) return 0;
    uint64_t word = 0;
    *key_tile = self->random[at] / SP_TILE;
    for (; at < self->n_random && self->random[at] / SP_TILE == *key_tile; at++) {
        word |= (uint64_t)1 << (self->random[at] % SP_TILE);
    }
    return word;
}

static sp_status longformer_plan(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    uint32_t wanted = sp_param_u32(request, "global_random");
    uint32_t n_lists = wanted ? request->n_kv_heads : 1, group = request->n_heads / n_lists;
    sp_longformer self = {.n_keys = request->n_keys,
                          .window = sp_param_u32(request, "window"),
                          .first = sp_param_u32(request, "global_first")};
    sp_status status = sp_pattern_begin(request, n_lists, out, error);
    if (status) return status;
    for (uint32_t h = 0; h < request->n_heads; h++) out->head_list[h] = h / group;
    for (uint32_t list = 0; list < n_lists && status == SP_OK; list++) {
        draw_random(&self, request, list, wanted);
        status =
            sp_plan_add_rows(out, list, longformer_row, wanted ? longformer_columns : NULL, &self, error);
    }
    return status;
}

static uint32_t longformer_part(const sp_attention *attention, uint32_t layer)
{
    return sp_attention_param(attention, "global_random") > 0 ? layer : 0;
}

static const sp_param params[] = {
    {.name = "window",
     .summary = "keys around the query, the centre counted: odd, or 0 for none",
     .fallback = 257,
     .max = 1048577,
     .odd_only = true},
    {.name = "global_first",
     .summary = "first tokens that see and are seen by all",
     .fallback = 1,
     .max = 1048576},
    {.name = "global_random",
     .summary = "randomly chosen tokens that see and are seen by all; 0 while generating",
     .fallback = 0,
     .max = MAX_RANDOM},
    {.name = "seed", .summary = "seed of the random choice", .fallback = 0, .max = 9223372036854775807.0},
};

const sp_backend sp_backend_longformer = {
    .name = "longformer",
    .summary = "a window, the first tokens and random tokens global",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS | SP_CAP_PREFIX,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .part = longformer_part,
    .plan = longformer_plan,
};
