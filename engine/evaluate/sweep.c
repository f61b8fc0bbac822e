/* See sweep.h: points in memory, fronts, CSV. */
#include "engine/evaluate/sweep.h"

#include <math.h>
#include <string.h>

#define TEXT_BYTES ((size_t)16 << 20)

void sp_sweep_init(sp_sweep *sweep)
{
    *sweep = (sp_sweep){0};
    sp_arena_init(&sweep->arena, TEXT_BYTES);
}

void sp_sweep_fini(sp_sweep *sweep)
{
    sp_free(sweep->points);
    sp_arena_fini(&sweep->arena);
    *sweep = (sp_sweep){0};
}

static bool copy_text(sp_sweep *sweep, const char **text)
{
    *text = sp_arena_copy(&sweep->arena, *text, strlen(*text));
    return *text != NULL;
}

sp_status sp_sweep_add(sp_sweep *sweep, const sp_sweep_point *point, sp_error *error)
{
    if (sweep->n_points == SP_SWEEP_MAX_POINTS)
        return sp_fail(error, SP_TOO_LARGE, "a sweep holds at most %u points", SP_SWEEP_MAX_POINTS);
    if (sweep->n_points == sweep->capacity) {
        size_t capacity = sweep->capacity > 0 ? 2 * sweep->capacity : 64;
        sp_sweep_point *points = sp_alloc(capacity, sizeof *points);
        if (!points) return sp_fail(error, SP_NO_MEMORY, "no memory for the points of a sweep");
        if (sweep->n_points > 0) memcpy(points, sweep->points, sweep->n_points * sizeof *points);
        sp_free(sweep->points);
        sweep->points = points;
        sweep->capacity = capacity;
    }
    sp_sweep_point *copy = &sweep->points[sweep->n_points];
    *copy = *point;
    if (!copy_text(sweep, &copy->attention) || !copy_text(sweep, &copy->grid) ||
        !copy_text(sweep, &copy->device))
        return sp_fail(error, SP_NO_MEMORY, "no memory for the points of a sweep");
    sweep->n_points++;
    return SP_OK;
}

const sp_sweep_point *sp_sweep_find(const sp_sweep *sweep, const char *attention, const char *device,
                                    uint32_t length, uint32_t windows)
{
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *point = &sweep->points[i];
        if (point->length == length && point->windows == windows &&
            strcmp(point->attention, attention) == 0 && strcmp(point->device, device) == 0)
            return point;
    }
    return NULL;
}

/* Whether b is at least as sparse as a and keeps more, or as much and is sparser; of equals the first stays.
 */
static bool beats(double density_b, double kept_b, double density_a, double kept_a, bool before)
{
    if (density_b > density_a || !(kept_b >= kept_a)) return false;
    return density_b < density_a || kept_b > kept_a || before;
}

static bool on_front(const sp_sweep *sweep, size_t index, bool perplexity)
{
    const sp_sweep_point *a = &sweep->points[index];
    double kept = perplexity ? -a->perplexity : a->recall;
    if (isnan(kept) || (perplexity && a->sees_later)) return false;
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *b = &sweep->points[i];
        if (i == index || b->length != a->length || (perplexity && b->sees_later)) continue;
        if (beats(b->density, perplexity ? -b->perplexity : b->recall, a->density, kept, i < index))
            return false;
    }
    return true;
}

void sp_sweep_fronts(sp_sweep *sweep)
{
    for (size_t i = 0; i < sweep->n_points; i++) {
        sweep->points[i].recall_front = on_front(sweep, i, false);
        sweep->points[i].perplexity_front = on_front(sweep, i, true);
    }
}

/* --- CSV --- */

static void write_number(sp_buffer *out, double value)
{
    sp_json_writer json;
    sp_buffer_text(out, ",");
    if (isnan(value)) return;
    sp_json_writer_init(&json, out);
    sp_json_number(&json, value);
}

/* A field in quotes, its own doubled (RFC 4180). */
static void write_quoted(sp_buffer *out, const char *text)
{
    sp_buffer_text(out, "\"");
    for (; *text; text++) {
        if (*text == '"') sp_buffer_text(out, "\"");
        sp_buffer_append(out, text, 1);
    }
    sp_buffer_text(out, "\"");
}

void sp_sweep_write_csv(const sp_sweep *sweep, sp_buffer *out)
{
    sp_buffer_text(out, "grid,value,attention,device,length,windows,sparsity,recall,mass,perplexity,"
                        "perplexity_dense,prefill_seconds,prefill_seconds_dense,decode_seconds,"
                        "decode_seconds_dense,selection_sees_later_tokens,recall_front,perplexity_front\n");
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *p = &sweep->points[i];
        write_quoted(out, p->grid);
        write_number(out, p->value);
        sp_buffer_text(out, ",");
        write_quoted(out, p->attention);
        sp_buffer_text(out, ",");
        write_quoted(out, p->device);
        sp_buffer_format(out, ",%u,%u", p->length, p->windows);
        const double numbers[] = {1 - p->density,
                                  p->recall,
                                  p->mass,
                                  p->perplexity,
                                  p->perplexity_dense,
                                  p->prefill_seconds,
                                  p->prefill_seconds_dense,
                                  p->decode_seconds,
                                  p->decode_seconds_dense};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) write_number(out, numbers[k]);
        sp_buffer_format(out, ",%d,%d,%d\n", p->sees_later, p->recall_front, p->perplexity_front);
    }
}
