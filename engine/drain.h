/* How fast the queue drains: what a client that is refused is told to wait (Retry-After).
 *
 * It is the mean time between two requests leaving the queue while others wait behind them, newer ones
 * counting more, and no less than what has passed since the last one left. Requests that find a place at once
 * say nothing. Owner: the scheduler, under its mutex. Tests: tests/unit/engine/test_drain.c */
#ifndef SPARSED_ENGINE_DRAIN_H
#define SPARSED_ENGINE_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_drain {
    double mean;  /* seconds from one to the next */
    double since; /* when the last one left, or the waiting began */
    bool waits;   /* somebody waits */
} sp_drain;

void sp_drain_init(sp_drain *drain);
/* At this time so many had left the queue since the last call; waits: somebody is still there. */
void sp_drain_note(sp_drain *drain, double now, uint32_t n_left, bool waits);
/* Seconds until a place is free. */
double sp_drain_seconds(const sp_drain *drain, double now);

#endif
