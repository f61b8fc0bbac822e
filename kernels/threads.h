/* The only worker pool in the process: n - 1 threads and the caller.
 *
 * sp_threads_run deals task numbers 0..n_tasks-1 from one atomic counter, so which thread runs a task is not
 * determined; results must not depend on it (every task writes its own output). sp_threads_run_parts deals
 * each worker a run of neighbouring tasks of its own, and what is left of the others' when that is done: for
 * tasks that read memory in ascending order and fetch ahead. Waiting workers spin some 100 microseconds, then
 * sleep on a futex-backed condition. One run at a time: the pool belongs to whoever owns the engine thread.
 * Tests: tests/unit/kernels/test_threads.c */
#ifndef SPARSED_KERNELS_THREADS_H
#define SPARSED_KERNELS_THREADS_H

#include "kernels/base.h"

typedef struct sp_threads sp_threads;

/* task: 0..n_tasks-1; worker: 0..sp_threads_count-1, 0 is the caller: index for per-worker scratch. */
typedef void (*sp_task_fn)(void *context, size_t task, size_t worker);

/* n 0: the number of CPUs this process may use. */
sp_status sp_threads_open(size_t n, sp_threads **out, sp_error *error) SP_MUST_CHECK;
void sp_threads_close(sp_threads *threads);
size_t sp_threads_count(const sp_threads *threads);
/* Returns when all tasks are done. Runs inline for one task or one thread. */
void sp_threads_run(sp_threads *threads, size_t n_tasks, sp_task_fn task, void *context);
void sp_threads_run_parts(sp_threads *threads, size_t n_tasks, sp_task_fn task, void *context);
/* Whether another worker's part begins behind this task of sp_threads_run_parts, or nothing does. */
bool sp_threads_ends_part(const sp_threads *threads, size_t n_tasks, size_t task);
size_t sp_cpu_count(void);

#endif
