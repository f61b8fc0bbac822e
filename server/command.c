/* What the commands share: exit codes, error messages, progress.
 * Tests: tests/http/test_command.py */
#include "server/command.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
