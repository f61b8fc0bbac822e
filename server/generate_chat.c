/* `sparsed generate --chat`: a chat on a terminal, or one message and its answer.
 *
 * A line is a message; the answer streams to standard output; both stay as history. When the context has no
 * room left the oldest pair of messages is forgotten. Ctrl-C stops the answer, whose text so far stays;
 * between answers it only begins a new line. End of input (Ctrl-D) or SIGTERM ends the program. Owner: the
 * session owns the texts of its messages. Tests: tests/http/test_generate.py */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/generate.h"

#define MAX_MESSAGES 4096
#define ANSWER_TOKENS 256u /* room an answer of any length wants at least */
#define MESSAGE_BYTES ((size_t)16 << 20)

typedef struct session {
    sp_engine *engine;
    const sp_options *options;
    const sp_request *request;
    sp_chat_message messages[MAX_MESSAGES]; /* texts owned */
    size_t n;
} session;

static sp_status add_message(session *s, sp_chat_role role, const char *text, size_t size, sp_error *error)
{
    char *copy = s->n < MAX_MESSAGES ? sp_copy_text(text, size) : NULL;
    if (!copy) return sp_fail(error, SP_NO_MEMORY, "no memory for another message");
    s->messages[s->n++] = (sp_chat_message){.role = role, .text = copy, .size = size};
    return SP_OK;
}

static void drop_messages(session *s, size_t at, size_t count)
{
    for (size_t i = at; i < at + count; i++) sp_free((void *)s->messages[i].text);
    memmove(s->messages + at, s->messages + at + count, (s->n - at - count) * sizeof *s->messages);
    s->n -= count;
}

/* The chat as ids, within the context with at least one token of answer; forgets old messages where less room
 * is left than was asked for, or than an answer of any length wants. */
static sp_status encode(session *s, sp_tokens *tokens, uint32_t *max_tokens, sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(s->engine);
    for (;;) {
        sp_status status = sp_chat_encode(info->chat, s->messages, s->n, tokens, error);
        if (status) return status;
        size_t first = s->messages[0].role == SP_CHAT_SYSTEM;
        size_t wanted = s->request->max_tokens,
               room = info->context > tokens->count ? info->context - tokens->count : 0;
        size_t least = s->options->max_tokens >= 0         ? wanted
                       : info->context / 4 < ANSWER_TOKENS ? info->context / 4
                                                           : ANSWER_TOKENS;
        bool tight = room < least && s->n >= first + 3;
        if (!tight && room == 0)
            return sp_fail_param(error, SP_TOO_LONG, "prompt",
                                 "the message has %zu tokens with its chat, the context holds %u",
                                 tokens->count, (unsigned)info->context);
        *max_tokens = (uint32_t)(wanted < room ? wanted : room);
        if (!tight) return SP_OK;
        fputs("sparsed: the context is full, the oldest messages are forgotten\n", stderr);
        drop_messages(s, first, 2);
    }
}

static void add_ends(const sp_chat *chat, sp_request *request, int32_t *ids)
{
    for (size_t i = 0; i < request->n_stop_ids; i++) ids[i] = request->stop_ids[i];
    if (chat->end >= 0 && !request->ignore_eos && request->n_stop_ids < SP_MAX_STOP_IDS)
        ids[request->n_stop_ids++] = chat->end;
    request->stop_ids = ids;
    if (!chat->stop || request->n_stops == SP_MAX_STOPS) return;
    request->stops[request->n_stops] = chat->stop;
    request->stop_sizes[request->n_stops++] = strlen(chat->stop);
}

/* Submits the chat; *stream is to be freed. */
static sp_status submit(session *s, sp_stream **stream, sp_error *error)
{
    sp_tokens tokens = {0};
    sp_request request = *s->request;
    int32_t ends[SP_MAX_STOP_IDS], *ids = NULL;
    add_ends(sp_engine_get_info(s->engine)->chat, &request, ends);
    sp_status status = encode(s, &tokens, &request.max_tokens, error);
    if (!status) ids = sp_alloc(tokens.count + 1, sizeof *ids);
    if (!status && !ids) status = sp_fail(error, SP_NO_MEMORY, "no memory for the chat");
    for (size_t i = 0; !status && i < tokens.count; i++) ids[i] = tokens.data[i].id;
    request.ids = ids;
    request.n_ids = tokens.count;
    if (!status) status = sp_engine_submit(s->engine, &request, NULL, NULL, stream, error);
    sp_free(ids);
    sp_tokens_fini(&tokens);
    return status;
}

/* Answers the last message; the answer joins the history. An error takes the message back. */
static sp_status answer(session *s, sp_error *error)
{
    sp_stream *stream = NULL;
    sp_buffer text;
    sp_event event;
    sp_generate_interrupted = false;
    sp_status status = submit(s, &stream, error);
    if (status) {
        drop_messages(s, s->n - 1, 1);
        return status;
    }
    sp_buffer_init(&text, MESSAGE_BYTES);
    sp_generate_read(s->options, stream, &text, &event);
    sp_generate_interrupted = false;
    puts("");
    fflush(stdout);
    if (event.type == SP_EVENT_DONE) {
        sp_generate_summary(&event.usage, event.report, event.report_size);
    } else if (event.error.status == SP_CANCELLED) {
        fputs("sparsed: stopped\n", stderr);
    } else {
        *error = event.error;
        status = event.error.status;
    }
    if (status)
        drop_messages(s, s->n - 1, 1);
    else
        status = add_message(s, SP_CHAT_ASSISTANT, text.data ? text.data : "", text.size, error);
    sp_buffer_fini(&text);
    sp_stream_free(stream);
    return status;
}

/* Waits for standard input, a tenth of a second at a time so that no signal is missed. */
static bool wait_input(bool terminal)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    while (!sp_generate_ended) {
        if (sp_generate_interrupted) {
            sp_generate_interrupted = false;
            if (terminal) fputs("\n> ", stderr);
        }
        if (poll(&input, 1, 100) > 0) return true;
    }
    return false;
}

/* The next line of standard input without its end, into *line; false at its end, or where one of both has
 * failed. ahead: what was read beyond it. */
static bool read_line(sp_buffer *ahead, sp_buffer *line, bool terminal)
{
    char block[4096];
    for (;;) {
        char *end = ahead->size ? memchr(ahead->data, '\n', ahead->size) : NULL;
        size_t size = end ? (size_t)(end - ahead->data) : ahead->size;
        ssize_t got = 0;
        if (!end && !ahead->failed && wait_input(terminal)) {
            got = read(STDIN_FILENO, block, sizeof block);
            if (got < 0 && errno == EINTR) continue;
        }
        if (got > 0) {
            sp_buffer_append(ahead, block, (size_t)got);
            continue;
        }
        sp_buffer_clear(line);
        sp_buffer_append(line, ahead->data, size);
        size += end != NULL;
        if (ahead->size > size) memmove(ahead->data, ahead->data + size, ahead->size - size);
        ahead->size -= size;
        return !sp_generate_ended && !ahead->failed && !line->failed && (end || line->size > 0);
    }
}

static int talk(session *s)
{
    bool terminal = isatty(STDIN_FILENO);
    sp_error error = {0};
    sp_buffer ahead, line;
    int code = SP_EXIT_OK;
    sp_buffer_init(&ahead, MESSAGE_BYTES);
    sp_buffer_init(&line, MESSAGE_BYTES);
    if (terminal) fputs("A line is a message; Ctrl-C stops an answer, Ctrl-D ends.\n", stderr);
    while (!sp_generate_ended) {
        if (terminal) fputs("> ", stderr);
        if (!read_line(&ahead, &line, terminal)) break;
        if (line.size == 0) continue;
        sp_status status = add_message(s, SP_CHAT_USER, line.data, line.size, &error);
        if (!status) status = answer(s, &error);
        if (!status) continue;
        code = sp_command_fail(&error);
        if (!terminal) break;
        code = SP_EXIT_OK;
    }
    if (terminal) fputs("\n", stderr);
    if (ahead.failed || line.failed) {
        if (sp_buffer_check(&ahead, &error) == SP_OK && sp_buffer_check(&line, &error) == SP_OK)
            (void)sp_fail(&error, SP_DATA, "standard input: a message has more than %zu bytes",
                          MESSAGE_BYTES);
        code = sp_command_fail(&error);
    }
    sp_buffer_fini(&ahead);
    sp_buffer_fini(&line);
    return code;
}

int sp_generate_chat(sp_engine *engine, const sp_options *options, const sp_request *request,
                     const sp_buffer *prompt)
{
    sp_error error = {0};
    sp_status status = SP_OK;
    session *s = sp_alloc_zero(1, sizeof *s);
    if (!s) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for a chat");
        return sp_command_fail(&error);
    }
    *s = (session){.engine = engine, .options = options, .request = request};
    if (options->system)
        status = add_message(s, SP_CHAT_SYSTEM, options->system, strlen(options->system), &error);
    int code = SP_EXIT_OK;
    if (!status && !options->prompt) {
        code = talk(s);
    } else if (!status) {
        status = add_message(s, SP_CHAT_USER, prompt->size ? prompt->data : "", prompt->size, &error);
        if (!status) status = answer(s, &error);
    }
    if (status) code = sp_command_fail(&error);
    drop_messages(s, 0, s->n);
    sp_free(s);
    return code;
}
