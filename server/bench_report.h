/* What both kinds of `sparsed bench` share: the machine with its peaks, and figures as a table or as JSON.
 * Tests: tests/http/test_command.py, tests/http/test_bench.py */
#ifndef SPARSED_SERVER_BENCH_REPORT_H
#define SPARSED_SERVER_BENCH_REPORT_H

#include "kernels/peak.h"
#include "server/command.h"

typedef struct sp_bench_machine {
    sp_device *device; /* owned */
    sp_peaks peaks;    /* the best measured so far */
    sp_peaks last;     /* as last measured */
    char cpu[96];
} sp_bench_machine;

sp_status sp_bench_open(const sp_options *options, sp_bench_machine *out, sp_error *error) SP_MUST_CHECK;
void sp_bench_close(sp_bench_machine *machine);
/* Raises the peaks to what is measured now. */
sp_status sp_bench_peaks(sp_bench_machine *machine, sp_error *error) SP_MUST_CHECK;
/* Says so on standard error when the peak was lower at the end than before. */
void sp_bench_warn(const sp_bench_machine *machine);

typedef struct sp_bench_line {
    const char *name, *unit, *meaning;
    double value, share; /* value 0: could not be measured; share 0: none */
} sp_bench_line;
/* {"machine": .., "model": .. (not NULL), "results": [..]} when json, else a table, to standard output.
 * Returns the exit code. */
int sp_bench_write(const sp_bench_machine *machine, const char *model, const sp_bench_line *lines, size_t n,
                   bool json);

/* `sparsed bench --model`. */
int sp_bench_model(const sp_options *options);

#endif
