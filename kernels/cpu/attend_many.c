/* The attend ops of the CPU: one call, or several of which those of one row (decoding) leave their tasks
 * here, to be dealt in one run of the pool: a sequence has as few tasks as KV heads, too few for the threads.
 *
 * Calls that run beside each other have scratch of their own; calls that need several runs (spans dealt out
 * and merged, groups by round, scores of all rows) run alone before. Tests: tests/kernels/test_attend.c */
#include <assert.h>

#include "kernels/cpu/attend.h"

static void scratch_free(void *pointer)
{
    sp_attend_scratch *scratch = pointer;
    for (size_t i = 0; i < SP_ATTEND_MANY * SP_BUFFERS; i++)
        sp_free(scratch->buffers[i / SP_BUFFERS][i % SP_BUFFERS].data);
    sp_free(scratch);
}

typedef struct many {
    sp_attend_call calls[SP_ATTEND_MANY];
    size_t order[SP_ATTEND_MANY]; /* calls with tasks left, most keys first */
    size_t n_left, n_tasks;
} many;

static void left_task(void *context, size_t task, size_t worker)
{
    many *jobs = context;
    const size_t *at = jobs->order;
    for (; task >= jobs->calls[*at].n_tasks; at++) task -= jobs->calls[*at].n_tasks;
    jobs->calls[*at].left(&jobs->calls[*at], task, worker);
}

static void leave(many *jobs, size_t index)
{
    size_t at = jobs->n_left++;
    for (; at && jobs->calls[jobs->order[at - 1]].args->kv.n_keys < jobs->calls[index].args->kv.n_keys; at--)
        jobs->order[at] = jobs->order[at - 1];
    jobs->order[at] = index;
    jobs->n_tasks += jobs->calls[index].n_tasks;
}

/* At most SP_ATTEND_MANY. */
static sp_status attend_some(sp_device *device, size_t n, const sp_attend_args *args, sp_attend_stats *stats,
                             sp_error *error)
{
    sp_cpu_state *cpu = sp_cpu_of(device);
    sp_attend_scratch *scratch = cpu->attend;
    many jobs;
    jobs.n_left = jobs.n_tasks = 0;
    for (size_t i = 0; i < n; i++) {
        double start = sp_now();
        const sp_plan *plan = args[i].plan;
        sp_attend_call *call = &jobs.calls[i];
        assert(plan->shape.n_heads % args[i].n_kv_heads == 0 && plan->shape.n_keys == args[i].kv.n_keys);
        if (!plan->shape.rows) continue;
        *call = (sp_attend_call){.args = &args[i],
                                 .plan = plan,
                                 .slots = sp_attend_slots_for(cpu->level, args[i].kv.dtype),
                                 .threads = device->threads,
                                 .buffers = scratch->buffers[i],
                                 .scratch = device->attend_scratch,
                                 .may_leave = n > 1 && plan->shape.rows == 1,
                                 .begin = plan->shape.position,
                                 .end = plan->shape.position + plan->shape.rows};
        if (!sp_attend_run_call(call))
            return sp_fail(error, SP_NO_MEMORY, "attention over %u keys: out of memory", plan->shape.n_keys);
        if (call->left)
            leave(&jobs, i);
        else
            sp_attend_report(call, sp_now() - start, stats ? &stats[i] : NULL);
    }
    double start = sp_now();
    sp_threads_run(device->threads, jobs.n_tasks, left_task, &jobs);
    double seconds = sp_now() - start;
    for (size_t i = 0; i < jobs.n_left; i++) {
        const sp_attend_call *call = &jobs.calls[jobs.order[i]];
        double share = (double)call->n_tasks / (double)jobs.n_tasks;
        sp_attend_report(call, seconds * share, stats ? &stats[jobs.order[i]] : NULL);
    }
    return SP_OK;
}

sp_status sp_cpu_attend_many(sp_device *device, size_t n, const sp_attend_args *args, sp_attend_stats *stats,
                             sp_error *error)
{
    sp_cpu_state *cpu = sp_cpu_of(device);
    if (!cpu->attend) {
        cpu->attend = sp_alloc_zero(1, sizeof(sp_attend_scratch));
        cpu->attend_free = cpu->attend ? scratch_free : NULL;
    }
    if (!cpu->attend) return sp_fail(error, SP_NO_MEMORY, "attention: out of memory");
    sp_status status = SP_OK;
    for (size_t done = 0; done < n && status == SP_OK; done += SP_ATTEND_MANY) {
        size_t some = n - done < SP_ATTEND_MANY ? n - done : SP_ATTEND_MANY;
        status = attend_some(device, some, args + done, stats ? stats + done : NULL, error);
    }
    return status;
}

sp_status sp_cpu_attend(sp_device *device, const sp_attend_args *args, sp_attend_stats *stats,
                        sp_error *error)
{
    return sp_cpu_attend_many(device, 1, args, stats, error);
}
