/* Options of the command line and of the JSON config file: one table (options.c) gives each its name, type,
 * range, default and help text; `--help`, the config file and GET /v1/limits are made from it.
 *
 * --max-queue 64 on the command line is "max_queue": 64 in the file and in /v1/limits. The command line wins
 * over the file, the file over the defaults. Byte sizes take K, M, G suffixes (powers of 1,024). What a name
 * that belongs to a feature not built yet would do is refused by name. Tests:
 * tests/unit/server/test_options.c, tests/lint/test_docs.py */
#ifndef SPARSED_SERVER_OPTIONS_H
#define SPARSED_SERVER_OPTIONS_H

#include "engine/engine.h"

typedef struct sp_adapter_list {
    sp_adapter_option items[SP_MAX_ADAPTERS]; /* (n) */
    size_t n;
} sp_adapter_list;

typedef struct sp_file_list {
    const char *items[64]; /* (n) */
    size_t n;
} sp_file_list;

typedef struct sp_options {
    /* model and engine */
    const char *model, *chat_template, *normalizer, *kv, *weights, *gemm;
    const char *attention;    /* JSON: a quoted name or an object; NULL: what the model was trained with */
    const char *fit;          /* NULL: beside the model */
    int64_t threads, context; /* 0: all CPUs; 0: the model's */
    int64_t kv_bytes;         /* 0: half of the memory that is free at start */
    int64_t attn_scratch, max_sequences, max_queue, step_ms;
    double queue_timeout, request_timeout;
    bool mmap, allow_nonfinite;
    sp_adapter_list adapters;
    /* server */
    const char *host, *config;
    int64_t port;
    int64_t max_body_bytes, max_tensor_bytes, max_output_tokens, max_connections, max_connections_per_ip;
    int64_t capture_bytes, capture_max_bytes, graph_jobs, graph_json_edges, graph_edges, graph_dense_values;
    double capture_expiry;
    double header_timeout, body_timeout, idle_timeout, write_timeout, drain_delay, drain_timeout;
    const char *half_close; /* "abort" or "keep" */
    const char
        *allowed_host; /* comma-separated; NULL: loopback names and --host, or any where there are keys */
    const char *api_key_file; /* NULL: no keys */
    const char *log_format;   /* "text" or "json" */
    const char *cors_origin;  /* comma-separated; NULL: no CORS headers */
    bool insecure, public_metrics, share_prefixes, poison;
    /* other commands */
    const char *system, *stop, *logit_bias, *stop_token_ids;
    const char *prompt, *text, *in, *out, *device;
    bool chat, ignore_eos, json, metrics, plain, special, decode;
    int64_t max_tokens, seed, top_k, length, min_context; /* length 0: the context */
    int64_t min_tokens;
    /* fit */
    sp_file_list texts;
    const char *loss, *rope, *maps, *k_maps, *clusters, *kmeans, *bins, *blocks, *measured;
    int64_t rank, steps, runs, tokens, sample_bytes; /* rank 0: by head size; tokens 0: all */
    double lambda, gold_mass;
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    const char *graph, *format, *view, *scale, *colors, *theme; /* graph */
    int64_t layer, head;                                        /* graph; -1: not given */
    const char *projections, *centroids;                        /* import-fit */
    int64_t layers, heads;                                      /* import-fit; 0: any */
    const char *backends, *grid;                                /* sweep */
    int64_t windows;                                            /* sweep; 0: all */
    bool retime;                                                /* sweep */
    double alpha;
    sp_arena arena; /* owns the strings */
} sp_options;

typedef enum sp_option_type {
    SP_OPTION_TEXT,
    SP_OPTION_INT,
    SP_OPTION_NUMBER,
    SP_OPTION_BYTES,
    SP_OPTION_FLAG,
    SP_OPTION_ADAPTERS, /* NAME=DIR, several: adds to a list instead of replacing */
    SP_OPTION_FILES     /* several: adds to a list; takes the arguments behind it that are no options */
} sp_option_type;
#define SP_FOR_SERVE 1u
#define SP_FOR_GENERATE 2u
#define SP_FOR_ATTEND 4u
#define SP_FOR_BENCH 8u
#define SP_IS_LIMIT 16u /* listed in GET /v1/limits */
#define SP_FOR_SCORE 32u
#define SP_FOR_TOKENIZE 64u
#define SP_FOR_INSPECT 128u
#define SP_FOR_FIT 256u
#define SP_FOR_IMPORT_FIT 512u
#define SP_FOR_SWEEP 1024u
#define SP_FOR_GRAPH 2048u
#define SP_FOR_HEALTH 4096u
typedef struct sp_option {
    const char *name; /* "max-queue" */
    sp_option_type type;
    size_t offset; /* in sp_options */
    unsigned flags;
    double min, max;
    const char *fallback;   /* default as text; NULL: none */
    const char *value_name; /* "N"; in lower case: all the values there are, "a|b" */
    const char *help;       /* one or more sentences; the default and the range are added */
} sp_option;
extern const sp_option sp_option_table[];
extern const size_t sp_option_count;

/* Fills options for one command from defaults, --config FILE and the arguments after the command's name.
 * SP_USAGE names the option; SP_NOT_FOUND and SP_DATA: the config file is absent or no JSON. Without --model
 * it is models/austen below the current folder, else share/sparsed/models/austen beside the program's bin
 * folder. Call sp_options_fini in either case. */
sp_status sp_options_parse(sp_options *options, unsigned command, int argc, char **argv,
                           sp_error *error) SP_MUST_CHECK;
void sp_options_fini(sp_options *options);
/* The engine's part; progress fields are left alone. SP_USAGE for an unknown normalizer or KV type. */
sp_status sp_options_engine(const sp_options *options, sp_engine_options *out, sp_error *error) SP_MUST_CHECK;
/* Complete help of one command, made from the table. */
void sp_options_help(unsigned command, sp_buffer *out);
/* Limits in force as members of an open JSON object: names with underscores. kv_bytes: what the engine took,
 * 0 before it is loaded (then null). */
void sp_options_write_limits(const sp_options *options, size_t kv_bytes, sp_json_writer *out);

#endif
