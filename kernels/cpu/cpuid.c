/* Which level this CPU offers: CPUID for the instructions, XCR0 for the registers that the operating system
 * saves.
 *
 * AVX needs OSXSAVE and XCR0 bits 1 and 2 (xmm, ymm); AVX-512 bits 5 to 7 too (masks, zmm). A level counts
 * only when all below it do; avx512bf16 with VBMI2, which one CPU alone (Cooper Lake) has not. Source: Intel
 * SDM volume 1, sections 14.3 and 15.2. Tests: tests/unit/kernels/test_device.c */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

#define BIT(word, n) (((word) >> (n)) & 1u)

static uint64_t enabled_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

sp_cpu_isa sp_cpu_level(void)
{
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return SP_CPU_REFERENCE;
    bool fma = BIT(c, 12), osxsave = BIT(c, 27), avx = BIT(c, 28), f16c = BIT(c, 29);
    if (!fma || !osxsave || !avx || !f16c || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return SP_CPU_REFERENCE;
    unsigned leaves = a;
    uint64_t saved = enabled_registers();
    if ((saved & 0x6u) != 0x6u || !BIT(b7, 3) || !BIT(b7, 5) || !BIT(b7, 8)) return SP_CPU_REFERENCE;
    bool zmm = (saved & 0xe6u) == 0xe6u;
    bool f = BIT(b7, 16), dq = BIT(b7, 17), bw = BIT(b7, 30), vl = BIT(b7, 31);
    if (!zmm || !f || !dq || !bw || !vl) return SP_CPU_AVX2;
    if (!BIT(c7, 11)) return SP_CPU_AVX512;
    if (leaves < 1 || !BIT(c7, 6) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !BIT(a, 5))
        return SP_CPU_AVX512VNNI;
    return SP_CPU_AVX512BF16;
}
#else
sp_cpu_isa sp_cpu_level(void)
{
    return SP_CPU_REFERENCE;
}
#endif

static const char *const names[SP_CPU_ISAS] = {"reference", "avx2", "avx512", "avx512vnni", "avx512bf16"};

const char *sp_cpu_level_name(sp_cpu_isa level)
{
    return (unsigned)level < SP_CPU_ISAS ? names[level] : "unknown level";
}

sp_status sp_cpu_level_choose(sp_cpu_isa *out, sp_error *error)
{
    sp_cpu_isa best = sp_cpu_level();
    const char *forced = getenv("SPARSED_CPU");
    *out = best;
    if (!forced || !*forced) return SP_OK;
    for (sp_cpu_isa level = SP_CPU_REFERENCE; level < SP_CPU_ISAS; level++) {
        if (strcmp(forced, names[level]) != 0) continue;
        if (level > best) sp_log(SP_LOG_WARN, "SPARSED_CPU=%s: this CPU offers %s only", forced, names[best]);
        *out = level < best ? level : best;
        return SP_OK;
    }
    return sp_fail_param(error, SP_USAGE, "SPARSED_CPU",
                         "SPARSED_CPU is \"%s\"; it may be reference, avx2, avx512, avx512vnni or avx512bf16",
                         forced);
}
