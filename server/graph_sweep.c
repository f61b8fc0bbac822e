/* See graph_sweep.h. */
#include "server/graph_sweep.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "server/asked.h"

#define ARENA_BYTES ((size_t)8 << 20)
#define MAX_AXES 8

struct sp_graph_sweeps {
    pthread_mutex_t lock;
    sp_graph_sweep_job *all; /* newest first */
    size_t count;
};

/* --- the table --- */

sp_status sp_graph_sweeps_open(sp_graph_sweeps **out, sp_error *error)
{
    *out = sp_alloc_zero(1, sizeof **out);
    if (!*out) return sp_fail(error, SP_NO_MEMORY, "no memory for sweeps");
    pthread_mutex_init(&(*out)->lock, NULL);
    return SP_OK;
}

static void free_sweep(sp_graph_sweep_job *sweep)
{
    sp_free(sweep->points);
    sp_free(sweep->attentions);
    sp_arena_fini(&sweep->arena);
    sp_free(sweep);
}

void sp_graph_sweeps_close(sp_graph_sweeps *sweeps)
{
    if (!sweeps) return;
    for (sp_graph_sweep_job *sweep = sweeps->all, *next; sweep; sweep = next) {
        next = sweep->next;
        free_sweep(sweep);
    }
    pthread_mutex_destroy(&sweeps->lock);
    sp_free(sweeps);
}

/* The oldest that is over leaves; false: all run. With the lock held. */
static bool make_place(sp_graph_sweeps *sweeps)
{
    sp_graph_sweep_job **oldest = NULL;
    if (sweeps->count < SP_MAX_SWEEPS) return true;
    for (sp_graph_sweep_job **at = &sweeps->all; *at; at = &(*at)->next)
        if ((*at)->state != SP_GRAPH_SWEEP_RUNNING) oldest = at;
    if (!oldest) return false;
    sp_graph_sweep_job *gone = *oldest;
    *oldest = gone->next;
    sweeps->count--;
    gone->dropped = true;
    if (gone->holds == 0) free_sweep(gone);
    return true;
}

sp_status sp_graph_sweeps_add(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep, sp_error *error)
{
    pthread_mutex_lock(&sweeps->lock);
    bool place = make_place(sweeps);
    if (place) {
        sweep->holds = 1;
        sweep->started = sp_now();
        sweep->next = sweeps->all;
        sweeps->all = sweep;
        sweeps->count++;
    }
    pthread_mutex_unlock(&sweeps->lock);
    if (place) return SP_OK;
    free_sweep(sweep);
    return sp_fail(error, SP_BUSY, "%u sweeps run already; try later", SP_MAX_SWEEPS);
}

sp_graph_sweep_job *sp_graph_sweeps_find(sp_graph_sweeps *sweeps, const char *capture, const char *id,
                                         uint64_t owner)
{
    pthread_mutex_lock(&sweeps->lock);
    sp_graph_sweep_job *sweep = sweeps->all;
    while (sweep &&
           (strcmp(sweep->id, id) != 0 || strcmp(sweep->capture, capture) != 0 || sweep->owner != owner))
        sweep = sweep->next;
    if (sweep) sweep->holds++;
    pthread_mutex_unlock(&sweeps->lock);
    return sweep;
}

void sp_graph_sweeps_release(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep)
{
    pthread_mutex_lock(&sweeps->lock);
    bool last = --sweep->holds == 0 && sweep->dropped;
    pthread_mutex_unlock(&sweeps->lock);
    if (last) free_sweep(sweep);
}

void sp_graph_sweep_note(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep,
                         const sp_graph_sweep_point *point)
{
    pthread_mutex_lock(&sweeps->lock);
    sweep->points[sweep->done++] = *point;
    pthread_mutex_unlock(&sweeps->lock);
}

void sp_graph_sweep_end(sp_graph_sweeps *sweeps, sp_graph_sweep_job *sweep, sp_status status,
                        const sp_error *error)
{
    pthread_mutex_lock(&sweeps->lock);
    sweep->state = status == SP_OK ? SP_GRAPH_SWEEP_READY : SP_GRAPH_SWEEP_FAILED;
    if (status != SP_OK) sweep->error = *error;
    pthread_mutex_unlock(&sweeps->lock);
}

bool sp_graph_sweep_dropped(sp_graph_sweeps *sweeps, const sp_graph_sweep_job *sweep)
{
    pthread_mutex_lock(&sweeps->lock);
    bool dropped = sweep->dropped || sweep->cancelled;
    pthread_mutex_unlock(&sweeps->lock);
    return dropped;
}

size_t sp_graph_sweeps_running(sp_graph_sweeps *sweeps, uint64_t owner, sp_graph_sweep_running *out,
                               size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&sweeps->lock);
    for (const sp_graph_sweep_job *sweep = sweeps->all; sweep && n < max; sweep = sweep->next) {
        if (sweep->owner != owner || sweep->state != SP_GRAPH_SWEEP_RUNNING || sweep->cancelled) continue;
        out[n].started = sweep->started;
        memcpy(out[n++].id, sweep->id, sizeof sweep->id);
    }
    pthread_mutex_unlock(&sweeps->lock);
    return n;
}

bool sp_graph_sweeps_cancel(sp_graph_sweeps *sweeps, uint64_t owner, const char *id)
{
    pthread_mutex_lock(&sweeps->lock);
    sp_graph_sweep_job *sweep = sweeps->all;
    while (sweep && (strcmp(sweep->id, id) != 0 || sweep->owner != owner)) sweep = sweep->next;
    bool found = sweep && sweep->state == SP_GRAPH_SWEEP_RUNNING && !sweep->cancelled;
    if (found) sweep->cancelled = true;
    pthread_mutex_unlock(&sweeps->lock);
    return found;
}

/* --- the body --- */

/* A parameter and its values. */
typedef struct axis {
    const char *name;
    sp_item *values[256];
    size_t n;
} axis;

static void write_item(const sp_body *body, sp_item *item, sp_json_writer *out)
{
    double value;
    size_t size;
    if (sp_item_is_text(item)) {
        const char *text = sp_item_text(body, item, &size);
        if (!text) sp_buffer_break(out->out);
        sp_json_string(out, text ? text : "", text ? size : 0);
    } else if (sp_item_is_between(item, -1e300, 1e300, &value)) {
        sp_json_number(out, value);
    } else if (sp_item_is_object(item)) {
        sp_json_open(out, '{');
        for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one)) {
            sp_json_key(out, sp_item_name(one));
            write_item(body, one, out);
        }
        sp_json_close(out, '}');
    } else {
        sp_json_null(out);
    }
}

static bool on_axis(const axis *axes, size_t n_axes, const char *name)
{
    for (size_t i = 0; i < n_axes; i++)
        if (strcmp(axes[i].name, name) == 0) return true;
    return false;
}

/* The attention object with the chosen value of every axis. */
static void write_attention(const sp_body *body, sp_item *base, const axis *axes, size_t n_axes,
                            const size_t *chosen, sp_json_writer *out)
{
    static const char *const kept[] = {"normalizer", "heads"};
    sp_item *backend = sp_item_is_text(base) ? base : sp_item_find(base, "backend");
    sp_item *params = sp_item_is_object(base) ? sp_item_find(base, "params") : NULL;
    sp_json_open(out, '{');
    if (backend) {
        sp_json_key(out, "backend");
        write_item(body, backend, out);
    }
    sp_json_key(out, "params");
    sp_json_open(out, '{');
    for (sp_item *one = params ? sp_item_first(params) : NULL; one; one = sp_item_next(one)) {
        if (on_axis(axes, n_axes, sp_item_name(one))) continue;
        sp_json_key(out, sp_item_name(one));
        write_item(body, one, out);
    }
    for (size_t i = 0; i < n_axes; i++) {
        sp_json_key(out, axes[i].name);
        write_item(body, axes[i].values[chosen[i]], out);
    }
    sp_json_close(out, '}');
    for (size_t i = 0; i < 2 && sp_item_is_object(base); i++) {
        sp_item *item = sp_item_find(base, kept[i]);
        if (!item) continue;
        sp_json_key(out, kept[i]);
        write_item(body, item, out);
    }
    sp_json_close(out, '}');
}

static sp_status read_grid(const sp_body *body, axis *axes, size_t *n_axes, size_t *n_combinations,
                           sp_error *error)
{
    sp_item *grid = sp_body_find(body, "grid");
    *n_axes = 0;
    *n_combinations = 1;
    if (!grid) return SP_OK;
    if (!sp_item_is_object(grid) || sp_item_count(grid) > MAX_AXES)
        return sp_fail_param(error, SP_INVALID, "grid",
                             "grid must be an object of at most %d parameters, each an array of values",
                             MAX_AXES);
    for (sp_item *one = sp_item_first(grid); one; one = sp_item_next(one)) {
        axis *a = &axes[(*n_axes)++];
        size_t n = sp_item_is_array(one) ? sp_item_count(one) : 0;
        *a = (axis){.name = sp_item_name(one)};
        if (n == 0 || n > 256) {
            char field[96];
            (void)snprintf(field, sizeof field, "grid.%.60s", a->name);
            return sp_fail_param(error, SP_INVALID, field, "%s must be an array of 1 to 256 values", field);
        }
        for (sp_item *value = sp_item_first(one); value; value = sp_item_next(value))
            a->values[a->n++] = value;
        *n_combinations *= n;
        if (*n_combinations > SP_MAX_SWEEP_POINTS)
            return sp_fail_param(error, SP_TOO_LARGE, "grid", "a sweep has at most %u points",
                                 SP_MAX_SWEEP_POINTS);
    }
    return SP_OK;
}

/* One combination, checked as any attention is; a bad value of the grid is named as such. */
static sp_status add_attention(sp_graph_sweep_job *sweep, const sp_capture_info *info, const sp_buffer *text,
                               const axis *axes, size_t n_axes, sp_error *error)
{
    const sp_attention_host host = {.n_heads = info->model_heads,
                                    .n_layers = info->model_layers,
                                    .model_normalizer = info->attention->normalizer};
    static const char prefix[] = "attention.params.";
    size_t at = sweep->n_attentions;
    sp_status status = text->failed ? sp_fail(error, SP_NO_MEMORY, "no memory for a sweep") : SP_OK;
    if (status == SP_OK)
        status = sp_attention_parse(text->data, text->size, &host, &sweep->attentions[at], error);
    for (uint32_t l = 0; l < sweep->n_layers && status == SP_OK; l++)
        status = sp_attention_resolve(&sweep->attentions[at], sweep->fit, sweep->layers[l],
                                      sweep->layers[l] + 1, SP_ATTEND_SELF, error);
    if (status != SP_OK && error && strncmp(error->param, prefix, sizeof prefix - 1) == 0 &&
        on_axis(axes, n_axes, error->param + sizeof prefix - 1)) {
        char name[96];
        (void)snprintf(name, sizeof name, "grid.%.60s", error->param + sizeof prefix - 1);
        memcpy(error->param, name, strlen(name) + 1);
    }
    if (status != SP_OK) return status;
    sweep->texts[at] = sp_arena_copy(&sweep->arena, text->data, text->size);
    if (!sweep->texts[at]) return sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
    sweep->n_attentions++;
    return SP_OK;
}

static sp_status read_attentions(const sp_body *body, const sp_capture_info *info, sp_graph_sweep_job *sweep,
                                 const axis *axes, size_t n_axes, size_t n, sp_error *error)
{
    sp_item *base = sp_body_find(body, "attention");
    size_t chosen[MAX_AXES] = {0};
    sp_status status = SP_OK;
    if (!base) return sp_fail_param(error, SP_INVALID, "attention", "attention is missing");
    if (!sp_item_is_text(base) && !sp_item_is_object(base))
        return sp_fail_param(error, SP_INVALID, "attention", "attention must be a string or an object");
    sweep->attentions = sp_alloc(n, sizeof *sweep->attentions);
    sweep->texts = sp_arena_alloc(&sweep->arena, n, sizeof *sweep->texts);
    if (!sweep->attentions || !sweep->texts) return sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
    for (size_t c = 0; c < n && status == SP_OK; c++) {
        sp_buffer text;
        sp_json_writer writer;
        size_t rest = c;
        for (size_t i = n_axes; i-- > 0; rest /= axes[i].n) chosen[i] = rest % axes[i].n;
        sp_buffer_init(&text, 65536);
        sp_json_writer_init(&writer, &text);
        write_attention(body, base, axes, n_axes, chosen, &writer);
        status = add_attention(sweep, info, &text, axes, n_axes, error);
        sp_buffer_fini(&text);
    }
    return status;
}

/* Kept layers or heads: those named, else all. */
static sp_status read_list(const sp_body *body, const char *name, const uint32_t *kept, uint32_t n_kept,
                           sp_arena *arena, const uint32_t **out, uint32_t *n_out, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    uint32_t *list = sp_arena_alloc(arena, n_kept, sizeof *list);
    *out = list;
    *n_out = 0;
    if (!list) return sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
    if (!item) {
        memcpy(list, kept, n_kept * sizeof *list);
        *n_out = n_kept;
        return SP_OK;
    }
    bool good = sp_item_is_array(item) && sp_item_count(item) > 0;
    for (uint32_t i = 0; i < n_kept && good; i++) {
        for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one)) {
            double value;
            if (!sp_item_is_integer(one, 0, 1e9, &value) || (uint32_t)value != kept[i]) continue;
            list[(*n_out)++] = kept[i];
            break;
        }
    }
    if (good && *n_out == sp_item_count(item)) return SP_OK;
    return sp_fail_param(error, SP_INVALID, name, "%s must be an array of different captured numbers", name);
}

static void make_id(sp_graph_sweep_job *sweep)
{
    unsigned char random[8] = {0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 0, sizeof random);
    (void)snprintf(sweep->id, sizeof sweep->id, "sweep-");
    for (size_t i = 0; i < sizeof random; i++)
        (void)snprintf(sweep->id + 6 + 2 * i, sizeof sweep->id - 6 - 2 * i, "%02x", random[i]);
}

sp_status sp_graph_sweep_read(const sp_body *body, const sp_capture_info *info, const sp_fit *fit,
                              sp_graph_sweep_job **out, sp_error *error)
{
    static const char *const known[] = {"attention", "grid", "layers", "heads", NULL};
    axis *axes = sp_arena_alloc(body->arena, MAX_AXES, sizeof *axes);
    sp_graph_sweep_job *sweep = sp_alloc_zero(1, sizeof *sweep);
    size_t n_axes = 0, n = 1;
    if (!axes || !sweep) {
        sp_free(sweep);
        return sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
    }
    sp_arena_init(&sweep->arena, ARENA_BYTES);
    make_id(sweep);
    sweep->fit = fit;
    (void)snprintf(sweep->capture, sizeof sweep->capture, "%s", info->id);
    sp_status status = sp_asked_only(body, known, error);
    if (!status)
        status = read_list(body, "layers", info->layers, info->n_layers, &sweep->arena, &sweep->layers,
                           &sweep->n_layers, error);
    if (!status)
        status = read_list(body, "heads", info->heads, info->n_heads, &sweep->arena, &sweep->heads,
                           &sweep->n_heads, error);
    if (!status) status = read_grid(body, axes, &n_axes, &n, error);
    sweep->total = n * sweep->n_layers * sweep->n_heads;
    if (!status && sweep->total > SP_MAX_SWEEP_POINTS)
        status = sp_fail_param(error, SP_TOO_LARGE, "grid", "%zu points are more than the %u of a sweep",
                               sweep->total, SP_MAX_SWEEP_POINTS);
    if (!status) status = read_attentions(body, info, sweep, axes, n_axes, n, error);
    if (!status) sweep->points = sp_alloc(sweep->total, sizeof *sweep->points);
    if (!status && !sweep->points) status = sp_fail(error, SP_NO_MEMORY, "no memory for a sweep");
    if (status)
        free_sweep(sweep);
    else
        *out = sweep;
    return status;
}

/* --- the answer --- */

static void write_point(const sp_graph_sweep_job *sweep, const sp_graph_sweep_point *point,
                        sp_json_writer *out)
{
    const char *text = sweep->texts[point->attention];
    sp_json_open(out, '{');
    sp_json_key(out, "attention");
    sp_json_raw(out, text, strlen(text));
    sp_json_key(out, "layer");
    sp_json_uint(out, point->layer);
    sp_json_key(out, "head");
    sp_json_uint(out, point->head);
    static const char *const names[] = {"edges_gold", "edges_pred",    "edges_both", "pairs_valid",
                                        "rows_exact", "rows_empty",    "recall",     "precision",
                                        "sparsity",   "sparsity_gold", "mass_recall"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double value = 0;
        (void)sp_record_value(&point->record, names[i], &value);
        sp_json_key(out, names[i]);
        sp_json_number(out, value);
    }
    sp_json_close(out, '}');
}

void sp_graph_sweep_write(sp_graph_sweeps *sweeps, const sp_graph_sweep_job *sweep, sp_json_writer *out)
{
    static const char *const states[] = {"running", "ready", "failed"};
    pthread_mutex_lock(&sweeps->lock);
    sp_json_open(out, '{');
    sp_json_key(out, "id");
    sp_json_cstring(out, sweep->id);
    sp_json_key(out, "capture");
    sp_json_cstring(out, sweep->capture);
    sp_json_key(out, "state");
    sp_json_cstring(out, states[sweep->state]);
    sp_json_key(out, "error");
    sp_json_cstring(out, sweep->state == SP_GRAPH_SWEEP_FAILED ? sweep->error.message : NULL);
    sp_json_key(out, "done");
    sp_json_uint(out, sweep->done);
    sp_json_key(out, "total");
    sp_json_uint(out, sweep->total);
    sp_json_key(out, "points");
    sp_json_open(out, '[');
    for (size_t i = 0; i < sweep->done; i++) write_point(sweep, &sweep->points[i], out);
    sp_json_close(out, ']');
    sp_json_close(out, '}');
    pthread_mutex_unlock(&sweeps->lock);
}
