/* Measures the machine's peaks (kernels/peak.h): the slots peak_f32, peak_bf16, peak_int8 and peak_read on
 * every worker, by the clock on the wall. Tests: tests/unit/kernels/test_bench.c */
#include "kernels/peak.h"
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define REPEATS 5
#define ROUNDS 400000 /* of the register loops: about a millisecond a task */
#define TASKS_A_THREAD 12
#define READS 11
#define LEAST_READ ((size_t)256 << 20) /* bytes read at once */
#define MOST_READ ((size_t)1 << 30)
#define CHUNK_BYTES ((size_t)2 << 20)

typedef struct peak_job {
    const sp_cpu_slots *slots;
    double (*loop)(size_t rounds);
    uint8_t *memory;
    size_t n_chunks;
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

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double read_rate(sp_device *device, peak_job *job)
{
    double seconds[READS];
    sp_threads_run(device->threads, job->n_chunks, touch_task, job);
    for (int i = 0; i < READS; i++) {
        double start = sp_now();
        sp_threads_run(device->threads, job->n_chunks, read_task, job);
        seconds[i] = sp_now() - start;
    }
    qsort(seconds, READS, sizeof *seconds, compare);
    return (double)(job->n_chunks * CHUNK_BYTES) / seconds[READS / 2] * 1e-9;
}

/* Chunks worth reading: what caches hold is not memory. */
static size_t count_chunks(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = cache > 0 ? 2 * (size_t)cache : 0;
    if (bytes < LEAST_READ) bytes = LEAST_READ;
    return (bytes < MOST_READ ? bytes : MOST_READ) / CHUNK_BYTES;
}

static sp_status open_job(peak_job *job, size_t n_tasks, sp_error *error)
{
    *job = (peak_job){.slots = sp_cpu_slots_for(sp_cpu_level()), .n_chunks = count_chunks()};
    job->done = sp_alloc(n_tasks > job->n_chunks ? n_tasks : job->n_chunks, sizeof *job->done);
    job->memory = sp_alloc(job->n_chunks * CHUNK_BYTES, 1);
    if (job->done && job->memory) return SP_OK;
    sp_free(job->done);
    sp_free(job->memory);
    return sp_fail(error, SP_NO_MEMORY, "no memory to measure the machine's peaks");
}

static void close_job(peak_job *job)
{
    sp_free(job->done);
    sp_free(job->memory);
}

sp_status sp_peak_memory(sp_device *device, double *gbps, sp_error *error)
{
    peak_job job;
    *gbps = 0;
    sp_status status = open_job(&job, 0, error);
    if (status != SP_OK) return status;
    *gbps = read_rate(device, &job);
    close_job(&job);
    return SP_OK;
}

sp_status sp_peak_measure(sp_device *device, sp_peaks *out, sp_error *error)
{
    size_t n_tasks = sp_threads_count(device->threads) * TASKS_A_THREAD;
    peak_job job;
    *out = (sp_peaks){0};
    sp_status status = open_job(&job, n_tasks, error);
    if (status != SP_OK) return status;
    job.loop = job.slots->peak_f32;
    out->fp32_gflops = loop_rate(device, &job, n_tasks);
    job.loop = job.slots->peak_bf16;
    if (job.loop) out->bf16_gflops = loop_rate(device, &job, n_tasks);
    job.loop = job.slots->peak_int8;
    out->int8_gops = loop_rate(device, &job, n_tasks);
    out->memory_gbps = read_rate(device, &job);
    close_job(&job);
    return SP_OK;
}
