/* Errors, log, clock, whole files, hash and UTF-8: what every other folder needs first.
 *
 * Texts for people (errors and log lines) may quote hostile input, so everything that passes through here is
 * made harmless: control characters (C0, DEL, C1) and ill-formed UTF-8 appear as \xNN, and a text that does
 * not fit is cut between two characters. The caller owns every sp_error; nothing here keeps a pointer. Tests:
 * tests/unit/kernels/test_base.c */
#include "kernels/base.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE = 1024, LOG_WAIT_MS = 100 };

static _Atomic int log_level = SP_LOG_INFO;
static _Atomic bool log_json;
static _Atomic uint64_t log_lost;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static bool log_stalled, log_broken; /* under it: its reader stands still; a line was cut */
static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* Copies text[n] to out[capacity], harmless and NUL terminated; returns the length. */
static size_t copy_escaped(char *out, size_t capacity, const char *text, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    size_t used = 0;
    assert(capacity > 0);
    for (size_t i = 0; i < n;) {
        const unsigned char *c = (const unsigned char *)text + i;
        size_t length = sp_utf8_length(text + i, n - i);
        bool control = *c < 0x20 || *c == 0x7f || (length == 2 && *c == 0xc2 && c[1] < 0xa0);
        if (length > 0 && !control) {
            if (used + length >= capacity) break;
            memcpy(out + used, c, length);
            used += length;
            i += length;
        } else {
            size_t raw = length > 0 ? length : 1;
            if (used + 4 * raw >= capacity) break;
            for (size_t k = 0; k < raw; k++) {
                char *to = out + used + 4 * k;
                to[0] = '\\';
                to[1] = 'x';
                to[2] = hex[c[k] >> 4];
                to[3] = hex[c[k] & 15];
            }
            used += 4 * raw;
            i += raw;
        }
    }
    out[used] = 0;
    return used;
}

/* Formats into text[capacity]; returns the bytes written, without the NUL. */
static SP_PRINTF(3, 0) size_t format_text(char *text, size_t capacity, const char *format, va_list args)
{
    int n = vsnprintf(text, capacity, format, args);
    if (n < 0) n = 0;
    return (size_t)n < capacity ? (size_t)n : capacity - 1;
}

static SP_PRINTF(4, 0) sp_status
    fail_with(sp_error *error, sp_status status, const char *param, const char *format, va_list args)
{
    if (!error) return status;
    sp_error fresh = {.status = status};
    char text[2 * sizeof fresh.message]; /* the arguments may point into *error: build aside, then copy */
    size_t n = format_text(text, sizeof text, format, args);
    copy_escaped(fresh.message, sizeof fresh.message, text, n);
    copy_escaped(fresh.param, sizeof fresh.param, param, strlen(param));
    *error = fresh;
    return status;
}

sp_status sp_fail(sp_error *error, sp_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_with(error, status, "", format, args);
    va_end(args);
    return status;
}

sp_status sp_fail_param(sp_error *error, sp_status status, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_with(error, status, param ? param : "", format, args);
    va_end(args);
    return status;
}

const char *sp_status_name(sp_status status)
{
    switch (status) {
    case SP_OK:
        return "ok";
    case SP_USAGE:
        return "usage";
    case SP_INVALID:
        return "invalid";
    case SP_DATA:
        return "bad data";
    case SP_NOT_FOUND:
        return "not found";
    case SP_TOO_LARGE:
        return "too large";
    case SP_TOO_LONG:
        return "too long";
    case SP_BUSY:
        return "busy";
    case SP_UNAVAILABLE:
        return "unavailable";
    case SP_CANCELLED:
        return "cancelled";
    case SP_UNSUPPORTED:
        return "unsupported";
    case SP_IO:
        return "input/output";
    case SP_NO_MEMORY:
        return "out of memory";
    case SP_INTERNAL:
        return "internal";
    }
    return "unknown";
}

void sp_log_set_level(sp_log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

void sp_log_set_json(bool json)
{
    atomic_store_explicit(&log_json, json, memory_order_relaxed);
}

bool sp_log_is_json(void)
{
    return atomic_load_explicit(&log_json, memory_order_relaxed);
}

/* "2026-01-31T12:00:00.123Z" */
static void format_time(char text[32])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + used, 32 - used, ".%03ldZ", now.tv_nsec / 1000000);
}

/* A pipe that is full is waited for once, then not until there is room again. With log_lock held. */
static bool has_room(void)
{
    struct pollfd file = {.fd = STDERR_FILENO, .events = POLLOUT};
    int n;
    do n = poll(&file, 1, log_stalled ? 0 : LOG_WAIT_MS);
    while (n < 0 && errno == EINTR);
    log_stalled = n == 0;
    return n != 0;
}

static bool write_all(const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        bytes += n;
        size -= (size_t)n;
        log_broken = size > 0;
    }
    return true;
}

/* One write a line, so lines of different threads do not mix; a log that cannot be written is nobody's error.
 */
static void write_line(const char *line, size_t size)
{
    pthread_mutex_lock(&log_lock);
    bool written = has_room() && (!log_broken || write_all("\n", 1)) && write_all(line, size);
    pthread_mutex_unlock(&log_lock);
    if (!written) atomic_fetch_add_explicit(&log_lost, 1, memory_order_relaxed);
}

uint64_t sp_log_lost(void)
{
    return atomic_load_explicit(&log_lost, memory_order_relaxed);
}

/* The inside of a JSON string of at most 2 n bytes: text is harmless already, only quotes and backslashes are
 * left. */
static size_t quote(char *out, const char *text, size_t n)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"' || text[i] == '\\') out[used++] = '\\';
        out[used++] = text[i];
    }
    return used;
}

void sp_log(sp_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed)) return;
    int saved_errno = errno;
    char raw[LOG_LINE], text[LOG_LINE], line[2 * LOG_LINE + 128], time[32];
    va_list args;
    va_start(args, format);
    size_t n = format_text(raw, sizeof raw, format, args);
    va_end(args);
    n = copy_escaped(text, sizeof text, raw, n);
    format_time(time);
    size_t used;
    if (sp_log_is_json()) {
        used = (size_t)snprintf(line, sizeof line, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"", time,
                                level_names[level]);
        used += quote(line + used, text, n);
        used += (size_t)snprintf(line + used, sizeof line - used, "\"}\n");
    } else {
        used = (size_t)snprintf(line, sizeof line, "%s %-5s %s\n", time, level_names[level], text);
    }
    write_line(line, used);
    errno = saved_errno;
}

void sp_log_members(sp_log_level level, const char *members, size_t size)
{
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed)) return;
    sp_buffer line;
    char time[32];
    format_time(time);
    sp_buffer_init(&line, size + 128);
    sp_buffer_format(&line, "{\"time\":\"%s\",\"level\":\"%s\",", time, level_names[level]);
    sp_buffer_append(&line, members, size);
    sp_buffer_text(&line, "}\n");
    if (!line.failed) write_line(line.data, line.size);
    sp_buffer_fini(&line);
}

double sp_unix_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double sp_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Reads exactly size bytes; false on an error or when the file ends first. */
static bool read_fully(int file, char *to, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(file, to + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = EIO;
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

static sp_status read_opened(int file, const char *path, size_t max_bytes, char **data, size_t *size,
                             sp_error *error)
{
    struct stat info;
    if (fstat(file, &info) != 0) return sp_fail_param(error, SP_IO, path, "cannot inspect %s: %m", path);
    if (!S_ISREG(info.st_mode)) return sp_fail_param(error, SP_DATA, path, "%s is not a regular file", path);
    if (info.st_size < 0 || (uintmax_t)info.st_size > max_bytes)
        return sp_fail_param(error, SP_DATA, path, "%s has %jd bytes, more than the limit of %zu", path,
                             (intmax_t)info.st_size, max_bytes);
    size_t bytes = (size_t)info.st_size, with_nul;
    char *memory = sp_add_size(bytes, 1, &with_nul) ? sp_alloc(with_nul, 1) : NULL;
    if (!memory)
        return sp_fail_param(error, SP_NO_MEMORY, path, "no memory for the %zu bytes of %s", bytes, path);
    if (!read_fully(file, memory, bytes)) {
        sp_fail_param(error, SP_IO, path, "cannot read %s: %m", path);
        sp_free(memory);
        return SP_IO;
    }
    memory[bytes] = 0;
    *data = memory;
    *size = bytes;
    return SP_OK;
}

sp_status sp_read_file(const char *path, size_t max_bytes, char **data, size_t *size, sp_error *error)
{
    *data = NULL;
    *size = 0;
    int file =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* NONBLOCK: a FIFO is refused, not waited for */
    if (file < 0 && (errno == ENOENT || errno == ENOTDIR))
        return sp_fail_param(error, SP_NOT_FOUND, path, "%s does not exist", path);
    if (file < 0) return sp_fail_param(error, SP_IO, path, "cannot open %s: %m", path);
    sp_status status = read_opened(file, path, max_bytes, data, size, error);
    close(file);
    return status;
}

sp_status sp_fail_create(const char *path, sp_error *error)
{
    bool place = errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EPERM || errno == EROFS ||
                 errno == EISDIR;
    return sp_fail_param(error, place ? SP_NOT_FOUND : SP_IO, path, "%s: cannot create: %m", path);
}

uint64_t sp_hash_bytes(const void *bytes, size_t n)
{
    const unsigned char *c = bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ c[i]) * 0x100000001b3u;
    return hash;
}

size_t sp_utf8_length(const char *text, size_t n)
{
    const unsigned char *c = (const unsigned char *)text;
    if (n == 0) return 0;
    if (c[0] < 0x80) return 1;
    size_t length = c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;
    if (length == 0 || length > n) return 0;
    /* The first continuation byte is narrower than 80..BF after E0, ED, F0 and F4 (RFC 3629, section 4). */
    unsigned low = c[0] == 0xe0 ? 0xa0 : c[0] == 0xf0 ? 0x90 : 0x80;
    unsigned high = c[0] == 0xed ? 0x9f : c[0] == 0xf4 ? 0x8f : 0xbf;
    if (c[1] < low || c[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((c[i] & 0xc0) != 0x80) return 0;
    return length;
}

bool sp_utf8_valid(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = sp_utf8_length(text + i, n - i);
        if (length == 0) return false;
        i += length;
    }
    return true;
}
