/* Benchmarks of attend, for `sparsed bench` and tests/bench: causal self-attention over a random sequence
 * with 9 query heads on 3 KV heads of 64 (SmolLM2-135M), plan built beforehand, best of some repeats. Shares
 * of peak count 4 * 64 operations an edge. Tests: tests/unit/kernels/test_bench.c */
#ifndef SPARSED_KERNELS_BENCH_ATTEND_H
#define SPARSED_KERNELS_BENCH_ATTEND_H

#include "kernels/ops.h"

typedef enum sp_bench_pattern {
    SP_BENCH_DENSE,
    SP_BENCH_STRIDED, /* abs(i - j) < 128, or (i - j) mod 128 = 0, which is a group for each residue */
    SP_BENCH_FIXED,   /* own window of 256, and the last 8 keys of every window, which are one group */
} sp_bench_pattern;

typedef struct sp_bench_attend_case {
    sp_bench_pattern pattern;
    sp_dtype kv;     /* SP_F32 or SP_BF16 */
    float alpha;     /* 1: softmax */
    float deviation; /* of the scores; 0 stands for 1 */
    uint32_t n_keys;
    uint32_t rows;     /* the last rows of the sequence; 0: all. 1 is a decode step */
    uint32_t n_layers; /* distinct sequences, one after the other, so that caches don't hold them; 0: 1 */
} sp_bench_attend_case;

typedef struct sp_bench_attend_result {
    double seconds;     /* of one layer, wall clock */
    double cpu_seconds; /* of one layer, CPU time of the process over threads: steadier on a shared machine */
    double gflops;      /* from seconds */
    double gbps;        /* 10^9 bytes of K and V pages read a second */
    uint64_t edges;     /* over all heads */
} sp_bench_attend_result;

/* SP_NO_MEMORY, or an error of the plan. */
sp_status sp_bench_attend(sp_device *device, const sp_bench_attend_case *which, sp_bench_attend_result *out,
                          sp_error *error) SP_MUST_CHECK;

#endif
