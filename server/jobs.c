/* The helper thread and its queue (jobs.h). */
#include "server/jobs.h"

#include <string.h>

#include "engine/deadline.h"
#include "server/state.h"

typedef struct job {
    sp_jobs *jobs;
    sp_exchange *exchange; /* NULL: it has left */
    sp_flag *abandoned;    /* raised before that, when the client leaves; or NULL */
    sp_buffer in, out;
    uint32_t adapter;
    bool metrics, running, done, holds;
    bool late; /* it ran into the request timeout */
    double queued;
    sp_status status;
    sp_error error;
    struct job *next;
} job;

struct sp_jobs {
    sp_server *server;
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below and the jobs; taken before the server's lock */
    pthread_cond_t changed;
    job *head;
    size_t held; /* answers made and not yet freed */
    bool runs;   /* a job runs */
    bool closing;
};

static void free_job(job *item)
{
    sp_buffer_fini(&item->in);
    sp_buffer_fini(&item->out);
    sp_flag_release(item->abandoned);
    sp_free(item);
}

/* With the lock held: the exchange can still be woken. */
static void finish(job *item, sp_status status)
{
    item->status = status;
    item->done = true;
    sp_buffer_fini(&item->in);
    if (item->exchange) sp_exchange_wake(item->exchange);
}

/* Whether a job has been here too long; the error says what ran out. */
static sp_status check_age(const job *item, bool waits, sp_error *error)
{
    const sp_options *options = item->jobs->server->options;
    double age = sp_now() - item->queued;
    if (age > options->request_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "request_timeout",
                             "the request took longer than %g seconds", options->request_timeout);
    if (waits && age > options->queue_timeout)
        return sp_fail_param(error, SP_UNAVAILABLE, "queue_timeout",
                             "the request waited longer than %g seconds", options->queue_timeout);
    return SP_OK;
}

/* With the lock held: ends what waits too long, the oldest first. */
static void drop_old(sp_jobs *jobs)
{
    sp_error error;
    while (jobs->head && check_age(jobs->head, true, &error)) {
        job *old = jobs->head;
        jobs->head = old->next;
        old->error = error;
        finish(old, error.status);
    }
}

/* Takes the next job that may run, or NULL after a second or when there is none; old ones time out. */
static job *next_job(sp_jobs *jobs)
{
    struct timespec until = sp_deadline_after(1);
    if (!jobs->head)
        pthread_cond_wait(&jobs->changed, &jobs->lock);
    else if (jobs->held >= SP_TENSOR_BODIES)
        pthread_cond_timedwait(&jobs->changed, &jobs->lock, &until);
    drop_old(jobs);
    job *item = jobs->head;
    if (!item || jobs->held >= SP_TENSOR_BODIES) return NULL;
    jobs->head = item->next;
    jobs->held++;
    jobs->runs = true;
    item->running = item->holds = true;
    if (item->exchange) sp_exchange_progress(item->exchange, "running", 0);
    return item;
}

static void let_go(job *item)
{
    if (item->holds) item->jobs->held--;
    pthread_cond_signal(&item->jobs->changed);
    free_job(item);
}

/* Between the steps of a job: nobody waits for its answer any more, or not longer. Looks at the queue too,
 * whose jobs time out while this one runs. */
static bool is_over(void *context)
{
    job *item = context;
    sp_error error;
    pthread_mutex_lock(&item->jobs->lock);
    drop_old(item->jobs);
    item->late = check_age(item, false, &error) != SP_OK;
    bool over = !item->exchange || item->jobs->closing || item->late || sp_flag_is_raised(item->abandoned);
    pthread_mutex_unlock(&item->jobs->lock);
    return over;
}

static void *work(void *context)
{
    sp_jobs *jobs = context;
    pthread_mutex_lock(&jobs->lock);
    while (!jobs->closing) {
        job *item = next_job(jobs);
        if (!item) continue;
        sp_engine *engine = atomic_load(&jobs->server->engine);
        sp_apply_options options = {.metrics = item->metrics,
                                    .adapter = item->adapter,
                                    .max_bytes = (size_t)jobs->server->options->max_tensor_bytes,
                                    .stop = is_over,
                                    .stop_context = item};
        pthread_mutex_unlock(&jobs->lock);
        sp_status status =
            sp_engine_apply(engine, item->in.data, item->in.size, &options, &item->out, &item->error);
        pthread_mutex_lock(&jobs->lock);
        item->running = jobs->runs = false;
        if (status && item->late) status = check_age(item, false, &item->error);
        if (item->exchange)
            finish(item, status);
        else
            let_go(item);
    }
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

sp_status sp_jobs_open(sp_server *server, sp_jobs **out, sp_error *error)
{
    sp_jobs *jobs = sp_alloc_zero(1, sizeof *jobs);
    if (!jobs) return sp_fail(error, SP_NO_MEMORY, "no memory for the helper thread");
    jobs->server = server;
    pthread_mutex_init(&jobs->lock, NULL);
    sp_deadline_condition(&jobs->changed);
    if (pthread_create(&jobs->thread, NULL, work, jobs)) {
        sp_free(jobs);
        return sp_fail(error, SP_IO, "cannot start a thread");
    }
    *out = jobs;
    return SP_OK;
}

void sp_jobs_close(sp_jobs *jobs)
{
    if (!jobs) return;
    pthread_mutex_lock(&jobs->lock);
    jobs->closing = true;
    pthread_cond_signal(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    pthread_join(jobs->thread, NULL);
    pthread_cond_destroy(&jobs->changed);
    pthread_mutex_destroy(&jobs->lock);
    sp_free(jobs);
}

/* --- the exchange's side --- */
/* The exchange is over. */
static void detach(void *state)
{
    job *item = state;
    sp_jobs *jobs = item->jobs;
    pthread_mutex_lock(&jobs->lock);
    item->exchange = NULL;
    for (job **at = &jobs->head; *at; at = &(*at)->next) {
        if (*at != item) continue;
        *at = item->next;
        break;
    }
    if (!item->running) let_go(item);
    pthread_mutex_unlock(&jobs->lock);
}

static void poll_apply(sp_exchange *exchange)
{
    job *item = sp_exchange_state(exchange);
    sp_reply *reply = sp_exchange_reply(exchange);
    sp_error error;
    pthread_mutex_lock(&item->jobs->lock);
    bool done = item->done;
    pthread_mutex_unlock(&item->jobs->lock);
    if (!done) {
        if (sp_exchange_cut(exchange, &error)) sp_exchange_fail(exchange, &error);
        return;
    }
    if (item->status || item->out.failed) {
        if (!item->status) item->status = sp_buffer_check(&item->out, &item->error);
        if (!item->status)
            item->status = sp_fail(&item->error, SP_TOO_LARGE, "the answer exceeds max_tensor_bytes");
        item->error.status = item->status;
        sp_exchange_fail(exchange, &item->error);
        return;
    }
    reply->status = 200;
    reply->content_type = "application/octet-stream";
    reply->body = item->out; /* the job still counts as a held answer until the exchange is over */
    sp_buffer_init(&item->out, 0);
}

/* With the lock held. */
static size_t count_waiting(const sp_jobs *jobs)
{
    size_t n = 0;
    for (const job *item = jobs->head; item; item = item->next) n++;
    return n;
}

void sp_jobs_count(sp_jobs *jobs, size_t *running, size_t *waiting)
{
    pthread_mutex_lock(&jobs->lock);
    *running = jobs->runs;
    *waiting = count_waiting(jobs);
    pthread_mutex_unlock(&jobs->lock);
}

sp_status sp_jobs_apply(sp_jobs *jobs, sp_exchange *exchange, bool metrics, uint32_t adapter, sp_error *error)
{
    size_t most = (size_t)jobs->server->options->max_queue;
    pthread_mutex_lock(&jobs->lock);
    bool full = count_waiting(jobs) >= most + !jobs->runs;
    pthread_mutex_unlock(&jobs->lock);
    if (full) return sp_fail(error, SP_BUSY, "the queue is full (%zu requests)", most);
    job *item = sp_alloc_zero(1, sizeof *item);
    if (!item) return sp_fail(error, SP_NO_MEMORY, "no memory for the job");
    sp_buffer *body = sp_exchange_body(exchange);
    item->jobs = jobs;
    item->exchange = exchange;
    item->abandoned = sp_flag_hold(sp_exchange_flag(exchange));
    item->metrics = metrics;
    item->adapter = adapter;
    item->queued = sp_now();
    item->in = *body;
    sp_buffer_init(body, 0);
    sp_buffer_init(&item->out, (size_t)jobs->server->options->max_tensor_bytes);
    sp_exchange_set_state(exchange, item, detach);
    sp_exchange_track(exchange, NULL);
    sp_exchange_wait(exchange, poll_apply);
    pthread_mutex_lock(&jobs->lock);
    job **at = &jobs->head;
    while (*at) at = &(*at)->next;
    *at = item;
    pthread_cond_signal(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    return SP_OK;
}
