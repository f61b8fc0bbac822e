/* See fit_state.h. */
#include "engine/sparsefinder/fit_state.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = "SPFITST1";

typedef struct record {
    uint32_t layer, first;
    uint64_t hash; /* of what follows */
} record;

typedef struct packing {
    sp_buffer *bytes;      /* writing; or */
    const uint8_t *source; /* reading */
} packing;

static void put(void *context, float *numbers, size_t count)
{
    packing *pack = context;
    sp_buffer_append(pack->bytes, numbers, count * sizeof *numbers);
}

static void take(void *context, float *numbers, size_t count)
{
    packing *pack = context;
    memcpy(numbers, pack->source, count * sizeof *numbers);
    pack->source += count * sizeof *numbers;
}

static void count_bytes(void *context, float *numbers, size_t count)
{
    (void)numbers;
    *(size_t *)context += count * sizeof(float);
}

static void visit(const sp_fit_room *room, const record *r,
                  void (*each)(void *context, float *numbers, size_t count), void *context)
{
    sp_fit_sets_visit(&room->fit->layers[2 * (size_t)r->layer], room->fit->n_heads, room->fit->head_dim,
                      r->first, room->unit_heads, each, context);
}

static sp_head_figures *figures_of(const sp_fit_room *room, const record *r)
{
    return room->figures + (size_t)r->layer * room->fit->n_heads + r->first;
}

static sp_status fail_io(const sp_fit_state *state, sp_error *error)
{
    return sp_fail(error, SP_IO, "%s: %s", state->path, strerror(errno));
}

/* One record into room. *whole: false at the end, or where what follows is no whole record. */
static sp_status read_record(sp_fit_state *state, const sp_fit_room *room, bool *whole, sp_error *error)
{
    record r;
    size_t size = 0, figures = room->unit_heads * sizeof(sp_head_figures);
    *whole = false;
    if (fread(&r, sizeof r, 1, state->file) != 1) return ferror(state->file) ? fail_io(state, error) : SP_OK;
    if (r.layer >= room->fit->n_layers || r.first >= room->fit->n_heads || r.first % room->unit_heads > 0)
        return SP_OK;
    visit(room, &r, count_bytes, &size);
    uint8_t *bytes = sp_alloc(size + figures, 1);
    if (!bytes) return sp_fail(error, SP_NO_MEMORY, "no memory for the state of a fit");
    *whole =
        fread(bytes, size + figures, 1, state->file) == 1 && sp_hash_bytes(bytes, size + figures) == r.hash;
    if (*whole) {
        packing pack = {.source = bytes};
        visit(room, &r, take, &pack);
        memcpy(figures_of(room, &r), pack.source, figures);
        bool *done = &state->done[(r.layer * room->fit->n_heads + r.first) / room->unit_heads];
        state->n_done += !*done;
        *done = true;
    }
    sp_free(bytes);
    return ferror(state->file) ? fail_io(state, error) : SP_OK;
}

static sp_status begin_state(sp_fit_state *state, sp_error *error)
{
    rewind(state->file);
    if (ftruncate(fileno(state->file), 0) != 0 || fwrite(magic, sizeof magic, 1, state->file) != 1 ||
        fwrite(&state->job, sizeof state->job, 1, state->file) != 1 || fflush(state->file) != 0)
        return fail_io(state, error);
    state->ours = true;
    return SP_OK;
}

static sp_status read_state(sp_fit_state *state, const sp_fit_room *room, sp_error *error)
{
    char head[sizeof magic];
    uint64_t job;
    size_t n = fread(head, 1, sizeof head, state->file);
    bool ours = memcmp(head, magic, n) == 0, short_head = n < sizeof head;
    if (!short_head) short_head = fread(&job, sizeof job, 1, state->file) != 1;
    bool empty = !short_head && job != state->job && fgetc(state->file) == EOF;
    if (ferror(state->file)) return fail_io(state, error);
    if (ours && (short_head || empty)) return begin_state(state, error); /* killed before anything was done */
    if (!ours || short_head)
        return sp_fail_param(error, SP_DATA, "out",
                             "%s is no state of a fit: remove it, or choose another --out", state->path);
    if (job != state->job)
        return sp_fail_param(error, SP_DATA, "out",
                             "%s is the state of another fit (other model, text or options): remove it, or "
                             "choose another --out",
                             state->path);
    long end = ftell(state->file);
    for (bool whole = true; end >= 0 && whole;) {
        sp_status status = read_record(state, room, &whole, error);
        if (status != SP_OK) return status;
        if (whole) end = ftell(state->file);
    }
    if (end < 0 || ftruncate(fileno(state->file), end) != 0 || fseek(state->file, end, SEEK_SET) != 0)
        return fail_io(state, error);
    state->ours = true;
    return SP_OK;
}

sp_status sp_fit_state_open(const char *path, uint64_t job, const sp_fit_room *room, sp_fit_state *out,
                            sp_error *error)
{
    *out = (sp_fit_state){.job = job, .path = sp_copy_text(path, strlen(path))};
    out->done = sp_alloc_zero((size_t)room->fit->n_layers * room->fit->n_heads / room->unit_heads, 1);
    if (!out->path || !out->done) return sp_fail(error, SP_NO_MEMORY, "no memory for the state of a fit");
    out->file = fopen(path, "r+b");
    if (out->file) return read_state(out, room, error);
    if (errno != ENOENT) return sp_fail_create(path, error); /* what is there is not begun again */
    out->file = fopen(path, "w+b");
    return out->file ? begin_state(out, error) : sp_fail_create(path, error);
}

sp_status sp_fit_state_add(sp_fit_state *state, const sp_fit_room *room, uint32_t layer, uint32_t first,
                           sp_error *error)
{
    record r = {.layer = layer, .first = first};
    sp_buffer bytes;
    sp_buffer_init(&bytes, SIZE_MAX / 2);
    packing pack = {.bytes = &bytes};
    visit(room, &r, put, &pack);
    sp_buffer_append(&bytes, figures_of(room, &r), room->unit_heads * sizeof(sp_head_figures));
    sp_status status = SP_OK;
    if (bytes.failed) {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for the state of a fit");
    } else {
        r.hash = sp_hash_bytes(bytes.data, bytes.size);
        if (fwrite(&r, sizeof r, 1, state->file) != 1 ||
            fwrite(bytes.data, bytes.size, 1, state->file) != 1 || fflush(state->file) != 0)
            status = fail_io(state, error);
    }
    sp_buffer_fini(&bytes);
    if (status != SP_OK) return status;
    state->done[(layer * room->fit->n_heads + first) / room->unit_heads] = true;
    state->n_done++;
    return SP_OK;
}

void sp_fit_state_close(sp_fit_state *state, bool over)
{
    bool useless = over || (state->file && state->n_done == 0 && state->ours);
    if (state->file) fclose(state->file);
    if (useless && state->path) remove(state->path);
    sp_free(state->path);
    sp_free(state->done);
    *state = (sp_fit_state){0};
}
