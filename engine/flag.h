/* A flag that one thread raises and others look at, kept alive by everybody who refers to it: how whoever
 * asked for work says that nobody wants it any more, at once and from any thread, while the work and its
 * streams belong to others. It is never lowered. Tests: tests/unit/engine/test_stream.c,
 * tests/http/test_leave.py */
#ifndef SPARSED_ENGINE_FLAG_H
#define SPARSED_ENGINE_FLAG_H

#include <stdatomic.h>

#include "kernels/base.h"

typedef struct sp_flag {
    atomic_uint references;
    atomic_bool raised;
} sp_flag;

/* With one reference. NULL: no memory; the functions below take it as a flag that is never raised. */
static inline sp_flag *sp_flag_new(void)
{
    sp_flag *flag = sp_alloc_zero(1, sizeof *flag);
    if (flag) atomic_store(&flag->references, 1);
    return flag;
}

static inline sp_flag *sp_flag_hold(sp_flag *flag)
{
    if (flag) atomic_fetch_add(&flag->references, 1);
    return flag;
}

static inline void sp_flag_release(sp_flag *flag)
{
    if (flag && atomic_fetch_sub(&flag->references, 1) == 1) sp_free(flag);
}

static inline void sp_flag_raise(sp_flag *flag)
{
    if (flag) atomic_store(&flag->raised, true);
}

static inline bool sp_flag_is_raised(const sp_flag *flag)
{
    return flag && atomic_load(&flag->raised);
}

#endif
