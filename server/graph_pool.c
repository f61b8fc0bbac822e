/* The threads that make graphs, and a call's way through them (graph_call.h).
 *
 * A call waits in one queue; --graph-jobs threads take the oldest. Calls of clients that left are dropped
 * from the queue at once and stop at their next step when they run. Tests: tests/http/test_captures.py,
 * test_graph.py */
#include <pthread.h>

#include "engine/deadline.h"
#include "server/graph_sweep.h"
#include "server/state.h"

#define MAX_THREADS 64
#define LIGHT_SECONDS 0.005 /* on the thread that serves connections */

typedef struct sp_graph_job {
    sp_graph_pool *pool;
    sp_graph_call *call;
    sp_exchange *exchange; /* NULL: it has left, or there never was one */
    sp_flag *abandoned;    /* raised before that, when the client leaves; or NULL */
    bool background;
    bool (*stop)(void *context); /* of a background job */
    void *context;
    bool running, done;
    double queued, deadline;
    sp_status status;
    sp_error error;
    struct sp_graph_job *next;
} sp_graph_job;

struct sp_graph_pool {
    sp_server *server;
    pthread_t threads[MAX_THREADS];
    size_t n_threads;
    pthread_mutex_t lock; /* guards all below and the jobs; taken before the server's lock */
    pthread_cond_t changed;
    sp_graph_job *head;
    size_t waiting, running, background; /* background: of those running */
    bool closing;
    sp_graph_sweeps *sweeps;
};

/* --- the exchange's side --- */

/* What a finished run answers. */
static void answer(sp_exchange *exchange, sp_graph_call *call, sp_status status, const sp_error *error)
{
    sp_reply *reply = sp_exchange_reply(exchange);
    if (status != SP_OK && call->refuse) {
        sp_exchange_refuse(exchange, call->refuse, error->param, "%s", error->message);
        return;
    }
    if (status != SP_OK) {
        sp_error copy = *error;
        copy.status = status;
        sp_exchange_fail(exchange, &copy);
        return;
    }
    if (call->capture) sp_capture_use(call->capture);
    if (call->other) sp_capture_use(call->other);
    if (call->pending) sp_graph_write_pending(call);
    sp_buffer old = reply->body;
    *reply = call->reply;
    sp_buffer_fini(&old);
    sp_buffer_init(&call->reply.body, 0);
}

static void free_job(sp_graph_job *job)
{
    sp_graph_call_free(job->call);
    sp_flag_release(job->abandoned);
    sp_free(job);
}

/* The exchange is over. */
static void detach(void *state)
{
    sp_graph_job *job = state;
    sp_graph_pool *pool = job->pool;
    pthread_mutex_lock(&pool->lock);
    job->exchange = NULL;
    for (sp_graph_job **at = &pool->head; *at; at = &(*at)->next) {
        if (*at != job) continue;
        *at = job->next;
        pool->waiting--;
        break;
    }
    bool last = !job->running;
    pthread_mutex_unlock(&pool->lock);
    if (last) free_job(job);
}

static void poll_job(sp_exchange *exchange)
{
    sp_graph_job *job = sp_exchange_state(exchange);
    sp_error error;
    pthread_mutex_lock(&job->pool->lock);
    bool done = job->done;
    pthread_mutex_unlock(&job->pool->lock);
    sp_status cut = sp_exchange_cut(exchange, &error);
    if (done && cut != SP_CANCELLED) { /* what was cancelled stopped somewhere */
        answer(exchange, job->call, job->status, &job->error);
        sp_graph_call_let_go(job->call);
    } else if (cut) {
        sp_exchange_fail(exchange, &error);
    }
}

static void push(sp_graph_pool *pool, sp_graph_job *job)
{
    sp_graph_job **at = &pool->head;
    while (*at) at = &(*at)->next;
    *at = job;
    pool->waiting++;
    pthread_cond_signal(&pool->changed);
}

static sp_graph_job *new_job(sp_graph_pool *pool, sp_graph_call *call, sp_error *error)
{
    size_t most = (size_t)pool->server->options->max_queue;
    pthread_mutex_lock(&pool->lock);
    bool full = pool->waiting >= most + (pool->running < pool->n_threads ? pool->n_threads : 0);
    pthread_mutex_unlock(&pool->lock);
    if (full) {
        (void)sp_fail(error, SP_BUSY,
                      "%zu graph queries run (graph_jobs) and %zu wait (max_queue); try later",
                      pool->n_threads, most);
        return NULL;
    }
    sp_graph_job *job = sp_alloc_zero(1, sizeof *job);
    if (!job) {
        (void)sp_fail(error, SP_NO_MEMORY, "no memory for the request");
        return NULL;
    }
    job->pool = pool;
    job->call = call;
    job->queued = sp_now();
    call->job = job;
    return job;
}

void sp_graph_start(sp_exchange *exchange, sp_graph_call *call)
{
    sp_graph_pool *pool = sp_exchange_server(exchange)->graphs;
    sp_error error = {0};
    if (!call->heavy) {
        call->until = sp_now() + LIGHT_SECONDS;
        sp_status status = call->run(call, &error);
        if (status != SP_CANCELLED && (status != SP_OK || !call->pending)) {
            answer(exchange, call, status, &error);
            sp_graph_call_free(call);
            return;
        }
    }
    if (call->pending && call->refuse == 202) { /* nothing to compute: it runs by itself */
        call->refuse = 0;
        answer(exchange, call, SP_OK, &error);
        sp_graph_call_free(call);
        return;
    }
    call->pending = false;
    sp_graph_job *job = new_job(pool, call, &error);
    if (!job) {
        sp_exchange_fail(exchange, &error);
        sp_graph_call_free(call);
        return;
    }
    job->exchange = exchange;
    job->abandoned = sp_flag_hold(sp_exchange_flag(exchange));
    sp_exchange_set_state(exchange, job, detach);
    sp_exchange_track(exchange, NULL);
    sp_exchange_wait(exchange, poll_job);
    pthread_mutex_lock(&pool->lock);
    push(pool, job);
    pthread_mutex_unlock(&pool->lock);
}

/* --- the threads' side --- */

/* Why a job ends before its work does. */
static sp_status check_age(const sp_graph_job *job, bool waits, sp_error *error)
{
    const sp_options *options = job->pool->server->options;
    double age = sp_now() - job->queued;
    if (job->background) return SP_OK;
    if (age > options->request_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "request_timeout",
                             "the request took longer than %g seconds", options->request_timeout);
    if (waits && age > options->queue_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "queue_timeout",
                             "the request waited longer than %g seconds", options->queue_timeout);
    return SP_OK;
}

static void finish(sp_graph_job *job, sp_status status)
{
    job->status = status;
    job->done = true;
    if (job->exchange) sp_exchange_wake(job->exchange);
}

/* With the lock held: what waits too long ends. */
static void drop_old(sp_graph_pool *pool)
{
    for (sp_graph_job **at = &pool->head; *at;) {
        sp_graph_job *job = *at;
        if (check_age(job, true, &job->error) == SP_OK) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        pool->waiting--;
        finish(job, SP_UNAVAILABLE);
    }
}

/* Nobody waits for the answer any more. */
static bool is_over(const sp_graph_job *job)
{
    sp_graph_pool *pool = job->pool;
    pthread_mutex_lock(&pool->lock);
    drop_old(pool);
    bool over = pool->closing || (!job->background && !job->exchange) || sp_flag_is_raised(job->abandoned);
    pthread_mutex_unlock(&pool->lock);
    return over || (job->stop && job->stop(job->context));
}

bool sp_graph_stopped(void *context)
{
    const sp_graph_call *call = context;
    if (call->job) return is_over(call->job);
    return call->until > 0 && sp_now() > call->until;
}

/* Of the making of heads: also when the time for it is up. */
static bool stop_making(void *context)
{
    const sp_graph_call *call = context;
    return is_over(call->job) || (!call->job->background && sp_now() > call->job->deadline);
}

static void run_job(sp_graph_job *job)
{
    sp_graph_call *call = job->call;
    sp_engine_graph_runner(call->engine, stop_making, call, &call->runner);
    sp_engine_graph_runner(call->engine, sp_graph_stopped, call, &call->reader);
    call->blocking = true;
    job->deadline = sp_now() + call->wait;
    job->status = call->run(call, &job->error);
}

static sp_graph_job *next_job(sp_graph_pool *pool)
{
    struct timespec until = sp_deadline_after(1);
    if (!pool->head) pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
    drop_old(pool);
    /* one thread is kept for those who wait, where there are two */
    bool full = pool->background > 0 && pool->background + 1 >= pool->n_threads;
    sp_graph_job **at = &pool->head;
    while (*at && (*at)->background && full) at = &(*at)->next;
    sp_graph_job *job = *at;
    if (!job) {
        if (pool->head) pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
        return NULL;
    }
    *at = job->next;
    pool->waiting--;
    pool->background += job->background;
    pool->running++;
    job->running = true;
    if (job->exchange) sp_exchange_progress(job->exchange, "running", 0);
    return job;
}

static void *work(void *context)
{
    sp_graph_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing) {
        sp_graph_job *job = next_job(pool);
        if (!job) continue;
        pthread_mutex_unlock(&pool->lock);
        run_job(job);
        pthread_mutex_lock(&pool->lock);
        pool->running--;
        pool->background -= job->background;
        job->running = false;
        bool nobody = !job->exchange;
        finish(job, job->status);
        if (!nobody) continue;
        pthread_mutex_unlock(&pool->lock);
        free_job(job);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

sp_status sp_graph_pool_background(sp_graph_pool *pool, sp_graph_call *call, bool (*stop)(void *context),
                                   void *context, sp_error *error)
{
    sp_graph_job *job = new_job(pool, call, error);
    if (!job) return error->status;
    job->background = true;
    job->stop = stop;
    job->context = context;
    pthread_mutex_lock(&pool->lock);
    push(pool, job);
    pthread_mutex_unlock(&pool->lock);
    return SP_OK;
}

/* --- life --- */

sp_status sp_graph_pool_open(sp_server *server, sp_graph_pool **out, sp_error *error)
{
    sp_graph_pool *pool = sp_alloc_zero(1, sizeof *pool);
    if (!pool) return sp_fail(error, SP_NO_MEMORY, "no memory for graph threads");
    pool->server = server;
    pthread_mutex_init(&pool->lock, NULL);
    sp_deadline_condition(&pool->changed);
    if (sp_graph_sweeps_open(&pool->sweeps, error) != SP_OK) {
        sp_graph_pool_close(pool);
        return SP_NO_MEMORY;
    }
    size_t wanted = (size_t)server->options->graph_jobs;
    for (size_t i = 0; i < wanted && i < MAX_THREADS; i++) {
        if (pthread_create(&pool->threads[i], NULL, work, pool) != 0) {
            sp_graph_pool_close(pool);
            return sp_fail(error, SP_IO, "cannot start a thread");
        }
        pool->n_threads++;
    }
    *out = pool;
    return SP_OK;
}

void sp_graph_pool_close(sp_graph_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->n_threads; i++) pthread_join(pool->threads[i], NULL);
    for (sp_graph_job *job = pool->head, *next; job; job = next) {
        next = job->next;
        free_job(job);
    }
    sp_graph_sweeps_close(pool->sweeps);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->lock);
    sp_free(pool);
}

sp_graph_sweeps *sp_graph_pool_sweeps(sp_graph_pool *pool)
{
    return pool->sweeps;
}

size_t sp_graph_pool_running(sp_graph_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    size_t running = pool->running;
    pthread_mutex_unlock(&pool->lock);
    return running;
}
