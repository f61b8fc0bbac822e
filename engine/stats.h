/* Counters, gauges and histograms of the engine. Not locked: the scheduler guards them with its own mutex.
 * Buckets are those of vLLM's metrics, so that its dashboards can be carried over. Tests:
 * tests/unit/engine/test_stats.c */
#ifndef SPARSED_ENGINE_STATS_H
#define SPARSED_ENGINE_STATS_H

#include "engine/engine.h"

/* Clears the counters and gives each histogram its bounds. */
void sp_stats_init(sp_stats *stats);
void sp_histogram_add(sp_histogram *histogram, double value);
/* A request that ended. */
typedef struct sp_stats_end {
    const sp_usage *usage;
    sp_status status; /* SP_OK: by finish */
    sp_finish finish;
    double e2e, inference; /* seconds since it was submitted, and since it was admitted */
    uint32_t max_tokens;
    bool looked_up; /* its prompt might have been reused */
    const sp_backend *backend;
    const sp_attention_phase *prefill, *decode;
} sp_stats_end;
void sp_stats_finish(sp_stats *stats, const sp_stats_end *end);
/* A step of so many rows. */
void sp_stats_step(sp_stats *stats, uint32_t rows);

#endif
