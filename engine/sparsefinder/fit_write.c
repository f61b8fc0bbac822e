/* Writes a fit file (engine/README.md, "The fit file"): names and metadata made from the sp_fit, the tensors
 * laid out by sp_safetensors_write in one order, a temporary file beside the target, fsync, rename. So a
 * reader sees the old file or the new one, and the same fit gives the same bytes. Of the centroids, bins and
 * thresholds of a set the first has no size in its name, but a threshold with one keeps it. Tests:
 * tests/unit/engine/test_fit_file.c */
#include "engine/sparsefinder/fit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/json.h"
#include "models/weights.h"

#define MAX_NAME 96
#define MAX_BYTES ((size_t)4 << 30)

typedef struct writing {
    const sp_fit *fit;
    sp_tensor_entry *entries;
    char (*names)[MAX_NAME]; /* (capacity) */
    size_t n, capacity;
    char prefix[MAX_NAME / 2];
} writing;

static size_t count_tensors(const sp_fit *fit)
{
    size_t n = 0;
    for (size_t i = 0; i < 2 * (size_t)fit->n_layers; i++)
        for (size_t k = 0; k < fit->layers[i].n_sets; k++) {
            const sp_fit_set *set = &fit->layers[i].sets[k];
            n += 4 + set->n_centroids + set->n_bins + set->n_thresholds;
        }
    return n;
}

/* size 0: no size in the name. */
static void add(writing *w, const char *leaf, uint32_t size, const float *values, uint32_t rank, size_t a,
                size_t b, size_t c, size_t d)
{
    char *name = w->names[w->n];
    if (size)
        snprintf(name, MAX_NAME, "%s%s.%u", w->prefix, leaf, (unsigned)size);
    else
        snprintf(name, MAX_NAME, "%s%s", w->prefix, leaf);
    w->entries[w->n++] = (sp_tensor_entry){.name = name,
                                           .tensor = {.dtype = SP_F32,
                                                      .rank = rank,
                                                      .shape = {a, b, c, d},
                                                      .data = values,
                                                      .bytes = a * b * c * d * sizeof *values}};
}

static void add_set(writing *w, const sp_fit_set *set)
{
    size_t heads = w->fit->n_heads, d = w->fit->head_dim, r = set->rank;
    size_t wide = set->type == SP_FIT_BLOCK ? set->size * r : r;
    add(w, "q_proj.weight", 0, set->q_weight, 3, heads, d, r, 1);
    add(w, "q_proj.bias", 0, set->q_bias, 2, heads, r, 1, 1);
    if (!set->shared) {
        add(w, "k_proj.weight", 0, set->k_weight, 3, set->n_k_maps, d, r, 1);
        add(w, "k_proj.bias", 0, set->k_bias, 2, set->n_k_maps, r, 1, 1);
    }
    for (size_t i = 0; i < set->n_centroids; i++) {
        const sp_fit_table *t = &set->centroids[i];
        add(w, "centroids", i ? t->size : 0, t->values, 4, heads, t->runs, t->size, wide);
    }
    for (size_t i = 0; i < set->n_bins; i++)
        add(w, "bins", i ? set->bins[i].size : 0, set->bins[i].values, 3, heads, r, set->bins[i].size - 1, 1);
    for (size_t i = 0; i < set->n_thresholds; i++)
        add(w, "thresholds", set->thresholds[i].size, set->thresholds[i].values, 1, heads, 1, 1, 1);
}

static void add_all(writing *w)
{
    for (uint32_t i = 0; i < 2 * w->fit->n_layers; i++)
        for (size_t k = 0; k < w->fit->layers[i].n_sets; k++) {
            const sp_fit_set *set = &w->fit->layers[i].sets[k];
            const char *kind = i % 2 ? "cross" : "self";
            char part[24] = "";
            if (set->type == SP_FIT_DOT) snprintf(part, sizeof part, "dot.");
            if (set->type == SP_FIT_CLUSTER) snprintf(part, sizeof part, "cluster%u.", (unsigned)set->size);
            if (set->type == SP_FIT_BLOCK) snprintf(part, sizeof part, "block%u.", (unsigned)set->size);
            snprintf(w->prefix, sizeof w->prefix, "layers.%u.%s.%s", (unsigned)(i / 2), kind, part);
            add_set(w, set);
        }
}

/* --- metadata --- */

#define MAX_METADATA 12
typedef struct metadata {
    sp_metadata_entry entries[MAX_METADATA];
    char texts[MAX_METADATA][72];
    size_t n;
} metadata;

static void say(metadata *m, const char *key, const char *text)
{
    snprintf(m->texts[m->n], sizeof m->texts[m->n], "%s", text);
    m->entries[m->n] =
        (sp_metadata_entry){.key = key, .value = m->texts[m->n], .size = strlen(m->texts[m->n])};
    m->n++;
}

static void say_int(metadata *m, const char *key, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    say(m, key, text);
}

static void say_number(metadata *m, const char *key, double value)
{
    char room[64];
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_lend(&text, room, sizeof room);
    sp_json_writer_init(&writer, &text);
    sp_json_number(&writer, value);
    sp_buffer_append(&text, "", 1);
    say(m, key, text.data);
}

/* The rank of the first set there is. */
static uint32_t first_rank(const sp_fit *fit)
{
    for (size_t i = 0; i < 2 * (size_t)fit->n_layers; i++)
        if (fit->layers[i].n_sets) return fit->layers[i].sets[0].rank;
    return 0;
}

static void say_all(metadata *m, const sp_fit *fit)
{
    say(m, "format", "sparsed.sparsefinder.v1");
    if (fit->model[0]) say(m, "model", fit->model);
    say_int(m, "layers", fit->n_layers);
    say_int(m, "heads", fit->n_heads);
    say_int(m, "d", fit->head_dim);
    say_int(m, "r", first_rank(fit));
    if (fit->alpha > 0) say_number(m, "alpha", fit->alpha);
    if (fit->gold_mass > 0) say_number(m, "gold_mass", fit->gold_mass);
    say_int(m, "seed", fit->seed);
    if (fit->corpus[0]) say(m, "corpus", fit->corpus);
    say(m, "rope", fit->rope_pre ? "pre" : "post");
    if (fit->length) say_int(m, "length", fit->length);
}

/* --- the file --- */

static sp_status fail_system(const char *path, const char *what, sp_error *error)
{
    return sp_fail(error, SP_IO, "%.200s: %s: %s", path, what, strerror(errno));
}

static bool write_all(int fd, const char *data, size_t n)
{
    while (n) {
        ssize_t done = write(fd, data, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        data += done;
        n -= (size_t)done;
    }
    return true;
}

/* Makes the rename last: the folder's entry reaches the disk too. */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? sp_copy_text(path, (size_t)(slash - path) + 1) : sp_copy_text(".", 1);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    sp_free(folder);
}

static sp_status replace_file(const char *path, const sp_buffer *bytes, sp_error *error)
{
    sp_buffer name;
    sp_buffer_init(&name, 8192);
    sp_buffer_format(&name, "%s.part", path); /* what a killed process left is written anew */
    if (!sp_buffer_append(&name, "", 1)) {
        sp_status failed = sp_buffer_path_fail(&name, path, error);
        sp_buffer_fini(&name);
        return failed;
    }
    sp_status status = SP_OK;
    int fd = open(name.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) status = sp_fail_create(name.data, error);
    if (status == SP_OK && (!write_all(fd, bytes->data, bytes->size) || fsync(fd) != 0))
        status = fail_system(path, "writing", error);
    if (fd >= 0 && close(fd) != 0 && status == SP_OK) status = fail_system(path, "closing", error);
    if (status == SP_OK && rename(name.data, path) != 0) status = sp_fail_create(path, error);
    if (status == SP_OK)
        sync_folder(path);
    else if (fd >= 0)
        (void)unlink(name.data);
    sp_buffer_fini(&name);
    return status;
}

sp_status sp_fit_write(const sp_fit *fit, const char *path, sp_error *error)
{
    size_t n = count_tensors(fit);
    writing w = {.fit = fit, .capacity = n};
    metadata m = {.n = 0};
    sp_buffer bytes;
    w.entries = n ? sp_alloc(n, sizeof *w.entries) : NULL;
    w.names = n ? sp_alloc(n, sizeof *w.names) : NULL;
    sp_status status = SP_OK;
    sp_buffer_init(&bytes, MAX_BYTES);
    if (n && (!w.entries || !w.names))
        status = sp_fail(error, SP_NO_MEMORY, "%.200s: no memory for %zu tensors", path, n);
    if (status == SP_OK) {
        add_all(&w);
        say_all(&m, fit);
        status = sp_safetensors_write(w.entries, w.n, m.entries, m.n, &bytes, error);
    }
    if (status == SP_OK) status = replace_file(path, &bytes, error);
    sp_buffer_fini(&bytes);
    sp_free(w.entries);
    sp_free(w.names);
    return status;
}
