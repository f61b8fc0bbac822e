/* Fuzz target: raw bytes through the real front: the listener, libmicrohttpd, gate, routes, handlers and a
 * small model behind them, over a loopback connection.
 *
 * Input: a byte that says in what pieces the rest is sent; the rest, as a client sends it that reads until
 * the server closes or waits for more, and then goes. Whatever comes back must be whole HTTP replies; what
 * our own code refuses carries the JSON envelope with the status in it; there are no more replies than lines;
 * a head with both Content-Length and Transfer-Encoding, or two of either, gets no reply below 400. Every few
 * inputs the server must have let go of everything (connections, budgets of bytes, pages) and answer a fixed
 * request with the same bytes as at the beginning. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_INPUT 65536
#define MAX_REPLIES ((size_t)256 << 20)
#define RUNS_BETWEEN_CHECKS 32

static sp_options options;
static sp_server *server;
static sp_engine *engine;
static sp_buffer first_answer;
static unsigned long n_runs;

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_http: %s\n", what);
    abort();
}

static void close_all(void)
{
    sp_server_stop(server);
    sp_server_stop(server);
    sp_server_run(server);
    sp_server_close(server);
    sp_engine_close(engine);
    sp_options_fini(&options);
    sp_buffer_fini(&first_answer);
}

static void open_all(void)
{
    const char *arguments[] = {"--model",
                               FUZZ_MODEL,
                               "--port",
                               "0",
                               "--body-timeout",
                               "5",
                               "--kv-bytes",
                               "8M",
                               "--threads",
                               "1",
                               "--max-body-bytes",
                               "64k",
                               "--capture-bytes",
                               "4M",
                               "--request-timeout",
                               "5",
                               "--graph-jobs",
                               "1",
                               "--chat-template",
                               "plain"};
    sp_engine_options engine_options;
    sp_error error = {0};
    sp_log_set_level(SP_LOG_ERROR);
    int n = (int)(sizeof arguments / sizeof *arguments);
    sp_status status = sp_options_parse(&options, SP_FOR_SERVE, n, (char **)arguments, &error);
    sp_engine_options_init(&engine_options);
    if (!status) status = sp_options_engine(&options, &engine_options, &error);
    if (!status) status = sp_engine_open(&engine_options, &engine, &error);
    if (!status) status = sp_server_open(&options, &server, &error);
    require(status == SP_OK, error.message);
    sp_server_ready(server, engine);
    atexit(close_all);
}

/* --- the client --- */
static int connect_to(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(sp_server_port(server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "no connection");
    return fd;
}

/* Reads what there is; true: the connection goes on. */
static bool read_some(int fd, bool *reset, sp_buffer *out)
{
    char bytes[16384];
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, 0) <= 0) return true;
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n < 0) *reset = true;
        if (n <= 0) return false;
        require(sp_buffer_append(out, bytes, (size_t)n), "too much comes back");
    }
}

/* The connection with this serial number, the last, is there, and every one waits for its client: all that
 * came is read, nothing is worked on. */
static bool awaits_more(uint32_t serial)
{
    bool waits = true;
    pthread_mutex_lock(&server->lock);
    for (const sp_conn *conn = server->all; conn; conn = conn->next) {
        int unread = 0;
        bool incoming =
            conn->state == SP_CONN_HEADERS || conn->state == SP_CONN_BODY || conn->state == SP_CONN_IDLE;
        waits = waits && incoming && ioctl(conn->fd, FIONREAD, &unread) == 0 && unread == 0;
    }
    waits = waits && server->serial == serial && server->n_conns > 0;
    pthread_mutex_unlock(&server->lock);
    return waits;
}

/* to_the_end: the server closes by itself. */
static void exchange(const uint8_t *data, size_t size, size_t piece, bool to_the_end, bool *reset,
                     sp_buffer *out)
{
    static uint32_t serial;
    serial++;
    int fd = connect_to();
    bool open = true;
    size_t at = 0;
    while (at < size && open) {
        size_t n = size - at < piece ? size - at : piece;
        bool sent = send(fd, data + at, n, MSG_NOSIGNAL) == (ssize_t)n;
        if (!sent) *reset = true;
        open = read_some(fd, reset, out) && sent;
        at += n;
    }
    if (at < size) *reset = true; /* it closed while we sent: the end of its answer may be lost */
    for (int quiet = 0, i = 0; open && quiet < 2; i++) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        require(i < 20000, "the server neither answers nor closes");
        if (poll(&ready, 1, 1) > 0) {
            open = read_some(fd, reset, out);
            quiet = 0;
        } else {
            quiet = !to_the_end && awaits_more(serial) ? quiet + 1 : 0;
        }
    }
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

/* --- replies --- */
typedef struct cursor {
    const char *at;
    size_t left;
} cursor;

typedef struct reply {
    unsigned status;
    bool ours, json, chunked, has_length;
    size_t length;
    sp_buffer body;
} reply;

/* A line without its CRLF; false: there is no whole one. */
static bool take_line(cursor *c, const char **line, size_t *size)
{
    const char *end = memchr(c->at, '\n', c->left);
    if (!end) return false;
    *line = c->at;
    *size = (size_t)(end - c->at);
    require(*size > 0 && end[-1] == '\r', "a line of a reply ends with a bare line feed");
    c->left -= *size + 1;
    c->at = end + 1;
    (*size)--;
    return true;
}

static bool is_header(const char *line, size_t size, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    if (size < n + 2 || strncasecmp(line, name, n) != 0 || line[n] != ':') return false;
    return size - n - 2 >= v && strncasecmp(line + n + 2, value, v) == 0;
}

/* False: the head is cut off. */
static bool take_head(cursor *c, reply *r)
{
    const char *line;
    size_t size;
    if (!take_line(c, &line, &size)) return false;
    require(size >= 12 && strncmp(line, "HTTP/1.", 7) == 0 && line[8] == ' ', "not a status line");
    r->status = (unsigned)strtoul(line + 9, NULL, 10);
    require(r->status >= 100 && r->status < 600, "an odd status");
    for (;;) {
        if (!take_line(c, &line, &size)) return false;
        if (size == 0) return true;
        for (size_t i = 0; i < size; i++)
            require((unsigned char)line[i] >= 0x20 || line[i] == '\t', "a control byte in a header");
        r->ours = r->ours || is_header(line, size, "x-request-id", "");
        r->json = r->json || is_header(line, size, "content-type", "application/json");
        r->chunked = r->chunked || is_header(line, size, "transfer-encoding", "chunked");
        if (!is_header(line, size, "content-length", "")) continue;
        require(!r->has_length, "two lengths");
        r->has_length = true;
        r->length = (size_t)strtoull(line + 16, NULL, 10);
    }
}

static bool take_bytes(cursor *c, size_t n, sp_buffer *out)
{
    bool whole = n <= c->left;
    if (!whole) n = c->left;
    sp_buffer_append(out, c->at, n);
    c->at += n;
    c->left -= n;
    return whole;
}

static bool take_chunks(cursor *c, sp_buffer *out)
{
    const char *line;
    size_t size;
    for (;;) {
        if (!take_line(c, &line, &size)) return false;
        char *end;
        size_t n = (size_t)strtoull(line, &end, 16);
        require(end == line + size && size > 0, "a bad chunk size");
        if (!take_bytes(c, n, out) || !take_line(c, &line, &size)) return false;
        require(size == 0, "a chunk is longer than it says");
        if (n == 0) return true;
    }
}

/* False: it is cut off. */
static bool take_reply(cursor *c, reply *r)
{
    if (!take_head(c, r)) return false;
    if (r->chunked) return take_chunks(c, &r->body);
    if (r->status < 200 || r->status == 204 || r->status == 304) return true;
    /* to HEAD there is no body, and what comes next is another reply or the end */
    if (c->left == 0 || strncmp(c->at, "HTTP/1.", c->left < 7 ? c->left : 7) == 0) return true;
    require(r->has_length, "a body without a length");
    return take_bytes(c, r->length, &r->body);
}

static void check_error(const reply *r)
{
    char code[24];
    sp_error error;
    snprintf(code, sizeof code, "\"code\":%u", r->status);
    require(r->json, "an error that is no JSON");
    if (r->body.size == 0) return;
    require(sp_json_validate(r->body.data, r->body.size, &error) == SP_OK, "an error that is ill-formed");
    require(memmem(r->body.data, r->body.size, code, strlen(code)) != NULL, "an error without its code");
}

/* The number of final replies, and the lowest status. */
static size_t check_replies(const sp_buffer *bytes, bool reset, unsigned *lowest)
{
    cursor c = {bytes->data, bytes->size};
    size_t n = 0;
    *lowest = 999;
    while (c.left > 0) {
        reply r = {0};
        sp_buffer_init(&r.body, MAX_REPLIES);
        bool whole = take_reply(&c, &r);
        require(whole || reset || c.left == 0, "a reply is cut off though more comes");
        require(whole || reset || r.chunked, "a reply is cut off");
        if (whole && r.ours && r.status >= 400) check_error(&r);
        if (r.status >= 200) n++;
        if (r.status >= 200 && r.status < *lowest) *lowest = r.status;
        sp_buffer_fini(&r.body);
        if (!whole) break;
    }
    return n;
}

/* --- what was sent --- */
/* Whether the first head, whose lines all end as they should, says twice how long its body is. */
static bool is_ambiguous(const char *bytes, size_t size)
{
    size_t n_lengths = 0, n_codings = 0, n_lines = 0;
    while (size > 0) {
        const char *end = memchr(bytes, '\n', size);
        if (!end || end == bytes || end[-1] != '\r') return false;
        size_t n = (size_t)(end - bytes) - 1;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)bytes[i] < 0x20) return false;
        if (n == 0) return n_lines > 0 && (n_lengths > 1 || n_codings > 1 || (n_lengths && n_codings));
        if (n_lines++ > 0) {
            n_lengths += n >= 15 && strncasecmp(bytes, "content-length:", 15) == 0;
            n_codings += n >= 18 && strncasecmp(bytes, "transfer-encoding:", 18) == 0;
        }
        size -= n + 2;
        bytes = end + 1;
    }
    return false;
}

static size_t count_lines(const char *bytes, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) n += bytes[i] == '\n';
    return n;
}

/* --- the server afterwards --- */
static bool is_at_rest(void)
{
    sp_stats stats;
    sp_engine_stats(engine, &stats);
    pthread_mutex_lock(&server->lock);
    bool rest = server->n_conns == 0 && server->n_active == 0 && server->json_bytes == 0 &&
                server->tensor_bytes == 0 && server->reply_bytes == 0 && server->n_refused == 0;
    pthread_mutex_unlock(&server->lock);
    return rest && stats.running == 0 && stats.waiting == 0 && stats.kv_pages_used == 0;
}

static void ask_again(void)
{
    static const char request[] =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 77\r\nConnection: close\r\n\r\n"
        "{\"prompt\":\"ab\",\"max_tokens\":9,\"temperature\":0,\"logprobs\":2,\"ignore_eos\":true}";
    sp_buffer answer;
    bool reset = false;
    sp_buffer_init(&answer, MAX_REPLIES);
    exchange((const uint8_t *)request, sizeof request - 1, sizeof request, true, &reset, &answer);
    sp_buffer_append(&answer, "", 1);
    char *choices = strstr(answer.data, "\"choices\""), *end = choices ? strstr(choices, "\"usage\"") : NULL;
    require(!reset && choices && end, "a valid request is refused");
    size_t n = (size_t)(end - choices);
    if (first_answer.size == 0) sp_buffer_append(&first_answer, choices, n);
    require(first_answer.size == n && memcmp(first_answer.data, choices, n) == 0,
            "it says something else now");
    sp_buffer_fini(&answer);
}

static void check_server(void)
{
    for (int i = 0; !is_at_rest(); i++) {
        require(i < 20000, "something is left");
        usleep(1000);
    }
    ask_again();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!server) {
        open_all();
        sp_buffer_init(&first_answer, 65536);
        ask_again();
    }
    if (size < 1 || size > MAX_INPUT) return 0;
    sp_buffer replies;
    bool reset = false;
    unsigned lowest;
    const char *text = (const char *)data + 1;
    sp_buffer_init(&replies, MAX_REPLIES);
    exchange(data + 1, size - 1, data[0] ? data[0] * 4u : MAX_INPUT, false, &reset, &replies);
    size_t n = check_replies(&replies, reset, &lowest);
    sp_buffer_fini(&replies);
    require(n <= count_lines(text, size - 1), "more replies than requests");
    require(!is_ambiguous(text, size - 1) || lowest >= 400, "an ambiguous request was served");
    if (++n_runs % RUNS_BETWEEN_CHECKS == 0) check_server();
    return 0;
}
