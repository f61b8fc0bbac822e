/* What `sparsed generate` shares between a text continued (cmd_generate.c) and a chat (generate_chat.c). */
#ifndef SPARSED_SERVER_GENERATE_H
#define SPARSED_SERVER_GENERATE_H

#include <signal.h>
#include <stdatomic.h>

#include "server/command.h"

/* Ctrl-C has been pressed; whoever acts on it clears it. SIGTERM sets both. Signals may come to any thread.
 */
extern atomic_bool sp_generate_interrupted, sp_generate_ended;

/* The sampling options as a request without a prompt; lists live in the arena. SP_USAGE names the option. */
sp_status sp_generate_request(const sp_options *options, sp_arena *arena, sp_request *request,
                              sp_error *error) SP_MUST_CHECK;
/* Reads the stream to its end: text goes to standard output as it comes, unless --json, and into *kept where
 * that is not NULL. Ctrl-C cancels it. The last event is left in *event, an error where *kept has failed; its
 * memory belongs to the stream. */
void sp_generate_read(const sp_options *options, sp_stream *stream, sp_buffer *kept, sp_event *event);
/* One line to standard error: tokens, seconds, edges. */
void sp_generate_summary(const sp_usage *usage, const char *report, size_t report_size);
/* A chat: --prompt is its one message, else messages come from standard input, a line each, with history.
 * Returns the exit code. */
int sp_generate_chat(sp_engine *engine, const sp_options *options, const sp_request *request,
                     const sp_buffer *prompt);

#endif
