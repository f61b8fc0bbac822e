/* Drivers of the ops on keys kept as sets (kernels/predict.h). Reading turns words that lie page by page into
 * one row a set: a line of 8 tiles at a time, and tiles are dealt to threads. Tests:
 * tests/kernels/test_sets.c
 */
#include <stdatomic.h>

#include "kernels/cpu/predict.h"

#define READ_TILES 32 /* tiles of a task */
#define LINE 8        /* tiles whose words of one set are written together */

typedef struct read_job {
    const sp_predict_slots *slots;
    const sp_set_args *args;
    size_t tiles;
    _Atomic uint32_t *counts;
} read_job;

static void ask_page(const read_job *job, size_t tile)
{
    if (tile >= job->tiles) return;
    const uint64_t *page = job->args->view.pages[tile];
    for (size_t i = 0; i < job->args->n; i++) __builtin_prefetch(page + job->args->sets[i]);
}

static void read_task(void *context, size_t task, size_t worker)
{
    const read_job *job = context;
    const sp_set_args *args = job->args;
    size_t begin = task * READ_TILES, end = begin + READ_TILES < job->tiles ? begin + READ_TILES : job->tiles;
    (void)worker;
    for (size_t t = begin; t < begin + LINE; t++) ask_page(job, t);
    for (size_t line = begin; line < end; line += LINE) {
        size_t n = end - line < LINE ? end - line : LINE;
        for (size_t t = line + LINE; t < line + 2 * LINE && t < end; t++) ask_page(job, t);
        for (size_t i = 0; i < args->n; i++) {
            uint64_t *to = args->words + i * job->tiles + line;
            for (size_t t = 0; t < n; t++) to[t] = args->view.pages[line + t][args->sets[i]];
        }
    }
    size_t left = args->view.n_keys - (job->tiles - 1) * SP_TILE;
    for (size_t i = 0; i < args->n; i++) {
        const uint64_t *row = args->words + i * job->tiles;
        if (end == job->tiles) args->words[i * job->tiles + end - 1] &= UINT64_MAX >> (SP_TILE - left);
        atomic_fetch_add_explicit(&job->counts[i], job->slots->count_bits(row + begin, end - begin),
                                  memory_order_relaxed);
    }
}

void sp_cpu_read_sets(sp_device *device, const sp_set_args *args)
{
    read_job job = {.slots = sp_predict_slots_for(sp_cpu_of(device)->level),
                    .args = args,
                    .tiles = ((size_t)args->view.n_keys + SP_TILE - 1) / SP_TILE,
                    .counts = (_Atomic uint32_t *)args->counts};
    for (size_t i = 0; i < args->n; i++) atomic_init(&job.counts[i], 0);
    sp_threads_run(device->threads, (job.tiles + READ_TILES - 1) / READ_TILES, read_task, &job);
}

void sp_cpu_list_set(const sp_device *device, const sp_set_list *list)
{
    const sp_predict_slots *slots = sp_predict_slots_for(sp_cpu_of(device)->level);
    size_t words = ((size_t)list->count + 63) / 64;
    if (list->keys) slots->list_set(list->words, list->n_tiles, list->count, list->keys);
    for (uint32_t i = 0; i < list->n_others; i++)
        slots->share_set(list->words, list->all_words + (size_t)list->others[i] * list->n_tiles,
                         list->n_tiles, list->shared + i * words);
}
