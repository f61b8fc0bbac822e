/* See stats.h. */
#include "engine/stats.h"

#include <math.h>

static const double first_token_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                            1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double inter_token_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                            .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double request_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
#define COUNT(bounds) (sizeof(bounds) / sizeof(bounds)[0])
_Static_assert(COUNT(first_token_bounds) < SP_HISTOGRAM_MAX, "bounds and +Inf fit");

void sp_stats_init(sp_stats *stats)
{
    *stats = (sp_stats){0};
    stats->time_to_first_token = (sp_histogram){.bounds = first_token_bounds, .n = COUNT(first_token_bounds)};
    stats->inter_token = (sp_histogram){.bounds = inter_token_bounds, .n = COUNT(inter_token_bounds)};
    sp_histogram *requests[] = {&stats->e2e, &stats->queue_time, &stats->prefill_time, &stats->decode_time};
    for (size_t i = 0; i < COUNT(requests); i++)
        *requests[i] = (sp_histogram){.bounds = request_bounds, .n = COUNT(request_bounds)};
}

void sp_histogram_add(sp_histogram *histogram, double value)
{
    size_t bucket = 0;
    while (bucket < histogram->n && value > histogram->bounds[bucket]) bucket++;
    histogram->counts[bucket]++;
    histogram->total++;
    histogram->sum += value;
}

void sp_stats_finish(sp_stats *stats, const sp_usage *usage, sp_status status, sp_finish finish, double e2e)
{
    if (status == SP_CANCELLED) {
        stats->finished_cancelled++;
    } else if (status != SP_OK) {
        stats->finished_error++;
    } else {
        if (finish == SP_FINISH_STOP)
            stats->finished_stop++;
        else
            stats->finished_length++;
        sp_histogram_add(&stats->e2e, e2e);
        sp_histogram_add(&stats->prefill_time, usage->prefill_seconds);
        sp_histogram_add(&stats->decode_time, usage->decode_seconds);
    }
}
