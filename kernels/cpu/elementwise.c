/* Drivers of the elementwise ops: they cut rows or runs of numbers into pieces, and deal the pieces to the
 * worker pool where there is enough work to pay for waking it. A piece's result does not depend on where it
 * was cut: rows are whole, and single numbers have no neighbours. Tests: tests/kernels/test_elementwise.c */
#include "kernels/cpu/cpu.h"

/* Numbers a piece holds at least: some 5 microseconds of work. */
#define PIECE 16384

typedef struct job {
    const sp_cpu_slots *slots;
    size_t count; /* rows or numbers */
    size_t piece; /* rows or numbers a task */
    size_t n, n_heads;
    float eps;
    const float *a, *b, *c;
    float *y;
    uint16_t *half;
} job;

static void run(sp_device *device, job *work, size_t numbers_each, sp_task_fn task)
{
    size_t least = numbers_each ? PIECE / numbers_each : PIECE;
    size_t threads = sp_threads_count(device->threads);
    work->slots = sp_cpu_of(device)->slots;
    work->piece = (work->count + threads * 4 - 1) / (threads * 4);
    if (work->piece < least) work->piece = least;
    if (work->piece == 0) work->piece = 1;
    size_t n_tasks = (work->count + work->piece - 1) / work->piece;
    sp_threads_run(device->threads, n_tasks, task, work);
}

static size_t piece_end(const job *work, size_t begin)
{
    return work->count - begin < work->piece ? work->count : begin + work->piece;
}

static void rms_norm_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    for (size_t row = begin; row < end; row++) {
        work->slots->rms_norm(work->n, work->eps, work->b, work->a + row * work->n, work->y + row * work->n);
    }
}

void sp_cpu_rms_norm(sp_device *device, size_t rows, size_t n, float eps, const float *weight, const float *x,
                     float *y)
{
    job work = {.count = rows, .n = n, .eps = eps, .a = x, .b = weight, .y = y};
    run(device, &work, n, rms_norm_task);
}

static void layer_norm_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    for (size_t row = begin; row < end; row++) {
        work->slots->layer_norm(work->n, work->eps, work->b, work->c, work->a + row * work->n,
                                work->y + row * work->n);
    }
}

void sp_cpu_layer_norm(sp_device *device, size_t rows, size_t n, float eps, const float *weight,
                       const float *bias, const float *x, float *y)
{
    job work = {.count = rows, .n = n, .eps = eps, .a = x, .b = weight, .c = bias, .y = y};
    run(device, &work, n, layer_norm_task);
}

static void rope_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin), half = work->n / 2;
    for (size_t row = begin; row < end; row++) {
        work->slots->rope(work->n_heads, work->n, work->a + row * half, work->b + row * half,
                          work->y + row * work->n_heads * work->n);
    }
}

void sp_cpu_rope(sp_device *device, size_t rows, size_t n_heads, size_t head_dim, const float *cos,
                 const float *sin, float *x)
{
    job work = {.count = rows, .n = head_dim, .n_heads = n_heads, .a = cos, .b = sin, .y = x};
    run(device, &work, n_heads * head_dim, rope_task);
}

static void silu_mul_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    work->slots->silu_mul(end - begin, work->a + begin, work->b + begin, work->y + begin);
}

void sp_cpu_silu_mul(sp_device *device, size_t n, const float *gate, const float *up, float *y)
{
    job work = {.count = n, .a = gate, .b = up, .y = y};
    run(device, &work, 4, silu_mul_task);
}

static void gelu_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    work->slots->gelu(end - begin, work->a + begin, work->y + begin);
}

void sp_cpu_gelu(sp_device *device, size_t n, const float *x, float *y)
{
    job work = {.count = n, .a = x, .y = y};
    run(device, &work, 4, gelu_task);
}

static void add_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    work->slots->add(end - begin, work->a + begin, work->y + begin);
}

void sp_cpu_add(sp_device *device, size_t n, const float *x, float *y)
{
    job work = {.count = n, .a = x, .y = y};
    run(device, &work, 1, add_task);
}

static void add_bias_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    for (size_t row = begin; row < end; row++) work->slots->add(work->n, work->a, work->y + row * work->n);
}

void sp_cpu_add_bias(sp_device *device, size_t rows, size_t n, const float *bias, float *y)
{
    job work = {.count = rows, .n = n, .a = bias, .y = y};
    run(device, &work, n, add_bias_task);
}

static void to_bf16_task(void *context, size_t task, size_t worker)
{
    const job *work = context;
    (void)worker;
    size_t begin = task * work->piece, end = piece_end(work, begin);
    work->slots->to_bf16(end - begin, work->a + begin, work->half + begin);
}

void sp_cpu_to_bf16(sp_device *device, size_t n, const float *x, uint16_t *y)
{
    job work = {.count = n, .a = x, .half = y};
    run(device, &work, 1, to_bf16_task);
}
