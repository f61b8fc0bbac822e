/* Absolute times for waits on conditions that use the monotonic clock. Tests: tests/unit/engine/test_stream.c
 */
#ifndef SPARSED_ENGINE_DEADLINE_H
#define SPARSED_ENGINE_DEADLINE_H

#include <pthread.h>
#include <time.h>

/* Now plus so many seconds: 0 .. 1e9, what is outside is clipped. */
static inline struct timespec sp_deadline_after(double seconds)
{
    struct timespec at;
    double clipped = seconds > 0 ? (seconds < 1e9 ? seconds : 1e9) : 0;
    time_t whole = (time_t)clipped;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += whole;
    at.tv_nsec += (long)((clipped - (double)whole) * 1e9);
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

/* A condition whose waits end at such times. */
static inline void sp_deadline_condition(pthread_cond_t *condition)
{
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &clock);
    pthread_condattr_destroy(&clock);
}

#endif
