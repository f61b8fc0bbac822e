/* The commands of `sparsed`, one function and one file each (cmd_*.c). They return the process's exit code;
 * main.c alone exits. Messages for people go to standard error as "sparsed: ...", results to standard output.
 * Tests: tests/http/ (serve), tests/golden/test_attend.py (attend), tests/http/test_command.py (the rest) */
#ifndef SPARSED_SERVER_COMMAND_H
#define SPARSED_SERVER_COMMAND_H

#include "server/options.h"

#define SP_EXIT_OK 0
#define SP_EXIT_USAGE 64
#define SP_EXIT_DATA 65
#define SP_EXIT_NOT_FOUND 66
#define SP_EXIT_BIND 69
#define SP_EXIT_INTERNAL 70
#define SP_EXIT_TEXT                                                                                         \
    "Exit codes: 0 done, 64 wrong usage, 65 bad model or data, 66 not found, 69 cannot listen,\n"            \
    "            70 internal error.\n"

int sp_command_serve(const sp_options *options);
int sp_command_generate(const sp_options *options);
int sp_command_score(const sp_options *options);
int sp_command_inspect(const sp_options *options);
int sp_command_tokenize(const sp_options *options);
int sp_command_attend(const sp_options *options);
int sp_command_sweep(const sp_options *options);
int sp_command_fit(const sp_options *options);
int sp_command_import_fit(const sp_options *options);
int sp_command_bench(const sp_options *options);
int sp_command_graph(const sp_options *options);
int sp_command_health(const sp_options *options);

/* Time of an engine's step where nobody else waits for it but Ctrl-C: longer chunks of a prompt are faster.
 */
#define SP_ALONE_STEP_SECONDS 0.5

/* SP_INVALID counts as usage: outside of requests it can only come from an option. */
int sp_exit_code(sp_status status);
/* Prints the error and returns its exit code. */
int sp_command_fail(const sp_error *error);
/* Writes it to standard output. SP_IO, and what the buffer failed of: SP_NO_MEMORY, SP_INTERNAL. */
sp_status sp_command_print(const sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* Appends the file --text, or standard input for "-", up to text->max_bytes. SP_NOT_FOUND, SP_DATA. */
sp_status sp_read_text(const char *path, sp_buffer *text, sp_error *error) SP_MUST_CHECK;
/* Whether sp_write_result could write --out, asked before the work: SP_NOT_FOUND where its folder is not
 * there or not writable, SP_USAGE where it is a folder. */
sp_status sp_check_result(const char *path, sp_error *error) SP_MUST_CHECK;
/* Writes the file --out whole or not at all (a new file, renamed); "-" is standard output, and a device or a
 * pipe is written to. SP_NOT_FOUND, SP_IO. */
sp_status sp_write_result(const char *path, const sp_buffer *bytes, sp_error *error) SP_MUST_CHECK;

/* A bar on standard error, redrawn in place, where that is a terminal; elsewhere one log line at most every
 * ten seconds. Plain data: nothing to free. */
typedef struct sp_progress {
    const char *title;
    bool terminal, drawn;
    int percent;      /* last drawn */
    double logged_at; /* sp_now() of the last log line */
} sp_progress;
void sp_progress_init(sp_progress *progress, const char *title);
/* fraction 0..1; context is a sp_progress: fits sp_engine_options.progress. */
void sp_progress_show(void *context, double fraction);
/* Wipes the bar. */
void sp_progress_clear(sp_progress *progress);

#define SP_FOREVER 1e9 /* seconds: nobody else waits */
/* The engine's options for a command that runs one request at a time: memory for one context, no timeouts. */
sp_status sp_alone_options(const sp_options *options, sp_engine_options *out, sp_error *error) SP_MUST_CHECK;
/* sp_engine_open beneath a bar "loading". */
sp_status sp_alone_open(const sp_engine_options *options, sp_engine **out, sp_error *error) SP_MUST_CHECK;
/* Ten cells that show a share of 1: "######....". */
void sp_share_bar(double share, char out[16]);

/* What a summary line says about attention, read from an attention_report's JSON. */
typedef struct sp_report_summary {
    char backend[64], normalizer[64]; /* normalizer as JSON spells it */
    double edges, pairs, seconds;     /* prefill and decode together */
} sp_report_summary;
/* report may be NULL or no report: then names are "?" and numbers 0. */
void sp_report_read(const char *report, size_t size, sp_report_summary *out);

#endif
