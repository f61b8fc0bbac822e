/* See stream.h and engine.h. notify is called without the lock; `notifying` lets sp_stream_free wait for a
 * call that is on its way, so that none comes after it returned. */
#include "engine/stream.h"

#include "engine/deadline.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

typedef struct sp_entry {
    int32_t token;
    float logprob;
    size_t text_size, n_top;
} sp_entry;

struct sp_stream {
    sp_stream_options options;
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint32_t references;
    atomic_bool cancelled; /* atomic: the scheduler asks with its own mutex held */
    bool paused, notifying, has_progress, has_last, last_read;

    sp_entry *entries;      /* (n_events) ring */
    sp_token_logprob *tops; /* (n_events, n_top) */
    uint32_t first, count;
    char *text; /* (text_capacity) ring of bytes, in the order of the entries */
    size_t text_capacity, text_first, text_count;
    char *piece;                  /* (max_piece) text of the event last read */
    char *tail;                   /* (max_piece) text of the last event */
    sp_token_logprob *top;        /* (n_top) of the event last read */
    uint32_t done, total;         /* progress */
    float *prompt_logprobs;       /* (n_prompt) or NULL */
    sp_token_logprob *prompt_top; /* (n_prompt, n_top) or NULL */
    sp_event last;
    char attention_id[SP_ATTENTION_ID];
};

static void destroy(sp_stream *stream)
{
    sp_free(stream->entries);
    sp_free(stream->tops);
    sp_free(stream->text);
    sp_free(stream->piece);
    sp_free(stream->tail);
    sp_free(stream->top);
    sp_free((void *)stream->last.report);
    if (stream->last.figures) sp_free((void *)stream->last.figures->measures);
    sp_free((void *)stream->last.figures);
    sp_free((void *)stream->last.embedding);
    sp_free(stream->prompt_logprobs);
    sp_free(stream->prompt_top);
    sp_free((void *)stream->last.prompt_logits);
    sp_free((void *)stream->last.prompt_ids);
    sp_flag_release(stream->options.abandoned);
    pthread_cond_destroy(&stream->change);
    pthread_mutex_destroy(&stream->lock);
    sp_free(stream);
}

static size_t text_bytes(const sp_stream_options *options)
{
    size_t piece = options->max_piece + 1;
    return piece * 4 > 65536 ? piece * 4 : 65536;
}

size_t sp_stream_bytes(const sp_stream_options *options)
{
    size_t n_events = options->n_events > 0 ? options->n_events : SP_STREAM_EVENTS;
    return sizeof(sp_stream) + n_events * (sizeof(sp_entry) + options->n_top * sizeof(sp_token_logprob)) +
           text_bytes(options) + 2 * options->max_piece + options->n_top * sizeof(sp_token_logprob);
}

sp_stream *sp_stream_open(const sp_stream_options *options)
{
    sp_stream *stream = sp_alloc_zero(1, sizeof *stream);
    if (!stream) return NULL;
    stream->options = *options;
    if (stream->options.n_events == 0) stream->options.n_events = SP_STREAM_EVENTS;
    stream->references = 2;
    sp_flag_hold(options->abandoned);
    if (options->attention_id)
        (void)snprintf(stream->attention_id, sizeof stream->attention_id, "%s", options->attention_id);
    pthread_mutex_init(&stream->lock, NULL);
    sp_deadline_condition(&stream->change);

    size_t n_events = stream->options.n_events, n_top = options->n_top, piece = options->max_piece + 1;
    stream->text_capacity = text_bytes(options);
    stream->entries = sp_alloc(n_events, sizeof *stream->entries);
    stream->text = sp_alloc(stream->text_capacity, 1);
    stream->piece = sp_alloc(piece, 1);
    stream->tail = sp_alloc_zero(piece, 1);
    bool enough = stream->entries && stream->text && stream->piece && stream->tail;
    if (n_top > 0) {
        stream->tops = sp_alloc(n_events * n_top, sizeof *stream->tops);
        stream->top = sp_alloc(n_top, sizeof *stream->top);
        enough = enough && stream->tops && stream->top;
    }
    if (enough) return stream;
    destroy(stream);
    return NULL;
}

/* Wakes the reader. Called with the lock held, returns with it held; let go in between. */
static void announce(sp_stream *stream)
{
    pthread_cond_broadcast(&stream->change);
    if (!stream->options.notify) return;
    void (*notify)(void *) = stream->options.notify;
    void *context = stream->options.notify_context;
    stream->notifying = true;
    pthread_mutex_unlock(&stream->lock);
    notify(context);
    pthread_mutex_lock(&stream->lock);
    stream->notifying = false;
    pthread_cond_broadcast(&stream->change);
}

/* Drops one reference and the lock. */
static void release(sp_stream *stream)
{
    bool last = --stream->references == 0;
    pthread_mutex_unlock(&stream->lock);
    if (last) destroy(stream);
}

bool sp_stream_is_cancelled(const sp_stream *stream)
{
    return atomic_load(&stream->cancelled) || sp_flag_is_raised(stream->options.abandoned);
}

static size_t text_room(const sp_stream *stream)
{
    return stream->text_capacity - stream->text_count;
}

bool sp_stream_has_room(sp_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    if (stream->count >= stream->options.n_events || text_room(stream) < stream->options.max_piece)
        stream->paused = true;
    bool room = !stream->paused;
    pthread_mutex_unlock(&stream->lock);
    return room;
}

void sp_stream_push_progress(sp_stream *stream, uint32_t done, uint32_t total)
{
    pthread_mutex_lock(&stream->lock);
    stream->has_progress = true;
    stream->done = done;
    stream->total = total;
    announce(stream);
    pthread_mutex_unlock(&stream->lock);
}

static void ring_write(sp_stream *stream, const char *text, size_t n)
{
    size_t at = (stream->text_first + stream->text_count) % stream->text_capacity;
    size_t head = stream->text_capacity - at < n ? stream->text_capacity - at : n;
    if (n == 0) return;
    memcpy(stream->text + at, text, head);
    memcpy(stream->text, text + head, n - head);
    stream->text_count += n;
}

static void ring_read(sp_stream *stream, char *text, size_t n)
{
    size_t head =
        stream->text_capacity - stream->text_first < n ? stream->text_capacity - stream->text_first : n;
    memcpy(text, stream->text + stream->text_first, head);
    memcpy(text + head, stream->text, n - head);
    stream->text_first = (stream->text_first + n) % stream->text_capacity;
    stream->text_count -= n;
}

void sp_stream_push_token(sp_stream *stream, int32_t token, float logprob, const sp_token_logprob *top,
                          size_t n_top, const char *text, size_t text_size)
{
    pthread_mutex_lock(&stream->lock);
    assert(stream->count < stream->options.n_events && text_size <= stream->options.max_piece);
    assert(text_size <= text_room(stream) && n_top <= stream->options.n_top && !stream->has_last);
    uint32_t at = (stream->first + stream->count) % stream->options.n_events;
    stream->entries[at] =
        (sp_entry){.token = token, .logprob = logprob, .text_size = text_size, .n_top = n_top};
    if (n_top > 0) memcpy(stream->tops + (size_t)at * stream->options.n_top, top, n_top * sizeof *top);
    ring_write(stream, text, text_size);
    stream->count++;
    announce(stream);
    pthread_mutex_unlock(&stream->lock);
}

void sp_stream_give_prompt(sp_stream *stream, float *logprobs, sp_token_logprob *top)
{
    pthread_mutex_lock(&stream->lock);
    assert(!stream->prompt_logprobs && !stream->prompt_top);
    stream->prompt_logprobs = logprobs;
    stream->prompt_top = top;
    pthread_mutex_unlock(&stream->lock);
}

void sp_stream_finish(sp_stream *stream, const sp_event *last)
{
    pthread_mutex_lock(&stream->lock);
    assert(!stream->has_last && (last->type == SP_EVENT_DONE || last->type == SP_EVENT_ERROR));
    stream->last = *last;
    assert(last->text_size <= stream->options.max_piece);
    if (last->text_size > 0) memcpy(stream->tail, last->text, last->text_size);
    stream->last.text = stream->tail;
    stream->has_last = true;
    stream->options.wake = NULL;
    announce(stream);
    release(stream);
}

/* Half of the rings is free again. */
static void resume(sp_stream *stream)
{
    if (!stream->paused || stream->count > stream->options.n_events / 2 ||
        stream->text_count > stream->text_capacity / 2)
        return;
    stream->paused = false;
    if (stream->options.wake) stream->options.wake(stream->options.wake_context);
}

static void take_token(sp_stream *stream, sp_event *event)
{
    const sp_entry *entry = &stream->entries[stream->first];
    *event = (sp_event){.type = SP_EVENT_TOKEN,
                        .token = entry->token,
                        .logprob = entry->logprob,
                        .top = stream->top,
                        .n_top = entry->n_top,
                        .text = stream->piece,
                        .text_size = entry->text_size};
    if (entry->n_top > 0)
        memcpy(stream->top, stream->tops + (size_t)stream->first * stream->options.n_top,
               entry->n_top * sizeof *stream->top);
    ring_read(stream, stream->piece, entry->text_size);
    stream->piece[entry->text_size] = '\0';
    stream->first = (stream->first + 1) % stream->options.n_events;
    stream->count--;
    resume(stream);
}

/* The next event, if there is one; the lock is held. */
static void take(sp_stream *stream, sp_event *event)
{
    *event = (sp_event){.type = SP_EVENT_NONE, .token = -1};
    if (stream->has_progress) {
        stream->has_progress = false;
        event->type = SP_EVENT_PROGRESS;
        event->done = stream->done;
        event->total = stream->total;
    } else if (stream->count > 0) {
        take_token(stream, event);
    } else if (stream->has_last && !stream->last_read) {
        stream->last_read = true;
        *event = stream->last;
    }
    if (event->type != SP_EVENT_TOKEN && event->type != SP_EVENT_DONE) return;
    event->prompt_logprobs = stream->prompt_logprobs;
    event->prompt_top = stream->prompt_top;
}

void sp_stream_read(sp_stream *stream, sp_event *event)
{
    pthread_mutex_lock(&stream->lock);
    take(stream, event);
    pthread_mutex_unlock(&stream->lock);
}

void sp_stream_wait(sp_stream *stream, double seconds, sp_event *event)
{
    struct timespec until = sp_deadline_after(seconds);
    pthread_mutex_lock(&stream->lock);
    while (!stream->has_progress && stream->count == 0 && !stream->has_last)
        if (pthread_cond_timedwait(&stream->change, &stream->lock, &until) != 0) break;
    take(stream, event);
    pthread_mutex_unlock(&stream->lock);
}

static void cancel(sp_stream *stream)
{
    atomic_store(&stream->cancelled, true);
    if (stream->options.wake) stream->options.wake(stream->options.wake_context);
}

void sp_stream_cancel(sp_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    cancel(stream);
    pthread_mutex_unlock(&stream->lock);
}

void sp_stream_free(sp_stream *stream)
{
    if (!stream) return;
    pthread_mutex_lock(&stream->lock);
    cancel(stream);
    stream->options.notify = NULL;
    while (stream->notifying) pthread_cond_wait(&stream->change, &stream->lock);
    release(stream);
}

const char *sp_stream_attention_id(const sp_stream *stream)
{
    return stream->attention_id[0] ? stream->attention_id : NULL;
}
