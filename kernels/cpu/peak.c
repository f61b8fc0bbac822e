/* Measures the machine's peaks (kernels/peak.h): the slots peak_f32, peak_bf16, peak_int8 and peak_read on
 * every worker, by the clock on the wall. Tests: tests/unit/kernels/test_bench.c */
#include "kernels/peak.h"
#include "kernels/cpu/cpu.h"

#include <math.h>

#define REPEATS 5
#define ROUNDS 400000 /* of the register loops: about a millisecond a task */
#define TASKS_A_THREAD 12
#define READ_BYTES ((size_t)256 << 20)
#define CHUNK_BYTES ((size_t)2 << 20)

typedef struct peak_job {
    const sp_cpu_slots *slots;
    double (*loop)(size_t rounds);
    uint8_t *memory;
    double *done; /* (tasks) operations, or what was read */
} peak_job;

static void loop_task(void *context, size_t task, size_t worker)
{
    const peak_job *job = context;
    (void)worker;
    job->done[task] = job->loop(ROUNDS);
}

static void read_task(void *context, size_t task, size_t worker)
{
    const peak_job *job = context;
    (void)worker;
    job->done[task] = (double)job->slots->peak_read(job->memory + task * CHUNK_BYTES, CHUNK_BYTES);
}

static void touch_task(void *context, size_t task, size_t worker)
{
    const peak_job *job = context;
    (void)worker;
    memset(job->memory + task * CHUNK_BYTES, 0, CHUNK_BYTES);
}

/* 10^9 operations a second. */
static double loop_rate(sp_device *device, peak_job *job, size_t n_tasks)
{
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        double start = sp_now(), operations = 0;
        sp_threads_run(device->threads, n_tasks, loop_task, job);
        double seconds = sp_now() - start;
        for (size_t t = 0; t < n_tasks; t++) operations += job->done[t];
        best = fmax(best, operations / seconds * 1e-9);
    }
    return best;
}

static double read_rate(sp_device *device, peak_job *job)
{
    double best = 0;
    sp_threads_run(device->threads, READ_BYTES / CHUNK_BYTES, touch_task, job);
    for (int i = 0; i < REPEATS; i++) {
        double start = sp_now();
        sp_threads_run(device->threads, READ_BYTES / CHUNK_BYTES, read_task, job);
        best = fmax(best, (double)READ_BYTES / (sp_now() - start) * 1e-9);
    }
    return best;
}

sp_status sp_peak_measure(sp_device *device, sp_peaks *out, sp_error *error)
{
    size_t n_tasks = sp_threads_count(device->threads) * TASKS_A_THREAD;
    size_t most = n_tasks > READ_BYTES / CHUNK_BYTES ? n_tasks : READ_BYTES / CHUNK_BYTES;
    peak_job job = {.slots = sp_cpu_slots_for(sp_cpu_level())};
    *out = (sp_peaks){0};
    job.done = sp_alloc(most, sizeof *job.done);
    job.memory = sp_alloc(READ_BYTES, 1);
    sp_status status = SP_OK;
    if (job.done && job.memory) {
        job.loop = job.slots->peak_f32;
        out->fp32_gflops = loop_rate(device, &job, n_tasks);
        job.loop = job.slots->peak_bf16;
        if (job.loop) out->bf16_gflops = loop_rate(device, &job, n_tasks);
        job.loop = job.slots->peak_int8;
        out->int8_gops = loop_rate(device, &job, n_tasks);
        out->memory_gbps = read_rate(device, &job);
    } else {
        status = sp_fail(error, SP_NO_MEMORY, "no memory to measure the machine's peaks");
    }
    sp_free(job.done);
    sp_free(job.memory);
    return status;
}
