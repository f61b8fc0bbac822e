/* The worker pool: n - 1 threads and the caller.
 *
 * All coordination is one 64-bit word, the gate: [generation:32][open:1][inside:31]. sp_threads_run writes
 * the job, then opens a new generation with one store; a worker enters by adding one to `inside` while the
 * gate is open, deals itself tasks from the counter, and leaves by subtracting one. The caller works too;
 * when the counter is used up it shuts the gate and waits until nobody is inside. So a worker that wakes late
 * finds a shut gate and the run need not wait for it, and the job is written only while nobody can read it.
 *
 * Whoever waits spins for SPIN_SECONDS, then sleeps on a condition. No wake-up is lost: a sleeper announces
 * itself before it looks at the gate a last time, the other side changes the gate before it looks for
 * sleepers, both sequentially consistent. Tests: tests/unit/kernels/test_threads.c (also under thread
 * sanitizer) */
#include "kernels/threads.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SPIN_SECONDS 100e-6
#define GATE_OPEN ((uint64_t)1 << 31)
#define GATE_INSIDE (GATE_OPEN - 1)
enum { MAX_THREADS = 4096, SPIN_ROUNDS = 32 };

struct worker {
    sp_threads *threads;
    size_t index;
    pthread_t handle;
};

/* The tasks of one worker's part that nobody has taken. */
struct part {
    _Alignas(SP_ALIGNMENT) _Atomic size_t next;
    size_t end;
};

struct sp_threads {
    size_t count, started; /* workers 1..started run; count includes the caller */
    struct worker *workers;
    struct part *parts; /* (count) */

    /* the job: written by the caller while the gate is shut and nobody is inside */
    sp_task_fn task;
    void *context;
    size_t n_tasks;
    bool in_parts;

    pthread_mutex_t lock;
    pthread_cond_t opened, emptied;
    _Atomic unsigned sleepers;  /* workers that sleep or are about to */
    _Atomic bool caller_sleeps; /* the caller sleeps or is about to */
    _Atomic bool stop, running;
    _Alignas(SP_ALIGNMENT) _Atomic uint64_t gate;
    _Alignas(SP_ALIGNMENT) _Atomic size_t next; /* next task to deal */
};

static uint32_t gate_generation(uint64_t gate)
{
    return (uint32_t)(gate >> 32);
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* First task of a part. */
static size_t part_begin(const sp_threads *threads, size_t n_tasks, size_t part)
{
    return n_tasks / threads->count * part + n_tasks % threads->count * part / threads->count;
}

bool sp_threads_ends_part(const sp_threads *threads, size_t n_tasks, size_t task)
{
    size_t next = task + 1, part = (next * threads->count + n_tasks - 1) / n_tasks;
    return part_begin(threads, n_tasks, part) == next;
}

/* The worker's own part, then the others' from the next one on. */
static void work_in_parts(sp_threads *threads, size_t worker)
{
    for (size_t i = 0; i < threads->count; i++) {
        struct part *part = &threads->parts[(worker + i) % threads->count];
        while (atomic_load_explicit(&part->next, memory_order_relaxed) < part->end) {
            size_t task = atomic_fetch_add_explicit(&part->next, 1, memory_order_relaxed);
            if (task < part->end) threads->task(threads->context, task, worker);
        }
    }
}

static void work(sp_threads *threads, size_t worker)
{
    if (threads->in_parts) {
        work_in_parts(threads, worker);
        return;
    }
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&threads->next, 1, memory_order_relaxed);
        if (task >= threads->n_tasks) return;
        threads->task(threads->context, task, worker);
    }
}

static bool has_news(sp_threads *threads, uint32_t seen)
{
    return gate_generation(atomic_load(&threads->gate)) != seen || atomic_load(&threads->stop);
}

/* Returns once the gate's generation differs from seen, or the pool stops. */
static void wait_for_news(sp_threads *threads, uint32_t seen)
{
    double until = sp_now() + SPIN_SECONDS;
    do {
        for (int i = 0; i < SPIN_ROUNDS; i++) {
            if (has_news(threads, seen)) return;
            pause_cpu();
        }
    } while (sp_now() < until);

    pthread_mutex_lock(&threads->lock);
    atomic_fetch_add(&threads->sleepers, 1);
    while (!has_news(threads, seen)) pthread_cond_wait(&threads->opened, &threads->lock);
    atomic_fetch_sub(&threads->sleepers, 1);
    pthread_mutex_unlock(&threads->lock);
}

/* Enters the open gate; false when it is shut. *seen becomes the generation found. */
static bool enter(sp_threads *threads, uint32_t *seen)
{
    uint64_t gate = atomic_load(&threads->gate);
    do {
        *seen = gate_generation(gate);
        if (!(gate & GATE_OPEN)) return false;
    } while (!atomic_compare_exchange_weak(&threads->gate, &gate, gate + 1));
    return true;
}

static void leave(sp_threads *threads)
{
    uint64_t before = atomic_fetch_sub(&threads->gate, 1);
    bool last = (before & GATE_INSIDE) == 1 && !(before & GATE_OPEN);
    if (!last || !atomic_load(&threads->caller_sleeps)) return;
    pthread_mutex_lock(&threads->lock);
    pthread_cond_signal(&threads->emptied);
    pthread_mutex_unlock(&threads->lock);
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    sp_threads *threads = self->threads;
    uint32_t seen = 0;
    for (;;) {
        wait_for_news(threads, seen);
        if (atomic_load(&threads->stop)) return NULL;
        if (!enter(threads, &seen)) continue;
        work(threads, self->index);
        leave(threads);
    }
}

static bool is_empty(sp_threads *threads)
{
    return (atomic_load(&threads->gate) & GATE_INSIDE) == 0;
}

static void wait_until_empty(sp_threads *threads)
{
    double until = sp_now() + SPIN_SECONDS;
    do {
        for (int i = 0; i < SPIN_ROUNDS; i++) {
            if (is_empty(threads)) return;
            pause_cpu();
        }
    } while (sp_now() < until);

    pthread_mutex_lock(&threads->lock);
    atomic_store(&threads->caller_sleeps, true);
    while (!is_empty(threads)) pthread_cond_wait(&threads->emptied, &threads->lock);
    atomic_store(&threads->caller_sleeps, false);
    pthread_mutex_unlock(&threads->lock);
}

static void wake_workers(sp_threads *threads, size_t n)
{
    if (atomic_load(&threads->sleepers) == 0) return;
    pthread_mutex_lock(&threads->lock);
    if (n >= threads->count - 1)
        pthread_cond_broadcast(&threads->opened);
    else
        for (size_t i = 0; i < n; i++) pthread_cond_signal(&threads->opened);
    pthread_mutex_unlock(&threads->lock);
}

static void run(sp_threads *threads, size_t n_tasks, sp_task_fn task, void *context, bool in_parts)
{
    if (n_tasks <= 1 || threads->count == 1) {
        for (size_t i = 0; i < n_tasks; i++) task(context, i, 0);
        return;
    }
    bool was_running = atomic_exchange_explicit(&threads->running, true, memory_order_acquire);
    assert(!was_running); /* one run at a time, and none from inside a task */
    (void)was_running;

    threads->task = task;
    threads->context = context;
    threads->n_tasks = n_tasks;
    threads->in_parts = in_parts;
    atomic_store_explicit(&threads->next, 0, memory_order_relaxed);
    for (size_t i = 0; i < threads->count && in_parts; i++) {
        atomic_store_explicit(&threads->parts[i].next, part_begin(threads, n_tasks, i), memory_order_relaxed);
        threads->parts[i].end = part_begin(threads, n_tasks, i + 1);
    }
    uint64_t generation = (uint64_t)(gate_generation(atomic_load(&threads->gate)) + 1u) << 32;
    atomic_store(&threads->gate, generation | GATE_OPEN);
    wake_workers(threads, n_tasks - 1);

    work(threads, 0);
    atomic_fetch_and(&threads->gate, ~GATE_OPEN);
    wait_until_empty(threads);
    atomic_store_explicit(&threads->running, false, memory_order_release);
}

void sp_threads_run(sp_threads *threads, size_t n_tasks, sp_task_fn task, void *context)
{
    run(threads, n_tasks, task, context, false);
}

void sp_threads_run_parts(sp_threads *threads, size_t n_tasks, sp_task_fn task, void *context)
{
    run(threads, n_tasks, task, context, true);
}

/* Starts workers 1..count-1; returns 0 or the error number of the first that did not start. */
static int start_workers(sp_threads *threads)
{
    sigset_t all, previous; /* signals belong to the thread that opened the pool */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    int failure = 0;
    for (size_t i = 1; i < threads->count && failure == 0; i++) {
        struct worker *worker = &threads->workers[i - 1];
        *worker = (struct worker){.threads = threads, .index = i};
        failure = pthread_create(&worker->handle, NULL, worker_main, worker);
        if (failure == 0) threads->started++;
    }
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    return failure;
}

sp_status sp_threads_open(size_t n, sp_threads **out, sp_error *error)
{
    *out = NULL;
    if (n == 0) n = sp_cpu_count();
    if (n > MAX_THREADS) return sp_fail_param(error, SP_USAGE, "threads", "at most %d threads", MAX_THREADS);
    sp_threads *threads = sp_alloc_zero(1, sizeof *threads);
    struct worker *workers = sp_alloc_zero(n, sizeof *workers);
    struct part *parts = sp_alloc_zero(n, sizeof *parts);
    if (!threads || !workers || !parts) {
        sp_free(parts);
        sp_free(workers);
        sp_free(threads);
        return sp_fail(error, SP_NO_MEMORY, "no memory for %zu threads", n);
    }
    threads->count = n;
    threads->workers = workers;
    threads->parts = parts;
    pthread_mutex_init(&threads->lock, NULL); /* with default attributes these three cannot fail */
    pthread_cond_init(&threads->opened, NULL);
    pthread_cond_init(&threads->emptied, NULL);
    int failure = start_workers(threads);
    if (failure != 0) {
        sp_fail_param(error, SP_IO, "threads", "cannot start thread %zu of %zu: %s; ask for fewer",
                      threads->started + 2, n, strerror(failure));
        sp_threads_close(threads);
        return SP_IO;
    }
    *out = threads;
    return SP_OK;
}

void sp_threads_close(sp_threads *threads)
{
    if (!threads) return;
    pthread_mutex_lock(&threads->lock);
    atomic_store(&threads->stop, true);
    pthread_cond_broadcast(&threads->opened);
    pthread_mutex_unlock(&threads->lock);
    for (size_t i = 0; i < threads->started; i++) pthread_join(threads->workers[i].handle, NULL);
    pthread_cond_destroy(&threads->emptied);
    pthread_cond_destroy(&threads->opened);
    pthread_mutex_destroy(&threads->lock);
    sp_free(threads->parts);
    sp_free(threads->workers);
    sp_free(threads);
}

size_t sp_threads_count(const sp_threads *threads)
{
    return threads->count;
}

/* The control group's CPU time a period, rounded up to whole CPUs; 0 when there is no limit (cgroup v2,
 * cpu.max). */
static size_t cgroup_cpus(void)
{
    unsigned long quota, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file) return 0;
    int fields = fscanf(file, "%lu %lu", &quota, &period);
    fclose(file);
    if (fields != 2 || quota == 0 || period == 0) return 0;
    return quota / period + (quota % period != 0);
}

size_t sp_cpu_count(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t count = online > 0 ? (size_t)online : 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) count = (size_t)CPU_COUNT(&set);
    size_t limit = cgroup_cpus();
    return limit > 0 && limit < count ? limit : count;
}
