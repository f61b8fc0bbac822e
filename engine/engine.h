/* The engine: one loaded model, one thread that owns it, many requests. This header is the whole boundary;
 * HTTP code never sees a tensor.
 *
 * Ownership and threads: sp_engine_submit copies what it needs from the request and may be called from any
 * thread. A stream is read by one thread at a time; its notify callback is called from the engine thread with
 * no lock held, and must only wake somebody. Freeing a stream that still runs cancels it. Everything else
 * belongs to the engine thread. Between threads there are only the submit queue and the streams. Tests:
 * tests/unit/engine/, tests/golden/test_austen.c, tests/http/ */
#ifndef SPARSED_ENGINE_ENGINE_H
#define SPARSED_ENGINE_ENGINE_H

#include "engine/attention/attention.h"
#include "engine/attention/apply.h"
#include "models/chat_template.h"
#include "models/model.h"

typedef struct sp_engine sp_engine;
typedef struct sp_stream sp_stream;
struct sp_captures;
struct sp_capture_spec;
struct sp_graph_runner;
struct sp_flag;

typedef struct sp_engine_options {
    const char *model_path;
    size_t n_threads;        /* 0: all CPUs */
    uint32_t context;        /* 0: the model's, or what the KV budget holds if that is less */
    uint32_t context_enough; /* where context is 0: no more than this is taken; 0: no such bound */
    bool beyond; /* context may exceed the model's where positions are not learned: for benchmarks */
    const char *attention; /* JSON: the default of requests without one; NULL: the model's attention_pattern,
                              else dense */
    const char *chat_template; /* a family's name; NULL: as the model's own template says */
    bool share_prefixes;       /* --share-prefixes: between owners too */
    bool coarse_times;         /* owners must not learn of each other: sp_seconds_coarsen */
    bool poison;               /* pages that become free are filled with NaN; always in debug builds */
    bool override_normalizer;  /* --normalizer: what "model" resolves to; noted in every report */
    sp_normalizer normalizer;
    sp_dtype kv_type;       /* SP_BF16 (default) or SP_F32; SP_F32 means float32 arithmetic throughout */
    size_t kv_bytes;        /* 0: half of the memory that is free at start */
    size_t kv_tokens;       /* the pool holds no more than these; 0: max_sequences whole contexts */
    size_t attend_scratch;  /* 0: 64 MiB */
    uint32_t max_sequences; /* decoding or prefilling at once; 16 */
    uint32_t max_queue;     /* requests waiting; 64 */
    double queue_timeout, request_timeout; /* seconds; 60, 600 */
    double step_seconds;     /* time one step should take: how long a prefill chunk may be; 0.02 */
    size_t max_tensor_bytes; /* answers of apply; 64 MiB */
    size_t capture_bytes, capture_max_bytes; /* all captures and their heads; one capture; 512, 256 MiB */
    double capture_expiry;                   /* seconds without use; 600 */
    bool openblas;
    sp_weights_options weights;
    sp_weights_as weights_as;          /* --weights: what matrices become at load; SP_WEIGHTS_STORED */
    const sp_adapter_option *adapters; /* (n_adapters) */
    size_t n_adapters;
    const char *fit;  /* --fit; NULL: what lies beside the model (engine/fits.h) */
    bool fingerprint; /* take the fingerprints of the model and its adapters though nothing beside them needs
                         it */
    void (*progress)(void *context, double fraction); /* loading; may be NULL */
    void *progress_context;
} sp_engine_options;

/* Requests admitted at most, for each of max_sequences: paused ones keep their memory beside the running. */
#define SP_ADMITTED_A_PLACE 4u

void sp_engine_options_init(sp_engine_options *options); /* the defaults above */
/* Loads the model and starts the engine thread. */
sp_status sp_engine_open(const sp_engine_options *options, sp_engine **out, sp_error *error) SP_MUST_CHECK;
/* Cuts what runs (their streams end with SP_UNAVAILABLE), joins the thread, frees all. Streams must be freed
 * before. */
void sp_engine_close(sp_engine *engine);

/* Constant after open; readable from any thread. */
typedef struct sp_engine_info {
    const char *model_name, *arch;
    size_t n_adapters;
    const char *const *model_ids;    /* (1 + n_adapters) what requests ask for: BASE, then BASE:NAME */
    const char *const *fingerprints; /* (1 + n_adapters) of the query and key projections; "": not taken */
    sp_hparams hparams;
    uint32_t context;
    size_t kv_pages, page_tokens, kv_bytes, weight_bytes,
        scratch_bytes; /* scratch: forward, attend, plans, requests */
    const char *device, *level;
    size_t n_params;
    size_t n_threads;
    sp_dtype kv_type;
    bool batch_invariant;
    bool has_fit;              /* of the base or an adapter */
    const sp_fit *const *fits; /* (1 + n_adapters) what requests predict with; entries NULL: nothing */
    const sp_tokenizer *tokenizer;
    const sp_chat *chat;
    const char *chat_template; /* the model's Jinja text; NULL: none */
    int64_t created;           /* unix seconds */
} sp_engine_info;
const sp_engine_info *sp_engine_get_info(const sp_engine *engine);
/* The index among model_ids, which is sp_request.adapter. SP_NOT_FOUND naming "model". */
sp_status sp_engine_find_model(const sp_engine_info *info, const char *name, size_t size, uint32_t *adapter,
                               sp_error *error) SP_MUST_CHECK;

/* --- requests --- */
#define SP_MAX_LOGPROBS 20
#define SP_MAX_STOPS 16
#define SP_MAX_STOP_BYTES 1024
#define SP_MAX_STOP_IDS 64
typedef struct sp_sampling {
    double temperature; /* 0: the best token */
    double top_p;       /* (0, 1] */
    int64_t top_k;      /* <= 0: off */
    double min_p;       /* 0: off */
    int64_t seed;
    double presence_penalty, frequency_penalty; /* -2..2; 0: off */
    double repetition_penalty;                  /* (0, 100]; 0 and 1: off */
} sp_sampling;

/* Added to a token's logit before it is sampled. */
#define SP_MAX_BIASES 1024
typedef struct sp_token_bias {
    int32_t token;
    float value; /* -100..100 */
} sp_token_bias;

/* What the states after the last norm become: those of the last token, or their mean over all tokens. */
typedef enum sp_pooling { SP_POOLING_NONE, SP_POOLING_LAST, SP_POOLING_MEAN } sp_pooling;

typedef struct sp_request {
    const char *prompt; /* text, or NULL when ids are given */
    size_t prompt_size;
    const int32_t *ids;
    size_t n_ids;
    uint32_t adapter; /* 0: the base alone, i: adapter i - 1; an index of sp_engine_info.model_ids */
    uint32_t max_tokens;
    sp_sampling sampling;
    const char *stops[SP_MAX_STOPS];
    size_t stop_sizes[SP_MAX_STOPS], n_stops;
    const int32_t *stop_ids; /* (n_stop_ids, at most SP_MAX_STOP_IDS) end the text as the end of text does */
    size_t n_stop_ids;
    const sp_token_bias *biases; /* (n_biases, at most SP_MAX_BIASES) */
    size_t n_biases;
    uint32_t min_tokens; /* no end of text and no stop id before so many; at most max_tokens */
    bool ignore_eos;
    bool plain_prompt;    /* a text gets nothing before or behind it (BOS, EOS) */
    bool prompt_logprobs; /* log p of every prompt token given those before, with the best `logprobs` beside
                             it; from the first token on in every event */
    sp_pooling pooling;   /* the prompt's embedding comes with DONE */
    bool prompt_logits;   /* the last prompt row's logits, for tests and tools */
    bool follows; /* goes on with what an accepted request began: takes a place in the queue even if it is
                     full. One at a time and request */
    double spent; /* seconds since the request that it follows began: they count against request_timeout */
    uint32_t logprobs;     /* top N logprobs of generated tokens (at most 20); 0: only the chosen one's */
    const char *attention; /* JSON value of `attention`; NULL: the engine's default */
    size_t attention_size;
    bool may_capture;                      /* `attention` may hold capture: the reply tells attention_id */
    const struct sp_capture_spec *capture; /* capture the run as engine/graph/capture.h says; or NULL */
    uint64_t owner;         /* of captures and pages: who may ask for them, who may reuse them */
    bool share_pages;       /* what is computed may be kept for later requests of the same owner and salt */
    const char *cache_salt; /* (cache_salt_size) pages are shared among requests with the same; or NULL */
    size_t cache_salt_size;
    struct sp_flag *abandoned; /* engine/flag.h; once raised the request ends as if cancelled; or NULL */
} sp_request;
void sp_request_init(sp_request *request); /* max_tokens 16, temperature 1, top_p 1 */

typedef enum sp_event_type {
    SP_EVENT_NONE,     /* nothing yet */
    SP_EVENT_PROGRESS, /* prefill: tokens done of total */
    SP_EVENT_TOKEN,    /* one token; text may be empty while bytes or a possible stop string are held back */
    SP_EVENT_DONE,     /* the last one: finish reason, usage, report */
    SP_EVENT_ERROR,    /* the last one: error */
} sp_event_type;
typedef enum sp_finish { SP_FINISH_STOP, SP_FINISH_LENGTH } sp_finish;

typedef struct sp_usage {
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    double queue_seconds, prefill_seconds, first_token_seconds, decode_seconds;
} sp_usage;

typedef struct sp_token_logprob {
    int32_t token;
    float logprob;
} sp_token_logprob;

typedef struct sp_event {
    sp_event_type type;
    uint32_t done, total; /* PROGRESS */
    int32_t token;        /* TOKEN */
    float logprob; /* TOKEN: of the chosen token, after temperature 1 softmax of the raw logits: before bias,
                      penalties and min_tokens */
    const sp_token_logprob
        *top; /* TOKEN: the best request.logprobs tokens, falling; valid until the next read */
    size_t n_top;
    const char *text; /* TOKEN, DONE: text released now; valid until the next read or free */
    size_t text_size;
    sp_finish finish;   /* DONE */
    sp_usage usage;     /* DONE */
    const char *report; /* DONE: attention_report as JSON; valid until free */
    size_t report_size;
    const sp_attention_report
        *figures;                 /* DONE: the same as numbers, to be summed over requests; until free */
    const float *prompt_logprobs; /* TOKEN, DONE, when asked: (prompt_tokens), [0] NaN; until free */
    const sp_token_logprob *prompt_top; /* the same: (prompt_tokens, request.logprobs) falling; token -1 where
                                           there is none; NULL when logprobs is 0 */
    const float *embedding;             /* DONE, when asked: (hidden), not normalized; until free */
    const float *prompt_logits;         /* DONE, when asked: (vocab); until free */
    const int32_t *prompt_ids;          /* DONE: (prompt_tokens); until free */
    sp_error error;                     /* ERROR */
} sp_event;

/* Validates, tokenizes, checks the context, queues. On success *out is a stream to read until DONE or ERROR.
 * SP_INVALID (param names the field), SP_TOO_LONG, SP_BUSY, SP_UNAVAILABLE when closing.
 * notify(context) is called whenever a read may give something new. */
sp_status sp_engine_submit(sp_engine *engine, const sp_request *request, void (*notify)(void *context),
                           void *context, sp_stream **out, sp_error *error) SP_MUST_CHECK;
/* Tokens of a request's prompt, for the error of one that is too long; 0 when it cannot be encoded. Any
 * thread. */
size_t sp_engine_count_prompt(const sp_engine *engine, const sp_request *request);
/* Checks a request as submit does, without queueing it, and gives its prompt's ids (sp_free). Any thread.
 * SP_INVALID, SP_TOO_LONG (then *n_ids is the prompt's length). */
sp_status sp_engine_check(const sp_engine *engine, const sp_request *request, int32_t **ids, size_t *n_ids,
                          sp_error *error) SP_MUST_CHECK;
/* Never blocks. After DONE or ERROR was read there is nothing more: NONE. */
void sp_stream_read(sp_stream *stream, sp_event *event);
/* Blocks until there is an event or seconds passed (then NONE). For the command line. */
void sp_stream_wait(sp_stream *stream, double seconds, sp_event *event);
/* Asks the engine to stop it; an ERROR event with SP_CANCELLED follows. Any thread. */
void sp_stream_cancel(sp_stream *stream);
/* A request's flag was raised: the engine looks at once. Any thread. */
void sp_engine_wake(sp_engine *engine);
/* Cancels if needed; after it returns notify is not called again. */
void sp_stream_free(sp_stream *stream);
/* The id of the request's capture, until free; NULL: it has none. */
#define SP_ATTENTION_ID 32
const char *sp_stream_attention_id(const sp_stream *stream);

/* --- attention graphs: engine/graph/ --- */
struct sp_captures *sp_engine_captures(sp_engine *engine);
/* How heads are made: in short steps between the engine's own. stop may be NULL. */
void sp_engine_graph_runner(sp_engine *engine, bool (*stop)(void *context), void *stop_context,
                            struct sp_graph_runner *out);

/* Runs sp_apply in short steps on the engine thread, between its own, and waits for it; any thread. */
sp_status sp_engine_apply(sp_engine *engine, const void *in, size_t in_size, const sp_apply_options *options,
                          sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* --- statistics: counters since start, gauges now; any thread --- */
#define SP_HISTOGRAM_MAX 32
typedef struct sp_histogram {
    const double *bounds; /* (n) upper bounds, ascending; +Inf is implied */
    size_t n;
    uint64_t counts[SP_HISTOGRAM_MAX]; /* per bucket, not cumulative; [n] is +Inf */
    uint64_t total;
    double sum;
} sp_histogram;
#define SP_STATS_BACKENDS 32
typedef struct sp_stats {
    uint32_t running, waiting;
    uint64_t prompt_tokens, generation_tokens;
    uint64_t finished_stop, finished_length, finished_error, finished_cancelled;
    uint32_t kv_pages_used, kv_pages_cached;
    sp_histogram time_to_first_token, inter_token, e2e, queue_time, prefill_time, decode_time;
    sp_histogram inference_time, prompt_length, generation_length, max_tokens, step_tokens;
    uint64_t prefix_queries, prefix_hits; /* prompt tokens looked up and found among the kept pages */
    sp_attention_phase prefill[SP_STATS_BACKENDS], decode[SP_STATS_BACKENDS]; /* by index in sp_backends */
    double drain_seconds; /* estimate until a queue place is free: for Retry-After */
} sp_stats;
void sp_engine_stats(sp_engine *engine, sp_stats *out);

#endif
