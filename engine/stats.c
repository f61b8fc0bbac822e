/* See stats.h. */
#include "engine/stats.h"

#include <math.h>

static const double first_token_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                            1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double inter_token_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                            .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double request_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double count_bounds[] = {1,   2,   5,   10,  20,  50,  100, 200, 500, 1e3,
                                      2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6};
#define COUNT(bounds) (sizeof(bounds) / sizeof(bounds)[0])
_Static_assert(COUNT(first_token_bounds) < SP_HISTOGRAM_MAX, "bounds and +Inf fit");

void sp_stats_init(sp_stats *stats)
{
    *stats = (sp_stats){0};
    stats->time_to_first_token = (sp_histogram){.bounds = first_token_bounds, .n = COUNT(first_token_bounds)};
    stats->inter_token = (sp_histogram){.bounds = inter_token_bounds, .n = COUNT(inter_token_bounds)};
    sp_histogram *requests[] = {&stats->e2e, &stats->queue_time, &stats->prefill_time, &stats->decode_time,
                                &stats->inference_time};
    for (size_t i = 0; i < COUNT(requests); i++)
        *requests[i] = (sp_histogram){.bounds = request_bounds, .n = COUNT(request_bounds)};
    sp_histogram *counts[] = {&stats->prompt_length, &stats->generation_length, &stats->max_tokens,
                              &stats->step_tokens};
    for (size_t i = 0; i < COUNT(counts); i++)
        *counts[i] = (sp_histogram){.bounds = count_bounds, .n = COUNT(count_bounds)};
}

void sp_histogram_add(sp_histogram *histogram, double value)
{
    size_t bucket = 0;
    while (bucket < histogram->n && value > histogram->bounds[bucket]) bucket++;
    histogram->counts[bucket]++;
    histogram->total++;
    histogram->sum += value;
}

/* What attention has done is counted whatever the end. */
static void count_attention(sp_stats *stats, const sp_stats_end *end)
{
    size_t i = 0;
    while (sp_backends[i] && sp_backends[i] != end->backend) i++;
    if (!sp_backends[i] || i >= SP_STATS_BACKENDS) return;
    sp_attention_phase_add(&stats->prefill[i], end->prefill);
    sp_attention_phase_add(&stats->decode[i], end->decode);
}

void sp_stats_finish(sp_stats *stats, const sp_stats_end *end)
{
    const sp_usage *usage = end->usage;
    count_attention(stats, end);
    if (end->status == SP_CANCELLED) {
        stats->finished_cancelled++;
        return;
    }
    if (end->status != SP_OK) {
        stats->finished_error++;
        return;
    }
    if (end->finish == SP_FINISH_STOP)
        stats->finished_stop++;
    else
        stats->finished_length++;
    if (end->looked_up) stats->prefix_queries += usage->prompt_tokens;
    stats->prefix_hits += usage->cached_tokens;
    sp_histogram_add(&stats->e2e, end->e2e);
    sp_histogram_add(&stats->inference_time, end->inference);
    sp_histogram_add(&stats->prefill_time, usage->prefill_seconds);
    sp_histogram_add(&stats->decode_time, usage->decode_seconds);
    sp_histogram_add(&stats->prompt_length, usage->prompt_tokens);
    sp_histogram_add(&stats->generation_length, usage->completion_tokens);
    sp_histogram_add(&stats->max_tokens, end->max_tokens);
}

void sp_stats_step(sp_stats *stats, uint32_t rows)
{
    sp_histogram_add(&stats->step_tokens, rows);
}
