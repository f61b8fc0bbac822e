/* The worker pool: every task runs once, workers have distinct indexes, runs follow each other safely,
 * workers sleep. Under the preset tsan the same tests prove the absence of data races. */
#include "tests/support/test.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "kernels/threads.h"

enum { MAX_TASKS = 1000, MAX_WORKERS = 8 };

struct job {
    size_t n_workers;
    int runs[MAX_TASKS];               /* plain: a task runs once, so nobody shares an element */
    size_t by_worker[MAX_WORKERS][16]; /* plain: a worker index belongs to one thread at a time */
    pthread_t caller;
    _Atomic size_t wrong;
};

static void count_task(void *context, size_t task, size_t worker)
{
    struct job *job = context;
    if (task >= MAX_TASKS || worker >= job->n_workers) {
        atomic_fetch_add(&job->wrong, 1);
        return;
    }
    if ((worker == 0) != (pthread_equal(pthread_self(), job->caller) != 0)) atomic_fetch_add(&job->wrong, 1);
    job->runs[task]++;
    job->by_worker[worker][0]++;
}

static void test_each_task_once(void **state)
{
    (void)state;
    static const size_t tasks[] = {0, 1, 2, 3, 7, 8, 9, 64, 1000};
    for (size_t n = 1; n <= MAX_WORKERS; n++) {
        sp_threads *threads;
        sp_error error;
        assert_ok(sp_threads_open(n, &threads, &error), error);
        assert_int_equal(sp_threads_count(threads), n);
        for (size_t round = 0; round < 20; round++) {
            for (size_t i = 0; i < COUNT_OF(tasks); i++) {
                struct job job = {.n_workers = n, .caller = pthread_self()};
                size_t total = 0;
                (round % 2 ? sp_threads_run_parts : sp_threads_run)(threads, tasks[i], count_task, &job);
                assert_int_equal(job.wrong, 0);
                for (size_t task = 0; task < MAX_TASKS; task++)
                    assert_int_equal(job.runs[task], task < tasks[i]);
                for (size_t worker = 0; worker < n; worker++) total += job.by_worker[worker][0];
                assert_int_equal(total, tasks[i]);
            }
        }
        sp_threads_close(threads);
    }
}

/* Parts cover all tasks, in order, and differ by one task at most. */
static void test_parts(void **state)
{
    (void)state;
    for (size_t n = 1; n <= MAX_WORKERS; n++) {
        sp_threads *threads;
        sp_error error;
        assert_ok(sp_threads_open(n, &threads, &error), error);
        for (size_t tasks = 1; tasks < 100; tasks++) {
            size_t ends = 0, begin = 0;
            for (size_t task = 0; task < tasks; task++) {
                if (!sp_threads_ends_part(threads, tasks, task)) continue;
                assert_in_range(task + 1 - begin, tasks / n, (tasks + n - 1) / n);
                begin = task + 1;
                ends++;
            }
            assert_int_equal(begin, tasks);
            assert_int_equal(ends, tasks < n ? tasks : n);
        }
        sp_threads_close(threads);
    }
}

/* Many short runs, each reading what the last one wrote: the end of a run orders memory. */
struct chain {
    const int *from;
    int *to;
};

static void add_one(void *context, size_t task, size_t worker)
{
    struct chain *chain = context;
    (void)worker;
    chain->to[task] = chain->from[(task + 1) % 16] + 1;
}

static void test_runs_follow(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    int buffers[2][16] = {{0}};
    assert_ok(sp_threads_open(4, &threads, &error), error);
    for (int run = 0; run < 5000; run++) {
        struct chain chain = {buffers[run & 1], buffers[1 - (run & 1)]};
        sp_threads_run(threads, 16, add_one, &chain);
    }
    for (size_t i = 0; i < 16; i++) assert_int_equal(buffers[0][i], 5000);
    sp_threads_close(threads);
}

static void sleep_seconds(double seconds)
{
    struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static void slow_task(void *context, size_t task, size_t worker)
{
    (void)worker;
    if (task == 1) sleep_seconds(0.003); /* longer than the caller spins: it sleeps until this ends */
    atomic_fetch_add((_Atomic int *)context, 1);
}

/* Workers that have gone to sleep are woken, and a caller that went to sleep too. */
static void test_sleep_and_wake(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    assert_ok(sp_threads_open(3, &threads, &error), error);
    for (int run = 0; run < 40; run++) {
        _Atomic int done = 0;
        sleep_seconds(run % 2 ? 0.001 : 0.0);
        sp_threads_run(threads, 5, slow_task, &done);
        assert_int_equal(done, 5);
    }
    sp_threads_close(threads);
}

/* Ends only when all three tasks have started, or after a minute. */
static void meet_task(void *context, size_t task, size_t worker)
{
    _Atomic int *started = context;
    (void)task;
    (void)worker;
    atomic_fetch_add(started, 1);
    for (double until = sp_now() + 60; atomic_load(started) < 3 && sp_now() < until;) sleep_seconds(0.0002);
}

/* Tasks run at the same time, also when all workers were asleep: no wake-up is lost, no worker is left out.
 */
static void test_workers_take_part(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    assert_ok(sp_threads_open(3, &threads, &error), error);
    for (int run = 0; run < 50; run++) {
        _Atomic int started = 0;
        if (run % 2) sleep_seconds(0.001);
        sp_threads_run(threads, 3, meet_task, &started);
        assert_int_equal(started, 3);
    }
    sp_threads_close(threads);
}

static double process_cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void test_idle_costs_nothing(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    _Atomic int done = 0;
    assert_ok(sp_threads_open(4, &threads, &error), error);
    sp_threads_run(threads, 4, slow_task, &done);
    double best = 1e9;
    for (int i = 0; i < 5 && best >= 0.1; i++) { /* a processor taken from this machine counts as used */
        sleep_seconds(0.05);
        double start = process_cpu_seconds();
        sleep_seconds(0.3);
        best = fmin(best, process_cpu_seconds() - start);
    }
    assert_true(best < 0.1); /* three spinning workers would use 0.3 a CPU each */
    sp_threads_close(threads);
}

static void read_mask(void *context, size_t task, size_t worker)
{
    (void)task;
    sigset_t mask;
    sleep_seconds(0.001);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (worker > 0 && sigismember(&mask, SIGTERM) != 1) atomic_fetch_add((_Atomic int *)context, 1);
    if (worker == 0 && sigismember(&mask, SIGTERM) != 0) atomic_fetch_add((_Atomic int *)context, 1);
}

static void test_signals_stay_with_the_opener(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    _Atomic int wrong = 0;
    assert_ok(sp_threads_open(3, &threads, &error), error);
    sp_threads_run(threads, 12, read_mask, &wrong);
    assert_int_equal(wrong, 0);
    sp_threads_close(threads);
}

static void test_open_and_close(void **state)
{
    (void)state;
    sp_threads *threads;
    sp_error error;
    assert_true(sp_cpu_count() >= 1);
    assert_ok(sp_threads_open(0, &threads, &error), error);
    assert_int_equal(sp_threads_count(threads), sp_cpu_count());
    sp_threads_close(threads);
    for (int i = 0; i < 50; i++) { /* closed while workers start, spin or sleep */
        assert_ok(sp_threads_open(4, &threads, &error), error);
        if (i % 3 == 0) sleep_seconds(0.0005);
        sp_threads_close(threads);
    }
    sp_threads_close(NULL);
    assert_int_equal(sp_threads_open((size_t)1 << 20, &threads, &error), SP_USAGE);
    assert_string_equal(error.param, "threads");
    assert_null(threads);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_each_task_once),    cmocka_unit_test(test_parts),
    cmocka_unit_test(test_runs_follow),       cmocka_unit_test(test_sleep_and_wake),
    cmocka_unit_test(test_workers_take_part), cmocka_unit_test(test_idle_costs_nothing),
    cmocka_unit_test(test_open_and_close),    cmocka_unit_test(test_signals_stay_with_the_opener)};

TEST_MAIN(tests)
