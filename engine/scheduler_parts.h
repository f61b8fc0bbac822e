/* The inside of the scheduler, for scheduler.c (who is there) and turn.c (what a step makes of them). Tests:
 * tests/unit/engine/test_scheduler.c, test_scheduler_time.c and test_rows.c there */
#ifndef SPARSED_ENGINE_SCHEDULER_PARTS_H
#define SPARSED_ENGINE_SCHEDULER_PARTS_H

#include <pthread.h>

#include "engine/drain.h"
#include "engine/pages.h"
#include "engine/rows.h"
#include "engine/scheduler.h"

typedef struct sp_call {
    struct sp_call *next;
    void (*call)(void *context);
    void *context;
    bool done, ran;
} sp_call;

struct sp_scheduler {
    sp_scheduler_options options;
    pthread_mutex_t lock;
    pthread_cond_t woken, called;
    /* under the lock */
    sp_sequence *queue; /* oldest first */
    uint32_t n_waiting, n_active;
    bool short_of_pages, stopping, signalled;
    sp_call *calls;
    uint32_t n_callers; /* threads inside sp_scheduler_call */
    sp_stats stats;
    uint32_t n_left; /* the queue since the last step */
    sp_drain drain;
    /* the engine thread's */
    sp_kv kv;
    sp_prefix *prefix;
    sp_step step;
    sp_sequence **running; /* (max_admitted) in order of admission */
    uint32_t n_running, max_admitted;
    sp_pace pace;
    bool part_first; /* of what runs between steps: whose turn it is */
};

/* All of these on the engine thread. */
/* One turn of those who are admitted: a step of the model, then a piece of what runs between steps. False:
 * there was nothing to do. */
bool sp_scheduler_turn(sp_scheduler *scheduler);
/* The end of a sequence, which is freed: pages, figures, then its stream. */
void sp_scheduler_end_badly(sp_scheduler *scheduler, sp_sequence *sequence, const sp_error *error);
void sp_scheduler_end_well(sp_scheduler *scheduler, sp_sequence *sequence, sp_finish finish);
/* The gauges of pages; with the lock held. */
void sp_scheduler_note_pages(sp_scheduler *scheduler);

#endif
