/* See bench_report.h. */
#include "server/bench_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/json.h"

/* "model name" of /proc/cpuinfo. */
static void read_cpu_name(char *out, size_t room)
{
    snprintf(out, room, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, room, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    if (file) fclose(file);
}

sp_status sp_bench_open(const sp_options *options, sp_bench_machine *out, sp_error *error)
{
    const sp_device_options device = {.n_threads = (size_t)options->threads};
    *out = (sp_bench_machine){0};
    read_cpu_name(out->cpu, sizeof out->cpu);
    return sp_device_open("cpu", &device, &out->device, error);
}

void sp_bench_close(sp_bench_machine *machine)
{
    sp_device_close(machine->device);
}

sp_status sp_bench_peaks(sp_bench_machine *machine, sp_error *error)
{
    sp_peaks now;
    sp_status status = sp_peak_measure(machine->device, &now, error);
    if (status) return status;
    machine->peaks.fp32_gflops = fmax(machine->peaks.fp32_gflops, now.fp32_gflops);
    machine->peaks.bf16_gflops = fmax(machine->peaks.bf16_gflops, now.bf16_gflops);
    machine->peaks.int8_gops = fmax(machine->peaks.int8_gops, now.int8_gops);
    machine->peaks.memory_gbps = fmax(machine->peaks.memory_gbps, now.memory_gbps);
    machine->last = now;
    return SP_OK;
}

void sp_bench_warn(const sp_bench_machine *machine)
{
    if (machine->last.fp32_gflops >= 0.9 * machine->peaks.fp32_gflops) return;
    fputs("sparsed: the peak moved by more than 10 % meanwhile: something else uses this CPU, repeat when it "
          "is quiet\n",
          stderr);
}

static void number_or_null(sp_json_writer *json, const char *key, double value)
{
    sp_json_key(json, key);
    if (value > 0)
        sp_json_number(json, value);
    else
        sp_json_null(json);
}

static void write_machine(const sp_bench_machine *machine, sp_json_writer *json)
{
    sp_json_key(json, "machine");
    sp_json_open(json, '{');
    sp_json_key(json, "cpu");
    sp_json_cstring(json, machine->cpu);
    sp_json_key(json, "threads");
    sp_json_uint(json, sp_threads_count(machine->device->threads));
    number_or_null(json, "fp32_gflops", machine->peaks.fp32_gflops);
    number_or_null(json, "bf16_gflops", machine->peaks.bf16_gflops);
    number_or_null(json, "int8_gops", machine->peaks.int8_gops);
    number_or_null(json, "memory_gbps", machine->peaks.memory_gbps);
    sp_json_close(json, '}');
}

static void write_json(const sp_bench_machine *machine, const char *model, const sp_bench_line *lines,
                       size_t n, sp_buffer *out)
{
    sp_json_writer json;
    sp_json_writer_init(&json, out);
    sp_json_open(&json, '{');
    write_machine(machine, &json);
    if (model) {
        sp_json_key(&json, "model");
        sp_json_cstring(&json, model);
    }
    sp_json_key(&json, "results");
    sp_json_open(&json, '[');
    for (size_t i = 0; i < n; i++) {
        sp_json_open(&json, '{');
        sp_json_key(&json, "name");
        sp_json_cstring(&json, lines[i].name);
        number_or_null(&json, "value", lines[i].value);
        sp_json_key(&json, "unit");
        sp_json_cstring(&json, lines[i].unit);
        number_or_null(&json, "share", lines[i].share);
        sp_json_close(&json, '}');
    }
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    sp_buffer_text(out, "\n");
}

static void write_row(const sp_bench_line *line, sp_buffer *out)
{
    char bar[16] = "", text[16] = "";
    if (line->share > 0) {
        sp_share_bar(line->share, bar);
        snprintf(text, sizeof text, "%.2f", line->share);
    }
    sp_buffer_format(out, "%-22s ", line->name);
    if (line->value > 0)
        sp_buffer_format(out, "%9.2f", line->value);
    else
        sp_buffer_format(out, "%9s", "n/a");
    sp_buffer_format(out, "  %-8s  %4s %-10s  %s\n", line->unit, text, bar, line->meaning);
}

static void write_table(const sp_bench_machine *machine, const char *model, const sp_bench_line *lines,
                        size_t n, sp_buffer *out)
{
    const sp_peaks *peaks = &machine->peaks;
    sp_buffer_format(out, "%s, %zu threads, level %s\n", machine->cpu,
                     sp_threads_count(machine->device->threads), machine->device->level);
    sp_buffer_format(out, "peaks: float32 %.1f GFLOP/s, bf16 ", peaks->fp32_gflops);
    if (peaks->bf16_gflops > 0)
        sp_buffer_format(out, "%.1f GFLOP/s", peaks->bf16_gflops);
    else
        sp_buffer_text(out, "n/a");
    sp_buffer_format(out, ", int8 %.1f GOP/s, memory %.1f GB/s\n", peaks->int8_gops, peaks->memory_gbps);
    if (model) sp_buffer_format(out, "model %s\n", model);
    sp_buffer_format(out, "\n%-22s %9s  %-8s  %-15s  %s\n", "name", "value", "unit", "share of peak", "what");
    for (size_t i = 0; i < n; i++) write_row(&lines[i], out);
}

int sp_bench_write(const sp_bench_machine *machine, const char *model, const sp_bench_line *lines, size_t n,
                   bool json)
{
    sp_buffer out;
    sp_buffer_init(&out, 1 << 20);
    if (json)
        write_json(machine, model, lines, n, &out);
    else
        write_table(machine, model, lines, n, &out);
    bool written = !out.failed && fwrite(out.data, 1, out.size, stdout) == out.size && fflush(stdout) == 0;
    sp_buffer_fini(&out);
    return written ? SP_EXIT_OK : SP_EXIT_INTERNAL;
}
