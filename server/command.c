/* What the commands share: exit codes, error messages, progress, a report in one line, files in and out.
 * Tests: tests/http/test_command.py */
#include "server/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/json.h"

#define BAR_CELLS 30
#define LOG_SECONDS 10.0

int sp_exit_code(sp_status status)
{
    switch (status) {
    case SP_OK:
    case SP_CANCELLED:
        return SP_EXIT_OK;
    case SP_USAGE:
    case SP_INVALID:
    case SP_TOO_LONG:
        return SP_EXIT_USAGE;
    case SP_DATA:
    case SP_UNSUPPORTED:
    case SP_TOO_LARGE:
        return SP_EXIT_DATA;
    case SP_NOT_FOUND:
        return SP_EXIT_NOT_FOUND;
    case SP_BUSY:
    case SP_UNAVAILABLE:
    case SP_IO:
    case SP_NO_MEMORY:
    case SP_INTERNAL:
        break;
    }
    return SP_EXIT_INTERNAL;
}

int sp_command_fail(const sp_error *error)
{
    fprintf(stderr, "sparsed: %s\n", error->message);
    return sp_exit_code(error->status);
}

void sp_progress_init(sp_progress *progress, const char *title)
{
    *progress = (sp_progress){.title = title, .terminal = isatty(STDERR_FILENO) == 1, .percent = -1};
    progress->logged_at = sp_now();
}

static void draw_bar(const sp_progress *progress)
{
    char cells[BAR_CELLS + 1];
    int full = progress->percent * BAR_CELLS / 100;
    memset(cells, '.', BAR_CELLS);
    memset(cells, '#', (size_t)full);
    cells[BAR_CELLS] = 0;
    fprintf(stderr, "\r%s [%s] %3d %%", progress->title, cells, progress->percent);
    fflush(stderr);
}

void sp_progress_show(void *context, double fraction)
{
    sp_progress *progress = context;
    int percent = fraction >= 1 ? 100 : fraction > 0 ? (int)(fraction * 100) : 0;
    if (percent == progress->percent) return;
    progress->percent = percent;
    if (progress->terminal) {
        draw_bar(progress);
        progress->drawn = true;
    } else if (sp_now() - progress->logged_at > LOG_SECONDS) {
        progress->logged_at = sp_now();
        sp_log(SP_LOG_INFO, "%s: %d %%", progress->title, percent);
    }
}

void sp_progress_clear(sp_progress *progress)
{
    if (!progress->drawn) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    progress->drawn = false;
}

void sp_share_bar(double share, char out[16])
{
    int full = share >= 1 ? 10 : share > 0 ? (int)(share * 10 + 0.5) : 0;
    memset(out, '.', 10);
    memset(out, '#', (size_t)full);
    out[10] = 0;
}

/* --- the attention report, read back for people --- */

static void copy_raw(char *out, size_t room, const char *text, size_t size)
{
    if (size >= room) size = room - 1;
    memcpy(out, text, size);
    out[size] = 0;
}

/* Adds edges and pairs of the phase object the reader has just entered. */
static void read_phase(sp_json *reader, sp_report_summary *out)
{
    sp_json_type type;
    while ((type = sp_json_next(reader)) == SP_JSON_KEY) {
        bool edges = sp_json_is(reader, "edges"), pairs = sp_json_is(reader, "pairs");
        bool seconds = sp_json_is(reader, "attend_seconds");
        type = sp_json_next(reader);
        if (type == SP_JSON_NUMBER && edges) out->edges += sp_json_double(reader);
        if (type == SP_JSON_NUMBER && pairs) out->pairs += sp_json_double(reader);
        if (type == SP_JSON_NUMBER && seconds) out->seconds += sp_json_double(reader);
        sp_json_skip(reader, type);
    }
}

void sp_report_read(const char *report, size_t size, sp_report_summary *out)
{
    *out = (sp_report_summary){.backend = "?", .normalizer = "?"};
    if (!report || sp_json_validate(report, size, NULL)) return;
    sp_json reader;
    sp_json_init(&reader, report, size);
    if (sp_json_next(&reader) != SP_JSON_OBJECT) return;
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        bool backend = sp_json_is(&reader, "backend"), normalizer = sp_json_is(&reader, "normalizer");
        bool phase = sp_json_is(&reader, "prefill") || sp_json_is(&reader, "decode");
        sp_json_type type = sp_json_next(&reader);
        size_t begin = reader.position;
        if (phase && type == SP_JSON_OBJECT) {
            read_phase(&reader, out);
            continue;
        }
        sp_json_skip(&reader, type);
        if (backend && type == SP_JSON_STRING)
            copy_raw(out->backend, sizeof out->backend, reader.raw, reader.raw_size);
        if (normalizer && type == SP_JSON_STRING)
            copy_raw(out->normalizer, sizeof out->normalizer, reader.raw, reader.raw_size);
        if (normalizer && type == SP_JSON_OBJECT)
            copy_raw(out->normalizer, sizeof out->normalizer, reader.text + begin - 1,
                     reader.position - begin + 1);
    }
}

/* --- files --- */

sp_status sp_read_text(const char *path, sp_buffer *text, sp_error *error)
{
    char block[65536];
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "rb");
    if (!file && errno == ENOMEM) return sp_fail(error, SP_NO_MEMORY, "--text: no memory to open %s", path);
    if (!file) return sp_fail_param(error, SP_NOT_FOUND, "text", "--text: cannot open %s", path);
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;) sp_buffer_append(text, block, n);
    bool bad = ferror(file) != 0;
    int code = errno;
    if (!standard) fclose(file);
    if (bad) return sp_fail_param(error, SP_DATA, "text", "--text: cannot read %s: %s", path, strerror(code));
    if (sp_buffer_check(text, error)) return error->status;
    if (text->failed)
        return sp_fail_param(error, SP_DATA, "text", "--text: %s is longer than %zu bytes", path,
                             text->max_bytes);
    if (!sp_utf8_valid(text->data, text->size))
        return sp_fail_param(error, SP_DATA, "text", "--text: %s is not well-formed UTF-8", path);
    return SP_OK;
}

static sp_status write_all(FILE *file, const sp_buffer *bytes, const char *path, sp_error *error)
{
    if (fwrite(bytes->data, 1, bytes->size, file) != bytes->size || fflush(file))
        return sp_fail(error, SP_IO, "%s: cannot write: %s", path, strerror(errno));
    return SP_OK;
}

sp_status sp_command_print(const sp_buffer *out, sp_error *error)
{
    sp_status status = sp_buffer_check(out, error);
    if (!status && out->failed) status = sp_fail(error, SP_INTERNAL, "the result is too large");
    return status ? status : write_all(stdout, out, "standard output", error);
}

/* A device or a pipe is written to, never replaced. */
static bool is_special(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && !S_ISREG(info.st_mode);
}

sp_status sp_check_result(const char *path, sp_error *error)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    struct stat info;
    if (strcmp(path, "-") == 0 || is_special(path)) {
        if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) return SP_OK;
        return sp_fail_param(error, SP_USAGE, "out", "--out: %s is a folder; name the file to write", path);
    }
    size_t size = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    if (size >= sizeof folder) return sp_fail_param(error, SP_USAGE, "out", "--out: name too long");
    memcpy(folder, size ? path : ".", size ? size : 1);
    folder[size ? size : 1] = 0;
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
        return sp_fail_param(error, SP_NOT_FOUND, "out", "--out: cannot create %s: there is no folder %s",
                             path, folder);
    if (access(folder, W_OK | X_OK) != 0)
        return sp_fail_param(error, SP_NOT_FOUND, "out",
                             "--out: cannot create %s: the folder %s is closed to writing: %s", path, folder,
                             strerror(errno));
    return SP_OK;
}

sp_status sp_write_result(const char *path, const sp_buffer *bytes, sp_error *error)
{
    if (strcmp(path, "-") == 0) return write_all(stdout, bytes, "standard output", error);
    char fresh[4096];
    bool special = is_special(path);
    if ((size_t)snprintf(fresh, sizeof fresh, "%s%s", path, special ? "" : ".part") >= sizeof fresh)
        return sp_fail_param(error, SP_USAGE, "out", "--out: name too long");
    FILE *file = fopen(fresh, "wb");
    if (!file) return sp_fail_create(fresh, error);
    sp_status status = write_all(file, bytes, fresh, error);
    if (!status && !special && fsync(fileno(file)))
        status = sp_fail(error, SP_IO, "%s: cannot write: %s", fresh, strerror(errno));
    if (fclose(file) && !status)
        status = sp_fail(error, SP_IO, "%s: cannot write: %s", fresh, strerror(errno));
    if (special) return status;
    if (!status && rename(fresh, path)) status = sp_fail_create(path, error);
    if (status) unlink(fresh);
    return status;
}

sp_status sp_alone_options(const sp_options *options, sp_engine_options *out, sp_error *error)
{
    sp_engine_options_init(out);
    sp_status status = sp_options_engine(options, out, error);
    out->max_sequences = out->max_queue = 1;
    out->request_timeout = out->queue_timeout = SP_FOREVER;
    out->step_seconds = SP_ALONE_STEP_SECONDS;
    return status;
}

sp_status sp_alone_open(const sp_engine_options *options, sp_engine **out, sp_error *error)
{
    sp_engine_options wanted = *options;
    sp_progress progress;
    sp_progress_init(&progress, "loading");
    wanted.progress = sp_progress_show;
    wanted.progress_context = &progress;
    sp_status status = sp_engine_open(&wanted, out, error);
    sp_progress_clear(&progress);
    return status;
}
