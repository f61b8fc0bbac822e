/* Counters, gauges and histograms of the engine. Not locked: the scheduler guards them with its own mutex.
 * Buckets are those of vLLM's metrics, so that its dashboards can be carried over. Tests:
 * tests/unit/engine/test_stats.c */
#ifndef SPARSED_ENGINE_STATS_H
#define SPARSED_ENGINE_STATS_H

#include "engine/engine.h"

/* Clears the counters and gives each histogram its bounds. */
void sp_stats_init(sp_stats *stats);
void sp_histogram_add(sp_histogram *histogram, double value);
/* A request that ended: its usage and the reason (SP_OK: by finish). e2e is the time since it was submitted.
 */
void sp_stats_finish(sp_stats *stats, const sp_usage *usage, sp_status status, sp_finish finish, double e2e);

#endif
